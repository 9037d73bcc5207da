//! What a store is: a side that writes, a side that reads, and what goes in and out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use caisson_model::id::RunId;
use caisson_model::run::{NumberedEvent, RunView, Submission};

use crate::core::record::Record;
use crate::core::state::{ApplyError, Run, State};

/// What one event left behind: written whole or not at all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Transaction {
    /// The records, in order.
    pub records: Vec<Record>,
    /// Additions to the histories of runs, in order.
    pub history: Vec<(RunId, NumberedEvent)>,
}

/// What a store held when it was opened.
#[derive(Debug, Default)]
pub struct Held {
    /// The state that the records add up to.
    pub state: State,
    /// How many records were replayed on top of the snapshot.
    pub replayed: usize,
    /// Runs that are not in the snapshot as they are in the state.
    pub changed: BTreeSet<RunId>,
    /// The number of the newest event of every run in the state.
    pub numbers: BTreeMap<RunId, u64>,
}

impl Held {
    /// What brings the snapshot up to the state.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::of(&self.state, &self.changed)
    }
}

/// What changed since the last snapshot: a snapshot is written run by run, so that it costs what happened and not what there is.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The state without its runs.
    pub whole: State,
    /// Runs that changed; `None` for one that is not in the state any more.
    pub runs: BTreeMap<RunId, Option<Run>>,
}

impl Snapshot {
    /// The state, as far as it concerns these runs.
    pub fn of(state: &State, changed: &BTreeSet<RunId>) -> Snapshot {
        let runs = changed.iter().map(|run| (*run, state.runs.get(run).cloned())).collect();
        Snapshot { whole: state.without_runs(), runs }
    }
}

/// The store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another controller uses it.
    #[error("open the journal {0}: another controller uses it; stop that one, or choose another directory")]
    InUse(PathBuf),
    /// A newer build wrote it.
    #[error("open the journal {path}: it has form {found} and this build knows up to {known}; use the newer caisson that wrote it")]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its form.
        found: i64,
        /// The newest form that is known.
        known: i64,
    },
    /// A PostgreSQL server, or its database, does not do what is asked.
    #[error("{0}")]
    Server(&'static str, #[source] tokio_postgres::Error),
    /// The address of a PostgreSQL database cannot be used.
    #[error("read the address of the PostgreSQL database; write postgres://USER:PASSWORD@HOST:PORT/DATABASE")]
    Address(#[source] tokio_postgres::Error),
    /// The address says something about TLS that is not known.
    #[error("read the address of the PostgreSQL database: sslmode={0:?}; write disable, require, verify-ca or verify-full")]
    Mode(String),
    /// The certificates of authorities cannot be read.
    #[error("read the authorities of the PostgreSQL server in {path}")]
    Roots {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// TLS cannot be set up.
    #[error("set up TLS to the PostgreSQL database")]
    Tls(#[source] rustls::Error),
    /// Another controller leads the database.
    #[error("open the journal: another controller leads it")]
    Led,
    /// Another controller leads: this one writes nothing.
    #[error("write to the journal: another controller leads since epoch {0} ended")]
    Fenced(i64),
    /// The runtime for a connection cannot be made.
    #[error("make a runtime for the connection to the database")]
    Runtime(#[source] std::io::Error),
    /// It is the database of something else.
    #[error("open the journal {0}: it is a database of another program")]
    Foreign(PathBuf),
    /// Its lock cannot be made.
    #[error("lock the journal {0}")]
    Lock(PathBuf, #[source] std::io::Error),
    /// The database does not work.
    #[error("{0}")]
    Database(&'static str, #[source] rusqlite::Error),
    /// A row cannot be read.
    #[error("read {what} {number} of the journal")]
    Row {
        /// What it is.
        what: &'static str,
        /// Its number.
        number: u64,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A value cannot be written.
    #[error("write to the journal")]
    Form(#[source] serde_json::Error),
    /// The records contradict each other.
    #[error("replay record {number} of the journal")]
    Replay {
        /// Its number.
        number: u64,
        /// Why.
        #[source]
        source: ApplyError,
    },
    /// The thread that writes is gone.
    #[error("the journal's thread cannot be started or has ended")]
    Thread,
}

/// The side that writes. Synchronous: it blocks until the data are safe.
pub trait Journal: Send + 'static {
    /// Adds these, all of them or none. When it returns, they survive a crash of the machine.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was added then.
    fn commit(&mut self, transactions: &[Transaction]) -> Result<(), StoreError>;

    /// Puts a snapshot in the place of all records so far.
    ///
    /// # Errors
    /// [`StoreError`]; nothing has changed then.
    fn snapshot(&mut self, snapshot: &Snapshot) -> Result<(), StoreError>;

    /// Says that this controller is alive, where others wait for its end.
    ///
    /// # Errors
    /// [`StoreError`] when another controller has taken over, or the store is gone.
    fn beat(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// The side that reads. Synchronous, and quick.
pub trait Archive: Send + Sync + 'static {
    /// At most `limit` events of a run's history, after event `after`.
    ///
    /// # Errors
    /// [`StoreError`].
    fn history(&self, run: RunId, after: u64, limit: u32) -> Result<Vec<NumberedEvent>, StoreError>;

    /// The newest runs, the newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    fn runs(&self, limit: u32) -> Result<Vec<RunView>, StoreError>;

    /// One run.
    ///
    /// # Errors
    /// [`StoreError`].
    fn run(&self, run: RunId) -> Result<Option<RunView>, StoreError>;

    /// What a run was made of.
    ///
    /// # Errors
    /// [`StoreError`].
    fn submission(&self, run: RunId) -> Result<Option<Submission>, StoreError>;
}

/// An opened store.
pub struct Opened {
    /// What it held.
    pub held: Held,
    /// The side that writes.
    pub journal: Box<dyn Journal>,
    /// The side that reads.
    pub archive: Arc<dyn Archive>,
}
