//! The warden: a process that waits for the launcher's death, and then removes the cgroups that a killed launcher could not.
//! Sandboxes need no such help: they die with the launcher, and their mounts with them. While the launcher lives it lets go of
//! what is left of sandboxes that are over: the kernel makes whoever does that wait for grace periods.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::cgroup;
use crate::error::{Failure, Stage};
use crate::handshake::{self, ReceiveError};
use crate::sys::{self, Forked, Inherit};

/// How long dying processes may keep a group busy.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a warden has to have lived to be replaced.
const RESTART: Duration = Duration::from_millis(100);
/// How many groups are handed over at once, so that they fit a message.
const PART: usize = 100;
/// Milliseconds after which a busy group is tried again.
const RETRY: u8 = 2;

/// What is left of a sandbox that is over. Descriptors: whatever is to be let go of.
#[derive(Debug, Serialize, Deserialize)]
struct Remains {
    /// Its groups.
    groups: Vec<PathBuf>,
}

/// The launcher's hold on its warden.
pub(crate) struct Warden {
    /// Open as long as the launcher lives.
    line: OwnedFd,
    pid: Pid,
    process: OwnedFd,
    since: Instant,
}

impl Warden {
    /// Starts it over these directories.
    pub(crate) fn new(directories: Vec<PathBuf>) -> Result<Self, Failure> {
        let failed = |errno| Failure::new(Stage::Start, "warden", errno);
        let (end, line) = handshake::pair().map_err(failed)?;
        match sys::fork().map_err(failed)? {
            Forked::Child => {
                let code = i32::from(watch(&end, &directories).is_err());
                sys::exit_now(code)
            }
            Forked::Parent(pid) => Ok(Self { line, pid, process: sys::pidfd_open(pid).map_err(failed)?, since: Instant::now() }),
        }
    }

    /// Hands over what is left of a sandbox; whether it took it.
    pub(crate) fn bury(&self, groups: Vec<PathBuf>, rest: &[BorrowedFd<'_>]) -> bool {
        handshake::send_now(self.line.as_fd(), &Remains { groups }, rest).is_ok()
    }

    /// Readable when it is dead.
    pub(crate) fn watched(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }

    /// Whether somebody has killed it.
    pub(crate) fn is_dead(&self) -> bool {
        poll(&mut [PollFd::new(self.process.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO) != Ok(0)
    }

    /// Another one over these directories, in place of one that is dead; it takes over what that one had left to remove: every group
    /// below them but the `living`. `None` where the dead one had just begun, so that whoever kills them does not keep the launcher
    /// busy: then it removes groups itself.
    pub(crate) fn replace(self, directories: Vec<PathBuf>, living: &HashSet<PathBuf>) -> Option<Self> {
        let lasted = self.since.elapsed() >= RESTART;
        self.dismiss();
        let next = if lasted { Self::new(directories.clone()).ok()? } else { return None };
        let left: Vec<PathBuf> =
            directories.iter().flat_map(|directory| cgroup::sandboxes_below(directory)).filter(|group| !living.contains(group)).collect();
        for some in left.chunks(PART) {
            next.bury(some.to_vec(), &[]);
        }
        Some(next)
    }

    /// Ends it, after the launcher has removed everything itself.
    pub(crate) fn dismiss(self) {
        drop(self.line);
        while nix::sys::wait::waitpid(self.pid, None) == Err(Errno::EINTR) {}
    }
}

fn watch(end: &OwnedFd, directories: &[PathBuf]) -> Result<(), Errno> {
    // The end of the line must be the only descriptor of the launcher's that it keeps; the locks on the groups above all
    // go, or the next launcher would take this one for alive.
    sys::place(end.as_fd(), 3, Inherit::No)?;
    sys::close_from(4)?;
    let end = sys::adopt(3);
    nix::sys::prctl::set_name(c"caisson-warden")?;
    let session = nix::unistd::setsid();
    debug_assert!(session.is_ok(), "a fresh child leads no group");
    let mut busy: Vec<PathBuf> = Vec::new();
    loop {
        let wait = if busy.is_empty() { PollTimeout::NONE } else { PollTimeout::from(RETRY) };
        // EINTR and errors alike: everything is looked at again.
        let _ = poll(&mut [PollFd::new(end.as_fd(), PollFlags::POLLIN)], wait);
        match handshake::receive_now::<Remains>(end.as_fd()) {
            Ok((Remains { groups }, rest)) => {
                // Mounts first: what they hold in memory is charged to the groups.
                drop(rest);
                busy.extend(groups);
            }
            Err(ReceiveError::Closed) => break,
            Err(_) => {}
        }
        // Removed, or never there: either way it is gone.
        busy.retain(|group| !matches!(std::fs::remove_dir(group), Ok(())) && group.exists());
    }
    remove(directories);
    Ok(())
}

/// Removes the groups of a killed launcher that had no warden.
pub(crate) fn clear(launcher: Pid, name: &str) {
    remove(&cgroup::directories_of(launcher, name));
}

fn remove(directories: &[PathBuf]) {
    let until = Instant::now() + PATIENCE;
    while directories.iter().any(|directory| directory.exists()) && Instant::now() < until {
        directories.iter().for_each(|directory| cgroup::remove_below(directory));
        std::thread::sleep(Duration::from_millis(2));
    }
}
