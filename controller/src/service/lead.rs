//! Who decides. A controller of its own leads from its start to its end. Of several on one database, one leads; when it is
//! lost, another takes over and takes up what the journal holds.

use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::core::engine::Engine;
use crate::core::event::Timing;
use crate::logs::Logs;
use crate::metrics::Metrics;
use crate::service::feeds::Feeds;
use crate::service::owner::{Clock, Command, Holds, Owner, REPLAY};
use crate::store::journal::{Opened, StoreError};
use crate::store::postgres;
use crate::store::postgres::shelf::Table;
use crate::store::writer::Writer;

/// How many commands may wait for the owner.
const COMMANDS: usize = 1024;
/// How often a controller that stands by tries to lead.
const TRY_EVERY: Duration = Duration::from_millis(500);

/// A stretch of time in which this controller decides.
pub(super) struct Term {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) feeds: Arc<Feeds>,
    pub(super) holds: Holds,
    /// True when it is over.
    pub(super) over: watch::Receiver<bool>,
}

/// What whoever decides is known by.
pub(super) struct Seat {
    /// The present term, while this controller decides.
    pub(super) term: watch::Sender<Option<Arc<Term>>>,
    /// Where the controller is that leads instead.
    pub(super) leader: Mutex<Option<String>>,
    pub(super) closing: watch::Sender<bool>,
    /// What is counted, over all terms.
    pub(super) metrics: Metrics,
    pub(super) logs: Logs,
}

/// A database that several controllers may lead.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) url: String,
    pub(super) address: String,
    /// What the leader may write to.
    pub(super) records: Arc<Table>,
}

impl Claim {
    /// Takes the lead if nobody has it. Blocks.
    pub(super) fn try_once(&self) -> Result<Option<Opened>, StoreError> {
        let claimed = postgres::claim(&self.url, &self.address)?;
        Ok(claimed.map(|(opened, epoch)| {
            self.records.lead(epoch);
            opened
        }))
    }
}

/// What every term is begun with.
#[derive(Clone)]
pub(super) struct Lead {
    pub(super) timing: Timing,
    /// The folder is this controller's as long as this lives.
    pub(super) lock: Arc<File>,
}

impl Lead {
    /// Begins a term with what the store held.
    pub(super) fn begin(&self, seat: &Seat, mut opened: Opened, beats: bool) -> Result<JoinHandle<()>, StoreError> {
        if opened.held.replayed > REPLAY {
            opened.journal.snapshot(&opened.held.snapshot())?;
            opened.held.changed.clear();
        }
        seat.logs.begin_term();
        let clock = Clock::start();
        let (engine, first) = Engine::recover(opened.held.state, self.timing.clone(), clock.now());
        let (writer, progress) = Writer::start(opened.journal)?;
        let (holds, feeds) = (Holds::default(), Arc::new(Feeds::default()));
        holds.learn(&engine);
        let going_on = engine.state().runs.values().filter(|run| run.view.finished.is_none()).map(|run| run.view.id);
        going_on.for_each(|run| feeds.begin(run, opened.held.numbers.get(&run).copied().unwrap_or_default()));
        let (commands, arrived) = mpsc::channel(COMMANDS);
        let (ends, over) = watch::channel(false);
        let owner = Owner {
            engine,
            clock,
            commands: arrived,
            writer,
            progress,
            feeds: feeds.clone(),
            holds: holds.clone(),
            metrics: seat.metrics.clone(),
            logs: seat.logs.clone(),
            changed: opened.held.changed,
            numbers: opened.held.numbers,
            lock: self.lock.clone(),
            beats,
            over: ends,
        };
        seat.term.send_replace(Some(Arc::new(Term { commands, feeds, holds, over })));
        // Ends on `close`, when the last sender is dropped, or when the journal fails.
        Ok(tokio::spawn(owner.run(first)))
    }

    /// Waits for the end of the term; stands by and begins another one when there is something to claim.
    pub(super) async fn keep(self, seat: Weak<Seat>, mut owner: Option<JoinHandle<()>>, claim: Option<Claim>) {
        loop {
            if let Some(owner) = owner.take()
                && let Err(error) = owner.await
            {
                tracing::error!(%error, "the engine's task ended early; this is a defect of caisson");
            }
            let Some(claim) = claim.clone() else { return };
            let Some(opened) = self.stand_by(&seat, claim).await else { return };
            let Some(there) = seat.upgrade() else { return };
            match self.begin(&there, opened, true) {
                Ok(begun) => {
                    tracing::info!("this controller leads now");
                    owner = Some(begun);
                }
                Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "the lead was taken and could not be kept"),
            }
        }
    }

    /// Tries until this controller leads; `None` when it closes or is gone.
    async fn stand_by(&self, seat: &Weak<Seat>, claim: Claim) -> Option<Opened> {
        let mut closing = {
            let seat = seat.upgrade()?;
            seat.term.send_replace(None);
            seat.closing.subscribe()
        };
        tracing::info!("this controller stands by");
        loop {
            if *closing.borrow_and_update() {
                return None;
            }
            let trying = claim.clone();
            let tried = tokio::task::spawn_blocking(move || match trying.try_once() {
                Ok(None) => postgres::leader(&trying.url).map(Err),
                other => other.map(Ok),
            });
            match tried.await {
                Ok(Ok(Ok(Some(opened)))) => return Some(opened),
                Ok(Ok(Err(leader))) => *seat.upgrade()?.leader.lock().unwrap_or_else(PoisonError::into_inner) = leader,
                Ok(Ok(Ok(None))) => {}
                Ok(Err(error)) => tracing::warn!(error = &error as &dyn std::error::Error, "the database does not say who leads"),
                Err(error) => tracing::error!(%error, "trying to lead ended early"),
            }
            seat.upgrade()?;
            // Either the time is over or the controller closes, which is looked at above.
            let _closes = tokio::time::timeout(TRY_EVERY, closing.changed()).await.is_ok();
        }
    }
}
