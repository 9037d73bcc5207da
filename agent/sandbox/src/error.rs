//! Errors of the sandbox: where it happened, on what, and what the kernel said. One closed list of stages serves every
//! verb, each verb has its own error type.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

use crate::protection::Missing;

/// Where something failed. The order is the order in which a sandbox is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Stage {
    /// Starting the launcher process.
    Start,
    /// Talking to the launcher.
    Request,
    /// Reading the spec.
    Spec,
    /// Creating or limiting a cgroup.
    Cgroup,
    /// Cloning into new namespaces.
    Clone,
    /// Writing id maps.
    IdMap,
    /// Opening a source on the host.
    Source,
    /// Mapping the owner of a source.
    Owner,
    /// Mounting an overlay.
    Overlay,
    /// Writing secret files.
    Secrets,
    /// Handing the plan to init.
    Release,
    /// Becoming id 0 of the namespace.
    Identity,
    /// Unsharing the cgroup namespace.
    CgroupNamespace,
    /// Making the new root.
    Root,
    /// Attaching a mount.
    Mount,
    /// Mounting `/proc`.
    Proc,
    /// Mounting `/dev`.
    Dev,
    /// Changing the root.
    Pivot,
    /// Bringing loopback up.
    Loopback,
    /// Writing routes and rules of the network namespace.
    Network,
    /// Listening inside.
    Listen,
    /// Setting the host name.
    Hostname,
    /// Setting resource limits.
    Rlimit,
    /// Joining a new session keyring.
    Keyring,
    /// Forking the step.
    Fork,
    /// Emptying the capability sets.
    Capabilities,
    /// Setting no_new_privs.
    NoNewPrivs,
    /// Closing descriptors.
    Descriptors,
    /// Restricting with Landlock.
    Landlock,
    /// Compiling or loading the filter.
    Seccomp,
    /// Entering the working directory.
    Cwd,
    /// Finding and executing the program.
    Exec,
    /// Waiting for the end.
    Wait,
    /// Making or removing a job's directories.
    Area,
}

impl Stage {
    /// What was being done, as words of a sentence.
    pub const fn act(self) -> &'static str {
        match self {
            Self::Start => "start the launcher",
            Self::Request => "ask the launcher",
            Self::Spec => "read the spec",
            Self::Cgroup => "set up the cgroup",
            Self::Clone => "create the namespaces",
            Self::IdMap => "map ids",
            Self::Source => "open the source",
            Self::Owner => "map the owner of",
            Self::Overlay => "mount the overlay",
            Self::Secrets => "write the secret",
            Self::Release => "release init",
            Self::Identity => "take the identity",
            Self::CgroupNamespace => "enter the cgroup namespace",
            Self::Root => "make the new root",
            Self::Mount => "mount",
            Self::Proc => "mount /proc",
            Self::Dev => "mount /dev",
            Self::Pivot => "change the root",
            Self::Loopback => "bring loopback up",
            Self::Network => "set up the network's",
            Self::Listen => "listen on",
            Self::Hostname => "set the host name",
            Self::Rlimit => "set the resource limit",
            Self::Keyring => "join a new keyring",
            Self::Fork => "fork the step",
            Self::Capabilities => "empty the capability sets",
            Self::NoNewPrivs => "set no_new_privs",
            Self::Descriptors => "close descriptors",
            Self::Landlock => "restrict with Landlock",
            Self::Seccomp => "load the system call filter",
            Self::Cwd => "enter the working directory",
            Self::Exec => "execute",
            Self::Wait => "wait for the step",
            Self::Area => "manage the directory",
        }
    }
}

/// Whose fault an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// What was asked is wrong.
    User,
    /// This host can't do it, or not now.
    Environment,
    /// A defect of this library.
    Ours,
}

/// One failed act: where, on what, and the kernel's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Where.
    pub stage: Stage,
    /// On what: a path, a name; may be empty.
    pub subject: String,
    /// The kernel's error number; 0 when no call failed but a rule was broken, which `subject` then says.
    pub errno: i32,
}

impl Failure {
    /// A failed call.
    pub fn new(stage: Stage, subject: impl Into<String>, errno: nix::errno::Errno) -> Self {
        Self { stage, subject: subject.into(), errno: errno as i32 }
    }

    /// A broken rule; `subject` names what and why.
    pub fn rule(stage: Stage, subject: impl Into<String>) -> Self {
        Self { stage, subject: subject.into(), errno: 0 }
    }

    /// A failed call of the standard library.
    pub fn io(stage: Stage, subject: impl Into<String>, error: &io::Error) -> Self {
        Self { stage, subject: subject.into(), errno: error.raw_os_error().unwrap_or(libc::EIO) }
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match (self.stage, self.errno) {
            (Stage::Spec | Stage::Source | Stage::Cwd | Stage::Exec | Stage::Mount | Stage::Listen, _) => Fault::User,
            (_, libc::EFAULT | libc::EBADF | libc::EMSGSIZE) => Fault::Ours,
            (Stage::Request | Stage::Release, _) => Fault::Ours,
            _ => Fault::Environment,
        }
    }

    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        match (self.stage, self.errno) {
            (Stage::Start | Stage::Clone, libc::ENOSPC) => {
                Some("user namespaces are used up or disabled: raise sysctl user.max_user_namespaces")
            }
            (Stage::Start | Stage::Clone | Stage::IdMap, libc::EPERM | libc::EACCES) => Some(
                "unprivileged user namespaces are refused here: check sysctl kernel.unprivileged_userns_clone and, on \
                 Ubuntu, kernel.apparmor_restrict_unprivileged_userns (set it to 0 or give caisson an AppArmor profile \
                 with `userns`); `caisson doctor` says which",
            ),
            (Stage::Overlay, libc::ENODEV) => Some("this kernel has no overlay file system: load the module `overlay`"),
            (Stage::Overlay, libc::EPERM) => Some("overlay mounts in a user namespace need Linux 5.11"),
            (Stage::Owner, libc::EINVAL) => {
                Some("this file system can't map owners (idmapped mounts need Linux 5.12, as overlay layers 5.19)")
            }
            (Stage::Proc, libc::EPERM) => {
                Some("a fresh /proc needs a /proc that nothing hides; in a container give it `--security-opt systempaths=unconfined`")
            }
            (Stage::Exec, libc::ENOENT) => Some("the program or its interpreter does not exist inside the sandbox"),
            (_, libc::ENOSYS) => Some("caisson needs Linux 5.12 or newer"),
            _ => None,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "cannot {}", self.stage.act())?;
        if !self.subject.is_empty() {
            write!(out, " `{}`", self.subject)?;
        }
        if self.errno != 0 {
            write!(out, ": {}", nix::errno::Errno::from_raw(self.errno).desc())?;
        }
        if let Some(hint) = self.hint() {
            write!(out, " ({hint})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// Why a launcher could not be started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The calling process has more than one thread: start the launcher first.
    #[error("the launcher must be started before any thread: this process has {threads}")]
    Threads {
        /// How many it has.
        threads: usize,
    },
    /// A step of starting failed.
    #[error(transparent)]
    Failed(#[from] Failure),
}

impl StartError {
    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Threads { .. } => Fault::Ours,
            Self::Failed(failure) => failure.fault(),
        }
    }
}

/// Why a sandbox could not be launched. Nothing of it is left.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum LaunchError {
    /// Protections that the spec needs are not possible here, and their lack is not allowed by name.
    #[error("refused: {}; fix the host, or accept the lack by name", list(missing))]
    Refused {
        /// All of them.
        missing: Vec<Missing>,
    },
    /// A stage failed.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The launcher process is gone.
    #[error("the launcher is gone")]
    LauncherGone,
}

impl LaunchError {
    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Refused { .. } => Fault::Environment,
            Self::Failed(failure) => failure.fault(),
            Self::LauncherGone => Fault::Ours,
        }
    }
}

/// Why the end of a sandbox is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// The launcher died, and every sandbox with it.
    #[error("the launcher is gone, and the step with it")]
    LauncherGone,
    /// Its answer could not be read.
    #[error(transparent)]
    Failed(#[from] Failure),
}

/// Why a signal was not delivered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignalError {
    /// The step is over.
    #[error("the step is over")]
    Ended,
    /// No such signal.
    #[error("{signal} is no signal that a step can be sent")]
    Unknown {
        /// The number.
        signal: i32,
    },
}

/// Why the directories of a job could not be made or removed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum AreaError {
    /// A step of it failed.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The launcher process is gone.
    #[error("the launcher is gone")]
    LauncherGone,
}

fn list(missing: &[Missing]) -> String {
    missing.iter().map(Missing::to_string).collect::<Vec<_>>().join("; ")
}
