//! Concurrency groups: one member at a time has its turn, the newest waits, and those between are cancelled.

use caisson_model::id::JobId;
use caisson_model::outcome::Outcome;

use crate::core::engine::Engine;
use crate::core::job::Job;
use crate::core::state::Run;
use crate::core::terms::{Entered, Turn};
use crate::core::turns::Member;

impl Engine {
    /// After a restart: everybody who has not ended takes the place that it had.
    pub(super) fn take_places(&mut self) {
        for run in self.state.runs.values() {
            if let Some(turn) = run.turn.as_ref().filter(|_| run.view.finished.is_none()) {
                self.turns.enter(&turn.group, turn.number, Member::Run(run.view.id));
            }
            for job in &run.jobs {
                if let Some(turn) = job.turn.as_ref().filter(|_| job.life.end().is_none()) {
                    self.turns.enter(&turn.group, turn.number, Member::Job(job.id));
                }
            }
        }
    }

    /// A new member: whoever waited before it does so in vain, and whoever has its turn ends if the newcomer wants that.
    pub(super) fn enter_group(&mut self, entered: &Entered, turn: &Turn, member: Member) {
        self.turns.enter(&entered.group, entered.number, member);
        let before = self.turns.before(&entered.group, entered.number);
        for (position, other) in before.into_iter().enumerate() {
            if position == 0 && !turn.cancel_in_progress {
                continue;
            }
            match other {
                // A run is not put aside by a job of its own.
                Member::Run(run) if matches!(member, Member::Job(job) if job.run == run) => {}
                Member::Run(run) => drop(self.cancel(run)),
                Member::Job(job) => {
                    self.stop(job, Outcome::Cancelled);
                    self.advance(job.run);
                }
            }
        }
    }

    /// A member has ended: the next one's jobs may start.
    pub(super) fn leave_group(&mut self, entered: &Entered) {
        match self.turns.leave(&entered.group, entered.number) {
            None => {}
            Some(Member::Job(job)) => self.index(job),
            Some(Member::Run(run)) => {
                let jobs: Vec<JobId> = self.state.runs.get(&run).into_iter().flat_map(|run| run.jobs.iter().map(|job| job.id)).collect();
                jobs.into_iter().for_each(|job| self.index(job));
            }
        }
    }

    /// The group and the member that keep the job from starting, if any do.
    pub(crate) fn waits_for<'e>(&self, run: &'e Run, job: &'e Job) -> Option<(&'e str, Member)> {
        let own = Member::Run(run.view.id);
        let blocked = |entered: &'e Entered, me: Member| {
            let holder = self.turns.holder(&entered.group)?;
            // A job that names the group of its own run would wait for itself.
            (holder != me && holder != own).then_some((entered.group.as_str(), holder))
        };
        let of_run = run.turn.as_ref().and_then(|entered| blocked(entered, own));
        of_run.or_else(|| job.turn.as_ref().and_then(|entered| blocked(entered, Member::Job(job.id))))
    }
}
