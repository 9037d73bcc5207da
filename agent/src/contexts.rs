//! The contexts of a job's expressions: what `github`, `env`, `steps`, `secrets` and their kin hold at one place. Values only;
//! `hashFiles` is answered by whoever drives an evaluation, since this file knows no files.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;

use caisson_expr::{Condition, Context, ErrorKind, ExprError, Function, Object, Status, Template, Value};
use caisson_model::job::JobSpec;
use caisson_model::outcome::Outcome;
use caisson_model::step::Location;

use crate::apt;
use crate::view;

/// The workspace's parent inside, and what else lies there.
pub const WORK: &str = "/home/runner/work";
/// `RUNNER_TEMP` inside.
pub const TEMP: &str = "/home/runner/work/_temp";
/// `RUNNER_TOOL_CACHE` inside.
pub const TOOL_CACHE: &str = "/opt/hostedtoolcache";
/// Where the read-only files of one step lie inside, its script and its event: on the sandbox's own root, out of the job's reach.
pub const SCRIPTS: &str = "/caisson";
/// Where the files lie inside through which a step speaks.
pub const STEP_FILES: &str = "/home/runner/work/_temp/_runner_file_commands";

/// What the expressions of a job may ask, kept up to date from step to step.
#[derive(Clone, Debug)]
pub struct JobContexts {
    github: Object,
    inputs: Value,
    vars: Value,
    matrix: Value,
    strategy: Value,
    needs: Value,
    runner: Value,
    steps: Object,
    action_path: Option<String>,
    /// `GITHUB_WORKSPACE` inside.
    pub workspace: String,
}

/// What the expressions of one level see that those of another do not: the workflow's, or an action's.
#[derive(Clone, Debug)]
pub struct Scoped {
    inputs: Value,
    steps: Object,
    action_path: Option<String>,
}

/// What a step adds for its own expressions.
#[derive(Clone, Debug, Default)]
pub struct StepContexts {
    /// `env`.
    pub env: Object,
    /// `secrets`: those that the step was granted. `None` where the context is not available.
    pub secrets: Option<Object>,
    /// How the job fares; `None` where the status functions are not available.
    pub status: Option<Status>,
    /// `github.action`.
    pub action: String,
}

/// Digests that `hashFiles` was asked for, by its patterns.
pub type Hashes = HashMap<Vec<String>, Result<String, String>>;

/// An evaluation could not be finished.
#[derive(Clone, Debug, PartialEq)]
pub enum Unfinished {
    /// It needs `hashFiles` of these patterns: compute, remember in [`Hashes`], ask again.
    Hash(Vec<String>),
    /// It fails.
    Failed(ExprError),
}

impl JobContexts {
    /// The contexts at the beginning of a job's attempt.
    pub fn of(spec: &JobSpec, attempt: u32, agent: &str) -> JobContexts {
        let mut github = match Value::from_json(&spec.contexts.github) {
            Value::Object(object) => object,
            _ => Object::new(),
        };
        let repository = github.get("repository").map(Value::to_text).unwrap_or_default();
        let name = directory_name(&repository);
        let workspace = format!("{WORK}/{name}/{name}");
        github.insert("workspace", Value::string(&workspace));
        github.insert("job", Value::string(&spec.key.0));
        github.insert("run_attempt", Value::string(attempt.to_string()));
        github.insert("event_path", Value::string(format!("{SCRIPTS}/event.json")));
        let owner = repository.split_once('/').map_or("", |(owner, _)| owner).to_owned();
        let sha = github.get("sha").map(Value::to_text).unwrap_or_default();
        for (key, value) in [
            ("workflow", spec.workflow.clone()),
            ("run_id", spec.id.run.to_string()),
            ("run_number", spec.id.run.to_string()),
            ("repository_owner", owner),
            ("server_url", "https://github.com".to_owned()),
            ("api_url", "https://api.github.com".to_owned()),
            ("graphql_url", "https://api.github.com/graphql".to_owned()),
            ("workflow_sha", sha),
            ("triggering_actor", github.get("actor").map(Value::to_text).unwrap_or_default()),
            ("retention_days", "0".to_owned()),
            ("head_ref", String::new()),
            ("base_ref", String::new()),
            // No credential of anybody: see the language's security rules.
            ("token", String::new()),
        ] {
            if github.get(key).is_none() {
                github.insert(key, Value::string(value));
            }
        }
        if github.get("ref_protected").is_none() {
            github.insert("ref_protected", Value::Bool(false));
        }
        let needs: Object = spec
            .needs
            .iter()
            .map(|(key, need)| {
                let outputs: Object = need.outputs.iter().map(|(name, value)| (name, Value::string(value))).collect();
                (key, object([("result", Value::string(need.outcome.result())), ("outputs", Value::Object(outputs))]))
            })
            .collect();
        let number = |number: u32| Value::Number(f64::from(number));
        let strategy = object([
            ("fail-fast", Value::Bool(spec.strategy.fail_fast)),
            ("job-index", number(spec.strategy.job_index)),
            ("job-total", number(spec.strategy.job_total)),
            ("max-parallel", number(spec.strategy.max_parallel.unwrap_or(spec.strategy.job_total))),
        ]);
        let runner = object([
            ("name", Value::string(agent)),
            ("os", Value::string("Linux")),
            ("arch", Value::string(architecture())),
            ("temp", Value::string(TEMP)),
            ("tool_cache", Value::string(TOOL_CACHE)),
            ("workspace", Value::string(format!("{WORK}/{name}"))),
            ("debug", Value::string("")),
            ("environment", Value::string("self-hosted")),
        ]);
        let or_empty = |json: &serde_json::Value| match Value::from_json(json) {
            Value::Null => Value::Object(Object::new()),
            value => value,
        };
        JobContexts {
            github,
            inputs: or_empty(&spec.contexts.inputs),
            vars: or_empty(&spec.contexts.vars),
            matrix: Value::from_json(&spec.matrix),
            strategy,
            needs: Value::Object(needs),
            runner,
            steps: Object::new(),
            action_path: None,
            workspace,
        }
    }

    /// Enters an action that lies in `path`; gives what is outside of it.
    pub fn enter(&mut self, inputs: Object, path: String) -> Scoped {
        self.resume(Scoped { inputs: Value::Object(inputs), steps: Object::new(), action_path: Some(path) })
    }

    /// Enters an action once more, as it was; gives what is outside of it.
    pub fn resume(&mut self, scope: Scoped) -> Scoped {
        let action_path = std::mem::replace(&mut self.action_path, scope.action_path);
        Scoped {
            inputs: std::mem::replace(&mut self.inputs, scope.inputs),
            steps: std::mem::replace(&mut self.steps, scope.steps),
            action_path,
        }
    }

    /// Leaves an action.
    pub fn leave(&mut self, outside: Scoped) {
        drop(self.resume(outside));
    }

    /// The action whose steps are running; `None` for the job's own.
    pub fn inside(&self) -> Option<Scoped> {
        let scoped = Scoped { inputs: self.inputs.clone(), steps: self.steps.clone(), action_path: self.action_path.clone() };
        self.action_path.is_some().then_some(scoped)
    }

    /// Where the action lies whose steps are running.
    pub fn action_path(&self) -> Option<&str> {
        self.action_path.as_deref()
    }

    /// A field of the `github` context as text; empty when there is none.
    pub fn github(&self, key: &str) -> String {
        self.github.get(key).map(Value::to_text).unwrap_or_default()
    }

    /// Whether `::debug::` is shown: the variable `ACTIONS_STEP_DEBUG` is true.
    pub fn debug(&self) -> bool {
        match &self.vars {
            Value::Object(vars) => vars.get("ACTIONS_STEP_DEBUG").is_some_and(|value| value.to_text().eq_ignore_ascii_case("true")),
            _ => false,
        }
    }

    /// The keys of `github` that become `GITHUB_` variables, with their text.
    pub fn github_variables(&self) -> impl Iterator<Item = (String, String)> {
        const SHOWN: [&str; 27] = [
            "actor",
            "actor_id",
            "api_url",
            "base_ref",
            "event_name",
            "event_path",
            "graphql_url",
            "head_ref",
            "job",
            "ref",
            "ref_name",
            "ref_protected",
            "ref_type",
            "repository",
            "repository_id",
            "repository_owner",
            "repository_owner_id",
            "retention_days",
            "run_attempt",
            "run_id",
            "run_number",
            "server_url",
            "sha",
            "triggering_actor",
            "workflow",
            "workflow_ref",
            "workflow_sha",
        ];
        SHOWN.iter().filter_map(|key| Some((format!("GITHUB_{}", key.to_ascii_uppercase()), self.github.get(key)?.to_text())))
    }

    /// `github.event` as JSON text.
    pub fn event(&self) -> Vec<u8> {
        let event = self.github.get("event").map_or(serde_json::Value::Null, Value::to_json);
        let event = if event.is_null() { serde_json::Value::Object(serde_json::Map::new()) } else { event };
        event.to_string().into_bytes()
    }

    /// Records how a step with an `id:` ended.
    pub fn step_ended(&mut self, id: &str, outcome: Outcome, conclusion: Outcome, outputs: &[(String, String)]) {
        let outputs: Object = outputs.iter().fold(Object::new(), |mut object, (name, value)| {
            object.insert(name, Value::string(value));
            object
        });
        let fields = [
            ("outputs", Value::Object(outputs)),
            ("outcome", Value::string(outcome.result())),
            ("conclusion", Value::string(conclusion.result())),
        ];
        self.steps.insert(id, object(fields));
    }

    /// Evaluates with these contexts: `evaluation` gets them and gives a value or an error.
    ///
    /// # Errors
    /// [`Unfinished`].
    pub fn evaluate<T>(
        &self,
        step: &StepContexts,
        hashes: &Hashes,
        evaluation: impl FnOnce(&dyn Context) -> Result<T, ExprError>,
    ) -> Result<T, Unfinished> {
        let scope = Scope { job: self, step, hashes, wanted: RefCell::new(None) };
        let result = evaluation(&scope);
        match (result, scope.wanted.into_inner()) {
            (Ok(value), _) => Ok(value),
            (Err(_), Some(patterns)) => Err(Unfinished::Hash(patterns)),
            (Err(error), None) => Err(Unfinished::Failed(error)),
        }
    }
}

struct Scope<'s> {
    job: &'s JobContexts,
    step: &'s StepContexts,
    hashes: &'s Hashes,
    wanted: RefCell<Option<Vec<String>>>,
}

impl Context for Scope<'_> {
    fn named(&self, name: &str) -> Option<Value> {
        Some(match name.to_ascii_lowercase().as_str() {
            "github" => {
                let mut github = self.job.github.clone();
                github.insert("action", Value::string(&self.step.action));
                if let Some(path) = &self.job.action_path {
                    github.insert("action_path", Value::string(path));
                    // How the action itself fares, which is what its steps' conditions ask for too.
                    github.insert("action_status", Value::string(status_word(self.step.status)));
                }
                Value::Object(github)
            }
            "env" => Value::Object(self.step.env.clone()),
            "inputs" => self.job.inputs.clone(),
            "vars" => self.job.vars.clone(),
            "matrix" => self.job.matrix.clone(),
            "strategy" => self.job.strategy.clone(),
            "needs" => self.job.needs.clone(),
            "runner" => self.job.runner.clone(),
            "steps" => Value::Object(self.job.steps.clone()),
            "job" => {
                let status = status_word(self.step.status);
                let services = Value::Object(Object::new());
                object([("status", Value::string(status)), ("services", services.clone()), ("container", services)])
            }
            "secrets" => Value::Object(self.step.secrets.clone()?),
            _ => return None,
        })
    }

    fn status(&self, function: Function, _arguments: &[Value]) -> Result<bool, String> {
        self.step.status.and_then(|status| status.answer(function)).ok_or_else(|| format!("{function}() is not available here"))
    }

    fn hash_files(&self, patterns: &[String]) -> Result<String, String> {
        match self.hashes.get(patterns) {
            Some(answer) => answer.clone(),
            None => {
                self.wanted.borrow_mut().get_or_insert_with(|| patterns.to_vec());
                Err("the digest is not known yet".to_owned())
            }
        }
    }
}

fn status_word(status: Option<Status>) -> &'static str {
    match status {
        None | Some(Status::Success | Status::Skipped) => "success",
        Some(Status::Failure) => "failure",
        Some(Status::Cancelled) => "cancelled",
    }
}

/// Which secrets a text names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretNames {
    /// These, by name in upper case.
    Named(Vec<String>),
    /// It computes names, or takes all.
    Any,
}

/// The secrets that a template names. A text that does not parse names none; its evaluation will say so.
pub fn secrets_of(template: &str) -> SecretNames {
    let mut names = Vec::new();
    let Ok(template) = Template::parse(template) else { return SecretNames::Named(names) };
    for (expression, _) in template.expressions() {
        for path in expression.paths() {
            if !path.root.eq_ignore_ascii_case("secrets") {
                continue;
            }
            match path.segments.first() {
                Some(caisson_expr::Segment::Name(name)) => names.push(name.to_uppercase()),
                _ => return SecretNames::Any,
            }
        }
    }
    SecretNames::Named(names)
}

/// Whether a condition asks the `env` context, whose values may come from secrets.
pub fn condition_asks_env(text: &str) -> bool {
    Condition::parse(text).is_ok_and(|condition| {
        condition.expressions().iter().any(|(expression, _)| expression.contexts().iter().any(|name| name.eq_ignore_ascii_case("env")))
    })
}

/// A message about a failed expression for people: which key of which step, where, why.
pub fn explain(key: &str, label: &str, location: &Location, text: &str, error: &ExprError) -> String {
    let kind = match error.kind {
        ErrorKind::Evaluation => "cannot be evaluated",
        _ => "is not valid",
    };
    let shown = text.get(error.span.start..error.span.end).map(str::trim).filter(|part| !part.is_empty()).unwrap_or(text).trim();
    let shown: String = shown.chars().take(120).collect();
    format!("{}: `{key}` of step '{label}' {kind}: {} (in '{shown}')", Place(location), error.message)
}

/// A location as `file:line`.
pub struct Place<'l>(pub &'l Location);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0.file, self.0.line)
    }
}

/// The folder's name of a repository, safe as one component of a path.
fn directory_name(repository: &str) -> String {
    let last = repository.rsplit('/').next().unwrap_or_default();
    let name: String =
        last.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' }).take(100).collect();
    let name = name.trim_start_matches(['.', '-', '_']).to_owned();
    if name.is_empty() { "project".to_owned() } else { name }
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "X64",
        "aarch64" => "ARM64",
        "arm" => "ARM",
        "x86" => "X86",
        other => other,
    }
}

fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value::Object(fields.into_iter().collect())
}

/// `PATH` with directories added by steps, the last added first.
pub fn search_path(added: &[String]) -> String {
    let mut parts: Vec<&str> = added.iter().rev().map(String::as_str).collect();
    parts.extend([apt::SUDO_DIRECTORY, view::PATH]);
    parts.join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_names_are_safe() {
        for (repository, expected) in [
            ("me/polls", "polls"),
            ("polls", "polls"),
            ("", "project"),
            ("a/..", "project"),
            ("a/b c", "b-c"),
            ("x/_temp", "temp"),
            ("x/.git", "git"),
        ] {
            assert_eq!(directory_name(repository), expected, "{repository}");
        }
    }

    #[test]
    fn secrets_are_found_by_name() {
        let named = |names: &[&str]| SecretNames::Named(names.iter().map(|name| (*name).to_owned()).collect());
        let table = [
            ("plain", named(&[])),
            ("${{ secrets.token }}", named(&["TOKEN"])),
            ("x${{ secrets['A'] }}${{ format('{0}', Secrets.b) }}", named(&["A", "B"])),
            ("${{ secrets[matrix.name] }}", SecretNames::Any),
            ("${{ toJSON(secrets) }}", SecretNames::Any),
            ("${{ env.secrets }}", named(&[])),
        ];
        for (text, expected) in table {
            assert_eq!(secrets_of(text), expected, "{text}");
        }
    }

    #[test]
    fn added_directories_come_first_the_newest_foremost() {
        assert_eq!(search_path(&["/a".into(), "/b".into()]), format!("/b:/a:/caisson/bin:{}", view::PATH));
    }
}
