//! Sessions and beats: what agents say.

use caisson_model::agent::{Hello, VersionRange};
use caisson_model::id::{AgentName, Hold, JobId};
use caisson_model::lease::{AgentMessage, ControllerMessage, Verdict};

use crate::core::effect::Effect;
use crate::core::engine::{Decision, Engine};
use crate::core::event::{Answer, Refusal, SessionId};
use crate::core::job::{Lease, Life};
use crate::core::matching::Agent;
use crate::core::record::Record;

impl Engine {
    pub(super) fn hello(&mut self, session: SessionId, hello: Hello) -> Decision {
        let Some(version) = VersionRange::SPOKEN.agreed(hello.versions) else {
            let ours = VersionRange::SPOKEN;
            return Err(Refusal::Invalid(format!(
                "hello.versions: the agent speaks {} to {}, this controller {} to {}; update the older side",
                hello.versions.min, hello.versions.max, ours.min, ours.max
            )));
        };
        if hello.agent.0.is_empty() {
            return Err(Refusal::Invalid("hello.agent: an agent has a name".to_owned()));
        }
        let name = hello.agent.clone();
        if self.state.revoked.contains(&name) {
            return Err(Refusal::Denied(format!("agent {name} was revoked; it has to be enrolled again")));
        }
        let before = self.agents.get(&name).and_then(|agent| agent.session);
        if let Some(before) = before.filter(|before| *before != session) {
            self.sessions.remove(&before);
            self.effects.push(Effect::Close(before, format!("agent {name} opened another session")));
        }
        self.sessions.insert(session, name.clone());
        let running = hello.running.clone();
        let cordoned = self.state.cordoned.contains(&name);
        let put = |agent: &mut Agent| {
            agent.cordoned = cordoned;
            agent.session = Some(session);
            agent.draining = false;
            agent.hello = hello;
        };
        self.agents.update(&name, || Agent::absent(name.clone()), put);

        let verdicts = running.iter().map(|hold| (*hold, self.verdict(&name, *hold))).collect();
        self.effects.push(Effect::Send(
            session,
            ControllerMessage::Welcome { version, term: self.timing.term, grace: self.timing.grace, verdicts },
        ));
        // What the agent was given and does not run is lost: it died between, or the start never reached it.
        let given: Vec<JobId> = self.agents.get(&name).map(|agent| agent.jobs.iter().copied().collect()).unwrap_or_default();
        for job in given {
            match self.state.job(job).map(|job| &job.life) {
                Some(Life::Offered { .. }) => self.refuse(job, &name),
                Some(Life::Leased(lease) | Life::Running(lease) | Life::Suspect { lease, .. }) => {
                    let hold = lease.hold;
                    if running.contains(&hold) { self.renew(hold) } else { self.lose(hold, "its agent came back without it") }
                }
                _ => {}
            }
        }
        Ok(Answer::Done)
    }

    fn verdict(&self, agent: &AgentName, hold: Hold) -> Verdict {
        match self.lease(hold) {
            Ok(lease) if lease.agent != *agent => Verdict::Forget,
            Ok(Lease { stop: Some(_), .. }) => Verdict::Stop,
            Ok(_) => Verdict::Keep,
            Err(_) => Verdict::Forget,
        }
    }

    pub(super) fn gone(&mut self, session: SessionId) -> Decision {
        if let Some(name) = self.sessions.remove(&session) {
            self.agents.update(&name, || Agent::absent(name.clone()), |agent| agent.session = None);
            // Its offers cannot be answered any more. Its leases are its own until they lapse.
            let jobs: Vec<JobId> = self.agents.get(&name).map(|agent| agent.jobs.iter().copied().collect()).unwrap_or_default();
            for job in jobs {
                if let Some(Life::Offered { since, .. }) = self.state.job(job).map(|job| &job.life) {
                    let since = *since;
                    self.enter(job, Life::Queued { since });
                }
            }
        }
        Ok(Answer::Done)
    }

    pub(super) fn message(&mut self, session: SessionId, message: AgentMessage) -> Decision {
        // A message can cross the end of its session; it belongs to nobody then.
        let Some(agent) = self.sessions.get(&session).cloned() else { return Ok(Answer::Done) };
        match message {
            AgentMessage::Accept(hold) => self.accept(session, &agent, hold),
            AgentMessage::Decline { hold, .. } => {
                let job = hold.attempt.job;
                if matches!(self.state.job(job).map(|job| &job.life), Some(Life::Offered { agent: to, hold: offered, .. }) if *to == agent && *offered == hold)
                {
                    self.refuse(job, &agent);
                }
            }
            AgentMessage::Beat { number, holds } => {
                for hold in holds {
                    match self.lease(hold) {
                        Ok(lease) if lease.agent == agent => self.renew(hold),
                        _ => self.effects.push(Effect::Send(session, ControllerMessage::Forget(hold))),
                    }
                }
                let versions = self.agents.get(&agent).map(|known| known.hello.versions);
                if versions.and_then(|versions| VersionRange::SPOKEN.agreed(versions)) >= Some(VersionRange::HEARD) {
                    self.effects.push(Effect::Send(session, ControllerMessage::Heard(number)));
                }
            }
            AgentMessage::Draining => self.agents.update(&agent.clone(), || Agent::absent(agent), |agent| agent.draining = true),
            // The completion says what became of it; these only tell that the stop arrived.
            AgentMessage::CancelAck(_) | AgentMessage::Killed(_) => {}
        }
        Ok(Answer::Done)
    }

    fn accept(&mut self, session: SessionId, agent: &AgentName, hold: Hold) {
        let job = hold.attempt.job;
        match self.state.job(job).map(|job| &job.life) {
            Some(Life::Offered { agent: to, hold: offered, .. }) if to == agent && *offered == hold => {}
            // Said twice: the start is repeated, which an agent that has begun ignores.
            Some(Life::Leased(lease) | Life::Running(lease)) if lease.hold == hold && lease.agent == *agent => {
                return self.effects.push(Effect::Send(session, ControllerMessage::Start(hold)));
            }
            // Too late: the offer lapsed or was withdrawn.
            _ => return self.effects.push(Effect::Send(session, ControllerMessage::Forget(hold))),
        }
        self.refusals.remove(&job);
        self.record(Record::Leased { hold, agent: agent.clone(), at: self.now });
        self.renew(hold);
        self.tell_job(job);
        self.effects.push(Effect::Send(session, ControllerMessage::Start(hold)));
    }

    /// The lease lives for another term.
    fn renew(&mut self, hold: Hold) {
        let expires = self.now.after(self.timing.term);
        let Some(job) = self.state.job_mut(hold.attempt.job) else { return };
        let id = job.id;
        let Some(lease) = job.life.lease_mut() else { return };
        lease.expires = expires;
        if let Life::Suspect { lease, .. } = &job.life {
            let lease = lease.clone();
            self.enter(id, if lease.steps.is_empty() { Life::Leased(lease) } else { Life::Running(lease) });
            self.tell_job(id);
        } else {
            self.index(id);
        }
    }
}
