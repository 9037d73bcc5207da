//! What follows: groups that become ready, stops, losses, deadlines and the end of a run.

use std::sync::Arc;

use caisson_model::id::{Hold, JobId, RunId};
use caisson_model::job::{JobSpec, Need};
use caisson_model::lease::ControllerMessage;
use caisson_model::outcome::{Cause, Outcome};
use indexmap::IndexMap;

use crate::core::effect::Effect;
use crate::core::engine::{ENDED_RUNS, Engine};
use crate::core::job::{Job, Life};
use crate::core::record::{Record, Voice};
use crate::core::terms::{Carried, Turn};
use crate::core::turns::Member;
use caisson_workflow::{Expansion, PlannedJob, Ready, exclusion, expand};

/// A job that was never held.
const NOBODY: (Option<Hold>, Voice) = (None, Voice::Controller);

/// The concurrency group of a cell.
fn turn(planned: &PlannedJob, cell: &JobSpec, repository: &str) -> Result<Option<Turn>, String> {
    let Some(concurrency) = &planned.concurrency else { return Ok(None) };
    let (group, cancel_in_progress) = exclusion(concurrency, &cell.contexts, Some(cell))?;
    Ok(Some(Turn { group: format!("{repository}\n{}", group.to_lowercase()), cancel_in_progress }))
}

impl Engine {
    /// Expands every group of the run whose needs have ended, until none is left, and ends the run when all jobs have.
    pub(super) fn advance(&mut self, id: RunId) {
        while let Some((job, planned, needs)) = self.ready(id) {
            let Some(run) = self.state.runs.get(&id) else { return };
            let ready = Ready {
                run: id,
                first_index: job.index,
                needs,
                ancestor_failed: run.ancestor_failed(&planned.key),
                cancelled: run.cancelled.is_some(),
                contexts: run.contexts.clone(),
                source: run.source,
            };
            match expand(&planned, &ready) {
                Ok(Expansion::Cells(cells)) if !cells.is_empty() => self.expanded(id, job, &planned, cells),
                Ok(Expansion::Called { jobs, collector }) => self.called(id, job, jobs, collector),
                Ok(Expansion::Ended { outcome, outputs }) => self.end(job, NOBODY, outcome, None, outputs),
                Ok(_) => self.end(job, NOBODY, Outcome::Skipped, None, IndexMap::new()),
                Err(diagnostic) => {
                    let place = &diagnostic.location;
                    let message =
                        format!("{}:{}:{}: {}: {}", place.file, place.line, place.column, diagnostic.construct, diagnostic.message);
                    self.end(job, NOBODY, Outcome::Failure, Some(Cause::Invalid { message }), IndexMap::new());
                }
            }
        }
        let Some(run) = self.state.runs.get(&id) else { return };
        if run.view.finished.is_none()
            && let Some(outcome) = run.result()
        {
            self.record(Record::RunEnded { run: id, at: self.now, outcome });
            self.tell_run(id);
            let entered = self.state.runs.get(&id).and_then(|run| run.turn.clone());
            entered.iter().for_each(|entered| self.leave_group(entered));
            self.ended.insert((self.now, id));
            if self.ended.len() > ENDED_RUNS
                && let Some((_, oldest)) = self.ended.pop_first()
            {
                let jobs = self.state.runs.get(&oldest).map(|run| run.jobs.iter().map(|job| job.id).collect::<Vec<_>>());
                self.record(Record::Forgotten { run: oldest });
                jobs.into_iter().flatten().for_each(|job| self.index(job));
            }
        }
    }

    /// A group that waits and whose needs have all ended.
    fn ready(&self, id: RunId) -> Option<(JobId, Arc<PlannedJob>, IndexMap<String, Need>)> {
        let run = self.state.runs.get(&id)?;
        let held = run.held_back();
        run.groups.iter().find_map(|group| {
            let waiting = run.cells(group).find(|job| job.life == Life::Waiting)?;
            if group.planned.scope.as_ref().is_some_and(|scope| held.contains(scope.prefix.as_str())) {
                return None;
            }
            let needs = group.planned.needs.iter().map(|key| Some((key.0.clone(), run.need(key)?)));
            Some((waiting.id, group.planned.clone(), needs.collect::<Option<_>>()?))
        })
    }

    fn expanded(&mut self, run: RunId, placeholder: JobId, planned: &PlannedJob, mut cells: Vec<JobSpec>) {
        let repository = self.state.runs.get(&run).map(|run| run.terms.repository.clone()).unwrap_or_default();
        let turns = match cells.iter().map(|cell| turn(planned, cell, &repository)).collect::<Result<Vec<_>, _>>() {
            Ok(turns) => turns,
            Err(message) => {
                let message = format!("jobs.{}.concurrency: {message}", planned.key);
                return self.end(placeholder, NOBODY, Outcome::Failure, Some(Cause::Invalid { message }), IndexMap::new());
            }
        };
        let key = planned.key.clone();
        let next = self.state.runs.get(&run).map_or(0, |run| run.jobs.len());
        let free = (next + 1..).filter_map(|index| u32::try_from(index).ok()).map(|index| JobId { run, index });
        for (cell, id) in cells.iter_mut().zip(std::iter::once(placeholder).chain(free)) {
            cell.id = id;
        }
        let ids: Vec<JobId> = cells.iter().map(|cell| cell.id).collect();
        let cells = cells.into_iter().map(Arc::new).collect();
        self.record(Record::Expanded { run, key, at: self.now, cells, turns: turns.clone() });
        for id in &ids {
            self.index(*id);
            self.tell_job(*id);
        }
        for (id, turn) in ids.iter().zip(turns) {
            let entered = self.state.job(*id).and_then(|job| job.turn.clone());
            if let (Some(turn), Some(entered)) = (turn, entered) {
                self.enter_group(&entered, &turn, Member::Job(*id));
            }
        }
        for id in ids {
            self.carry(id);
            self.skip_unserved(id);
        }
    }

    /// A job that no agent will ever take does not wait for one.
    fn skip_unserved(&mut self, id: JobId) {
        let Some((run, job)) = self.state.runs.get(&id.run).and_then(|run| Some((run, run.job(id)?))) else { return };
        let reason = job.spec.as_ref().filter(|_| job.life.end().is_none()).and_then(|spec| run.terms.unserved(&spec.labels));
        if let Some(message) = reason {
            self.end(id, NOBODY, Outcome::Skipped, Some(Cause::Invalid { message }), IndexMap::new());
        }
    }

    /// A job that kept its result from an earlier run does not run.
    fn carry(&mut self, id: JobId) {
        let Some(run) = self.state.runs.get(&id.run) else { return };
        let Some(job) = run.job(id) else { return };
        let kept = run.terms.carried.iter().find(|kept| kept.key == job.key && kept.name == job.name);
        if let Some(Carried { outcome, outputs, .. }) = kept.cloned() {
            self.end(id, NOBODY, outcome, None, outputs);
        }
    }

    /// A job ends, whatever it was doing. One that fails takes the other cells of its matrix along, if they are to fail fast.
    pub(super) fn end(
        &mut self,
        id: JobId,
        (hold, by): (Option<Hold>, Voice),
        outcome: Outcome,
        cause: Option<Cause>,
        outputs: IndexMap<String, String>,
    ) {
        self.refusals.remove(&id);
        self.record(Record::Ended { job: id, at: self.now, hold, by, outcome, cause, outputs });
        self.index(id);
        self.tell_job(id);
        let entered = self.state.job(id).and_then(|job| job.turn.clone());
        entered.iter().for_each(|entered| self.leave_group(entered));
        let Some(run) = self.state.runs.get(&id.run) else { return };
        let Some(job) = run.job(id) else { return };
        let fails_fast = job.spec.as_ref().is_some_and(|spec| spec.strategy.fail_fast) && job.counts();
        if fails_fast && outcome.result() == "failure" {
            let others = run.group(&job.key).map(|group| group.cells.clone()).unwrap_or_default();
            for index in others {
                self.stop(JobId { run: id.run, index }, Outcome::Cancelled);
            }
        }
        if outcome.result() == "failure" {
            self.fail_fast_across_calls(id);
        }
    }

    /// A job is to end. One that waits for its needs is judged when they have ended, as its condition may want it to run nevertheless.
    pub(super) fn stop(&mut self, id: JobId, outcome: Outcome) {
        let Some(job) = self.state.job(id) else { return };
        match &job.life {
            Life::Waiting | Life::Finished(_) => {}
            Life::Queued { .. } => self.end(id, NOBODY, outcome, None, IndexMap::new()),
            Life::Offered { agent, hold, .. } => {
                let (hold, session) = (*hold, self.agents.get(agent).and_then(|agent| agent.session));
                self.end(id, NOBODY, outcome, None, IndexMap::new());
                if let Some(session) = session {
                    self.effects.push(Effect::Send(session, ControllerMessage::Forget(hold)));
                }
            }
            Life::Leased(lease) | Life::Running(lease) | Life::Suspect { lease, .. } => {
                if lease.stop.is_some() {
                    return;
                }
                let (hold, session) = (lease.hold, self.agents.get(&lease.agent).and_then(|agent| agent.session));
                self.record(Record::Stopping { attempt: hold.attempt, at: self.now, outcome });
                self.index(id);
                if let Some(session) = session {
                    let (terminate_after, kill_after) = (self.timing.terminate_after, self.timing.kill_after);
                    self.effects.push(Effect::Send(session, ControllerMessage::Cancel { hold, terminate_after, kill_after }));
                }
            }
        }
    }

    /// The agent does not have the attempt any more.
    pub(super) fn lose(&mut self, hold: Hold, why: &str) {
        let Ok(lease) = self.lease(hold) else { return };
        let message = format!("agent {} was lost: {why}", lease.agent);
        let session = self.agents.get(&lease.agent).and_then(|agent| agent.session);
        self.release(hold, true, Cause::Lost { message: message.clone() });
        self.effects.push(Effect::EndLogs(hold.attempt, message));
        if let Some(session) = session {
            self.effects.push(Effect::Send(session, ControllerMessage::Forget(hold)));
        }
        self.advance(hold.attempt.job.run);
    }

    /// An attempt ends without a result. Its job is queued again, unless it was to end anyway or was lost too often.
    pub(super) fn release(&mut self, hold: Hold, lost: bool, cause: Cause) {
        let id = hold.attempt.job;
        let Ok(lease) = self.lease(hold) else { return };
        let stop = lease.stop;
        let losses = self.state.job(id).map_or(0, |job: &Job| job.losses);
        if let Some(stop) = stop {
            let cause = (stop.outcome != Outcome::Cancelled).then_some(cause);
            self.end(id, (Some(hold), Voice::Controller), stop.outcome, cause, IndexMap::new());
        } else if lost && losses + 1 >= self.timing.losses {
            self.end(id, (Some(hold), Voice::Controller), Outcome::Faulted, Some(cause), IndexMap::new());
        } else {
            self.record(Record::Released { attempt: hold.attempt, at: self.now, lost });
            self.index(id);
            self.tell_job(id);
        }
    }

    /// Whatever is due.
    pub(super) fn tick(&mut self) {
        while let Some((at, id)) = self.due.first().copied().filter(|(at, _)| *at <= self.now) {
            self.overdue(id);
            // Every arm moves the job or its deadline on. If one ever did not, the loop must end all the same.
            if self.due.remove(&(at, id)) {
                self.indexed.entry(id).and_modify(|indexed| indexed.due = None);
            }
        }
    }

    fn overdue(&mut self, id: JobId) {
        let Some(job) = self.state.job(id) else { return };
        match job.life.clone() {
            Life::Waiting | Life::Finished(_) => {}
            Life::Queued { .. } => {
                let now = self.now;
                if let Some(refusals) = self.refusals.get_mut(&id) {
                    refusals.retain(|_, until| *until > now);
                }
                self.index(id);
            }
            #[cfg(test)]
            Life::Offered { .. } if self.lacks(crate::core::engine::Weakness::OfferDeadline) => {}
            Life::Offered { agent, hold, .. } => {
                let session = self.agents.get(&agent).and_then(|agent| agent.session);
                self.refuse(id, &agent);
                if let Some(session) = session {
                    self.effects.push(Effect::Send(session, ControllerMessage::Forget(hold)));
                }
            }
            Life::Leased(lease) | Life::Running(lease) | Life::Suspect { lease, .. } if self.limit(job, &lease) <= self.now => {
                match lease.stop {
                    Some(_) => self.lose(lease.hold, "it did not end the attempt when told to"),
                    None => self.stop(id, Outcome::TimedOut),
                }
            }
            Life::Suspect { lease, .. } => self.lose(lease.hold, "its lease and the grace after it have ended"),
            Life::Leased(lease) | Life::Running(lease) => {
                let until = lease.expires.after(self.timing.grace);
                self.enter(id, Life::Suspect { lease, until });
                self.tell_job(id);
            }
        }
    }
}
