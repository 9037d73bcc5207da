//! The messages of a session: how an agent gets work, keeps it, and is told to stop.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::{Digest, Hold};
use crate::outcome::{EgressEntry, Outcome};
use crate::time::Timestamp;

/// What an agent says during a session, after its [`crate::agent::Hello`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AgentMessage {
    /// It takes the offer; a slot is kept for it.
    Accept(Hold),
    /// It does not.
    Decline {
        /// The offer.
        hold: Hold,
        /// Why.
        reason: String,
    },
    /// It is alive and holds these; renews all their leases.
    Beat {
        /// Counts the beats of this agent. 0 before version 3 of the contract.
        number: u64,
        /// What it holds.
        holds: Vec<Hold>,
    },
    /// It has begun to cancel.
    CancelAck(Hold),
    /// Every process of the attempt is dead.
    Killed(Hold),
    /// It takes no more work and leaves when its attempts have ended.
    Draining,
}

/// What a controller says during a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ControllerMessage {
    /// The first message.
    Welcome {
        /// The agreed version of the contract.
        version: u32,
        /// How long a lease lives without a beat. An agent beats at a third of it.
        term: Duration,
        /// How long after that the attempt may still come back.
        grace: Duration,
        /// What to do with each attempt that the agent said it runs.
        verdicts: Vec<(Hold, Verdict)>,
    },
    /// Work, without its content.
    Offer {
        /// The attempt and its fence.
        hold: Hold,
        /// The digest of the job's spec: SHA-256 over its JSON as `serde_json::to_vec` writes it.
        spec: Digest,
        /// Until when it may be accepted.
        deadline: Timestamp,
    },
    /// The lease is durable: begin.
    Start(Hold),
    /// End the attempt: interrupt, then terminate, then kill.
    Cancel {
        /// The attempt.
        hold: Hold,
        /// From SIGINT to SIGTERM.
        terminate_after: Duration,
        /// From SIGTERM to SIGKILL.
        kill_after: Duration,
    },
    /// The attempt is somebody else's now: kill it and say nothing more about it.
    Forget(Hold),
    /// Take no more work.
    Drain,
    /// The beat of this number was heard. Since version 3 of the contract.
    Heard(u64),
}

/// What becomes of an attempt that an agent ran while the connection was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It is still the agent's: go on.
    Keep,
    /// It was cancelled meanwhile: stop and report.
    Stop,
    /// It is fenced: kill it and forget it.
    Forget,
}

/// A change of a step, reported by an agent; idempotent on (attempt, `sequence`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// The attempt.
    pub hold: Hold,
    /// Counted from 1 over all reports of the attempt.
    pub sequence: u64,
    /// When it happened, by the agent's clock.
    pub at: Timestamp,
    /// What happened.
    pub change: StepChange,
}

/// What happened to a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepChange {
    /// It started.
    Started {
        /// Its position.
        step: crate::id::StepIndex,
        /// Its `id:`.
        id: Option<String>,
        /// Its evaluated and masked name.
        name: String,
    },
    /// It tried to reach something (also told in the result; this one comes at once).
    Reached {
        /// Its position.
        step: crate::id::StepIndex,
        /// What it tried.
        entry: EgressEntry,
    },
    /// It made a remark.
    Annotated {
        /// Its position.
        step: crate::id::StepIndex,
        /// The remark.
        annotation: crate::outcome::Annotation,
    },
    /// It ended. Terminal and sticky. A skipped step has only this report.
    Finished {
        /// Its position.
        step: crate::id::StepIndex,
        /// Its `id:`.
        id: Option<String>,
        /// Its evaluated and masked name.
        name: String,
        /// How.
        result: Box<crate::outcome::StepResult>,
    },
}

/// The end of an attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// The attempt.
    pub hold: Hold,
    /// How the job ended.
    pub outcome: Outcome,
    /// Why, where the job itself and none of its steps is the reason.
    pub cause: Option<crate::outcome::Cause>,
    /// The job's outputs, masked.
    pub outputs: indexmap::IndexMap<String, String>,
    /// When, by the agent's clock.
    pub at: Timestamp,
}

/// The controller's answer to a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// It is the result of the job.
    Recorded,
    /// It was so already: the call was repeated.
    AlreadyRecorded,
}
