//! What `--allow` names: hosts, groups of them, and packages.

use std::str::FromStr;

use caisson_controller::policy::group::Group;
use caisson_model::policy::Destination;

/// One `--allow`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// A host, or a pattern of hosts.
    Host(Destination),
    /// What a policy calls a preset.
    Group(Group),
}

impl FromStr for Opening {
    type Err = String;

    fn from_str(text: &str) -> Result<Opening, String> {
        let preset = ["python-packages", "node-packages", "debian-packages"].contains(&text);
        if preset || text.starts_with("git:") {
            return text.parse().map(Opening::Group);
        }
        text.parse().map(Opening::Host).map_err(|error: caisson_model::policy::InvalidDestination| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use caisson_model::policy::Preset;

    use super::*;

    #[test]
    fn words_of_a_policy_mean_the_same_here() {
        assert_eq!("python-packages".parse(), Ok(Opening::Group(Group::Packages(Preset::PythonPackages))));
        let Ok(Opening::Group(Group::Git(places))) = "git:git.example".parse() else { unreachable!() };
        assert_eq!(places.iter().map(ToString::to_string).collect::<Vec<_>>(), ["git.example:443", "git.example:22"]);
        let host: Opening = "*.example.com:8443".parse().unwrap();
        assert_eq!(host, Opening::Host("*.example.com:8443".parse().unwrap()));
        for wrong in ["", "git:", "a:b", "*"] {
            assert!(wrong.parse::<Opening>().is_err(), "{wrong}");
        }
    }
}
