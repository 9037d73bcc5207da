//! What the launcher hands to init: the spec with everything on the host already opened, looked up and compiled, so that
//! init only walks it.

use std::ffi::OsString;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::spec::{Identity, Spec, SystemEntry};

/// What is executed, from the caller to the process that becomes it: nobody between the two reads it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Program {
    pub program: OsString,
    pub args: Vec<OsString>,
    pub env: Vec<(OsString, OsString)>,
    pub cwd: PathBuf,
}

impl Program {
    /// That of a spec.
    pub(crate) fn of(spec: &Spec) -> Self {
        Self { program: spec.program.clone(), args: spec.args.clone(), env: spec.env.clone(), cwd: spec.cwd.clone() }
    }
}

/// Everything init needs. Mounts come beside it as descriptors.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// Whether files and secrets may come when it is built.
    pub open: bool,
    pub identity: Identity,
    /// The ids that init takes.
    pub init: (u32, u32),
    pub groups_denied: bool,
    pub hostname: String,
    pub builds: Vec<Build>,
    /// Which of the mounts holds the secrets.
    pub secrets: Option<usize>,
    pub rlimits: Vec<Rlimit>,
    pub tmp_size: u64,
    pub tmp_inodes: u64,
    pub shm_size: u64,
    /// The step's filter; `None` only where seccomp is allowed to be missing.
    pub filter: Option<Vec<Instruction>>,
    /// Whether the filter hands refused calls to a listener.
    pub listening: bool,
}

/// One thing of the file tree, in order.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Build {
    Attach {
        target: PathBuf,
        tree: usize,
        directory: bool,
    },
    Tmpfs {
        target: PathBuf,
        size: u64,
        inodes: u64,
        mode: u32,
    },
    Directory {
        target: PathBuf,
        mode: u32,
    },
    File {
        target: PathBuf,
        #[serde(with = "crate::octets")]
        content: Vec<u8>,
        mode: u32,
    },
    Symlink {
        target: PathBuf,
        to: PathBuf,
    },
    System {
        target: PathBuf,
        what: SystemEntry,
    },
}

impl Build {
    /// Where it goes.
    pub(crate) fn target(&self) -> &PathBuf {
        match self {
            Self::Attach { target, .. }
            | Self::Tmpfs { target, .. }
            | Self::Directory { target, .. }
            | Self::File { target, .. }
            | Self::System { target, .. }
            | Self::Symlink { target, .. } => target,
        }
    }
}

/// One resource limit (getrlimit(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Rlimit {
    Core(u64),
    OpenFiles(u64),
    FileSize(u64),
    Processes(u64),
}

/// One instruction of a filter: code, jump if true, jump if false, operand.
pub(crate) type Instruction = (u16, u8, u8, u32);
