//! A composite action: its steps, one after the other, in the log and with the secrets of the step that uses it. Each has the
//! grant that it got when the run was planned, files of its own to speak through, and sees the action's own `inputs` and `steps`.

use caisson_expr::{Object, Status, Value};
use caisson_model::outcome::Outcome;
use caisson_model::step::{ActionInput, ActionPlace, Composite, StepSpec, Template};
use caisson_proto::api::AgentApi;
use indexmap::IndexMap;

use crate::contexts::StepContexts;
use crate::environment;
use crate::program::Halt;
use crate::step::course::Course;
use crate::step::{Body, Ended, body, perform, settle, text};
use crate::stop::Stop;

/// Runs it.
pub(super) async fn run<'a, A: AgentApi>(
    course: &mut Course<'a, A>,
    contexts: &StepContexts,
    composite: &'a Composite,
) -> Result<Body, Halt> {
    let inputs = inputs(course, contexts, &composite.with, &composite.inputs).await?;
    perform::head(course, &composite.uses, &inputs).await;
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

/// The values of an action's inputs: what the step hands over, else the defaults.
pub(super) async fn inputs<A: AgentApi>(
    course: &mut Course<'_, A>,
    contexts: &StepContexts,
    with: &[(String, Template)],
    declared: &[ActionInput],
) -> Result<Vec<(String, String)>, Halt> {
    let mut values: IndexMap<String, String> = IndexMap::new();
    for input in declared.iter().filter(|input| with.iter().all(|(key, _)| *key != input.name)) {
        values.insert(input.name.clone(), text(course, contexts, &format!("inputs.{}.default", input.name), &input.default.0).await?);
    }
    for (key, template) in with {
        values.insert(key.clone(), text(course, contexts, &format!("with.{key}"), &template.0).await?);
    }
    Ok(values.into_iter().collect())
}

/// Where an action's files are inside; those of the mirror are shown from now on.
pub(super) async fn place<A: AgentApi>(course: &mut Course<'_, A>, place: &ActionPlace) -> Result<String, Halt> {
    let join = |base: String, path: &str| if path.is_empty() { base } else { format!("{base}/{path}") };
    match place {
        ActionPlace::Workspace(path) => Ok(join(course.attempt.contexts.workspace.clone(), path)),
        ActionPlace::Mirror { tree, name, path } => {
            let target = format!("/caisson/actions/{}", name.replace("..", "__"));
            if course.attempt.shown_trees.iter().all(|(shown, _)| *shown != target) {
                let tree = course.tree_of(*tree, &format!("the action {name}")).await?;
                course.attempt.shown_trees.push((target.clone(), tree));
            }
            Ok(join(target, path))
        }
    }
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
    limit: Option<super::TimeLimit>,
    ceiling: Option<super::TimeLimit>,
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
