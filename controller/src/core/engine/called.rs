//! Jobs of called workflows: how they come into a run, and how a failure of one takes those of other cells along.

use caisson_model::id::{JobId, RunId};
use caisson_model::outcome::Outcome;
use caisson_workflow::PlannedJob;

use crate::core::engine::Engine;
use crate::core::record::Record;

impl Engine {
    /// The called jobs come into the run, and the calling one waits for them.
    pub(super) fn called(&mut self, run: RunId, caller: JobId, jobs: Vec<PlannedJob>, collector: Box<PlannedJob>) {
        let first = self.state.runs.get(&run).map_or(0, |run| run.jobs.len());
        let count = jobs.len();
        self.record(Record::Called { run, at: self.now, jobs, collector });
        self.tell_job(caller);
        for index in (first + 1..=first + count).filter_map(|index| u32::try_from(index).ok()) {
            self.tell_job(JobId { run, index });
        }
    }

    /// A called job failed: if its caller's matrix is to fail fast, the jobs of its other cells end too.
    pub(super) fn fail_fast_across_calls(&mut self, id: JobId) {
        let Some(run) = self.state.runs.get(&id.run) else { return };
        let Some(job) = run.job(id).filter(|job| job.counts()) else { return };
        let scope = run.group(&job.key).and_then(|group| group.planned.scope.as_ref());
        let Some(prefix) = scope.and_then(|scope| scope.fail_fast.clone()) else { return };
        let others: Vec<JobId> = run.jobs.iter().filter(|job| job.key.0.starts_with(&prefix)).map(|job| job.id).collect();
        for other in others.into_iter().filter(|other| *other != id) {
            self.stop(other, Outcome::Cancelled);
        }
    }
}
