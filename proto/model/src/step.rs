//! One step as the workflow states it, together with what policy granted it.

use serde::{Deserialize, Serialize};

use crate::id::{Digest, StepIndex};
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
    /// An action that is declared to do nothing here; the log says so.
    NoOp {
        /// The action's name without its version, as written.
        action: String,
        /// The part after `@`, as written.
        version: String,
        /// Who declared it, for people: `reports are not sent from a sandbox`.
        reason: String,
    },
    /// An action that is a list of steps.
    Composite(Composite),
    /// An action that is a JavaScript program.
    Node(NodeAction),
}

/// A composite action, whole: its steps were read and granted when the run was planned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Composite {
    /// The `uses:`, as written.
    pub uses: String,
    /// Where its files lie.
    pub place: ActionPlace,
    /// `with:` of the step, in order; keys in lower case.
    pub with: Vec<(String, Template)>,
    /// The inputs that it declares.
    pub inputs: Vec<ActionInput>,
    /// Its outputs, evaluated after its last step.
    pub outputs: Vec<(String, Template)>,
    /// Its steps, numbered from 0 within it.
    pub steps: Vec<StepSpec>,
}

/// A JavaScript action.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeAction {
    /// The `uses:`, as written.
    pub uses: String,
    /// Where its files lie.
    pub place: ActionPlace,
    /// `with:` of the step, in order; keys in lower case.
    pub with: Vec<(String, Template)>,
    /// The inputs that it declares.
    pub inputs: Vec<ActionInput>,
    /// The program, relative to the action's directory.
    pub main: String,
    /// What runs before the job's first step.
    pub pre: Option<Hook>,
    /// What runs after the job's last step.
    pub post: Option<Hook>,
}

/// A program of an action that runs before or after the job's own steps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// The program, relative to the action's directory.
    pub program: String,
    /// When it runs.
    pub condition: Condition,
}

/// An input that an action declares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionInput {
    /// Its name in lower case.
    pub name: String,
    /// Its value where the step gives none; empty without a default.
    pub default: Template,
}

/// Where the files of an action lie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ActionPlace {
    /// In the checkout: the directory, relative to the workspace.
    Workspace(String),
    /// In the mirror.
    Mirror {
        /// The whole repository as a tar blob.
        tree: Digest,
        /// `owner/repository/version`, for the place inside.
        name: String,
        /// The directory of the action in it; empty for its top.
        path: String,
    },
}

impl StepSpec {
    /// The step's label for people when it has no `name:`: `Run ` and the first line of its script, or `Run ` and the action.
    pub fn label(&self) -> String {
        match &self.action {
            Action::Run { script, .. } => format!("Run {}", script.0.trim().lines().next().unwrap_or_default()),
            Action::Uses { action, version, .. } | Action::NoOp { action, version, .. } => format!("Run {action}@{version}"),
            Action::Composite(Composite { uses, .. }) | Action::Node(NodeAction { uses, .. }) => format!("Run {uses}"),
        }
    }
}
