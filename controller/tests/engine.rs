//! Any sequence of events keeps the engine's promises. Agents here forget, repeat, lie about fences, vanish and come back;
//! the controller crashes and replays its records; time jumps. A failing sequence is printed and shrunk.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use caisson_controller::core::effect::Effect;
use caisson_controller::core::engine::Engine;
use caisson_controller::core::event::{Answer, Event, Refusal, SessionId, Timing};
use caisson_controller::core::job::Life;
use caisson_controller::core::record::Record;
use caisson_controller::core::state::State;
use caisson_model::agent::{Hello, VersionRange};
use caisson_model::id::{AgentName, AttemptId, Fence, Hold, JobId, JobKey, RunId, StepIndex};
use caisson_model::lease::{AgentMessage, Completion, ControllerMessage, Recorded, StepChange, StepReport};
use caisson_model::outcome::{Enforcement, Outcome, StepResult, Usage};
use caisson_model::run::Submission;
use caisson_model::time::Timestamp;
use caisson_workflow::{Limits, Plan};
use proptest::prelude::*;

const SLOTS: u32 = 2;
const AGENTS: u8 = 3;

const WORKFLOWS: [&str; 4] = [
    "on: push\njobs:\n  a: { runs-on: x, steps: [{ run: echo, env: { T: \"${{ secrets.TOKEN }}\" } }] }\n",
    "
on: push
jobs:
  a: { runs-on: x, steps: [{ run: echo }] }
  b: { runs-on: x, continue-on-error: true, steps: [{ run: echo }] }
  c: { runs-on: x, needs: [a, b], if: always(), steps: [{ run: echo }] }
  d: { runs-on: x, needs: [a, b], steps: [{ run: echo }] }
",
    "
on: push
jobs:
  m:
    runs-on: x
    strategy: { max-parallel: 2, matrix: { v: [1, 2, 3, 4] } }
    steps: [{ run: echo }]
  n:
    runs-on: x
    strategy: { fail-fast: false, matrix: { v: [1, 2, 3] } }
    steps: [{ run: echo }]
  after: { runs-on: x, needs: [m, n], steps: [{ run: echo }] }
",
    "
on: push
jobs:
  c:
    strategy: { max-parallel: 2, fail-fast: false, matrix: { v: [1, 2, 3, 4, 5] } }
    uses: ./called.yml
  after: { runs-on: x, needs: c, if: always(), steps: [{ run: echo }] }
",
];

/// What the last of them calls; its second job calls once more.
const CALLED: [(&str, &str); 2] = [
    ("called.yml", "on: workflow_call\njobs:\n  one: { runs-on: x, steps: [{ run: a }] }\n  two: { needs: one, uses: ./in.yml }\n"),
    ("in.yml", "on: workflow_call\njobs:\n  in: { runs-on: x, steps: [{ run: a }] }\n"),
];

fn plan(which: u8) -> Box<Plan> {
    let submission = Submission { event: "push".into(), ..Submission::default() };
    let called: indexmap::IndexMap<String, String> = CALLED.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned())).collect();
    let text = WORKFLOWS[usize::from(which) % WORKFLOWS.len()];
    Box::new(caisson_workflow::plan_with(text, "w.yml", &submission, &Limits::default(), &called).unwrap())
}

#[derive(Clone, Debug)]
enum Act {
    Submit(u8),
    Cancel(u8),
    /// An agent opens a session and names some of what it holds.
    Join {
        agent: u8,
        honest: bool,
    },
    Vanish(u8),
    Accept(u8, u8),
    Decline(u8, u8),
    Beat(u8),
    Start(u8, u8),
    Open(u8),
    Finish(u8, u8),
    Complete(u8, u8),
    Return(u8),
    /// A call with a hold that was never given out.
    Forge(u8),
    Wait(u16),
    Crash,
}

fn act() -> impl Strategy<Value = Act> {
    let (a, b) = (any::<u8>(), any::<u8>());
    prop_oneof![
        3 => a.prop_map(Act::Submit),
        1 => a.prop_map(Act::Cancel),
        4 => (a, any::<bool>()).prop_map(|(agent, honest)| Act::Join { agent, honest }),
        2 => a.prop_map(Act::Vanish),
        8 => (a, b).prop_map(|(a, b)| Act::Accept(a, b)),
        1 => (a, b).prop_map(|(a, b)| Act::Decline(a, b)),
        3 => a.prop_map(Act::Beat),
        4 => (a, b).prop_map(|(a, b)| Act::Start(a, b)),
        3 => a.prop_map(Act::Open),
        3 => (a, b).prop_map(|(a, b)| Act::Finish(a, b)),
        5 => (a, b).prop_map(|(a, b)| Act::Complete(a, b)),
        1 => a.prop_map(Act::Return),
        2 => a.prop_map(Act::Forge),
        4 => (0u16..30_000).prop_map(Act::Wait),
        1 => Just(Act::Crash),
    ]
}

struct World {
    engine: Engine,
    timing: Timing,
    now: Timestamp,
    next_session: u64,
    sessions: BTreeMap<SessionId, AgentName>,
    offers: Vec<(SessionId, Hold)>,
    holds: Vec<(AgentName, Hold)>,
    journal: Vec<Record>,
    leased: BTreeMap<AttemptId, Fence>,
    newest: BTreeMap<JobId, Fence>,
    ended: BTreeSet<JobId>,
    runs_ended: BTreeSet<RunId>,
    opened: BTreeSet<(AttemptId, StepIndex)>,
    sequences: BTreeMap<AttemptId, u64>,
}

impl World {
    fn new() -> World {
        let now = Timestamp(1_000_000);
        let timing = Timing::default();
        let (engine, effects) = Engine::recover(State::default(), timing.clone(), now);
        let mut world = World {
            engine,
            timing,
            now,
            next_session: 0,
            sessions: BTreeMap::new(),
            offers: Vec::new(),
            holds: Vec::new(),
            journal: Vec::new(),
            leased: BTreeMap::new(),
            newest: BTreeMap::new(),
            ended: BTreeSet::new(),
            runs_ended: BTreeSet::new(),
            opened: BTreeSet::new(),
            sequences: BTreeMap::new(),
        };
        world.follow(effects);
        world
    }

    fn handle(&mut self, event: Event) -> Result<Answer, Refusal> {
        let before = self.engine.state().clone();
        let (decision, effects) = self.engine.handle(event, self.now);
        if decision.is_err() {
            let records = effects.iter().filter(|effect| matches!(effect, Effect::Record(_))).count();
            assert_eq!(records, 0, "a refused call wrote to the journal");
            assert_eq!(normal(&before), normal(self.engine.state()), "a refused call changed something");
        }
        self.follow(effects);
        self.check();
        decision
    }

    fn follow(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Record(record) => self.recorded(*record),
                Effect::Send(session, ControllerMessage::Offer { hold, deadline, .. }) => {
                    assert!(self.sessions.contains_key(&session), "an offer to nobody");
                    assert!(deadline > self.now);
                    self.offers.push((session, hold));
                }
                Effect::Send(session, ControllerMessage::Start(hold)) => {
                    assert_eq!(self.leased.get(&hold.attempt), Some(&hold.fence), "a start without a lease");
                    let agent = self.sessions[&session].clone();
                    if !self.holds.contains(&(agent.clone(), hold)) {
                        self.holds.push((agent, hold));
                    }
                }
                Effect::Close(session, _) => drop(self.sessions.remove(&session)),
                Effect::Send(..) | Effect::Tell { .. } | Effect::EndLogs(..) => {}
            }
        }
    }

    fn recorded(&mut self, record: Record) {
        match &record {
            Record::Leased { hold, .. } => {
                assert!(self.leased.insert(hold.attempt, hold.fence).is_none(), "attempt {} was leased twice", hold.attempt);
                let before = self.newest.insert(hold.attempt.job, hold.fence);
                assert!(before.is_none_or(|before| before < hold.fence), "the fence of {} went back", hold.attempt);
                assert!(!self.ended.contains(&hold.attempt.job), "an ended job was leased");
            }
            Record::Ended { job, hold, .. } => {
                assert!(self.ended.insert(*job), "P1: job {job} ended twice");
                if let Some(hold) = hold {
                    assert_eq!(self.newest.get(job), Some(&hold.fence), "a stale attempt ended job {job}");
                }
            }
            Record::RunEnded { run, .. } => assert!(self.runs_ended.insert(*run), "run {run} ended twice"),
            Record::SecretsOpened { attempt, step } => {
                assert!(self.opened.insert((*attempt, *step)), "P5: secrets of {attempt} were opened twice");
            }
            _ => {}
        }
        self.journal.push(record);
    }

    fn check(&self) {
        assert_eq!(self.engine.broken(), None);
        for run in self.engine.state().runs.values() {
            let all_ended = run.jobs.iter().all(|job| job.life.end().is_some());
            assert_eq!(all_ended, run.view.outcome.is_some(), "run {} and its jobs disagree", run.view.id);
            for group in &run.groups {
                let active = run.cells(group).filter(|job| job.life.is_active()).count();
                let most = run.cells(group).find_map(|job| job.spec.as_ref()?.strategy.max_parallel);
                assert!(most.is_none_or(|most| active <= most as usize), "max-parallel of {}", group.planned.key);
            }
        }
        for run in self.engine.state().runs.values() {
            let mut at_work: BTreeMap<&JobKey, (u32, BTreeSet<&str>)> = BTreeMap::new();
            for group in run.groups.iter().filter(|group| run.cells(group).any(|job| job.life.is_active())) {
                let Some((scope, gate)) = group.planned.scope.as_ref().and_then(|scope| Some((scope, scope.gate.as_ref()?))) else {
                    continue;
                };
                at_work.entry(&gate.caller).or_insert((gate.most, BTreeSet::new())).1.insert(&scope.prefix);
            }
            assert!(at_work.values().all(|(most, cells)| cells.len() <= *most as usize), "{at_work:?}");
        }
        let jobs = || self.engine.state().runs.values().flat_map(|run| &run.jobs);
        for name in (0..AGENTS).map(name) {
            let held = jobs().filter(|job| job.life.holder() == Some(&name)).count();
            assert!(held <= SLOTS as usize, "agent {name} holds {held}");
        }
        // Every state that waits for somebody else has a deadline.
        let waits = jobs().any(|job| job.life.is_active());
        assert!(!waits || self.engine.deadline().is_some(), "something is waited for without a deadline");
    }

    fn hold(&self, which: u8) -> Option<(AgentName, Hold)> {
        (!self.holds.is_empty()).then(|| self.holds[usize::from(which) % self.holds.len()].clone())
    }

    fn report(&mut self, hold: Hold, change: StepChange) -> Result<Answer, Refusal> {
        let sequence = self.sequences.entry(hold.attempt).or_default();
        *sequence += 1;
        let report = StepReport { hold, sequence: *sequence, at: self.now, change };
        let first = self.handle(Event::Report(report.clone()));
        assert_eq!(self.handle(Event::Report(report)), first, "a repeated report was answered otherwise");
        first
    }

    /// Whether the hold may do anything.
    fn in_force(&self, hold: Hold) -> bool {
        self.engine.lease(hold).is_ok()
    }

    fn join(&mut self, agent: u8, running: Vec<Hold>) {
        self.next_session += 1;
        let session = SessionId(self.next_session);
        self.sessions.insert(session, name(agent));
        let hello = Hello {
            agent: name(agent),
            versions: VersionRange::SPOKEN,
            slots: SLOTS,
            labels: vec!["*".into()],
            enforces: Vec::new(),
            memory_bytes: 0,
            cpu_milli: 0,
            running,
        };
        assert_eq!(self.handle(Event::Hello(session, hello)), Ok(Answer::Done));
    }

    fn session(&self, of: &AgentName) -> Option<SessionId> {
        self.sessions.iter().find(|(_, agent)| *agent == of).map(|(session, _)| *session)
    }

    fn wait(&mut self, span: Duration) {
        let until = self.now.after(span);
        while let Some(deadline) = self.engine.deadline().filter(|deadline| *deadline <= until) {
            self.now = self.now.max(deadline);
            self.handle(Event::Tick).unwrap();
            assert!(self.engine.deadline().is_none_or(|next| next > self.now), "a deadline passed without effect");
            for job in self.engine.state().runs.values().flat_map(|run| &run.jobs) {
                if let Life::Offered { deadline, .. } = &job.life {
                    assert!(*deadline > self.now, "P4: an offer outlived its deadline");
                }
            }
        }
        self.now = until;
    }

    fn crash(&mut self) {
        let mut state = State::default();
        for record in &self.journal {
            // Through the form in which it is written.
            let record: Record = serde_json::from_str(&serde_json::to_string(record).unwrap()).unwrap();
            state.apply(&record).unwrap();
        }
        assert_eq!(normal(&state), normal(self.engine.state()), "the records do not add up to the state");
        let snapshot: State = serde_json::from_str(&serde_json::to_string(self.engine.state()).unwrap()).unwrap();
        assert_eq!(&snapshot, self.engine.state());
        self.sessions.clear();
        self.offers.clear();
        let (engine, effects) = Engine::recover(state, self.timing.clone(), self.now);
        self.engine = engine;
        self.follow(effects);
        self.check();
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Submit(which) => drop(self.handle(Event::Submit(plan(which), Box::default())).unwrap()),
            Act::Cancel(which) => {
                let _unknown = self.handle(Event::Cancel(RunId(u64::from(which % 8))));
            }
            Act::Join { agent, honest } => {
                let running = self.holds.iter().filter(|(of, _)| *of == name(agent)).map(|(_, hold)| *hold);
                self.join(agent, if honest { running.collect() } else { Vec::new() });
            }
            Act::Vanish(agent) => {
                if let Some(session) = self.session(&name(agent)) {
                    self.sessions.remove(&session);
                    self.handle(Event::Gone(session)).unwrap();
                }
            }
            Act::Accept(which, by) | Act::Decline(which, by) => {
                let Some((mut session, hold)) = pick(&self.offers, which) else { return };
                if by > 240 {
                    // Not the one that it was offered to.
                    session = pick(&self.sessions.keys().copied().collect::<Vec<_>>(), by).unwrap_or(session);
                }
                let message = match act {
                    Act::Accept(..) => AgentMessage::Accept(hold),
                    _ => AgentMessage::Decline { hold, reason: "busy".into() },
                };
                self.handle(Event::Message(session, message)).unwrap();
            }
            Act::Beat(agent) => {
                let holds = self.holds.iter().filter(|(of, _)| *of == name(agent)).map(|(_, hold)| *hold).collect();
                if let Some(session) = self.session(&name(agent)) {
                    self.handle(Event::Message(session, AgentMessage::Beat { number: 1, holds })).unwrap();
                }
            }
            Act::Start(which, step) => {
                let Some((_, hold)) = self.hold(which) else { return };
                let may = self.in_force(hold);
                let change = StepChange::Started { step: StepIndex(u32::from(step % 2)), id: None, name: "s".into() };
                assert!(self.report(hold, change).is_ok() || !may);
            }
            Act::Open(which) => {
                let Some((_, hold)) = self.hold(which) else { return };
                let may = self.in_force(hold);
                match self.handle(Event::OpenSecrets(hold, StepIndex(0))) {
                    Ok(Answer::Secrets(_)) => assert!(may, "a fenced attempt opened secrets"),
                    Ok(other) => panic!("{other:?}"),
                    Err(refusal) => assert_eq!(!may, refusal == Refusal::Fenced),
                }
            }
            Act::Finish(which, step) => {
                let Some((_, hold)) = self.hold(which) else { return };
                let step = StepIndex(u32::from(step % 2));
                let _fenced = self.report(hold, StepChange::Finished { step, id: None, name: "s".into(), result: Box::new(result()) });
            }
            Act::Complete(which, how) => {
                let Some((_, hold)) = self.hold(which) else { return };
                let may = self.in_force(hold);
                let outcome = [Outcome::Success, Outcome::Failure, Outcome::Cancelled, Outcome::Faulted][usize::from(how % 4)];
                let answer = self.complete(hold, outcome);
                assert_eq!(answer == Ok(Answer::Recorded(Recorded::Recorded)), may, "{answer:?}");
                if may {
                    assert_eq!(self.complete(hold, Outcome::Success), Ok(Answer::Recorded(Recorded::AlreadyRecorded)));
                }
            }
            Act::Return(which) => {
                let Some((_, hold)) = self.hold(which) else { return };
                let _fenced = self.handle(Event::Return(hold, "no disk".into()));
                assert!(!self.in_force(hold));
            }
            Act::Forge(which) => {
                let Some((_, hold)) = self.hold(which) else { return };
                for fence in [hold.fence.0.wrapping_sub(1), hold.fence.0 + 1, 0, u64::MAX] {
                    let forged = Hold { fence: Fence(fence), ..hold };
                    if !self.holds.iter().any(|(_, real)| *real == forged) {
                        assert_eq!(self.complete(forged, Outcome::Success), Err(Refusal::Fenced));
                        assert_eq!(self.handle(Event::OpenSecrets(forged, StepIndex(0))), Err(Refusal::Fenced));
                    }
                }
            }
            Act::Wait(millis) => self.wait(Duration::from_millis(millis.into())),
            Act::Crash => self.crash(),
        }
    }

    fn complete(&mut self, hold: Hold, outcome: Outcome) -> Result<Answer, Refusal> {
        let completion = Completion { hold, outcome, cause: None, outputs: Default::default(), at: self.now };
        self.handle(Event::Complete(completion))
    }

    /// Whatever happened before: with one good agent, everything ends.
    fn settle(&mut self) {
        for agent in 0..AGENTS {
            self.act(&Act::Vanish(agent));
        }
        self.holds.clear();
        self.offers.clear();
        self.join(200, Vec::new());
        for _ in 0..2000 {
            if self.engine.state().runs.values().all(|run| run.view.finished.is_some()) {
                return;
            }
            for (session, hold) in std::mem::take(&mut self.offers) {
                self.handle(Event::Message(session, AgentMessage::Accept(hold))).unwrap();
            }
            for (_, hold) in std::mem::take(&mut self.holds) {
                if self.in_force(hold) {
                    assert_eq!(self.complete(hold, Outcome::Success), Ok(Answer::Recorded(Recorded::Recorded)));
                }
            }
            if self.offers.is_empty() && self.holds.is_empty() {
                let next = self.engine.deadline();
                self.wait(next.map_or(Duration::from_secs(1), |next| next.since(self.now)));
            }
        }
        panic!("not everything ended: {:?}", self.engine.state().runs);
    }
}

fn pick<T: Clone>(of: &[T], which: u8) -> Option<T> {
    (!of.is_empty()).then(|| of[usize::from(which) % of.len()].clone())
}

fn name(agent: u8) -> AgentName {
    match agent {
        200 => AgentName("good".into()),
        agent => AgentName(format!("agent-{}", agent % AGENTS)),
    }
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

/// The durable part of a state.
fn normal(state: &State) -> State {
    let mut state = state.clone();
    for job in state.runs.values_mut().flat_map(|run| &mut run.jobs) {
        match &mut job.life {
            Life::Offered { since, .. } => job.life = Life::Queued { since: *since },
            Life::Suspect { lease, .. } => {
                let lease = lease.clone();
                job.life = if lease.steps.is_empty() { Life::Leased(lease) } else { Life::Running(lease) };
            }
            _ => {}
        }
        if let Some(lease) = job.life.lease_mut() {
            lease.expires = Timestamp(0);
            if !lease.steps.is_empty() {
                job.life = Life::Running(lease.clone());
            }
        }
    }
    state
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_sequence_keeps_the_promises(acts in proptest::collection::vec(act(), 1..120)) {
        let mut world = World::new();
        for act in &acts {
            world.act(act);
        }
        world.crash();
        world.settle();
    }
}

/// Drives one job to a lease, in a world of its own.
fn leased() -> (World, SessionId, Hold) {
    let mut world = World::new();
    world.join(0, Vec::new());
    world.act(&Act::Submit(0));
    let (session, hold) = world.offers.pop().unwrap();
    world.handle(Event::Message(session, AgentMessage::Accept(hold))).unwrap();
    (world, session, hold)
}

fn life(world: &World, hold: Hold) -> &'static str {
    world.engine.state().job(hold.attempt.job).unwrap().life.name()
}

#[test]
fn an_agent_that_is_silent_is_suspected_then_lost() {
    let (mut world, session, hold) = leased();
    let Timing { term, grace, losses, .. } = world.timing.clone();
    world.wait(term - Duration::from_millis(1));
    assert_eq!(life(&world, hold), "leased");
    world.wait(Duration::from_millis(1));
    assert_eq!(life(&world, hold), "suspect");
    world.handle(Event::Message(session, AgentMessage::Beat { number: 1, holds: vec![hold] })).unwrap();
    assert_eq!(life(&world, hold), "leased", "a beat within the grace brings it back");
    world.wait(term + grace - Duration::from_millis(1));
    assert_eq!(life(&world, hold), "suspect");
    world.wait(Duration::from_millis(1));
    assert_ne!(life(&world, hold), "suspect");
    assert_eq!(world.complete(hold, Outcome::Success), Err(Refusal::Fenced));
    // The same again until the job is given up.
    for attempt in 2..=losses {
        while world.offers.last().is_none_or(|(_, next)| next.attempt.number != attempt) {
            world.wait(Duration::from_secs(1));
        }
        let (session, next) = world.offers.pop().unwrap();
        world.handle(Event::Message(session, AgentMessage::Accept(next))).unwrap();
        world.wait(term + grace);
    }
    let end = world.engine.state().job(hold.attempt.job).unwrap().life.end().unwrap();
    assert_eq!(end.outcome, Outcome::Faulted);
    assert!(end.cause.as_ref().unwrap().to_string().contains("agent agent-0 was lost"), "{end:?}");
}

#[test]
fn a_stop_that_is_not_followed_ends_all_the_same() {
    let (mut world, session, hold) = leased();
    world.act(&Act::Cancel(1));
    let stop = world.timing.stop;
    let mut waited = Duration::ZERO;
    while waited < stop {
        world.handle(Event::Message(session, AgentMessage::Beat { number: 1, holds: vec![hold] })).unwrap();
        world.wait(Duration::from_secs(5));
        waited += Duration::from_secs(5);
    }
    let end = world.engine.state().job(hold.attempt.job).unwrap().life.end().unwrap();
    assert_eq!(end.outcome, Outcome::Cancelled);
    assert_eq!(world.complete(hold, Outcome::Success), Err(Refusal::Fenced), "its word comes too late");
}

#[test]
fn a_queued_job_with_an_idle_agent_starts_at_once() {
    let mut world = World::new();
    world.act(&Act::Submit(0));
    assert!(world.offers.is_empty());
    world.join(0, Vec::new());
    assert_eq!(world.offers.len(), 1, "P6: offered as soon as there is an agent");
    // The offer lapses unanswered; it is made again within two offer deadlines, with a higher fence.
    let first = world.offers.pop().unwrap().1;
    world.wait(world.timing.offer + world.timing.refusal);
    let second = world.offers.pop().unwrap().1;
    assert_eq!(second.attempt, first.attempt);
    assert!(second.fence > first.fence);
}

#[test]
fn fences_of_a_new_epoch_are_above_all_old_ones() {
    let (mut world, _, hold) = leased();
    world.crash();
    world.join(0, Vec::new());
    let (_, next) = world.offers.pop().unwrap();
    assert!(next.fence > hold.fence);
    assert_eq!(next.attempt.number, 2);
    assert_eq!(world.complete(hold, Outcome::Success), Err(Refusal::Fenced));
}

/// `max-parallel` of a job that calls: a cell begins when another has ended with all of its jobs, calls of its own included.
#[test]
fn cells_of_a_calling_job_begin_as_max_parallel_lets_them() {
    let (mut world, mut order) = (World::new(), Vec::<String>::new());
    world.join(0, Vec::new());
    world.act(&Act::Submit(3));
    while let Some((session, hold)) = world.offers.pop() {
        order.push(world.engine.state().job(hold.attempt.job).unwrap().key.0.clone());
        world.handle(Event::Message(session, AgentMessage::Accept(hold))).unwrap();
        let outcome = if order.ends_with(&["c[0]/one".to_owned()]) { Outcome::Failure } else { Outcome::Success };
        assert!(world.complete(hold, outcome).is_ok());
    }
    let begun = |key: &str| order.iter().position(|other| other == key).unwrap_or_else(|| panic!("{key} is not in {order:?}"));
    let before = (1..4).filter(|cell| begun(&format!("c[{cell}]/two/in")) < begun("c[4]/one")).count();
    assert!(before >= 2 && order.last().is_some_and(|last| last == "after") && order.len() == 10, "{order:?}");
}
