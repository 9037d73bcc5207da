//! What agent and controller say to each other.

use caisson_model::agent::{Hello, VersionRange};
use caisson_model::id::Hold;
use caisson_model::lease::{AgentMessage, Completion, ControllerMessage, Recorded, StepChange, StepReport, Verdict};
use caisson_model::log::{LogAck, LogPush};
use caisson_model::secret::{OpenedSecrets, SecretValue};

use super::{Cross, Malformed, enumeration, field, message, required};
use crate::wire;

enumeration!(Verdict => Verdict { Keep, Stop, Forget });
enumeration!(Recorded => Recorded { Recorded, AlreadyRecorded });

message!(VersionRange => VersionRange { min, max });
message!(Hello => Hello { agent, slots, labels, enforces, running, memory_bytes, cpu_milli } whole { versions });
message!(LogPush => PushLogRequest { step } whole { hold, chunk });
message!(Completion => CompleteAttemptRequest { outcome, cause, outputs, at } whole { hold });

impl Cross for AgentMessage {
    type Wire = wire::SessionRequest;

    fn out(self) -> wire::SessionRequest {
        use wire::session_request::{Beat, Decline, Draining, Message};
        let message = match self {
            AgentMessage::Accept(hold) => Message::Accept(hold.out()),
            AgentMessage::Decline { hold, reason } => Message::Decline(Decline { hold: Some(hold.out()), reason }),
            AgentMessage::Beat { number, holds } => Message::Beat(Beat { holds: holds.out(), number }),
            AgentMessage::CancelAck(hold) => Message::CancelAck(hold.out()),
            AgentMessage::Killed(hold) => Message::Killed(hold.out()),
            AgentMessage::Draining => Message::Draining(Draining {}),
        };
        wire::SessionRequest { message: Some(message) }
    }

    fn back(wire: wire::SessionRequest) -> Result<AgentMessage, Malformed> {
        use wire::session_request::Message;
        Ok(match wire.message.ok_or(Malformed::new("is of no known kind").within("message"))? {
            Message::Hello(_) => return Err(Malformed::new("is said once, as the first message").within("hello")),
            Message::Accept(hold) => AgentMessage::Accept(field(hold, "accept")?),
            Message::Decline(decline) => AgentMessage::Decline { hold: required(decline.hold, "decline.hold")?, reason: decline.reason },
            Message::Beat(beat) => AgentMessage::Beat { number: beat.number, holds: field(beat.holds, "beat.holds")? },
            Message::CancelAck(hold) => AgentMessage::CancelAck(field(hold, "cancel_ack")?),
            Message::Killed(hold) => AgentMessage::Killed(field(hold, "killed")?),
            Message::Draining(_) => AgentMessage::Draining,
        })
    }
}

impl Cross for (Hold, Verdict) {
    type Wire = wire::session_answer::Judgement;

    fn out(self) -> Self::Wire {
        wire::session_answer::Judgement { hold: Some(self.0.out()), verdict: self.1.out() }
    }

    fn back(wire: Self::Wire) -> Result<Self, Malformed> {
        Ok((required(wire.hold, "hold")?, field(wire.verdict, "verdict")?))
    }
}

impl Cross for ControllerMessage {
    type Wire = wire::SessionAnswer;

    fn out(self) -> wire::SessionAnswer {
        use wire::session_answer::{Cancel, Drain, Message, Offer, Welcome};
        let message = match self {
            ControllerMessage::Welcome { version, term, grace, verdicts } => {
                Message::Welcome(Welcome { version, term_ns: term.out(), grace_ns: grace.out(), verdicts: verdicts.out() })
            }
            ControllerMessage::Offer { hold, spec, deadline } => {
                Message::Offer(Offer { hold: Some(hold.out()), spec: spec.out(), deadline: deadline.out() })
            }
            ControllerMessage::Start(hold) => Message::Start(hold.out()),
            ControllerMessage::Cancel { hold, terminate_after, kill_after } => Message::Cancel(Cancel {
                hold: Some(hold.out()),
                terminate_after_ns: terminate_after.out(),
                kill_after_ns: kill_after.out(),
            }),
            ControllerMessage::Forget(hold) => Message::Forget(hold.out()),
            ControllerMessage::Drain => Message::Drain(Drain {}),
            ControllerMessage::Heard(number) => Message::Heard(number),
        };
        wire::SessionAnswer { message: Some(message) }
    }

    fn back(wire: wire::SessionAnswer) -> Result<ControllerMessage, Malformed> {
        use wire::session_answer::Message;
        Ok(match wire.message.ok_or(Malformed::new("is of no known kind").within("message"))? {
            Message::Welcome(welcome) => ControllerMessage::Welcome {
                version: welcome.version,
                term: field(welcome.term_ns, "welcome.term_ns")?,
                grace: field(welcome.grace_ns, "welcome.grace_ns")?,
                verdicts: field(welcome.verdicts, "welcome.verdicts")?,
            },
            Message::Offer(offer) => ControllerMessage::Offer {
                hold: required(offer.hold, "offer.hold")?,
                spec: field(offer.spec, "offer.spec")?,
                deadline: field(offer.deadline, "offer.deadline")?,
            },
            Message::Start(hold) => ControllerMessage::Start(field(hold, "start")?),
            Message::Cancel(cancel) => ControllerMessage::Cancel {
                hold: required(cancel.hold, "cancel.hold")?,
                terminate_after: field(cancel.terminate_after_ns, "cancel.terminate_after_ns")?,
                kill_after: field(cancel.kill_after_ns, "cancel.kill_after_ns")?,
            },
            Message::Forget(hold) => ControllerMessage::Forget(field(hold, "forget")?),
            Message::Drain(_) => ControllerMessage::Drain,
            Message::Heard(number) => ControllerMessage::Heard(number),
        })
    }
}

impl Cross for StepReport {
    type Wire = wire::ReportStepRequest;

    fn out(self) -> wire::ReportStepRequest {
        use wire::report_step_request::{Annotated, Change, Finished, Reached, Started};
        let change = match self.change {
            StepChange::Started { step, id, name } => Change::Started(Started { step: step.out(), id, name }),
            StepChange::Reached { step, entry } => Change::Reached(Reached { step: step.out(), entry: Some(entry.out()) }),
            StepChange::Annotated { step, annotation } => {
                Change::Annotated(Annotated { step: step.out(), annotation: Some(annotation.out()) })
            }
            StepChange::Finished { step, id, name, result } => {
                Change::Finished(Finished { step: step.out(), id, name, result: Some(result.out()) })
            }
        };
        wire::ReportStepRequest { hold: Some(self.hold.out()), sequence: self.sequence, at: self.at.out(), change: Some(change) }
    }

    fn back(wire: wire::ReportStepRequest) -> Result<StepReport, Malformed> {
        use wire::report_step_request::Change;
        let change = match wire.change.ok_or(Malformed::new("is of no known kind").within("change"))? {
            Change::Started(w) => StepChange::Started { step: field(w.step, "started.step")?, id: w.id, name: w.name },
            Change::Reached(w) => StepChange::Reached { step: field(w.step, "reached.step")?, entry: required(w.entry, "reached.entry")? },
            Change::Annotated(w) => StepChange::Annotated {
                step: field(w.step, "annotated.step")?,
                annotation: required(w.annotation, "annotated.annotation")?,
            },
            Change::Finished(w) => StepChange::Finished {
                step: field(w.step, "finished.step")?,
                id: w.id,
                name: w.name,
                result: required(w.result, "finished.result")?,
            },
        };
        Ok(StepReport { hold: required(wire.hold, "hold")?, sequence: wire.sequence, at: field(wire.at, "at")?, change })
    }
}

impl Cross for LogAck {
    type Wire = wire::PushLogAnswer;

    fn out(self) -> wire::PushLogAnswer {
        use wire::push_log_answer::Answer;
        wire::PushLogAnswer {
            answer: Some(match self {
                LogAck::Kept { offset } => Answer::Kept(offset),
                LogAck::Resync { offset } => Answer::Resync(offset),
            }),
        }
    }

    fn back(wire: wire::PushLogAnswer) -> Result<LogAck, Malformed> {
        use wire::push_log_answer::Answer;
        Ok(match wire.answer.ok_or(Malformed::new("is of no known kind").within("answer"))? {
            Answer::Kept(offset) => LogAck::Kept { offset },
            Answer::Resync(offset) => LogAck::Resync { offset },
        })
    }
}

impl Cross for OpenedSecrets {
    type Wire = wire::OpenSecretsAnswer;

    fn out(self) -> wire::OpenSecretsAnswer {
        use wire::open_secrets_answer::Secret;
        let secret = |(name, value): (String, SecretValue)| Secret { name, value: value.expose().to_vec() };
        wire::OpenSecretsAnswer { secrets: self.secrets.into_iter().map(secret).collect() }
    }

    fn back(wire: wire::OpenSecretsAnswer) -> Result<OpenedSecrets, Malformed> {
        Ok(OpenedSecrets { secrets: wire.secrets.into_iter().map(|secret| (secret.name, SecretValue::new(secret.value))).collect() })
    }
}
