//! One sandbox as the launcher sees it, from the order to build until its outcome is told.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::eventfd::EventFd;

use crate::error::{Failure, LaunchError, Stage};
use crate::handshake::{self, Answer, Control, Order, ReceiveError, Report};
use crate::outcome::{Cause, Outcome, Status, Timing, Usage};
use crate::protection::{Missing, Protection};
use crate::slot::Slot;
use crate::spec::Limits;
use crate::sys;

/// A sandbox that has its orders but nobody to tell yet.
pub(crate) struct Next {
    pub slot: Slot,
    pub oom: Option<EventFd>,
    pub limits: Limits,
    pub enforced: Vec<Protection>,
    pub missing: Vec<Missing>,
    pub arrived: Instant,
}

impl Next {
    /// The sandbox, with the socket to answer on.
    pub(crate) fn with(self, answer: OwnedFd) -> Sandbox {
        Sandbox {
            slot: self.slot,
            answer: Some(answer),
            oom: self.oom,
            limits: self.limits,
            enforced: self.enforced,
            missing: self.missing,
            arrived: self.arrived,
            phase: Phase::Building { failure: None },
            deadline: None,
            cause: None,
            reports: true,
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
    oom: Option<EventFd>,
    limits: Limits,
    enforced: Vec<Protection>,
    missing: Vec<Missing>,
    arrived: Instant,
    pub phase: Phase,
    /// When it is to be killed.
    pub deadline: Option<Instant>,
    cause: Option<Cause>,
    /// Whether init can still say something.
    reports: bool,
}

impl Sandbox {
    /// The descriptors that can make it move.
    pub(crate) fn watched(&self) -> Vec<BorrowedFd<'_>> {
        let mut watched = vec![self.slot.pidfd.as_fd()];
        if self.reports {
            watched.push(self.slot.socket.as_fd());
        }
        watched.extend(self.answer.as_ref().map(AsFd::as_fd));
        watched.extend(self.oom.as_ref().map(AsFd::as_fd));
        watched
    }

    /// Kills all of it; the first cause stays.
    pub(crate) fn stop(&mut self, cause: Cause) {
        if !matches!(self.phase, Phase::Ended { .. } | Phase::Dead) {
            self.cause.get_or_insert(cause);
        }
        self.deadline = None;
        self.slot.kill();
    }

    /// Does everything that can be done now.
    pub(crate) fn advance(&mut self, now: Instant) {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            let limit = self.limits.wall_clock.unwrap_or_default();
            self.stop(Cause::WallClock { limit });
        }
        if self.oom.as_ref().is_some_and(|oom| oom.read().is_ok()) {
            // The kernel's killer takes one process; what is left of a step after that proves nothing.
            self.oom = None;
            let cause = self.out_of_memory();
            self.stop(cause);
        }
        self.control();
        self.reports();
        if let Ok(Some(dead)) = sys::reap(Some(self.slot.pid)) {
            // What init said last is still in its socket.
            self.reports();
            self.finish(&dead);
        }
    }

    fn out_of_memory(&self) -> Cause {
        let limit = self.limits.memory.unwrap_or(0);
        Cause::OutOfMemory { limit, peak: self.slot.group.counts().peak_memory.unwrap_or(limit) }
    }

    /// What the caller wants.
    fn control(&mut self) {
        loop {
            let Some(answer) = &self.answer else { return };
            match handshake::receive_now::<Control>(answer.as_fd()) {
                Ok((Control::Signal(signal), _)) => {
                    // A full queue means that init has many signals to send already.
                    let _ = handshake::send_now(self.slot.socket.as_fd(), &Order::Signal(signal), &[]);
                }
                Ok((Control::Kill, _)) => self.stop(Cause::Killed),
                Err(ReceiveError::Call(Errno::EAGAIN)) => return,
                Err(_) => {
                    self.answer = None;
                    self.stop(Cause::Killed);
                }
            }
        }
    }

    /// What init says.
    fn reports(&mut self) {
        while self.reports {
            match handshake::receive_now::<Report>(self.slot.socket.as_fd()) {
                Ok((Report::Warm { missing }, _)) => self.note(missing),
                Ok((Report::Running { missing }, listeners)) => {
                    self.note(missing);
                    let now = Instant::now();
                    if let Phase::Building { .. } = self.phase {
                        self.phase = Phase::Running { build: now - self.arrived, since: now };
                        self.deadline = self.limits.wall_clock.map(|limit| now + limit);
                        let listeners: Vec<BorrowedFd<'_>> = listeners.iter().map(AsFd::as_fd).collect();
                        self.tell(&Answer::Started, &listeners);
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
        let outcome = Outcome {
            status,
            cause: self.cause.take(),
            usage: Usage {
                wall,
                user: dead.user,
                system: dead.system,
                peak_memory: counts.peak_memory.unwrap_or(dead.max_rss),
                peak_pids: counts.peak_pids.unwrap_or(0),
            },
            timing: Timing { build, teardown },
            enforced: std::mem::take(&mut self.enforced),
            missing: std::mem::take(&mut self.missing),
        };
        self.tell(&Answer::Done(outcome), &[]);
    }
}
