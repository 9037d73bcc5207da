//! The journal, and what is read from it. A store is opened once and then split: one side writes, in a thread of its own
//! ([`writer`]); the other reads, from any thread. The words of both stand in [`journal`].

pub mod journal;
pub mod memory;
pub mod postgres;
mod rows;
pub mod sqlite;
pub mod writer;

use std::path::PathBuf;

use crate::store::journal::{Opened, StoreError};

/// Where a controller keeps its journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nowhere: gone with the process.
    Memory,
    /// A SQLite database. Made if it is not there; its directory must be.
    Sqlite(PathBuf),
    /// A PostgreSQL database, which several controllers may share: `postgres://...`. Made ready if it is empty.
    Postgres(String),
}

/// Opens the store and reads what it holds. Blocks.
///
/// # Errors
/// [`StoreError`].
pub fn open(place: &Place) -> Result<Opened, StoreError> {
    match place {
        Place::Memory => Ok(memory::open()),
        Place::Sqlite(path) => sqlite::open(path),
        Place::Postgres(url) => Ok(postgres::claim(url, "")?.ok_or(StoreError::Led)?.0),
    }
}
