//! What watchers of runs wait for. A feed keeps the newest events of a run in memory and says when there are more; older
//! ones are read from the store. Nobody is sent anything, so a slow reader holds nobody up.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use caisson_model::id::RunId;
use caisson_model::run::{NumberedEvent, RunEvent, RunState};
use tokio::sync::watch;

/// How many events of a run are kept in memory.
const TAIL: usize = 1024;

/// Feeds of the runs that have not finished.
#[derive(Debug, Default)]
pub(super) struct Feeds(Mutex<HashMap<RunId, Arc<Feed>>>);

/// The feed of one run.
#[derive(Debug)]
pub(super) struct Feed {
    tail: Mutex<VecDeque<NumberedEvent>>,
    newest: watch::Sender<u64>,
}

/// Whether this is the last event of its run.
pub(super) fn is_last(event: &NumberedEvent) -> bool {
    matches!(&event.event, RunEvent::Run(view) if view.state == RunState::Finished)
}

impl Feeds {
    fn all(&self) -> MutexGuard<'_, HashMap<RunId, Arc<Feed>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a feed after event `newest`, unless there is one.
    pub(super) fn begin(&self, run: RunId, newest: u64) {
        let feed = || Arc::new(Feed { tail: Mutex::default(), newest: watch::Sender::new(newest) });
        self.all().entry(run).or_insert_with(feed);
    }

    pub(super) fn of(&self, run: RunId) -> Option<Arc<Feed>> {
        self.all().get(&run).cloned()
    }

    /// Adds a durable event. The last one of a run ends its feed.
    pub(super) fn add(&self, run: RunId, event: NumberedEvent) {
        self.begin(run, 0);
        let last = is_last(&event);
        if let Some(feed) = self.of(run) {
            let number = event.number;
            let mut tail = feed.tail();
            if tail.len() == TAIL {
                tail.pop_front();
            }
            tail.push_back(event);
            drop(tail);
            feed.newest.send_replace(number);
        }
        if last {
            self.all().remove(&run);
        }
    }

    /// Lets everybody who waits go: the controller closes.
    pub(super) fn close(&self) {
        self.all().clear();
    }
}

impl Feed {
    fn tail(&self) -> MutexGuard<'_, VecDeque<NumberedEvent>> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Events after `after`, at most `limit`; `None` when some of them are only in the store.
    pub(super) fn after(&self, after: u64, limit: usize) -> Option<Vec<NumberedEvent>> {
        let tail = self.tail();
        let first = tail.front().map_or_else(|| *self.newest.borrow() + 1, |event| event.number);
        let skipped = usize::try_from((after + 1).checked_sub(first)?).ok()?;
        Some(tail.iter().skip(skipped).take(limit).cloned().collect())
    }

    /// Is told of every new event, from now on.
    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }
}
