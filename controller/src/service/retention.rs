//! The collection of what is kept no longer: by the controller that leads, once an hour.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use caisson_model::id::{Digest, RunId};
use caisson_model::run::RunState;
use caisson_model::time::Timestamp;
use tokio::time::MissedTickBehavior;

use crate::blobs::Collected;
use crate::identity::registry::now;
use crate::records::Records;
use crate::retention::Retention;
use crate::service::Service;
use crate::store::journal::Archive;
use crate::{artifacts, caches, logs};

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(3600);
/// What was put within this time stays: it may be about to be used.
const FRESH: Duration = Duration::from_secs(24 * 3600);
/// So many runs are looked at; what belongs to older ones is kept no more.
const MOST_RUNS: u32 = 1_000_000;

#[derive(Debug, thiserror::Error)]
enum CollectError {
    #[error("read the runs")]
    Runs(#[from] crate::store::journal::StoreError),
    #[error("read or forget records")]
    Records(#[from] std::io::Error),
    #[error("collect blobs")]
    Blobs(#[from] crate::blobs::store::BlobError),
    #[error("the thread that collects was ended")]
    Thread,
}

/// Until when each run counts: the time of its end, or the end of time.
fn ends(archive: &dyn Archive) -> Result<BTreeMap<RunId, Timestamp>, CollectError> {
    let runs = archive.runs(MOST_RUNS)?;
    let end = |view: &caisson_model::run::RunView| match (view.state, view.finished) {
        (RunState::Finished, Some(finished)) => finished,
        _ => Timestamp(u64::MAX),
    };
    Ok(runs.iter().map(|view| (view.id, end(view))).collect())
}

fn since(now: Timestamp, span: Duration) -> Timestamp {
    Timestamp(now.0.saturating_sub(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
}

/// Forgets the records that are kept no longer, and says which blobs the others need.
fn needed(
    archive: &dyn Archive,
    records: &dyn Records,
    retention: Retention,
) -> Result<(HashSet<Digest>, BTreeMap<RunId, Timestamp>), CollectError> {
    let now = now();
    let ends = ends(archive)?;
    let ended_after = |run: RunId, span| ends.get(&run).is_some_and(|end| *end >= since(now, span));
    let mut needed: HashSet<Digest> =
        artifacts::blobs(records, |artifact| ended_after(artifact.job.run, retention.artifacts))?.into_iter().collect();
    needed.extend(caches::blobs(records, |entry| entry.at >= since(now, retention.caches))?.into_keys());
    needed.extend(logs::shared::blobs(records, |run| ended_after(run, retention.logs))?);
    for run in ends.keys().filter(|run| ended_after(**run, retention.sources)) {
        needed.extend(archive.submission(*run)?.and_then(|submission| submission.source));
    }
    Ok((needed, ends))
}

impl Service {
    /// Collects what is kept no longer, once an hour while this controller leads. Never ends.
    pub async fn keep_house(self, retention: Retention) {
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if !self.is_leading() {
                // Soon enough after a take-over.
                tick.reset_after(EVERY / 60);
                continue;
            }
            match self.collect(retention).await {
                Ok(Collected { blobs: 0, .. }) => {}
                Ok(done) => tracing::info!(blobs = done.blobs, bytes = done.bytes, left = done.left, "collected what is kept no longer"),
                Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "what is kept no longer could not be collected"),
            }
        }
    }

    async fn collect(&self, retention: Retention) -> Result<Collected, CollectError> {
        let (archive, records, logs) = (self.inner.archive.clone(), self.inner.records.clone(), self.inner.logs.clone());
        let work = move || -> Result<_, CollectError> {
            let (needed, ends) = needed(archive.as_ref(), records.as_ref(), retention)?;
            let before = since(now(), retention.logs);
            logs.prune(|run| ends.get(&run).is_none_or(|end| *end >= before))?;
            Ok(needed)
        };
        let needed = tokio::task::spawn_blocking(work).await.map_err(|_| CollectError::Thread)??;
        Ok(self.inner.blobs.collect(&needed, since(now(), FRESH)).await?)
    }
}
