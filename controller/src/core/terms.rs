//! On which terms a run was taken in, beside its plan: whose it is, how urgent, what it may repeat, what it waits for.

use caisson_model::id::{JobKey, RunId};
use caisson_model::outcome::Outcome;
use caisson_model::run::Submission;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

/// What comes with a plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Terms {
    /// Jobs of a higher one are offered first.
    pub priority: i32,
    /// Whose share of the agents it takes; empty for runs without a repository, which share one.
    pub repository: String,
    /// The run that it runs again.
    pub rerun_of: Option<RunId>,
    /// Results that jobs keep from that run, instead of running.
    pub carried: Vec<Carried>,
    /// Jobs that are tried again by themselves.
    pub retry: Vec<(JobKey, Retry)>,
    /// The group in which the run takes its turn.
    pub turn: Option<Turn>,
    /// What the plan was made of, so that it can be run again. Kept in the store, not in the engine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub submission: Option<Box<Submission>>,
}

/// The result of a job that is not run again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Carried {
    /// The job's key.
    pub key: JobKey,
    /// The cell's name.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Its outputs.
    pub outputs: IndexMap<String, String>,
}

/// How often a job is tried again after it ended in one of these ways. Losses of an agent are not counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// Tries beyond the first.
    pub times: u32,
    /// After these outcomes.
    pub on: Vec<Outcome>,
}

/// A concurrency group as a run or job enters it: one member at a time, and only the newest waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// The group, with the repository that it belongs to.
    pub group: String,
    /// Whether entering ends the member that has its turn.
    pub cancel_in_progress: bool,
}

/// A turn that was entered, numbered in the order of entering.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entered {
    /// The group.
    pub group: String,
    /// Higher is later.
    pub number: u64,
}
