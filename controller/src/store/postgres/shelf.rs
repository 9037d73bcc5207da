//! What controllers share beside the journal: records of artifacts, caches and logs, and the list of identities.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicI64, Ordering};

use caisson_model::id::Digest;

use crate::identity::chain::{ChainError, Link, Shelf};
use crate::records::{Records, There};
use crate::store::journal::StoreError;
use crate::store::postgres::pool::Pool;
use crate::store::postgres::{fence, prepare};

/// Records in the database. They are read by everybody, and written by whoever leads.
pub struct Table {
    pool: Pool,
    /// The epoch in which this controller leads, or led; 0 before.
    epoch: AtomicI64,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

impl Table {
    /// The records of a database that was made ready.
    pub fn new(url: &str) -> Table {
        Table { pool: Pool::new(url, None), epoch: AtomicI64::new(0) }
    }

    /// This controller leads from now on, in this epoch: what it writes counts as long as no other has taken over.
    pub fn lead(&self, epoch: i64) {
        self.epoch.store(epoch, Ordering::SeqCst);
    }

    fn change(&self, sql: &str, by: &[&(dyn tokio_postgres::types::ToSql + Sync)]) -> io::Result<bool> {
        let epoch = self.epoch.load(Ordering::SeqCst);
        let act = "write a record to the database";
        let changed = self.pool.with(|line| {
            let mut changed = 0;
            line.transaction(act, async |all| {
                fence(all, epoch).await?;
                changed = all.execute(sql, by).await.map_err(|error| StoreError::Server(act, error))?;
                Ok(())
            })?;
            Ok(changed > 0)
        });
        changed.map_err(io::Error::other)
    }
}

impl Records for Table {
    fn write(&self, key: &str, text: &str, there: There) -> io::Result<bool> {
        let clash = match there {
            There::Stays => "DO NOTHING",
            There::GivesWay => "(key) DO UPDATE SET text = excluded.text",
        };
        self.change(&format!("INSERT INTO caisson.record (key, text) VALUES ($1, $2) ON CONFLICT {clash}"), &[&key, &text])
    }

    fn read(&self, key: &str) -> io::Result<Option<String>> {
        let row = self.pool.with(|line| line.one("SELECT text FROM caisson.record WHERE key = $1", &[&key]));
        Ok(row.map_err(io::Error::other)?.map(|row| row.get(0)))
    }

    fn below(&self, folder: &str) -> io::Result<Vec<(String, String)>> {
        // The character after a slash ends the stretch, in the order of bytes that the column has.
        let (first, end) = (format!("{folder}/"), format!("{folder}0"));
        let sql = "SELECT key, text FROM caisson.record WHERE key >= $1 AND key < $2 ORDER BY key";
        let rows = self.pool.with(|line| line.all(sql, &[&first, &end])).map_err(io::Error::other)?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    fn remove(&self, key: &str) -> io::Result<()> {
        self.change("DELETE FROM caisson.record WHERE key = $1", &[&key]).map(drop)
    }
}

/// The list of identities in the database.
pub struct Roster(Pool);

impl Roster {
    /// The list of a database, which is made ready. Blocks.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(url: &str) -> Result<Roster, StoreError> {
        let pool = Pool::new(url, None);
        pool.with(prepare)?;
        Ok(Roster(pool))
    }
}

impl Shelf for Roster {
    fn after(&mut self, number: u64) -> Result<Vec<Link>, ChainError> {
        let failed = |error| ChainError::Store(Box::new(error));
        let number = i64::try_from(number).unwrap_or(i64::MAX);
        let sql = "SELECT number, entry, digest FROM caisson.identity WHERE number > $1 ORDER BY number";
        let rows = self.0.with(|line| line.all(sql, &[&number])).map_err(failed)?;
        let read = |row: &tokio_postgres::Row| {
            let number = row.get::<_, i64>(0) as u64;
            let digest = <[u8; 32]>::try_from(row.get::<_, &[u8]>(2)).map_err(|_| ChainError::Broken(number))?;
            Ok(Link { number, text: row.get(1), digest: Digest(digest) })
        };
        rows.iter().map(read).collect()
    }

    fn add(&mut self, link: &Link) -> Result<bool, ChainError> {
        let sql = "INSERT INTO caisson.identity (number, entry, digest) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING number";
        let by: [&(dyn tokio_postgres::types::ToSql + Sync); 3] = [&(link.number as i64), &link.text, &link.digest.0.as_slice()];
        let added = self.0.with(|line| line.one(sql, &by)).map_err(|error| ChainError::Store(Box::new(error)))?;
        Ok(added.is_some())
    }
}
