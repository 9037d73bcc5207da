//! Who gets which job.

use caisson_model::id::{AgentName, AttemptId, Fence, Hold, JobId};
use caisson_model::lease::ControllerMessage;

use crate::core::effect::Effect;
use crate::core::engine::Engine;
use crate::core::event::SessionId;
use crate::core::job::{Life, digest};

/// Fences count within an epoch; a new epoch begins above all that an earlier one can have given out.
const FENCE_BITS: u32 = 40;

impl Engine {
    /// An offer came to nothing: back in line, and not to this agent at once.
    pub(super) fn refuse(&mut self, id: JobId, agent: &AgentName) {
        let Some(Life::Offered { since, .. }) = self.state.job(id).map(|job| &job.life) else { return };
        let since = *since;
        self.refusals.entry(id).or_default().insert(agent.clone(), self.now.after(self.timing.refusal));
        self.enter(id, Life::Queued { since });
    }

    /// Gives free slots the jobs that wait for them.
    pub(super) fn dispatch(&mut self) {
        while !self.queue.is_empty() {
            let refused = |agent: &AgentName, job: JobId| self.refusals(job).any(|(name, until)| name == agent && until > self.now);
            let Some((job, agent)) = self.queue.choose(&self.agents, refused) else { break };
            let Some(session) = self.agents.get(&agent).and_then(|agent| agent.session) else { break };
            if !self.offer(agent, session, job) {
                break;
            }
        }
    }

    /// Whether it was made: a job in line can be offered, or the indexes are wrong.
    fn offer(&mut self, agent: AgentName, session: SessionId, id: JobId) -> bool {
        let Some(job) = self.state.job(id) else { return false };
        let (Life::Queued { since }, Some(spec)) = (&job.life, &job.spec) else { return false };
        let (since, digest) = (*since, job.digest.unwrap_or_else(|| digest(spec)));
        self.fences += 1;
        let fence = Fence(self.state.epoch << FENCE_BITS | self.fences);
        let hold = Hold { attempt: AttemptId { job: id, number: job.attempts + 1 }, fence };
        let deadline = self.now.after(self.timing.offer);
        self.enter(id, Life::Offered { agent, hold, deadline, since });
        self.effects.push(Effect::Send(session, ControllerMessage::Offer { hold, spec: digest, deadline }));
        true
    }
}
