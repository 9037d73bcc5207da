//! What must hold at every step: P1 to P6 of the contract, and that nothing is answered that a crash can take back.

use std::collections::{BTreeMap, BTreeSet};

use caisson_model::id::{AttemptId, Fence, Hold, JobId, RunId, StepIndex};

use crate::core::engine::Engine;
use crate::core::job::Life;
use crate::core::record::{Mark, Record};

/// A log as the controller has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Log {
    pub(super) kept: u64,
    pub(super) sealed: bool,
    pub(super) gap: bool,
}

/// What was seen so far, by somebody who forgets nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Promises {
    ended: BTreeMap<JobId, Option<Hold>>,
    newest: BTreeMap<JobId, Fence>,
    leased: BTreeSet<AttemptId>,
    opened: BTreeSet<(AttemptId, StepIndex)>,
    steps: BTreeSet<(AttemptId, StepIndex)>,
    over: BTreeSet<AttemptId>,
    /// Completions that an agent was told are recorded.
    told: BTreeMap<JobId, Hold>,
    submitted: BTreeSet<RunId>,
    pub(super) logs: BTreeMap<(AttemptId, StepIndex), Log>,
    waiting: BTreeMap<JobId, u64>,
}

impl Promises {
    /// A record became durable.
    pub(super) fn durable(&mut self, record: &Record) {
        match record {
            Record::Leased { hold, .. } => {
                assert!(self.leased.insert(hold.attempt), "P1: attempt {} was leased twice", hold.attempt);
                let before = self.newest.insert(hold.attempt.job, hold.fence);
                assert!(before.is_none_or(|before| before < hold.fence), "P1: the fence of {} went back", hold.attempt);
                assert!(!self.ended.contains_key(&hold.attempt.job), "P1: an ended job was leased");
            }
            Record::Ended { job, hold, .. } => {
                assert!(self.ended.insert(*job, *hold).is_none(), "P1: job {job} has two results");
                if let Some(hold) = hold {
                    assert_eq!(self.newest.get(job), Some(&hold.fence), "P1: a stale attempt ended job {job}");
                    self.over.insert(hold.attempt);
                }
            }
            Record::Released { attempt, .. } => drop(self.over.insert(*attempt)),
            Record::SecretsOpened { attempt, step } => {
                assert!(self.opened.insert((*attempt, *step)), "P5: the secrets of {attempt} were opened twice");
            }
            Record::Reported { attempt, step, mark, .. } if *mark != Mark::Remark => drop(self.steps.insert((*attempt, *step))),
            _ => {}
        }
    }

    /// An agent was told that its completion is the job's result.
    pub(super) fn told(&mut self, hold: Hold) {
        if let Some(before) = self.told.insert(hold.attempt.job, hold) {
            assert_eq!(before, hold, "P1: two attempts were told that they are the result of {}", hold.attempt.job);
        }
        assert_eq!(self.ended.get(&hold.attempt.job), Some(&Some(hold)), "P1: an answer left before it was durable");
    }

    /// Secrets reached an agent.
    pub(super) fn secrets(&self, hold: Hold, step: StepIndex, engine: &Engine) {
        assert!(engine.lease(hold).is_ok(), "P5: secrets for {} went to somebody who does not hold it", hold.attempt);
        assert!(self.opened.contains(&(hold.attempt, step)), "P5: secrets left before it was durable that they did");
    }

    /// A client was told that its run is taken.
    pub(super) fn submitted(&mut self, run: RunId) {
        self.submitted.insert(run);
    }

    /// After a crash: what was told before is still so.
    pub(super) fn recovered(&self, engine: &Engine) {
        let ended = engine.state().runs.values().flat_map(|run| &run.jobs).filter(|job| job.life.end().is_some()).count();
        assert!(ended >= self.told.len(), "P1: a result that was told is lost");
        for (job, hold) in &self.told {
            let end = engine.state().job(*job).and_then(|job| job.life.end()).and_then(|end| end.hold);
            assert_eq!(end, Some(*hold), "P1: the result of {job} is another one after a crash");
        }
        for run in &self.submitted {
            assert!(engine.state().runs.contains_key(run), "P1: run {run} was taken and is lost");
        }
        for (attempt, step) in &self.opened {
            let lease = engine.state().job(attempt.job).and_then(|job| job.life.lease());
            let lease = lease.filter(|lease| lease.hold.attempt == *attempt);
            assert!(lease.is_none_or(|lease| lease.opened.contains(step)), "P5: it is forgotten that {attempt} has its secrets");
        }
    }

    /// At every step.
    pub(super) fn check(&mut self, engine: &Engine, now: u64, calm: Option<u64>, slots: usize) {
        assert_eq!(engine.broken(), None);
        let mut waiting = BTreeMap::new();
        let idle = engine.agents().iter().any(|(_, agent)| agent.free() > 0);
        let mut held: BTreeMap<&str, usize> = BTreeMap::new();
        for job in engine.state().runs.values().flat_map(|run| &run.jobs) {
            match &job.life {
                Life::Offered { deadline, .. } => assert!(deadline.0 >= now, "P4: the offer of {} outlived its deadline", job.id),
                Life::Queued { .. } if idle && calm.is_some() && engine.is_in_line(job.id) => {
                    let since = self.waiting.get(&job.id).copied().unwrap_or(now);
                    let most = 2 * engine.timing().offer.as_millis() as u64;
                    assert!(now - since <= most, "P6: {} waits since {since} although an agent is idle", job.id);
                    waiting.insert(job.id, since);
                }
                _ => {}
            }
            if let Some(holder) = job.life.holder() {
                *held.entry(holder.0.as_str()).or_default() += 1;
            }
        }
        assert!(held.values().all(|held| *held <= slots), "an agent holds more than it has slots for");
        self.waiting = waiting;
    }

    /// When everything has ended.
    pub(super) fn at_the_end(&self) {
        for (attempt, step) in &self.steps {
            let log = self.logs.get(&(*attempt, *step)).copied().unwrap_or_default();
            // A step that wrote nothing has no log.
            assert!(log.sealed || log.gap || log.kept == 0, "P2: the log of step {} of {attempt} has no end", step.0);
        }
        for ((attempt, step), log) in &self.logs {
            assert!(log.sealed || log.gap || !self.over.contains(attempt), "P2: the log of step {} of {attempt} has no end", step.0);
        }
        assert!(!self.ended.is_empty());
    }
}
