//! What this host can do, as values: how the launcher stands here, and one fact per kernel subject with the reason for
//! each lack. Presentation is the caller's.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::protection::{Missing, Protection};

/// With which ids the launcher works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// It has root's powers: an id range of its own per job, owners can be mapped, cgroups are its own.
    Root,
    /// An ordinary user with subordinate ids (subuid(5)).
    Subordinate {
        /// How many.
        count: u32,
    },
    /// An ordinary user with its own id alone.
    Single,
}

impl fmt::Display for Mode {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => out.write_str("root"),
            Self::Subordinate { count } => write!(out, "rootless with {count} subordinate ids"),
            Self::Single => out.write_str("rootless with a single id"),
        }
    }
}

/// How the cgroup hierarchies of this host are laid out (cgroups(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CgroupLayout {
    /// One hierarchy with all controllers (4.5).
    V2,
    /// One hierarchy per controller; also when an empty v2 hierarchy stands beside them.
    V1,
    /// None is mounted.
    Absent,
}

/// How a started launcher stands on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// With which ids it works.
    pub mode: Mode,
    /// Where limits come from.
    pub cgroup: CgroupLayout,
    /// What it can enforce, in the order of [`Protection::ALL`].
    pub enforceable: Vec<Protection>,
    /// What it can't, and why.
    pub missing: Vec<Missing>,
}
