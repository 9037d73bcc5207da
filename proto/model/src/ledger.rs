//! The ledger of a run: every attempt of its steps to reach something, each chained to the one before it by a digest, with the newest
//! digest in the run's record. Whoever changes, drops or moves an entry afterwards gets another one.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::id::{AttemptId, Digest, RunId, StepIndex};
use crate::outcome::{EgressEntry, EgressKind, EgressPhase, PackageOrigin, Verdict};

/// Where a run's chain stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LedgerHead {
    /// How many entries it has.
    pub entries: u64,
    /// The digest of the newest entry and, through it, of all.
    pub head: Digest,
}

impl LedgerHead {
    /// The empty chain of a run.
    pub fn begin(run: RunId) -> LedgerHead {
        let mut hash = Sha256::new();
        hash.update(b"caisson ledger 1\n");
        hash.update(run.0.to_be_bytes());
        LedgerHead { entries: 0, head: Digest(hash.finalize().into()) }
    }

    /// The chain with one more entry of a step.
    pub fn with(self, attempt: AttemptId, step: StepIndex, entry: &EgressEntry) -> LedgerHead {
        let mut hash = Sha256::new();
        hash.update(self.head.0);
        hash.update(written(attempt, step, entry));
        LedgerHead { entries: self.entries + 1, head: Digest(hash.finalize().into()) }
    }

    /// The chain with the entries of a step that has ended.
    pub fn with_all<'e>(self, attempt: AttemptId, step: StepIndex, entries: impl IntoIterator<Item = &'e EgressEntry>) -> LedgerHead {
        entries.into_iter().fold(self, |chain, entry| chain.with(attempt, step, entry))
    }
}

/// An entry in the one form that is hashed, field after field, each text with its length before it. It must never change: a field that
/// is added later follows only where it says something.
fn written(attempt: AttemptId, step: StepIndex, entry: &EgressEntry) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    let number = |bytes: &mut Vec<u8>, number: u64| bytes.extend_from_slice(&number.to_be_bytes());
    let text = |bytes: &mut Vec<u8>, text: &str| {
        bytes.extend_from_slice(&(text.len() as u64).to_be_bytes());
        bytes.extend_from_slice(text.as_bytes());
    };
    text(&mut bytes, &attempt.to_string());
    number(&mut bytes, u64::from(step.0));
    number(&mut bytes, entry.at.0);
    bytes.push(match entry.kind {
        EgressKind::Lookup => 0,
        EgressKind::Connection => 1,
        EgressKind::Package => 2,
    });
    bytes.push(match entry.phase {
        EgressPhase::Open => 0,
        EgressPhase::Ended => 1,
    });
    bytes.push(match entry.verdict {
        Verdict::Allowed => 0,
        Verdict::Refused => 1,
        Verdict::Unreachable => 2,
    });
    text(&mut bytes, &entry.host);
    number(&mut bytes, u64::from(entry.port));
    text(&mut bytes, &entry.rule);
    text(&mut bytes, entry.address.as_deref().unwrap_or_default());
    number(&mut bytes, entry.sent);
    number(&mut bytes, entry.received);
    number(&mut bytes, entry.lineage.len() as u64);
    for process in &entry.lineage {
        number(&mut bytes, u64::from(process.pid));
        text(&mut bytes, &process.name);
    }
    if let Some(package) = &entry.package {
        for part in [&package.ecosystem, &package.name, &package.file, &package.digest] {
            text(&mut bytes, part);
        }
        bytes.push(match package.origin {
            PackageOrigin::Disk => 0,
            PackageOrigin::Upstream => 1,
            PackageOrigin::Folder => 2,
            PackageOrigin::Nowhere => 3,
        });
    }
    bytes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::id::JobId;
    use crate::outcome::{Package, Process};
    use crate::time::Timestamp;

    fn entry() -> EgressEntry {
        let entry = EgressEntry::connection(Timestamp(5), "a.example", 443, Verdict::Allowed, "a.example".to_owned());
        EgressEntry { lineage: vec![Process { pid: 2, name: "curl".to_owned() }], ..entry }
    }

    #[test]
    fn every_field_and_the_order_count() {
        let attempt = AttemptId { job: JobId { run: RunId(1), index: 1 }, number: 1 };
        let begin = LedgerHead::begin(RunId(1));
        assert_ne!(begin, LedgerHead::begin(RunId(2)));
        let whole = begin.with(attempt, StepIndex(0), &entry());
        assert_eq!(whole.entries, 1);
        let package = Package {
            ecosystem: "python".into(),
            name: "x".into(),
            file: "x.whl".into(),
            digest: String::new(),
            origin: PackageOrigin::Disk,
        };
        let changed = [
            EgressEntry { at: Timestamp(6), ..entry() },
            EgressEntry { kind: EgressKind::Lookup, ..entry() },
            EgressEntry { phase: EgressPhase::Open, ..entry() },
            EgressEntry { host: "b.example".into(), ..entry() },
            EgressEntry { port: 80, ..entry() },
            EgressEntry { verdict: Verdict::Refused, ..entry() },
            EgressEntry { rule: "b".into(), ..entry() },
            EgressEntry { address: Some("192.0.2.1:443".into()), ..entry() },
            EgressEntry { sent: 1, ..entry() },
            EgressEntry { received: 1, ..entry() },
            EgressEntry { lineage: vec![Process { pid: 3, name: "curl".to_owned() }], ..entry() },
            EgressEntry { package: Some(package), ..entry() },
        ];
        for other in &changed {
            assert_ne!(begin.with(attempt, StepIndex(0), other).head, whole.head, "{other:?}");
        }
        assert_ne!(begin.with(attempt, StepIndex(1), &entry()).head, whole.head);
        let one_way = begin.with_all(attempt, StepIndex(0), &changed);
        let other_way = begin.with_all(attempt, StepIndex(0), changed.iter().rev());
        assert_ne!(one_way.head, other_way.head);
        assert_eq!(one_way.entries, changed.len() as u64);
    }

    #[test]
    fn the_form_that_is_hashed_is_the_one_that_was() {
        let attempt = AttemptId { job: JobId { run: RunId(7), index: 2 }, number: 1 };
        let head = LedgerHead::begin(RunId(7)).with(attempt, StepIndex(3), &entry()).head;
        assert_eq!(head.to_string(), "sha256:39e08d882626b7e8190d4876db5935c1625f59b8c48b07bd38e472134f37ba64");
    }
}
