//! A step's log on its way to the controller: masked bytes in, acknowledged chunks out, a seal at the end.
//!
//! Everything is spooled to disk first. While the controller answers, a writer that is far ahead of it waits, and so does
//! the pipe of the step; while it cannot be reached, writing goes on to disk and delivery is resumed where the controller's copy ends.
//! A log that outgrows its limit keeps its beginning and its end, and says aloud what is missing.
//!
//! Not here: masking (whoever writes has done it: see [`crate::mask`]) and the controller's copy.

mod delivery;
mod spool;

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use caisson_model::id::{Digest, Hold, StepIndex};
use caisson_model::log::{CHUNK_BYTES, LogChunk, LogGap, LogSeal};
use caisson_model::outcome::{Bytes, Fault};
use caisson_proto::api::{AgentApi, ApiError};
use caisson_proto::chain::Chain;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::clock;
use crate::logs::delivery::{Delivery, End, Progress};
use crate::logs::spool::Spool;
use crate::retry::Backoff;

/// How far a writer may be ahead of the controller's answers while there is a connection.
const AHEAD: u64 = 4 << 20;

/// How often a whole log is delivered again because the controller that seals it lacks what an earlier one had.
const REWINDS: u32 = 3;

/// The most that is kept of the end of a log that outgrew its limit.
const TAIL: u64 = 1 << 20;

/// A log cannot be written or sealed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    /// The spool cannot be made, written or read.
    #[error("{act} the log spool {path}", path = .path.display())]
    Spool {
        /// What was tried.
        act: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: Arc<io::Error>,
    },
    /// The attempt belongs to somebody else now: its log ends here, unsealed.
    #[error("deliver the log of an attempt that belongs to somebody else now")]
    Fenced,
    /// The controller will not have the log, and asking again would not help.
    #[error("deliver a log that the controller refuses")]
    Refused(#[source] ApiError),
}

impl LogError {
    /// Whose doing this is.
    pub fn fault(&self) -> Fault {
        match self {
            LogError::Spool { .. } => Fault::Environment,
            LogError::Fenced | LogError::Refused(_) => Fault::Ours,
        }
    }
}

/// The open log of one step. Dropping it ends delivery and leaves the log unsealed.
pub struct StepLog<A> {
    api: Arc<A>,
    hold: Hold,
    step: StepIndex,
    spool: Arc<Spool>,
    progress: Arc<watch::Sender<Progress>>,
    delivery: Delivering,
    digest: Sha256,
    chain: Chain,
    limits: Limits,
    /// What came after the beginning was full: the newest bytes, and how many older ones are gone.
    tail: VecDeque<u8>,
    lost: u64,
    gaps: Vec<LogGap>,
}

/// Ends the task with its owner.
struct Delivering(JoinHandle<()>);

impl Drop for Delivering {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Limits {
    whole: u64,
    head: u64,
    tail: u64,
}

impl<A: AgentApi> StepLog<A> {
    /// Opens the log of `step` with a new spool in `spool_dir`, a directory of the agent's own. The log keeps `limit` bytes and a line that says
    /// what is missing. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`LogError::Spool`].
    pub async fn open(api: Arc<A>, hold: Hold, step: StepIndex, spool_dir: &Path, limit: u64) -> Result<StepLog<A>, LogError> {
        let path = spool_dir.join(format!("step-{}.log", step.0));
        let at = path.clone();
        let made = tokio::task::spawn_blocking(move || Spool::create(&at)).await.unwrap_or_else(|error| Err(io::Error::other(error)));
        let spool = Arc::new(made.map_err(|source| LogError::Spool { act: "make", path, source: Arc::new(source) })?);
        let progress = Arc::new(watch::Sender::new(Progress::default()));
        let delivery = Delivery { api: Arc::clone(&api), hold, step, spool: Arc::clone(&spool), progress: Arc::clone(&progress) };
        let tail = TAIL.min(limit / 4);
        Ok(StepLog {
            api,
            hold,
            step,
            spool,
            progress,
            delivery: Delivering(tokio::spawn(delivery.run())),
            digest: Sha256::new(),
            chain: Chain::default(),
            limits: Limits { whole: limit, head: limit - tail, tail },
            tail: VecDeque::new(),
            lost: 0,
            gaps: Vec::new(),
        })
    }

    /// Appends bytes that are masked already. Waits while the controller is connected but far behind. Must not be called
    /// again after its future was dropped unfinished.
    ///
    /// # Errors
    /// [`LogError::Spool`] when the disk refuses; [`LogError::Fenced`] and [`LogError::Refused`] when nobody will have the log any more.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), LogError> {
        let written = self.progress.borrow().written;
        // Once bytes went to the tail, all that follow do: the order must stay.
        let room = if self.tail.is_empty() && self.lost == 0 { self.limits.head.saturating_sub(written) } else { 0 };
        let (now, later) = bytes.split_at(bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
        self.append(now).await?;
        if later.is_empty() {
            return Ok(());
        }
        self.tail.extend(later);
        let excess = self.tail.len().saturating_sub(self.limits.tail as usize);
        if excess > 0 {
            if self.lost == 0 {
                let line = format!(
                    "\n... the log has reached its limit of {}: what follows is left out, but for the last {} ...\n",
                    Bytes(self.limits.whole),
                    Bytes(self.limits.tail)
                );
                self.append(line.as_bytes()).await?;
            }
            self.tail.drain(..excess);
            self.lost += excess as u64;
        }
        Ok(())
    }

    /// Ends the log: nothing is written any more, and what is to be delivered and sealed stands on disk.
    ///
    /// # Errors
    /// As [`StepLog::write`].
    pub async fn close(mut self) -> Result<Closed<A>, LogError> {
        let mut tail = Vec::from(std::mem::take(&mut self.tail));
        if self.lost > 0 {
            // Rather a little less than half a line, or half a character.
            let cut = tail.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            self.lost += cut as u64;
            tail.drain(..cut);
            let offset = self.progress.borrow().written;
            let reason = format!("the log's limit of {}", Bytes(self.limits.whole));
            self.gaps.push(LogGap { offset, bytes: self.lost, reason });
        }
        self.append(&tail).await?;
        let total = self.progress.borrow().written;
        let digest = Digest(self.digest.clone().finalize().into());
        let seal = LogSeal { total, digest, chain: Some(self.chain.head()), gaps: std::mem::take(&mut self.gaps) };
        self.spool.write_seal(&seal).await.map_err(|source| self.failed("write", Arc::new(source)))?;
        self.progress.send_modify(|p| p.closed = true);
        let StepLog { api, hold, step, spool, progress, delivery, .. } = self;
        Ok(Closed { api, hold, step, spool, progress, delivery, seal })
    }

    /// Ends the log and delivers it: [`StepLog::close`], then [`Closed::deliver`].
    ///
    /// # Errors
    /// As [`StepLog::write`].
    pub async fn seal(self) -> Result<LogSeal, LogError> {
        self.close().await?.deliver().await
    }

    async fn append(&mut self, bytes: &[u8]) -> Result<(), LogError> {
        let at = clock::now();
        for piece in bytes.chunks(CHUNK_BYTES) {
            let mut news = self.progress.subscribe();
            // The sender of this channel is our own, so waiting cannot fail; what it waited for is looked up below.
            let _waited = news.wait_for(|p| p.end.is_some() || !p.connected || p.written - p.kept < AHEAD).await.is_ok();
            self.ended()?;
            let offset = self.progress.borrow().written;
            self.spool.put(offset, piece.to_vec(), at).await.map_err(|source| self.failed("write", Arc::new(source)))?;
            self.digest.update(piece);
            self.chain.update(piece);
            self.progress.send_modify(|p| p.written = offset + piece.len() as u64);
        }
        Ok(())
    }

    fn ended(&self) -> Result<(), LogError> {
        ended(&self.progress, &self.spool)
    }

    fn failed(&self, act: &'static str, source: Arc<io::Error>) -> LogError {
        LogError::Spool { act, path: self.spool.path().to_owned(), source }
    }
}

fn ended(progress: &watch::Sender<Progress>, spool: &Spool) -> Result<(), LogError> {
    match progress.borrow().end.clone() {
        None => Ok(()),
        Some(End::Fenced) => Err(LogError::Fenced),
        Some(End::Refused(error)) => Err(LogError::Refused(error)),
        Some(End::Unreadable(source)) => Err(LogError::Spool { act: "read", path: spool.path().to_owned(), source }),
    }
}

/// A log that is written and not yet sealed at the controller. Dropping it ends delivery.
pub struct Closed<A> {
    api: Arc<A>,
    hold: Hold,
    step: StepIndex,
    spool: Arc<Spool>,
    progress: Arc<watch::Sender<Progress>>,
    delivery: Delivering,
    seal: LogSeal,
}

impl<A: AgentApi> Closed<A> {
    /// Takes up a log that an earlier agent closed in `spool_dir`. Blocks for a moment. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// What the system says about its files.
    pub fn resume(api: Arc<A>, hold: Hold, step: StepIndex, spool_dir: &Path) -> io::Result<Closed<A>> {
        let (spool, seal) = Spool::resume(&spool_dir.join(format!("step-{}.log", step.0)))?;
        let spool = Arc::new(spool);
        let progress = Arc::new(watch::Sender::new(Progress::closed(seal.total)));
        let delivery = Delivery { api: Arc::clone(&api), hold, step, spool: Arc::clone(&spool), progress: Arc::clone(&progress) };
        Ok(Closed { api, hold, step, spool, progress, delivery: Delivering(tokio::spawn(delivery.run())), seal })
    }

    /// Waits until the controller keeps all of it, however long it cannot be reached, and has sealed it.
    ///
    /// # Errors
    /// As [`StepLog::write`].
    pub async fn deliver(mut self) -> Result<LogSeal, LogError> {
        if let Err(error) = (&mut self.delivery.0).await {
            let broken = ApiError::Broken(format!("the delivery of the log ended: {error}"));
            return Err(LogError::Refused(broken));
        }
        ended(&self.progress, &self.spool)?;
        let mut backoff = Backoff::default();
        loop {
            match self.api.end_log(self.hold, self.step, self.rest().await?, self.seal.clone()).await {
                Ok(()) => return Ok(self.seal),
                Err(error) if error.is_transient() => {
                    tracing::debug!(%error, attempt = %self.hold.attempt, step = self.step.0, "the log could not be sealed yet");
                    tokio::time::sleep(backoff.pause()).await;
                }
                Err(ApiError::Fenced) => return Err(LogError::Fenced),
                Err(error) if self.again(&error) => {
                    // Another controller leads and has less of it, or none: all of it is sent once more.
                    tracing::debug!(%error, attempt = %self.hold.attempt, step = self.step.0, "the log is delivered again");
                    self.progress.send_modify(Progress::rewind);
                    let delivery = Delivery {
                        api: Arc::clone(&self.api),
                        hold: self.hold,
                        step: self.step,
                        spool: Arc::clone(&self.spool),
                        progress: Arc::clone(&self.progress),
                    };
                    self.delivery = Delivering(tokio::spawn(delivery.run()));
                    tokio::time::sleep(backoff.pause()).await;
                    // An error of the task shows in what it left behind.
                    let _ended = (&mut self.delivery.0).await;
                    ended(&self.progress, &self.spool)?;
                }
                Err(error) => return Err(LogError::Refused(error)),
            }
        }
    }

    /// What was not pushed.
    async fn rest(&self) -> Result<Vec<LogChunk>, LogError> {
        let kept = self.progress.borrow().kept;
        let failed = |source| LogError::Spool { act: "read", path: self.spool.path().to_owned(), source: Arc::new(source) };
        self.spool.rest(kept, self.seal.total).await.map_err(failed)
    }

    /// Whether the controller that was asked to seal may lack what an earlier one had. Once only: then it is a refusal.
    fn again(&mut self, error: &ApiError) -> bool {
        matches!(error, ApiError::Invalid(_)) && self.progress.borrow().rewinds < REWINDS
    }
}

#[cfg(test)]
mod tests;
