//! The store in a PostgreSQL database, which several controllers may share. One of them leads: it holds an advisory lock,
//! and every transaction that it writes checks that its epoch is still the newest, so that a leader that was taken for dead
//! can write nothing when it comes back. The others read.

mod address;
mod line;
mod pool;
mod secure;
pub mod shelf;

use std::sync::Arc;

use caisson_model::id::RunId;
use caisson_model::run::{NumberedEvent, RunView, Submission};
use serde::de::DeserializeOwned;
use tokio_postgres::types::ToSql;

use crate::core::record::RECORD_VERSION;
use crate::store::journal::{Archive, Held, Journal, Opened, Snapshot, StoreError, Transaction};
use crate::store::postgres::line::Line;
use crate::store::postgres::pool::Pool;
use crate::store::rows::{self, Replay, Rows};

/// Says which advisory lock of the database is the leader's.
const LEADER: i64 = 0x6361_6973_7365_0001;

/// A leader that has written nothing for so long, by the database's clock, hangs: its connection is ended.
pub const SILENCE: &str = "8 seconds";

/// Forward only, one step each; the number of those that were done stands in `caisson.form`.
const MIGRATIONS: [&str; 2] = ["
    CREATE TABLE caisson.journal (number BIGINT PRIMARY KEY, form INTEGER NOT NULL, record TEXT NOT NULL);
    CREATE TABLE caisson.snapshot (only_one INTEGER PRIMARY KEY CHECK (only_one = 1), number BIGINT NOT NULL, form INTEGER NOT NULL, state TEXT NOT NULL);
    CREATE TABLE caisson.snapshot_run (run BIGINT PRIMARY KEY, state TEXT NOT NULL);
    CREATE TABLE caisson.history (run BIGINT NOT NULL, number BIGINT NOT NULL, event TEXT NOT NULL, PRIMARY KEY (run, number));
    CREATE TABLE caisson.run (id BIGINT PRIMARY KEY, view TEXT NOT NULL);
    CREATE TABLE caisson.submission (run BIGINT PRIMARY KEY, submission TEXT NOT NULL);
    CREATE TABLE caisson.leader (only_one INTEGER PRIMARY KEY CHECK (only_one = 1), epoch BIGINT NOT NULL, address TEXT NOT NULL, pid INTEGER NOT NULL, beat TIMESTAMPTZ NOT NULL);
    INSERT INTO caisson.leader VALUES (1, 0, '', 0, clock_timestamp());
", "
    CREATE TABLE caisson.record (key TEXT COLLATE \"C\" PRIMARY KEY, text TEXT NOT NULL);
    CREATE TABLE caisson.identity (number BIGINT PRIMARY KEY, entry TEXT NOT NULL, digest BYTEA NOT NULL);
    CREATE FUNCTION caisson.stays() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'entries do not change'; END $$;
    CREATE TRIGGER identity_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON caisson.identity EXECUTE FUNCTION caisson.stays();
"];

fn failed(act: &'static str) -> impl Fn(tokio_postgres::Error) -> StoreError {
    move |error| StoreError::Server(act, error)
}

/// Brings the database to the form of this build, unless it is there, and gives the side that reads. Blocks.
///
/// # Errors
/// [`StoreError`].
pub fn look(url: &str) -> Result<Arc<dyn Archive>, StoreError> {
    let mut line = Line::open(url)?;
    prepare(&mut line)?;
    Ok(Arc::new(Reader(Pool::new(url, Some(line)))))
}

/// Who leads: the address that it gave, if any controller ever led. Blocks.
///
/// # Errors
/// [`StoreError`].
pub fn leader(url: &str) -> Result<Option<String>, StoreError> {
    let row = Line::open(url)?.one("SELECT address FROM caisson.leader", &[])?;
    Ok(row.map(|row| row.get::<_, String>(0)).filter(|address| !address.is_empty()))
}

/// Takes the lead if nobody has it, and says in which epoch; `None` while another controller leads. A leader that hangs is cut off, so that a later
/// try succeeds. Blocks.
///
/// # Errors
/// [`StoreError`].
pub fn claim(url: &str, address: &str) -> Result<Option<(Opened, i64)>, StoreError> {
    let mut line = Line::open(url)?;
    prepare(&mut line)?;
    let row = line.one("SELECT pg_try_advisory_lock($1)", &[&LEADER])?;
    if !row.is_some_and(|row| row.get(0)) {
        let hung = format!(
            "SELECT pg_terminate_backend(held.pid) FROM pg_locks held JOIN caisson.leader leader ON held.pid = leader.pid \
             WHERE held.locktype = 'advisory' AND held.granted AND ((held.classid::bigint << 32) | held.objid::bigint) = $1 \
             AND leader.beat < clock_timestamp() - interval '{SILENCE}'"
        );
        line.one(&hung, &[&LEADER])?;
        return Ok(None);
    }
    let lead =
        "UPDATE caisson.leader SET epoch = epoch + 1, address = $1, pid = pg_backend_pid(), beat = clock_timestamp() RETURNING epoch";
    let Some(row) = line.one(lead, &[&address])? else { return Err(StoreError::Fenced(0)) };
    let epoch: i64 = row.get(0);
    // From here on no earlier leader can commit: whatever it had committed is read now.
    let (held, last) = held(&mut line, url)?;
    let archive = Arc::new(Reader(Pool::new(url, None)));
    Ok(Some((Opened { held, journal: Box::new(Postgres { line, epoch, last }), archive }, epoch)))
}

fn prepare(line: &mut Line) -> Result<(), StoreError> {
    let act = "set up the journal's database";
    let place = line.place().to_owned();
    line.transaction(act, async |all| {
        let act = failed(act);
        // One at a time, also for the schema itself.
        all.execute("SELECT pg_advisory_xact_lock($1)", &[&(LEADER + 1)]).await.map_err(&act)?;
        all.batch_execute("CREATE SCHEMA IF NOT EXISTS caisson; CREATE TABLE IF NOT EXISTS caisson.form (done BIGINT NOT NULL)")
            .await
            .map_err(&act)?;
        let found: Option<i64> = all.query_opt("SELECT max(done) FROM caisson.form", &[]).await.map_err(&act)?.and_then(|row| row.get(0));
        let (found, known) = (found.unwrap_or(0), MIGRATIONS.len() as i64);
        if found > known {
            return Err(StoreError::Newer { path: place.clone().into(), found, known });
        }
        for step in MIGRATIONS.iter().skip(found as usize) {
            all.batch_execute(step).await.map_err(&act)?;
        }
        if found < known {
            all.execute("DELETE FROM caisson.form", &[]).await.map_err(&act)?;
            all.execute("INSERT INTO caisson.form VALUES ($1)", &[&known]).await.map_err(&act)?;
        }
        Ok(())
    })
}

fn held(line: &mut Line, url: &str) -> Result<(Held, i64), StoreError> {
    let place = line.place().to_owned();
    let mut replay = Replay::default();
    let mut after = 0;
    if let Some(row) = line.one("SELECT number, form::bigint, state FROM caisson.snapshot", &[])? {
        rows::known(row.get(1), &place)?;
        after = row.get(0);
        replay.whole(after, row.get(2))?;
        for row in line.all("SELECT run, state FROM caisson.snapshot_run", &[])? {
            replay.run(row.get(0), row.get(1))?;
        }
    }
    let mut last = after;
    // In pieces: a journal that was never compacted may be larger than memory should hold twice.
    loop {
        let some =
            line.all("SELECT number, form::bigint, record FROM caisson.journal WHERE number > $1 ORDER BY number LIMIT 5000", &[&last])?;
        for row in &some {
            rows::known(row.get(1), &place)?;
            last = row.get(0);
            replay.record(last, row.get(2))?;
        }
        if some.is_empty() {
            break;
        }
    }
    let mut held = replay.held;
    let runs: Vec<i64> = held.state.runs.keys().map(|run| run.0 as i64).collect();
    for row in line.all("SELECT run, max(number) FROM caisson.history WHERE run = ANY($1) GROUP BY run", &[&runs])? {
        let (run, newest): (i64, i64) = (row.get(0), row.get(1));
        held.numbers.insert(RunId(run as u64), newest as u64);
    }
    tracing::debug!(database = %url.split('@').next_back().unwrap_or_default(), records = held.replayed, "journal was read");
    Ok((held, last))
}

struct Postgres {
    line: Line,
    epoch: i64,
    last: i64,
}

/// The lock's holder says that it lives; a later leader's epoch makes this an error, and the transaction is undone.
async fn fence(all: &tokio_postgres::Transaction<'_>, epoch: i64) -> Result<(), StoreError> {
    let beat = "UPDATE caisson.leader SET beat = clock_timestamp() WHERE epoch = $1";
    match all.execute(beat, &[&epoch]).await.map_err(failed("write to the journal"))? {
        1 => Ok(()),
        _ => Err(StoreError::Fenced(epoch)),
    }
}

impl Journal for Postgres {
    fn commit(&mut self, transactions: &[Transaction]) -> Result<(), StoreError> {
        let Rows { journal, history, views, submissions, last } = Rows::of(transactions, self.last)?;
        let epoch = self.epoch;
        self.line.transaction("write to the journal", async |all| {
            fence(all, epoch).await?;
            let act = failed("write to the journal");
            if !journal.is_empty() {
                let (numbers, records): (Vec<i64>, Vec<&str>) = journal.iter().map(|(number, record)| (*number, record.as_str())).unzip();
                let form = RECORD_VERSION as i32;
                let sql = "INSERT INTO caisson.journal SELECT number, $2, record FROM unnest($1::bigint[], $3::text[]) AS new(number, record)";
                all.execute(sql, &[&numbers, &form, &records]).await.map_err(&act)?;
            }
            if !history.is_empty() {
                let runs: Vec<i64> = history.iter().map(|(run, ..)| *run).collect();
                let numbers: Vec<i64> = history.iter().map(|(_, number, _)| *number).collect();
                let events: Vec<&str> = history.iter().map(|(.., event)| event.as_str()).collect();
                let sql = "INSERT INTO caisson.history SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[])";
                all.execute(sql, &[&runs, &numbers, &events]).await.map_err(&act)?;
            }
            if !views.is_empty() {
                let (runs, views): (Vec<i64>, Vec<&str>) = views.iter().map(|(run, view)| (*run, view.as_str())).unzip();
                let sql = "INSERT INTO caisson.run SELECT * FROM unnest($1::bigint[], $2::text[]) ON CONFLICT (id) DO UPDATE SET view = excluded.view";
                all.execute(sql, &[&runs, &views]).await.map_err(&act)?;
            }
            if !submissions.is_empty() {
                let (runs, texts): (Vec<i64>, Vec<&str>) = submissions.iter().map(|(run, text)| (*run, text.as_str())).unzip();
                let sql = "INSERT INTO caisson.submission SELECT * FROM unnest($1::bigint[], $2::text[]) ON CONFLICT (run) DO NOTHING";
                all.execute(sql, &[&runs, &texts]).await.map_err(&act)?;
            }
            Ok(())
        })?;
        self.last = last;
        Ok(())
    }

    fn snapshot(&mut self, snapshot: &Snapshot) -> Result<(), StoreError> {
        let (whole, put, gone) = rows::snapshot(snapshot)?;
        let (epoch, last) = (self.epoch, self.last);
        self.line.transaction("write a snapshot to the journal", async |all| {
            fence(all, epoch).await?;
            let act = failed("write a snapshot to the journal");
            let sql = "INSERT INTO caisson.snapshot VALUES (1, $1, $2, $3) \
                 ON CONFLICT (only_one) DO UPDATE SET number = excluded.number, form = excluded.form, state = excluded.state";
            all.execute(sql, &[&last, &(RECORD_VERSION as i32), &whole]).await.map_err(&act)?;
            let (runs, states): (Vec<i64>, Vec<&str>) = put.iter().map(|(run, state)| (*run, state.as_str())).unzip();
            let sql = "INSERT INTO caisson.snapshot_run SELECT * FROM unnest($1::bigint[], $2::text[]) \
                 ON CONFLICT (run) DO UPDATE SET state = excluded.state";
            all.execute(sql, &[&runs, &states]).await.map_err(&act)?;
            all.execute("DELETE FROM caisson.snapshot_run WHERE run = ANY($1)", &[&gone]).await.map_err(&act)?;
            all.execute("DELETE FROM caisson.journal WHERE number <= $1", &[&last]).await.map_err(&act)?;
            Ok(())
        })
    }

    fn beat(&mut self) -> Result<(), StoreError> {
        let epoch = self.epoch;
        self.line.transaction("write to the journal", async |all| fence(all, epoch).await)
    }
}

/// Reads over connections of its own, which are made again when they break.
struct Reader(Pool);

impl Reader {
    fn rows<T: DeserializeOwned>(&self, what: &'static str, sql: &str, by: &[&(dyn ToSql + Sync)]) -> Result<Vec<T>, StoreError> {
        let found = self.0.with(|line| line.all(sql, by))?;
        found.iter().map(|row| rows::read(what, row.get::<_, i64>(0) as u64, row.get(1))).collect()
    }
}

impl Archive for Reader {
    fn history(&self, run: RunId, after: u64, limit: u32) -> Result<Vec<NumberedEvent>, StoreError> {
        let after = i64::try_from(after).unwrap_or(i64::MAX);
        let sql = "SELECT number, event FROM caisson.history WHERE run = $1 AND number > $2 ORDER BY number LIMIT $3";
        self.rows("event", sql, &[&(run.0 as i64), &after, &i64::from(limit)])
    }

    fn runs(&self, limit: u32) -> Result<Vec<RunView>, StoreError> {
        self.rows("run", "SELECT id, view FROM caisson.run ORDER BY id DESC LIMIT $1", &[&i64::from(limit)])
    }

    fn run(&self, run: RunId) -> Result<Option<RunView>, StoreError> {
        Ok(self.rows("run", "SELECT id, view FROM caisson.run WHERE id = $1", &[&(run.0 as i64)])?.pop())
    }

    fn submission(&self, run: RunId) -> Result<Option<Submission>, StoreError> {
        let sql = "SELECT run, submission FROM caisson.submission WHERE run = $1";
        Ok(self.rows("the submission of run", sql, &[&(run.0 as i64)])?.pop())
    }
}
