//! An agent as the contract describes it: reserves, runs steps, beats, comes back, follows verdicts, tells until it is answered.

use std::collections::BTreeMap;

use caisson_model::id::{AgentName, Hold};

/// Everything that an agent tells by calls, one after the other, each until it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Telling {
    /// The step began.
    Started(u32),
    /// The step wants its secrets.
    Secrets(u32),
    /// Bytes of the step's log.
    Push(u32, u64),
    /// The end of the step's log.
    Seal(u32, u64),
    /// The step ended.
    Finished(u32),
    /// The attempt ended.
    Complete(bool),
    /// The attempt goes back.
    Return,
}

/// One attempt in an agent's hands.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    /// What is to be told, in order. The first is under way.
    pub(super) script: Vec<Telling>,
    /// How much of it is answered.
    pub(super) done: usize,
    /// Counts reports.
    pub(super) sequence: u64,
    /// Whether its steps have all run: then a crash of the agent loses nothing.
    pub(super) finished: bool,
    /// Told to end.
    pub(super) cancelled: bool,
    /// When what is under way was sent last.
    pub(super) sent: u64,
}

/// An agent.
#[derive(Clone, Debug)]
pub(super) struct Agent {
    pub(super) name: AgentName,
    /// Counts its lives: what was meant for an earlier one does not reach this one.
    pub(super) life: u64,
    pub(super) up: bool,
    /// The number of its session, when it believes to have one.
    pub(super) link: Option<u64>,
    pub(super) welcomed: bool,
    /// When its connection last showed a sign of the other side. Says whether the link is alive, and nothing about leases.
    pub(super) alive: u64,
    /// When it sent the newest of what the controller has answered: from then on its leases count.
    pub(super) heard: u64,
    /// When it said hello on its link.
    pub(super) greeted: u64,
    /// When it beat last, which is also the beat's number.
    pub(super) beaten: u64,
    /// Offers that it accepted, and until when it keeps a slot for each.
    pub(super) reserved: BTreeMap<Hold, u64>,
    pub(super) running: BTreeMap<Hold, Attempt>,
    /// How far its clock is ahead, in milliseconds.
    pub(super) skew: i64,
    /// Refused for good.
    pub(super) refused: bool,
}

impl Agent {
    pub(super) fn new(index: usize, skew: i64) -> Agent {
        Agent {
            name: AgentName(format!("agent-{index}")),
            life: 0,
            up: true,
            link: None,
            welcomed: false,
            alive: 0,
            heard: 0,
            greeted: 0,
            beaten: 0,
            reserved: BTreeMap::new(),
            running: BTreeMap::new(),
            skew,
            refused: false,
        }
    }

    /// What its own clock shows.
    pub(super) fn clock(&self, now: u64) -> u64 {
        now.saturating_add_signed(self.skew)
    }

    /// The process dies; what it had finished stands on its disk.
    pub(super) fn crash(&mut self) {
        self.up = false;
        self.life += 1;
        self.link = None;
        self.welcomed = false;
        self.reserved.clear();
        self.running.retain(|_, attempt| attempt.finished);
    }

    /// The steps of an attempt as it will tell of them.
    pub(super) fn begin(&mut self, hold: Hold, steps: &[(bool, u64)], fails: bool) {
        let mut script = Vec::new();
        for (index, (secrets, bytes)) in (0..).zip(steps) {
            script.push(Telling::Started(index));
            if *secrets {
                script.push(Telling::Secrets(index));
            }
            if *bytes > 0 {
                script.push(Telling::Push(index, *bytes));
                script.push(Telling::Seal(index, *bytes));
            }
            script.push(Telling::Finished(index));
        }
        script.push(Telling::Complete(!fails));
        let attempt = Attempt { script, done: 0, sequence: 0, finished: false, cancelled: false, sent: 0 };
        self.running.insert(hold, attempt);
    }

    /// Ends an attempt that was cancelled: what is under way is told, the steps after it are not.
    pub(super) fn cancel(attempt: &mut Attempt) {
        if attempt.cancelled {
            return;
        }
        attempt.cancelled = true;
        let rest = attempt.script.split_off(attempt.done);
        // The present step is told to its end.
        let step = rest.iter().find_map(|telling| match telling {
            Telling::Started(step) | Telling::Secrets(step) | Telling::Push(step, _) | Telling::Seal(step, _) | Telling::Finished(step) => {
                Some(*step)
            }
            _ => None,
        });
        let begun = !matches!(rest.first(), Some(Telling::Started(_)));
        attempt.script.extend(rest.iter().filter(|telling| {
            let of = match telling {
                Telling::Started(of) | Telling::Secrets(of) | Telling::Push(of, _) | Telling::Seal(of, _) | Telling::Finished(of) => *of,
                _ => return false,
            };
            begun && Some(of) == step
        }));
        attempt.script.push(Telling::Complete(false));
    }
}
