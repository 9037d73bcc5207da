//! What a client hands in and what it sees: submissions, views of runs, jobs and steps, and the events that change them.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::id::{AgentName, AttemptId, Digest, JobId, JobKey, RunId, StepIndex};
use crate::ledger::LedgerHead;
use crate::outcome::{Annotation, Cause, EgressEntry, Outcome, StepResult};
use crate::time::Timestamp;

/// Texts by their path.
pub type Texts = IndexMap<String, String>;

/// One workflow handed to a controller.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Submission {
    /// The workflow's file, relative to the checkout: `.github/workflows/test.yml`.
    pub file: String,
    /// Its text.
    pub text: String,
    /// The event by its name: `push`.
    pub event: String,
    /// Inputs of `workflow_dispatch`, as text.
    pub inputs: IndexMap<String, String>,
    /// Variables for every step (`--env`), below the workflow's own.
    pub env: IndexMap<String, String>,
    /// Keys of the jobs to run, with what they need; empty for all.
    pub jobs: Vec<String>,
    /// Which cells of a matrix are run: for each key that it has, one of these values as text; empty for all.
    pub matrix: IndexMap<String, Vec<String>>,
    /// What is known of the checkout: the fields of the `github` context that come from it
    /// (`repository`, `ref`, `ref_name`, `ref_type`, `sha`, `actor`, `head_ref`, `base_ref`, `event` ...). An object.
    pub github: Value,
    /// The source tree as a tar blob that was put before.
    pub source: Option<Digest>,
    /// Texts of the checkout that the workflow refers to, by path: local actions and called workflows.
    pub files: Texts,
    /// Jobs of a higher one are offered first; 0 when nobody says anything.
    pub priority: i32,
    /// The paths that the event changed, relative to the top of the repository; `None` when nobody knows.
    pub changes: Option<Vec<String>>,
}

/// Which jobs of an ended run are run again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RerunScope {
    /// All of them.
    #[default]
    All,
    /// Those that did not succeed, and what depends on them. The others keep their results and outputs.
    Failed,
}

/// The life of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// No job has started.
    Queued,
    /// At least one job has started.
    Running,
    /// Every job has ended.
    Finished,
}

/// A run as clients see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunView {
    /// Its identity.
    pub id: RunId,
    /// The workflow's `name:`, or its file.
    pub workflow: String,
    /// The workflow's file.
    pub file: String,
    /// The event.
    pub event: String,
    /// Where it is in its life.
    pub state: RunState,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// When it was submitted.
    pub submitted: Timestamp,
    /// When its first job started.
    pub started: Option<Timestamp>,
    /// When its last job ended.
    pub finished: Option<Timestamp>,
    /// The run whose plan it runs again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rerun_of: Option<RunId>,
    /// Where the chain of everything stands that its steps tried to reach; `None` while nothing was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger: Option<LedgerHead>,
}

/// The life of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobState {
    /// It waits for jobs that it needs.
    Waiting,
    /// It waits for an agent.
    Queued,
    /// It was offered to an agent.
    Offered,
    /// An agent holds it and has not reported a step.
    Leased,
    /// Its steps run.
    Running,
    /// Its agent was not heard of for a lease term; the grace runs.
    Suspect,
    /// It has ended.
    Finished,
}

/// A job as clients see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobView {
    /// Its identity.
    pub id: JobId,
    /// Its key in the workflow.
    pub key: JobKey,
    /// Its name for people.
    pub name: String,
    /// Where it is in its life.
    pub state: JobState,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// Why it did not succeed, where the job itself and none of its steps is the reason.
    pub cause: Option<Cause>,
    /// The present or last attempt.
    pub attempt: Option<AttemptId>,
    /// The agent of that attempt.
    pub agent: Option<AgentName>,
    /// When its first step started.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub finished: Option<Timestamp>,
    /// Its outputs, masked.
    pub outputs: IndexMap<String, String>,
}

/// The life of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepState {
    /// Its condition was true and its sandbox is being built, or it runs.
    Running,
    /// It has ended.
    Finished,
}

/// A step as clients see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepView {
    /// The attempt that runs it.
    pub attempt: AttemptId,
    /// Its position.
    pub index: StepIndex,
    /// Its `id:`.
    pub id: Option<String>,
    /// Its name for people, evaluated and masked.
    pub name: String,
    /// Where it is in its life.
    pub state: StepState,
    /// How it ended.
    pub result: Option<StepResult>,
    /// When it started.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Option<Timestamp>,
}

/// A change that a client is told of. Views are whole: the newest replaces the one before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "type")]
pub enum RunEvent {
    /// The run changed. The last event of a run is this one with [`RunState::Finished`].
    Run(RunView),
    /// A job appeared or changed.
    Job(JobView),
    /// A step started or ended.
    Step(StepView),
    /// A running step tried to reach something.
    Egress {
        /// The attempt.
        attempt: AttemptId,
        /// The step.
        step: StepIndex,
        /// What it tried.
        entry: EgressEntry,
    },
    /// A running step made a remark.
    Annotation {
        /// The attempt.
        attempt: AttemptId,
        /// The step.
        step: StepIndex,
        /// The remark.
        annotation: Annotation,
    },
}

/// An event with its place in the run's history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NumberedEvent {
    /// Counted from 1 within the run, without gaps.
    pub number: u64,
    /// When it happened.
    pub at: Timestamp,
    /// What happened.
    pub event: RunEvent,
}

/// Why a job is not running, in the engine's own words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The job.
    pub job: JobId,
    /// One sentence each: lower case, no full stop.
    pub reasons: Vec<String>,
}
