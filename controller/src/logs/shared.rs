//! Sealed logs where every controller finds them: the bytes and their times are blobs, and a record says which.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use caisson_model::id::{Digest, RunId};
use caisson_model::log::{LogKey, LogSeal};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::blobs::Blobs;
use crate::logs::files::{self, Files};
use crate::records::{self, Records, There};

/// Where their records lie.
const FOLDER: &str = "logs";

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What a record says of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sealed {
    pub(super) seal: LogSeal,
    /// The blob of its times; none of a log without bytes, which has no blobs.
    times: Option<Digest>,
}

/// Where sealed logs are shared.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) blobs: Blobs,
    pub(super) records: Arc<dyn Records>,
}

fn record(key: LogKey) -> String {
    let attempt = key.attempt;
    format!("{FOLDER}/{}/{}.{}/{}.json", attempt.job.run, attempt.job.index, attempt.number, key.step.0)
}

impl Shared {
    /// What is known of a log; `None` when it was not sealed.
    pub(super) async fn find(&self, key: LogKey) -> Result<Option<Sealed>, Failure> {
        let records = self.records.clone();
        Ok(tokio::task::spawn_blocking(move || records::take(records.as_ref(), &record(key))).await??)
    }

    /// Hands a log over that this controller has sealed.
    pub(super) async fn hand_over(&self, root: &Path, key: LogKey, seal: LogSeal) -> Result<(), Failure> {
        let (log, times) = files::paths(root, key);
        let times = match seal.total {
            0 => None,
            _ => {
                let read = times.clone();
                let bytes = tokio::task::spawn_blocking(move || fs::read(read)).await??;
                let digest = Digest(Sha256::digest(bytes).into());
                self.blobs.put_file(seal.digest, &log).await?;
                self.blobs.put_file(digest, &times).await?;
                Some(digest)
            }
        };
        let (records, sealed) = (self.records.clone(), Sealed { seal, times });
        // Stays: what was sealed once is not sealed otherwise.
        tokio::task::spawn_blocking(move || records::put(records.as_ref(), &record(key), &sealed, There::Stays)).await??;
        Ok(())
    }

    /// Brings a log to this controller's folder, unless it is there.
    pub(super) async fn fetch(&self, root: &Path, key: LogKey, sealed: &Sealed) -> Result<(), Failure> {
        let (folder, known) = (root.to_owned(), sealed.seal.clone());
        let there = move || Files::open(&folder, key).seal().map(|seal| seal.as_ref() == Some(&known));
        if tokio::task::spawn_blocking(there).await?? {
            return Ok(());
        }
        if let Some(times) = sealed.times {
            let (log, index) = files::paths(root, key);
            self.download(sealed.seal.digest, &log).await?;
            self.download(times, &index).await?;
        }
        let (folder, seal) = (root.to_owned(), sealed.seal.clone());
        tokio::task::spawn_blocking(move || Files::open(&folder, key).write_seal(&seal)).await??;
        Ok(())
    }

    async fn download(&self, digest: Digest, path: &Path) -> Result<(), Failure> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let part = path.with_extension(format!("part.{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        let mut pieces = Box::pin(self.blobs.read(digest, 0).await?);
        let making = part.clone();
        let mut file = tokio::task::spawn_blocking(move || make(&making)).await??;
        while let Some(piece) = pieces.next().await {
            let piece = match piece {
                Ok(piece) => piece,
                Err(error) => {
                    // A part that stays behind is not read.
                    let _removed = fs::remove_file(&part);
                    return Err(error.into());
                }
            };
            file = tokio::task::spawn_blocking(move || file.write_all(&piece).map(|()| file)).await??;
        }
        let path = path.to_owned();
        tokio::task::spawn_blocking(move || fs::rename(part, path)).await??;
        Ok(())
    }
}

fn make(path: &PathBuf) -> io::Result<File> {
    fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
    File::create(path)
}

/// The blobs that shared logs are made of; those of runs that `stays` says no to are forgotten first. Blocks.
///
/// # Errors
/// The records cannot be read or removed.
pub fn blobs(records: &dyn Records, stays: impl Fn(RunId) -> bool) -> io::Result<Vec<Digest>> {
    let mut found = Vec::new();
    for (key, sealed) in records::values::<Sealed>(records, FOLDER)? {
        let run = key.split('/').nth(1).and_then(|run| run.parse().ok()).map(RunId);
        match run.is_some_and(&stays) {
            true => found.extend(sealed.times.into_iter().flat_map(|times| [times, sealed.seal.digest])),
            false => records.remove(&key)?,
        }
    }
    Ok(found)
}
