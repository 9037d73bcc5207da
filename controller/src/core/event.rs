//! What can happen to the engine, and what it answers.

use std::time::Duration;

use caisson_model::agent::{Cordon, Hello};
use caisson_model::id::{AgentName, Hold, RunId, StepIndex};
use caisson_model::lease::{AgentMessage, Completion, Recorded, StepReport};
use caisson_workflow::Plan;

use crate::core::terms::Terms;

/// One session of an agent, numbered by the shell. Numbers are never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A client handed in a workflow: the plan as it was admitted, and on which terms.
    Submit(Box<Plan>, Box<Terms>),
    /// A client cancels a run.
    Cancel(RunId),
    /// An agent opened a session.
    Hello(SessionId, Hello),
    /// An agent said something in its session.
    Message(SessionId, AgentMessage),
    /// A session ended, whoever ended it.
    Gone(SessionId),
    /// An agent tells of a step.
    Report(StepReport),
    /// An agent asks for the secrets of a step.
    OpenSecrets(Hold, StepIndex),
    /// An agent ends an attempt.
    Complete(Completion),
    /// An agent gives an attempt back.
    Return(Hold, String),
    /// A person says whether an agent gets new jobs.
    Cordon(AgentName, Cordon),
    /// A person wants an agent to leave when its jobs have ended.
    Drain(AgentName),
    /// An agent is not trusted any more.
    Revoke(AgentName),
    /// An agent that was revoked has proven itself anew.
    Admit(AgentName),
    /// The moment of [`crate::core::engine::Engine::deadline`] has come. Harmless at any other time.
    Tick,
}

/// What a call is answered when it was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing to add.
    Done,
    /// The run that a submission became.
    Submitted(RunId),
    /// Whether a completion was new.
    Recorded(Recorded),
    /// The names of the secrets that may be opened now, this once.
    Secrets(Vec<String>),
}

/// Why a call was not done. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The attempt is not the caller's.
    #[error("the attempt belongs to somebody else now")]
    Fenced,
    /// There is no such thing.
    #[error("there is no {0}")]
    NotFound(String),
    /// The call breaks a rule.
    #[error("{0}")]
    Invalid(String),
    /// It was done before and can be done once only.
    #[error("already used: {0}")]
    Spent(String),
    /// The caller may not do anything.
    #[error("{0}")]
    Denied(String),
}

/// How long things may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// A lease without a beat.
    pub term: Duration,
    /// After that, the time in which the attempt may come back.
    pub grace: Duration,
    /// An offer without an answer.
    pub offer: Duration,
    /// After a refusal, before the same agent is offered the job again.
    pub refusal: Duration,
    /// Of a stop: from SIGINT to SIGTERM.
    pub terminate_after: Duration,
    /// Of a stop: from SIGTERM to SIGKILL.
    pub kill_after: Duration,
    /// A stop as a whole, with the steps that run although the job was cancelled.
    pub stop: Duration,
    /// Beyond a job's own limit, which its agent enforces, before the controller enforces it.
    pub overtime: Duration,
    /// How often a job may lose its agent before it is given up.
    pub losses: u32,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            term: Duration::from_secs(15),
            grace: Duration::from_secs(60),
            offer: Duration::from_secs(10),
            refusal: Duration::from_secs(1),
            terminate_after: Duration::from_millis(7500),
            kill_after: Duration::from_millis(2500),
            stop: Duration::from_secs(6 * 60),
            overtime: Duration::from_secs(60),
            losses: 5,
        }
    }
}
