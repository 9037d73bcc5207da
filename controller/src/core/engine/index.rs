//! The indexes over the state: lines, deadlines, holders. One function brings them in line with where a job is.

use caisson_model::id::{AgentName, JobId};
use caisson_model::job::JobSpec;
use caisson_model::time::Timestamp;

use crate::core::engine::{Engine, Indexed};
use crate::core::job::{Job, Lease, Life};
use crate::core::matching::{Agent, Ask, Place};
use crate::core::state::Run;

impl Engine {
    /// Brings the indexes in line with where the job is. Its group's other cells are looked at as well where `max-parallel` binds them.
    pub(super) fn index(&mut self, id: JobId) {
        self.index_one(id);
        let Some(run) = self.state.runs.get(&id.run) else { return };
        let Some(spec) = run.job(id).and_then(|job| job.spec.as_ref()) else { return };
        if spec.strategy.max_parallel.is_none() {
            return;
        }
        let cells = run.group(&spec.key).map(|group| group.cells.clone()).unwrap_or_default();
        cells.into_iter().for_each(|index| self.index_one(JobId { run: id.run, index }));
    }

    pub(super) fn index_one(&mut self, id: JobId) {
        let run = self.state.runs.get(&id.run);
        let job = run.and_then(|run| run.job(id));
        let new = run.zip(job).map(|(run, job)| self.indexed(run, job)).unwrap_or_default();
        let is_nothing = new == Indexed::default();
        if self.indexed.get(&id).map_or(is_nothing, |old| *old == new) {
            return;
        }
        let old = if is_nothing { self.indexed.remove(&id) } else { self.indexed.insert(id, new.clone()) }.unwrap_or_default();
        let (run, job) = (self.state.runs.get(&id.run), self.state.job(id));
        let repository = run.map(|run| run.terms.repository.as_str()).unwrap_or_default();
        let labels = job.and_then(|job| job.spec.as_ref()).map(|spec| spec.labels.as_slice()).unwrap_or_default();
        if old.place != new.place {
            if let Some(place) = old.place {
                self.queue.remove(labels, repository, place, id);
            }
            if let Some(place) = new.place {
                self.queue.insert(labels, repository, place, id);
            }
        }
        if old.active != new.active {
            self.queue.load(repository, new.active);
        }
        if old.due != new.due {
            if let Some(due) = old.due {
                self.due.remove(&(due, id));
            }
            if let Some(due) = new.due {
                self.due.insert((due, id));
            }
        }
        if old.holder != new.holder {
            let gone = |name: &AgentName| Agent::absent(name.clone());
            if let Some(name) = &old.holder {
                self.agents.update(name, || gone(name), |agent| agent.give(id));
            }
            if let Some(name) = &new.holder {
                self.agents.update(name, || gone(name), |agent| agent.take(id, new.ask));
            }
        }
    }

    fn indexed(&self, run: &Run, job: &Job) -> Indexed {
        let holder = job.life.holder().cloned();
        let due = match &job.life {
            Life::Waiting | Life::Finished(_) => None,
            Life::Queued { .. } => self.refusals(job.id).map(|(_, until)| until).min(),
            Life::Offered { deadline, .. } => Some(*deadline),
            Life::Leased(lease) | Life::Running(lease) => Some(lease.expires.min(self.limit(job, lease))),
            Life::Suspect { lease, until } => Some((*until).min(self.limit(job, lease))),
        };
        let ask = match (&job.spec, &job.life) {
            (Some(spec), life) if !matches!(life, Life::Waiting | Life::Finished(_)) => Ask::of(spec),
            _ => Ask::default(),
        };
        let place = match (&job.life, &job.spec) {
            (Life::Queued { since }, Some(spec)) if self.may_start(run, job, spec) => {
                Some(Place { priority: run.terms.priority, since: *since, ask })
            }
            _ => None,
        };
        Indexed { place, due, holder, active: job.life.is_active(), ask }
    }

    /// Whether its turn has come, and `max-parallel` lets one more cell start.
    fn may_start(&self, run: &Run, job: &Job, spec: &JobSpec) -> bool {
        if self.waits_for(run, job).is_some() {
            return false;
        }
        let Some(most) = spec.strategy.max_parallel else { return true };
        let active = run.group(&spec.key).map_or(0, |group| run.cells(group).filter(|cell| cell.life.is_active()).count());
        active < usize::try_from(most.max(1)).unwrap_or(usize::MAX)
    }

    /// When the controller itself ends the attempt: after a stop that was not followed, or long after the job's own limit.
    pub(super) fn limit(&self, job: &Job, lease: &Lease) -> Timestamp {
        match &lease.stop {
            Some(stop) => stop.at.after(self.timing.stop),
            None => {
                let timeout = job.spec.as_ref().map(|spec| spec.timeout).unwrap_or_default();
                lease.since.after(timeout).after(self.timing.overtime)
            }
        }
    }
}
