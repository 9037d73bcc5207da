//! The language as a table: which keys stand where, what their values are, and what expressions there may name.
//! Events have a table of their own, see [`crate::events`].

use crate::scope::Scope;

/// What may stand at a place. An expression may stand in for any shape where the scope is not empty.
pub(crate) struct Definition {
    /// Contexts and functions, in addition to those of the place around it.
    pub(crate) scope: Scope,
    /// The alternatives.
    pub(crate) shapes: &'static [Shape],
}

pub(crate) enum Shape {
    Null,
    Bool,
    Number,
    /// Any scalar, taken as text.
    Text,
    /// The same, but not empty.
    Filled,
    /// One of these words.
    Word(&'static [&'static str]),
    /// Text of an `if:`: an expression with or without its marks.
    Condition,
    Sequence(&'static Definition),
    Mapping(&'static Mapping),
    Any,
}

pub(crate) struct Mapping {
    /// The key that tells this mapping from its alternatives; empty for the one that is meant without any.
    pub(crate) mark: &'static str,
    pub(crate) keys: &'static [Key],
    /// What other keys hold; `None` when there may be no others.
    pub(crate) others: Option<&'static Definition>,
}

pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) definition: &'static Definition,
    pub(crate) required: bool,
}

const fn key(name: &'static str, definition: &'static Definition) -> Key {
    Key { name, definition, required: false }
}

const fn required(name: &'static str, definition: &'static Definition) -> Key {
    Key { name, definition, required: true }
}

macro_rules! define {
    ($($name:ident: $scope:expr => [$($shape:expr),+ $(,)?];)+) => {
        $(pub(crate) static $name: Definition = Definition { scope: $scope, shapes: &[$($shape),+] };)+
    };
}

macro_rules! keys {
    (mark $mark:literal: $($key:expr),* $(,)?) => {
        Shape::Mapping(&Mapping { mark: $mark, keys: &[$($key),*], others: None })
    };
    (others $others:expr $(, $key:expr)* $(,)?) => {
        Shape::Mapping(&Mapping { mark: "", keys: &[$($key),*], others: Some($others) })
    };
    ($($key:expr),* $(,)?) => {
        Shape::Mapping(&Mapping { mark: "", keys: &[$($key),*], others: None })
    };
}

define! {
    WORKFLOW: Scope::NONE => [keys![
        required("on", &ON),
        key("name", &TEXT),
        key("description", &TEXT),
        key("run-name", &RUN_NAME),
        key("defaults", &WORKFLOW_DEFAULTS),
        key("env", &WORKFLOW_ENV),
        key("permissions", &PERMISSIONS),
        key("concurrency", &WORKFLOW_CONCURRENCY),
        required("jobs", &JOBS),
    ]];

    // The events have their own checks.
    ON: Scope::NONE => [Shape::Any];

    TEXT: Scope::NONE => [Shape::Text];
    FILLED: Scope::NONE => [Shape::Filled];
    NUMBER: Scope::NONE => [Shape::Number];
    BOOL: Scope::NONE => [Shape::Bool];
    ANY: Scope::NONE => [Shape::Any];
    TEXTS: Scope::NONE => [Shape::Sequence(&FILLED)];
    ONE_OR_MANY: Scope::NONE => [Shape::Filled, Shape::Sequence(&FILLED)];
    SCALAR: Scope::NONE => [Shape::Text, Shape::Bool, Shape::Number];

    RUN_NAME: Scope::RUN => [Shape::Text];
    WORKFLOW_DEFAULTS: Scope::NONE => [keys![key("run", &RUN_DEFAULTS)]];
    RUN_DEFAULTS: Scope::NONE => [keys![key("shell", &FILLED), key("working-directory", &FILLED)]];
    WORKFLOW_ENV: Scope::RUN.and(Scope::SECRETS) => [keys![others &TEXT]];
    WORKFLOW_CONCURRENCY: Scope::RUN => [Shape::Text, CONCURRENCY];

    PERMISSIONS: Scope::NONE => [Shape::Word(&["read-all", "write-all"]), keys![
        key("actions", &ANY_LEVEL),
        key("artifact-metadata", &ANY_LEVEL),
        key("attestations", &ANY_LEVEL),
        key("checks", &ANY_LEVEL),
        key("code-quality", &ANY_LEVEL),
        key("contents", &ANY_LEVEL),
        key("copilot-requests", &WRITE_LEVEL),
        key("deployments", &ANY_LEVEL),
        key("discussions", &ANY_LEVEL),
        key("drives", &ANY_LEVEL),
        key("id-token", &WRITE_LEVEL),
        key("issues", &ANY_LEVEL),
        key("models", &READ_LEVEL),
        key("packages", &ANY_LEVEL),
        key("pages", &ANY_LEVEL),
        key("pull-requests", &ANY_LEVEL),
        key("repository-projects", &ANY_LEVEL),
        key("security-events", &ANY_LEVEL),
        key("statuses", &ANY_LEVEL),
        key("vulnerability-alerts", &READ_LEVEL),
    ]];
    ANY_LEVEL: Scope::NONE => [Shape::Word(&["read", "write", "none"])];
    READ_LEVEL: Scope::NONE => [Shape::Word(&["read", "none"])];
    WRITE_LEVEL: Scope::NONE => [Shape::Word(&["write", "none"])];

    JOBS: Scope::NONE => [keys![others &JOB]];
    JOB: Scope::NONE => [
        keys![mark "uses":
            key("name", &CELL_TEXT),
            required("uses", &FILLED),
            key("with", &CALL_WITH),
            key("secrets", &CALL_SECRETS),
            key("needs", &ONE_OR_MANY),
            key("if", &JOB_IF),
            key("permissions", &PERMISSIONS),
            key("concurrency", &JOB_CONCURRENCY),
            key("strategy", &STRATEGY),
        ],
        keys![
            key("needs", &ONE_OR_MANY),
            key("if", &JOB_IF),
            key("strategy", &STRATEGY),
            key("name", &CELL_TEXT),
            required("runs-on", &RUNS_ON),
            key("timeout-minutes", &CELL_NUMBER),
            key("cancel-timeout-minutes", &CELL_NUMBER),
            key("continue-on-error", &CELL_BOOL),
            key("container", &CONTAINER),
            key("services", &SERVICES),
            key("env", &JOB_ENV),
            key("environment", &ENVIRONMENT),
            key("permissions", &PERMISSIONS),
            key("concurrency", &JOB_CONCURRENCY),
            key("outputs", &JOB_OUTPUTS),
            key("defaults", &JOB_DEFAULTS),
            key("steps", &STEPS),
            key("snapshot", &SNAPSHOT),
        ],
    ];
    CALL_WITH: Scope::NONE => [keys![others &CELL_SCALAR]];
    CELL_SCALAR: Scope::CELL => [Shape::Text, Shape::Bool, Shape::Number];
    CALL_SECRETS: Scope::NONE => [Shape::Word(&["inherit"]), keys![others &CALL_SECRET]];
    CALL_SECRET: Scope::CELL.and(Scope::SECRETS) => [Shape::Text, Shape::Bool, Shape::Number];
    JOB_IF: Scope::NEEDED.and(Scope::STATUS) => [Shape::Condition];
    STRATEGY: Scope::NEEDED => [keys![
        key("fail-fast", &BOOL),
        key("max-parallel", &NUMBER),
        key("matrix", &MATRIX),
    ]];
    MATRIX: Scope::NONE => [keys![others &VECTOR, key("include", &CELLS), key("exclude", &CELLS)]];
    VECTOR: Scope::NONE => [Shape::Sequence(&ANY)];
    CELLS: Scope::NONE => [Shape::Sequence(&CELL)];
    CELL: Scope::NONE => [keys![others &ANY]];
    CELL_TEXT: Scope::CELL => [Shape::Text];
    CELL_NUMBER: Scope::CELL => [Shape::Number];
    CELL_BOOL: Scope::CELL => [Shape::Bool];
    RUNS_ON: Scope::CELL => [Shape::Filled, Shape::Sequence(&FILLED), keys![
        key("group", &FILLED),
        key("labels", &ONE_OR_MANY),
    ]];
    JOB_ENV: Scope::CELL.and(Scope::SECRETS) => [keys![others &TEXT]];
    JOB_CONCURRENCY: Scope::CELL => [Shape::Filled, CONCURRENCY];
    ENVIRONMENT: Scope::CELL => [Shape::Text, keys![
        required("name", &TEXT),
        key("url", &RUNNING_TEXT),
        key("deployment", &BOOL),
    ]];
    RUNNING_TEXT: Scope::RUNNING => [Shape::Text];
    JOB_OUTPUTS: Scope::NONE => [keys![others &JOB_OUTPUT]];
    JOB_OUTPUT: Scope::RUNNING.and(Scope::SECRETS) => [Shape::Text];
    JOB_DEFAULTS: Scope::NONE => [keys![key("run", &JOB_RUN_DEFAULTS)]];
    JOB_RUN_DEFAULTS: Scope::CELL.and(Scope::ENV) => [keys![key("shell", &FILLED), key("working-directory", &FILLED)]];
    SNAPSHOT: Scope::NONE => [Shape::Filled, keys![
        required("image-name", &FILLED),
        key("if", &SNAPSHOT_IF),
        key("version", &FILLED),
    ]];
    SNAPSHOT_IF: Scope::CELL => [Shape::Condition];

    CONTAINER: Scope::CELL => [Shape::Text, keys![
        key("image", &FILLED),
        key("options", &TEXT),
        key("env", &CONTAINER_ENV),
        key("ports", &TEXTS),
        key("volumes", &TEXTS),
        key("credentials", &CREDENTIALS),
    ]];
    SERVICES: Scope::CELL => [keys![others &SERVICE]];
    SERVICE: Scope::NONE => [Shape::Filled, keys![
        key("image", &FILLED),
        key("options", &TEXT),
        key("env", &CONTAINER_ENV),
        key("ports", &TEXTS),
        key("volumes", &TEXTS),
        key("credentials", &CREDENTIALS),
        key("entrypoint", &TEXT),
        key("command", &TEXT),
    ]];
    CONTAINER_ENV: Scope::NONE => [keys![others &CONTAINER_ENV_VALUE]];
    CONTAINER_ENV_VALUE: Scope::RUNNING.and(Scope::SECRETS) => [Shape::Text];
    CREDENTIALS: Scope::RUN.and(Scope::SECRETS).and(Scope::ENV) => [keys![
        key("username", &FILLED),
        key("password", &FILLED),
    ]];

    STEPS: Scope::NONE => [Shape::Sequence(&STEP)];
    STEP: Scope::NONE => [
        keys![mark "uses":
            key("name", &STEP_TEXT),
            key("id", &FILLED),
            key("if", &STEP_IF),
            key("continue-on-error", &STEP_BOOL),
            key("timeout-minutes", &STEP_NUMBER),
            required("uses", &FILLED),
            key("with", &STEP_MAP),
            key("env", &STEP_MAP),
            key("background", &BOOL),
        ],
        keys![mark "wait":
            key("name", &STEP_TEXT),
            key("id", &FILLED),
            key("continue-on-error", &STEP_BOOL),
            required("wait", &ONE_OR_MANY),
        ],
        keys![mark "wait-all":
            key("name", &STEP_TEXT),
            key("id", &FILLED),
            key("continue-on-error", &STEP_BOOL),
            required("wait-all", &NULL_OR_BOOL),
        ],
        keys![mark "cancel":
            key("name", &STEP_TEXT),
            key("id", &FILLED),
            key("continue-on-error", &STEP_BOOL),
            required("cancel", &FILLED),
        ],
        keys![mark "parallel": required("parallel", &STEPS)],
        keys![
            key("name", &STEP_TEXT),
            key("id", &FILLED),
            key("if", &STEP_IF),
            key("timeout-minutes", &STEP_NUMBER),
            required("run", &STEP_TEXT),
            key("continue-on-error", &STEP_BOOL),
            key("env", &STEP_MAP),
            key("working-directory", &STEP_TEXT),
            key("shell", &FILLED),
            key("background", &BOOL),
        ],
    ];
    ACTION: Scope::NONE => [keys![others &ANY,
        key("inputs", &ACTION_INPUTS),
        key("outputs", &ACTION_OUTPUTS),
        required("runs", &ACTION_RUNS),
    ]];
    ACTION_INPUTS: Scope::NONE => [Shape::Null, keys![others &ACTION_INPUT]];
    ACTION_INPUT: Scope::NONE => [Shape::Null, keys![others &ANY, key("default", &ACTION_DEFAULT), key("required", &SCALAR)]];
    ACTION_DEFAULT: Scope::ACTION_DEFAULT => [Shape::Text];
    ACTION_OUTPUTS: Scope::NONE => [Shape::Null, keys![others &ACTION_OUTPUT]];
    ACTION_OUTPUT: Scope::NONE => [Shape::Null, keys![others &ANY, key("value", &ACTION_TEXT)]];
    ACTION_RUNS: Scope::NONE => [keys![others &ANY, required("using", &FILLED), key("steps", &ACTION_STEPS)]];
    ACTION_STEPS: Scope::NONE => [Shape::Sequence(&ACTION_STEP)];
    ACTION_STEP: Scope::NONE => [
        keys![mark "uses":
            key("name", &ACTION_TEXT),
            key("id", &FILLED),
            key("if", &ACTION_IF),
            key("continue-on-error", &ACTION_BOOL),
            required("uses", &FILLED),
            key("with", &ACTION_MAP),
            key("env", &ACTION_MAP),
        ],
        keys![
            key("name", &ACTION_TEXT),
            key("id", &FILLED),
            key("if", &ACTION_IF),
            required("run", &ACTION_TEXT),
            required("shell", &ACTION_TEXT),
            key("continue-on-error", &ACTION_BOOL),
            key("env", &ACTION_MAP),
            key("working-directory", &ACTION_TEXT),
        ],
    ];
    ACTION_TEXT: Scope::ACTION => [Shape::Text];
    ACTION_BOOL: Scope::ACTION => [Shape::Bool];
    ACTION_MAP: Scope::ACTION => [keys![others &TEXT]];
    ACTION_IF: Scope::ACTION.and(Scope::STATUS) => [Shape::Condition];

    NULL_OR_BOOL: Scope::NONE => [Shape::Null, Shape::Bool];
    STEP_TEXT: Scope::STEP => [Shape::Text];
    STEP_NUMBER: Scope::STEP => [Shape::Number];
    STEP_BOOL: Scope::STEP => [Shape::Bool];
    STEP_MAP: Scope::STEP => [keys![others &TEXT]];
    STEP_IF: Scope::RUNNING.and(Scope::STATUS).and(Scope::HASH) => [Shape::Condition];

    CALL_INPUTS: Scope::NONE => [keys![others &CALL_INPUT]];
    CALL_INPUT: Scope::NONE => [keys![
        required("type", &CALL_INPUT_TYPE),
        key("description", &TEXT),
        key("required", &BOOL),
        key("default", &CALL_INPUT_DEFAULT),
    ]];
    CALL_INPUT_TYPE: Scope::NONE => [Shape::Word(&["string", "boolean", "number"])];
    CALL_INPUT_DEFAULT: Scope::RUN => [Shape::Text, Shape::Bool, Shape::Number];
    CALL_DECLARED_SECRETS: Scope::NONE => [keys![others &CALL_DECLARED_SECRET]];
    CALL_DECLARED_SECRET: Scope::NONE => [Shape::Null, keys![key("description", &TEXT), key("required", &BOOL)]];
    CALL_OUTPUTS: Scope::NONE => [keys![others &CALL_OUTPUT]];
    CALL_OUTPUT: Scope::NONE => [keys![key("description", &TEXT), required("value", &CALL_OUTPUT_VALUE)]];
    CALL_OUTPUT_VALUE: Scope::RUN.and(Scope::JOBS) => [Shape::Text];
    DISPATCH_INPUTS: Scope::NONE => [Shape::Null, keys![others &DISPATCH_INPUT]];
    DISPATCH_INPUT: Scope::NONE => [Shape::Null, keys![
        key("type", &DISPATCH_INPUT_TYPE),
        key("description", &TEXT),
        key("required", &BOOL),
        key("default", &SCALAR),
        key("options", &DISPATCH_OPTIONS),
    ]];
    DISPATCH_INPUT_TYPE: Scope::NONE => [Shape::Word(&["string", "boolean", "number", "environment", "choice"])];
    DISPATCH_OPTIONS: Scope::NONE => [Shape::Sequence(&TEXT)];
    CRON: Scope::NONE => [Shape::Sequence(&CRON_ENTRY)];
    CRON_ENTRY: Scope::NONE => [keys![required("cron", &FILLED), key("timezone", &FILLED)]];
}

const CONCURRENCY: Shape = keys![required("group", &FILLED), key("cancel-in-progress", &BOOL), key("queue", &QUEUE),];

static QUEUE: Definition = Definition { scope: Scope::NONE, shapes: &[Shape::Word(&["single", "max"])] };
