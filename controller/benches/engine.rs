//! What the engine decides per second, by itself: `cargo bench -p caisson-controller --bench engine`. For queues of several
//! lengths and 1,000 agents with one slot each: an agent accepts its offer and completes the job, and the engine records both
//! and finds the next job for it. A decision is one event that was handled.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use caisson_controller::core::effect::Effect;
use caisson_controller::core::engine::Engine;
use caisson_controller::core::event::{Event, SessionId, Timing};
use caisson_controller::core::state::State;
use caisson_model::agent::{Hello, VersionRange};
use caisson_model::id::{AgentName, Hold};
use caisson_model::lease::{AgentMessage, Completion, ControllerMessage};
use caisson_model::outcome::Outcome;
use caisson_model::run::Submission;
use caisson_model::time::Timestamp;
use indexmap::IndexMap;

const AGENTS: u64 = 1000;
const JOBS_OF_A_RUN: usize = 100;
const ROUNDS: usize = 40_000;

struct Bench {
    engine: Engine,
    now: Timestamp,
    offers: VecDeque<(SessionId, Hold)>,
    plan: Box<caisson_workflow::Plan>,
    events: u64,
}

impl Bench {
    fn new() -> Bench {
        let cells: Vec<String> = (0..JOBS_OF_A_RUN).map(|cell| cell.to_string()).collect();
        let text = format!(
            "on: push\njobs:\n  m:\n    runs-on: x\n    strategy: {{ fail-fast: false, matrix: {{ v: [{}] }} }}\n    steps: [{{ run: \"true\" }}]\n",
            cells.join(", ")
        );
        let submission = Submission { event: "push".into(), ..Submission::default() };
        let plan = Box::new(caisson_workflow::plan(&text, "w.yml", &submission).unwrap());
        let (engine, _) = Engine::recover(State::default(), Timing::default(), Timestamp(1));
        Bench { engine, now: Timestamp(1), offers: VecDeque::new(), plan, events: 0 }
    }

    fn handle(&mut self, event: Event) {
        self.events += 1;
        let (decision, effects) = self.engine.handle(event, self.now);
        decision.unwrap();
        for effect in effects {
            if let Effect::Send(session, ControllerMessage::Offer { hold, .. }) = effect {
                self.offers.push_back((session, hold));
            }
        }
    }

    fn submit(&mut self) {
        self.handle(Event::Submit(self.plan.clone(), Box::default()));
    }

    fn join(&mut self, session: u64) {
        let hello = Hello {
            agent: AgentName(format!("agent-{session}")),
            versions: VersionRange { min: 1, max: 1 },
            slots: 1,
            labels: vec!["x".to_owned()],
            enforces: Vec::new(),
            memory_bytes: 0,
            cpu_milli: 0,
            running: Vec::new(),
        };
        self.handle(Event::Hello(SessionId(session), hello));
    }

    /// One job from offer to completion; how long both decisions took.
    fn round(&mut self) -> Duration {
        let (session, hold) = self.offers.pop_front().unwrap();
        let begun = Instant::now();
        self.handle(Event::Message(session, AgentMessage::Accept(hold)));
        let completion = Completion { hold, outcome: Outcome::Success, cause: None, outputs: IndexMap::new(), at: self.now };
        self.handle(Event::Complete(completion));
        begun.elapsed()
    }
}

fn measure(queued: usize) {
    let mut bench = Bench::new();
    for _ in 0..queued / JOBS_OF_A_RUN {
        bench.submit();
    }
    (1..=AGENTS).for_each(|session| bench.join(session));
    let mut spans: Vec<Duration> = Vec::with_capacity(ROUNDS);
    let before = bench.events;
    let mut spent = Duration::ZERO;
    for round in 0..ROUNDS {
        if round % JOBS_OF_A_RUN == 0 {
            // The queue stays as long as it is; what planning costs is not the engine's, what queueing costs is.
            let begun = Instant::now();
            bench.submit();
            spent += begun.elapsed();
        }
        let span = bench.round();
        spent += span;
        spans.push(span);
    }
    let decisions = bench.events - before;
    spans.sort_unstable();
    println!(
        "{queued:>7} queued, {AGENTS} agents: {:>9.0} decisions/s; a job (two of them) p50 {:?}, p99 {:?}",
        decisions as f64 / spent.as_secs_f64(),
        spans[ROUNDS / 2],
        spans[ROUNDS * 99 / 100]
    );
}

fn main() {
    for queued in [2_000, 10_000, 100_000] {
        measure(queued);
    }
}
