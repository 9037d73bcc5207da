//! A store that is gone with the process, for tests and for runs that nobody looks at afterwards.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use caisson_model::id::RunId;
use caisson_model::run::{NumberedEvent, RunEvent, RunView, Submission};

use crate::core::record::Record;
use crate::store::journal::{Archive, Held, Journal, Opened, Snapshot, StoreError, Transaction};

#[derive(Default)]
struct Shelf {
    histories: BTreeMap<RunId, Vec<NumberedEvent>>,
    views: BTreeMap<RunId, RunView>,
    submissions: BTreeMap<RunId, Submission>,
}

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Shelf>>);

/// An empty one.
pub fn open() -> Opened {
    let memory = Memory::default();
    Opened { held: Held::default(), journal: Box::new(memory.clone()), archive: Arc::new(memory) }
}

impl Memory {
    fn with<T>(&self, act: impl FnOnce(&mut Shelf) -> T) -> T {
        // Nothing in here can panic half way; what a poisoned lock guards is whole.
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Journal for Memory {
    fn commit(&mut self, transactions: &[Transaction]) -> Result<(), StoreError> {
        self.with(|shelf| {
            for record in transactions.iter().flat_map(|transaction| &transaction.records) {
                if let Record::Submitted { run, terms, .. } = record
                    && let Some(submission) = &terms.submission
                {
                    shelf.submissions.insert(*run, Submission::clone(submission));
                }
            }
            for (run, event) in transactions.iter().flat_map(|transaction| &transaction.history) {
                if let RunEvent::Run(view) = &event.event {
                    shelf.views.insert(*run, view.clone());
                }
                shelf.histories.entry(*run).or_default().push(event.clone());
            }
        });
        Ok(())
    }

    fn snapshot(&mut self, _snapshot: &Snapshot) -> Result<(), StoreError> {
        // There are no records to replace: nothing is ever replayed.
        Ok(())
    }
}

impl Archive for Memory {
    fn history(&self, run: RunId, after: u64, limit: u32) -> Result<Vec<NumberedEvent>, StoreError> {
        Ok(self.with(|shelf| {
            let events = shelf.histories.get(&run).map(Vec::as_slice).unwrap_or_default();
            let from = events.partition_point(|event| event.number <= after);
            events[from..].iter().take(limit as usize).cloned().collect()
        }))
    }

    fn runs(&self, limit: u32) -> Result<Vec<RunView>, StoreError> {
        Ok(self.with(|shelf| shelf.views.values().rev().take(limit as usize).cloned().collect()))
    }

    fn run(&self, run: RunId) -> Result<Option<RunView>, StoreError> {
        Ok(self.with(|shelf| shelf.views.get(&run).cloned()))
    }

    fn submission(&self, run: RunId) -> Result<Option<Submission>, StoreError> {
        Ok(self.with(|shelf| shelf.submissions.get(&run).cloned()))
    }
}
