//! What people say about agents: cordon, drain, revoke.

use caisson_model::agent::{AgentView, Cordon};
use caisson_model::id::{AgentName, JobId};
use caisson_model::lease::ControllerMessage;

use crate::core::effect::Effect;
use crate::core::engine::{Decision, Engine};
use crate::core::event::{Answer, Refusal};
use crate::core::job::Life;
use crate::core::matching::Agent;
use crate::core::record::Record;

fn named(agent: &AgentName) -> Result<(), Refusal> {
    if agent.0.is_empty() { Err(Refusal::Invalid("agent: a name is wanted".to_owned())) } else { Ok(()) }
}

impl Engine {
    pub(super) fn cordon(&mut self, name: AgentName, cordon: Cordon) -> Decision {
        named(&name)?;
        let on = cordon == Cordon::On;
        if self.state.cordoned.contains(&name) != on {
            self.record(Record::Cordoned { agent: name.clone(), on });
        }
        self.agents.update(&name, || Agent::absent(name.clone()), |agent| agent.cordoned = on);
        Ok(Answer::Done)
    }

    pub(super) fn drain(&mut self, name: AgentName) -> Decision {
        let Some(session) = self.agents.get(&name).and_then(|agent| agent.session) else {
            return Err(Refusal::NotFound(format!("agent {name} with a session")));
        };
        self.cordon(name, Cordon::On)?;
        self.effects.push(Effect::Send(session, ControllerMessage::Drain));
        Ok(Answer::Done)
    }

    pub(super) fn revoke(&mut self, name: AgentName) -> Decision {
        named(&name)?;
        if !self.state.revoked.contains(&name) {
            self.record(Record::Revoked { agent: name.clone(), on: true });
        }
        let session = self.agents.get(&name).and_then(|agent| agent.session);
        let jobs: Vec<JobId> = self.agents.get(&name).map(|agent| agent.jobs.iter().copied().collect()).unwrap_or_default();
        for job in jobs {
            match self.state.job(job).map(|job| &job.life) {
                Some(Life::Offered { .. }) => self.refuse(job, &name),
                Some(Life::Leased(lease) | Life::Running(lease) | Life::Suspect { lease, .. }) => {
                    let hold = lease.hold;
                    self.lose(hold, "it was revoked");
                }
                _ => {}
            }
        }
        if let Some(session) = session {
            self.sessions.remove(&session);
            self.agents.update(&name, || Agent::absent(name.clone()), |agent| agent.session = None);
            self.effects.push(Effect::Close(session, format!("agent {name} was revoked")));
        }
        Ok(Answer::Done)
    }

    pub(super) fn admit(&mut self, name: AgentName) -> Decision {
        if self.state.revoked.contains(&name) {
            self.record(Record::Revoked { agent: name, on: false });
        }
        Ok(Answer::Done)
    }

    /// Every agent that is known, cordoned or revoked, by name.
    pub fn agent_views(&self) -> Vec<AgentView> {
        let known = self.agents.iter().map(|(name, _)| name);
        let names: std::collections::BTreeSet<&AgentName> = known.chain(&self.state.cordoned).chain(&self.state.revoked).collect();
        let view = |name: &AgentName| {
            let absent = Agent::absent(name.clone());
            let agent = self.agents.get(name).unwrap_or(&absent);
            AgentView {
                name: name.clone(),
                connected: agent.session.is_some(),
                slots: agent.hello.slots,
                labels: agent.hello.labels.clone(),
                enforces: agent.hello.enforces.clone(),
                memory_bytes: agent.hello.memory_bytes,
                cpu_milli: agent.hello.cpu_milli,
                jobs: agent.jobs.iter().copied().collect(),
                cordoned: self.state.cordoned.contains(name),
                draining: agent.draining,
                revoked: self.state.revoked.contains(name),
            }
        };
        names.into_iter().map(view).collect()
    }
}
