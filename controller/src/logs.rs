//! The logs of steps: appended by offset, followed by any number of readers, sealed at the end.
//!
//! A log is three files: `STEP.log` has the bytes as they are, `STEP.times` where each chunk begins and when it was read,
//! `STEP.seal` its end. After a crash the longest stretch that both of the first two have is what was kept.
//! Where several controllers share what they keep, a log that is sealed goes to the blobs as well.

mod files;
pub mod shared;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use caisson_model::id::{AttemptId, Digest, RunId};
use caisson_model::log::{LogAck, LogChunk, LogGap, LogKey, LogRead, LogSeal};
use caisson_proto::chain::Chain;
use futures_util::stream::{self, Stream, StreamExt};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use crate::blobs::Blobs;
use crate::logs::files::{Files, Reading};
use crate::logs::shared::{Sealed, Shared};
use crate::records::Records;

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
    /// What all controllers share cannot be used.
    #[error("{act} the log of step {} of attempt {}", .key.step.0, .key.attempt)]
    Shared {
        /// What was tried.
        act: &'static str,
        /// On which log.
        key: LogKey,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
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
    shared: Option<Shared>,
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
    chain: Chain,
    seal: Option<LogSeal>,
    synced: u64,
}

impl Logs {
    /// Logs below `root`, which is made when the first is written.
    pub fn new(root: PathBuf) -> Logs {
        Logs { root: Arc::new(root), open: Arc::default(), ending: Arc::default(), shared: None }
    }

    /// The same, for several controllers: what is sealed here the others find, and what they sealed is found here.
    #[must_use]
    pub fn shared(self, blobs: Blobs, records: Arc<dyn Records>) -> Logs {
        Logs { shared: Some(Shared { blobs, records }), ..self }
    }

    /// Whether several controllers share what is sealed: then a log of which nothing is known is one that was lost.
    pub fn is_shared(&self) -> bool {
        self.shared.is_some()
    }

    /// Whether there is anything of a log, here or with the others.
    ///
    /// # Errors
    /// [`LogError::Shared`].
    pub async fn is_known(&self, key: LogKey) -> Result<bool, LogError> {
        Ok(self.opened().contains_key(&key) || Files::exist(&self.root, key) || self.sealed(key).await?.is_some())
    }

    async fn sealed(&self, key: LogKey) -> Result<Option<Sealed>, LogError> {
        let Some(shared) = &self.shared else { return Ok(None) };
        shared.find(key).await.map_err(|source| LogError::Shared { act: "look for", key, source })
    }

    async fn hand_over(&self, key: LogKey, seal: LogSeal) -> Result<(), LogError> {
        let Some(shared) = &self.shared else { return Ok(()) };
        shared.hand_over(&self.root, key, seal).await.map_err(|source| LogError::Shared { act: "share", key, source })
    }

    /// Forgets the files of runs that `stays` says no to. Blocks.
    ///
    /// # Errors
    /// What the system says.
    pub fn prune(&self, stays: impl Fn(RunId) -> bool) -> std::io::Result<()> {
        files::prune(&self.root, stays)
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
        let mut files = Files::open(&self.root, key);
        let seal = files.seal().map_err(failed)?;
        let (mut hash, mut chain) = (Sha256::new(), Chain::default());
        if seal.is_none() {
            let take = |bytes: &[u8]| {
                hash.update(bytes);
                chain.update(bytes);
            };
            files.recover(take).map_err(failed)?;
        }
        let length = seal.as_ref().map_or(files.length(), |seal| seal.total);
        let log = Arc::new(Log {
            key,
            kept: Mutex::new(Kept { files, hash, chain, seal: seal.clone(), synced: 0 }),
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

    /// Ends a log, after `rest`, its last chunks, if they were not appended. Sealing it again with the same seal changes nothing.
    ///
    /// # Errors
    /// [`LogError::Mismatch`] when length or digest are not those of the bytes that were kept; [`LogError::Disk`].
    pub async fn seal(&self, key: LogKey, rest: Vec<LogChunk>, seal: LogSeal) -> Result<(), LogError> {
        if self.sealed(key).await?.is_some_and(|sealed| is_same(&sealed.seal, &seal)) {
            // The answer got lost, or the controller that gave it.
            return Ok(());
        }
        let real = self
            .work(move |logs| {
                let log = logs.log(key)?;
                for chunk in rest {
                    // A gap shows in the seal.
                    log.append(chunk)?;
                }
                let real = log.seal(seal)?;
                logs.opened().remove(&key);
                Ok(real)
            })
            .await?;
        self.hand_over(key, real).await
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
        let ended = self.work(move |logs| {
            let reason = logs.why_unsealed(attempt);
            let mut keys = Files::steps(&logs.root, attempt).map_err(|source| LogError::Disk {
                act: "list",
                key: LogKey { attempt, step: caisson_model::id::StepIndex(0) },
                source,
            })?;
            keys.extend(logs.opened().keys().filter(|key| key.attempt == attempt));
            let mut result = Ok(());
            let mut seals = Vec::new();
            for key in keys {
                let ended = logs.log(key).and_then(|log| log.end(&reason));
                logs.opened().remove(&key);
                match ended {
                    Ok(seal) => seals.push((key, seal)),
                    Err(error) => result = Err(error),
                }
            }
            logs.endings().remove(&attempt);
            Ok((result, seals))
        });
        let (mut result, seals) = ended.await?;
        for (key, seal) in seals {
            // One that another controller sealed stays as that did.
            result = result.and(self.hand_over(key, seal).await);
        }
        result
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
        if !live && let (Some(shared), Some(sealed)) = (&self.shared, self.sealed(key).await?) {
            shared.fetch(&self.root, key, &sealed).await.map_err(|source| LogError::Shared { act: "fetch", key, source })?;
            // One that was half here is read anew.
            self.opened().remove(&key);
        }
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
    LogSeal { total: 0, digest: Digest(Sha256::digest(b"").into()), chain: Some(Chain::default().head()), gaps: Vec::new() }
}

/// Whether two seals say the same; one of an agent that knows no chain says nothing about it.
fn is_same(there: &LogSeal, given: &LogSeal) -> bool {
    let chain = given.chain.is_none() || there.chain.is_none() || given.chain == there.chain;
    chain && (there.total, there.digest, &there.gaps) == (given.total, given.digest, &given.gaps)
}

/// The log of a step that ran and of which no controller has anything.
pub fn lost(reason: &str) -> LogSeal {
    LogSeal { gaps: vec![LogGap { offset: 0, bytes: 0, reason: reason.to_owned() }], ..empty_seal() }
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
        kept.chain.update(&chunk.bytes);
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

    /// Gives the seal as it stands.
    fn seal(&self, seal: LogSeal) -> Result<LogSeal, LogError> {
        let mut kept = self.kept();
        let real = match &kept.seal {
            Some(there) if is_same(there, &seal) => return Ok(there.clone()),
            Some(there) => there.clone(),
            None => LogSeal { gaps: seal.gaps.clone(), ..kept.real() },
        };
        if kept.seal.is_some() || !is_same(&real, &seal) {
            return Err(LogError::Mismatch(self.key, Box::new(real), Box::new(seal)));
        }
        kept.files.write_seal(&real).map_err(self.failed("seal"))?;
        kept.seal = Some(real.clone());
        self.news.send_modify(|news| news.seal = Some(real.clone()));
        Ok(real)
    }

    /// Seals what nobody sealed, and gives the seal. A log that was never written to needs no gap, and no file.
    fn end(&self, reason: &str) -> Result<LogSeal, LogError> {
        let mut kept = self.kept();
        if let Some(seal) = &kept.seal {
            return Ok(seal.clone());
        }
        let mut seal = kept.real();
        if seal.total > 0 {
            seal.gaps.push(LogGap { offset: seal.total, bytes: 0, reason: reason.to_owned() });
            kept.files.write_seal(&seal).map_err(self.failed("seal"))?;
        }
        kept.seal = Some(seal.clone());
        self.news.send_modify(|news| news.seal = Some(seal.clone()));
        Ok(seal)
    }
}

impl Kept {
    /// The seal of what is here.
    fn real(&self) -> LogSeal {
        let digest = Digest(self.hash.clone().finalize().into());
        LogSeal { total: self.files.length(), digest, chain: Some(self.chain.head()), gaps: Vec::new() }
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
