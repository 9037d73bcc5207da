//! Concurrency groups: who has its turn and who waits. Derived from the state, never stored.

use std::collections::BTreeMap;

use caisson_model::id::{JobId, RunId};

/// A member of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Member {
    /// A whole run.
    Run(RunId),
    /// One job.
    Job(JobId),
}

/// All groups with a member that has not ended.
#[derive(Clone, Debug, Default)]
pub struct Turns(BTreeMap<String, BTreeMap<u64, Member>>);

impl Turns {
    /// Adds a member.
    pub fn enter(&mut self, group: &str, number: u64, member: Member) {
        self.0.entry(group.to_owned()).or_default().insert(number, member);
    }

    /// Takes one out, and says who has its turn then, if that is somebody else than before.
    pub fn leave(&mut self, group: &str, number: u64) -> Option<Member> {
        let members = self.0.get_mut(group)?;
        let first = members.keys().next().copied();
        members.remove(&number)?;
        let next = members.values().next().copied();
        if members.is_empty() {
            self.0.remove(group);
        }
        if first == Some(number) { next } else { None }
    }

    /// Who has its turn.
    pub fn holder(&self, group: &str) -> Option<Member> {
        self.0.get(group)?.values().next().copied()
    }

    /// Who entered before `number`, the one that has its turn first.
    pub fn before(&self, group: &str, number: u64) -> Vec<Member> {
        self.0.get(group).into_iter().flat_map(|members| members.range(..number).map(|(_, member)| *member)).collect()
    }
}
