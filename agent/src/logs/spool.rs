//! The part of a log that the controller may still ask for: on disk from its first byte, so that neither an outage nor a
//! `Resync` loses anything, and memory stays bounded.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use caisson_model::log::{LogChunk, LogSeal};
use caisson_model::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Two points in time closer than this are told as one.
const RESOLUTION_MS: u64 = 20;

/// With this many remembered points in time, only one per second is added.
const MANY_MARKS: usize = 64 * 1024;

/// A log's file and the times at which its bytes were read. Removed when dropped.
#[derive(Debug)]
pub(super) struct Spool {
    path: PathBuf,
    file: Arc<File>,
    /// Offset and time, both ascending.
    marks: Mutex<VecDeque<(u64, Timestamp)>>,
}

impl Spool {
    /// Makes the file, readable by nobody else. What stood there is gone. Blocks.
    pub(super) fn create(path: &Path) -> io::Result<Spool> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)?;
        Ok(Spool { path: path.to_owned(), file: Arc::new(file), marks: Mutex::default() })
    }

    /// Opens what an earlier agent closed, and says how it is to be sealed. Blocks.
    pub(super) fn resume(path: &Path) -> io::Result<(Spool, LogSeal)> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let Ending { seal, marks } = serde_json::from_slice(&std::fs::read(path.with_extension("seal"))?)?;
        if file.metadata()?.len() != seal.total {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the spool is not as long as its seal says"));
        }
        Ok((Spool { path: path.to_owned(), file: Arc::new(file), marks: Mutex::new(marks) }, seal))
    }

    /// Keeps how the log is to be sealed, and the times of what may still have to be delivered, beside it.
    pub(super) async fn write_seal(&self, seal: &LogSeal) -> io::Result<()> {
        let ending = Ending { seal: seal.clone(), marks: self.marks().clone() };
        let path = self.path.clone();
        blocking(move || {
            let part = path.with_extension("part");
            std::fs::write(&part, serde_json::to_vec(&ending)?)?;
            std::fs::rename(part, path.with_extension("seal"))
        })
        .await
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Puts bytes at their offset.
    pub(super) async fn put(&self, offset: u64, bytes: Vec<u8>, at: Timestamp) -> io::Result<()> {
        self.mark(offset, at);
        let file = Arc::clone(&self.file);
        blocking(move || file.write_all_at(&bytes, offset)).await
    }

    /// Reads `length` bytes, which were put before, and when they were read from the step.
    pub(super) async fn take(&self, offset: u64, length: usize) -> io::Result<(Vec<u8>, Timestamp)> {
        let at = self.time(offset);
        let file = Arc::clone(&self.file);
        let bytes = blocking(move || {
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, offset).map(|()| bytes)
        });
        Ok((bytes.await?, at))
    }

    /// The bytes from `from` to `to`, which were put before, in chunks of one point in time each.
    pub(super) async fn rest(&self, from: u64, to: u64) -> io::Result<Vec<LogChunk>> {
        let mut borders: Vec<u64> =
            self.marks().iter().map(|(offset, _)| *offset).filter(|offset| (from + 1..to).contains(offset)).collect();
        borders.push(to);
        let (mut chunks, mut offset) = (Vec::new(), from);
        for border in borders.into_iter().filter(|border| *border > from) {
            let (bytes, at) = self.take(offset, (border - offset) as usize).await?;
            chunks.push(LogChunk { offset, at, bytes });
            offset = border;
        }
        Ok(chunks)
    }

    /// Forgets times that only bytes before `offset` have.
    pub(super) fn forget(&self, offset: u64) {
        let mut marks = self.marks();
        while marks.get(1).is_some_and(|(next, _)| *next <= offset) {
            marks.pop_front();
        }
    }

    fn marks(&self) -> MutexGuard<'_, VecDeque<(u64, Timestamp)>> {
        // No code under this lock can panic half way through a change.
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mark(&self, offset: u64, at: Timestamp) {
        let mut marks = self.marks();
        let apart = if marks.len() < MANY_MARKS { RESOLUTION_MS } else { 1000 };
        if marks.back().is_none_or(|(_, last)| at.0 >= last.0 + apart) {
            marks.push_back((offset, at));
        }
    }

    fn time(&self, offset: u64) -> Timestamp {
        let marks = self.marks();
        let after = marks.partition_point(|(begin, _)| *begin <= offset);
        marks.get(after.saturating_sub(1)).map_or(Timestamp::default(), |(_, at)| *at)
    }
}

/// What is kept of a closed log beside its bytes.
#[derive(Serialize, Deserialize)]
struct Ending {
    seal: LogSeal,
    marks: VecDeque<(u64, Timestamp)>,
}

impl Drop for Spool {
    fn drop(&mut self) {
        // There is none when the log was not closed.
        let _none = std::fs::remove_file(self.path.with_extension("seal"));
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "a log's spool could not be removed");
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}
