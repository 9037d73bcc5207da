//! The launcher process: one loop over its sockets. It never waits for one sandbox while another needs it; a malformed
//! request costs its sender an error and nobody else anything.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;

use crate::area;
use crate::cgroup::{Cgroups, Group};
use crate::disk::{Known, Remembered};
use crate::error::{Failure, Stage};
use crate::ground::Ground;
use crate::handshake::{self, Answer, Control, Greeting, NAME, ReceiveError, Request, SOCKET, Setup};
use crate::host::{Mode, Standing};
use crate::netns;
use crate::onlooker;
use crate::outcome::Cause;
use crate::plan::Instruction;
use crate::protection::{Missing, Protection};
use crate::running::{Phase, Purpose, Sandbox};
use crate::seccomp;
use crate::share::Shares;
use crate::slot::{Slot, Time};
use crate::sources::Owners;
use crate::spec::Filter;
use crate::sys::{self, Forked};
use crate::warden;

/// How often a busy cgroup is tried again.
const RETRY: Duration = Duration::from_millis(2);

/// Runs the launcher if this process was started as one.
pub(crate) fn entry() -> Option<i32> {
    // The descriptor first: asking for the arguments copies all of them, and they may hold secrets.
    if !sys::is_open(SOCKET) || std::env::args_os().next()? != NAME {
        return None;
    }
    Some(run(sys::adopt(SOCKET)))
}

/// Is the launcher of whoever holds the other end; the exit code when that is over.
pub(crate) fn run(socket: OwnedFd) -> i32 {
    match Server::new(socket.as_fd()) {
        Ok(server) => server.serve(socket),
        Err(failure) => {
            // Whoever started us reads it, or is gone.
            let _ = handshake::send(socket.as_fd(), &Greeting::Failed(failure), &[]);
            1
        }
    }
}

pub(crate) struct Server {
    pub setup: Setup,
    pub ground: Ground,
    pub cgroups: Cgroups,
    shares: Shares,
    pub standing: Standing,
    time: Time,
    pub owners: Owners,
    pub filters: HashMap<Filter, Vec<Instruction>>,
    init_filter: Vec<Instruction>,
    pub warm: VecDeque<Slot>,
    running: Vec<Sandbox>,
    /// What is to be prepared when there is time for it.
    wanted: VecDeque<Wanted>,
    /// Dead or dying, answered already.
    pub closing: Vec<Slot>,
    emptying: Vec<Group>,
    pub helpers: Vec<(Pid, OwnedFd)>,
    /// What counted directories hold.
    pub known: Known,
    /// `None` where the caller clears up.
    warden: Option<warden::Warden>,
}

/// A sandbox that somebody wants prepared.
struct Wanted {
    /// Where its program comes, or the end of the wish.
    answer: OwnedFd,
    spec: OwnedFd,
    open: bool,
}

impl Server {
    fn new(socket: BorrowedFd<'_>) -> Result<Self, Failure> {
        let setup: Setup = match handshake::receive(socket) {
            Ok((setup, _)) => setup,
            Err(_) => return Err(Failure::rule(Stage::Start, "no setup came")),
        };
        // A session of its own: what a terminal sends to its foreground group is the caller's to deal with, and a launcher that
        // dies of Ctrl-C takes steps with it that have a right to end in stages.
        nix::unistd::setsid().map_err(|errno| Failure::new(Stage::Start, "session", errno))?;
        // Before any sandbox exists: none of them may be traced or read through its init, whose memory is a copy of ours.
        nix::sys::prctl::set_dumpable(false).map_err(|errno| Failure::new(Stage::Start, "dumpable", errno))?;
        sys::close_on_exec_from(3).map_err(|errno| Failure::new(Stage::Start, "descriptors", errno))?;
        let ground = Ground::new()?;
        let mut cgroups = Cgroups::new(&setup.cgroup);
        let warden = setup.warden.then(|| warden::Warden::new(cgroups.directories())).transpose()?;
        let time = if std::fs::exists("/proc/self/ns/time").unwrap_or(false) { Time::Own } else { Time::Shared };
        let standing = standing(&setup, &cgroups, time);
        let init_filter = seccomp::init();
        // The first sandbox is the proof that this host can make one at all.
        let mut shares = Shares::new(setup.mode, setup.ids);
        let first = Slot::new(&mut cgroups, &mut shares, &ground, time, &init_filter)?;
        handshake::send(socket, &Greeting::Ready(standing.clone()), &[]).map_err(|errno| Failure::new(Stage::Start, "greeting", errno))?;
        // While whoever waited for that writes its first request.
        let filters = seccomp::compile(&Filter::default()).map(|filter| HashMap::from([(Filter::default(), filter)])).unwrap_or_default();
        Ok(Self {
            setup,
            ground,
            cgroups,
            shares,
            standing,
            time,
            owners: Owners::default(),
            filters,
            init_filter,
            warm: VecDeque::from([first]),
            running: Vec::new(),
            wanted: VecDeque::new(),
            closing: Vec::new(),
            emptying: Vec::new(),
            helpers: Vec::new(),
            known: Known::default(),
            warden,
        })
    }

    /// Until the callers are gone and everything is dead and removed.
    fn serve(mut self, socket: OwnedFd) -> i32 {
        let mut open = true;
        loop {
            if open {
                while self.prepare(&socket) || self.refill(&socket) {}
            } else if self.running.is_empty() && self.closing.is_empty() && self.emptying.is_empty() && self.helpers.is_empty() {
                break;
            }
            self.wait(open.then_some(&socket));
            let now = Instant::now();
            if open && !self.requests(&socket) {
                open = false;
                self.wanted.clear();
                self.closing.extend(self.warm.drain(..));
                self.closing.iter().for_each(Slot::kill);
                for sandbox in &mut self.running {
                    sandbox.stop(Cause::Killed);
                    sandbox.stirred = true;
                }
            }
            self.overtaken();
            self.advance(now);
            self.bury();
            if open && self.warden.as_ref().is_some_and(warden::Warden::is_dead) {
                self.replace_warden();
            }
        }
        self.cgroups.remove();
        if let Some(warden) = self.warden {
            warden.dismiss();
        }
        0
    }

    /// Whether there is time for what nobody waits for.
    fn idle(&self, socket: &OwnedFd) -> bool {
        // Not while another is being built: both would wait for the same locks of the kernel.
        let now = Instant::now();
        let busy = self.running.iter().any(|sandbox| sandbox.is_building() || sandbox.hurried_until().is_some_and(|until| until > now));
        !busy && poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO) == Ok(0)
    }

    /// Prepares one sandbox when there is time; whether it did.
    fn prepare(&mut self, socket: &OwnedFd) -> bool {
        if self.wanted.is_empty() || !self.idle(socket) {
            return false;
        }
        let Some(Wanted { answer, spec, open }) = self.wanted.pop_front() else { return false };
        match self.begin(spec, Purpose::Wait { open }, Instant::now()) {
            Ok(next) => self.running.push(next.with(answer)),
            // Why it failed is found out again by the launch that follows, and told then.
            Err(_) => drop(handshake::send_now(answer.as_fd(), &Answer::Spoiled, &[])),
        }
        true
    }

    /// What is wanted now has its program already, or nobody wants it any more.
    fn overtaken(&mut self) {
        let mut waiting = VecDeque::with_capacity(self.wanted.len());
        for wanted in std::mem::take(&mut self.wanted) {
            match handshake::receive_now::<Control>(wanted.answer.as_fd()) {
                // All that a launch needs is here, so nobody has to send it again; but for secrets, whose mount is another's work.
                Ok((Control::Go { wall_clock, files, secrets: false }, descriptors)) => {
                    let mut descriptors = descriptors.into_iter();
                    let given: Result<[OwnedFd; 4], _> = descriptors.by_ref().take(4).collect::<Vec<_>>().try_into();
                    let files = if files { descriptors.next() } else { None };
                    let launched = match given {
                        Ok(given) => self.begin(wanted.spec, Purpose::Run { given, files }, Instant::now()),
                        Err(_) => Err(Failure::rule(Stage::Request, "a program needs four descriptors").into()),
                    };
                    match launched {
                        Ok(next) => self.running.push(next.within(wall_clock).with(wanted.answer)),
                        Err(error) => drop(handshake::send_now(wanted.answer.as_fd(), &Answer::NotLaunched(error), &[])),
                    }
                }
                Ok((Control::Go { .. }, _)) => drop(handshake::send_now(wanted.answer.as_fd(), &Answer::Spoiled, &[])),
                Ok(_) | Err(ReceiveError::Call(Errno::EAGAIN)) => waiting.push_back(wanted),
                Err(_) => {}
            }
        }
        self.wanted = waiting;
    }

    /// Makes one slot ahead when nothing else is to be done; whether it did.
    fn refill(&mut self, socket: &OwnedFd) -> bool {
        if self.warm.len() >= self.setup.warm || !self.idle(socket) {
            return false;
        }
        // A failure here shows at the next launch, which makes its own slot and reports.
        let made = self.new_slot();
        let whether = made.is_ok();
        self.warm.extend(made);
        whether
    }

    /// Makes a slot.
    pub(crate) fn new_slot(&mut self) -> Result<Slot, Failure> {
        let slot = Slot::new(&mut self.cgroups, &mut self.shares, &self.ground, self.time, &self.init_filter)?;
        Ok(if self.warden.is_some() { slot.hold_mounts() } else { slot })
    }

    /// Blocks until something can be done, and marks the sandboxes that something has happened to.
    fn wait(&mut self, socket: Option<&OwnedFd>) {
        let input = |fd| (fd, PollFlags::POLLIN);
        let mut watched: Vec<(BorrowedFd<'_>, PollFlags)> = Vec::new();
        watched.extend(socket.map(AsFd::as_fd).map(input));
        let first = watched.len();
        let mut ends = Vec::with_capacity(self.running.len());
        for sandbox in &self.running {
            watched.extend(sandbox.watched());
            ends.push(watched.len());
        }
        watched.extend(self.warden.iter().map(|warden| input(warden.watched())));
        watched.extend(self.wanted.iter().map(|wanted| input(wanted.answer.as_fd())));
        watched.extend(self.closing.iter().chain(&self.warm).map(|slot| input(slot.pidfd.as_fd())));
        watched.extend(self.helpers.iter().map(|(_, pidfd)| input(pidfd.as_fd())));
        let mut waits: Vec<PollFd<'_>> = watched.into_iter().map(|(fd, flags)| PollFd::new(fd, flags)).collect();
        let now = Instant::now();
        let refill = self.running.iter().filter_map(Sandbox::hurried_until).filter(|until| *until > now).max();
        let refill = if self.warm.len() < self.setup.warm || !self.wanted.is_empty() { refill } else { None };
        let mut next = self.running.iter().filter_map(Sandbox::next).chain(refill).min();
        if !self.emptying.is_empty() {
            let retry = now + RETRY;
            next = Some(next.map_or(retry, |next| next.min(retry)));
        }
        let timeout = match next {
            None => PollTimeout::NONE,
            // Rounded up, or the loop would spin through the last millisecond.
            Some(next) => {
                let left = next.saturating_duration_since(now).as_micros().div_ceil(1000).min(3_600_000);
                PollTimeout::from(u16::try_from(left).unwrap_or(u16::MAX))
            }
        };
        let count = poll(&mut waits, timeout);
        let mut begin = first;
        let mut stirred = Vec::with_capacity(ends.len());
        for end in ends {
            // EINTR and errors alike: everything is looked at again.
            stirred.push(count.is_err() || waits[begin..end].iter().any(|wait| wait.any() != Some(false)));
            begin = end;
        }
        for (sandbox, stirred) in self.running.iter_mut().zip(stirred) {
            sandbox.stirred |= stirred;
        }
    }

    /// Takes all requests that are there; `false` when the callers are gone.
    fn requests(&mut self, socket: &OwnedFd) -> bool {
        loop {
            match handshake::receive_now::<Request>(socket.as_fd()) {
                Ok((request, descriptors)) => self.request(request, descriptors),
                Err(ReceiveError::Call(Errno::EAGAIN)) => return true,
                // Its descriptors are closed, so that the sender sees the end of file.
                Err(ReceiveError::Malformed) => {}
                Err(ReceiveError::Closed | ReceiveError::Call(_)) => return false,
            }
        }
    }

    fn request(&mut self, request: Request, descriptors: Vec<OwnedFd>) {
        let arrived = Instant::now();
        let mut descriptors = descriptors.into_iter();
        let Some(answer) = descriptors.next() else { return };
        match request {
            Request::Launch => {
                let given: Result<[OwnedFd; 5], _> = descriptors.by_ref().take(5).collect::<Vec<_>>().try_into();
                let launched = match given {
                    Ok([spec, given @ ..]) => self.begin(spec, Purpose::Run { given, files: descriptors.next() }, arrived),
                    Err(_) => Err(Failure::rule(Stage::Request, "a launch needs five descriptors").into()),
                };
                match launched {
                    Ok(build) => self.running.push(build.with(answer)),
                    Err(error) => {
                        // A caller that does not wait for its answer has no use for it.
                        let _ = handshake::send_now(answer.as_fd(), &Answer::NotLaunched(error), &[]);
                    }
                }
            }
            Request::Prepare { open } => self.wanted.extend(descriptors.next().map(|spec| Wanted { answer, spec, open })),
            Request::CreateArea { path, directories, ids } => {
                let (mode, default) = (self.standing.mode, self.setup.ids);
                self.known.insert(path.clone(), Remembered::empty(arrived));
                // A few directories: less work than a process for them.
                let result = area::create(&path, &directories, mode, default, ids).map_err(Into::into);
                let _ = handshake::send_now(answer.as_fd(), &Answer::Area(result), &[]);
            }
            Request::RemoveArea { path } => {
                // Beside it lies what is counted with it and goes with it.
                self.known.retain(|known, _| *known != path && known.parent() != path.parent());
                match area::remove_small(&path) {
                    Ok(true) => drop(handshake::send_now(answer.as_fd(), &Answer::Area(Ok(())), &[])),
                    // What went wrong is found again, and told.
                    Ok(false) | Err(_) => self.help(&answer, || area::remove(&path)),
                }
            }
            Request::Look { init } => {
                // Without one the asker sees the end of file, and goes without.
                let found = self.running.iter().find(|sandbox| sandbox.slot.pid.as_raw() == init && sandbox.dead.is_none());
                let looking =
                    found.map(|sandbox| netns::within(&sandbox.slot.network, || onlooker::fork(answer.as_fd(), sandbox.slot.pid, None)));
                self.helpers.extend(looking.and_then(Result::ok));
            }
        }
    }

    /// Does what may take long in a process of its own.
    fn help(&mut self, answer: &OwnedFd, act: impl FnOnce() -> Result<(), Failure>) {
        let forked = sys::fork().and_then(|forked| match forked {
            Forked::Child => {
                let result = act().map_err(Into::into);
                let sent = handshake::send(answer.as_fd(), &Answer::Area(result), &[]);
                sys::exit_now(i32::from(sent.is_err()))
            }
            Forked::Parent(pid) => Ok((pid, sys::pidfd_open(pid)?)),
        });
        match forked {
            Ok(helper) => self.helpers.push(helper),
            Err(errno) => {
                let failure = Failure::new(Stage::Area, "fork", errno);
                let _ = handshake::send_now(answer.as_fd(), &Answer::Area(Err(failure.into())), &[]);
            }
        }
    }

    /// Moves every sandbox on as far as it goes.
    fn advance(&mut self, now: Instant) {
        let mut kept = Vec::with_capacity(self.running.len());
        for mut sandbox in std::mem::take(&mut self.running) {
            // Looking costs several calls each, and most loops are about one of them.
            if !std::mem::take(&mut sandbox.stirred) && sandbox.next().is_none_or(|next| next > now) {
                kept.push(sandbox);
                continue;
            }
            sandbox.advance(now, &mut self.known);
            self.helpers.extend(sandbox.be_warned(now));
            self.helpers.extend(sandbox.be_watched());
            match sandbox.phase {
                Phase::Dead => self.let_go(sandbox.slot),
                _ => kept.push(sandbox),
            }
        }
        self.running = kept;
    }

    /// Has what is left of a dead sandbox taken down.
    fn let_go(&mut self, slot: Slot) {
        let Slot { group, network, mounts, .. } = slot;
        let rest: Vec<BorrowedFd<'_>> = mounts.iter().chain([&network]).map(AsFd::as_fd).collect();
        if !self.warden.as_ref().is_some_and(|warden| warden.bury(group.paths(), &rest)) {
            self.emptying.push(group);
        }
    }

    /// Starts another warden. What the dead one was about to remove is removed; what sandboxes still need is not.
    fn replace_warden(&mut self) {
        let slots = self.running.iter().map(|sandbox| &sandbox.slot).chain(&self.closing).chain(&self.warm);
        let living = slots.map(|slot| &slot.group).chain(&self.emptying).flat_map(Group::paths).collect();
        self.warden = self.warden.take().and_then(|dead| dead.replace(self.cgroups.directories(), &living));
    }

    /// Reaps what is dead without an outcome, and removes emptied groups.
    fn bury(&mut self) {
        let mut kept = Vec::new();
        for slot in std::mem::take(&mut self.closing) {
            match sys::reap(Some(slot.pid)) {
                Ok(None) => kept.push(slot),
                Ok(Some(_)) | Err(_) => self.let_go(slot),
            }
        }
        self.closing = kept;
        let (dead, alive): (Vec<_>, Vec<_>) = self.warm.drain(..).partition(Slot::is_dead);
        self.warm = alive.into();
        self.closing.extend(dead);
        self.helpers.retain(|(pid, _)| matches!(sys::reap(Some(*pid)), Ok(None)));
        self.emptying.retain_mut(|group| !group.remove());
    }
}

/// What this launcher can enforce, found out once.
fn standing(setup: &Setup, cgroups: &Cgroups, time: Time) -> Standing {
    let mut missing = Vec::new();
    let mut lack = |protection, reason: &str| missing.push(Missing { protection, reason: reason.to_owned() });
    if time == Time::Shared {
        lack(Protection::TimeNamespace, "this kernel has none (Linux 5.6)");
    }
    if setup.mode != Mode::Root {
        lack(Protection::IdRange, "a range of host ids of its own per job needs root; all sandboxes of this user share ids");
    }
    match sys::landlock_version() {
        Ok(version) if version >= 6 => {}
        Ok(_) => lack(Protection::Landlock, "this kernel's Landlock has no scopes (ABI 6, Linux 6.12)"),
        Err(_) => lack(Protection::Landlock, "Landlock is not enabled (boot with `lsm=landlock,...`)"),
    }
    for lacking in &cgroups.missing {
        // Without a pids cgroup the sandbox's own user namespace counts (RLIMIT_NPROC, per namespace since 5.14).
        if lacking.protection != Protection::PidsLimit {
            lack(lacking.protection, &lacking.reason);
        }
    }
    let enforceable =
        Protection::ALL.into_iter().filter(|protection| !missing.iter().any(|missing| missing.protection == *protection)).collect();
    Standing { mode: setup.mode, cgroup: cgroups.layout, enforceable, missing }
}
