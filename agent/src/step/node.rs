//! A JavaScript action: its programs run with the host's node, in the sandbox of the step that uses it and with that step's rights
//! alone.

use std::path::PathBuf;

use caisson_expr::Object;
use caisson_model::id::StepIndex;
use caisson_model::lease::StepChange;
use caisson_model::outcome::StepResult;
use caisson_model::policy::Grant;
use caisson_model::step::{Action, ActionPlace, Hook, NodeAction, StepSpec};
use caisson_proto::api::AgentApi;

use crate::actions::nodes;
use crate::attempt::Attempt;
use crate::contexts::StepContexts;
use crate::environment;
use crate::post::{NodeProgram, Post, PostWork};
use crate::program::{Halt, Input, Powers, Program, Sink};
use crate::step::course::{self, Course};
use crate::step::inputs::{head, inputs, place};
use crate::step::settle::{Body, Ended, begin, conclude, environment_of, evaluate, finish, result, time_limit};

/// Runs an action's program, and puts off what it wants to run at the end of the job.
pub(super) async fn run<A: AgentApi>(course: &mut Course<'_, A>, contexts: &StepContexts, action: &NodeAction) -> Result<Body, Halt> {
    let given = inputs(course, contexts, &action.with, &action.inputs).await?;
    head(course, &action.uses, &given).await;
    let directory = place(course, &action.place).await?;
    let mut env = variables(&given);
    env.push(("GITHUB_ACTION_REPOSITORY".to_owned(), action.uses.split('@').next().unwrap_or_default().to_owned()));
    let program = |name: &str| NodeProgram { path: format!("{directory}/{name}"), env: env.clone(), place: course.place.clone() };
    let (main, post) = (program(&action.main), action.post.as_ref().map(|hook| (hook.clone(), program(&hook.program))));
    if let Some((Hook { condition, .. }, program)) = post {
        let post = Post {
            step: course.step.clone(),
            name: format!("Post {}", course.step.label()),
            condition: condition.0,
            env: course.env.clone(),
            scope: course.attempt.contexts.inside(),
            work: PostWork::Node(program),
        };
        course.attempt.posts.push(post);
    }
    execute(&main, course).await
}

/// Inputs as the action's toolkit looks for them.
fn variables(inputs: &[(String, String)]) -> Vec<(String, String)> {
    inputs.iter().map(|(name, value)| (format!("INPUT_{}", name.replace(' ', "_").to_uppercase()), value.clone())).collect()
}

/// Runs one program.
pub(super) async fn execute<A: AgentApi>(this: &NodeProgram, course: &mut Course<'_, A>) -> Result<Body, Halt> {
    let node = nodes::usual(&course.attempt.host.interpreters)
        .ok_or_else(|| Halt::invalid("this machine has no node, which JavaScript actions run with; install it (on Debian: nodejs)"))?;
    if let Some(prefix) = node.prefix.clone() {
        course.show_path(prefix);
    }
    let mut env = this.env.clone();
    let state = course.attempt.states.get(&this.place).cloned().unwrap_or_default();
    env.extend(state.into_iter().map(|(name, value)| (format!("STATE_{name}"), value)));
    let program = Program {
        program: node.program.display().to_string(),
        args: vec![this.path.clone()],
        env,
        cwd: course.attempt.contexts.workspace.clone(),
        stdin: Input::Nothing,
        files: vec![(course::script_path("event.json"), course.attempt.contexts.event())],
        mounts: Vec::new(),
        powers: Powers::Granted,
        sink: Sink::Log,
    };
    Ok(Body::Exited(course.execute_with_toolkit(program).await?.code))
}

/// Runs what the mirrored action of a step wants to run before the job's first step, as step `index`. `false` when it has nothing
/// of the kind. A step's secrets are opened when it runs itself, so that its inputs hold none here.
pub async fn pre<A: AgentApi>(attempt: &mut Attempt<A>, step: &StepSpec, index: StepIndex) -> Option<Ended> {
    let Action::Node(action) = &step.action else { return None };
    let (ActionPlace::Mirror { .. }, Some(hook)) = (&action.place, &action.pre) else { return None };
    let spec = StepSpec {
        index,
        id: None,
        condition: None,
        continue_on_error: None,
        grant: Grant { secrets: Vec::new(), ..step.grant.clone() },
        ..step.clone()
    };
    let name = format!("Pre {}", step.label());
    attempt.reports.send(StepChange::Started { step: index, id: None, name: name.clone() }).await;
    let mut contexts = StepContexts {
        action: environment::action(step),
        status: Some(caisson_expr::Status::Success),
        secrets: Some(Object::new()),
        ..StepContexts::default()
    };
    let mut course = match begin(attempt, &spec, &name).await {
        Ok(course) => course,
        Err(halt) => return Some(finish(attempt, &spec, name, StepResult { cause: Some(halt.cause), ..result(halt.outcome) }, &[]).await),
    };
    course.place = vec![step.index.0];
    course.limit = time_limit(&course, &contexts, None);
    let ended = prepare(&mut course, &mut contexts, action, hook).await;
    Some(conclude(course, contexts, name, ended).await)
}

async fn prepare<A: AgentApi>(
    course: &mut Course<'_, A>,
    contexts: &mut StepContexts,
    action: &NodeAction,
    hook: &Hook,
) -> Result<Body, Halt> {
    course.env = environment_of(course, contexts).await?;
    let condition = hook.condition.0.clone();
    let holds = evaluate(course, contexts, "pre-if", &condition, |context| caisson_expr::Condition::parse(&condition)?.evaluate(context));
    if !holds.await? {
        return Ok(Body::Skipped);
    }
    let given = inputs(course, contexts, &action.with, &action.inputs).await?;
    head(course, &action.uses, &given).await;
    let directory = place(course, &action.place).await?;
    let path = PathBuf::from(directory).join(&hook.program).display().to_string();
    let program = NodeProgram { path, env: variables(&given), place: course.place.clone() };
    execute(&program, course).await
}
