//! One connection to a PostgreSQL server, used from one thread at a time: calls block. It has a small runtime of its own, so
//! that it works the same in the journal's thread and wherever something is read.

use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Row, Transaction};

use crate::store::journal::StoreError;
use crate::store::postgres::address::{self, Address};

const CONNECT: Duration = Duration::from_secs(10);

/// A connection.
pub(super) struct Line {
    client: Client,
    runtime: Option<Runtime>,
    place: String,
}

impl Drop for Line {
    fn drop(&mut self) {
        // A runtime that is dropped waits, which must not happen in another's threads.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn ended(connection: impl Future<Output = Result<(), tokio_postgres::Error>> + Send) {
    if let Err(error) = connection.await {
        tracing::debug!(%error, "connection to the database ended");
    }
}

impl Line {
    /// Connects.
    pub(super) fn open(url: &str) -> Result<Line, StoreError> {
        let Address { mut config, tls } = Address::parse(url)?;
        config.connect_timeout(CONNECT).application_name("caisson").tcp_user_timeout(CONNECT).keepalives_idle(CONNECT);
        let runtime = Builder::new_current_thread().enable_all().build().map_err(StoreError::Runtime)?;
        let opened = runtime.block_on(async {
            // It ends with the client or the server; what it says the client's calls say too.
            match tls {
                None => {
                    let (client, connection) = config.connect(NoTls).await?;
                    drop(tokio::spawn(ended(connection)));
                    Ok(client)
                }
                Some(tls) => {
                    let (client, connection) = config.connect(tls).await?;
                    drop(tokio::spawn(ended(connection)));
                    Ok(client)
                }
            }
        });
        let place = address::place(&config);
        match opened {
            Ok(client) => Ok(Line { client, runtime: Some(runtime), place }),
            Err(error) => {
                runtime.shutdown_background();
                Err(StoreError::Server("connect to the PostgreSQL database", error))
            }
        }
    }

    pub(super) fn place(&self) -> &str {
        &self.place
    }

    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    fn runtime(&self) -> Result<&Runtime, StoreError> {
        // Taken only when it is dropped.
        self.runtime.as_ref().ok_or(StoreError::Thread)
    }

    pub(super) fn all(&mut self, sql: &str, by: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, StoreError> {
        self.runtime()?.block_on(self.client.query(sql, by)).map_err(|error| StoreError::Server("read the journal's database", error))
    }

    pub(super) fn one(&mut self, sql: &str, by: &[&(dyn ToSql + Sync)]) -> Result<Option<Row>, StoreError> {
        Ok(self.all(sql, by)?.pop())
    }

    /// Does `work` in one transaction, which is undone when it fails.
    pub(super) fn transaction(
        &mut self,
        act: &'static str,
        work: impl AsyncFnOnce(&Transaction<'_>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let failed = |error| StoreError::Server(act, error);
        let runtime = self.runtime.as_ref().ok_or(StoreError::Thread)?;
        runtime.block_on(async {
            let all = self.client.transaction().await.map_err(failed)?;
            work(&all).await?;
            all.commit().await.map_err(failed)
        })
    }
}
