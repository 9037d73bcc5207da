//! `.netrc`: the logins that a user keeps for hosts.

use caisson_gateway::settings::Login;

/// Hosts with their logins, in the order of the file; the host of `default` is empty.
pub(super) fn read(text: &str) -> Vec<(String, Login)> {
    let mut found: Vec<(String, Option<String>, Option<String>)> = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let mut words = line.split_whitespace();
        while let Some(word) = words.next() {
            match word {
                "machine" => found.push((words.next().unwrap_or_default().to_owned(), None, None)),
                "default" => found.push((String::new(), None, None)),
                "login" | "password" => {
                    let value = words.next().map(|value| value.trim_matches('"').to_owned());
                    if let Some((_, login, password)) = found.last_mut() {
                        *(if word == "login" { login } else { password }) = value;
                    }
                }
                "account" => drop(words.next()),
                // A macro ends with an empty line.
                "macdef" => {
                    let _macro = lines.by_ref().take_while(|line| !line.trim().is_empty()).count();
                    break;
                }
                word if word.starts_with('#') => break,
                _ => {}
            }
        }
    }
    let login = |(host, user, password): (String, Option<String>, Option<String>)| {
        Some((host, Login::Basic { user: user.unwrap_or_default(), password: password? }))
    };
    found.into_iter().filter_map(login).collect()
}

/// The login for a host.
pub(super) fn login(logins: &[(String, Login)], host: &str) -> Option<Login> {
    let named = logins.iter().find(|(name, _)| name == host);
    named.or_else(|| logins.iter().find(|(name, _)| name.is_empty())).map(|(_, login)| login.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_are_found_over_lines_and_past_macros() {
        let text = "# mine\nmachine a.example\n  login me\n  password \"p w\"\nmachine b.example login you password x\nmacdef init\nlogin evil\n\ndefault login anonymous password y\n";
        let logins = read(text);
        let of = |host| match login(&logins, host) {
            Some(Login::Basic { user, password }) => format!("{user}:{password}"),
            other => format!("{other:?}"),
        };
        assert_eq!((of("b.example"), of("c.example")), ("you:x".to_owned(), "anonymous:y".to_owned()));
        assert!(of("a.example").starts_with("me:"));
    }
}
