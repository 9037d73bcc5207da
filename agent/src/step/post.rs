//! What runs before a job's first step or after its last, for actions that ask for it: a step of its own in the log, with the
//! grant of the step that the action belongs to.

use caisson_expr::{Condition, Status};
use caisson_model::id::StepIndex;
use caisson_model::lease::StepChange;
use caisson_model::outcome::{Outcome, StepResult};
use caisson_model::policy::Grant;
use caisson_model::step::StepSpec;
use caisson_proto::api::AgentApi;

use crate::actions;
use crate::attempt::Attempt;
use crate::contexts::{self, Hashes, StepContexts};
use crate::environment;
use crate::post::{Post, PostWork};
use crate::program::Halt;
use crate::step::course::Course;
use crate::step::node;
use crate::step::settle::{Body, Ended, begin, conclude, finish, result, time_limit};

/// Runs it as step `index`, unless its condition is false; then nothing is told of it.
pub async fn run<A: AgentApi>(attempt: &mut Attempt<A>, post: Post, index: StepIndex, status: Status) -> Ended {
    let outside = post.scope.clone().map(|scope| attempt.contexts.resume(scope));
    let ended = in_scope(attempt, post, index, status).await;
    if let Some(outside) = outside {
        attempt.contexts.leave(outside);
    }
    ended
}

async fn in_scope<A: AgentApi>(attempt: &mut Attempt<A>, post: Post, index: StepIndex, status: Status) -> Ended {
    let step = StepSpec {
        index,
        id: None,
        name: None,
        condition: None,
        continue_on_error: None,
        timeout_minutes: None,
        // What the step's secrets were has been settled when it ran; they are opened once.
        grant: Grant { secrets: Vec::new(), ..post.step.grant.clone() },
        ..post.step.clone()
    };
    let contexts = StepContexts { action: environment::action(&post.step), status: Some(status), ..StepContexts::default() };
    let condition = &post.condition;
    let holds = attempt.contexts.evaluate(&contexts, &Hashes::new(), |context| Condition::parse(condition)?.evaluate(context));
    let skipped = Ended { outcome: Outcome::Skipped, conclusion: Outcome::Skipped };
    if holds == Ok(false) {
        return skipped;
    }
    let name = post.name.clone();
    attempt.reports.send(StepChange::Started { step: index, id: None, name: name.clone() }).await;
    let mut course = match begin(attempt, &step, &name).await {
        Ok(course) => course,
        Err(halt) => return finish(attempt, &step, name, StepResult { cause: Some(halt.cause), ..result(halt.outcome) }, &[]).await,
    };
    course.limit = time_limit(&course, &contexts, None);
    let ended = match holds {
        Ok(_) => work(&mut course, &post).await,
        Err(_) => Err(Halt::invalid(format!("the condition '{condition}' of {name} cannot be evaluated"))),
    };
    conclude(course, contexts, name, ended).await
}

async fn work<A: AgentApi>(course: &mut Course<'_, A>, post: &Post) -> Result<Body, Halt> {
    course.env = post.env.clone();
    // Later steps may have added to it.
    course.env.insert("PATH".to_owned(), contexts::search_path(&course.attempt.inherited.path));
    match &post.work {
        PostWork::BuiltIn(later) => actions::run_later(later, course).await.map(|()| Body::Exited(0)),
        PostWork::Node(program) => node::execute(program, course).await,
    }
}
