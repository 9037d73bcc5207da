//! The logs of steps: appended by offset, followed by any number of readers, sealed at the end.
//!
//! A log is three files: `STEP.log` has the bytes as they are, `STEP.times` where each chunk begins and when it was read,
//! `STEP.seal` its end. After a crash the longest stretch that both of the first two have is what was kept.

mod files;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use caisson_model::id::{AttemptId, Digest};
use caisson_model::log::{LogAck, LogChunk, LogGap, LogKey, LogRead, LogSeal};
use futures_util::stream::{self, Stream, StreamExt};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use crate::logs::files::{Files, Reading};

/// A log could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The disk refused.
    #[error("{act} the log of step {} of attempt {}", .key.step.0, .key.attempt)]
    Disk {
        /// What was tried.
        act: &'static str,
        /// On which log.
        key: LogKey,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The bytes that are there are not those that were sealed.
    #[error("chunk: the log of step {} of attempt {} is sealed", .0.step.0, .0.attempt)]
    Sealed(LogKey),
    /// The seal does not fit what was kept.
    #[error("seal: the log of step {} of attempt {} has {} bytes and {}; the seal says {} and {}", .0.step.0, .0.attempt, .1.total, .1.digest, .2.total, .2.digest)]
    Mismatch(LogKey, Box<LogSeal>, Box<LogSeal>),
    /// The thread that did the work is gone.
    #[error("the log's thread was ended")]
    Thread,
}

/// All logs of a controller. Clones share them.
#[derive(Clone, Debug)]
pub struct Logs {
    root: Arc<PathBuf>,
    open: Arc<Mutex<HashMap<LogKey, Arc<Log>>>>,
    ending: Arc<Mutex<HashMap<AttemptId, String>>>,
}

#[derive(Debug)]
struct Log {
    key: LogKey,
    kept: Mutex<Kept>,
    news: watch::Sender<News>,
}

/// What readers need to know.
#[derive(Clone, Debug, Default)]
struct News {
    length: u64,
    seal: Option<LogSeal>,
}

#[derive(Debug)]
struct Kept {
    files: Files,
    hash: Sha256,
    seal: Option<LogSeal>,
    synced: u64,
}

impl Logs {
    /// Logs below `root`, which is made when the first is written.
    pub fn new(root: PathBuf) -> Logs {
        Logs { root: Arc::new(root), open: Arc::default(), ending: Arc::default() }
    }

    /// Forgets what is open: another controller may have decided meanwhile, and the files say what this one has.
    pub fn begin_term(&self) {
        self.opened().clear();
        self.endings().clear();
    }

    fn opened(&self) -> MutexGuard<'_, HashMap<LogKey, Arc<Log>>> {
        // No code under this lock can panic half way through a change.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The log, read from disk if it is not open. Blocks.
    fn log(&self, key: LogKey) -> Result<Arc<Log>, LogError> {
        if let Some(log) = self.opened().get(&key) {
            return Ok(log.clone());
        }
        let failed = |source| LogError::Disk { act: "open", key, source };
        let mut files = Files::open(&self.root, key).map_err(failed)?;
        let seal = files.seal().map_err(failed)?;
        let mut hash = Sha256::new();
        if seal.is_none() {
            files.recover(|bytes| hash.update(bytes)).map_err(failed)?;
        }
        let length = seal.as_ref().map_or(files.length(), |seal| seal.total);
        let log = Arc::new(Log {
            key,
            kept: Mutex::new(Kept { files, hash, seal: seal.clone(), synced: 0 }),
            news: watch::Sender::new(News { length, seal: seal.clone() }),
        });
        if seal.is_some() {
            // Nothing will change it: whoever reads it keeps it.
            return Ok(log);
        }
        // Somebody may have opened it meanwhile; the first one stays.
        Ok(self.opened().entry(key).or_insert(log).clone())
    }

    async fn work<T: Send + 'static>(&self, work: impl FnOnce(&Logs) -> Result<T, LogError> + Send + 'static) -> Result<T, LogError> {
        let logs = self.clone();
        tokio::task::spawn_blocking(move || work(&logs)).await.map_err(|_| LogError::Thread)?
    }

    /// Adds a chunk. Readers see it at once; it is kept for good after [`Logs::sync`]. Bytes that are there already are
    /// passed over, a chunk behind a gap is answered `Resync`.
    ///
    /// # Errors
    /// [`LogError::Sealed`] when the log has ended without these bytes; [`LogError::Disk`].
    pub async fn append(&self, key: LogKey, chunk: LogChunk) -> Result<LogAck, LogError> {
        self.work(move |logs| logs.log(key)?.append(chunk)).await
    }

    /// Brings a log's bytes to the disk, and says how many there are.
    ///
    /// # Errors
    /// [`LogError::Disk`].
    pub async fn sync(&self, key: LogKey) -> Result<u64, LogError> {
        self.work(move |logs| logs.log(key)?.sync()).await
    }

    /// Ends a log. Sealing it again with the same seal changes nothing.
    ///
    /// # Errors
    /// [`LogError::Mismatch`] when length or digest are not those of the bytes that were kept; [`LogError::Disk`].
    pub async fn seal(&self, key: LogKey, seal: LogSeal) -> Result<(), LogError> {
        self.work(move |logs| {
            logs.log(key)?.seal(seal)?;
            logs.opened().remove(&key);
            Ok(())
        })
        .await
    }

    /// Whether a log was begun and not sealed.
    ///
    /// # Errors
    /// [`LogError::Disk`].
    pub async fn is_open(&self, key: LogKey) -> Result<bool, LogError> {
        self.work(move |logs| {
            if !logs.opened().contains_key(&key) && !Files::exist(&logs.root, key) {
                return Ok(false);
            }
            let log = logs.log(key)?;
            let news = log.news.borrow();
            Ok(news.seal.is_none() && news.length > 0)
        })
        .await
    }

    fn endings(&self) -> MutexGuard<'_, HashMap<AttemptId, String>> {
        self.ending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says why an attempt writes no more. From now on whoever finds one of its logs unsealed gives this reason; to be
    /// followed by [`Logs::end`].
    pub fn begin_end(&self, attempt: AttemptId, reason: String) {
        self.endings().insert(attempt, reason);
    }

    fn why_unsealed(&self, attempt: AttemptId) -> String {
        self.endings().get(&attempt).cloned().unwrap_or_else(|| "the attempt ended without sealing it".to_owned())
    }

    /// Seals all logs that an attempt left open, with a gap that gives the reason of [`Logs::begin_end`].
    ///
    /// # Errors
    /// [`LogError::Disk`]; the others were sealed nevertheless.
    pub async fn end(&self, attempt: AttemptId) -> Result<(), LogError> {
        self.work(move |logs| {
            let reason = logs.why_unsealed(attempt);
            let mut keys = Files::steps(&logs.root, attempt).map_err(|source| LogError::Disk {
                act: "list",
                key: LogKey { attempt, step: caisson_model::id::StepIndex(0) },
                source,
            })?;
            keys.extend(logs.opened().keys().filter(|key| key.attempt == attempt));
            let mut result = Ok(());
            for key in keys {
                let ended = logs.log(key).and_then(|log| log.end(&reason));
                logs.opened().remove(&key);
                result = result.and(ended);
            }
            logs.endings().remove(&attempt);
            result
        })
        .await
    }

    /// The log from `offset` on, then what follows, until its seal. A log whose attempt is over (`live` is false) ends,
    /// with a gap if nobody sealed it.
    ///
    /// # Errors
    /// [`LogError::Disk`].
    pub async fn tail(
        &self,
        key: LogKey,
        offset: u64,
        live: bool,
    ) -> Result<impl Stream<Item = Result<LogRead, LogError>> + Send + use<>, LogError> {
        let log = self
            .work(move |logs| {
                if !live && !Files::exist(&logs.root, key) && !logs.opened().contains_key(&key) {
                    return Ok(None);
                }
                let log = logs.log(key)?;
                if !live {
                    log.end(&logs.why_unsealed(key.attempt))?;
                    logs.opened().remove(&key);
                }
                Ok(Some(log))
            })
            .await?;
        let root = self.root.clone();
        let reading = log.map(|log| Tail { news: log.news.subscribe(), key, root, offset, reading: None });
        // A step that wrote nothing has no files.
        let nothing = reading.is_none().then(|| Ok(LogRead::Seal(empty_seal())));
        let batches = stream::unfold(reading, |tail| async move {
            let mut tail = tail?;
            match tail.next().await {
                Ok((reads, true)) => Some((Ok(reads), None)),
                Ok((reads, false)) => Some((Ok(reads), Some(tail))),
                Err(error) => Some((Err(error), None)),
            }
        });
        let reads = batches.flat_map(|batch| {
            let (reads, error) = match batch {
                Ok(reads) => (reads, None),
                Err(error) => (Vec::new(), Some(Err(error))),
            };
            stream::iter(reads.into_iter().map(Ok).chain(error))
        });
        Ok(stream::iter(nothing).chain(reads))
    }
}

fn empty_seal() -> LogSeal {
    LogSeal { total: 0, digest: Digest(Sha256::digest(b"").into()), gaps: Vec::new() }
}

impl Log {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, act: &'static str) -> impl Fn(std::io::Error) -> LogError + use<> {
        let key = self.key;
        move |source| LogError::Disk { act, key, source }
    }

    fn append(&self, mut chunk: LogChunk) -> Result<LogAck, LogError> {
        let mut kept = self.kept();
        let length = kept.seal.as_ref().map_or(kept.files.length(), |seal| seal.total);
        let end = chunk.offset.saturating_add(chunk.bytes.len() as u64);
        if chunk.offset > length {
            return Ok(LogAck::Resync { offset: length });
        }
        if end <= length {
            return Ok(LogAck::Kept { offset: length });
        }
        if kept.seal.is_some() {
            return Err(LogError::Sealed(self.key));
        }
        chunk.bytes.drain(..(length - chunk.offset) as usize);
        chunk.offset = length;
        kept.files.append(&chunk).map_err(self.failed("write"))?;
        kept.hash.update(&chunk.bytes);
        self.news.send_modify(|news| news.length = end);
        Ok(LogAck::Kept { offset: end })
    }

    fn sync(&self) -> Result<u64, LogError> {
        let mut kept = self.kept();
        let length = kept.files.length();
        if kept.seal.is_none() && kept.synced < length {
            kept.files.sync().map_err(self.failed("sync"))?;
            kept.synced = length;
        }
        Ok(kept.seal.as_ref().map_or(length, |seal| seal.total))
    }

    fn seal(&self, seal: LogSeal) -> Result<(), LogError> {
        let mut kept = self.kept();
        let real = match &kept.seal {
            Some(there) if *there == seal => return Ok(()),
            Some(there) => there.clone(),
            None => LogSeal { total: kept.files.length(), digest: Digest(kept.hash.clone().finalize().into()), gaps: Vec::new() },
        };
        if kept.seal.is_some() || (real.total, real.digest) != (seal.total, seal.digest) {
            return Err(LogError::Mismatch(self.key, Box::new(real), Box::new(seal)));
        }
        kept.files.write_seal(&seal).map_err(self.failed("seal"))?;
        kept.seal = Some(seal.clone());
        self.news.send_modify(|news| news.seal = Some(seal));
        Ok(())
    }

    /// Seals what nobody sealed. A log that was never written to needs no gap, and no file.
    fn end(&self, reason: &str) -> Result<(), LogError> {
        let mut kept = self.kept();
        if kept.seal.is_some() {
            return Ok(());
        }
        let total = kept.files.length();
        let mut seal = LogSeal { total, digest: Digest(kept.hash.clone().finalize().into()), gaps: Vec::new() };
        if total > 0 {
            seal.gaps.push(LogGap { offset: total, bytes: 0, reason: reason.to_owned() });
            kept.files.write_seal(&seal).map_err(self.failed("seal"))?;
        }
        kept.seal = Some(seal.clone());
        self.news.send_modify(|news| news.seal = Some(seal));
        Ok(())
    }
}

struct Tail {
    news: watch::Receiver<News>,
    key: LogKey,
    root: Arc<PathBuf>,
    offset: u64,
    reading: Option<Reading>,
}

impl Tail {
    /// Some more of the log, and whether that is all.
    async fn next(&mut self) -> Result<(Vec<LogRead>, bool), LogError> {
        loop {
            let news = self.news.borrow_and_update().clone();
            if self.offset < news.length {
                let (key, root, offset, reading) = (self.key, self.root.clone(), self.offset, self.reading.take());
                let failed = move |source| LogError::Disk { act: "read", key, source };
                let work = move || -> std::io::Result<(Vec<LogChunk>, Reading)> {
                    let mut reading = match reading {
                        Some(reading) => reading,
                        None => Reading::open(&root, key, offset)?,
                    };
                    Ok((reading.chunks(offset, news.length)?, reading))
                };
                let (chunks, reading) = tokio::task::spawn_blocking(work).await.map_err(|_| LogError::Thread)?.map_err(failed)?;
                self.reading = Some(reading);
                self.offset = chunks.last().map_or(self.offset, |chunk| chunk.offset + chunk.bytes.len() as u64);
                return Ok((chunks.into_iter().map(LogRead::Chunk).collect(), false));
            }
            if let Some(seal) = news.seal {
                return Ok((vec![LogRead::Seal(seal)], true));
            }
            if self.news.changed().await.is_err() {
                // The log was let go unsealed: the controller is closing.
                return Ok((Vec::new(), true));
            }
        }
    }
}
