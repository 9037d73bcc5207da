//! A JavaScript action: its programs run with the host's node, in the sandbox of the step that uses it and with that step's rights
//! alone.

use std::path::PathBuf;

use caisson_expr::{Object, Value};
use caisson_model::id::StepIndex;
use caisson_model::lease::StepChange;
use caisson_model::outcome::StepResult;
use caisson_model::policy::Grant;
use caisson_model::step::{Action, ActionPlace, Composite, Hook, NodeAction, StepSpec};
use caisson_proto::api::AgentApi;

use crate::actions::nodes;
use crate::attempt::Attempt;
use crate::contexts::{Scoped, StepContexts};
use crate::environment;
use crate::post::{NodeProgram, Post, PostWork};
use crate::program::{Halt, Input, Powers, Program, Sink};
use crate::step::course::{self, Course};
use crate::step::inputs::{head, inputs, place};
use crate::step::settle::{Body, Ended, begin, conclude, environment_of, evaluate, finish, result, time_limit};
use crate::stop::Stop;

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

/// A program that a mirrored action wants to run before the job's first step.
struct Early<'s> {
    step: &'s StepSpec,
    action: &'s NodeAction,
    hook: &'s Hook,
    /// The actions around it, from the outermost.
    outer: Vec<&'s Composite>,
    place: Vec<u32>,
}

/// Runs what the mirrored actions of a step want to run before the job's first step, as steps from `next` on. A step's secrets are
/// opened when it runs itself, so that the inputs hold none here.
pub async fn pre<A: AgentApi>(attempt: &mut Attempt<A>, step: &StepSpec, next: &mut u32) -> Vec<Ended> {
    let mut found = Vec::new();
    find(step, &mut Vec::new(), &mut vec![step.index.0], &mut found);
    let mut ended = Vec::new();
    for early in found {
        if *attempt.orders.borrow() != Stop::Run {
            break;
        }
        ended.push(early.run(attempt, StepIndex(*next)).await);
        *next += 1;
    }
    ended
}

/// Actions of the checkout are left out: it is not there yet.
fn find<'s>(step: &'s StepSpec, outer: &mut Vec<&'s Composite>, place: &mut Vec<u32>, found: &mut Vec<Early<'s>>) {
    match &step.action {
        Action::Node(action) => {
            if let (ActionPlace::Mirror { .. }, Some(hook)) = (&action.place, &action.pre) {
                found.push(Early { step, action, hook, outer: outer.clone(), place: place.clone() });
            }
        }
        Action::Composite(composite) if matches!(composite.place, ActionPlace::Mirror { .. }) => {
            outer.push(composite);
            for inner in &composite.steps {
                place.push(inner.index.0);
                find(inner, outer, place, found);
                place.pop();
            }
            outer.pop();
        }
        _ => {}
    }
}

impl Early<'_> {
    async fn run<A: AgentApi>(&self, attempt: &mut Attempt<A>, index: StepIndex) -> Ended {
        let step = self.step;
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
            Err(halt) => return finish(attempt, &spec, name, StepResult { cause: Some(halt.cause), ..result(halt.outcome) }, &[]).await,
        };
        course.place = self.place.clone();
        course.limit = time_limit(&course, &contexts, None);
        let mut outside = Vec::new();
        let ended = match self.enter(&mut course, &contexts, &mut outside).await {
            Ok(()) => self.prepare(&mut course, &mut contexts).await,
            Err(halt) => Err(halt),
        };
        while let Some(scope) = outside.pop() {
            course.attempt.contexts.leave(scope);
        }
        conclude(course, contexts, name, ended).await
    }

    /// Enters the actions around it, each with its inputs.
    async fn enter<A: AgentApi>(&self, course: &mut Course<'_, A>, contexts: &StepContexts, outside: &mut Vec<Scoped>) -> Result<(), Halt> {
        for composite in &self.outer {
            let given = inputs(course, contexts, &composite.with, &composite.inputs).await?;
            let path = place(course, &composite.place).await?;
            let object: Object = given.iter().map(|(name, value)| (name, Value::string(value))).collect();
            outside.push(course.attempt.contexts.enter(object, path));
        }
        Ok(())
    }

    async fn prepare<A: AgentApi>(&self, course: &mut Course<'_, A>, contexts: &mut StepContexts) -> Result<Body, Halt> {
        let Early { action, hook, .. } = self;
        course.env = environment_of(course, contexts).await?;
        let condition = hook.condition.0.clone();
        let holds =
            evaluate(course, contexts, "pre-if", &condition, |context| caisson_expr::Condition::parse(&condition)?.evaluate(context));
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
}
