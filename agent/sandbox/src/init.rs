//! Process 1 of a sandbox: the ordered stages inside, then reaping until the step's own process ends. It dies with the
//! launcher, and everything dies with it (pid_namespaces(7)).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use caps::{CapSet, Capability, CapsHashSet};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Gid, Pid, Uid};

use crate::error::{Failure, Stage};
use crate::handshake::{self, Go, Order, Prelude, ReceiveError, Report};
use crate::outcome::Status;
use crate::plan::{Instruction, Plan};
use crate::protection::{Missing, Protection};
use crate::root::{self, Inside};
use crate::seccomp;
use crate::spec::GivenFile;
use crate::step::{self, Source};
use crate::sys::{self, Forked, Inherit};

/// Where init keeps its socket.
const SOCKET: i32 = 3;

/// How long the step's last processes may take to die before init goes and leaves them to the kernel.
const LAST_WAIT: u16 = 1000;

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
    let (at_once, files, mut descriptors) = match handshake::receive::<Order>(socket.as_fd()) {
        Ok((Order::Build { at_once, files }, descriptors)) => (at_once, files, descriptors.into_iter()),
        Ok(_) => return Err(Failure::rule(Stage::Release, "unexpected order")),
        Err(ReceiveError::Closed) => return Ok(()),
        Err(ReceiveError::Call(errno)) => return Err(failed(Stage::Release)(errno)),
        Err(ReceiveError::Malformed) => return Err(Failure::rule(Stage::Release, "malformed order")),
    };
    let mut next = || descriptors.next().ok_or_else(|| Failure::rule(Stage::Release, "a descriptor is missing"));
    let plan: Plan = handshake::load(next()?)?;
    let given = if at_once { Some([next()?, next()?, next()?, next()?]) } else { None };
    let files: Vec<GivenFile> = if files { handshake::load(next()?)? } else { Vec::new() };
    let trees: Vec<OwnedFd> = descriptors.collect();

    become_init(&plan)?;
    let mut inside = root::build(&plan, &files, trees)?;
    nix::unistd::sethostname(&plan.hostname).map_err(|errno| Failure::new(Stage::Hostname, plan.hostname.clone(), errno))?;

    // Blocked before the fork, so that no death is missed.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    signals.thread_block().map_err(failed(Stage::Fork))?;
    let deaths = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map_err(failed(Stage::Fork))?;
    let (report, report_theirs) = handshake::pair().map_err(failed(Stage::Fork))?;
    let (line, source) = match given {
        Some(given) => (None, Source::Here(given)),
        None => {
            let (line, theirs) = handshake::pair().map_err(failed(Stage::Fork))?;
            (Some(line), Source::Comes(theirs))
        }
    };
    let step = match sys::fork().map_err(failed(Stage::Fork))? {
        Forked::Child => {
            drop((line, inside));
            let failure = match step::run(&plan, source, report_theirs.as_fd()) {
                Ok(never) => match never {},
                Err(failure) => failure,
            };
            // Init reads it, or is dead and this process with it.
            let _ = handshake::send(report_theirs.as_fd(), &Prelude::Failed(failure), &[]);
            sys::exit_now(127)
        }
        Forked::Parent(pid) => pid,
    };
    drop((report_theirs, source, files));
    let open = plan.open && !at_once;
    if !open {
        confine(filter)?;
    }
    let mut memory = std::mem::take(&mut inside.memory);
    if let Some(line) = &line {
        let out: Vec<BorrowedFd<'_>> = std::iter::once(line).chain(&memory).map(AsFd::as_fd).collect();
        handshake::send(socket.as_fd(), &Report::Built { waiting: true }, &out).map_err(failed(Stage::Release))?;
        drop(out);
        memory.clear();
    }
    let open = open.then_some(Open { inside, plan, filter });
    Attending { socket, deaths, step, memory, course: Course::Before { report, line }, refusals: Vec::new(), open }.attend()
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

/// How far the step's process is.
enum Course {
    /// It has not executed its program yet: it tells what goes wrong, and may wait at the line for what it is to be.
    Before { report: OwnedFd, line: Option<OwnedFd> },
    /// It runs its program.
    Running { since: Instant },
}

/// A tree that files and secrets may still come into, and what init needs for it and for giving up its rights afterwards.
struct Open<'a> {
    inside: Inside,
    plan: Plan,
    filter: &'a [Instruction],
}

/// Init once everything is built.
struct Attending<'a> {
    socket: &'a OwnedFd,
    deaths: SignalFd,
    step: Pid,
    memory: Vec<OwnedFd>,
    course: Course,
    refusals: Vec<OwnedFd>,
    /// `None` when init has nothing more to do inside.
    open: Option<Open<'a>>,
}

impl Attending<'_> {
    /// Hands the program on, reaps and forwards signals until the step's own process is dead, and then kills the rest.
    fn attend(mut self) -> Result<(), Failure> {
        let failed = |errno| Failure::new(Stage::Wait, "", errno);
        loop {
            let mut waits = vec![PollFd::new(self.socket.as_fd(), PollFlags::POLLIN), PollFd::new(self.deaths.as_fd(), PollFlags::POLLIN)];
            if let Course::Before { report, .. } = &self.course {
                waits.push(PollFd::new(report.as_fd(), PollFlags::POLLIN));
            }
            match poll(&mut waits, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(failed(errno)),
            }
            // First whether the program began, then whether it is over.
            self.prelude()?;
            let mut bytes = [0; 128];
            // Only empties it: how many signals were merged says nothing, reaping does.
            let _ = nix::unistd::read(&self.deaths, &mut bytes);
            while let Ok(Some(dead)) = sys::reap(None) {
                if dead.pid == self.step {
                    let status = if libc::WIFSIGNALED(dead.status) {
                        Status::Signaled(libc::WTERMSIG(dead.status))
                    } else {
                        Status::Exited(libc::WEXITSTATUS(dead.status))
                    };
                    // It may have died between the two looks.
                    self.prelude()?;
                    let wall = if let Course::Running { since } = self.course { since.elapsed() } else { Duration::ZERO };
                    handshake::send(self.socket.as_fd(), &Report::Ended { status, wall }, &[]).map_err(failed)?;
                    self.bury();
                    return Ok(());
                }
            }
            match handshake::receive_now::<Order>(self.socket.as_fd()) {
                // The group is the step's own session; where it has gone already there is nobody to tell.
                Ok((Order::Signal(signal), _)) => sys::kill_group(self.step, signal),
                Ok((Order::Go { files, secrets }, descriptors)) => self.go(files, secrets, descriptors)?,
                Ok(_) | Err(ReceiveError::Call(Errno::EAGAIN)) => {}
                Err(_) => return Ok(()),
            }
        }
    }

    /// Kills what the step left and waits for it, so that its time is in the account: what dies with init is waited for by nobody
    /// (pid_namespaces(7)). What does not die at once is left to that.
    fn bury(&self) {
        // ESRCH: nothing is left.
        if nix::sys::signal::kill(Pid::from_raw(-1), Signal::SIGKILL).is_err() {
            return;
        }
        loop {
            match sys::reap(None) {
                Ok(Some(_)) => continue,
                Ok(None) => {}
                Err(_) => return,
            }
            match poll(&mut [PollFd::new(self.deaths.as_fd(), PollFlags::POLLIN)], LAST_WAIT) {
                Ok(0) => return,
                Ok(_) => drop(nix::unistd::read(&self.deaths, &mut [0; 128])),
                Err(Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }

    /// What the step's process says before its program runs.
    fn prelude(&mut self) -> Result<(), Failure> {
        while let Course::Before { report, .. } = &self.course {
            match handshake::receive_now::<Prelude>(report.as_fd()) {
                Ok((Prelude::Listening, listener)) => self.refusals = listener,
                Ok((Prelude::Failed(failure), _)) => return Err(failure),
                // Exec closed it.
                Err(ReceiveError::Closed) => {
                    self.course = Course::Running { since: Instant::now() };
                    let running = Report::Running { refusals: !self.refusals.is_empty() };
                    let out: Vec<BorrowedFd<'_>> = self.memory.iter().chain(&self.refusals).map(AsFd::as_fd).collect();
                    handshake::send(self.socket.as_fd(), &running, &out).map_err(|errno| Failure::new(Stage::Release, "", errno))?;
                    drop(out);
                    self.memory.clear();
                    self.refusals.clear();
                }
                Err(ReceiveError::Call(Errno::EAGAIN)) => return Ok(()),
                Err(_) => return Err(Failure::rule(Stage::Exec, "the step's report can't be read")),
            }
        }
        Ok(())
    }

    /// Puts in place what comes with the program, and hands the program on.
    fn go(&mut self, files: bool, secrets: bool, descriptors: Vec<OwnedFd>) -> Result<(), Failure> {
        let Course::Before { line, .. } = &mut self.course else { return Ok(()) };
        let Some(line) = line.take() else { return Ok(()) };
        let missing = || Failure::rule(Stage::Release, "a descriptor is missing");
        let mut descriptors = descriptors.into_iter();
        let program: Vec<OwnedFd> = descriptors.by_ref().take(4).collect();
        let open = self.open.take();
        if let Some(Open { inside, plan, .. }) = &open {
            let files: Vec<GivenFile> = if files { handshake::load(descriptors.next().ok_or_else(missing)?)? } else { Vec::new() };
            let secrets = if secrets { Some(descriptors.next().ok_or_else(missing)?) } else { None };
            inside.furnish(plan, &files, secrets.as_ref())?;
        } else if files || secrets {
            return Err(Failure::rule(Stage::Release, "this sandbox takes neither files nor secrets any more"));
        }
        let program: Vec<BorrowedFd<'_>> = program.iter().map(AsFd::as_fd).collect();
        handshake::send(line.as_fd(), &Go::Program, &program).map_err(|errno| Failure::new(Stage::Release, "", errno))?;
        match open {
            Some(open) => confine(open.filter),
            None => Ok(()),
        }
    }
}
