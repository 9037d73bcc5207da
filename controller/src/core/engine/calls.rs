//! What clients and agents ask for, one function each.

use caisson_model::id::{Hold, JobId, RunId, StepIndex};
use caisson_model::lease::{Completion, Recorded, StepChange, StepReport};
use caisson_model::ledger::LedgerHead;
use caisson_model::outcome::{Cause, Outcome};
use caisson_model::run::{RunEvent, StepState, StepView};

use crate::core::effect::Effect;
use crate::core::engine::{Decision, Engine};
use crate::core::event::{Answer, Refusal};
use crate::core::job::{Arrival, Life};
use crate::core::record::{Mark, Record, Voice};
use crate::core::terms::Terms;
use crate::core::turns::Member;
use caisson_workflow::Plan;

/// No job has more steps than this; an agent that reports one is not believed.
const MOST_STEPS: u32 = 10_000;

impl Engine {
    pub(super) fn submit(&mut self, plan: Box<Plan>, terms: Box<Terms>) -> Decision {
        if plan.jobs.is_empty() {
            return Err(Refusal::Invalid("the plan has no job".to_owned()));
        }
        let run = RunId(self.state.last_run + 1);
        let turn = terms.turn.clone();
        self.record(Record::Submitted { run, at: self.now, plan, terms });
        self.tell_run(run);
        let jobs: Vec<JobId> = self.state.runs.get(&run).into_iter().flat_map(|run| run.jobs.iter().map(|job| job.id)).collect();
        jobs.into_iter().for_each(|job| self.tell_job(job));
        let entered = self.state.runs.get(&run).and_then(|run| run.turn.clone());
        if let (Some(turn), Some(entered)) = (turn, entered) {
            self.enter_group(&entered, &turn, Member::Run(run));
        }
        self.advance(run);
        Ok(Answer::Submitted(run))
    }

    pub(super) fn cancel(&mut self, run: RunId) -> Decision {
        let known = self.run(run)?;
        if known.cancelled.is_some() || known.view.finished.is_some() {
            return Ok(Answer::Done);
        }
        let jobs: Vec<JobId> = known.jobs.iter().map(|job| job.id).collect();
        self.record(Record::Cancelled { run, at: self.now });
        for job in jobs {
            self.stop(job, Outcome::Cancelled);
        }
        self.advance(run);
        Ok(Answer::Done)
    }

    pub(super) fn report(&mut self, report: StepReport) -> Decision {
        let StepReport { hold, sequence, at, change } = report;
        let attempt = hold.attempt;
        let lease = match self.lease(hold) {
            Ok(lease) => lease,
            // The attempt was completed by its own holder: a repeated report is no news.
            Err(_) if self.completed(hold) => return Ok(Answer::Done),
            Err(refusal) => return Err(refusal),
        };
        match lease.reports.arrival(sequence) {
            Arrival::New => {}
            Arrival::Repeated => return Ok(Answer::Done),
            Arrival::Strange => {
                return Err(Refusal::Invalid(format!("sequence: {sequence} does not follow the reports of attempt {attempt}")));
            }
        }
        let step = match &change {
            StepChange::Started { step, .. } | StepChange::Finished { step, .. } => *step,
            StepChange::Reached { step, .. } | StepChange::Annotated { step, .. } => *step,
        };
        if step.0 >= MOST_STEPS {
            return Err(Refusal::Invalid(format!("step: {} is more than a job has", step.0)));
        }
        let before = lease.steps.get(&step).copied();
        let started = before.map_or(at, |step| step.started);
        let first = lease.steps.is_empty();
        let mut ledger = None;
        let (mark, event) = match change {
            // Terminal is sticky: what arrives after the end of a step changes nothing of it.
            StepChange::Started { .. } | StepChange::Finished { .. } if before.is_some_and(|step| step.finished) => (Mark::Remark, None),
            StepChange::Started { id, name, .. } => {
                let view =
                    StepView { attempt, index: step, id, name, state: StepState::Running, result: None, started: at, finished: None };
                (Mark::Started, Some(RunEvent::Step(view)))
            }
            StepChange::Finished { id, name, result, .. } => {
                if !result.egress.is_empty() {
                    let run = attempt.job.run;
                    let chain = self.run(run)?.view.ledger.unwrap_or_else(|| LedgerHead::begin(run));
                    ledger = Some(chain.with_all(attempt, step, &result.egress));
                }
                let (result, finished) = (Some(*result), Some(at));
                let view = StepView { attempt, index: step, id, name, state: StepState::Finished, result, started, finished };
                (Mark::Finished, Some(RunEvent::Step(view)))
            }
            StepChange::Reached { entry, .. } => (Mark::Remark, Some(RunEvent::Egress { attempt, step, entry })),
            StepChange::Annotated { annotation, .. } => (Mark::Remark, Some(RunEvent::Annotation { attempt, step, annotation })),
        };
        let run = attempt.job.run;
        let was = self.run(run).map(|run| run.view.state)?;
        self.record(Record::Reported { attempt, sequence, step, mark, at, ledger });
        if self.run(run).map(|run| run.view.state)? != was {
            self.tell_run(run);
        }
        if first && mark != Mark::Remark {
            self.index(attempt.job);
            self.tell_job(attempt.job);
        }
        if let Some(event) = event {
            self.tell(run, event);
        }
        Ok(Answer::Done)
    }

    /// Whether this hold's completion is the job's result.
    fn completed(&self, hold: Hold) -> bool {
        let Some(job) = self.state.job(hold.attempt.job) else { return false };
        job.retried.contains(&hold) || job.life.end().is_some_and(|end| end.hold == Some(hold) && end.by == Voice::Holder)
    }

    pub(super) fn open_secrets(&mut self, hold: Hold, step: StepIndex) -> Decision {
        let lease = self.lease(hold)?;
        let attempt = hold.attempt;
        match lease.steps.get(&step) {
            None => return Err(Refusal::Invalid(format!("step: {} of attempt {attempt} was not reported as started", step.0))),
            Some(life) if life.finished => return Err(Refusal::Invalid(format!("step: {} of attempt {attempt} has ended", step.0))),
            Some(_) => {}
        }
        let opened = lease.opened.contains(&step);
        #[cfg(test)]
        let opened = opened && !self.lacks(crate::core::engine::Weakness::SecretsOnce);
        if opened {
            return Err(Refusal::Spent(format!("the secrets of step {} of attempt {attempt}", step.0)));
        }
        let spec = self.spec(hold)?;
        let spec = spec.steps.iter().find(|spec| spec.index == step);
        let names = spec
            .map(|spec| spec.grant.secrets.clone())
            .ok_or_else(|| Refusal::NotFound(format!("step {} in job {}", step.0, attempt.job)))?;
        self.record(Record::SecretsOpened { attempt, step });
        Ok(Answer::Secrets(names))
    }

    pub(super) fn complete(&mut self, completion: Completion) -> Decision {
        let Completion { hold, outcome, cause, outputs, at: _ } = completion;
        if self.completed(hold) {
            return Ok(Answer::Recorded(Recorded::AlreadyRecorded));
        }
        let stopped = self.lease(hold)?.stop.is_some();
        if !stopped && self.tries_again(hold.attempt.job, outcome) {
            self.record(Record::Retried { hold, at: self.now, outcome });
            self.index(hold.attempt.job);
            self.tell_job(hold.attempt.job);
        } else {
            self.end(hold.attempt.job, (Some(hold), Voice::Holder), outcome, cause, outputs);
        }
        self.effects.push(Effect::EndLogs(hold.attempt, "the attempt was completed without sealing it".to_owned()));
        self.advance(hold.attempt.job.run);
        Ok(Answer::Recorded(Recorded::Recorded))
    }

    /// Whether a rule wants the job tried again after this outcome.
    fn tries_again(&self, id: JobId, outcome: Outcome) -> bool {
        let Some(run) = self.state.runs.get(&id.run) else { return false };
        let Some(job) = run.job(id) else { return false };
        run.terms.retry_of(&job.key).is_some_and(|retry| retry.on.contains(&outcome) && job.retried.len() < retry.times as usize)
    }

    pub(super) fn give_back(&mut self, hold: Hold, reason: &str) -> Decision {
        if self
            .state
            .job(hold.attempt.job)
            .is_some_and(|job| job.attempts == hold.attempt.number && matches!(job.life, Life::Queued { .. }))
        {
            return Ok(Answer::Done);
        }
        let agent = self.lease(hold)?.agent.clone();
        let job = hold.attempt.job;
        self.release(hold, false, Cause::Lost { message: reason.to_owned() });
        self.effects.push(Effect::EndLogs(hold.attempt, format!("the attempt was given back: {reason}")));
        if matches!(self.state.job(job).map(|job| &job.life), Some(Life::Queued { .. })) {
            self.refusals.entry(job).or_default().insert(agent, self.now.after(self.timing.refusal));
            self.index(job);
        }
        self.advance(job.run);
        Ok(Answer::Done)
    }
}
