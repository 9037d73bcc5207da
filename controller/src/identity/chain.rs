//! The list of entries, append-only: each is bound to the one before it by a digest, so that a list that was changed no longer
//! adds up. Appending under a number that is taken fails, which is what makes a decision count once. Blocks.

use std::path::Path;
use std::time::Duration;

use caisson_model::id::Digest;
use rusqlite::{Connection, ErrorCode, params};

use crate::identity::entry::Entry;
use crate::identity::token::sha256;

/// An entry in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Counted from 1, without gaps.
    pub number: u64,
    /// The entry as it was written.
    pub text: String,
    /// Over the digest before, the number and the text.
    pub digest: Digest,
}

/// The list cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// The database does not work.
    #[error("{0}")]
    Database(&'static str, #[source] rusqlite::Error),
    /// The shared database does not work.
    #[error("use the identity records of the database")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// An entry is not what was written.
    #[error("entry {0} of the identity records was changed, or one before it was: trust nothing that follows from it")]
    Broken(u64),
    /// An entry cannot be read.
    #[error("read entry {0} of the identity records; a newer caisson may have written it")]
    Unreadable(u64, #[source] serde_json::Error),
    /// An entry cannot be written.
    #[error("write an entry of the identity records")]
    Form(#[source] serde_json::Error),
}

/// The digest of an entry.
fn digest(before: Digest, number: u64, text: &str) -> Digest {
    let mut bytes = before.0.to_vec();
    bytes.extend(number.to_be_bytes());
    bytes.extend(text.as_bytes());
    Digest(sha256(&bytes))
}

/// Where a list is kept.
pub trait Shelf: Send + 'static {
    /// The entries after a number, in order.
    ///
    /// # Errors
    /// [`ChainError::Database`].
    fn after(&mut self, number: u64) -> Result<Vec<Link>, ChainError>;

    /// Adds an entry; `false` when its number is taken. When it returns, the entry survives a crash.
    ///
    /// # Errors
    /// [`ChainError::Database`]; nothing was added then.
    fn add(&mut self, link: &Link) -> Result<bool, ChainError>;
}

/// A list that is gone with the process.
#[derive(Debug, Default)]
pub struct Memory(Vec<Link>);

impl Shelf for Memory {
    fn after(&mut self, number: u64) -> Result<Vec<Link>, ChainError> {
        Ok(self.0.iter().skip(usize::try_from(number).unwrap_or(usize::MAX)).cloned().collect())
    }

    fn add(&mut self, link: &Link) -> Result<bool, ChainError> {
        let free = self.0.len() as u64 + 1 == link.number;
        if free {
            self.0.push(link.clone());
        }
        Ok(free)
    }
}

/// A list in a SQLite database, which several processes of one machine may have open.
#[derive(Debug)]
pub struct Sqlite(Connection);

impl Sqlite {
    /// Opens it, or makes it.
    ///
    /// # Errors
    /// [`ChainError::Database`].
    pub fn open(path: &Path) -> Result<Sqlite, ChainError> {
        let act = |error| ChainError::Database("open the identity records", error);
        let connection = Connection::open(path).map_err(act)?;
        connection.busy_timeout(Duration::from_secs(10)).map_err(act)?;
        connection.pragma_update(None, "journal_mode", "WAL").map_err(act)?;
        connection.pragma_update(None, "synchronous", "FULL").map_err(act)?;
        let table = "CREATE TABLE IF NOT EXISTS identity (number INTEGER PRIMARY KEY, entry TEXT NOT NULL, digest BLOB NOT NULL) STRICT;
            CREATE TRIGGER IF NOT EXISTS identity_stays BEFORE UPDATE ON identity BEGIN SELECT RAISE(ABORT, 'entries do not change'); END;
            CREATE TRIGGER IF NOT EXISTS identity_remains BEFORE DELETE ON identity BEGIN SELECT RAISE(ABORT, 'entries do not go'); END;";
        connection.execute_batch(table).map_err(act)?;
        Ok(Sqlite(connection))
    }
}

impl Shelf for Sqlite {
    fn after(&mut self, number: u64) -> Result<Vec<Link>, ChainError> {
        let act = |error| ChainError::Database("read the identity records", error);
        let sql = "SELECT number, entry, digest FROM identity WHERE number > ? ORDER BY number";
        let mut statement = self.0.prepare_cached(sql).map_err(act)?;
        let row = |row: &rusqlite::Row<'_>| {
            Ok(Link { number: row.get::<_, i64>(0)? as u64, text: row.get(1)?, digest: Digest(row.get::<_, [u8; 32]>(2)?) })
        };
        let rows = statement.query_map([i64::try_from(number).unwrap_or(i64::MAX)], row).map_err(act)?;
        rows.collect::<Result<_, _>>().map_err(act)
    }

    fn add(&mut self, link: &Link) -> Result<bool, ChainError> {
        let sql = "INSERT INTO identity (number, entry, digest) VALUES (?, ?, ?)";
        match self.0.execute(sql, params![link.number as i64, link.text, link.digest.0]) {
            Ok(_) => Ok(true),
            Err(rusqlite::Error::SqliteFailure(failure, _)) if failure.code == ErrorCode::ConstraintViolation => Ok(false),
            Err(error) => Err(ChainError::Database("write the identity records", error)),
        }
    }
}

/// A list that is read to its end, and the place where it goes on.
pub struct Chain {
    shelf: Box<dyn Shelf>,
    last: u64,
    head: Digest,
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chain").field("last", &self.last).field("head", &self.head).finish_non_exhaustive()
    }
}

impl Chain {
    /// From the beginning; nothing is read yet.
    pub fn new(shelf: impl Shelf) -> Chain {
        Chain { shelf: Box::new(shelf), last: 0, head: Digest([0; 32]) }
    }

    /// What was added since, by whomever, each entry checked.
    ///
    /// # Errors
    /// [`ChainError`]; nothing was taken then.
    pub fn news(&mut self) -> Result<Vec<Entry>, ChainError> {
        let (mut last, mut head) = (self.last, self.head);
        let mut entries = Vec::new();
        for link in self.shelf.after(last)? {
            if link.number != last + 1 || link.digest != digest(head, link.number, &link.text) {
                return Err(ChainError::Broken(link.number));
            }
            entries.push(serde_json::from_str(&link.text).map_err(|error| ChainError::Unreadable(link.number, error))?);
            (last, head) = (link.number, link.digest);
        }
        (self.last, self.head) = (last, head);
        Ok(entries)
    }

    /// Adds an entry after the last one that was read; `false` when somebody else was faster: read on, and decide again.
    ///
    /// # Errors
    /// [`ChainError`]; nothing was added then.
    pub fn add(&mut self, entry: &Entry) -> Result<bool, ChainError> {
        let text = serde_json::to_string(entry).map_err(ChainError::Form)?;
        let number = self.last + 1;
        let link = Link { number, digest: digest(self.head, number, &text), text };
        let added = self.shelf.add(&link)?;
        if added {
            (self.last, self.head) = (number, link.digest);
        }
        Ok(added)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use caisson_model::time::Timestamp;

    use super::*;
    use crate::identity::entry::Act;

    fn entry(text: &str) -> Entry {
        Entry { at: Timestamp(1), actor: "test".into(), act: Act::TokenRevoked { id: text.into() } }
    }

    #[test]
    fn two_who_append_do_not_both_succeed_and_changes_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.sqlite");
        let mut one = Chain::new(Sqlite::open(&path).unwrap());
        let mut two = Chain::new(Sqlite::open(&path).unwrap());
        assert!(one.add(&entry("a")).unwrap());
        assert!(!two.add(&entry("b")).unwrap(), "the number is taken");
        assert_eq!(two.news().unwrap(), [entry("a")]);
        assert!(two.add(&entry("b")).unwrap());
        assert_eq!(one.news().unwrap(), [entry("b")]);
        let raw = Connection::open(&path).unwrap();
        assert!(raw.execute("UPDATE identity SET entry = replace(entry, '\"a\"', '\"c\"')", []).is_err());
        assert!(raw.execute("DELETE FROM identity", []).is_err());
        assert_eq!(Chain::new(Sqlite::open(&path).unwrap()).news().unwrap().len(), 2);
        raw.execute_batch("DROP TRIGGER identity_stays; UPDATE identity SET entry = replace(entry, '\"a\"', '\"c\"')").unwrap();
        assert!(matches!(Chain::new(Sqlite::open(&path).unwrap()).news(), Err(ChainError::Broken(1))));
    }
}
