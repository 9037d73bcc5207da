//! Which job goes to which agent. Jobs stand in line per set of labels, by priority, then by how little of the agents their
//! repository has, then by age. Agents stand in order of free slots, those with the same labels together.
//!
//! Everything is indexed: a decision costs the number of label sets on both sides, and not the length of the queue or the
//! number of agents.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use caisson_model::agent::{Hello, VersionRange};
use caisson_model::id::{AgentName, JobId};
use caisson_model::job::JobSpec;
use caisson_model::step::StepSpec;
use caisson_model::time::Timestamp;

use crate::core::event::SessionId;

/// The label with which an agent serves every label.
pub const ANY_LABEL: &str = "*";

/// An agent with a session, now or before.
#[derive(Clone, Debug)]
pub struct Agent {
    /// Its session, if it has one.
    pub session: Option<SessionId>,
    /// How it introduced itself last.
    pub hello: Hello,
    /// Whether it takes no more work and leaves.
    pub draining: bool,
    /// Whether a person keeps new work from it.
    pub cordoned: bool,
    /// Jobs that it was offered or holds.
    pub jobs: BTreeSet<JobId>,
    class: Class,
    /// What the limits of its jobs ask for, where they do.
    asks: BTreeMap<JobId, Ask>,
}

/// What a job's limits take of an agent while it runs: its steps run one after the other, so the largest counts. 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ask {
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// Processors, in thousandths.
    pub cpu_milli: u32,
}

impl Ask {
    /// What this job takes.
    pub fn of(spec: &JobSpec) -> Ask {
        let limits = |step: &StepSpec| (step.grant.limits.memory_bytes.unwrap_or(0), step.grant.limits.cpu_milli.unwrap_or(0));
        spec.steps.iter().map(limits).fold(Ask::default(), |ask, (memory, cpu)| Ask {
            memory_bytes: ask.memory_bytes.max(memory),
            cpu_milli: ask.cpu_milli.max(cpu),
        })
    }
}

/// A set of labels: of agents, or of jobs.
type Class = Arc<[String]>;

impl Agent {
    /// An agent without a session.
    pub fn absent(name: AgentName) -> Agent {
        let hello = Hello {
            agent: name,
            versions: VersionRange { min: 0, max: 0 },
            slots: 0,
            labels: Vec::new(),
            enforces: Vec::new(),
            memory_bytes: 0,
            cpu_milli: 0,
            running: Vec::new(),
        };
        Agent { session: None, hello, draining: false, cordoned: false, jobs: BTreeSet::new(), class: Arc::new([]), asks: BTreeMap::new() }
    }

    /// How many more jobs it takes now.
    pub fn free(&self) -> u32 {
        if self.session.is_none() || self.draining || self.cordoned {
            return 0;
        }
        self.hello.slots.saturating_sub(u32::try_from(self.jobs.len()).unwrap_or(u32::MAX))
    }

    /// What is left for the limits of further jobs: memory and thousandths of processors; `None` where the agent does not say
    /// what it has.
    pub fn room(&self) -> (Option<u64>, Option<u32>) {
        let (mut memory, mut cpu) = (self.hello.memory_bytes, self.hello.cpu_milli);
        for share in self.asks.values().map(|ask| self.share(*ask)) {
            memory = memory.saturating_sub(share.memory_bytes);
            cpu = cpu.saturating_sub(share.cpu_milli);
        }
        ((self.hello.memory_bytes > 0).then_some(memory), (self.hello.cpu_milli > 0).then_some(cpu))
    }

    /// What of `ask` counts here: a job that may take more than the machine has takes all of it.
    pub fn share(&self, ask: Ask) -> Ask {
        let Hello { memory_bytes, cpu_milli, .. } = &self.hello;
        Ask { memory_bytes: ask.memory_bytes.min(*memory_bytes), cpu_milli: ask.cpu_milli.min(*cpu_milli) }
    }

    /// Whether the limits of a job fit beside those of the jobs that it has.
    pub fn has_room(&self, ask: Ask) -> bool {
        let (share, (memory, cpu)) = (self.share(ask), self.room());
        memory.is_none_or(|left| share.memory_bytes <= left) && cpu.is_none_or(|left| share.cpu_milli <= left)
    }

    /// It has one more job.
    pub fn take(&mut self, job: JobId, ask: Ask) {
        self.jobs.insert(job);
        if ask != Ask::default() {
            self.asks.insert(job, ask);
        }
    }

    /// It has one less.
    pub fn give(&mut self, job: JobId) {
        self.jobs.remove(&job);
        self.asks.remove(&job);
    }

    /// Whether it serves all of these labels.
    pub fn serves(&self, labels: &[String]) -> bool {
        serves(&self.hello.labels, labels)
    }
}

fn serves(has: &[String], wants: &[String]) -> bool {
    wants.iter().all(|wanted| has.iter().any(|label| label == ANY_LABEL || label.eq_ignore_ascii_case(wanted)))
}

/// All agents, in order of free slots within their classes.
#[derive(Clone, Debug, Default)]
pub struct Agents {
    known: BTreeMap<AgentName, Agent>,
    idle: BTreeMap<Class, BTreeSet<(Reverse<u32>, AgentName)>>,
}

impl Agents {
    /// One of them.
    pub fn get(&self, name: &AgentName) -> Option<&Agent> {
        self.known.get(name)
    }

    /// Every one, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&AgentName, &Agent)> {
        self.known.iter()
    }

    /// Changes one, making it known with `new` if it was not.
    pub fn update(&mut self, name: &AgentName, new: impl FnOnce() -> Agent, change: impl FnOnce(&mut Agent)) {
        if !self.known.contains_key(name) {
            self.known.insert(name.clone(), new());
        }
        let Some(agent) = self.known.get_mut(name) else { return };
        let free = agent.free();
        if free > 0
            && let Some(idle) = self.idle.get_mut(&agent.class)
        {
            idle.remove(&(Reverse(free), name.clone()));
            if idle.is_empty() {
                self.idle.remove(&agent.class);
            }
        }
        change(agent);
        if agent.class[..] != agent.hello.labels[..] {
            agent.class = agent.hello.labels.clone().into();
        }
        let free = agent.free();
        if free > 0 {
            self.idle.entry(agent.class.clone()).or_default().insert((Reverse(free), name.clone()));
        } else if agent.session.is_none() && agent.jobs.is_empty() && !agent.cordoned {
            self.known.remove(name);
        }
    }

    /// Agents with a free slot: their labels, and all that have these, the emptiest first.
    fn idle(&self) -> impl Iterator<Item = (&Class, &BTreeSet<(Reverse<u32>, AgentName)>)> {
        self.idle.iter()
    }
}

/// Where a job stands in line: how urgent it is and since when it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Higher ones come first.
    pub priority: i32,
    /// Since when.
    pub since: Timestamp,
    /// What its limits take.
    pub ask: Ask,
}

/// Where a lane stands among those with the same labels: the most urgent first. All of its jobs take the same.
type Rank = (Reverse<i32>, Ask);

/// How good a claim a job has: the smallest comes first.
type Claim = (Reverse<i32>, u32, Timestamp, JobId);

/// A repository in a lane: how many of its jobs are active, and its oldest that waits.
type Entry = (u32, Timestamp, JobId, Arc<str>);

/// Jobs of one priority with one set of labels.
#[derive(Clone, Debug, Default)]
struct Lane {
    /// By repository, the oldest first.
    waiting: HashMap<Arc<str>, BTreeSet<(Timestamp, JobId)>>,
    /// One entry per repository.
    order: BTreeSet<Entry>,
}

#[derive(Clone, Debug, Default)]
struct Share {
    active: u32,
    lanes: BTreeSet<(Class, Rank)>,
}

/// Jobs that wait for an agent.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    lines: BTreeMap<Class, BTreeMap<Rank, Lane>>,
    shares: HashMap<Arc<str>, Share>,
    length: usize,
}

impl Lane {
    /// The repository's entry in the order.
    fn replace(&mut self, before: Option<&Entry>, after: Option<Entry>) {
        if let Some(before) = before {
            self.order.remove(before);
        }
        self.order.extend(after);
    }

    fn head(&self, repository: &str, active: u32) -> Option<Entry> {
        let (name, waiting) = self.waiting.get_key_value(repository)?;
        waiting.first().map(|(since, job)| (active, *since, *job, name.clone()))
    }
}

impl Queue {
    /// The repository's own copy of its name, made if need be.
    fn share(&mut self, repository: &str) -> (Arc<str>, &mut Share) {
        let name = match self.shares.get_key_value(repository) {
            Some((name, _)) => name.clone(),
            None => Arc::from(repository),
        };
        (name.clone(), self.shares.entry(name).or_default())
    }

    fn tidy(&mut self, repository: &str) {
        if self.shares.get(repository).is_some_and(|share| share.active == 0 && share.lanes.is_empty()) {
            self.shares.remove(repository);
        }
    }

    /// Puts a job in line.
    pub fn insert(&mut self, labels: &[String], repository: &str, place: Place, job: JobId) {
        let (name, share) = self.share(repository);
        let active = share.active;
        let key = match self.lines.get_key_value(labels) {
            Some((key, _)) => key.clone(),
            None => Class::from(labels),
        };
        let rank = (Reverse(place.priority), place.ask);
        let lane = self.lines.entry(key.clone()).or_default().entry(rank).or_default();
        let before = lane.head(repository, active);
        lane.waiting.entry(name.clone()).or_default().insert((place.since, job));
        let after = lane.head(repository, active);
        if before != after {
            lane.replace(before.as_ref(), after);
        }
        if before.is_none()
            && let Some(share) = self.shares.get_mut(&name)
        {
            share.lanes.insert((key, rank));
        }
        self.length += 1;
    }

    /// Takes it out.
    pub fn remove(&mut self, labels: &[String], repository: &str, place: Place, job: JobId) {
        let active = self.shares.get(repository).map_or(0, |share| share.active);
        let rank = (Reverse(place.priority), place.ask);
        let Some(line) = self.lines.get_mut(labels) else { return };
        let Some(lane) = line.get_mut(&rank) else { return };
        let before = lane.head(repository, active);
        let Some(waiting) = lane.waiting.get_mut(repository) else { return };
        if !waiting.remove(&(place.since, job)) {
            return;
        }
        self.length -= 1;
        let empty = waiting.is_empty();
        if empty {
            lane.waiting.remove(repository);
        }
        let after = lane.head(repository, active);
        if before != after {
            lane.replace(before.as_ref(), after);
        }
        if empty {
            if lane.waiting.is_empty() {
                line.remove(&rank);
            }
            let gone = line.is_empty();
            let key = self.lines.get_key_value(labels).map(|(key, _)| key.clone());
            if let (Some(share), Some(key)) = (self.shares.get_mut(repository), key) {
                share.lanes.remove(&(key, rank));
            }
            if gone {
                self.lines.remove(labels);
            }
            self.tidy(repository);
        }
    }

    /// A job of the repository became active, or is not any more.
    pub fn load(&mut self, repository: &str, more: bool) {
        let (name, share) = self.share(repository);
        let before = share.active;
        share.active = if more { before + 1 } else { before.saturating_sub(1) };
        let (after, lanes) = (share.active, share.lanes.clone());
        for (labels, rank) in lanes {
            let Some(lane) = self.lines.get_mut(&labels).and_then(|line| line.get_mut(&rank)) else { continue };
            if let Some(head) = lane.head(&name, before) {
                lane.order.remove(&head);
                lane.order.insert((after, head.1, head.2, head.3));
            }
        }
        self.tidy(&name);
    }

    /// The job with the best claim among those that agents of these labels serve, that fit, and that `open` lets through.
    fn next(&self, labels: &[String], fits: impl Fn(Ask) -> bool, open: impl Fn(JobId, Ask) -> bool) -> Option<(Claim, Ask)> {
        let lines = self.lines.iter().filter(|(wanted, _)| serves(labels, wanted));
        let best = |lanes: &BTreeMap<Rank, Lane>| {
            let mut best: Option<(Claim, Ask)> = None;
            for ((priority, ask), lane) in lanes {
                if best.is_some_and(|((urgent, ..), _)| urgent < *priority) {
                    break;
                }
                if *ask != Ask::default() && !fits(*ask) {
                    continue;
                }
                let first = lane.order.iter().find_map(|(active, _, _, repository)| {
                    let waiting = lane.waiting.get(repository)?;
                    let (since, job) = waiting.iter().find(|(_, job)| open(*job, *ask))?;
                    Some(((*priority, *active, *since, *job), *ask))
                });
                best = [best, first].into_iter().flatten().min();
            }
            best
        };
        lines.filter_map(|(_, lanes)| best(lanes)).min()
    }

    /// The next job to offer and the agent to offer it to. `refused` says whether the agent is not to be asked just now.
    pub fn choose(&self, agents: &Agents, refused: impl Fn(&AgentName, JobId) -> bool) -> Option<(JobId, AgentName)> {
        let room = |name: &AgentName, ask: Ask| ask == Ask::default() || agents.get(name).is_some_and(|agent| agent.has_room(ask));
        let free = |job: JobId, ask: Ask, idle: &BTreeSet<(Reverse<u32>, AgentName)>| {
            idle.iter().map(|(_, name)| name).find(|name| room(name, ask) && !refused(name, job)).cloned()
        };
        let claims = agents.idle().filter_map(|(class, idle)| {
            let fits = |ask| idle.iter().any(|(_, name)| room(name, ask));
            let claim = self.next(class, fits, |job, ask| idle.iter().any(|(_, name)| room(name, ask) && !refused(name, job)))?;
            Some((claim, idle))
        });
        let (((.., job), ask), idle) = claims.min_by_key(|(claim, idle)| (*claim, idle.first().map(|(free, _)| *free)))?;
        Some((job, free(job, ask, idle)?))
    }

    /// How many jobs wait.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use caisson_model::id::RunId;

    use super::*;

    fn words(labels: &[&str]) -> Vec<String> {
        labels.iter().map(|label| label.to_string()).collect()
    }

    fn job(index: u32) -> JobId {
        JobId { run: RunId(1), index }
    }

    fn place(priority: i32, since: u64) -> Place {
        Place { priority, since: Timestamp(since), ask: Ask::default() }
    }

    fn agents(all: &[(&str, u32, &[&str])]) -> Agents {
        let mut agents = Agents::default();
        for (name, slots, labels) in all {
            let name = AgentName(name.to_string());
            agents.update(
                &name,
                || Agent::absent(name.clone()),
                |agent| {
                    agent.session = Some(SessionId(1));
                    agent.hello.slots = *slots;
                    agent.hello.labels = words(labels);
                },
            );
        }
        agents
    }

    #[test]
    fn labels_are_served_all_or_not() {
        let table = [
            (vec!["linux", "x64"], vec!["linux"], true),
            (vec!["linux"], vec!["Linux"], true),
            (vec!["linux"], vec!["linux", "gpu"], false),
            (vec!["*"], vec!["ubuntu-latest", "gpu"], true),
            (vec![], vec!["linux"], false),
            (vec![], vec![], true),
        ];
        for (has, wants, expected) in table {
            assert_eq!(serves(&words(&has), &words(&wants)), expected, "{has:?} {wants:?}");
        }
    }

    #[test]
    fn the_oldest_job_that_fits_comes_first() {
        let mut queue = Queue::default();
        queue.insert(&words(&["gpu"]), "r", place(0, 1), job(1));
        queue.insert(&words(&["linux"]), "r", place(0, 3), job(2));
        queue.insert(&words(&["linux", "x64"]), "r", place(0, 2), job(3));
        let linux = agents(&[("a", 1, &["linux", "x64"])]);
        assert_eq!(queue.choose(&linux, |_, _| false).unwrap().0, job(3));
        assert_eq!(queue.choose(&linux, |_, refused| refused == job(3)).unwrap().0, job(2));
        queue.remove(&words(&["linux", "x64"]), "r", place(0, 2), job(3));
        queue.remove(&words(&["linux"]), "r", place(0, 3), job(2));
        assert_eq!(queue.choose(&linux, |_, _| false), None);
        assert_eq!(queue.len(), 1);
    }

    #[test]
    fn urgent_jobs_first_then_whoever_has_least_then_the_oldest() {
        let mut queue = Queue::default();
        let labels = words(&["x"]);
        for (index, (repository, priority)) in (1..).zip([("big", 0), ("big", 0), ("small", 0), ("big", 5), ("small", -1)]) {
            queue.insert(&labels, repository, place(priority, u64::from(index)), job(index));
        }
        let pool = agents(&[("a", 9, &["x"])]);
        let mut order = Vec::new();
        while let Some((next, _)) = queue.choose(&pool, |_, _| false) {
            let (repository, at) = [("big", 0), ("big", 0), ("small", 0), ("big", 5), ("small", -1)][next.index as usize - 1];
            queue.remove(&labels, repository, place(at, u64::from(next.index)), next);
            queue.load(repository, true);
            order.push(next.index);
        }
        assert_eq!(order, [4, 3, 1, 2, 5]);
        assert!(queue.is_empty() && queue.lines.is_empty());
        for repository in ["big", "big", "big", "small", "small"] {
            queue.load(repository, false);
        }
        assert!(queue.shares.is_empty(), "nothing is remembered of repositories that have no job");
    }

    #[test]
    fn limits_count_against_what_an_agent_has() {
        const GIB: u64 = 1 << 30;
        let mut pool = agents(&[("a", 4, &["x"])]);
        let name = AgentName("a".into());
        let change =
            |pool: &mut Agents, change: &dyn Fn(&mut Agent)| pool.update(&name, || Agent::absent(name.clone()), |agent| change(agent));
        change(&mut pool, &|agent| (agent.hello.memory_bytes, agent.hello.cpu_milli) = (4 * GIB, 2000));
        let ask = |memory_bytes, cpu_milli| Ask { memory_bytes, cpu_milli };
        let table = [
            (ask(3 * GIB, 0), ask(GIB, 0), true),
            (ask(3 * GIB, 0), ask(2 * GIB, 0), false),
            (ask(0, 1500), ask(0, 1000), false),
            (ask(0, 1500), ask(4 * GIB, 500), true),
            // What may take more than there is takes all of it, and is not kept from running for ever.
            (ask(0, 0), ask(64 * GIB, 64_000), true),
            (ask(1, 0), ask(64 * GIB, 0), false),
            (ask(64 * GIB, 64_000), ask(0, 0), true),
        ];
        for (held, wanted, fits) in table {
            change(&mut pool, &|agent| agent.take(job(1), held));
            let mut queue = Queue::default();
            queue.insert(&words(&["x"]), "", Place { ask: wanted, ..place(0, 1) }, job(2));
            assert_eq!(queue.choose(&pool, |_, _| false).is_some(), fits, "{wanted:?} beside {held:?}");
            // What asks for nothing is not held up by what does not fit, and urgent jobs stay first.
            queue.insert(&words(&["x"]), "", place(-1, 2), job(3));
            let first = queue.choose(&pool, |_, _| false).map(|(job, _)| job);
            assert_eq!(first, Some(if fits { job(2) } else { job(3) }));
            queue.remove(&words(&["x"]), "", Place { ask: wanted, ..place(0, 1) }, job(2));
            assert_eq!(queue.len(), 1);
            change(&mut pool, &|agent| agent.give(job(1)));
        }
    }

    #[test]
    fn the_emptiest_agent_that_did_not_refuse_is_asked() {
        let mut queue = Queue::default();
        queue.insert(&words(&["x"]), "", place(0, 1), job(1));
        let pool = agents(&[("a", 1, &["x"]), ("b", 3, &["x"]), ("c", 9, &["y"])]);
        let asked = |refused: &[&str]| queue.choose(&pool, |name, _| refused.contains(&name.0.as_str())).map(|(_, agent)| agent.0);
        assert_eq!(asked(&[]).unwrap(), "b");
        assert_eq!(asked(&["b"]).unwrap(), "a");
        assert_eq!(asked(&["b", "a"]), None);
    }
}
