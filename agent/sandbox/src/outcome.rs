//! What a sandbox reports when everything in it is dead.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::protection::{Missing, Protection};

/// The end of one step. No process of the sandbox is alive when this exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// How the step's own process ended.
    pub status: Status,
    /// Why it ended, where the sandbox knows: a limit that it ran into.
    pub cause: Option<Cause>,
    /// What it used.
    pub usage: Usage,
    /// What the sandbox itself cost.
    pub timing: Timing,
    /// What was in force, in the order of [`Protection::ALL`].
    pub enforced: Vec<Protection>,
    /// What was not, with the reason.
    pub missing: Vec<Missing>,
    /// Which system calls were refused, by number; empty unless the spec asked for [`crate::spec::Refusals::Listed`].
    pub refused: Vec<RefusedCall>,
}

/// A system call that the filter refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedCall {
    /// Its name, or `syscall N`.
    pub name: String,
    /// Its number on this machine.
    pub number: u32,
    /// The argument for which it was refused, where it is allowed with others.
    pub argument: Option<u64>,
    /// The error that it got.
    pub errno: i32,
    /// How often.
    pub count: u64,
    /// Why it can't be added to a filter; `None` where it can.
    pub not_addable: Option<String>,
}

impl Outcome {
    /// The code a shell would show: the exit code, or 128 and the signal.
    pub fn code(&self) -> i32 {
        match self.status {
            Status::Exited(code) => code,
            Status::Signaled(signal) => 128 + signal,
        }
    }

    /// Whether the step exited with 0.
    pub fn success(&self) -> bool {
        self.status == Status::Exited(0)
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal.
    Signaled(i32),
}

/// A limit that ended a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// The memory limit was reached and the kernel killed; the whole sandbox was then killed.
    OutOfMemory {
        /// The limit in bytes.
        limit: u64,
        /// Most bytes in use.
        peak: u64,
        /// Which process the kernel killed, where that could be seen.
        victim: Option<Victim>,
    },
    /// It wrote more bytes, or made more files, than it may; or a file system in memory that it wrote to was full and it
    /// failed.
    Disk {
        /// Of what there was no more.
        resource: DiskResource,
        /// The limit.
        limit: u64,
        /// Most that was seen in use.
        used: u64,
    },
    /// The time was over.
    WallClock {
        /// The limit.
        limit: Duration,
    },
    /// A fork was refused at the pids limit, and the step failed.
    Pids {
        /// The limit.
        limit: u32,
        /// How many forks were refused.
        refused: u64,
    },
    /// The caller had it killed, or went away.
    Killed,
    /// The process that holds the sandbox, its init, died without a report.
    InitLost,
}

/// A process that the kernel killed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Victim {
    /// Its id inside the sandbox.
    pub pid: u32,
    /// Its name as it gave it to itself: at most 15 bytes, with everything that is not printable replaced.
    pub name: String,
}

/// What a disk limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DiskResource {
    /// Bytes.
    Bytes,
    /// Files, directories and the like.
    Inodes,
}

/// What a step used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Usage {
    /// From exec to the end of its own process.
    pub wall: Duration,
    /// Processor time in user mode, all processes.
    pub user: Duration,
    /// Processor time in the kernel, all processes.
    pub system: Duration,
    /// Most bytes of memory at once: of all processes together where a memory cgroup counts, else of the largest one.
    pub peak_memory: u64,
    /// Most processes and threads at once, init included; 0 where nothing counts them.
    pub peak_pids: u64,
    /// Bytes that its processes made the disks read.
    pub read_bytes: u64,
    /// Bytes that its processes made the disks write.
    pub written_bytes: u64,
    /// Most bytes on disks and memory file systems that were seen; 0 without a limit on them.
    pub peak_disk: u64,
    /// Most files likewise.
    pub peak_inodes: u64,
}

/// What the sandbox itself cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Timing {
    /// From the request's arrival to exec.
    pub build: Duration,
    /// From the end of the step's own process to the end of all.
    pub teardown: Duration,
}
