//! The names of what a sandbox protects with. They are stable: operators write them in configuration.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One thing that a sandbox enforces. Its text form is kebab-case (`memory-limit`) and never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protection {
    /// A user namespace of its own: ids and capabilities of the step mean nothing outside (user_namespaces(7), 3.8).
    UserNamespace,
    /// A process tree of its own; killing its init kills all of it (pid_namespaces(7), 2.6.24).
    PidNamespace,
    /// A mount table of its own with a closed root (mount_namespaces(7), 2.4.19).
    MountNamespace,
    /// Interfaces, addresses, ports and abstract sockets of its own (network_namespaces(7), 2.6.24).
    NetworkNamespace,
    /// System V and POSIX message queues of its own (ipc_namespaces(7), 2.6.19).
    IpcNamespace,
    /// A host name of its own (uts_namespaces(7), 2.6.19).
    UtsNamespace,
    /// Cgroup paths start at the step's own group (cgroup_namespaces(7), 4.6).
    CgroupNamespace,
    /// Boot and monotonic clocks of its own (time_namespaces(7), 5.6). Best effort.
    TimeNamespace,
    /// A range of host ids that no other job has. Best effort without root.
    IdRange,
    /// The allow-list of system calls (seccomp(2), 3.17).
    Seccomp,
    /// No program can gain privileges by execve (PR_SET_NO_NEW_PRIVS, 3.5).
    NoNewPrivs,
    /// The five capability sets hold exactly what the spec lists: nothing by default (capabilities(7)).
    Capabilities,
    /// Signals and abstract sockets can't leave the sandbox (landlock(7), scopes since ABI 6, 6.12). Best effort.
    Landlock,
    /// A memory limit over all processes of the step (memory cgroup).
    MemoryLimit,
    /// A limit of processor time (cpu cgroup).
    CpuLimit,
    /// A limit on the number of processes and threads (pids cgroup, or the user namespace's own count since 5.14).
    PidsLimit,
    /// A limit on bytes and files written.
    DiskLimit,
    /// The step is killed when its time is over.
    WallClock,
    /// Secret files can't be written to swap (tmpfs `noswap`, 6.4, or a host without swap). Best effort.
    SecretMemory,
    /// A session keyring of its own (keyrings(7)).
    Keyring,
    /// Connections to allowed names are led to the exit without the program knowing of it, and refused ones are told of
    /// (nf_tables with NAT in `inet`, 5.2). Best effort: without it only programs that know proxies get out.
    ExitByName,
}

impl Protection {
    /// Every protection, in the order of declaration.
    pub const ALL: [Protection; 21] = [
        Self::UserNamespace,
        Self::PidNamespace,
        Self::MountNamespace,
        Self::NetworkNamespace,
        Self::IpcNamespace,
        Self::UtsNamespace,
        Self::CgroupNamespace,
        Self::TimeNamespace,
        Self::IdRange,
        Self::Seccomp,
        Self::NoNewPrivs,
        Self::Capabilities,
        Self::Landlock,
        Self::MemoryLimit,
        Self::CpuLimit,
        Self::PidsLimit,
        Self::DiskLimit,
        Self::WallClock,
        Self::SecretMemory,
        Self::Keyring,
        Self::ExitByName,
    ];

    /// The stable name, as written in configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UserNamespace => "user-namespace",
            Self::PidNamespace => "pid-namespace",
            Self::MountNamespace => "mount-namespace",
            Self::NetworkNamespace => "network-namespace",
            Self::IpcNamespace => "ipc-namespace",
            Self::UtsNamespace => "uts-namespace",
            Self::CgroupNamespace => "cgroup-namespace",
            Self::TimeNamespace => "time-namespace",
            Self::IdRange => "id-range",
            Self::Seccomp => "seccomp",
            Self::NoNewPrivs => "no-new-privs",
            Self::Capabilities => "capabilities",
            Self::Landlock => "landlock",
            Self::MemoryLimit => "memory-limit",
            Self::CpuLimit => "cpu-limit",
            Self::PidsLimit => "pids-limit",
            Self::DiskLimit => "disk-limit",
            Self::WallClock => "wall-clock",
            Self::SecretMemory => "secret-memory",
            Self::Keyring => "keyring",
            Self::ExitByName => "exit-by-name",
        }
    }

    /// Whether its lack is only reported and never refuses a launch: it narrows what is already closed.
    pub const fn best_effort(self) -> bool {
        matches!(self, Self::TimeNamespace | Self::IdRange | Self::Landlock | Self::SecretMemory | Self::Keyring | Self::ExitByName)
    }
}

impl fmt::Display for Protection {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// A name that is no protection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown protection `{name}`; known are: {}", Protection::ALL.map(Protection::name).join(", "))]
pub struct UnknownProtection {
    /// What was written.
    pub name: String,
}

impl FromStr for Protection {
    type Err = UnknownProtection;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|protection| protection.name() == text).ok_or_else(|| UnknownProtection { name: text.to_owned() })
    }
}

/// A protection that is not in force, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// Which one.
    pub protection: Protection,
    /// Why it can't be enforced here, and what would change that.
    pub reason: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.protection, self.reason)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_round_trip_and_equal_the_serialised_form() {
        for protection in Protection::ALL {
            assert_eq!(protection.name().parse::<Protection>().unwrap(), protection);
        }
        assert!("memory".parse::<Protection>().unwrap_err().to_string().contains("memory-limit"));
    }
}
