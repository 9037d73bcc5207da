//! A job as an agent receives it: one cell of a matrix, with nothing left that only the controller knows.

use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::id::{Digest, JobId, JobKey};
use crate::outcome::Outcome;
use crate::step::{StepSpec, Template};

/// Everything that an agent needs to run a job, except secrets and blobs. Its digest is offered before it is fetched.
/// Agents of other versions read its JSON: what is added later needs a default, and what they do not know they pass over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobSpec {
    /// Its identity.
    pub id: JobId,
    /// Its key in the workflow.
    pub key: JobKey,
    /// Its name for people, with the matrix values: `test (3.12, sqlite)`.
    pub name: String,
    /// The workflow's `name:`, or its file.
    pub workflow: String,
    /// The labels of `runs-on:`, in lower case.
    pub labels: Vec<String>,
    /// The `matrix` context: an object, or null without a matrix.
    pub matrix: Value,
    /// The `strategy` context.
    pub strategy: Strategy,
    /// The `needs` context: results and outputs of the jobs that this one names.
    pub needs: IndexMap<String, Need>,
    /// The workflow's `env:`, in order.
    pub workflow_env: Vec<(String, Template)>,
    /// The job's `env:`, in order.
    pub env: Vec<(String, Template)>,
    /// The job's `outputs:`, evaluated by the agent after the last step.
    pub outputs: Vec<(String, Template)>,
    /// The steps in order; cells of a matrix share them.
    pub steps: Arc<[StepSpec]>,
    /// The longest the job may take.
    pub timeout: Duration,
    /// Whether a failure of this job lets the run go on.
    pub continue_on_error: bool,
    /// Contexts that are the same for the whole run; its jobs share them.
    pub contexts: Arc<RunContexts>,
    /// The source tree as a tar blob; `None` when the run has no source.
    pub source: Option<Digest>,
}

/// The `strategy` context.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Strategy {
    /// Whether one failed cell cancels the others.
    pub fail_fast: bool,
    /// This cell's number, from 0.
    pub job_index: u32,
    /// How many cells there are; 1 without a matrix.
    pub job_total: u32,
    /// How many may run at once; `None` for no limit.
    pub max_parallel: Option<u32>,
}

/// What `needs.KEY` shows of a finished job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Need {
    /// Its result; for a matrix, the worst of its cells.
    pub outcome: Outcome,
    /// Its outputs; for a matrix, later cells overwrite earlier ones.
    pub outputs: IndexMap<String, String>,
}

/// Contexts that are the same for every job of a run. Objects.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunContexts {
    /// `github`, without what only a job or step knows (`job`, `workspace`, `action` ...).
    pub github: Value,
    /// `inputs`.
    pub inputs: Value,
    /// `vars`.
    pub vars: Value,
    /// Variables of the submission (`--env`): the lowest layer of the environment.
    pub env: IndexMap<String, String>,
}
