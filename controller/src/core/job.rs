//! One job and its life. [`Job::enter`] is the only code that changes a life.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use caisson_model::id::{AgentName, Digest, Hold, JobId, JobKey, StepIndex};
use caisson_model::job::JobSpec;
use caisson_model::outcome::{Cause, Outcome};
use caisson_model::run::{JobState, JobView};
use caisson_model::time::Timestamp;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::core::record::Voice;
use crate::core::terms::Entered;

/// A job: one cell, or the placeholder of a group that waits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its identity.
    pub id: JobId,
    /// The group's key.
    pub key: JobKey,
    /// Its name for people.
    pub name: String,
    /// What an agent receives; none for a placeholder.
    pub spec: Option<Arc<JobSpec>>,
    /// How often it was leased.
    pub attempts: u32,
    /// How often its agent was lost.
    pub losses: u32,
    /// When its first step started.
    pub started: Option<Timestamp>,
    /// The agent of the last attempt.
    pub agent: Option<AgentName>,
    /// The digest under which the spec is offered.
    #[serde(default)]
    pub digest: Option<Digest>,
    /// Attempts that ended and were tried again.
    #[serde(default)]
    pub retried: Vec<Hold>,
    /// Its place in a concurrency group.
    #[serde(default)]
    pub turn: Option<Entered>,
    /// Where it is.
    pub life: Life,
}

/// The life of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Life {
    /// For other jobs. Owner: the engine; ends when they have ended.
    Waiting,
    /// For an agent. Owner: the matching; ends with an offer.
    Queued {
        /// Since when.
        since: Timestamp,
    },
    /// Owner: the agent; ends at the deadline at the latest.
    Offered {
        /// To whom.
        agent: AgentName,
        /// What it would hold.
        hold: Hold,
        /// Until when.
        deadline: Timestamp,
        /// Since when the job was queued.
        since: Timestamp,
    },
    /// Owner: the agent; ends at the lease's end at the latest.
    Leased(Lease),
    /// A step was reported. Likewise.
    Running(Lease),
    /// The lease was not renewed. Owner: the engine; ends at the end of the grace.
    Suspect {
        /// The lease that lapsed.
        lease: Lease,
        /// The end of the grace.
        until: Timestamp,
    },
    /// For good.
    Finished(End),
}

/// A job in an agent's hands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lease {
    /// The attempt.
    pub hold: Hold,
    /// The agent.
    pub agent: AgentName,
    /// Since when.
    pub since: Timestamp,
    /// Until when, unless it is renewed.
    pub expires: Timestamp,
    /// The wish that it end.
    pub stop: Option<Stop>,
    /// The reports that were taken.
    pub reports: Reports,
    /// Steps that were reported.
    pub steps: BTreeMap<StepIndex, StepLife>,
    /// Steps whose secrets were handed out.
    pub opened: BTreeSet<StepIndex>,
}

/// The wish that an attempt end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// Since when.
    pub at: Timestamp,
    /// How the job counts if the agent says nothing more.
    pub outcome: Outcome,
}

/// A step of the present attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepLife {
    /// When it started, by the agent's clock.
    pub started: Timestamp,
    /// Whether it has ended.
    pub finished: bool,
}

/// Which reports of an attempt were taken: all below `next`, and those of `ahead`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reports {
    last: u64,
    ahead: BTreeSet<u64>,
}

/// How far reports may overtake each other.
const REPORTS_AHEAD: u64 = 1024;

/// What a report's number says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It is new.
    New,
    /// It was taken before.
    Repeated,
    /// Its number is 0 or too far ahead.
    Strange,
}

impl Reports {
    /// What the number says, without taking it.
    pub fn arrival(&self, sequence: u64) -> Arrival {
        if sequence == 0 || sequence > self.last + REPORTS_AHEAD {
            Arrival::Strange
        } else if sequence <= self.last || self.ahead.contains(&sequence) {
            Arrival::Repeated
        } else {
            Arrival::New
        }
    }

    /// Takes a number.
    pub fn take(&mut self, sequence: u64) {
        if sequence > self.last {
            self.ahead.insert(sequence);
        }
        while self.ahead.remove(&(self.last + 1)) {
            self.last += 1;
        }
    }
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// When.
    pub at: Timestamp,
    /// The last attempt.
    pub hold: Option<Hold>,
    /// Who says so.
    pub by: Voice,
    /// How.
    pub outcome: Outcome,
    /// Why.
    pub cause: Option<Cause>,
    /// Its outputs.
    pub outputs: IndexMap<String, String>,
}

/// A life cannot go there from where it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("job {job} cannot go from {from} to {to}")]
pub struct IllegalMove {
    /// The job.
    pub job: JobId,
    /// Where it is.
    pub from: &'static str,
    /// Where it was to go.
    pub to: &'static str,
}

impl Life {
    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Life::Waiting => "waiting",
            Life::Queued { .. } => "queued",
            Life::Offered { .. } => "offered",
            Life::Leased(_) => "leased",
            Life::Running(_) => "running",
            Life::Suspect { .. } => "suspect",
            Life::Finished(_) => "finished",
        }
    }

    /// The lease, if an agent has one.
    pub fn lease(&self) -> Option<&Lease> {
        match self {
            Life::Leased(lease) | Life::Running(lease) | Life::Suspect { lease, .. } => Some(lease),
            _ => None,
        }
    }

    /// The lease, to change what is not a move.
    pub fn lease_mut(&mut self) -> Option<&mut Lease> {
        match self {
            Life::Leased(lease) | Life::Running(lease) | Life::Suspect { lease, .. } => Some(lease),
            _ => None,
        }
    }

    /// Whether it takes a slot of an agent.
    pub fn is_active(&self) -> bool {
        matches!(self, Life::Offered { .. } | Life::Leased(_) | Life::Running(_) | Life::Suspect { .. })
    }

    /// The end, if it has come.
    pub fn end(&self) -> Option<&End> {
        match self {
            Life::Finished(end) => Some(end),
            _ => None,
        }
    }

    /// Who has it: the agent that it is offered to or leased to.
    pub fn holder(&self) -> Option<&AgentName> {
        match self {
            Life::Offered { agent, .. } => Some(agent),
            _ => self.lease().map(|lease| &lease.agent),
        }
    }
}

/// The digest under which a spec is offered: SHA-256 over its JSON.
pub fn digest(spec: &JobSpec) -> Digest {
    let mut form = Vec::with_capacity(4096);
    // Every part of a spec has a JSON form, so the bytes are never missing.
    let _whole = serde_json::to_writer(&mut form, spec);
    Digest(Sha256::digest(&form).into())
}

impl Job {
    /// A job that waits, or the placeholder of a group.
    pub fn waiting(id: JobId, key: JobKey, name: String) -> Job {
        Job {
            id,
            key,
            name,
            spec: None,
            attempts: 0,
            losses: 0,
            started: None,
            agent: None,
            digest: None,
            retried: Vec::new(),
            turn: None,
            life: Life::Waiting,
        }
    }

    /// Moves to `next`.
    ///
    /// # Errors
    /// [`IllegalMove`] names both states; nothing has changed then.
    pub fn enter(&mut self, next: Life) -> Result<(), IllegalMove> {
        use Life::{Finished, Leased, Offered, Queued, Running, Suspect, Waiting};
        let legal = match (&self.life, &next) {
            (Waiting, Queued { .. } | Finished(_)) => true,
            (Queued { .. }, Offered { .. } | Leased(_) | Finished(_)) => true,
            (Offered { .. }, Queued { .. } | Leased(_) | Finished(_)) => true,
            (Leased(now), Running(then) | Suspect { lease: then, .. }) => now.hold == then.hold,
            (Running(now), Suspect { lease: then, .. }) => now.hold == then.hold,
            (Suspect { lease: now, .. }, Leased(then) | Running(then)) => now.hold == then.hold,
            (Leased(_) | Running(_) | Suspect { .. }, Queued { .. } | Finished(_)) => true,
            _ => false,
        };
        if !legal {
            return Err(IllegalMove { job: self.id, from: self.life.name(), to: next.name() });
        }
        self.life = next;
        Ok(())
    }

    /// The job as clients see it.
    pub fn view(&self) -> JobView {
        let (state, hold) = match &self.life {
            Life::Waiting => (JobState::Waiting, None),
            Life::Queued { .. } => (JobState::Queued, None),
            Life::Offered { hold, .. } => (JobState::Offered, Some(*hold)),
            Life::Leased(lease) => (JobState::Leased, Some(lease.hold)),
            Life::Running(lease) => (JobState::Running, Some(lease.hold)),
            Life::Suspect { lease, .. } => (JobState::Suspect, Some(lease.hold)),
            Life::Finished(end) => (JobState::Finished, end.hold),
        };
        let end = self.life.end();
        JobView {
            id: self.id,
            key: self.key.clone(),
            name: self.name.clone(),
            state,
            outcome: end.map(|end| end.outcome),
            cause: end.and_then(|end| end.cause.clone()),
            attempt: hold.map(|hold| hold.attempt),
            agent: self.life.holder().cloned().or_else(|| hold.and(self.agent.clone())),
            started: self.started,
            finished: end.map(|end| end.at),
            outputs: end.map(|end| end.outputs.clone()).unwrap_or_default(),
        }
    }

    /// Whether a failure of this job is one of the run.
    pub fn counts(&self) -> bool {
        !self.spec.as_ref().is_some_and(|spec| spec.continue_on_error)
    }
}
