//! Who made a connection: asked by whoever serves it, and answered by a process that the launcher forks for one sandbox. The asker has no
//! privileges and may not look; the launcher may, and must not be held up.
//!
//! Where the kernel holds the first packets of connections (`netns/hold.rs`), that process sees who makes one while it is being made,
//! and remembers; a client that connects and is gone at once has been seen by then. Elsewhere it looks when it is asked.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

use caps::{CapSet, Capability, CapsHashSet};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::error::{Failure, Stage};
use crate::handshake::{self, ReceiveError};
use crate::held::Held;
use crate::lineage::{Ends, Place, Process, find};
use crate::sys::{self, Forked, Inherit};

/// Where the process that looks has its socket, and that of held packets.
const SOCKET: i32 = 3;
const HELD: i32 = 4;
/// How many connections are remembered of which nobody asked yet.
const REMEMBERED: usize = 16_384;

/// Asks the launcher for the socket on which one sandbox's processes are asked for.
type Begin = Box<dyn Fn() -> Option<OwnedFd> + Send + Sync>;

/// Finds the processes behind connections of one sandbox.
pub struct Onlooker {
    // Goes first: the launcher ends only when nobody looks any more, and dropping its last handle, which the other has, waits for that.
    asking: OnceLock<Option<Mutex<OwnedFd>>>,
    begin: Begin,
    remembers: bool,
}

impl fmt::Debug for Onlooker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Onlooker").finish_non_exhaustive()
    }
}

impl Onlooker {
    pub(crate) fn new(begin: Begin) -> Onlooker {
        Onlooker { asking: OnceLock::new(), begin, remembers: false }
    }

    /// One that looks already.
    pub(crate) fn looking(socket: OwnedFd) -> Onlooker {
        Onlooker { asking: OnceLock::from(Some(Mutex::new(socket))), begin: Box::new(|| None), remembers: true }
    }

    /// Whether who makes a connection is seen while it is made, so that it can be asked for later as well as at once.
    pub fn remembers(&self) -> bool {
        self.remembers
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

/// Forks the process that looks for one sandbox, and lets held packets go on. To be called in its network namespace. The child lives
/// until the asker goes away or its parent dies.
pub(crate) fn fork(answer: BorrowedFd<'_>, init: Pid, held: Option<OwnedFd>) -> Result<(Pid, OwnedFd), Failure> {
    let failed = |errno| Failure::new(Stage::Clone, "onlooker", errno);
    let parent = nix::unistd::getpid();
    match sys::fork().map_err(failed)? {
        Forked::Parent(pid) => Ok((pid, sys::pidfd_open(pid).map_err(failed)?)),
        Forked::Child => sys::exit_now(i32::from(look(answer, init, held, parent).is_err())),
    }
}

fn look(answer: BorrowedFd<'_>, init: Pid, held: Option<OwnedFd>, parent: Pid) -> Result<(), Errno> {
    let (socket, held) = alone(answer, held)?;
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    if nix::unistd::getppid() != parent {
        return Ok(());
    }
    // What reads what a step made up can look at processes and let go of packets of this namespace, and nothing else.
    let mut kept: CapsHashSet = [Capability::CAP_SYS_PTRACE, Capability::CAP_DAC_READ_SEARCH].into_iter().collect();
    kept.extend(held.is_some().then_some(Capability::CAP_NET_ADMIN));
    let had = caps::read(None, CapSet::Permitted).map_err(|_| Errno::EPERM)?;
    let kept: CapsHashSet = kept.intersection(&had).copied().collect();
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &kept).map_err(|_| Errno::EPERM)?;
    }
    nix::sys::prctl::set_no_new_privs()?;
    let mut sight = Sight { init: init.as_raw(), last: None, seen: HashMap::new(), order: VecDeque::new() };
    loop {
        let mut waits = vec![PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        waits.extend(held.as_ref().map(|held| PollFd::new(held.as_fd(), PollFlags::POLLIN)));
        match poll(&mut waits, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
        // First those who wait for it to connect.
        if let Some(held) = &held {
            held.release(|ends| sight.see(ends));
        }
        match handshake::receive_now::<Ends>(socket.as_fd()) {
            Ok((ends, _)) => handshake::send(socket.as_fd(), &sight.find(&ends), &[])?,
            Err(ReceiveError::Call(Errno::EAGAIN) | ReceiveError::Malformed) => {}
            Err(ReceiveError::Closed | ReceiveError::Call(_)) => return Ok(()),
        }
    }
}

/// Closes every descriptor but the sockets: copies of the launcher's other ones would keep their peers from seeing its end.
fn alone(answer: BorrowedFd<'_>, held: Option<OwnedFd>) -> Result<(OwnedFd, Option<Held>), Errno> {
    // Neither may be where the other is to be.
    let answer = nix::fcntl::fcntl(answer, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(HELD + 1)).map(sys::adopt)?;
    let held = match held {
        Some(held) => Some(nix::fcntl::fcntl(&held, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(HELD + 1)).map(sys::adopt)?),
        None => None,
    };
    sys::place(answer.as_fd(), SOCKET, Inherit::No)?;
    let first = match &held {
        Some(held) => {
            sys::place(held.as_fd(), HELD, Inherit::No)?;
            HELD + 1
        }
        None => HELD,
    };
    let held = held.map(|held| {
        std::mem::forget(held);
        Held::new(sys::adopt(HELD))
    });
    std::mem::forget(answer);
    sys::close_from(first as u32)?;
    Ok((sys::adopt(SOCKET), held))
}

/// What it has seen.
struct Sight {
    init: i32,
    last: Option<Place>,
    seen: HashMap<Ends, Vec<Process>>,
    order: VecDeque<Ends>,
}

impl Sight {
    /// Remembers who makes a connection.
    fn see(&mut self, ends: Ends) {
        let Some(found) = find(Path::new("/proc"), self.init, &ends, &mut self.last) else { return };
        if self.seen.insert(ends, found).is_none() {
            self.order.push_back(ends);
        }
        while self.order.len() > REMEMBERED {
            let Some(oldest) = self.order.pop_front() else { break };
            self.seen.remove(&oldest);
        }
    }

    /// Who made a connection.
    fn find(&mut self, ends: &Ends) -> Vec<Process> {
        match self.seen.get(ends) {
            Some(seen) => seen.clone(),
            None => find(Path::new("/proc"), self.init, ends, &mut self.last).unwrap_or_default(),
        }
    }
}
