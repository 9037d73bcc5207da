//! An agent as it introduces itself.

use serde::{Deserialize, Serialize};

use crate::id::{AgentName, Hold, JobId};

/// Versions of the contract that a side speaks, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRange {
    /// The oldest.
    pub min: u32,
    /// The newest.
    pub max: u32,
}

impl VersionRange {
    /// What this build speaks. Version 2 added artifacts and caches, version 3 that beats are answered.
    pub const SPOKEN: VersionRange = VersionRange { min: 1, max: 3 };

    /// Since this version a controller answers beats.
    pub const HEARD: u32 = 3;

    /// The newest version that both sides speak, if any.
    pub fn agreed(self, other: VersionRange) -> Option<u32> {
        let newest = self.max.min(other.max);
        (newest >= self.min && newest >= other.min).then_some(newest)
    }
}

/// The first message of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The agent.
    pub agent: AgentName,
    /// What it speaks.
    pub versions: VersionRange,
    /// How many jobs it runs at once.
    pub slots: u32,
    /// Labels that it serves, in lower case; `*` serves every label.
    pub labels: Vec<String>,
    /// Protections that its host can enforce, by name.
    pub enforces: Vec<String>,
    /// Memory that it has for jobs, in bytes; 0 where it does not say.
    #[serde(default)]
    pub memory_bytes: u64,
    /// Processors that it has for jobs, in thousandths; 0 where it does not say.
    #[serde(default)]
    pub cpu_milli: u32,
    /// Attempts that it is running, from before the connection broke.
    pub running: Vec<Hold>,
}

/// Whether an agent is offered new jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cordon {
    /// It is not; what it holds goes on.
    On,
    /// It is.
    Off,
}

/// An agent as clients see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentView {
    /// Its name.
    pub name: AgentName,
    /// Whether it has a session now.
    pub connected: bool,
    /// How many jobs it runs at once; 0 when it has not been heard of since the controller started.
    pub slots: u32,
    /// Labels that it serves.
    pub labels: Vec<String>,
    /// Protections that its host can enforce.
    pub enforces: Vec<String>,
    /// Memory that it has for jobs, in bytes; 0 where it does not say.
    #[serde(default)]
    pub memory_bytes: u64,
    /// Processors that it has for jobs, in thousandths; 0 where it does not say.
    #[serde(default)]
    pub cpu_milli: u32,
    /// Jobs that it was offered or holds.
    pub jobs: Vec<JobId>,
    /// Whether a person said that it gets no new jobs.
    pub cordoned: bool,
    /// Whether it said that it leaves when its jobs have ended.
    pub draining: bool,
    /// Whether its sessions are refused.
    pub revoked: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_version_is_agreed() {
        let range = |min, max| VersionRange { min, max };
        assert_eq!(range(1, 3).agreed(range(2, 5)), Some(3));
        assert_eq!(range(4, 5).agreed(range(1, 4)), Some(4));
        assert_eq!(range(1, 2).agreed(range(3, 4)), None);
    }
}
