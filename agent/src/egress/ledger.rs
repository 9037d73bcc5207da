//! The record of everything that a step tried to reach.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use caisson_model::outcome::{EgressEntry, Verdict};

use crate::clock;

/// Told of every entry at once: of a refusal when it is decided, of a connection when it stands and again when it is over.
pub type Sink = Arc<dyn Fn(&EgressEntry) + Send + Sync>;

/// The most entries that are kept one by one; what comes after is counted in a last entry.
const MAX_ENTRIES: usize = 10_000;

/// The entries of one step.
pub(super) struct Ledger {
    entries: Mutex<Entries>,
    sink: Sink,
}

#[derive(Default)]
struct Entries {
    kept: Vec<EgressEntry>,
    beyond: u64,
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").finish_non_exhaustive()
    }
}

impl Ledger {
    pub(super) fn new(sink: Sink) -> Ledger {
        Ledger { entries: Mutex::default(), sink }
    }

    /// Tells of a connection that stands.
    pub(super) fn tell(&self, entry: &EgressEntry) {
        (self.sink)(entry);
    }

    /// Adds an entry that is over.
    pub(super) fn record(&self, entry: EgressEntry) {
        {
            let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            if entries.kept.len() >= MAX_ENTRIES {
                entries.beyond += 1;
                return;
            }
            // Told under the lock, so that views hear entries in the order in which the ledger has them.
            (self.sink)(&entry);
            entries.kept.push(entry);
        }
    }

    /// Everything so far; the ledger is empty afterwards.
    pub(super) fn take(&self) -> Vec<EgressEntry> {
        let entries = std::mem::take(&mut *self.entries.lock().unwrap_or_else(PoisonError::into_inner));
        let mut kept = entries.kept;
        if entries.beyond > 0 {
            let rule = format!("{} further attempts, not listed one by one", entries.beyond);
            kept.push(EgressEntry::connection(clock::now(), "...", 0, Verdict::Refused, rule));
        }
        kept
    }
}
