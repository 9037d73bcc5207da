//! What a step executes, once its environment is settled: a script, a built-in action, or an action with steps or programs of its
//! own.

use std::future::Future;
use std::pin::Pin;

use caisson_expr::{Condition, Object, Status, Value};
use caisson_model::outcome::{AnnotationLevel, Outcome};
use caisson_model::policy::Identity;
use caisson_model::step::{Action, Composite, StepSpec, Template};
use caisson_proto::api::AgentApi;
use caisson_sandbox::host::Mode;
use indexmap::IndexMap;

use crate::actions;
use crate::actions::bench::{Inputs, inside};
use crate::apt;
use crate::contexts::{StepContexts, TOOL_CACHE};
use crate::environment;
use crate::program::{Halt, Input, Powers, Program, Sink};
use crate::shell::{Offered, Shell};
use crate::step::course::{self, Course};
use crate::step::inputs::{head, inputs, place};
use crate::step::launch::TimeLimit;
use crate::step::node;
use crate::step::settle::{Body, Ended, environment_of, evaluate, invalid, minutes, settle, text, time_limit};
use crate::stop::Stop;

use crate::view;

pub(super) async fn body<A: AgentApi>(
    course: &mut Course<'_, A>,
    contexts: &mut StepContexts,
    condition: &str,
    name: &mut String,
) -> Result<Body, Halt> {
    let step = course.step;
    course.limit = time_limit(course, contexts, None);
    let env = environment_of(course, contexts).await?;
    if !evaluate(course, contexts, "if", condition, |context| Condition::parse(condition)?.evaluate(context)).await? {
        return Ok(Body::Skipped);
    }
    if let Some(template) = &step.name {
        let text = text(course, contexts, "name", &template.0).await?;
        *name = course.output.masked(&text);
    }
    let minutes = match &step.timeout_minutes {
        None => None,
        Some(template) => Some(minutes(course, contexts, &template.0).await?),
    };
    course.limit = time_limit(course, contexts, minutes);
    course.env = env;
    perform(course, contexts).await
}

/// Executes the step's action. Actions use actions, so the future is boxed.
fn perform<'c, 'a: 'c, A: AgentApi>(
    course: &'c mut Course<'a, A>,
    contexts: &'c StepContexts,
) -> Pin<Box<dyn Future<Output = Result<Body, Halt>> + Send + 'c>> {
    Box::pin(async move {
        let step = course.step;
        match &step.action {
            Action::Run { script, shell, working_directory } => {
                let shell = match shell {
                    Some(template) => Some(text(course, contexts, "shell", &template.0).await?),
                    None => None,
                };
                let script = text(course, contexts, "run", &script.0).await?;
                let directory = match working_directory {
                    Some(template) => text(course, contexts, "working-directory", &template.0).await?,
                    None => String::new(),
                };
                run_script(course, shell.as_deref(), &script, &directory).await
            }
            Action::Uses { action, version, with } => {
                let mut inputs = Vec::new();
                for (key, template) in with {
                    inputs.push((key.clone(), text(course, contexts, &format!("with.{key}"), &template.0).await?));
                }
                head(course, &format!("{action}@{version}"), &inputs).await;
                actions::run(action, &Inputs(inputs), course).await?;
                Ok(Body::Exited(0))
            }
            Action::NoOp { action, version, reason } => {
                head(course, &format!("{action}@{version}"), &[]).await;
                course.output.say(&format!("{action} does nothing here: {reason}")).await;
                Ok(Body::Exited(0))
            }
            Action::Composite(composite) => run_composite(course, contexts, composite).await,
            Action::Node(node) => node::run(course, contexts, node).await,
        }
    })
}

async fn run_script<A: AgentApi>(course: &mut Course<'_, A>, shell: Option<&str>, script: &str, directory: &str) -> Result<Body, Halt> {
    let workspace = course.attempt.contexts.workspace.clone();
    let cwd = if directory.starts_with('/') {
        directory.to_owned()
    } else {
        inside(&workspace, directory).unwrap_or_else(|| format!("{workspace}/{directory}"))
    };
    let offered =
        Offered { bash: on_path("bash"), python: on_path("python") || course.attempt.inherited.env.contains_key("pythonLocation") };
    let shell = Shell::of(shell, offered).map_err(|error| invalid(course.step, &error))?;
    let path = course::script_path(shell.script_name);
    let first = script.trim().lines().next().unwrap_or_default();
    let head = format!("##[group]Run {first}");
    let tail = format!("shell: {} {}", shell.program, shell.arguments(&path).join(" "));
    let lines = std::iter::once(head.as_str()).chain(script.trim_end().lines()).chain([tail.as_str(), "##[endgroup]"]);
    course.output.say_all(lines).await;
    let program = Program {
        program: shell.program.clone(),
        args: shell.arguments(&path),
        env: Vec::new(),
        cwd,
        stdin: Input::Nothing,
        files: vec![(path, shell.script(script)), (course::script_path("event.json"), course.attempt.contexts.event())],
        mounts: Vec::new(),
        powers: Powers::Granted,
        sink: Sink::Log,
    };
    let root = course.step.grant.identity == Identity::Root;
    let ran = course.execute(program).await;
    let mode = course.attempt.workspace.mode();
    if let (true, Ok(exit), Some(limits)) = (root, &ran, view::limits_of_root(mode))
        && exit.code != 0
    {
        course.output.remark(AnnotationLevel::Warning, limits).await;
    }
    // Without root outside, the step's root and the job's user are one and the same.
    if root && mode == Mode::Root {
        // What it made in the job's home is the job's, as after any other step.
        course.execute(apt::hand_over(&[view::HOME, TOOL_CACHE])).await?;
    }
    Ok(Body::Exited(ran?.code))
}

/// Runs a composite action: its steps, one after the other, in the log and with the secrets of the step that uses it. Each has the
/// grant that it got when the run was planned, files of its own to speak through, and sees the action's own `inputs` and `steps`.
async fn run_composite<'a, A: AgentApi>(
    course: &mut Course<'a, A>,
    contexts: &StepContexts,
    composite: &'a Composite,
) -> Result<Body, Halt> {
    let inputs = inputs(course, contexts, &composite.with, &composite.inputs).await?;
    head(course, &composite.uses, &inputs).await;
    let path = place(course, &composite.place).await?;
    let object: Object = inputs.iter().map(|(name, value)| (name, Value::string(value))).collect();
    let outside = course.attempt.contexts.enter(object, path);
    let ended = steps(course, contexts, composite).await;
    let outputs = outputs(course, contexts, &composite.outputs).await;
    course.attempt.contexts.leave(outside);
    let ended = ended?;
    course.outputs.extend(outputs?);
    Ok(ended)
}

async fn outputs<A: AgentApi>(
    course: &mut Course<'_, A>,
    contexts: &StepContexts,
    outputs: &[(String, Template)],
) -> Result<Vec<(String, String)>, Halt> {
    let mut values = Vec::new();
    for (name, template) in outputs {
        values.push((name.clone(), text(course, contexts, &format!("outputs.{name}"), &template.0).await?));
    }
    Ok(values)
}

/// What belongs to the outer step while an inner one runs.
struct Outer<'a> {
    step: &'a StepSpec,
    files: crate::workspace::StepFiles,
    env: IndexMap<String, String>,
    around: IndexMap<String, String>,
    own: IndexMap<String, String>,
    outputs: Vec<(String, String)>,
    limit: Option<TimeLimit>,
    ceiling: Option<TimeLimit>,
}

async fn steps<'a, A: AgentApi>(course: &mut Course<'a, A>, contexts: &StepContexts, composite: &'a Composite) -> Result<Body, Halt> {
    let mut worst: Option<Result<Body, Halt>> = None;
    for step in &composite.steps {
        let order = *course.attempt.orders.borrow();
        if matches!(order, Stop::Leave(_) | Stop::Forget) {
            break;
        }
        let status = match (&worst, contexts.status) {
            (_, Some(Status::Cancelled)) => Status::Cancelled,
            _ if order != Stop::Run => Status::Cancelled,
            (Some(_), _) => Status::Failure,
            (None, _) => Status::Success,
        };
        let (ended, result) = inner(course, contexts, step, status).await?;
        match ended.conclusion {
            Outcome::Success | Outcome::Skipped => {}
            // What is no failure of the step ends the whole action: its time is over, or somebody wants it to end.
            Outcome::TimedOut | Outcome::Faulted => return result,
            Outcome::Failure | Outcome::Cancelled => drop(worst.get_or_insert(result)),
        }
    }
    worst.unwrap_or(Ok(Body::Exited(0)))
}

/// Runs one inner step in the outer one's course.
async fn inner<'a, A: AgentApi>(
    course: &mut Course<'a, A>,
    outer_contexts: &StepContexts,
    step: &'a StepSpec,
    status: Status,
) -> Result<(Ended, Result<Body, Halt>), Halt> {
    let files = course.fresh_files()?;
    let outer = Outer {
        step: std::mem::replace(&mut course.step, step),
        files: std::mem::replace(&mut course.files, files),
        env: std::mem::take(&mut course.env),
        around: course.around.clone(),
        own: course.own.clone(),
        outputs: std::mem::take(&mut course.outputs),
        limit: course.limit,
        ceiling: course.ceiling,
    };
    course.around = outer.own.clone();
    course.ceiling = outer.limit;
    course.place.push(step.index.0);
    let mut contexts = StepContexts {
        action: environment::action(step),
        status: Some(status),
        secrets: outer_contexts.secrets.clone(),
        ..StepContexts::default()
    };
    let condition = step.condition.as_ref().map_or("", |condition| condition.0.as_str());
    let mut name = String::new();
    let ended = body(course, &mut contexts, condition, &mut name).await;
    let settled = settle(course, &contexts, ended.clone()).await;
    if let Some(id) = &step.id {
        course.attempt.contexts.step_ended(id, settled.outcome, settled.conclusion, &settled.outputs);
    }
    course.place.pop();
    course.step = outer.step;
    course.files = outer.files;
    course.env = outer.env;
    course.around = outer.around;
    course.own = outer.own;
    course.outputs = outer.outputs;
    course.limit = outer.limit;
    course.ceiling = outer.ceiling;
    let result = match settled.cause {
        // The reason stands in the log already; the outer step ends with it.
        Some(caisson_model::outcome::Cause::ExitCode { code }) => Ok(Body::Exited(code)),
        Some(cause) => Err(Halt { outcome: settled.outcome, cause }),
        None => ended,
    };
    Ok((Ended { outcome: settled.outcome, conclusion: settled.conclusion }, result))
}

/// Whether the system view has this program.
fn on_path(program: &str) -> bool {
    ["/usr/local/bin", "/usr/bin", "/bin"].iter().any(|directory| std::path::Path::new(directory).join(program).exists())
}
