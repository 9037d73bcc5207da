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

/// What this host can do, one fact per kernel subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// The kernel's release, as uname(2) gives it.
    pub kernel: String,
    /// The mode that a launcher started now would work in.
    pub mode: Mode,
    /// Where limits come from.
    pub cgroup: CgroupLayout,
    /// One per [`Subject`], in its order.
    pub facts: Vec<Fact>,
}

/// One thing that was found out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// About what.
    pub subject: Subject,
    /// What.
    pub finding: Finding,
}

/// Whether something is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    /// It is.
    Present {
        /// Which, or how much.
        detail: String,
    },
    /// It is not.
    Lacking {
        /// Why.
        reason: String,
        /// What to do about it.
        action: String,
    },
}

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// user_namespaces(7).
    UserNamespace,
    /// pid_namespaces(7).
    PidNamespace,
    /// mount_namespaces(7).
    MountNamespace,
    /// network_namespaces(7).
    NetworkNamespace,
    /// ipc_namespaces(7).
    IpcNamespace,
    /// uts_namespaces(7).
    UtsNamespace,
    /// cgroup_namespaces(7).
    CgroupNamespace,
    /// time_namespaces(7).
    TimeNamespace,
    /// Ubuntu's sysctl `kernel.apparmor_restrict_unprivileged_userns`.
    AppArmorRestriction,
    /// The memory controller, writable for us.
    MemoryController,
    /// The cpu controller, writable for us.
    CpuController,
    /// The pids controller, writable for us.
    PidsController,
    /// Filters of seccomp(2).
    Seccomp,
    /// Landlock and its ABI.
    Landlock,
    /// The mount calls of Linux 5.12.
    MountCalls,
    /// Overlay mounts in the mode that the launcher would have.
    Overlay,
    /// Overlay mounts in a user namespace.
    OverlayUnprivileged,
    /// Mounts that map owners, on the file system of the working directory.
    IdmappedMounts,
    /// subuid(5) and subgid(5) name this user.
    SubordinateIds,
    /// newuidmap(1) and newgidmap(1).
    IdMapTools,
    /// tmpfs `noswap`, or a host without swap.
    SecretMemory,
}
