//! A planned job: what is known of it before it starts, as plain data. What depends on finished jobs stays a template.

use caisson_model::id::JobKey;
use caisson_model::step::{Condition, Location, StepSpec, Template};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A job whose needs may not have ended yet: one entry of `jobs:`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlannedJob {
    /// Its key.
    pub key: JobKey,
    /// The workflow's name.
    pub workflow: String,
    /// The keys of the jobs that must end first.
    pub needs: Vec<JobKey>,
    /// `name:`.
    pub name: Option<Template>,
    /// `if:`.
    pub condition: Option<Condition>,
    /// `runs-on:` as written: a text, a list, or a mapping with `labels`; texts may hold expressions.
    pub runs_on: Value,
    /// `strategy:`.
    pub strategy: Option<PlannedStrategy>,
    /// `timeout-minutes:`.
    pub timeout_minutes: Option<Template>,
    /// `continue-on-error:`.
    pub continue_on_error: Option<Template>,
    /// The workflow's `env:`.
    pub workflow_env: Vec<(String, Template)>,
    /// The job's `env:`.
    pub env: Vec<(String, Template)>,
    /// `outputs:`.
    pub outputs: Vec<(String, Template)>,
    /// The steps. Their grants name the secrets that they ask for; policy decides which they get.
    pub steps: Vec<StepSpec>,
    /// `concurrency:`.
    pub concurrency: Option<Concurrency>,
    /// `environment:` as written: a text, or a mapping with `name`.
    pub environment: Option<Value>,
    /// What its environment adds to `vars`; null for nothing. Policy writes it.
    #[serde(default)]
    pub vars: Value,
    /// `permissions:` as written: a word or a mapping.
    pub permissions: Option<Value>,
    /// Where the job begins.
    pub location: Location,
    /// Where its keys stand (`if`, `name`, `runs-on`, `strategy.matrix` ...), for errors that show only when it is expanded.
    pub places: IndexMap<String, Location>,
    /// The most cells that its matrix may have.
    pub max_cells: usize,
    /// The workflow that it calls, in place of steps.
    #[serde(default)]
    pub call: Option<Box<PlannedCall>>,
    /// Where it stands, when its workflow was called.
    #[serde(default)]
    pub scope: Option<CallScope>,
    /// What it waits for, once it has called a workflow.
    #[serde(default)]
    pub collector: Option<Box<Collector>>,
}

/// `strategy:` before it is evaluated; texts may hold expressions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PlannedStrategy {
    /// `matrix:`; null without one.
    pub matrix: Value,
    /// `fail-fast:`; null without one, which means true.
    pub fail_fast: Value,
    /// `max-parallel:`; null without one.
    pub max_parallel: Value,
    /// Which cells were asked for: for each key that the matrix has, one of these values as text; empty for all.
    #[serde(default)]
    pub only: IndexMap<String, Vec<String>>,
}

/// `concurrency:` of a workflow or job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Concurrency {
    /// The group's name.
    pub group: Template,
    /// Whether a newer run of the group ends the older: a boolean or an expression.
    pub cancel_in_progress: Option<Template>,
}

/// A workflow that a job calls, planned once for all cells of the caller's matrix.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PlannedCall {
    /// Its file, relative to the checkout.
    pub file: String,
    /// Its `inputs`, with what the caller gives for each.
    pub inputs: Vec<PlannedInput>,
    /// Its `outputs`.
    pub outputs: Vec<(String, Template)>,
    /// Its jobs, each after all that it needs, by their own keys.
    pub jobs: Vec<PlannedJob>,
}

/// An input of a called workflow.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PlannedInput {
    /// Its name as declared.
    pub name: String,
    /// `string`, `boolean` or `number`.
    pub kind: String,
    /// What the caller gives, as written; null when it gives nothing.
    pub given: Value,
    /// The declared default, as written; null without one.
    pub default: Value,
}

/// Where a job of a called workflow stands in the run: what the engine knows it by, and what is different for it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CallScope {
    /// What stands before its own key and those of the jobs that it needs: `build/`, `build[1]/` in a matrix.
    pub prefix: String,
    /// What stands before its name for people: `build (3.12) / `.
    pub title: String,
    /// The `inputs` context.
    pub inputs: Value,
    /// The prefix of all jobs that a failure of this one cancels; `None` without a matrix, or when it is not to fail fast.
    pub fail_fast: Option<String>,
    /// How many cells of its caller's matrix may be at work at once; `None` when nothing bounds them.
    #[serde(default)]
    pub gate: Option<Gate>,
}

/// `max-parallel:` of a job that calls: what its cells share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gate {
    /// The calling job.
    pub caller: JobKey,
    /// The most cells at once, at least 1.
    pub most: u32,
}

/// A calling job whose called jobs are in the run: it waits for them, and ends as they ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Collector {
    /// One for each cell.
    pub cells: Vec<CallScope>,
    /// The keys of all called jobs.
    pub jobs: Vec<JobKey>,
    /// `outputs` of the called workflow.
    pub outputs: Vec<(String, Template)>,
}
