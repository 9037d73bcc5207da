//! Whether a script installs Debian packages, and whether it does anything else that would then be done as root.

use crate::policy::apt::is_apt;
use crate::policy::install;
use crate::policy::shell;

/// What a script is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Debian {
    /// It has nothing to do with Debian packages.
    No,
    /// It installs Debian packages, perhaps others too, and does nothing else.
    Installs,
    /// It does more, or cannot be read to the end.
    Mixed,
}

/// Reads a script. `shell` is the step's `shell:`; only bash and sh scripts are understood.
pub(crate) fn read(script: &str, shell: Option<&str>) -> Debian {
    let understood = matches!(shell.map(|shell| shell.split_whitespace().next().unwrap_or_default()), None | Some("bash" | "sh"));
    let mentioned = ["apt-get", "apt "].iter().any(|tool| {
        script.match_indices(tool).any(|(at, _)| script[at..].split_whitespace().skip(1).take(4).any(|word| word == "install"))
    });
    let Some(commands) = understood.then(|| shell::commands(script).ok()).flatten() else {
        return if mentioned { Debian::Mixed } else { Debian::No };
    };
    if !commands.iter().any(is_apt) {
        return if mentioned { Debian::Mixed } else { Debian::No };
    }
    match commands.iter().all(|command| is_apt(command) || install::is_understood(command)) {
        true => Debian::Installs,
        false => Debian::Mixed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_what_they_are() {
        let table = [
            ("sudo apt-get update && sudo apt-get install -y gettext libpq-dev", Debian::Installs),
            (
                "sudo apt-get update -qq\nsudo DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends gdal-bin",
                Debian::Installs,
            ),
            ("sudo -E apt install gettext -y", Debian::Installs),
            ("apt-get update\napt-get install -y gettext", Debian::Installs),
            ("sudo apt-get update\nsudo apt-get install -y libpq-dev\npip install psycopg2", Debian::Installs),
            ("set -ex; sudo apt-get install -y gettext; echo done", Debian::Installs),
            ("sudo apt-get install -y gettext && make test", Debian::Mixed),
            ("sudo apt-get install ./evil.deb", Debian::Mixed),
            ("sudo apt-get install -o Dpkg::Pre-Invoke::=sh gettext", Debian::Mixed),
            ("sudo LD_PRELOAD=x apt-get install gettext", Debian::Mixed),
            ("python manage.py test", Debian::No),
            ("sudo ls", Debian::No),
        ];
        for (script, expected) in table {
            assert_eq!(read(script, None), expected, "{script}");
        }
        assert_eq!(read("sudo apt-get install -y x", Some("python")), Debian::Mixed);
    }
}
