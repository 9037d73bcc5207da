//! Groups of destinations that a policy names with one word.

use caisson_model::policy::{Destination, Preset};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// One word of `presets`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Group {
    /// `python-packages`, `node-packages`, `debian-packages`: what the agent's host is configured for.
    Packages(Preset),
    /// `git:HOST`: a host that keeps repositories, by https and ssh.
    Git(Vec<Destination>),
}

/// The ports of a host that keeps repositories: https and ssh.
const GIT: [u16; 2] = [443, 22];

impl Group {
    /// The group of packages, if it is one.
    pub fn packages(&self) -> Option<Preset> {
        match self {
            Group::Packages(preset) => Some(*preset),
            Group::Git(_) => None,
        }
    }

    /// The destinations that are known without an agent.
    pub fn destinations(&self) -> &[Destination] {
        match self {
            Group::Packages(_) => &[],
            Group::Git(destinations) => destinations,
        }
    }
}

impl std::str::FromStr for Group {
    type Err = String;

    fn from_str(text: &str) -> Result<Group, String> {
        if let Some(host) = text.strip_prefix("git:") {
            let parsed: Destination = host.parse().map_err(|error| format!("{text:?} names no host: {error}"))?;
            let ports = parsed.port.map_or_else(|| GIT.to_vec(), |port| vec![port]);
            return Ok(Group::Git(ports.into_iter().map(|port| Destination { port: Some(port), ..parsed.clone() }).collect()));
        }
        match text {
            "python-packages" => Ok(Group::Packages(Preset::PythonPackages)),
            "node-packages" => Ok(Group::Packages(Preset::NodePackages)),
            "debian-packages" => Ok(Group::Packages(Preset::DebianPackages)),
            _ => Err(format!("{text:?} is no preset; write python-packages, node-packages, debian-packages or git:HOST")),
        }
    }
}

impl<'de> Deserialize<'de> for Group {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Group, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
