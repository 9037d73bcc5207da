//! The world: one clock, one line of things to come, a controller that commits in groups and can die, agents, and the network.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::OnceLock;
use std::time::Duration;

use caisson_model::agent::{Hello, VersionRange};
use caisson_model::id::{Hold, RunId, StepIndex};
use caisson_model::lease::{AgentMessage, ControllerMessage};
use caisson_model::run::Submission;
use caisson_model::time::Timestamp;
use caisson_workflow::Plan;

use crate::core::effect::Effect;
use crate::core::engine::{Decision, Engine, Weakness};
use crate::core::event::{Answer, Event, Refusal, SessionId, Timing};
use crate::core::record::Record;
use crate::core::state::State;
use crate::core::terms::Terms;
use crate::simulation::agent::{Agent, Telling};
use crate::simulation::chance::Chance;
use crate::simulation::promises::Promises;

const AGENTS: usize = 3;
pub(super) const SLOTS: u32 = 2;
/// After so long without a sign from the other side a connection is known to be dead.
pub(super) const PING: u64 = 2_000;
/// How often an agent looks after itself.
const TURN: u64 = 400;
/// Once the weather is fine, everything ends within this.
const PATIENCE: u64 = 300_000;

pub(super) fn timing() -> Timing {
    Timing {
        term: Duration::from_secs(3),
        grace: Duration::from_secs(5),
        offer: Duration::from_secs(2),
        refusal: Duration::from_millis(200),
        stop: Duration::from_secs(10),
        losses: 1000,
        ..Timing::default()
    }
}

fn plans() -> &'static [Plan] {
    static PLANS: OnceLock<Vec<Plan>> = OnceLock::new();
    PLANS.get_or_init(|| {
        let texts = [
            "on: push\njobs:\n  a: { runs-on: x, steps: [{ run: echo, env: { T: \"${{ secrets.T }}\" } }, { run: echo }] }\n",
            "on: push\nconcurrency: { group: g, cancel-in-progress: true }\njobs:\n  a: { runs-on: x, steps: [{ run: echo }] }\n  b: { runs-on: x, needs: a, if: always(), steps: [{ run: echo, env: { T: \"${{ secrets.T }}\" } }] }\n",
            "on: push\njobs:\n  m: { runs-on: x, strategy: { max-parallel: 2, matrix: { v: [1, 2, 3] } }, steps: [{ run: echo }] }\n",
        ];
        let submission = Submission { event: "push".into(), ..Submission::default() };
        texts.iter().filter_map(|text| caisson_workflow::plan(text, "w.yml", &submission).ok()).collect()
    })
}

/// What one schedule came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) events: u64,
    pub(super) jobs: u64,
    pub(super) crashes: u64,
    pub(super) dropped: u64,
    pub(super) repeated: u64,
    pub(super) fenced: u64,
}

impl Ended {
    pub(super) fn add(&mut self, other: &Ended) {
        self.events += other.events;
        self.jobs += other.jobs;
        self.crashes += other.crashes;
        self.dropped += other.dropped;
        self.repeated += other.repeated;
        self.fenced += other.fenced;
    }
}

/// Who is meant: an agent in one of its lives.
pub(super) type Whom = (usize, u64);

#[derive(Clone, Debug)]
pub(super) enum Thing {
    Hello(Whom, u64, Vec<Hold>),
    Said(u64, AgentMessage),
    Broken(u64),
    ToAgent(Whom, u64, ControllerMessage),
    Closed(Whom, u64),
    Call(Whom, Hold, usize, Telling, u64),
    Answered(Whom, Hold, usize, Result<(), Refusal>),
    Durable(u64),
    Deadline,
    Turn(usize),
    Submit,
    Cancel,
    Revoke,
    AgentDies(usize),
    AgentBack(usize),
    ControllerDies,
    ControllerBack,
}

#[derive(Clone, Debug)]
pub(super) enum Reply {
    Nobody,
    Agent(Whom, Hold, usize, Telling),
    Client,
}

struct Leaving {
    number: u64,
    records: Vec<Record>,
    effects: Vec<Effect>,
    reply: Reply,
    decision: Decision,
}

pub(super) struct World {
    pub(super) chance: Chance,
    pub(super) now: u64,
    calm: Option<u64>,
    line: BinaryHeap<Reverse<(u64, u64)>>,
    things: BTreeMap<u64, Thing>,
    pub(super) order: u64,
    pub(super) engine: Option<Engine>,
    journal: Vec<Record>,
    leaving: Vec<Leaving>,
    commits: (u64, u64),
    pub(super) sessions: BTreeMap<u64, (Whom, u64)>,
    last_session: u64,
    pub(super) agents: Vec<Agent>,
    revoked: Option<u64>,
    pub(super) promises: Promises,
    pub(super) weakness: Option<Weakness>,
    pub(super) ended: Ended,
}

impl World {
    pub(super) fn new(seed: u64, weakness: Option<Weakness>) -> World {
        let mut chance = Chance::new(seed);
        let agents = (0..AGENTS).map(|index| Agent::new(index, chance.between(0, 8_000) as i64 - 4_000)).collect();
        let mut world = World {
            chance,
            now: 1_000_000,
            calm: None,
            line: BinaryHeap::new(),
            things: BTreeMap::new(),
            order: 0,
            engine: None,
            journal: Vec::new(),
            leaving: Vec::new(),
            commits: (0, 0),
            sessions: BTreeMap::new(),
            last_session: 0,
            agents,
            revoked: None,
            promises: Promises::default(),
            weakness,
            ended: Ended::default(),
        };
        let storm = world.chance.between(5_000, 25_000);
        for _ in 0..world.chance.between(1, 4) {
            world.some_time(storm / 2, Thing::Submit);
        }
        for _ in 0..world.chance.between(0, 2) {
            world.some_time(storm, Thing::Cancel);
        }
        for _ in 0..world.chance.between(0, 3) {
            world.some_time(storm, Thing::ControllerDies);
        }
        for agent in 0..AGENTS {
            world.some_time(200, Thing::Turn(agent));
            for _ in 0..world.chance.between(0, 2) {
                world.some_time(storm, Thing::AgentDies(agent));
            }
        }
        if world.chance.percent(15) {
            world.some_time(storm, Thing::Revoke);
        }
        world.calm = None;
        world.after(0, Thing::ControllerBack);
        world.storm_ends(storm);
        world
    }

    fn storm_ends(&mut self, storm: u64) {
        self.commits.0 = 0;
        self.calm = Some(self.now + storm);
    }

    pub(super) fn is_calm(&self) -> bool {
        self.calm.is_some_and(|at| self.now >= at)
    }

    fn after(&mut self, span: u64, thing: Thing) {
        self.order += 1;
        self.line.push(Reverse((self.now + span, self.order)));
        self.things.insert(self.order, thing);
    }

    fn some_time(&mut self, within: u64, thing: Thing) {
        let span = self.chance.between(0, within);
        self.after(span, thing);
    }

    /// Sends over the network.
    pub(super) fn send(&mut self, thing: Thing) {
        if self.is_calm() {
            let span = self.chance.between(1, 5);
            return self.after(span, thing);
        }
        if self.chance.percent(12) {
            self.ended.dropped += 1;
            return;
        }
        let copies = if self.chance.percent(8) { 2 } else { 1 };
        self.ended.repeated += copies - 1;
        for _ in 0..copies {
            let span = if self.chance.percent(10) { self.chance.between(100, 6_000) } else { self.chance.between(1, 60) };
            self.after(span, thing.clone());
        }
    }

    pub(super) fn play(mut self) -> Ended {
        let end = self.calm.unwrap_or_default() + PATIENCE;
        while let Some(Reverse((at, order))) = self.line.pop() {
            let Some(thing) = self.things.remove(&order) else { continue };
            self.now = at;
            self.ended.events += 1;
            self.happen(thing);
            self.check();
            if self.is_calm() && self.all_ended() {
                self.promises.at_the_end();
                let runs = self.engine.iter().flat_map(|engine| engine.state().runs.values());
                self.ended.jobs = runs.map(|run| run.jobs.len() as u64).sum();
                return self.ended;
            }
            assert!(self.now < end, "P6: not everything ends: {:?}", self.engine.as_ref().map(|engine| &engine.state().runs));
        }
        panic!("P6: nothing happens any more")
    }

    fn all_ended(&self) -> bool {
        let Some(engine) = &self.engine else { return false };
        self.leaving.is_empty()
            && engine.state().runs.values().all(|run| run.view.finished.is_some())
            && self.agents.iter().all(|agent| agent.running.is_empty())
            && !self.things.values().any(|thing| matches!(thing, Thing::Submit))
    }

    fn check(&mut self) {
        let calm = self.is_calm().then_some(self.now);
        if let Some(engine) = &self.engine {
            self.promises.check(engine, self.now, calm, SLOTS as usize);
        }
        let timing = timing();
        // An agent looks after itself every so often; beyond that the promise is exact.
        let most = TURN + (timing.term + timing.grace).as_millis() as u64;
        if let Some(at) = self.revoked {
            // What an agent that crashed finds finished on its disk is told, and runs no more: P3 is about processes, and of such an
            // attempt none is left. That it completes nothing any more is P1's to check, and its fence is gone.
            let agent = &self.agents[0];
            let runs = agent.running.values().any(|attempt| !attempt.finished);
            assert!(!agent.up || !runs || self.now <= at + most, "P3: a revoked agent still runs something");
        }
        for agent in &self.agents {
            // With a session it is cut off once the connection is known to be dead; without one, since it was last heard. Answers
            // to single beats are lost here, which an ordered connection that is alive does not do. That hides no second holder:
            // the engine that lets a lease lapse says `Forget` in the session that is still open. An engine that stands still
            // while its connections live gives nobody anything either, and this world has one engine: what an agent does at such
            // a one while another controller leads is outside it.
            let connected = if agent.welcomed { agent.alive + PING + TURN } else { 0 };
            assert!(
                !agent.up || agent.running.is_empty() || self.now <= (agent.heard + most).max(connected),
                "P3: {} runs something long after it was cut off",
                agent.name
            );
        }
    }

    fn happen(&mut self, thing: Thing) {
        match thing {
            Thing::Hello(whom, link, running) => {
                self.last_session += 1;
                let session = self.last_session;
                self.sessions.insert(session, (whom, link));
                let hello = Hello {
                    agent: self.agents[whom.0].name.clone(),
                    versions: VersionRange::SPOKEN,
                    slots: SLOTS,
                    labels: vec!["*".into()],
                    enforces: Vec::new(),
                    memory_bytes: 0,
                    cpu_milli: 0,
                    running,
                };
                if let Some(Err(Refusal::Denied(_))) = self.handle(Event::Hello(SessionId(session), hello), Reply::Nobody) {
                    self.sessions.remove(&session);
                    self.send(Thing::Closed(whom, link));
                }
            }
            Thing::Said(session, message) => {
                self.handle(Event::Message(SessionId(session), message), Reply::Nobody);
            }
            Thing::Broken(session) => {
                self.sessions.remove(&session);
                self.handle(Event::Gone(SessionId(session)), Reply::Nobody);
            }
            Thing::ToAgent(whom, link, message) => {
                let agent = &self.agents[whom.0];
                if agent.up && agent.life == whom.1 && agent.link == Some(link) {
                    self.told(whom.0, message);
                }
            }
            Thing::Closed(whom, link) => {
                let agent = &mut self.agents[whom.0];
                if agent.up && agent.life == whom.1 && agent.link == Some(link) {
                    agent.refused = true;
                    agent.link = None;
                    agent.running.clear();
                    agent.reserved.clear();
                }
            }
            Thing::Call(whom, hold, done, telling, sequence) => self.call(whom, hold, done, telling, sequence),
            Thing::Answered(whom, hold, done, answer) => self.answered(whom, hold, done, &answer),
            Thing::Durable(number) => self.durable(number),
            Thing::Deadline => {
                if self.engine.as_ref().and_then(Engine::deadline).is_some_and(|at| at.0 <= self.now) {
                    self.handle(Event::Tick, Reply::Nobody);
                }
            }
            Thing::Turn(agent) => {
                self.turn(agent);
                self.after(TURN, Thing::Turn(agent));
            }
            Thing::Submit => {
                let plan = &plans()[self.chance.between(0, plans().len() as u64 - 1) as usize];
                let turn = plan.concurrency.as_ref().map(|_| crate::core::terms::Turn { group: "g".into(), cancel_in_progress: true });
                let priority = self.chance.between(0, 1) as i32;
                let terms = Terms { priority, turn, ..Terms::default() };
                if self.handle(Event::Submit(Box::new(plan.clone()), Box::new(terms)), Reply::Client).is_none() {
                    self.after(500, Thing::Submit);
                }
            }
            Thing::Cancel => {
                let run = RunId(self.chance.between(1, 4));
                self.handle(Event::Cancel(run), Reply::Nobody);
            }
            Thing::Revoke => {
                if self.handle(Event::Revoke(self.agents[0].name.clone()), Reply::Nobody).is_some() {
                    self.revoked = Some(self.now);
                }
            }
            Thing::AgentDies(agent) => {
                if !self.is_calm() && self.agents[agent].up {
                    self.ended.crashes += 1;
                    self.agents[agent].crash();
                    let session = self.sessions.iter().find(|(_, (whom, _))| whom.0 == agent).map(|(session, _)| *session);
                    session.into_iter().for_each(|session| self.some_time(PING, Thing::Broken(session)));
                    self.some_time(12_000, Thing::AgentBack(agent));
                }
            }
            Thing::AgentBack(agent) => {
                let agent = &mut self.agents[agent];
                agent.up = true;
                agent.heard = self.now;
                agent.alive = self.now;
            }
            Thing::ControllerDies => {
                if self.engine.take().is_some() {
                    self.ended.crashes += 1;
                    self.leaving.clear();
                    self.sessions.clear();
                    self.some_time(4_000, Thing::ControllerBack);
                }
            }
            Thing::ControllerBack => self.recover(),
        }
    }

    fn recover(&mut self) {
        let mut state = State::default();
        for record in &self.journal {
            if let Err(error) = state.apply(record) {
                panic!("P1: the journal contradicts itself: {error}");
            }
        }
        let (mut engine, effects) = Engine::recover(state, timing(), Timestamp(self.now));
        engine.weaken(self.weakness);
        self.promises.recovered(&engine);
        // Whoever reads the log of an attempt that is over ends it; here everybody reads everything.
        for ((attempt, _), log) in &mut self.promises.logs {
            log.gap |= !log.sealed && engine.is_live(*attempt) != Some(true) && self.weakness != Some(Weakness::EndLogs);
        }
        // Nobody was answered whose call the crash took from the journal: they call again.
        if self.revoked.is_some() && !engine.state().revoked.contains(&self.agents[0].name) {
            self.revoked = None;
            self.after(500, Thing::Revoke);
        }
        if engine.state().last_run == 0 && !self.things.values().any(|thing| matches!(thing, Thing::Submit)) {
            self.after(500, Thing::Submit);
        }
        self.engine = Some(engine);
        self.commit(effects, Reply::Nobody, Ok(Answer::Done));
    }

    /// What the engine says to an event; `None` while there is no controller.
    pub(super) fn handle(&mut self, event: Event, reply: Reply) -> Option<Decision> {
        let (decision, effects) = self.engine.as_mut()?.handle(event, Timestamp(self.now));
        self.commit(effects, reply, decision.clone());
        Some(decision)
    }

    fn commit(&mut self, effects: Vec<Effect>, reply: Reply, decision: Decision) {
        let (mut records, mut rest) = (Vec::new(), Vec::new());
        for effect in effects {
            match effect {
                Effect::Record(record) => records.push(*record),
                other => rest.push(other),
            }
        }
        if let Some(deadline) = self.engine.as_ref().and_then(Engine::deadline) {
            self.after(deadline.0.saturating_sub(self.now), Thing::Deadline);
        }
        self.commits.1 += 1;
        let number = self.commits.1;
        let mut leaving = Leaving { number, records, effects: rest, reply, decision };
        if self.weakness == Some(Weakness::Durability) {
            let effects = std::mem::take(&mut leaving.effects);
            let reply = std::mem::replace(&mut leaving.reply, Reply::Nobody);
            self.leave(effects, reply, leaving.decision.clone());
        }
        self.leaving.push(leaving);
        let at = (self.now + self.chance.between(1, 25)).max(self.commits.0);
        self.commits.0 = at;
        self.after(at - self.now, Thing::Durable(number));
    }

    fn durable(&mut self, number: u64) {
        // Of an earlier life: it died before this was written.
        while self.leaving.first().is_some_and(|leaving| leaving.number <= number) {
            let leaving = self.leaving.remove(0);
            leaving.records.iter().for_each(|record| self.promises.durable(record));
            self.journal.extend(leaving.records);
            self.leave(leaving.effects, leaving.reply, leaving.decision);
        }
    }

    fn leave(&mut self, effects: Vec<Effect>, reply: Reply, decision: Decision) {
        for effect in effects {
            match effect {
                Effect::Send(session, message) => {
                    if let Some((whom, link)) = self.sessions.get(&session.0).copied() {
                        self.send(Thing::ToAgent(whom, link, message));
                    }
                }
                Effect::Close(session, _) => {
                    if let Some((whom, link)) = self.sessions.remove(&session.0)
                        && self.revoked.is_some()
                        && whom.0 == 0
                    {
                        self.send(Thing::Closed(whom, link));
                    }
                }
                Effect::EndLogs(attempt, _) if self.weakness != Some(Weakness::EndLogs) => {
                    let logs = self.promises.logs.iter_mut().filter(|((of, _), _)| *of == attempt);
                    logs.filter(|(_, log)| !log.sealed).for_each(|(_, log)| log.gap = true);
                }
                Effect::EndLogs(..) | Effect::Record(_) | Effect::Tell { .. } => {}
            }
        }
        match reply {
            Reply::Nobody => {}
            Reply::Client => {
                if let Ok(Answer::Submitted(run)) = decision {
                    self.promises.submitted(run);
                }
            }
            Reply::Agent(whom, hold, done, telling) => {
                let mut decision = decision;
                // The service looks once more before it opens anything: the lease may have ended while the record was written.
                if matches!(decision, Ok(Answer::Secrets(_))) && self.engine.as_ref().is_none_or(|engine| engine.lease(hold).is_err()) {
                    decision = Err(Refusal::Fenced);
                }
                match (&decision, telling) {
                    (Ok(Answer::Secrets(_)), Telling::Secrets(step)) => {
                        if let Some(engine) = &self.engine {
                            self.promises.secrets(hold, StepIndex(step), engine);
                        }
                    }
                    (Ok(Answer::Recorded(_)), _) => self.promises.told(hold),
                    _ => {}
                }
                self.send(Thing::Answered(whom, hold, done, decision.map(drop)));
            }
        }
    }
}
