//! One sandbox as the launcher sees it, from the order to build until its outcome is told.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::unistd::Pid;

use crate::disk::{Known, Watch};
use crate::error::{Failure, LaunchError, Stage};
use crate::handshake::{self, Answer, Control, Go, Order, ReceiveError, Report};
use crate::host::Mode;
use crate::notices::{Notices, Shortage};
use crate::outcome::{Cause, Outcome, Status, Timing, Usage};
use crate::protection::{Missing, Protection};
use crate::refused::Refused;
use crate::slot::Slot;
use crate::sockets::Opening;
use crate::sources;
use crate::spec::{Identity, Limits, SecretFile};
use crate::sys;
use crate::ticks::Spent;
use crate::userns::IdMap;
use crate::victim::Watcher;
use crate::vigil::{Turn, Vigil};

/// How long a step runs before it is worth the price of being warned when its memory gets short.
const SETTLED: Duration = Duration::from_millis(20);

/// How long most short steps run. One that is younger may end at any moment, and somebody waits to hear of it.
const YOUNG: Duration = Duration::from_millis(3);

/// What is to become of a sandbox once it is built.
pub(crate) enum Purpose {
    /// It runs this at once.
    Run {
        /// Program, stdin, stdout, stderr.
        given: [OwnedFd; 4],
        /// The files that come with it, if there are any.
        files: Option<OwnedFd>,
    },
    /// It waits for its program, with which files and secrets may come if it is `open`.
    Wait { open: bool },
}

/// A sandbox that has its orders but nobody to tell yet.
pub(crate) struct Next {
    pub slot: Slot,
    pub memory: Option<Notices>,
    pub disk: Watch,
    pub refused: Option<Refused>,
    pub limits: Limits,
    pub enforced: Vec<Protection>,
    pub missing: Vec<Missing>,
    pub sockets: Vec<(Opening, OwnedFd)>,
    pub vigil: Option<Vigil>,
    pub arrived: Instant,
    pub awaited: Option<Awaited>,
}

/// What a sandbox needs to take its program when it is built already.
pub(crate) struct Awaited {
    /// Whether files and secrets may come with it.
    pub open: bool,
    pub mode: Mode,
    pub map: IdMap,
    pub identity: Identity,
    /// What of the host it can write.
    pub written: Vec<PathBuf>,
    /// Its memory file systems so far.
    pub memory: Vec<OwnedFd>,
    /// Where the process that becomes the step waits, once it does.
    pub line: Option<OwnedFd>,
    pub built: bool,
}

/// Sets how long a program may take that came after its sandbox; whether that is a limit.
fn give_time(limits: &mut Limits, wall_clock: Option<Duration>) -> bool {
    limits.wall_clock = wall_clock;
    wall_clock.is_some()
}

impl Next {
    /// Gives its program so much time.
    pub(crate) fn within(mut self, wall_clock: Option<Duration>) -> Self {
        if give_time(&mut self.limits, wall_clock) {
            self.enforced.push(Protection::WallClock);
        }
        self
    }

    /// The sandbox, with the socket to answer on.
    pub(crate) fn with(self, answer: OwnedFd) -> Sandbox {
        Sandbox {
            slot: self.slot,
            answer: Some(answer),
            memory: self.memory,
            disk: self.disk,
            refused: self.refused,
            victims: Watcher::default(),
            dead: None,
            limits: self.limits,
            enforced: self.enforced,
            missing: self.missing,
            sockets: self.sockets,
            vigil: self.vigil,
            arrived: self.arrived,
            awaited: self.awaited,
            spoiled: false,
            phase: Phase::Building { failure: None },
            deadline: None,
            cause: None,
            unwaited: None,
            reports: true,
            stirred: true,
        }
    }
}

/// Where a sandbox is in its life.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Init builds; what it said if it failed.
    Building { failure: Option<Failure> },
    /// The step runs.
    Running { build: Duration, since: Instant },
    /// The step's own process ended; the rest is dying.
    Ended { build: Duration, status: Status, wall: Duration, at: Instant },
    /// Everything is dead and told.
    Dead,
}

/// One sandbox.
pub(crate) struct Sandbox {
    pub slot: Slot,
    /// `None` when the caller is gone.
    answer: Option<OwnedFd>,
    memory: Option<Notices>,
    disk: Watch,
    refused: Option<Refused>,
    victims: Watcher,
    /// Init as it was reaped, while something is still to be found out.
    pub dead: Option<sys::Reaped>,
    limits: Limits,
    enforced: Vec<Protection>,
    missing: Vec<Missing>,
    sockets: Vec<(Opening, OwnedFd)>,
    /// Until the first connection or question.
    vigil: Option<Vigil>,
    arrived: Instant,
    /// While it has no program.
    awaited: Option<Awaited>,
    /// Whether the program came too late for it.
    spoiled: bool,
    pub phase: Phase,
    /// When it is to be killed.
    pub deadline: Option<Instant>,
    cause: Option<Cause>,
    /// What its processes had spent when they were killed together.
    unwaited: Option<Spent>,
    /// Whether init can still say something.
    reports: bool,
    /// Whether something has happened that it has not looked at. A new one has all before it.
    pub stirred: bool,
}

impl Sandbox {
    /// The descriptors that can make it move.
    pub(crate) fn watched(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let mut watched = Vec::new();
        let input = |fd| (fd, PollFlags::POLLIN);
        watched.extend(self.disk.walking().map(input));
        watched.extend(self.answer.as_ref().map(AsFd::as_fd).map(input));
        if self.dead.is_none() {
            watched.push(input(self.slot.pidfd.as_fd()));
            watched.extend(self.reports.then(|| input(self.slot.socket.as_fd())));
            watched.extend(self.refused.iter().filter_map(Refused::watched).map(input));
            watched.extend(self.memory.iter().flat_map(Notices::watched));
            watched.extend(self.vigil.iter().flat_map(Vigil::watched).map(input));
        }
        watched
    }

    /// When to look again, whatever the descriptors say.
    pub(crate) fn next(&self) -> Option<Instant> {
        match self.phase {
            Phase::Running { since, .. } if self.dead.is_none() => {
                let settled = self.memory.as_ref().is_some_and(|notices| !notices.warns()).then_some(since + SETTLED);
                self.deadline.into_iter().chain(self.disk.next()).chain(settled).min()
            }
            _ => self.deadline,
        }
    }

    /// Whether init is at work and wants no other at its side.
    pub(crate) fn is_building(&self) -> bool {
        matches!(self.phase, Phase::Building { .. }) && self.awaited.as_ref().is_none_or(|awaited| !awaited.built)
    }

    /// Until when the launcher had better begin nothing that takes long.
    pub(crate) fn hurried_until(&self) -> Option<Instant> {
        match self.phase {
            Phase::Running { since, .. } => Some(since + YOUNG),
            Phase::Ended { at, .. } => Some(at + YOUNG),
            Phase::Building { .. } | Phase::Dead => None,
        }
    }

    /// Has itself warned when memory gets short, once it has run for a while; the process that sees to it.
    pub(crate) fn be_warned(&mut self, now: Instant) -> Option<(Pid, OwnedFd)> {
        let (Phase::Running { since, .. }, Some(notices), Some(limit)) = (&self.phase, &mut self.memory, self.limits.memory) else {
            return None;
        };
        if notices.warns() || now < *since + SETTLED {
            return None;
        }
        // Until the warning can come, this look is what there is. Without it a message may not know who was killed.
        self.victims.look(&self.slot.group.processes());
        self.slot.group.warn(notices, limit).ok().flatten()
    }

    /// Has its connections looked at as soon as there is one; the process that does.
    pub(crate) fn be_watched(&mut self) -> Option<(Pid, OwnedFd)> {
        match self.vigil.as_ref()?.turn() {
            Turn::Quiet => None,
            Turn::Over => {
                self.vigil = None;
                None
            }
            // One that cannot be forked leaves nobody who looks: then packets pass.
            Turn::Begun => self.vigil.take()?.look(&self.slot.network, self.slot.pid).ok(),
        }
    }

    /// Kills all of it; the first cause stays.
    pub(crate) fn stop(&mut self, cause: Cause) {
        if !matches!(self.phase, Phase::Ended { .. } | Phase::Dead) {
            self.cause.get_or_insert(cause);
            // The last moment at which it can be seen.
            self.unwaited.get_or_insert_with(|| self.slot.group.unwaited(self.slot.pid));
        }
        self.deadline = None;
        self.slot.kill();
    }

    /// Does everything that can be done now.
    pub(crate) fn advance(&mut self, now: Instant, known: &mut Known) {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            let limit = self.limits.wall_clock.unwrap_or_default();
            self.stop(Cause::WallClock { limit });
        }
        match self.memory.as_ref().map_or(Shortage::None, Notices::take) {
            Shortage::None => {}
            Shortage::Short => self.victims.look(&self.slot.group.processes()),
            Shortage::Out => {
                // The kernel's killer takes one process; what is left of a step after that proves nothing.
                let cause = self.out_of_memory();
                self.memory = None;
                self.stop(cause);
            }
        }
        self.control(known, now);
        self.reports();
        if let Some(refused) = &mut self.refused {
            refused.answer();
        }
        if let Phase::Running { .. } = self.phase
            && let Some(cause) = self.disk.tick(self.slot.pid, now)
        {
            self.stop(cause);
        }
        if self.dead.is_none()
            && let Ok(Some(dead)) = sys::reap(Some(self.slot.pid))
        {
            // What init said last is still in its socket.
            self.reports();
            self.dead = Some(dead);
        }
        // A step that seems to have passed its limit, or that failed and stood at it, is worth another look.
        let failed = !matches!(self.phase, Phase::Ended { status: Status::Exited(0), .. });
        let built = !matches!(self.phase, Phase::Building { .. });
        if let Some(dead) = &self.dead
            && self.cause.is_none()
            && built
            && self.disk.last_look(self.slot.pid, now, failed, dead.written)
        {
            return;
        }
        if let Some(dead) = self.dead.take() {
            self.finish(&dead);
            self.disk.remember(known);
        }
    }

    fn out_of_memory(&self) -> Cause {
        let limit = self.limits.memory.unwrap_or(0);
        let victim = self.victims.victim(&self.slot.group.processes());
        Cause::OutOfMemory { limit, peak: self.slot.group.counts().peak_memory.unwrap_or(limit), victim }
    }

    /// What the caller wants.
    fn control(&mut self, known: &Known, now: Instant) {
        loop {
            let Some(answer) = &self.answer else { return };
            match handshake::receive_now::<Control>(answer.as_fd()) {
                Ok((Control::Signal(signal), _)) => {
                    // A full queue means that init has many signals to send already.
                    let _ = handshake::send_now(self.slot.socket.as_fd(), &Order::Signal(signal), &[]);
                }
                Ok((Control::Kill, _)) => self.stop(Cause::Killed),
                Ok((Control::Go { wall_clock, files, secrets }, descriptors)) => {
                    // One that is dead is left as it is: nobody took the program.
                    if self.slot.is_dead() {
                        continue;
                    }
                    let Some(awaited) = self.awaited.take() else { continue };
                    self.arrived = now;
                    if give_time(&mut self.limits, wall_clock) {
                        self.enforced.push(Protection::WallClock);
                    }
                    let gone = self.go(awaited, (files, secrets), descriptors, known, now);
                    if let (Err(failed), Phase::Building { failure }) = (&gone, &mut self.phase) {
                        failure.get_or_insert_with(|| failed.clone());
                    }
                    if gone.is_err() || self.spoiled {
                        self.slot.kill();
                    }
                }
                Err(ReceiveError::Call(Errno::EAGAIN)) => return,
                Err(_) => {
                    self.answer = None;
                    self.stop(Cause::Killed);
                }
            }
        }
    }

    /// Gives what is built its program.
    fn go(
        &mut self,
        awaited: Awaited,
        (files, secrets): (bool, bool),
        mut descriptors: Vec<OwnedFd>,
        known: &Known,
        now: Instant,
    ) -> Result<(), Failure> {
        let Awaited { open, mode, map, identity, written, memory, line, .. } = awaited;
        self.disk = Watch::new(&self.limits, &written, known, now)?;
        self.disk.add(memory);
        if !open && (files || secrets) {
            return Err(Failure::rule(Stage::Request, "neither files nor secrets were spoken of"));
        }
        // One that waits for nothing but its program has it straight; else init sees to what comes with it first.
        if let (Some(line), false, false) = (&line, files, secrets) {
            let out: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
            self.spoiled = handshake::send_now(line.as_fd(), &Go::Program, &out).is_err();
            return Ok(());
        }
        if secrets {
            let taken: Vec<SecretFile> =
                handshake::load(descriptors.pop().ok_or_else(|| Failure::rule(Stage::Request, "the secrets are missing"))?)?;
            let (tree, kept_out_of_swap) = sources::secrets(&taken, mode, map, identity)?;
            self.note(sources::swappable(kept_out_of_swap, &self.missing).into_iter().collect());
            descriptors.push(tree);
        }
        let out: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
        self.spoiled = handshake::send_now(self.slot.socket.as_fd(), &Order::Go { files, secrets }, &out).is_err();
        Ok(())
    }

    /// What init says.
    fn reports(&mut self) {
        while self.reports {
            match handshake::receive_now::<Report>(self.slot.socket.as_fd()) {
                Ok((Report::Warm { missing }, _)) => self.note(missing),
                Ok((Report::Built { waiting }, memory)) => {
                    let mut memory = memory.into_iter();
                    let line = if waiting { memory.next() } else { None };
                    match &mut self.awaited {
                        Some(awaited) => {
                            (awaited.line, awaited.built) = (line, true);
                            awaited.memory.extend(memory);
                            self.tell(&Answer::Built, &[]);
                        }
                        // It has its program already.
                        None => self.disk.add(memory.collect()),
                    }
                }
                Ok((Report::Running { refusals }, mut memory)) => {
                    if let (true, Some(refused)) = (refusals, &mut self.refused) {
                        refused.listen(memory.pop());
                    }
                    self.disk.add(memory);
                    let now = Instant::now();
                    // One that ran without a program was killed while it waited.
                    if let (Phase::Building { .. }, None) = (&self.phase, &self.awaited) {
                        self.phase = Phase::Running { build: now - self.arrived, since: now };
                        self.deadline = self.limits.wall_clock.map(|limit| now + limit);
                        // Handed over and closed here: they must not outlive the caller's.
                        let sockets = std::mem::take(&mut self.sockets);
                        let kinds = sockets.iter().map(|(kind, _)| *kind).collect();
                        let descriptors: Vec<BorrowedFd<'_>> = sockets.iter().map(|(_, socket)| socket.as_fd()).collect();
                        self.tell(&Answer::Started { init: self.slot.pid.as_raw(), sockets: kinds }, &descriptors);
                    }
                }
                Ok((Report::Failed(failed), _)) => {
                    if let Phase::Building { failure } = &mut self.phase {
                        *failure = Some(failed);
                    }
                }
                Ok((Report::Ended { status, wall }, _)) => {
                    if let Phase::Running { build, .. } = self.phase {
                        self.phase = Phase::Ended { build, status, wall, at: Instant::now() };
                    }
                }
                Err(ReceiveError::Call(Errno::EAGAIN)) => return,
                Err(_) => self.reports = false,
            }
        }
    }

    fn note(&mut self, missing: Vec<Missing>) {
        for missing in missing {
            self.enforced.retain(|protection| *protection != missing.protection);
            self.missing.push(missing);
        }
    }

    fn tell(&mut self, answer: &Answer, descriptors: &[BorrowedFd<'_>]) {
        if let Some(socket) = &self.answer
            && handshake::send_now(socket.as_fd(), answer, descriptors).is_err()
        {
            self.answer = None;
            self.slot.kill();
        }
    }

    /// Init is dead and so is all of it: tells how it went.
    fn finish(&mut self, dead: &sys::Reaped) {
        let counts = self.slot.group.counts();
        let now = Instant::now();
        let phase = std::mem::replace(&mut self.phase, Phase::Dead);
        let (build, status, wall, teardown) = match phase {
            _ if self.awaited.is_some() || self.spoiled => return self.tell(&Answer::Spoiled, &[]),
            Phase::Building { failure } => {
                let failure = failure.unwrap_or_else(|| {
                    let why = if counts.oom_kills > 0 {
                        "init was killed: the memory limit is too small to build the sandbox"
                    } else {
                        "init died while it built the sandbox"
                    };
                    Failure::rule(Stage::Release, why)
                });
                let error = LaunchError::Failed(failure);
                return self.tell(&Answer::NotLaunched(error), &[]);
            }
            Phase::Running { build, since } => {
                if self.cause.is_none() && counts.oom_kills == 0 {
                    self.cause = Some(Cause::InitLost);
                }
                (build, Status::Signaled(libc::SIGKILL), now - since, Duration::ZERO)
            }
            Phase::Ended { build, status, wall, at } => (build, status, wall, now - at),
            Phase::Dead => return,
        };
        if counts.oom_kills > 0 && self.cause.is_none() {
            self.cause = Some(self.out_of_memory());
        }
        if let (None, Some(limit), true) = (&self.cause, self.limits.pids, counts.refused_forks > 0)
            && status != Status::Exited(0)
        {
            self.cause = Some(Cause::Pids { limit, refused: counts.refused_forks });
        }
        if self.cause.is_none() {
            self.cause = self.disk.cause(status != Status::Exited(0));
        }
        let disk = self.disk.peak();
        let unwaited = self.unwaited.unwrap_or_default();
        let outcome = Outcome {
            status,
            cause: self.cause.take(),
            usage: Usage {
                wall,
                user: counts.user.unwrap_or(dead.user + unwaited.user),
                system: counts.system.unwrap_or(dead.system + unwaited.system),
                peak_memory: counts.peak_memory.unwrap_or(dead.max_rss),
                peak_pids: counts.peak_pids.unwrap_or(0),
                read_bytes: dead.read,
                written_bytes: dead.written,
                peak_disk: disk.bytes,
                peak_inodes: disk.inodes,
            },
            timing: Timing { build, teardown },
            enforced: std::mem::take(&mut self.enforced),
            missing: std::mem::take(&mut self.missing),
            refused: self.refused.as_ref().map(Refused::list).unwrap_or_default(),
        };
        self.tell(&Answer::Done(outcome), &[]);
    }
}
