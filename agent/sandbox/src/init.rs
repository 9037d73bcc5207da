//! Process 1 of a sandbox: the ordered stages inside, then reaping until the step's own process ends. It dies with the
//! launcher, and everything dies with it (pid_namespaces(7)).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use caps::{CapSet, Capability, CapsHashSet};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Gid, Pid, Uid};

use crate::error::{Failure, Stage};
use crate::handshake::{self, Order, Prelude, ReceiveError, Report};
use crate::outcome::Status;
use crate::plan::{Instruction, Plan};
use crate::protection::{Missing, Protection};
use crate::root;
use crate::seccomp;
use crate::step;
use crate::sys::{self, Forked, Inherit};

/// Where init keeps its socket.
const SOCKET: i32 = 3;

/// Runs init in the process that was just cloned; never returns. `entries` are the cgroup files to enter through (v1);
/// `filter` is init's own filter.
pub(crate) fn run(socket: &OwnedFd, entries: &[OwnedFd], filter: &[Instruction]) -> ! {
    // At a number of its own, where the launcher's socket to its caller was: everything above will be closed.
    if sys::place(socket.as_fd(), SOCKET, Inherit::No).is_err() {
        sys::exit_now(1);
    }
    let socket = sys::adopt(SOCKET);
    let code = match isolate(&socket, entries).and_then(|()| live(&socket, filter)) {
        Ok(()) => 0,
        Err(failure) => {
            // The launcher reads this or is gone, and then nobody is left to tell.
            let _ = handshake::send(socket.as_fd(), &Report::Failed(failure), &[]);
            1
        }
    };
    sys::exit_now(code)
}

/// What needs no spec: so it can be done before there is one.
fn isolate(socket: &OwnedFd, entries: &[OwnedFd]) -> Result<(), Failure> {
    let failed = |stage| move |errno| Failure::new(stage, "", errno);
    // Dies with the launcher, though the lifeline (the end of file on the socket) is what can't be missed.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(failed(Stage::Identity))?;
    for entry in entries {
        nix::unistd::write(entry, b"0").map_err(failed(Stage::Cgroup))?;
    }
    // The launcher's descriptors are copied by the clone: none of them stays.
    sys::close_from(SOCKET as u32 + 1).map_err(failed(Stage::Descriptors))?;
    nix::sys::prctl::set_name(c"init").map_err(failed(Stage::Identity))?;
    nix::unistd::setsid().map_err(failed(Stage::Identity))?;
    // Now, since the namespace shows as its root the group that this process is in.
    unshare(CloneFlags::CLONE_NEWCGROUP).map_err(failed(Stage::CgroupNamespace))?;
    let mut missing = Vec::new();
    if let Err(errno) = sys::join_new_keyring() {
        missing.push(Missing { protection: Protection::Keyring, reason: format!("no new session keyring: {}", errno.desc()) });
    }
    handshake::send(socket.as_fd(), &Report::Warm { missing }, &[]).map_err(failed(Stage::Release))
}

fn live(socket: &OwnedFd, filter: &[Instruction]) -> Result<(), Failure> {
    let failed = |stage| move |errno| Failure::new(stage, "", errno);
    let mut descriptors = match handshake::receive::<Order>(socket.as_fd()) {
        Ok((Order::Build, descriptors)) => descriptors.into_iter(),
        Ok(_) => return Err(Failure::rule(Stage::Release, "unexpected order")),
        Err(ReceiveError::Closed) => return Ok(()),
        Err(ReceiveError::Call(errno)) => return Err(failed(Stage::Release)(errno)),
        Err(ReceiveError::Malformed) => return Err(Failure::rule(Stage::Release, "malformed order")),
    };
    let mut next = || descriptors.next().ok_or_else(|| Failure::rule(Stage::Release, "a descriptor is missing"));
    let plan: Plan = handshake::load(next()?)?;
    let streams = [next()?, next()?, next()?];
    let trees: Vec<OwnedFd> = descriptors.collect();

    become_init(&plan)?;
    let memory = root::build(&plan, trees)?;
    nix::unistd::sethostname(&plan.hostname).map_err(|errno| Failure::new(Stage::Hostname, plan.hostname.clone(), errno))?;

    // Blocked before the fork, so that no death is missed.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    signals.thread_block().map_err(failed(Stage::Fork))?;
    let deaths = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map_err(failed(Stage::Fork))?;
    let (report, report_theirs) = handshake::pair().map_err(failed(Stage::Fork))?;
    let step = match sys::fork().map_err(failed(Stage::Fork))? {
        Forked::Child => {
            let failure = match step::run(&plan, &streams, report_theirs.as_fd()) {
                Ok(never) => match never {},
                Err(failure) => failure,
            };
            // Init reads it, or is dead and this process with it.
            let _ = handshake::send(report_theirs.as_fd(), &Prelude::Failed(failure), &[]);
            sys::exit_now(127)
        }
        Forked::Parent(pid) => pid,
    };
    drop((report_theirs, streams));
    drop(plan);
    confine(filter)?;
    let mut refusals: Vec<OwnedFd> = Vec::new();
    loop {
        match handshake::receive::<Prelude>(report.as_fd()) {
            Ok((Prelude::Listening, listener)) => refusals = listener,
            Ok((Prelude::Failed(failure), _)) => return Err(failure),
            // Exec closed it.
            Err(ReceiveError::Closed) => break,
            Err(_) => return Err(Failure::rule(Stage::Exec, "the step's report can't be read")),
        }
    }
    drop(report);
    let started = Instant::now();
    let out: Vec<BorrowedFd<'_>> = memory.iter().chain(&refusals).map(AsFd::as_fd).collect();
    let running = Report::Running { missing: Vec::new(), refusals: !refusals.is_empty() };
    handshake::send(socket.as_fd(), &running, &out).map_err(failed(Stage::Release))?;
    drop(out);
    drop((memory, refusals));
    attend(socket, &deaths, step, started)
}

/// Id 0 of the namespace where there is one, nothing of the launcher's groups, not to be traced or read by anyone inside.
fn become_init(plan: &Plan) -> Result<(), Failure> {
    let failed = |subject: &'static str| move |errno| Failure::new(Stage::Identity, subject, errno);
    let (uid, gid) = (Uid::from_raw(plan.init.0), Gid::from_raw(plan.init.1));
    if !plan.groups_denied {
        nix::unistd::setgroups(&[]).map_err(failed("groups"))?;
    }
    nix::unistd::setresgid(gid, gid, gid).map_err(failed("gid"))?;
    // The capabilities of a new user namespace are kept although the id may not be 0: keep them through the change.
    nix::sys::prctl::set_keepcaps(true).map_err(failed("keepcaps"))?;
    nix::unistd::setresuid(uid, uid, uid).map_err(failed("uid"))?;
    nix::sys::prctl::set_keepcaps(false).map_err(failed("keepcaps"))?;
    caps::set(None, CapSet::Effective, &caps::read(None, CapSet::Permitted).unwrap_or_default())
        .map_err(|_| Failure::new(Stage::Identity, "capabilities", Errno::EPERM))?;
    // A change of ids clears both.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(failed("death signal"))?;
    nix::sys::prctl::set_dumpable(false).map_err(failed("dumpable"))?;
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    Ok(())
}

/// Init after the fork: only the right to signal the step's other ids, its own filter, no streams.
fn confine(filter: &[Instruction]) -> Result<(), Failure> {
    let cap = |_| Failure::new(Stage::Capabilities, "init", Errno::EPERM);
    let null = nix::fcntl::open("/dev/null", nix::fcntl::OFlag::O_RDWR, nix::sys::stat::Mode::empty())
        .map_err(|errno| Failure::new(Stage::Descriptors, "/dev/null", errno))?;
    for number in 0..3 {
        sys::place(null.as_fd(), number, Inherit::No).map_err(|errno| Failure::new(Stage::Descriptors, "", errno))?;
    }
    let kill: CapsHashSet = [Capability::CAP_KILL].into();
    let none = CapsHashSet::new();
    sys::clear_ambient().map_err(|errno| Failure::new(Stage::Capabilities, "init", errno))?;
    caps::set(None, CapSet::Inheritable, &none).map_err(cap)?;
    caps::set(None, CapSet::Effective, &kill).map_err(cap)?;
    caps::set(None, CapSet::Permitted, &kill).map_err(cap)?;
    nix::sys::prctl::set_no_new_privs().map_err(|errno| Failure::new(Stage::NoNewPrivs, "init", errno))?;
    seccomp::load(filter).map_err(|errno| Failure::new(Stage::Seccomp, "init", errno))
}

/// Reaps and forwards until the step's own process is dead. Returning kills all the rest.
fn attend(socket: &OwnedFd, deaths: &SignalFd, step: Pid, started: Instant) -> Result<(), Failure> {
    let failed = |errno| Failure::new(Stage::Wait, "", errno);
    loop {
        let mut waits = [PollFd::new(socket.as_fd(), PollFlags::POLLIN), PollFd::new(deaths.as_fd(), PollFlags::POLLIN)];
        match poll(&mut waits, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(failed(errno)),
        }
        let mut bytes = [0; 128];
        // Only empties it: how many signals were merged says nothing, reaping does.
        let _ = nix::unistd::read(deaths, &mut bytes);
        while let Ok(Some(dead)) = sys::reap(None) {
            if dead.pid == step {
                let status = if libc::WIFSIGNALED(dead.status) {
                    Status::Signaled(libc::WTERMSIG(dead.status))
                } else {
                    Status::Exited(libc::WEXITSTATUS(dead.status))
                };
                let report = Report::Ended { status, wall: started.elapsed() };
                return handshake::send(socket.as_fd(), &report, &[]).map_err(failed);
            }
        }
        match handshake::receive_now::<Order>(socket.as_fd()) {
            // The group is the step's own session; where it has gone already there is nobody to tell.
            Ok((Order::Signal(signal), _)) => sys::kill_group(step, signal),
            Ok(_) | Err(ReceiveError::Call(Errno::EAGAIN)) => {}
            Err(_) => return Ok(()),
        }
    }
}
