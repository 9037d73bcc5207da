//! What a client hands in and what it sees.

use caisson_model::agent::AgentView;
use caisson_model::ledger::LedgerHead;
use caisson_model::log::LogRead;
use caisson_model::run::{
    Explanation, JobState, JobView, NumberedEvent, RerunScope, RunEvent, RunState, RunView, StepState, StepView, Submission,
};

use super::{Cross, Malformed, enumeration, field, message, required};
use crate::api::{ApiError, RunDetail, Submitted};
use crate::wire;

enumeration!(RunState => RunState { Queued, Running, Finished });
enumeration!(JobState => JobState { Waiting, Queued, Offered, Leased, Running, Suspect, Finished });
enumeration!(StepState => StepState { Running, Finished });
enumeration!(RerunScope => RerunScope { All, Failed });

message!(RunView => RunView { id, workflow, file, event, state, outcome, submitted, started, finished, rerun_of, ledger });
message!(LedgerHead => LedgerHead { entries, head });
message!(JobView => JobView { key, name, state, outcome, cause, attempt, agent, started, finished, outputs } whole { id });
message!(StepView => StepView { index, id, name, state, result, started, finished } whole { attempt });
message!(AgentView => AgentView { name, connected, slots, labels, enforces, jobs, cordoned, draining, revoked, memory_bytes, cpu_milli });
message!(Explanation => Explanation { reasons } whole { job });
message!(RunDetail => GetRunAnswer { jobs, steps } whole { run });

impl Cross for Submission {
    type Wire = wire::SubmitRequest;

    fn out(self) -> wire::SubmitRequest {
        wire::SubmitRequest {
            file: self.file,
            text: self.text,
            event: self.event,
            inputs: self.inputs.out(),
            env: self.env.out(),
            jobs: self.jobs,
            github_json: self.github.out(),
            source: self.source.out(),
            files: self.files.out(),
            priority: self.priority,
            changes: self.changes.map(|paths| wire::Changes { paths }),
            matrix: self.matrix.into_iter().map(|(key, values)| wire::Choice { key, values }).collect(),
        }
    }

    fn back(wire: wire::SubmitRequest) -> Result<Submission, Malformed> {
        Ok(Submission {
            file: wire.file,
            text: wire.text,
            event: wire.event,
            inputs: field(wire.inputs, "inputs")?,
            env: field(wire.env, "env")?,
            jobs: wire.jobs,
            github: field(wire.github_json, "github_json")?,
            source: field(wire.source, "source")?,
            files: field(wire.files, "files")?,
            priority: wire.priority,
            changes: wire.changes.map(|changes| changes.paths),
            matrix: wire.matrix.into_iter().map(|choice| (choice.key, choice.values)).collect(),
        })
    }
}

/// A submission's answer: taken or rejected.
impl Cross for Result<Submitted, ApiError> {
    type Wire = wire::SubmitAnswer;

    fn out(self) -> wire::SubmitAnswer {
        use wire::submit_answer::{Answer, Submitted as Taken};
        let answer = match self {
            Ok(submitted) => Some(Answer::Submitted(Taken { run: submitted.run.out(), warnings: submitted.warnings.out() })),
            Err(ApiError::Rejected(diagnostics)) => Some(Answer::Rejected(wire::failure::Rejected { diagnostics: diagnostics.out() })),
            // Every other error travels as a status; the server never comes here with one.
            Err(_) => None,
        };
        wire::SubmitAnswer { answer }
    }

    fn back(wire: wire::SubmitAnswer) -> Result<Self, Malformed> {
        use wire::submit_answer::Answer;
        Ok(match wire.answer.ok_or(Malformed::new("is of no known kind").within("answer"))? {
            Answer::Submitted(taken) => {
                Ok(Submitted { run: field(taken.run, "submitted.run")?, warnings: field(taken.warnings, "submitted.warnings")? })
            }
            Answer::Rejected(rejected) => Err(ApiError::Rejected(field(rejected.diagnostics, "rejected.diagnostics")?)),
        })
    }
}

impl Cross for NumberedEvent {
    type Wire = wire::NumberedEvent;

    fn out(self) -> wire::NumberedEvent {
        use wire::numbered_event::{Annotated, Egress, Event};
        let event = match self.event {
            RunEvent::Run(view) => Event::Run(view.out()),
            RunEvent::Job(view) => Event::Job(view.out()),
            RunEvent::Step(view) => Event::Step(view.out()),
            RunEvent::Egress { attempt, step, entry } => {
                Event::Egress(Egress { attempt: Some(attempt.out()), step: step.out(), entry: Some(entry.out()) })
            }
            RunEvent::Annotation { attempt, step, annotation } => {
                Event::Annotated(Annotated { attempt: Some(attempt.out()), step: step.out(), annotation: Some(annotation.out()) })
            }
        };
        wire::NumberedEvent { number: self.number, at: self.at.out(), event: Some(event) }
    }

    fn back(wire: wire::NumberedEvent) -> Result<NumberedEvent, Malformed> {
        use wire::numbered_event::Event;
        let event = match wire.event.ok_or(Malformed::new("is of no known kind").within("event"))? {
            Event::Run(view) => RunEvent::Run(field(view, "run")?),
            Event::Job(view) => RunEvent::Job(field(view, "job")?),
            Event::Step(view) => RunEvent::Step(field(view, "step")?),
            Event::Egress(w) => RunEvent::Egress {
                attempt: required(w.attempt, "egress.attempt")?,
                step: field(w.step, "egress.step")?,
                entry: required(w.entry, "egress.entry")?,
            },
            Event::Annotated(w) => RunEvent::Annotation {
                attempt: required(w.attempt, "annotated.attempt")?,
                step: field(w.step, "annotated.step")?,
                annotation: required(w.annotation, "annotated.annotation")?,
            },
        };
        Ok(NumberedEvent { number: wire.number, at: field(wire.at, "at")?, event })
    }
}

impl Cross for LogRead {
    type Wire = wire::TailLogAnswer;

    fn out(self) -> wire::TailLogAnswer {
        use wire::tail_log_answer::Read;
        wire::TailLogAnswer {
            read: Some(match self {
                LogRead::Chunk(chunk) => Read::Chunk(chunk.out()),
                LogRead::Seal(seal) => Read::Seal(seal.out()),
            }),
        }
    }

    fn back(wire: wire::TailLogAnswer) -> Result<LogRead, Malformed> {
        use wire::tail_log_answer::Read;
        Ok(match wire.read.ok_or(Malformed::new("is of no known kind").within("read"))? {
            Read::Chunk(chunk) => LogRead::Chunk(field(chunk, "chunk")?),
            Read::Seal(seal) => LogRead::Seal(field(seal, "seal")?),
        })
    }
}
