//! Who made a connection: asked by whoever serves it, and answered by a process that the launcher forks for one sandbox when it is
//! asked for the first time. The asker has no privileges and may not look; the launcher may, and must not be held up.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::error::{Failure, Stage};
use crate::handshake::{self, ReceiveError};
use crate::lineage::{Ends, Process, find};
use crate::sys::{self, Forked, Inherit};

/// Where the process that looks has its socket.
const SOCKET: i32 = 3;

/// Asks the launcher for the socket on which one sandbox's processes are asked for.
type Begin = Box<dyn Fn() -> Option<OwnedFd> + Send + Sync>;

/// Finds the processes behind connections of one sandbox.
pub struct Onlooker {
    // Goes first: the launcher ends only when nobody looks any more, and dropping its last handle, which the other has, waits for that.
    asking: OnceLock<Option<Mutex<OwnedFd>>>,
    begin: Begin,
}

impl fmt::Debug for Onlooker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Onlooker").finish_non_exhaustive()
    }
}

impl Onlooker {
    pub(crate) fn new(begin: Begin) -> Onlooker {
        Onlooker { asking: OnceLock::new(), begin }
    }

    /// The process that holds this end, then its ancestors up to the step's first process. Empty when it is not found, or the
    /// sandbox has ended. Blocks, for a fraction of a millisecond as a rule; calls from several threads wait for each other.
    pub fn find(&self, ends: &Ends) -> Vec<Process> {
        let Some(socket) = self.asking.get_or_init(|| (self.begin)().map(Mutex::new)) else { return Vec::new() };
        let socket = socket.lock().unwrap_or_else(PoisonError::into_inner);
        if handshake::send(socket.as_fd(), ends, &[]).is_err() {
            return Vec::new();
        }
        handshake::receive::<Vec<Process>>(socket.as_fd()).map(|(found, _)| found).unwrap_or_default()
    }
}

/// Forks the process that looks for one sandbox. To be called in its network namespace. The child lives until the asker goes away or
/// its parent dies.
pub(crate) fn fork(answer: BorrowedFd<'_>, init: Pid) -> Result<(Pid, OwnedFd), Failure> {
    let failed = |errno| Failure::new(Stage::Clone, "onlooker", errno);
    let parent = nix::unistd::getpid();
    match sys::fork().map_err(failed)? {
        Forked::Parent(pid) => Ok((pid, sys::pidfd_open(pid).map_err(failed)?)),
        Forked::Child => sys::exit_now(i32::from(look(answer, init, parent).is_err())),
    }
}

fn look(answer: BorrowedFd<'_>, init: Pid, parent: Pid) -> Result<(), nix::errno::Errno> {
    sys::place(answer, SOCKET, Inherit::No)?;
    // Copies of the launcher's other sockets would keep their peers from seeing its end.
    sys::close_from(SOCKET as u32 + 1)?;
    let socket = sys::adopt(SOCKET);
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    if nix::unistd::getppid() != parent {
        return Ok(());
    }
    // What reads what a step made up can look at processes, and nothing else.
    let kept: CapsHashSet = [Capability::CAP_SYS_PTRACE, Capability::CAP_DAC_READ_SEARCH].into_iter().collect();
    let held = caps::read(None, CapSet::Permitted).map_err(|_| nix::errno::Errno::EPERM)?;
    let kept: CapsHashSet = kept.intersection(&held).copied().collect();
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &kept).map_err(|_| nix::errno::Errno::EPERM)?;
    }
    nix::sys::prctl::set_no_new_privs()?;
    let mut last = None;
    loop {
        match handshake::receive::<Ends>(socket.as_fd()) {
            Ok((ends, _)) => {
                let found = find(Path::new("/proc"), init.as_raw(), &ends, &mut last).unwrap_or_default();
                handshake::send(socket.as_fd(), &found, &[])?;
            }
            Err(ReceiveError::Malformed) => {}
            Err(ReceiveError::Closed | ReceiveError::Call(_)) => return Ok(()),
        }
    }
}
