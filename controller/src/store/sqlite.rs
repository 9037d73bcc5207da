//! The store in a SQLite database: write-ahead log, full sync. One connection writes, another reads beside it.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use caisson_model::id::RunId;
use caisson_model::run::{NumberedEvent, RunView, Submission};
use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior, params};
use serde::de::DeserializeOwned;

use crate::core::record::RECORD_VERSION;
use crate::store::journal::{Archive, Held, Journal, Opened, Snapshot, StoreError, Transaction};
use crate::store::rows::{self, Replay, Rows};

/// Says in the file's header whose database it is.
const APPLICATION: i64 = 0x6361_6973;

/// Forward only, one step each; the number of those that were done stands in `user_version`.
const MIGRATIONS: [&str; 2] = ["
    CREATE TABLE journal (number INTEGER PRIMARY KEY, form INTEGER NOT NULL, record TEXT NOT NULL) STRICT;
    CREATE TABLE snapshot (only INTEGER PRIMARY KEY CHECK (only = 1), number INTEGER NOT NULL, form INTEGER NOT NULL, state TEXT NOT NULL) STRICT;
    CREATE TABLE history (run INTEGER NOT NULL, number INTEGER NOT NULL, event TEXT NOT NULL, PRIMARY KEY (run, number)) STRICT, WITHOUT ROWID;
    CREATE TABLE run (id INTEGER PRIMARY KEY, view TEXT NOT NULL) STRICT;
", "
    CREATE TABLE snapshot_run (run INTEGER PRIMARY KEY, state TEXT NOT NULL) STRICT;
    CREATE TABLE submission (run INTEGER PRIMARY KEY, submission TEXT NOT NULL) STRICT;
"];

/// Opens the database at `path`, or makes one.
///
/// # Errors
/// [`StoreError`].
pub fn open(path: &Path) -> Result<Opened, StoreError> {
    let lock = lock(path)?;
    let mut connection = Connection::open(path).map_err(failed("open the journal's database"))?;
    prepare(&mut connection, path)?;
    let held = held(&connection)?;
    let last = number(&connection, "SELECT coalesce(max(number), (SELECT number FROM snapshot), 0) FROM journal")?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let reader = Connection::open_with_flags(path, flags).map_err(failed("open the journal's database for reading"))?;
    reader.busy_timeout(BUSY).map_err(failed("set up the journal's database"))?;
    Ok(Opened {
        held,
        journal: Box::new(Sqlite { connection, last: last as u64, _lock: lock }),
        archive: Arc::new(Reader(Mutex::new(reader))),
    })
}

/// Nobody else writes; what is waited for is a checkpoint at most.
const BUSY: Duration = Duration::from_secs(10);

fn failed(act: &'static str) -> impl Fn(rusqlite::Error) -> StoreError {
    move |error| StoreError::Database(act, error)
}

/// SQLite's own locks let two processes take turns; two engines over one journal must not.
fn lock(path: &Path) -> Result<File, StoreError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let file = File::options().create(true).truncate(false).write(true).open(&name).map_err(|e| StoreError::Lock(path.to_owned(), e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse(path.to_owned())),
        Err(TryLockError::Error(error)) => Err(StoreError::Lock(path.to_owned(), error)),
    }
}

fn number(connection: &Connection, sql: &str) -> Result<i64, StoreError> {
    connection.query_row(sql, [], |row| row.get(0)).map_err(failed("read the journal's database"))
}

fn prepare(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let act = failed("set up the journal's database");
    connection.busy_timeout(BUSY).map_err(&act)?;
    let application = number(connection, "PRAGMA application_id")?;
    let found = number(connection, "PRAGMA user_version")?;
    let tables = number(connection, "SELECT count(*) FROM sqlite_schema")?;
    if application != APPLICATION && (application != 0 || tables != 0) {
        return Err(StoreError::Foreign(path.to_owned()));
    }
    let known = MIGRATIONS.len() as i64;
    if found > known {
        return Err(StoreError::Newer { path: path.to_owned(), found, known });
    }
    connection.pragma_update(None, "journal_mode", "WAL").map_err(&act)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(&act)?;
    let migration = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&act)?;
    for step in MIGRATIONS.iter().skip(found as usize) {
        migration.execute_batch(step).map_err(&act)?;
    }
    migration.pragma_update(None, "application_id", APPLICATION).map_err(&act)?;
    migration.pragma_update(None, "user_version", known).map_err(&act)?;
    migration.commit().map_err(&act)
}

fn held(connection: &Connection) -> Result<Held, StoreError> {
    let act = failed("read the journal");
    let place = connection.path().unwrap_or_default().to_owned();
    let snapshot = connection
        .query_row("SELECT number, form, state FROM snapshot", [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()
        .map_err(&act)?;
    let mut replay = Replay::default();
    let mut after = 0;
    if let Some((number, form, state)) = snapshot {
        let (number, form, state): (i64, i64, String) = (number, form, state);
        rows::known(form, &place)?;
        replay.whole(number, &state)?;
        after = number;
        each(connection, "SELECT run, 0, state FROM snapshot_run WHERE run > ?", 0, |run, _, state| replay.run(run, &state))?;
    }
    each(connection, "SELECT number, form, record FROM journal WHERE number > ? ORDER BY number", after, |number, form, record| {
        rows::known(form, &place)?;
        replay.record(number, &record)
    })?;
    let mut held = replay.held;
    for run in held.state.runs.keys() {
        let newest = connection
            .query_row("SELECT coalesce(max(number), 0) FROM history WHERE run = ?", [run.0 as i64], |row| row.get::<_, i64>(0))
            .map_err(&act)?;
        held.numbers.insert(*run, newest as u64);
    }
    Ok(held)
}

fn each(
    connection: &Connection,
    sql: &str,
    after: i64,
    mut see: impl FnMut(i64, i64, String) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let act = failed("read the journal");
    let mut statement = connection.prepare(sql).map_err(&act)?;
    let mut found = statement.query([after]).map_err(&act)?;
    while let Some(row) = found.next().map_err(&act)? {
        see(row.get(0).map_err(&act)?, row.get(1).map_err(&act)?, row.get(2).map_err(&act)?)?;
    }
    Ok(())
}

struct Sqlite {
    connection: Connection,
    last: u64,
    // Held as long as the database is written to.
    _lock: File,
}

impl Journal for Sqlite {
    fn commit(&mut self, transactions: &[Transaction]) -> Result<(), StoreError> {
        let act = failed("write to the journal");
        let rows = Rows::of(transactions, self.last as i64)?;
        let all = self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&act)?;
        {
            let mut record = all.prepare_cached("INSERT INTO journal (number, form, record) VALUES (?, ?, ?)").map_err(&act)?;
            for (number, text) in &rows.journal {
                record.execute(params![number, RECORD_VERSION, text]).map_err(&act)?;
            }
            let mut event = all.prepare_cached("INSERT INTO history (run, number, event) VALUES (?, ?, ?)").map_err(&act)?;
            for (run, number, text) in &rows.history {
                event.execute(params![run, number, text]).map_err(&act)?;
            }
            let mut view = all.prepare_cached("INSERT OR REPLACE INTO run (id, view) VALUES (?, ?)").map_err(&act)?;
            for (run, text) in &rows.views {
                view.execute(params![run, text]).map_err(&act)?;
            }
            let mut submission = all.prepare_cached("INSERT OR REPLACE INTO submission (run, submission) VALUES (?, ?)").map_err(&act)?;
            for (run, text) in &rows.submissions {
                submission.execute(params![run, text]).map_err(&act)?;
            }
        }
        all.commit().map_err(&act)?;
        self.last = rows.last as u64;
        Ok(())
    }

    fn snapshot(&mut self, snapshot: &Snapshot) -> Result<(), StoreError> {
        let act = failed("write a snapshot to the journal");
        let (whole, put, gone) = rows::snapshot(snapshot)?;
        let all = self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&act)?;
        all.execute(
            "INSERT OR REPLACE INTO snapshot (only, number, form, state) VALUES (1, ?, ?, ?)",
            params![self.last as i64, RECORD_VERSION, whole],
        )
        .map_err(&act)?;
        {
            let mut run = all.prepare_cached("INSERT OR REPLACE INTO snapshot_run (run, state) VALUES (?, ?)").map_err(&act)?;
            put.iter().try_for_each(|(id, state)| run.execute(params![id, state]).map(drop)).map_err(&act)?;
            let mut forget = all.prepare_cached("DELETE FROM snapshot_run WHERE run = ?").map_err(&act)?;
            gone.iter().try_for_each(|id| forget.execute([id]).map(drop)).map_err(&act)?;
        }
        all.execute("DELETE FROM journal WHERE number <= ?", [self.last as i64]).map_err(&act)?;
        all.commit().map_err(&act)
    }
}

struct Reader(Mutex<Connection>);

impl Reader {
    fn rows<T: DeserializeOwned>(&self, what: &'static str, sql: &str, by: &[&dyn rusqlite::ToSql]) -> Result<Vec<T>, StoreError> {
        let act = failed("read the journal's database");
        let connection = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut statement = connection.prepare_cached(sql).map_err(&act)?;
        let mut rows = statement.query(by).map_err(&act)?;
        let mut found = Vec::new();
        while let Some(row) = rows.next().map_err(&act)? {
            let (number, text): (i64, String) = (row.get(0).map_err(&act)?, row.get(1).map_err(&act)?);
            found.push(rows::read(what, number as u64, &text)?);
        }
        Ok(found)
    }
}

impl Archive for Reader {
    fn history(&self, run: RunId, after: u64, limit: u32) -> Result<Vec<NumberedEvent>, StoreError> {
        let after = i64::try_from(after).unwrap_or(i64::MAX);
        let sql = "SELECT number, event FROM history WHERE run = ? AND number > ? ORDER BY number LIMIT ?";
        self.rows("event", sql, &[&(run.0 as i64), &after, &limit])
    }

    fn runs(&self, limit: u32) -> Result<Vec<RunView>, StoreError> {
        self.rows("run", "SELECT id, view FROM run ORDER BY id DESC LIMIT ?", &[&limit])
    }

    fn run(&self, run: RunId) -> Result<Option<RunView>, StoreError> {
        Ok(self.rows("run", "SELECT id, view FROM run WHERE id = ?", &[&(run.0 as i64)])?.pop())
    }

    fn submission(&self, run: RunId) -> Result<Option<Submission>, StoreError> {
        Ok(self.rows("the submission of run", "SELECT run, submission FROM submission WHERE run = ?", &[&(run.0 as i64)])?.pop())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn one_controller_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.sqlite");
        let first = open(&path).unwrap();
        assert!(matches!(open(&path), Err(StoreError::InUse(_))));
        drop(first);
        open(&path).unwrap();
    }

    #[test]
    fn what_is_newer_or_foreign_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let newer = dir.path().join("newer.sqlite");
        drop(open(&newer).unwrap());
        Connection::open(&newer).unwrap().pragma_update(None, "user_version", 99).unwrap();
        assert!(matches!(open(&newer), Err(StoreError::Newer { found: 99, known: 2, .. })));
        let foreign = dir.path().join("foreign.sqlite");
        Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE polls (id)").unwrap();
        assert!(matches!(open(&foreign), Err(StoreError::Foreign(_))));
    }

    #[test]
    fn a_snapshot_of_the_first_form_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.sqlite");
        let old = Connection::open(&path).unwrap();
        old.execute_batch(MIGRATIONS[0]).unwrap();
        old.pragma_update(None, "application_id", APPLICATION).unwrap();
        old.pragma_update(None, "user_version", 1).unwrap();
        old.execute("INSERT INTO snapshot VALUES (1, 7, 1, '{\"epoch\":4,\"last_run\":2,\"runs\":{}}')", []).unwrap();
        drop(old);
        let Opened { held, mut journal, .. } = open(&path).unwrap();
        assert_eq!((held.state.epoch, held.state.last_run), (4, 2));
        journal.snapshot(&held.snapshot()).unwrap();
        drop(journal);
        assert_eq!(open(&path).unwrap().held.state.last_run, 2);
    }
}
