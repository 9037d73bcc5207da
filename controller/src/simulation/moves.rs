//! What agents do, and what becomes of their calls.

use caisson_model::id::{Hold, JobId, StepIndex};
use caisson_model::lease::{AgentMessage, Completion, ControllerMessage, StepChange, StepReport, Verdict};
use caisson_model::outcome::{Enforcement, Outcome, StepResult, Usage};
use caisson_model::time::Timestamp;

use crate::core::engine::{Engine, Weakness};
use crate::core::event::{Event, Refusal};
use crate::simulation::agent::{Agent, Telling};
use crate::simulation::chance::Chance;
use crate::simulation::world::{PING, Reply, SLOTS, Thing, Whom, World, timing};

impl World {
    /// A call arrives at the controller.
    pub(super) fn call(&mut self, whom: Whom, hold: Hold, done: usize, telling: Telling, sequence: u64) {
        let Some(engine) = &self.engine else { return };
        let reply = Reply::Agent(whom, hold, done, telling);
        let at = Timestamp(self.agents[whom.0].clock(self.now));
        let report = |change| Event::Report(StepReport { hold, sequence, at, change });
        let event = match telling {
            Telling::Push(step, bytes) | Telling::Seal(step, bytes) => {
                let answer = if engine.lease(hold).is_err() || hold_is_stale(engine, hold, self.weakness) {
                    Err(Refusal::Fenced)
                } else {
                    let log = self.promises.logs.entry((hold.attempt, StepIndex(step))).or_default();
                    match telling {
                        Telling::Push(..) => log.kept = log.kept.max(bytes),
                        _ => {
                            assert_eq!(log.kept, bytes, "P2: a log was sealed that is not whole");
                            log.sealed = true;
                        }
                    }
                    Ok(())
                };
                return self.send(Thing::Answered(whom, hold, done, answer));
            }
            Telling::Started(step) => report(StepChange::Started { step: StepIndex(step), id: None, name: "s".into() }),
            Telling::Finished(step) => {
                report(StepChange::Finished { step: StepIndex(step), id: None, name: "s".into(), result: Box::new(result()) })
            }
            Telling::Secrets(step) => Event::OpenSecrets(hold, StepIndex(step)),
            Telling::Complete(well) => {
                let outcome = if well { Outcome::Success } else { Outcome::Failure };
                Event::Complete(Completion { hold, outcome, cause: None, outputs: Default::default(), at })
            }
            Telling::Return => Event::Return(hold, "no slot".into()),
        };
        if let Some(Err(Refusal::Fenced)) = self.handle(event, reply) {
            self.ended.fenced += 1;
        }
    }

    pub(super) fn answered(&mut self, whom: Whom, hold: Hold, done: usize, answer: &Result<(), Refusal>) {
        let work = self.chance.between(1, 1_500);
        let agent = &mut self.agents[whom.0];
        if !agent.up || agent.life != whom.1 {
            return;
        }
        let Some(attempt) = agent.running.get_mut(&hold).filter(|attempt| attempt.done == done) else { return };
        if matches!(answer, Err(Refusal::Fenced)) {
            agent.running.remove(&hold);
            return;
        }
        attempt.done += 1;
        attempt.finished |= matches!(attempt.script.get(attempt.done), Some(Telling::Complete(_)));
        if attempt.done >= attempt.script.len() {
            agent.running.remove(&hold);
            return;
        }
        // The step works for a while before there is more to tell; a turn of the agent sends it.
        attempt.sent = (self.now + work).saturating_sub(1_000);
    }

    pub(super) fn told(&mut self, index: usize, message: ControllerMessage) {
        let declines = !self.is_calm() && self.chance.percent(10);
        let now = self.now;
        let agent = &mut self.agents[index];
        // A session begins with its welcome; what overtook it here, a real connection would have brought after it.
        if !agent.welcomed && matches!(message, ControllerMessage::Offer { .. } | ControllerMessage::Start(_)) {
            return;
        }
        match message {
            ControllerMessage::Welcome { verdicts, .. } => {
                agent.welcomed = true;
                // The hello is what was heard, however long the answer took.
                agent.heard = agent.heard.max(agent.greeted);
                agent.beaten = 0;
                for (hold, verdict) in verdicts {
                    match verdict {
                        Verdict::Keep => {}
                        Verdict::Stop => agent.running.get_mut(&hold).into_iter().for_each(Agent::cancel),
                        Verdict::Forget => drop(agent.running.remove(&hold)),
                    }
                }
            }
            ControllerMessage::Offer { hold, deadline, .. } => {
                let taken = agent.running.len() + agent.reserved.len();
                if agent.running.contains_key(&hold) || agent.reserved.contains_key(&hold) {
                    return;
                }
                let message = if taken >= SLOTS as usize || declines {
                    AgentMessage::Decline { hold, reason: "full".into() }
                } else {
                    let left = deadline.0.saturating_sub(agent.clock(now));
                    agent.reserved.insert(hold, now + left.min(3_000) + 2_000);
                    AgentMessage::Accept(hold)
                };
                self.say(index, message);
            }
            ControllerMessage::Start(hold) => {
                if agent.running.contains_key(&hold) {
                    return;
                }
                if agent.reserved.remove(&hold).is_some() {
                    let (steps, fails) = work(hold.attempt.job);
                    agent.begin(hold, &steps, fails);
                } else {
                    agent.begin(hold, &[], false);
                    agent.running.entry(hold).and_modify(|attempt| attempt.script = vec![Telling::Return]);
                }
            }
            ControllerMessage::Cancel { hold, .. } => {
                agent.reserved.remove(&hold);
                agent.running.get_mut(&hold).into_iter().for_each(Agent::cancel);
                self.say(index, AgentMessage::CancelAck(hold));
            }
            ControllerMessage::Forget(hold) => {
                agent.reserved.remove(&hold);
                agent.running.remove(&hold);
            }
            ControllerMessage::Heard(sent) => agent.heard = agent.heard.max(sent),
            ControllerMessage::Drain => {}
        }
    }

    /// The session of an agent's link, as far as there still is one.
    fn session(&self, index: usize) -> Option<u64> {
        let agent = &self.agents[index];
        let link = agent.link?;
        self.sessions.iter().find(|(_, known)| **known == ((index, agent.life), link)).map(|(session, _)| *session)
    }

    fn say(&mut self, index: usize, message: AgentMessage) {
        if let Some(session) = self.session(index) {
            self.send(Thing::Said(session, message));
        }
    }

    /// What an agent does from time to time.
    pub(super) fn turn(&mut self, index: usize) {
        let (now, timing) = (self.now, timing());
        if !self.agents[index].up {
            return;
        }
        let alive = self.session(index).is_some() && self.engine.is_some() && (self.is_calm() || self.chance.percent(95));
        let agent = &mut self.agents[index];
        if alive && agent.welcomed {
            agent.alive = now;
        }
        if agent.link.is_some() && now.saturating_sub(agent.alive) > PING {
            agent.link = None;
            agent.welcomed = false;
            agent.reserved.clear();
        }
        if !agent.welcomed && now.saturating_sub(agent.heard) >= (timing.term + timing.grace).as_millis() as u64 {
            agent.running.clear();
        }
        agent.reserved.retain(|_, until| *until > now);
        if agent.link.is_none() && !agent.refused {
            self.order += 1;
            let (link, agent) = (self.order, &mut self.agents[index]);
            agent.link = Some(link);
            agent.welcomed = false;
            (agent.greeted, agent.alive) = (now, now);
            let (whom, running) = ((index, agent.life), agent.running.keys().copied().collect());
            self.send(Thing::Hello(whom, link, running));
        }
        let agent = &mut self.agents[index];
        if agent.welcomed && now >= agent.beaten + 1_000 {
            agent.beaten = now;
            let holds = agent.running.keys().copied().collect();
            self.say(index, AgentMessage::Beat { number: now, holds });
        }
        let life = self.agents[index].life;
        let mut calls = Vec::new();
        for (hold, attempt) in &mut self.agents[index].running {
            if now < attempt.sent + 1_000 {
                continue;
            }
            attempt.sent = now;
            let Some(telling) = attempt.script.get(attempt.done).copied() else { continue };
            // Numbers follow from the place in the script, so that a repetition has the same.
            let reports = attempt.script[..=attempt.done].iter().filter(|told| matches!(told, Telling::Started(_) | Telling::Finished(_)));
            attempt.sequence = reports.count() as u64;
            calls.push(Thing::Call((index, life), *hold, attempt.done, telling, attempt.sequence));
        }
        calls.into_iter().for_each(|call| self.send(call));
    }
}

/// The log's own fence stands even where a test takes the engine's away.
fn hold_is_stale(engine: &Engine, hold: Hold, weakness: Option<Weakness>) -> bool {
    weakness == Some(Weakness::Fence) && engine.is_live(hold.attempt) != Some(true)
}

/// The steps of a job: which want secrets and how much they write. The same in every attempt.
fn work(job: JobId) -> (Vec<(bool, u64)>, bool) {
    let mut chance = Chance::new(job.run.0 * 1_000 + u64::from(job.index));
    let steps = (0..chance.between(1, 2)).map(|step| (step == 0 && chance.percent(60), chance.between(0, 2) * 100)).collect();
    (steps, chance.percent(20))
}

fn result() -> StepResult {
    StepResult {
        outcome: Outcome::Success,
        conclusion: Outcome::Success,
        exit_code: Some(0),
        cause: None,
        usage: Usage::default(),
        enforcement: Enforcement::default(),
        egress: Vec::new(),
        annotations: Vec::new(),
        summary: String::new(),
    }
}
