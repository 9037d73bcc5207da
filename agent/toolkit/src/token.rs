//! What a client shows. It has the shape of a JSON web token, since clients read from its claims whose run they belong to; nobody
//! believes it for its signature: it counts because it is the one that the desk made.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde_json::json;
use sha2::{Digest as _, Sha256};

/// There is no randomness.
#[derive(Debug, thiserror::Error)]
#[error("read random bytes")]
pub struct NoChance;

/// Bytes that nobody guesses, as text.
pub(crate) fn secret() -> Result<String, NoChance> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|_| NoChance)?;
    Ok(BASE64.encode(bytes))
}

/// Whether two texts are the same, in a time that tells nothing of where they differ.
pub(crate) fn same(a: &str, b: &str) -> bool {
    Sha256::digest(a) == Sha256::digest(b)
}

/// A token of one desk.
#[derive(Clone)]
pub struct Token {
    text: String,
    run: String,
    job: String,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("run", &self.run).field("job", &self.job).finish_non_exhaustive()
    }
}

impl Token {
    /// One for a step of `job` in `run`, by the names that clients repeat.
    ///
    /// # Errors
    /// [`NoChance`].
    pub fn new(run: &str, job: &str) -> Result<Token, NoChance> {
        let part = |value: serde_json::Value| BASE64.encode(value.to_string());
        let head = part(json!({ "typ": "JWT", "alg": "HS256" }));
        let claims = part(json!({ "scp": format!("Actions.Results:{run}:{job}"), "iss": "caisson", "orchid": run }));
        Ok(Token { text: format!("{head}.{claims}.{}", secret()?), run: run.to_owned(), job: job.to_owned() })
    }

    /// The text that a client shows. It is a secret of the step.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The part that nobody can guess.
    pub fn secret(&self) -> &str {
        self.text.rsplit('.').next().unwrap_or(&self.text)
    }

    /// Whether a request's `Authorization` shows it.
    pub(crate) fn is_shown(&self, authorization: Option<&str>) -> bool {
        authorization
            .and_then(|text| text.split_once(' '))
            .is_some_and(|(scheme, token)| scheme.eq_ignore_ascii_case("bearer") && same(token, &self.text))
    }

    /// The name of the run.
    pub(crate) fn run(&self) -> &str {
        &self.run
    }

    /// The name of the job.
    pub(crate) fn job(&self) -> &str {
        &self.job
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_token_says_whose_it_is_and_counts_whole_only() {
        let token = Token::new("run-1", "job-2").unwrap();
        let claims = token.text().split('.').nth(1).unwrap();
        let claims: serde_json::Value = serde_json::from_slice(&BASE64.decode(claims).unwrap()).unwrap();
        assert_eq!(claims["scp"], "Actions.Results:run-1:job-2");
        assert!(token.is_shown(Some(&format!("Bearer {}", token.text()))));
        let other = Token::new("run-1", "job-2").unwrap();
        for wrong in [
            None,
            Some(token.text()),
            Some("Bearer "),
            Some(&*format!("Bearer {}", other.text())),
            Some(&*format!("Bearer {}x", token.text())),
        ] {
            assert!(!token.is_shown(wrong), "{wrong:?}");
        }
        assert!(!format!("{token:?}").contains(token.secret()));
    }
}
