//! A job and what is known when all that it needs has ended: its condition, its matrix, its names and limits, evaluated.

use std::sync::Arc;
use std::time::Duration;

use caisson_expr::{Condition, Context, Contexts, ExprError, Function, Object, Template, Value};
use caisson_model::diagnostic::{Diagnostic, DiagnosticKind, Severity};
use caisson_model::id::{Digest, JobId, RunId};
use caisson_model::job::{JobSpec, Need, RunContexts, Strategy};
use caisson_model::outcome::Outcome;
use caisson_model::step::StepSpec;
use indexmap::IndexMap;
use serde_json::{Value as Json, json};

use crate::matrix::{self, Cell};
use crate::planned::PlannedJob;

/// How long a job may take that does not say so itself, as the language documents it.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(360 * 60);

/// What is known when all that a job needs has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Ready {
    /// The run.
    pub run: RunId,
    /// The number that the first cell gets; the others follow.
    pub first_index: u32,
    /// Results and outputs of the jobs that this one names in `needs:`.
    pub needs: IndexMap<String, Need>,
    /// Whether any job that this one depends on, directly or not, failed.
    pub ancestor_failed: bool,
    /// Whether the run was cancelled.
    pub cancelled: bool,
    /// The plan's contexts.
    pub contexts: Arc<RunContexts>,
    /// The plan's source tree.
    pub source: Option<Digest>,
}

/// What becomes of a job.
#[derive(Clone, Debug, PartialEq)]
pub enum Expansion {
    /// It runs: one spec per cell of its matrix, one without a matrix.
    Cells(Vec<JobSpec>),
    /// It does not run.
    Skipped {
        /// Why: lower case, no full stop.
        reason: String,
    },
    /// It calls a workflow: these jobs come into the run, and `collector` takes the job's place, under its key, to wait for them.
    Called {
        /// The jobs of the called workflow, for every cell of the caller's matrix.
        jobs: Vec<PlannedJob>,
        /// What the calling job is from now on.
        collector: Box<PlannedJob>,
    },
    /// It called a workflow, whose jobs have ended.
    Ended {
        /// The worst of theirs.
        outcome: Outcome,
        /// What the called workflow gives out.
        outputs: IndexMap<String, String>,
    },
}

/// What jobs of a called workflow call each other by.
fn inside<'k>(job: &PlannedJob, key: &'k str) -> &'k str {
    job.scope.as_ref().and_then(|scope| key.strip_prefix(&scope.prefix)).unwrap_or(key)
}

/// What a job sees as `vars`: those of all, and over them those of its environment.
fn seen(all: &Json, own: &Json) -> Json {
    let Json::Object(own) = own else { return all.clone() };
    let mut seen = all.as_object().cloned().unwrap_or_default();
    seen.extend(own.clone());
    Json::Object(seen)
}

pub(crate) fn needed_contexts(job: &PlannedJob, ready: &Ready) -> Contexts {
    let needs: Object = ready
        .needs
        .iter()
        .map(|(key, need)| {
            let key = inside(job, key);
            let outputs: Object = need.outputs.iter().map(|(name, value)| (name, value.as_str())).collect();
            let mut object = Object::new();
            object.insert("result", need.outcome.result());
            object.insert("outputs", outputs);
            (key, object)
        })
        .collect();
    let object = |json: &Json| match json {
        Json::Null => Value::Object(Object::new()),
        json => Value::from_json(json),
    };
    Contexts::new()
        .with("github", object(&ready.contexts.github))
        .with("inputs", object(job.scope.as_ref().map_or(&ready.contexts.inputs, |scope| &scope.inputs)))
        .with("vars", object(&seen(&ready.contexts.vars, &job.vars)))
        .with("needs", needs)
}

/// The contexts of a job's `if:`, with the status of what it needs.
struct JobStatus<'r> {
    job: &'r PlannedJob,
    contexts: &'r Contexts,
    ready: &'r Ready,
}

impl Context for JobStatus<'_> {
    fn named(&self, name: &str) -> Option<Value> {
        self.contexts.named(name)
    }

    fn status(&self, function: Function, arguments: &[Value]) -> Result<bool, String> {
        let named: Vec<String> = arguments.iter().map(Value::to_text).collect();
        let mut outcomes = Vec::new();
        for (key, need) in &self.ready.needs {
            if named.is_empty() || named.iter().any(|name| name.eq_ignore_ascii_case(inside(self.job, key))) {
                outcomes.push(need.outcome);
            }
        }
        let failed = |outcome: &Outcome| outcome.result() == "failure";
        let earlier = named.is_empty() && self.ready.ancestor_failed;
        Ok(match function {
            Function::Always => true,
            Function::Cancelled => self.ready.cancelled,
            Function::Failure => !self.ready.cancelled && (earlier || outcomes.iter().any(failed)),
            _ => !self.ready.cancelled && !earlier && outcomes.iter().all(|outcome| *outcome == Outcome::Success),
        })
    }
}

/// A job's `strategy:` with its values. No cells are left where none of them was asked for.
pub(crate) struct Evaluated {
    pub(crate) cells: Option<Vec<Cell>>,
    pub(crate) fail_fast: bool,
    pub(crate) max_parallel: Option<u32>,
}

/// A job and what is known when all that it needs has ended.
pub(crate) struct Needs<'r> {
    pub(crate) job: &'r PlannedJob,
    pub(crate) ready: &'r Ready,
    pub(crate) contexts: Contexts,
    /// What every cell's spec holds alike.
    shared: (Arc<[StepSpec]>, Arc<RunContexts>),
}

impl<'r> Needs<'r> {
    pub(crate) fn new(job: &'r PlannedJob, ready: &'r Ready) -> Needs<'r> {
        let mut shared = ready.contexts.clone();
        if let Some(scope) = &job.scope {
            Arc::make_mut(&mut shared).inputs = scope.inputs.clone();
        }
        if job.vars.is_object() {
            let vars = seen(&shared.vars, &job.vars);
            Arc::make_mut(&mut shared).vars = vars;
        }
        Needs { job, ready, contexts: needed_contexts(job, ready), shared: (job.steps.as_slice().into(), shared) }
    }

    pub(crate) fn skip_reason(&self) -> Result<Option<String>, Diagnostic> {
        let text = self.job.condition.as_ref().map(|condition| condition.0.as_str()).unwrap_or_default();
        let status = JobStatus { job: self.job, contexts: &self.contexts, ready: self.ready };
        let holds =
            Condition::parse(text).and_then(|condition| condition.evaluate(&status)).map_err(|error| self.finding("if", error.message))?;
        if holds {
            return Ok(None);
        }
        let unmet = self.ready.needs.iter().find(|(_, need)| need.outcome != Outcome::Success);
        Ok(Some(match unmet {
            Some((key, need)) if text.is_empty() => format!("it needs '{}', which ended with {}", inside(self.job, key), need.outcome),
            _ if text.is_empty() => "the run was cancelled, or a job before it failed".to_owned(),
            _ => format!("its condition is false: {}", text.trim()),
        }))
    }

    pub(crate) fn strategy(&self) -> Result<Evaluated, Diagnostic> {
        let Some(strategy) = &self.job.strategy else { return Ok(Evaluated { cells: None, fail_fast: true, max_parallel: None }) };
        let fail_fast = match self.evaluated(&strategy.fail_fast, &self.contexts, "strategy.fail-fast")? {
            Json::Null => true,
            Json::Bool(value) => value,
            other => return Err(self.finding("strategy.fail-fast", format!("true or false is wanted, this is {other}"))),
        };
        let max_parallel = match self.evaluated(&strategy.max_parallel, &self.contexts, "strategy.max-parallel")? {
            Json::Null => None,
            value => Some(
                count(&value)
                    .ok_or_else(|| self.finding("strategy.max-parallel", format!("a whole number from 1 is wanted, this is {value}")))?,
            ),
        };
        let cells = match self.evaluated(&strategy.matrix, &self.contexts, "strategy.matrix")? {
            Json::Null => None,
            matrix => {
                let mut cells =
                    matrix::expand(&matrix, self.job.max_cells).map_err(|error| self.finding("strategy.matrix", error.to_string()))?;
                matrix::choose(&mut cells, &strategy.only);
                Some(cells)
            }
        };
        Ok(Evaluated { cells, fail_fast, max_parallel })
    }

    /// The contexts of one cell, and its `matrix`: an object, or null without a matrix.
    pub(crate) fn cell_contexts(&self, cell: Option<Cell>, strategy: &Strategy) -> (Contexts, Json) {
        let matrix = cell.map_or(Json::Null, Json::Object);
        let contexts = self.contexts.clone().with("matrix", Value::from_json(&matrix)).with(
            "strategy",
            Value::from_json(&json!({
                "fail-fast": strategy.fail_fast,
                "job-index": strategy.job_index,
                "job-total": strategy.job_total,
                "max-parallel": strategy.max_parallel.unwrap_or(strategy.job_total),
            })),
        );
        (contexts, matrix)
    }

    /// Whether anything of a cell's spec hangs on its own contexts; making them for each cell of a large matrix is most of its cost.
    fn tells_cells_apart(&self) -> bool {
        let PlannedJob { name, runs_on, timeout_minutes, continue_on_error, .. } = self.job;
        holds_expression(runs_on) || [name, timeout_minutes, continue_on_error].into_iter().flatten().any(|text| text.0.contains("${{"))
    }

    pub(crate) fn cell(&self, cell: Option<Cell>, strategy: Strategy) -> Result<JobSpec, Diagnostic> {
        let job = self.job;
        let (own, matrix) = match self.tells_cells_apart() {
            true => {
                let (contexts, matrix) = self.cell_contexts(cell, &strategy);
                (Some(contexts), matrix)
            }
            false => (None, cell.map_or(Json::Null, Json::Object)),
        };
        let contexts = own.as_ref().unwrap_or(&self.contexts);
        let (steps, shared) = self.shared.clone();
        let id = JobId { run: self.ready.run, index: self.ready.first_index.saturating_add(strategy.job_index) };
        Ok(JobSpec {
            id,
            key: job.key.clone(),
            name: self.name(&matrix, contexts)?,
            workflow: job.workflow.clone(),
            labels: self.labels(contexts)?,
            matrix,
            strategy,
            needs: self.ready.needs.iter().map(|(key, need)| (inside(job, key).to_owned(), need.clone())).collect(),
            workflow_env: job.workflow_env.clone(),
            env: job.env.clone(),
            outputs: job.outputs.clone(),
            steps,
            timeout: self.timeout(contexts)?,
            continue_on_error: self.continue_on_error(contexts)?,
            contexts: shared,
            source: self.ready.source,
        })
    }

    /// The name as written, with the cell's values appended unless it holds an expression that can tell cells apart.
    pub(crate) fn name(&self, matrix: &Json, contexts: &Contexts) -> Result<String, Diagnostic> {
        let (own, told_apart) = match &self.job.name {
            Some(name) if !name.0.is_empty() => (self.text(&name.0, contexts, "name")?, name.0.contains("${{")),
            _ => (inside(self.job, &self.job.key.0).to_owned(), false),
        };
        let title = self.job.scope.as_ref().map(|scope| scope.title.as_str()).unwrap_or_default();
        let base = format!("{title}{own}");
        let label = matrix.as_object().map(matrix::label).filter(|label| !told_apart && !label.is_empty());
        Ok(match label {
            Some(label) => format!("{base} ({label})"),
            None => base,
        })
    }

    pub(crate) fn labels(&self, contexts: &Contexts) -> Result<Vec<String>, Diagnostic> {
        let runs_on = self.evaluated(&self.job.runs_on, contexts, "runs-on")?;
        let labels = match &runs_on {
            Json::Object(map) => map.get("labels").cloned().unwrap_or_default(),
            other => other.clone(),
        };
        let labels = match labels {
            Json::Array(labels) => labels,
            Json::Null => Vec::new(),
            label => vec![label],
        };
        let labels: Vec<String> = labels.iter().map(|label| Value::from_json(label).to_text().trim().to_lowercase()).collect();
        if labels.is_empty() || labels.iter().any(String::is_empty) {
            return Err(self.finding("runs-on", format!("at least one label is wanted, and none empty; this is {runs_on}")));
        }
        Ok(labels)
    }

    fn timeout(&self, contexts: &Contexts) -> Result<Duration, Diagnostic> {
        let Some(template) = &self.job.timeout_minutes else { return Ok(DEFAULT_TIMEOUT) };
        let minutes = self.value(&template.0, contexts, "timeout-minutes")?.to_number();
        Duration::try_from_secs_f64(minutes * 60.0)
            .ok()
            .filter(|timeout| !timeout.is_zero())
            .ok_or_else(|| self.finding("timeout-minutes", format!("a number of minutes above 0 is wanted, this is {minutes}")))
    }

    fn continue_on_error(&self, contexts: &Contexts) -> Result<bool, Diagnostic> {
        let Some(template) = &self.job.continue_on_error else { return Ok(false) };
        let value = self.value(&template.0, contexts, "continue-on-error")?;
        match value.to_text().as_str() {
            "true" => Ok(true),
            // A matrix value that a cell does not have is null, and means no.
            "false" | "" => Ok(false),
            other => Err(self.finding("continue-on-error", format!("true or false is wanted, this is {other}"))),
        }
    }

    fn value(&self, text: &str, contexts: &Contexts, key: &str) -> Result<Value, Diagnostic> {
        let refuse = |error: ExprError| self.finding(key, error.message);
        Template::parse(text).map_err(refuse)?.evaluate(contexts).map_err(refuse)
    }

    pub(crate) fn text(&self, text: &str, contexts: &Contexts, key: &str) -> Result<String, Diagnostic> {
        self.value(text, contexts, key).map(|value| value.to_text())
    }

    /// JSON with all expressions in its texts evaluated.
    pub(crate) fn evaluated(&self, json: &Json, contexts: &Contexts, key: &str) -> Result<Json, Diagnostic> {
        Ok(match json {
            Json::String(text) if text.contains("${{") => self.value(text, contexts, key)?.to_json(),
            Json::Array(items) => items.iter().map(|item| self.evaluated(item, contexts, key)).collect::<Result<Vec<_>, _>>()?.into(),
            Json::Object(map) => {
                let mut evaluated = serde_json::Map::new();
                for (name, value) in map {
                    evaluated.insert(name.clone(), self.evaluated(value, contexts, key)?);
                }
                Json::Object(evaluated)
            }
            other => other.clone(),
        })
    }

    pub(crate) fn finding(&self, key: &str, message: String) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            kind: DiagnosticKind::Language,
            location: self.job.places.get(key).unwrap_or(&self.job.location).clone(),
            width: 0,
            construct: format!("jobs.{}.{key}", self.job.key),
            message,
            help: "correct the value, or the outputs and inputs that it is made of".to_owned(),
            excerpt: String::new(),
        }
    }
}

fn holds_expression(json: &Json) -> bool {
    match json {
        Json::String(text) => text.contains("${{"),
        Json::Array(items) => items.iter().any(holds_expression),
        Json::Object(map) => map.values().any(holds_expression),
        _ => false,
    }
}

fn count(value: &Json) -> Option<u32> {
    let number = Value::from_json(value).to_number();
    (number >= 1.0 && number.fract() == 0.0 && number <= f64::from(u32::MAX)).then_some(number as u32)
}
