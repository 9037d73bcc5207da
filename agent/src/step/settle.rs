//! What every step has in common, whatever it executes: its expressions, its environment, its time, what it left, its result.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use caisson_expr::{ExprError, Object, Status, Template, Value};
use caisson_model::lease::StepChange;
use caisson_model::outcome::{AnnotationLevel, Cause, EgressEntry, Fault, Outcome, StepResult};
use caisson_model::secret::OpenedSecrets;
use caisson_model::step::StepSpec;
use caisson_proto::api::{AgentApi, ApiError};
use indexmap::IndexMap;
use tokio::time::Instant;

use crate::attempt::Attempt;
use crate::command_files;
use crate::contexts::{self, Hashes, SecretNames, StepContexts, Unfinished};
use crate::environment;
use crate::logs::{LogError, StepLog};
use crate::output::{Output, Said};
use crate::program::Halt;
use crate::retry;
use crate::secrets::StepSecrets;
use crate::step::ahead;
use crate::step::course::Course;
use crate::step::launch::TimeLimit;
use crate::workspace::{CommandFile, StepFiles};

/// How a step ended, for its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Before `continue-on-error`.
    pub outcome: Outcome,
    /// After it.
    pub conclusion: Outcome,
}

/// The longest that a step without limits of its own may take after its job was cancelled or timed out.
pub const LAST_WORDS: Duration = Duration::from_secs(300);

/// How many digests one evaluation may ask for.
pub(super) const MAX_HASHES: usize = 64;

/// What the body of a step came to.
#[derive(Clone, Debug)]
pub(super) enum Body {
    Skipped,
    Exited(i32),
}

pub(super) async fn begin<'a, A: AgentApi>(attempt: &'a mut Attempt<A>, step: &'a StepSpec, name: &str) -> Result<Course<'a, A>, Halt> {
    let broken =
        |error: &dyn std::fmt::Display| Halt::faulted(format!("the files of the step could not be made: {error}"), Fault::Environment);
    let files: StepFiles = ahead::files(attempt).map_err(|error| broken(&error))?;
    // An agent may keep less than policy wants, never more than its host's rule.
    let limit = step.grant.limits.log_bytes.map_or(attempt.host.log_bytes, |bytes| bytes.min(attempt.host.log_bytes));
    let log = StepLog::open(Arc::clone(&attempt.api), attempt.hold, step.index, attempt.outbox.spool(), limit).await;
    let log = log.map_err(|error| Halt::faulted(format!("{error}{}", because(&error)), error.fault()))?;
    let debug = attempt.contexts.debug();
    let mut output = Output::new(log, step.index, attempt.reports.remarks(), attempt.orders.clone(), debug);
    for value in &attempt.masks {
        output.mask(value, "a value that an earlier step masked").await;
    }
    let secrets = if step.grant.secrets.is_empty() {
        StepSecrets::default()
    } else {
        attempt.reports.settled().await;
        let opened = retry::until_answered(&attempt.orders, || attempt.api.open_secrets(attempt.hold, step.index)).await;
        let opened: Result<OpenedSecrets, Halt> = opened.map_err(|error| match error {
            ApiError::Fenced => Halt { outcome: Outcome::Cancelled, cause: Cause::Cancelled },
            error => Halt::faulted(format!("the secrets of step '{name}' could not be opened: {error}"), error.fault()),
        });
        match opened {
            Ok(opened) => StepSecrets::new(opened, &step.grant.secrets),
            Err(halt) => {
                output.say(&format!("##[error]{}", halt.cause)).await;
                output.seal().await;
                return Err(halt);
            }
        }
    };
    let mut learnt = Vec::new();
    for (name, value) in secrets.values() {
        if !value.is_empty() {
            output.mask(value, &format!("the secret {name}")).await;
            learnt.push(value.to_vec());
        }
    }
    for name in secrets.without_value() {
        output.remark(AnnotationLevel::Warning, &format!("the secret {name} has no value; give it with --secret {name}")).await;
    }
    learnt.retain(|value| !attempt.masks.contains(value));
    attempt.masks.extend(learnt);
    let standing = *attempt.orders.borrow();
    Ok(Course {
        attempt,
        step,
        output,
        secrets,
        env: IndexMap::new(),
        around: IndexMap::new(),
        own: IndexMap::new(),
        place: vec![step.index.0],
        files,
        limit: None,
        ceiling: None,
        growing: None,
        summary: String::new(),
        standing,
        usage: Default::default(),
        enforcement: Default::default(),
        egress: Vec::new(),
        outputs: Vec::new(),
    })
}

/// Settles the step's environment: submission < workflow < job < `GITHUB_ENV` < step, on top of the base. Leaves the `env`
/// context in `contexts`.
pub(super) async fn environment_of<A: AgentApi>(
    course: &mut Course<'_, A>,
    contexts: &mut StepContexts,
) -> Result<IndexMap<String, String>, Halt> {
    let spec = Arc::clone(&course.attempt.spec);
    let step = course.step;
    let mut env: IndexMap<String, String> = spec.contexts.env.clone();
    for (layer, entries) in [("the workflow's env", &spec.workflow_env), ("the job's env", &spec.env)] {
        for (name, template) in entries {
            // A secret that this step may not have does not reach it through a wider layer.
            let granted = match contexts::secrets_of(&template.0) {
                SecretNames::Named(names) => names.iter().all(|name| course.secrets.has(name)),
                SecretNames::Any => !step.grant.secrets.is_empty(),
            };
            if !granted {
                env.shift_remove(name);
                continue;
            }
            let value = text(course, contexts, &format!("{name} in {layer}"), &template.0).await?;
            env.insert(name.clone(), value);
        }
    }
    env.extend(course.attempt.inherited.env.clone());
    env.extend(course.around.clone());
    contexts.env = object(&env);
    let mut own: IndexMap<String, String> = IndexMap::new();
    for (name, template) in &step.env {
        if let SecretNames::Named(names) = contexts::secrets_of(&template.0) {
            for secret in names.iter().filter(|secret| !course.secrets.has(secret)) {
                let message = format!("the secret {secret} is not granted to this step, so {name} holds nothing of it");
                course.output.remark(AnnotationLevel::Warning, &message).await;
            }
        }
        own.insert(name.clone(), text(course, contexts, &format!("env.{name}"), &template.0).await?);
    }
    env.extend(own.clone());
    // What the steps of an action that this one uses begin with.
    course.own = course.around.clone();
    course.own.extend(own);
    contexts.env = object(&env);
    for (name, value) in &env {
        if !environment::valid_name(name) || value.contains('\0') {
            return Err(invalid(
                step,
                &format!("the variable '{}' cannot be set: a name has no '=' and nothing a NUL", name.escape_debug()),
            ));
        }
    }
    let debug = course.attempt.contexts.debug();
    let agent = course.attempt.agent.clone();
    let mut whole = environment::base(&course.attempt.contexts, &agent, step, &course.attempt.inherited, debug);
    whole.extend(env);
    whole.extend(environment::reserved(&course.attempt.contexts, &agent, step, debug));
    Ok(whole)
}

pub(super) fn object(env: &IndexMap<String, String>) -> Object {
    env.iter().map(|(name, value)| (name, Value::string(value))).collect()
}

pub(super) async fn text<A: AgentApi>(
    course: &mut Course<'_, A>,
    contexts: &StepContexts,
    key: &str,
    template: &str,
) -> Result<String, Halt> {
    evaluate(course, contexts, key, template, |context| Template::parse(template)?.render(context)).await
}

pub(super) async fn minutes<A: AgentApi>(course: &mut Course<'_, A>, contexts: &StepContexts, template: &str) -> Result<f64, Halt> {
    let value = evaluate(course, contexts, "timeout-minutes", template, |context| Template::parse(template)?.evaluate(context)).await?;
    let minutes = value.to_number();
    if minutes.is_finite() && minutes > 0.0 {
        Ok(minutes)
    } else {
        Err(invalid(course.step, &format!("timeout-minutes is '{}', which is no positive number", value.to_text())))
    }
}

/// Evaluates, and computes the digests that it turns out to need.
pub(super) async fn evaluate<A: AgentApi, T>(
    course: &mut Course<'_, A>,
    contexts: &StepContexts,
    key: &str,
    source: &str,
    evaluation: impl Fn(&dyn caisson_expr::Context) -> Result<T, ExprError>,
) -> Result<T, Halt> {
    let mut hashes = Hashes::new();
    loop {
        match course.attempt.contexts.evaluate(contexts, &hashes, &evaluation) {
            Ok(value) => return Ok(value),
            Err(Unfinished::Failed(error)) => {
                return Err(Halt::invalid(contexts::explain(key, &course.step.label(), &course.step.location, source, &error)));
            }
            Err(Unfinished::Hash(_)) if hashes.len() >= MAX_HASHES => {
                return Err(invalid(course.step, &format!("`{key}` asks for more than {MAX_HASHES} digests of files")));
            }
            Err(Unfinished::Hash(patterns)) => {
                let answer = course.hash_files(&patterns).await?;
                hashes.insert(patterns, answer);
            }
        }
    }
}

/// The nearest end of: the step's own time, the policy's, the job's; after the job was cancelled, that of its last words.
pub(super) fn time_limit<A: AgentApi>(course: &Course<'_, A>, contexts: &StepContexts, minutes: Option<f64>) -> Option<TimeLimit> {
    let now = Instant::now();
    let job = if contexts.status == Some(Status::Cancelled) {
        TimeLimit { at: now + LAST_WORDS, limit: LAST_WORDS }
    } else {
        TimeLimit { at: course.attempt.deadline.at, limit: course.attempt.deadline.limit }
    };
    let own = minutes.and_then(|minutes| Duration::try_from_secs_f64(minutes * 60.0).ok());
    let within = |limit: Duration| now.checked_add(limit).map(|at| TimeLimit { at, limit });
    let limits = [Some(job), own.and_then(within), course.step.grant.limits.wall.and_then(within), course.ceiling];
    limits.into_iter().flatten().min_by_key(|limit| limit.at)
}

/// What a step came to.
pub(super) struct Settled {
    pub(super) outcome: Outcome,
    pub(super) conclusion: Outcome,
    pub(super) cause: Option<Cause>,
    pub(super) exit_code: Option<i32>,
    pub(super) outputs: Vec<(String, String)>,
}

/// Reads what a step left, and decides what it came to. Says in the log why it failed.
pub(super) async fn settle<A: AgentApi>(course: &mut Course<'_, A>, contexts: &StepContexts, ended: Result<Body, Halt>) -> Settled {
    let step = course.step;
    let (mut outcome, mut cause, exit_code) = match ended {
        Ok(Body::Skipped) => (Outcome::Skipped, None, None),
        Ok(Body::Exited(0)) => (Outcome::Success, None, Some(0)),
        Ok(Body::Exited(code)) => (Outcome::Failure, Some(Cause::ExitCode { code }), Some(code)),
        Err(halt) => (halt.outcome, Some(halt.cause), None),
    };
    let mut outputs = std::mem::take(&mut course.outputs);
    let (said, mut states) = course.output.take();
    if outcome != Outcome::Skipped {
        match absorb(course).await {
            Ok(left) => {
                outputs.extend(left.outputs);
                states.extend(left.states);
            }
            Err(halt) if outcome == Outcome::Success => (outcome, cause) = (halt.outcome, Some(halt.cause)),
            Err(_) => {}
        }
    }
    outputs.extend(said);
    if !states.is_empty() {
        course.attempt.states.entry(course.place.clone()).or_default().extend(states);
    }
    if outcome == Outcome::Success && step.grant.egress.fail_on_new {
        let refused = course.egress.iter().filter(|entry| entry.is_new());
        let wanted: BTreeSet<String> = refused.map(EgressEntry::target).collect();
        if !wanted.is_empty() {
            let wanted = wanted.into_iter().collect::<Vec<_>>().join(", ");
            let message = format!("the step reached for what policy does not allow: {wanted}");
            (outcome, cause) = (Outcome::Failure, Some(Cause::Invalid { message }));
        }
    }
    let mut conclusion = outcome;
    let may_go_on = step.continue_on_error.as_ref().filter(|_| matches!(outcome, Outcome::Failure | Outcome::TimedOut));
    if let Some(template) = may_go_on {
        let answer =
            evaluate(course, contexts, "continue-on-error", &template.0, |context| Template::parse(&template.0)?.evaluate(context));
        match answer.await {
            Ok(value) if is_true(&value) => conclusion = Outcome::Success,
            Ok(_) => {}
            Err(halt) => course.output.say(&format!("##[error]{}", halt.cause)).await,
        }
    }
    if let Some(cause) = &mut cause {
        if let Cause::Invalid { message } | Cause::Sandbox { message, .. } = cause {
            *message = course.output.masked(message);
        }
        let shown = match cause {
            Cause::ExitCode { code } => format!("##[error]Process completed with exit code {code}."),
            cause => format!("##[error]{cause}"),
        };
        course.output.say(&shown).await;
    }
    Settled { outcome, conclusion, cause, exit_code, outputs }
}

/// Settles a step's result, and reports it.
pub(super) async fn conclude<A: AgentApi>(
    mut course: Course<'_, A>,
    contexts: StepContexts,
    name: String,
    ended: Result<Body, Halt>,
) -> Ended {
    let step = course.step;
    let Settled { mut outcome, mut conclusion, mut cause, exit_code, outputs } = settle(&mut course, &contexts, ended).await;
    let summary = std::mem::take(&mut course.summary);
    let Course { attempt, output, usage, enforcement, egress, .. } = course;
    let said: Said = output.seal().await;
    if let Some(error) = said.log_error {
        tracing::error!(%error, attempt = %attempt.hold.attempt, step = step.index.0, "a log is not whole");
        // A fenced attempt has nobody to tell, and a cause that is there says more.
        if cause.is_none() && !matches!(error, LogError::Fenced) {
            let halt = Halt::faulted(format!("the log is not whole: {error}{}", because(&error)), error.fault());
            (outcome, conclusion, cause) = (halt.outcome, halt.outcome, Some(halt.cause));
        }
    }
    for value in said.masks {
        if !attempt.masks.contains(&value) {
            attempt.masks.push(value);
        }
    }
    let result = StepResult { outcome, conclusion, exit_code, cause, usage, enforcement, egress, annotations: said.annotations, summary };
    finish(attempt, step, name, result, &outputs).await
}

/// The reasons below an error, each after a colon.
pub(super) fn because(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |error| error.source()).map(|error| format!(": {error}")).collect()
}

/// What a step wrote to its command files for others.
pub(super) struct Left {
    outputs: Vec<(String, String)>,
    states: Vec<(String, String)>,
}

/// Takes over what the step wrote to its command files.
pub(super) async fn absorb<A: AgentApi>(course: &mut Course<'_, A>) -> Result<Left, Halt> {
    let read = |file: &CommandFile, name: &str| -> Result<Vec<u8>, Halt> {
        match file.read() {
            Ok((bytes, Ok(()))) => Ok(bytes),
            Ok((_, Err(_))) => Err(Halt::invalid(format!("the file ${name} is longer than {} bytes", command_files::MAX_FILE))),
            Err(error) => Err(Halt::faulted(format!("the file ${name} could not be read: {error}"), Fault::Environment)),
        }
    };
    let malformed = |name: &str| {
        let name = name.to_owned();
        move |error: command_files::InvalidCommandFile| Halt::invalid(format!("the file ${name} is malformed: {error}"))
    };
    // A summary that is too long loses its end, as users of the language expect; that is said and fails nothing.
    let (bytes, whole) = course
        .files
        .summary
        .read()
        .map_err(|error| Halt::faulted(format!("the file $GITHUB_STEP_SUMMARY could not be read: {error}"), Fault::Environment))?;
    let summary = course.output.masked(&String::from_utf8_lossy(&bytes));
    let too_much = course.summary.len() + summary.len() > command_files::MAX_FILE;
    if !too_much {
        course.summary.push_str(&summary);
    }
    if whole.is_err() || too_much {
        let message = format!("the summary is longer than {} bytes; its end is left out", command_files::MAX_FILE);
        course.output.remark(AnnotationLevel::Warning, &message).await;
    }
    let paths = command_files::lines(&read(&course.files.path, "GITHUB_PATH")?).map_err(malformed("GITHUB_PATH"))?;
    let env = command_files::entries(&read(&course.files.env, "GITHUB_ENV")?).map_err(malformed("GITHUB_ENV"))?;
    let outputs = command_files::entries(&read(&course.files.output, "GITHUB_OUTPUT")?).map_err(malformed("GITHUB_OUTPUT"))?;
    let states = command_files::entries(&read(&course.files.state, "GITHUB_STATE")?).map_err(malformed("GITHUB_STATE"))?;
    course.attempt.inherited.path.extend(paths);
    for (name, value) in env {
        match environment::refusal(&name) {
            None => {
                course.attempt.inherited.env.insert(name, value);
            }
            Some(reason) => {
                let message = format!("the variable '{}' was not set by $GITHUB_ENV: {reason}", name.escape_debug());
                course.output.remark(AnnotationLevel::Error, &message).await;
            }
        }
    }
    Ok(Left { outputs, states })
}

pub(super) async fn finish<A: AgentApi>(
    attempt: &mut Attempt<A>,
    step: &StepSpec,
    name: String,
    result: StepResult,
    outputs: &[(String, String)],
) -> Ended {
    let ended = Ended { outcome: result.outcome, conclusion: result.conclusion };
    if let Some(id) = &step.id {
        attempt.contexts.step_ended(id, ended.outcome, ended.conclusion, outputs);
    }
    attempt.reports.send(StepChange::Finished { step: step.index, id: step.id.clone(), name, result: Box::new(result) }).await;
    ended
}

pub(super) fn result(outcome: Outcome) -> StepResult {
    StepResult {
        outcome,
        conclusion: outcome,
        exit_code: None,
        cause: None,
        usage: Default::default(),
        enforcement: Default::default(),
        egress: Vec::new(),
        annotations: Vec::new(),
        summary: String::new(),
    }
}

pub(super) fn is_true(value: &Value) -> bool {
    match value {
        Value::String(text) => text.trim().eq_ignore_ascii_case("true"),
        value => value.is_truthy(),
    }
}

pub(super) fn invalid(step: &StepSpec, message: &dyn std::fmt::Display) -> Halt {
    Halt::invalid(format!("{}: step '{}': {message}", contexts::Place(&step.location), step.label()))
}
