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
            running: Vec::new(),
        };
        Agent { session: None, hello, draining: false, cordoned: false, jobs: BTreeSet::new(), class: Arc::new([]) }
    }

    /// How many more jobs it takes now.
    pub fn free(&self) -> u32 {
        if self.session.is_none() || self.draining || self.cordoned {
            return 0;
        }
        self.hello.slots.saturating_sub(u32::try_from(self.jobs.len()).unwrap_or(u32::MAX))
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
}

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
    lanes: BTreeSet<(Class, Reverse<i32>)>,
}

/// Jobs that wait for an agent.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    lines: BTreeMap<Class, BTreeMap<Reverse<i32>, Lane>>,
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
        let priority = Reverse(place.priority);
        let lane = self.lines.entry(key.clone()).or_default().entry(priority).or_default();
        let before = lane.head(repository, active);
        lane.waiting.entry(name.clone()).or_default().insert((place.since, job));
        let after = lane.head(repository, active);
        if before != after {
            lane.replace(before.as_ref(), after);
        }
        if before.is_none()
            && let Some(share) = self.shares.get_mut(&name)
        {
            share.lanes.insert((key, priority));
        }
        self.length += 1;
    }

    /// Takes it out.
    pub fn remove(&mut self, labels: &[String], repository: &str, place: Place, job: JobId) {
        let active = self.shares.get(repository).map_or(0, |share| share.active);
        let priority = Reverse(place.priority);
        let Some(line) = self.lines.get_mut(labels) else { return };
        let Some(lane) = line.get_mut(&priority) else { return };
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
                line.remove(&priority);
            }
            let gone = line.is_empty();
            let key = self.lines.get_key_value(labels).map(|(key, _)| key.clone());
            if let (Some(share), Some(key)) = (self.shares.get_mut(repository), key) {
                share.lanes.remove(&(key, priority));
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
        for (labels, priority) in lanes {
            let Some(lane) = self.lines.get_mut(&labels).and_then(|line| line.get_mut(&priority)) else { continue };
            if let Some(head) = lane.head(&name, before) {
                lane.order.remove(&head);
                lane.order.insert((after, head.1, head.2, head.3));
            }
        }
        self.tidy(&name);
    }

    /// The job with the best claim among those that agents of these labels serve and that `open` lets through.
    fn next(&self, labels: &[String], open: impl Fn(JobId) -> bool) -> Option<Claim> {
        let lines = self.lines.iter().filter(|(wanted, _)| serves(labels, wanted));
        let best = |lanes: &BTreeMap<Reverse<i32>, Lane>| {
            lanes.iter().find_map(|(priority, lane)| {
                lane.order.iter().find_map(|(active, _, _, repository)| {
                    let waiting = lane.waiting.get(repository)?;
                    let (since, job) = waiting.iter().find(|(_, job)| open(*job))?;
                    Some((*priority, *active, *since, *job))
                })
            })
        };
        lines.filter_map(|(_, lanes)| best(lanes)).min()
    }

    /// The next job to offer and the agent to offer it to. `refused` says whether the agent is not to be asked just now.
    pub fn choose(&self, agents: &Agents, refused: impl Fn(&AgentName, JobId) -> bool) -> Option<(JobId, AgentName)> {
        let free = |job: JobId, idle: &BTreeSet<(Reverse<u32>, AgentName)>| {
            idle.iter().map(|(_, name)| name).find(|name| !refused(name, job)).cloned()
        };
        let claims = agents.idle().filter_map(|(class, idle)| {
            let claim = self.next(class, |job| idle.iter().any(|(_, name)| !refused(name, job)))?;
            Some((claim, idle))
        });
        let ((.., job), idle) = claims.min_by_key(|(claim, idle)| (*claim, idle.first().map(|(free, _)| *free)))?;
        Some((job, free(job, idle)?))
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
        Place { priority, since: Timestamp(since) }
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
