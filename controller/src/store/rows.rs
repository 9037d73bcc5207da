//! Transactions as rows, and rows as a state: the part that databases share.

use std::collections::BTreeMap;

use caisson_model::run::RunEvent;
use serde::de::DeserializeOwned;

use crate::core::record::{RECORD_VERSION, Record};
use crate::core::state::{Run, State};
use crate::store::journal::{Held, Snapshot, StoreError, Transaction};

/// What some transactions add.
#[derive(Debug, Default)]
pub(super) struct Rows {
    /// Numbers and records.
    pub(super) journal: Vec<(i64, String)>,
    /// Run, number, event.
    pub(super) history: Vec<(i64, i64, String)>,
    /// The newest view of each run.
    pub(super) views: BTreeMap<i64, String>,
    /// What new runs were made of.
    pub(super) submissions: Vec<(i64, String)>,
    /// The number of the last record.
    pub(super) last: i64,
}

impl Rows {
    /// Rows of these transactions, numbered after `last`.
    pub(super) fn of(transactions: &[Transaction], mut last: i64) -> Result<Rows, StoreError> {
        let mut rows = Rows::default();
        for transaction in transactions {
            for record in &transaction.records {
                last += 1;
                rows.journal.push((last, text(record)?));
                if let Record::Submitted { run, terms, .. } = record
                    && let Some(submission) = &terms.submission
                {
                    rows.submissions.push((run.0 as i64, text(submission)?));
                }
            }
            for (run, numbered) in &transaction.history {
                rows.history.push((run.0 as i64, numbered.number as i64, text(numbered)?));
                if let RunEvent::Run(view) = &numbered.event {
                    rows.views.insert(run.0 as i64, text(view)?);
                }
            }
        }
        rows.last = last;
        Ok(rows)
    }
}

/// A snapshot's rows: the state without runs, runs to put, runs to remove.
pub(super) type SnapshotRows = (String, Vec<(i64, String)>, Vec<i64>);

pub(super) fn snapshot(snapshot: &Snapshot) -> Result<SnapshotRows, StoreError> {
    let (mut put, mut gone) = (Vec::new(), Vec::new());
    for (id, run) in &snapshot.runs {
        match run {
            Some(run) => put.push((id.0 as i64, text(run)?)),
            None => gone.push(id.0 as i64),
        }
    }
    Ok((text(&snapshot.whole)?, put, gone))
}

/// Adds rows up to a state.
#[derive(Debug, Default)]
pub(super) struct Replay {
    pub(super) held: Held,
}

impl Replay {
    /// The snapshot's part that is not about runs. A store's first form had the runs in there too.
    pub(super) fn whole(&mut self, number: i64, state: &str) -> Result<(), StoreError> {
        let state: State = read("the snapshot at record", number as u64, state)?;
        self.held.changed = state.runs.keys().copied().collect();
        self.held.state = state;
        Ok(())
    }

    pub(super) fn run(&mut self, number: i64, run: &str) -> Result<(), StoreError> {
        let run: Run = read("the snapshot of run", number as u64, run)?;
        self.held.changed.remove(&run.view.id);
        self.held.state.runs.insert(run.view.id, run);
        Ok(())
    }

    pub(super) fn record(&mut self, number: i64, record: &str) -> Result<(), StoreError> {
        let record: Record = read("record", number as u64, record)?;
        self.held.state.apply(&record).map_err(|source| StoreError::Replay { number: number as u64, source })?;
        self.held.changed.extend(record.run());
        self.held.replayed += 1;
        Ok(())
    }
}

/// Refuses the rows of a newer build.
pub(super) fn known(form: i64, place: &str) -> Result<(), StoreError> {
    match form > i64::from(RECORD_VERSION) {
        true => Err(StoreError::Newer { path: place.into(), found: form, known: RECORD_VERSION.into() }),
        false => Ok(()),
    }
}

pub(super) fn read<T: DeserializeOwned>(what: &'static str, number: u64, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|source| StoreError::Row { what, number, source })
}

fn text<T: serde::Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(StoreError::Form)
}
