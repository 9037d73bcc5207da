//! Durable facts. The journal is a list of these; applied in order to an empty state they give the state back.

use std::sync::Arc;

use caisson_model::id::{AgentName, AttemptId, Hold, JobId, JobKey, RunId, StepIndex};
use caisson_model::job::JobSpec;
use caisson_model::ledger::LedgerHead;
use caisson_model::outcome::{Cause, Outcome};
use caisson_model::time::Timestamp;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use caisson_workflow::{Plan, PlannedJob};

use crate::core::terms::{Terms, Turn};

/// The form of the records that this build writes. An older form is still read; a newer one is refused.
pub const RECORD_VERSION: u32 = 1;

/// One fact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Record {
    /// A controller opened the journal. Fences of this epoch are above those of all earlier ones.
    Opened {
        /// Counted from 1.
        epoch: u64,
    },
    /// A run was admitted.
    Submitted {
        /// The run.
        run: RunId,
        /// When.
        at: Timestamp,
        /// Its jobs, as they were admitted.
        plan: Box<Plan>,
        /// What came with it.
        #[serde(default)]
        terms: Box<Terms>,
    },
    /// A group's needs had ended and it became cells. The first takes over the id of the group's placeholder.
    Expanded {
        /// The run.
        run: RunId,
        /// The group.
        key: JobKey,
        /// When.
        at: Timestamp,
        /// The cells, with their ids.
        cells: Vec<Arc<JobSpec>>,
        /// The concurrency group of each cell; shorter than the cells when the rest has none.
        #[serde(default)]
        turns: Vec<Option<Turn>>,
    },
    /// A job called a workflow: its jobs are in the run from now on, and the calling one waits for them.
    Called {
        /// The run.
        run: RunId,
        /// When.
        at: Timestamp,
        /// The called jobs.
        jobs: Vec<PlannedJob>,
        /// What the calling job is from now on; it keeps its key.
        collector: Box<PlannedJob>,
    },
    /// An agent took an offer.
    Leased {
        /// The attempt.
        hold: Hold,
        /// The agent.
        agent: AgentName,
        /// When.
        at: Timestamp,
    },
    /// A report of a step was taken.
    Reported {
        /// The attempt.
        attempt: AttemptId,
        /// The report's number.
        sequence: u64,
        /// The step.
        step: StepIndex,
        /// What it means for the step's life.
        mark: Mark,
        /// When, by the agent's clock.
        at: Timestamp,
        /// Where the run's ledger stands after it; `None` where it adds nothing to it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ledger: Option<LedgerHead>,
    },
    /// The secrets of a step were handed out.
    SecretsOpened {
        /// The attempt.
        attempt: AttemptId,
        /// The step.
        step: StepIndex,
    },
    /// A person cancelled the run.
    Cancelled {
        /// The run.
        run: RunId,
        /// When.
        at: Timestamp,
    },
    /// An attempt was told to end.
    Stopping {
        /// The attempt.
        attempt: AttemptId,
        /// When.
        at: Timestamp,
        /// How the job counts if the agent says nothing more.
        outcome: Outcome,
    },
    /// An attempt ended without a result; its job is queued again.
    Released {
        /// The attempt.
        attempt: AttemptId,
        /// When.
        at: Timestamp,
        /// Whether the agent is gone, rather than having given it back.
        lost: bool,
    },
    /// An attempt ended in a way that is tried again; its job is queued again.
    Retried {
        /// The attempt.
        hold: Hold,
        /// When.
        at: Timestamp,
        /// How it ended.
        outcome: Outcome,
    },
    /// A person said whether an agent gets new jobs.
    Cordoned {
        /// The agent.
        agent: AgentName,
        /// Whether it gets none.
        on: bool,
    },
    /// An agent is refused from now on, or is not any more.
    Revoked {
        /// The agent.
        agent: AgentName,
        /// Whether it is refused.
        on: bool,
    },
    /// A job ended.
    Ended {
        /// The job.
        job: JobId,
        /// When.
        at: Timestamp,
        /// The last attempt; without one it never ran.
        hold: Option<Hold>,
        /// Who says so.
        by: Voice,
        /// How.
        outcome: Outcome,
        /// Why.
        cause: Option<Cause>,
        /// Its outputs.
        outputs: IndexMap<String, String>,
    },
    /// Every job has ended.
    RunEnded {
        /// The run.
        run: RunId,
        /// When.
        at: Timestamp,
        /// How.
        outcome: Outcome,
    },
    /// A run that ended long ago left the engine's memory. Its history stays in the store.
    Forgotten {
        /// The run.
        run: RunId,
    },
}

impl Record {
    /// The run that it changes; `None` for what concerns all.
    pub fn run(&self) -> Option<RunId> {
        match self {
            Record::Opened { .. } | Record::Cordoned { .. } | Record::Revoked { .. } => None,
            Record::Submitted { run, .. } | Record::Expanded { run, .. } | Record::Cancelled { run, .. } => Some(*run),
            Record::Called { run, .. } | Record::RunEnded { run, .. } | Record::Forgotten { run } => Some(*run),
            Record::Leased { hold, .. } | Record::Retried { hold, .. } => Some(hold.attempt.job.run),
            Record::Reported { attempt, .. } | Record::SecretsOpened { attempt, .. } => Some(attempt.job.run),
            Record::Stopping { attempt, .. } | Record::Released { attempt, .. } => Some(attempt.job.run),
            Record::Ended { job, .. } => Some(job.run),
        }
    }
}

/// Whose word the end of a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Voice {
    /// The agent's that held it: its completion was recorded.
    Holder,
    /// The controller's: nobody ran it, or its holder did not say anything in time. A completion that comes later is fenced.
    Controller,
}

/// What a report means for the life of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mark {
    /// It began.
    Started,
    /// It ended.
    Finished,
    /// It goes on.
    Remark,
}
