//! The thread that writes the journal. All that has arrived while it was writing becomes one commit: a disk syncs a few
//! hundred times a second, whatever the number of rows.

use std::thread::JoinHandle;

use tokio::sync::{mpsc, watch};

use crate::store::journal::{Journal, Snapshot, StoreError, Transaction};

/// The most transactions of one commit.
const MOST: usize = 1024;

/// What the thread is told.
enum Work {
    Commit(u64, Transaction),
    Snapshot(Box<Snapshot>),
    Beat,
}

/// How far the journal has come.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Every transaction up to this number is durable.
    pub durable: u64,
    /// Why there will be no more.
    pub failure: Option<String>,
}

/// The way to the thread. When it is dropped, the thread writes what it has and ends.
#[derive(Debug)]
pub struct Writer {
    work: mpsc::Sender<Work>,
    thread: JoinHandle<()>,
}

/// The thread has ended: see [`Progress::failure`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the journal's thread has ended")]
pub struct Ended;

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`StoreError::Thread`].
    pub fn start(journal: Box<dyn Journal>) -> Result<(Writer, watch::Receiver<Progress>), StoreError> {
        let (work, arrived) = mpsc::channel(MOST);
        let (progress, seen) = watch::channel(Progress::default());
        let thread = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || write(journal, arrived, &progress))
            .map_err(|_| StoreError::Thread)?;
        Ok((Writer { work, thread }, seen))
    }

    /// Hands a transaction over; `number` counts up. Waits while the thread is far behind.
    ///
    /// # Errors
    /// [`Ended`].
    pub async fn commit(&self, number: u64, transaction: Transaction) -> Result<(), Ended> {
        self.work.send(Work::Commit(number, transaction)).await.map_err(|_| Ended)
    }

    /// Puts a snapshot in the place of what was handed over so far.
    ///
    /// # Errors
    /// [`Ended`].
    pub async fn snapshot(&self, snapshot: Snapshot) -> Result<(), Ended> {
        self.work.send(Work::Snapshot(Box::new(snapshot))).await.map_err(|_| Ended)
    }

    /// Lets the store know that this controller is alive, unless the thread is busy, which shows it as well.
    pub fn beat(&self) {
        // Full: it writes. Ended: its progress says so.
        let _busy = self.work.try_send(Work::Beat).is_err();
    }

    /// Waits until everything is written and the thread has ended. Blocks.
    pub fn finish(self) {
        drop(self.work);
        // A panic in there was told through the progress, whose sender is gone.
        let _ended = self.thread.join();
    }
}

fn write(mut journal: Box<dyn Journal>, mut arrived: mpsc::Receiver<Work>, progress: &watch::Sender<Progress>) {
    let mut next = None;
    while let Some(work) = next.take().or_else(|| arrived.blocking_recv()) {
        let done = match work {
            Work::Beat => journal.beat().map(|()| None),
            Work::Snapshot(snapshot) => journal.snapshot(&snapshot).map(|()| None),
            Work::Commit(number, transaction) => {
                let mut newest = number;
                let mut batch = vec![transaction];
                while batch.len() < MOST {
                    match arrived.try_recv() {
                        Ok(Work::Commit(number, transaction)) => {
                            newest = number;
                            batch.push(transaction);
                        }
                        Ok(other) => {
                            next = Some(other);
                            break;
                        }
                        Err(_) => break,
                    }
                }
                journal.commit(&batch).map(|()| Some(newest))
            }
        };
        match done {
            Ok(None) => {}
            Ok(Some(newest)) => progress.send_modify(|progress| progress.durable = newest),
            Err(error) => {
                let failure = Some(told(&error));
                progress.send_modify(|progress| progress.failure = failure);
                return;
            }
        }
    }
}

fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
