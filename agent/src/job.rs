//! One attempt at a job: fetch the spec, open the workspace, run the steps in order, settle the outcome, tell the controller
//! until it has recorded it. Whatever happens, every process is dead and every directory removed at the end.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use caisson_expr::{Status, Template};
use caisson_model::id::{Digest, Hold, StepIndex};
use caisson_model::job::JobSpec;
use caisson_model::lease::Completion;
use caisson_model::outcome::{Cause, Fault, Outcome};
use caisson_model::policy::Identity;
use caisson_model::step::{Action, StepSpec};
use caisson_proto::api::{AgentApi, ApiError};
use caisson_sandbox::launcher::Launcher;
use indexmap::IndexMap;
use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::ahead::Ahead;
use crate::attempt::{Attempt, Deadline};
use crate::clock;
use crate::contexts::{Hashes, JobContexts, StepContexts, Unfinished};
use crate::environment::Inherited;
use crate::logs::Closed;
use crate::mask::Masker;
use crate::options::Options;
use crate::outbox::{Kept, Outbox};
use crate::reports::{self, Reports};
use crate::retry;
use crate::step::{self, Ended};
use crate::stop::Stop;
use crate::trees::Trees;
use crate::workspace::Workspace;

/// What is needed to begin an attempt.
#[derive(Debug)]
pub struct Assignment<A> {
    /// The controller.
    pub api: Arc<A>,
    /// What makes sandboxes.
    pub launcher: Launcher,
    /// How the agent is set up.
    pub options: Arc<Options>,
    /// The attempt.
    pub hold: Hold,
    /// The digest of the spec that was offered.
    pub spec: Digest,
    /// The attempt's directory, which does not exist yet.
    pub directory: PathBuf,
    /// Where outboxes are.
    pub outboxes: PathBuf,
    /// The order that it is under; it may itself find out that it is fenced.
    pub stop: Arc<watch::Sender<Stop>>,
    /// Where its agent listens.
    pub notices: mpsc::Sender<Notice>,
    /// The agent's trees.
    pub trees: Trees,
}

/// What an attempt tells its agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// It was told to end, and every process of it is dead.
    Killed(Hold),
    /// The controller has recorded its end; directories are still being removed.
    Recorded(Hold),
    /// Nothing of it is left.
    Ended(Hold),
}

/// How long giving an attempt back may take: whoever waits for it wants to leave.
const FAREWELL: Duration = Duration::from_secs(10);

/// Runs an attempt to its end.
pub async fn run<A: AgentApi>(assignment: Assignment<A>) {
    let hold = assignment.hold;
    let orders = assignment.stop.subscribe();
    let spec = match retry::until_answered(&orders, || assignment.api.fetch_form(hold)).await {
        Ok(form) if Digest(Sha256::digest(&form).into()) != assignment.spec => {
            return give_back(&assignment, "the job's spec is not the one that was offered").await;
        }
        // What a newer controller says beyond this agent's words is passed over; what it says in other words is not guessed at.
        Ok(form) => match serde_json::from_slice::<JobSpec>(&form) {
            Ok(spec) => Arc::new(spec),
            Err(error) => return give_back(&assignment, &format!("the job's spec is not understood by this agent: {error}")).await,
        },
        Err(ApiError::Fenced) => return,
        Err(error) => return give_back(&assignment, &format!("the job's spec could not be fetched: {error}")).await,
    };
    tracing::info!(attempt = %hold.attempt, job = %spec.name, "attempt began");
    let settled = match open(&assignment, &spec).await {
        Err(message) => {
            tracing::error!(attempt = %hold.attempt, message, "workspace was not opened");
            let cause = Cause::Sandbox { message, fault: Fault::Environment };
            Settled { outcome: Outcome::Faulted, cause: Some(cause), outputs: IndexMap::new(), workspace: None, outbox: None }
        }
        Ok((workspace, outbox)) => steps(&assignment, Arc::clone(&spec), workspace, outbox).await,
    };
    let order = *orders.borrow();
    if order != Stop::Run {
        let _ = assignment.notices.send(Notice::Killed(hold)).await;
    }
    match order {
        Stop::Forget => tracing::info!(attempt = %hold.attempt, "attempt was forgotten"),
        Stop::Leave(_) => give_back(&assignment, "the agent is shutting down").await,
        Stop::Run | Stop::Cancel(_) => {
            let completion =
                Completion { hold, outcome: settled.outcome, cause: settled.cause, outputs: settled.outputs, at: clock::now() };
            complete(assignment.api.as_ref(), &assignment.stop, completion).await;
        }
    }
    let _ = assignment.notices.send(Notice::Recorded(hold)).await;
    settled.outbox.iter().for_each(Outbox::remove);
    if let Some(workspace) = settled.workspace {
        // Its drop removes what it holds, and logs what could not be removed.
        if let Err(error) = tokio::task::spawn_blocking(move || drop(workspace)).await {
            tracing::error!(%error, "removing a workspace ended early");
        }
    }
}

/// Tells what is left to be told of an attempt that an earlier agent finished.
pub async fn resume<A: AgentApi>(api: Arc<A>, kept: Kept, stop: Arc<watch::Sender<Stop>>, notices: mpsc::Sender<Notice>) {
    let Kept { outbox, completion, reports, logs } = kept;
    let hold = completion.hold;
    tracing::info!(attempt = %hold.attempt, "attempt that had finished is told of");
    for step in logs {
        let mut orders = stop.subscribe();
        let delivered = match Closed::resume(Arc::clone(&api), hold, step, outbox.spool()) {
            Ok(closed) => tokio::select! {
                delivered = closed.deliver() => delivered.map(drop).map_err(|error| error.to_string()),
                () = retry::forgotten(&mut orders) => Ok(()),
            },
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = delivered {
            tracing::error!(error, attempt = %hold.attempt, step = step.0, "log was not sealed");
        }
    }
    for report in reports {
        reports::tell(api.as_ref(), report, &stop).await;
    }
    if *stop.borrow() != Stop::Forget {
        complete(api.as_ref(), &stop, completion).await;
    }
    outbox.remove();
    let _ = notices.send(Notice::Recorded(hold)).await;
}

async fn give_back<A: AgentApi>(assignment: &Assignment<A>, reason: &str) {
    let orders = assignment.stop.subscribe();
    let call = retry::until_answered(&orders, || assignment.api.return_attempt(assignment.hold, reason.to_owned()));
    match tokio::time::timeout(FAREWELL, call).await {
        Ok(Ok(())) => tracing::info!(attempt = %assignment.hold.attempt, reason, "attempt was given back"),
        Ok(Err(error)) => tracing::warn!(attempt = %assignment.hold.attempt, %error, "attempt was not given back"),
        Err(_) => tracing::warn!(attempt = %assignment.hold.attempt, "attempt was not given back in time; its lease will end"),
    }
}

/// Repeats the completion until it is recorded or known to be unwanted.
async fn complete<A: AgentApi>(api: &A, stop: &watch::Sender<Stop>, completion: Completion) {
    let orders = stop.subscribe();
    let mut backoff = retry::Backoff::new();
    loop {
        match retry::until_answered(&orders, || api.complete_attempt(completion.clone())).await {
            Ok(recorded) => {
                return tracing::info!(attempt = %completion.hold.attempt, outcome = %completion.outcome, ?recorded, "attempt ended");
            }
            Err(ApiError::Fenced) => return tracing::info!(attempt = %completion.hold.attempt, "attempt was fenced"),
            Err(error @ ApiError::Broken(_)) => {
                tracing::error!(attempt = %completion.hold.attempt, %error, "completion was not recorded; it is repeated");
                tokio::time::sleep(backoff.pause()).await;
            }
            Err(error) => return tracing::error!(attempt = %completion.hold.attempt, %error, "completion was refused"),
        }
    }
}

/// Whether a step, or one of the action that it uses, is root of its sandbox.
fn is_root(step: &StepSpec) -> bool {
    let inner = match &step.action {
        Action::Composite(composite) => composite.steps.iter().any(is_root),
        _ => false,
    };
    inner || step.grant.identity == Identity::Root
}

async fn open<A: AgentApi>(assignment: &Assignment<A>, spec: &JobSpec) -> Result<(Workspace, Outbox), String> {
    let root = spec.steps.iter().any(is_root);
    let identity = if root { Identity::Root } else { Identity::User };
    let (launcher, options, directory) = (assignment.launcher.clone(), Arc::clone(&assignment.options), assignment.directory.clone());
    let (outboxes, hold) = (assignment.outboxes.clone(), assignment.hold);
    let checkout = JobContexts::of(spec, hold.attempt.number, &assignment.options.name.0).workspace;
    let opened = tokio::task::spawn_blocking(move || {
        let outbox = Outbox::make(&outboxes, hold).map_err(|error| format!("make {}: {error}", outboxes.display()))?;
        Ok((Workspace::open(&launcher, &options.host, directory, identity, &checkout).map_err(|error| chain(&error))?, outbox))
    });
    match opened.await {
        Ok(Ok(opened)) => Ok(opened),
        Ok(Err(error)) => Err(error),
        Err(error) => Err(error.to_string()),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}

struct Settled {
    outcome: Outcome,
    cause: Option<Cause>,
    outputs: IndexMap<String, String>,
    workspace: Option<Workspace>,
    outbox: Option<Outbox>,
}

async fn steps<A: AgentApi>(assignment: &Assignment<A>, spec: Arc<JobSpec>, workspace: Workspace, outbox: Outbox) -> Settled {
    let hold = assignment.hold;
    let agent = assignment.options.name.0.clone();
    let mut attempt = Attempt {
        api: Arc::clone(&assignment.api),
        launcher: assignment.launcher.clone(),
        host: Arc::new(assignment.options.host.clone()),
        hold,
        contexts: JobContexts::of(&spec, hold.attempt.number, &agent),
        agent,
        spec: Arc::clone(&spec),
        workspace,
        inherited: Inherited::default(),
        masks: Vec::new(),
        shown: Vec::new(),
        shown_trees: Vec::new(),
        layers: Vec::new(),
        trees: assignment.trees.clone(),
        posts: Vec::new(),
        states: HashMap::new(),
        ahead: Ahead::default(),
        serial: 0,
        reports: Reports::open(Arc::clone(&assignment.api), hold, Arc::clone(&assignment.stop), outbox.reports().ok()),
        outbox,
        orders: assignment.stop.subscribe(),
        deadline: Deadline { at: far(spec.timeout), limit: spec.timeout },
    };
    let mut state = State::default();
    if let Err(halt) = step::prepare(&mut attempt).await {
        state.cause = Some(halt.cause);
        state.outcome = Some(halt.outcome);
    } else {
        // Programs before and after the job's own steps are steps too, numbered behind them.
        let mut next = spec.steps.iter().map(|step| step.index.0 + 1).max().unwrap_or(0);
        for step in spec.steps.iter() {
            step::pre(&mut attempt, step, &mut next).await.into_iter().for_each(|ended| state.take(ended));
        }
        for step in spec.steps.iter() {
            let order = *attempt.orders.borrow();
            if matches!(order, Stop::Leave(_) | Stop::Forget) {
                break;
            }
            state.late |= Instant::now() >= attempt.deadline.at;
            let ended = step::run(&mut attempt, step, state.status(order)).await;
            state.late |= Instant::now() >= attempt.deadline.at;
            state.take(ended);
        }
        // The last action that asked for something comes first.
        while let Some(post) = attempt.posts.pop() {
            let order = *attempt.orders.borrow();
            if matches!(order, Stop::Leave(_) | Stop::Forget) {
                break;
            }
            state.late |= Instant::now() >= attempt.deadline.at;
            let ended = step::run_post(&mut attempt, post, StepIndex(next), state.status(order)).await;
            next += 1;
            state.take(ended);
        }
    }
    let (outcome, cause) = state.settle(*attempt.orders.borrow(), spec.timeout);
    let outputs = outputs(&attempt, &spec, outcome);
    // What was prepared for a step that did not come goes before the directories that it sees.
    let Attempt { reports, workspace, outbox, orders, ahead, .. } = attempt;
    drop(ahead);
    if matches!(*orders.borrow(), Stop::Run | Stop::Cancel(_)) {
        // From here on the job has finished, whatever becomes of this process.
        let completion = Completion { hold, outcome, cause: cause.clone(), outputs: outputs.clone(), at: clock::now() };
        if let Err(error) = outbox.complete(&completion) {
            tracing::warn!(%error, attempt = %hold.attempt, "completion was not kept on disk; a crash of this agent would lose it");
        }
    }
    reports.close().await;
    Settled { outcome, cause, outputs, workspace: Some(workspace), outbox: Some(outbox) }
}

/// A point in time that far away, or as good as never.
fn far(span: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(span).unwrap_or_else(|| now + Duration::from_secs(365 * 24 * 3600))
}

/// How the job fares from step to step.
#[derive(Debug, Default)]
struct State {
    /// The first outcome that is not a success.
    outcome: Option<Outcome>,
    cause: Option<Cause>,
    late: bool,
}

impl State {
    fn status(&self, order: Stop) -> Status {
        if order != Stop::Run || self.late {
            Status::Cancelled
        } else if self.outcome.is_some() {
            Status::Failure
        } else {
            Status::Success
        }
    }

    fn take(&mut self, ended: Ended) {
        let outcome = match ended.conclusion {
            Outcome::Success | Outcome::Skipped => return,
            // The job's own time has a word of its own; a step's makes the job a failure.
            Outcome::TimedOut => Outcome::Failure,
            other => other,
        };
        // What could not be run weighs more than what failed: nobody should look for the reason in the code.
        if self.outcome.is_none() || outcome == Outcome::Faulted {
            self.outcome = Some(outcome);
        }
    }

    fn settle(self, order: Stop, limit: Duration) -> (Outcome, Option<Cause>) {
        match (self.outcome, order) {
            (_, Stop::Cancel(_) | Stop::Leave(_) | Stop::Forget) => (Outcome::Cancelled, Some(Cause::Cancelled)),
            (_, Stop::Run) if self.late => (Outcome::TimedOut, Some(Cause::TimedOut { limit })),
            (Some(outcome), Stop::Run) => (outcome, self.cause),
            (None, Stop::Run) => (Outcome::Success, None),
        }
    }
}

/// The job's outputs, masked. One that cannot be evaluated is left out and logged.
fn outputs<A>(attempt: &Attempt<A>, spec: &JobSpec, outcome: Outcome) -> IndexMap<String, String> {
    let mut masker = Masker::default();
    for value in &attempt.masks {
        // Those that are too short to be masked were named when they were learnt.
        let _ = masker.add(value);
    }
    let status = match outcome {
        Outcome::Success | Outcome::Skipped => Status::Success,
        Outcome::Cancelled => Status::Cancelled,
        _ => Status::Failure,
    };
    let contexts = StepContexts { status: Some(status), ..StepContexts::default() };
    let mut outputs = IndexMap::new();
    for (name, template) in &spec.outputs {
        let value = attempt.contexts.evaluate(&contexts, &Hashes::new(), |context| Template::parse(&template.0)?.render(context));
        match value {
            // As on GitHub: an empty one does not exist, so that it cannot hide what another cell of the matrix gave.
            Ok(value) if value.is_empty() => {}
            Ok(value) => {
                outputs.insert(name.clone(), String::from_utf8_lossy(&masker.mask(value.as_bytes())).into_owned());
            }
            Err(Unfinished::Failed(error)) => tracing::warn!(attempt = %attempt.hold.attempt, name, %error, "output was not evaluated"),
            Err(Unfinished::Hash(_)) => tracing::warn!(attempt = %attempt.hold.attempt, name, "hashFiles is not available in outputs"),
        }
    }
    outputs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stop::Stages;

    fn settle(conclusions: &[Outcome], late: bool, order: Stop) -> Outcome {
        let mut state = State { late, ..State::default() };
        conclusions.iter().for_each(|conclusion| state.take(Ended { outcome: *conclusion, conclusion: *conclusion }));
        state.settle(order, Duration::from_secs(1)).0
    }

    #[test]
    fn the_job_is_what_its_steps_are() {
        use Outcome::{Cancelled, Failure, Faulted, Skipped, Success, TimedOut};
        let cancel = Stop::Cancel(Stages::default());
        let table = [
            (&[][..], false, Stop::Run, Success),
            (&[Success, Skipped], false, Stop::Run, Success),
            (&[Failure, Success], false, Stop::Run, Failure),
            (&[TimedOut], false, Stop::Run, Failure),
            (&[Failure, Faulted], false, Stop::Run, Faulted),
            (&[TimedOut], true, Stop::Run, TimedOut),
            (&[Success], false, cancel, Cancelled),
            (&[Failure], true, cancel, Cancelled),
        ];
        for (conclusions, late, order, expected) in table {
            assert_eq!(settle(conclusions, late, order), expected, "{conclusions:?}");
        }
    }
}
