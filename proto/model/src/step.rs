//! One step as the workflow states it, together with what policy granted it.

use serde::{Deserialize, Serialize};

use crate::id::StepIndex;
use crate::policy::Grant;

/// Text of a workflow that may hold `${{ }}` expressions, not yet evaluated. Its syntax was checked when the run was planned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Template(pub String);

/// The condition of an `if:`, with or without `${{ }}`, not yet evaluated.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Condition(pub String);

/// Where something stands in a workflow file; lines and columns are counted from 1.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Location {
    /// The file, relative to the checkout.
    pub file: String,
    /// Its line.
    pub line: u32,
    /// Its column, in characters.
    pub column: u32,
}

/// A step of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepSpec {
    /// Its position, from 0.
    pub index: StepIndex,
    /// The `id:`, by which `steps.ID` is known.
    pub id: Option<String>,
    /// The `name:`; without one, people see [`StepSpec::label`].
    pub name: Option<Template>,
    /// The `if:`; without one the step runs when no earlier step failed.
    pub condition: Option<Condition>,
    /// What is executed.
    pub action: Action,
    /// The step's own `env:`, in order; values override the job's and the workflow's.
    pub env: Vec<(String, Template)>,
    /// `continue-on-error:`, a boolean or an expression that yields one.
    pub continue_on_error: Option<Template>,
    /// `timeout-minutes:`, a number or an expression that yields one.
    pub timeout_minutes: Option<Template>,
    /// Where the step begins in its file.
    pub location: Location,
    /// What policy lets the step do. [`Grant::default`] is nothing at all.
    pub grant: Grant,
}

/// What a step executes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// A script.
    Run {
        /// The script's text.
        script: Template,
        /// `shell:` of the step, its job's or its workflow's defaults.
        shell: Option<Template>,
        /// `working-directory:`, likewise; relative to the workspace.
        working_directory: Option<Template>,
    },
    /// An action that caisson has built in.
    Uses {
        /// The action's name without its version, such as `actions/checkout`, in lower case.
        action: String,
        /// The part after `@`, as written.
        version: String,
        /// `with:`, in order; keys in lower case.
        with: Vec<(String, Template)>,
    },
}

impl StepSpec {
    /// The step's label for people when it has no `name:`: `Run ` and the first line of its script, or `Run ` and the action.
    pub fn label(&self) -> String {
        match &self.action {
            Action::Run { script, .. } => format!("Run {}", script.0.trim().lines().next().unwrap_or_default()),
            Action::Uses { action, version, .. } => format!("Run {action}@{version}"),
        }
    }
}
