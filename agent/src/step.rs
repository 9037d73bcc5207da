//! One step: evaluate its expressions, open its secrets, lower its grant, launch, listen, wait, read what it left, report.

use caisson_expr::{Condition, Status, Template};
use caisson_model::lease::StepChange;
use caisson_model::outcome::{Outcome, StepResult};
use caisson_model::step::StepSpec;
use caisson_proto::api::AgentApi;

use crate::attempt::Attempt;
use crate::contexts::{self, Hashes, StepContexts};
use crate::environment;
use crate::program::Halt;

mod ahead;
mod course;
mod exit;
mod growing;
mod handover;
mod inputs;
mod keep;
mod launch;
mod node;
mod perform;
mod post;
mod settle;
mod toolkit;

pub use node::pre;
use perform::body;
pub use post::run as run_post;
pub use settle::{Ended, LAST_WORDS};
use settle::{begin, conclude, finish, result};

/// Runs a step, or skips it, and reports it. `status` is how the job fares.
pub async fn run<A: AgentApi>(attempt: &mut Attempt<A>, step: &StepSpec, status: Status) -> Ended {
    let mut contexts = StepContexts { action: environment::action(step), status: Some(status), ..StepContexts::default() };
    let condition = step.condition.as_ref().map_or("", |condition| condition.0.as_str());
    let asks_env = contexts::condition_asks_env(condition);
    if !asks_env && !condition.to_ascii_lowercase().contains("hashfiles") {
        // Decided before anything is opened: a step that does not run costs nothing and sees no secret.
        let holds = attempt.contexts.evaluate(&contexts, &Hashes::new(), |context| Condition::parse(condition)?.evaluate(context));
        if holds == Ok(false) {
            return skip(attempt, step).await;
        }
    }
    let name = early_name(attempt, step, &contexts);
    attempt.reports.send(StepChange::Started { step: step.index, id: step.id.clone(), name: name.clone() }).await;
    let begun = match begin(attempt, step, &name).await {
        Ok(begun) => begun,
        Err(halt) => {
            // Without files or a log there is no course; the result still says why.
            return finish(attempt, step, name, StepResult { cause: Some(halt.cause), ..result(halt.outcome) }, &[]).await;
        }
    };
    let mut course = begun;
    contexts.secrets = Some(course.secrets.context());
    let mut name = name;
    let ended = body(&mut course, &mut contexts, condition, &mut name).await;
    // While it is told how this one ended.
    ahead::prepare_unless_there(course.attempt, step.index);
    conclude(course, contexts, name, ended).await
}

/// Makes what of the job is the sandbox's to make, and has the sandbox of its first step prepared.
///
/// # Errors
/// The [`Halt`] with which the job ends.
pub async fn prepare<A: AgentApi>(attempt: &mut Attempt<A>) -> Result<(), Halt> {
    course::prepare(attempt).await?;
    ahead::begin(attempt);
    Ok(())
}

async fn skip<A: AgentApi>(attempt: &mut Attempt<A>, step: &StepSpec) -> Ended {
    let contexts = StepContexts { action: environment::action(step), ..StepContexts::default() };
    let name = early_name(attempt, step, &contexts);
    finish(attempt, step, name, result(Outcome::Skipped), &[]).await
}

/// The name before any secret is open: evaluated where that works, else as written.
fn early_name<A>(attempt: &Attempt<A>, step: &StepSpec, contexts: &StepContexts) -> String {
    let Some(template) = &step.name else { return step.label() };
    let rendered = attempt.contexts.evaluate(contexts, &Hashes::new(), |context| Template::parse(&template.0)?.render(context));
    rendered.unwrap_or_else(|_| template.0.clone())
}
