//! Which job goes to which agent. Jobs stand in line per set of labels, oldest first; agents stand in order of free slots.
//!
//! Both sides are indexed, so that a decision costs the number of label sets and of agents that do not serve one, and not
//! the length of the queue.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

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
    /// Whether it takes no more work.
    pub draining: bool,
    /// Jobs that it was offered or holds.
    pub jobs: BTreeSet<JobId>,
}

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
        Agent { session: None, hello, draining: false, jobs: BTreeSet::new() }
    }

    /// How many more jobs it takes now.
    pub fn free(&self) -> u32 {
        if self.session.is_none() || self.draining {
            return 0;
        }
        self.hello.slots.saturating_sub(u32::try_from(self.jobs.len()).unwrap_or(u32::MAX))
    }

    /// Whether it serves all of these labels.
    pub fn serves(&self, labels: &[String]) -> bool {
        let serves = |wanted: &String| self.hello.labels.iter().any(|label| label == ANY_LABEL || label.eq_ignore_ascii_case(wanted));
        labels.iter().all(serves)
    }
}

/// All agents, in order of free slots.
#[derive(Clone, Debug, Default)]
pub struct Agents {
    known: BTreeMap<AgentName, Agent>,
    idle: BTreeSet<(Reverse<u32>, AgentName)>,
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
        let agent = self.known.entry(name.clone()).or_insert_with(new);
        self.idle.remove(&(Reverse(agent.free()), name.clone()));
        change(agent);
        if agent.free() > 0 {
            self.idle.insert((Reverse(agent.free()), name.clone()));
        } else if agent.session.is_none() && agent.jobs.is_empty() {
            self.known.remove(name);
        }
    }

    /// Agents with a free slot, the emptiest first.
    pub fn idle(&self) -> impl Iterator<Item = (&AgentName, &Agent)> {
        self.idle.iter().filter_map(|(_, name)| self.known.get_key_value(name))
    }
}

/// Where a job stands in line: since when, then by its number.
pub type Place = (Timestamp, JobId);

/// Jobs that wait for an agent.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    lines: BTreeMap<Vec<String>, BTreeSet<Place>>,
}

impl Queue {
    /// Puts a job in line.
    pub fn insert(&mut self, labels: &[String], place: Place) {
        self.lines.entry(labels.to_vec()).or_default().insert(place);
    }

    /// Takes it out.
    pub fn remove(&mut self, labels: &[String], place: Place) {
        if let Some(line) = self.lines.get_mut(labels) {
            line.remove(&place);
            if line.is_empty() {
                self.lines.remove(labels);
            }
        }
    }

    /// The job that this agent should have: the oldest that it serves and that `refused` does not hold back.
    pub fn next(&self, agent: &Agent, refused: impl Fn(JobId) -> bool) -> Option<JobId> {
        let heads = self.lines.iter().filter(|(labels, _)| agent.serves(labels));
        heads.filter_map(|(_, line)| line.iter().find(|(_, job)| !refused(*job))).min().map(|(_, job)| *job)
    }

    /// How many jobs wait.
    pub fn len(&self) -> usize {
        self.lines.values().map(BTreeSet::len).sum()
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use caisson_model::id::RunId;

    use super::*;

    fn agent(slots: u32, labels: &[&str]) -> Agent {
        let hello = Hello {
            agent: AgentName("a".into()),
            versions: VersionRange::SPOKEN,
            slots,
            labels: labels.iter().map(|label| label.to_string()).collect(),
            enforces: Vec::new(),
            running: Vec::new(),
        };
        Agent { session: Some(SessionId(1)), hello, draining: false, jobs: BTreeSet::new() }
    }

    fn job(index: u32) -> JobId {
        JobId { run: RunId(1), index }
    }

    #[test]
    fn labels_are_served_all_or_not() {
        let labels = |labels: &[&str]| labels.iter().map(|label| label.to_string()).collect::<Vec<_>>();
        let table = [
            (vec!["linux", "x64"], vec!["linux"], true),
            (vec!["linux"], vec!["Linux"], true),
            (vec!["linux"], vec!["linux", "gpu"], false),
            (vec!["*"], vec!["ubuntu-latest", "gpu"], true),
            (vec![], vec!["linux"], false),
            (vec![], vec![], true),
        ];
        for (has, wants, serves) in table {
            assert_eq!(agent(1, &has).serves(&labels(&wants)), serves, "{has:?} {wants:?}");
        }
    }

    #[test]
    fn the_oldest_job_that_fits_comes_first() {
        let mut queue = Queue::default();
        queue.insert(&["gpu".into()], (Timestamp(1), job(1)));
        queue.insert(&["linux".into()], (Timestamp(3), job(2)));
        queue.insert(&["linux".into(), "x64".into()], (Timestamp(2), job(3)));
        let linux = agent(1, &["linux", "x64"]);
        assert_eq!(queue.next(&linux, |_| false), Some(job(3)));
        assert_eq!(queue.next(&linux, |refused| refused == job(3)), Some(job(2)));
        queue.remove(&["linux".into(), "x64".into()], (Timestamp(2), job(3)));
        queue.remove(&["linux".into()], (Timestamp(3), job(2)));
        assert_eq!(queue.next(&linux, |_| false), None);
        assert_eq!(queue.len(), 1);
    }
}
