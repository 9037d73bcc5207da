//! Where the kernel says that memory gets short in a group, or is out.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::PollFlags;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::stat::Mode;
use nix::unistd::Pid;

use crate::error::{Failure, Stage};
use crate::sys::{self, Forked};

/// What the kernel tells of one group.
#[derive(Debug)]
pub(crate) enum Notices {
    /// v1: one counter each (kernel `cgroup-v1/memory.rst`); the second once it was asked for and could be had.
    Eventfds { out: EventFd, short: Option<EventFd>, asked: bool },
    /// v2: `memory.events`, which polls as exceptional when a number in it changes.
    Events(OwnedFd),
}

/// How a group stands with memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shortage {
    None,
    Short,
    Out,
}

impl Notices {
    /// v1: tells when the memory of the group `directory` is out.
    pub(crate) fn eventfds(directory: BorrowedFd<'_>) -> Result<Self, Failure> {
        let out = eventfd()?;
        let watched = open(directory, "memory.oom_control", OFlag::O_RDONLY)?;
        let control = open(directory, "cgroup.event_control", OFlag::O_WRONLY)?;
        register(control.as_fd(), out.as_fd(), watched.as_fd(), "")?;
        Ok(Self::Eventfds { out, short: None, asked: false })
    }

    /// Whether there is nothing left to ask for.
    pub(crate) fn warns(&self) -> bool {
        !matches!(self, Self::Eventfds { asked: false, .. })
    }

    /// v1: tells also when the group has used most of `limit`. A threshold is registered after an RCU grace period, some
    /// 10 ms, for which the launcher must not stand still: so a process of its own does it.
    pub(crate) fn warn(&mut self, directory: BorrowedFd<'_>, limit: u64) -> Result<Option<(Pid, OwnedFd)>, Failure> {
        let Self::Eventfds { short, asked: asked @ false, .. } = self else { return Ok(None) };
        *asked = true;
        let counter = eventfd()?;
        let watched = open(directory, "memory.usage_in_bytes", OFlag::O_RDONLY)?;
        let control = open(directory, "cgroup.event_control", OFlag::O_WRONLY)?;
        let failed = |errno| Failure::new(Stage::Cgroup, "threshold", errno);
        match sys::fork().map_err(failed)? {
            Forked::Child => {
                let threshold = format!(" {}", limit / 8 * 7);
                let registered = register(control.as_fd(), counter.as_fd(), watched.as_fd(), &threshold);
                sys::exit_now(i32::from(registered.is_err()))
            }
            Forked::Parent(pid) => {
                *short = Some(counter);
                Ok(Some((pid, sys::pidfd_open(pid).map_err(failed)?)))
            }
        }
    }

    /// What to wait for.
    pub(crate) fn watched(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        match self {
            Self::Eventfds { out, short, .. } => short.iter().chain([out]).map(|counter| (counter.as_fd(), PollFlags::POLLIN)).collect(),
            Self::Events(events) => vec![(events.as_fd(), PollFlags::POLLPRI)],
        }
    }

    /// What has happened since the last call.
    pub(crate) fn take(&self) -> Shortage {
        match self {
            Self::Eventfds { out, .. } if out.read().is_ok() => Shortage::Out,
            Self::Eventfds { short: Some(short), .. } if short.read().is_ok() => Shortage::Short,
            Self::Eventfds { .. } => Shortage::None,
            Self::Events(events) => {
                // Reading is what lets the next poll wait again.
                let mut bytes = [0; 1024];
                let length = nix::sys::uio::pread(events, &mut bytes, 0).unwrap_or(0);
                let text = String::from_utf8_lossy(&bytes[..length]);
                let number = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse::<u64>().ok()).unwrap_or(0);
                match (number("oom_kill "), number("max ")) {
                    (1.., _) => Shortage::Out,
                    (0, 1..) => Shortage::Short,
                    (0, 0) => Shortage::None,
                }
            }
        }
    }
}

fn eventfd() -> Result<EventFd, Failure> {
    EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).map_err(|errno| Failure::new(Stage::Cgroup, "eventfd", errno))
}

fn open(directory: BorrowedFd<'_>, file: &str, flags: OFlag) -> Result<OwnedFd, Failure> {
    nix::fcntl::openat(directory, file, flags | OFlag::O_CLOEXEC, Mode::empty()).map_err(|errno| Failure::new(Stage::Cgroup, file, errno))
}

fn register(control: BorrowedFd<'_>, counter: BorrowedFd<'_>, watched: BorrowedFd<'_>, arguments: &str) -> Result<(), Failure> {
    let line = format!("{} {}{arguments}", counter.as_raw_fd(), watched.as_raw_fd());
    let written = loop {
        match nix::unistd::write(control, line.as_bytes()) {
            Err(Errno::EINTR) => {}
            result => break result,
        }
    };
    written.map(drop).map_err(|errno| Failure::new(Stage::Cgroup, format!("cgroup.event_control = {line}"), errno))
}
