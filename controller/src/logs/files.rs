//! The files of one log. Synchronous.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use caisson_model::id::{AttemptId, RunId, StepIndex};
use caisson_model::log::{CHUNK_BYTES, LogChunk, LogKey, LogSeal};
use caisson_model::time::Timestamp;

/// One entry of `STEP.times`: offset, time and length, little-endian.
const ENTRY: usize = 8 + 8 + 4;
/// How many entries, and about how many bytes, are read at once.
const BATCH: usize = 64;
const BATCH_BYTES: usize = 4 * CHUNK_BYTES;

/// A log's files, for the one who writes them. Nothing is made before the first byte.
#[derive(Debug)]
pub(super) struct Files {
    path: PathBuf,
    open: Option<(File, File)>,
    length: u64,
}

#[derive(Clone, Copy)]
struct Entry {
    offset: u64,
    at: u64,
    length: u32,
}

impl Entry {
    fn bytes(self) -> [u8; ENTRY] {
        let mut bytes = [0; ENTRY];
        bytes[..8].copy_from_slice(&self.offset.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.at.to_le_bytes());
        bytes[16..].copy_from_slice(&self.length.to_le_bytes());
        bytes
    }

    fn read(bytes: &[u8]) -> Entry {
        let long = |from: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[from + i]));
        Entry { offset: long(0), at: long(8), length: u32::from_le_bytes(std::array::from_fn(|i| bytes[16 + i])) }
    }

    fn end(self) -> u64 {
        self.offset.saturating_add(self.length.into())
    }
}

fn folder(root: &Path, attempt: AttemptId) -> PathBuf {
    root.join(attempt.job.run.to_string()).join(format!("{}.{}", attempt.job.index, attempt.number))
}

fn stem(root: &Path, key: LogKey) -> PathBuf {
    folder(root, key.attempt).join(key.step.0.to_string())
}

fn with(path: &Path, extension: &str) -> PathBuf {
    path.with_extension(extension)
}

/// Where the bytes and the times of a log lie.
pub(super) fn paths(root: &Path, key: LogKey) -> (PathBuf, PathBuf) {
    let stem = stem(root, key);
    (with(&stem, "log"), with(&stem, "times"))
}

/// Removes the logs of runs that `stays` says no to.
pub(super) fn prune(root: &Path, stays: impl Fn(RunId) -> bool) -> io::Result<()> {
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let run = entry.file_name().to_str().and_then(|name| name.parse().ok()).map(RunId);
        if run.is_some_and(|run| !stays(run)) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

impl Files {
    pub(super) fn open(root: &Path, key: LogKey) -> Files {
        Files { path: stem(root, key), open: None, length: 0 }
    }

    pub(super) fn exist(root: &Path, key: LogKey) -> bool {
        with(&stem(root, key), "log").exists()
    }

    /// The steps of an attempt that have files.
    pub(super) fn steps(root: &Path, attempt: AttemptId) -> io::Result<Vec<LogKey>> {
        let entries = match fs::read_dir(folder(root, attempt)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut keys = Vec::new();
        for entry in entries {
            let path = entry?.path();
            let step = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
            if let Some(step) = step.filter(|_| path.extension().is_some_and(|extension| extension == "log")) {
                keys.push(LogKey { attempt, step: StepIndex(step) });
            }
        }
        Ok(keys)
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn seal(&self) -> io::Result<Option<LogSeal>> {
        match fs::read(with(&self.path, "seal")) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::from),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Finds out what was kept, shows its bytes to `see`, and cuts off what a crash left half done.
    pub(super) fn recover(&mut self, mut see: impl FnMut(&[u8])) -> io::Result<()> {
        let times = match fs::read(with(&self.path, "times")) {
            Ok(times) => times,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let there = fs::metadata(with(&self.path, "log"))?.len();
        let whole = times.chunks_exact(ENTRY).map(Entry::read);
        let mut entries = 0;
        for entry in whole {
            if entry.offset != self.length || entry.length == 0 || entry.end() > there {
                break;
            }
            self.length = entry.end();
            entries += 1;
        }
        let length = self.length;
        let (log, times) = self.make()?;
        log.set_len(length)?;
        times.set_len(entries * ENTRY as u64)?;
        let mut content = File::open(with(&self.path, "log"))?;
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            match content.read(&mut buffer)? {
                0 => break,
                read => see(&buffer[..read]),
            }
        }
        Ok(())
    }

    fn make(&mut self) -> io::Result<&mut (File, File)> {
        if self.open.is_none() {
            if let Some(folder) = self.path.parent() {
                fs::create_dir_all(folder)?;
            }
            let open = |extension| File::options().create(true).append(true).open(with(&self.path, extension));
            self.open = Some((open("log")?, open("times")?));
        }
        self.open.as_mut().ok_or_else(|| io::Error::from(ErrorKind::NotFound))
    }

    pub(super) fn append(&mut self, chunk: &LogChunk) -> io::Result<()> {
        let before = self.length;
        let length = u32::try_from(chunk.bytes.len()).map_err(|_| io::Error::from(ErrorKind::InvalidInput))?;
        let entry = Entry { offset: before, at: chunk.at.0, length };
        let (log, times) = self.make()?;
        let written = log.write_all(&chunk.bytes).and_then(|()| times.write_all(&entry.bytes()));
        if let Err(error) = written {
            // A full disk may have taken a part. What is not whole must not be followed by more; if it cannot be cut off
            // either, the next try finds the same lengths wrong and says so.
            let entries = times.metadata()?.len() / ENTRY as u64 * ENTRY as u64;
            log.set_len(before)?;
            times.set_len(entries)?;
            return Err(error);
        }
        self.length = entry.end();
        Ok(())
    }

    pub(super) fn sync(&mut self) -> io::Result<()> {
        match &self.open {
            Some((log, times)) => log.sync_data().and_then(|()| times.sync_data()),
            None => Ok(()),
        }
    }

    /// The seal is there whole or not at all, and after all the bytes that it speaks of.
    pub(super) fn write_seal(&mut self, seal: &LogSeal) -> io::Result<()> {
        if seal.total == 0 {
            // Nothing was written; a log without files reads as empty.
            if seal.gaps.is_empty() {
                return Ok(());
            }
            self.make()?;
        }
        self.sync()?;
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder)?;
        }
        let temporary = with(&self.path, "seal.part");
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(seal)?)?;
        file.sync_all()?;
        fs::rename(&temporary, with(&self.path, "seal"))?;
        match self.path.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }
}

/// A log's files, for one reader.
#[derive(Debug)]
pub(super) struct Reading {
    log: File,
    times: File,
    entry: u64,
}

impl Reading {
    /// Finds the chunk that `offset` stands in, by halving: entries have one size and their offsets grow.
    pub(super) fn open(root: &Path, key: LogKey, offset: u64) -> io::Result<Reading> {
        let path = stem(root, key);
        let (log, times) = (File::open(with(&path, "log"))?, File::open(with(&path, "times"))?);
        let (mut low, mut high) = (0, times.metadata()?.len() / ENTRY as u64);
        let mut bytes = [0; ENTRY];
        while low < high {
            let middle = low + (high - low) / 2;
            times.read_exact_at(&mut bytes, middle * ENTRY as u64)?;
            if Entry::read(&bytes).end() <= offset {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(Reading { log, times, entry: low })
    }

    /// Some chunks from `offset` on, below `length`, which is greater than `offset`.
    pub(super) fn chunks(&mut self, offset: u64, length: u64) -> io::Result<Vec<LogChunk>> {
        let mut entries = vec![0; BATCH * ENTRY];
        let read = self.times.read_at(&mut entries, self.entry * ENTRY as u64)?;
        let mut chunks = Vec::new();
        let mut bytes = 0;
        for entry in entries[..read].chunks_exact(ENTRY).map(Entry::read) {
            if entry.end() > length || bytes >= BATCH_BYTES {
                break;
            }
            self.entry += 1;
            let from = entry.offset.max(offset);
            let wanted = usize::try_from(entry.end().saturating_sub(from)).unwrap_or(0).min(CHUNK_BYTES);
            let mut chunk = LogChunk { offset: from, at: Timestamp(entry.at), bytes: vec![0; wanted] };
            self.log.read_exact_at(&mut chunk.bytes, from)?;
            bytes += wanted;
            chunks.push(chunk);
        }
        if chunks.is_empty() {
            return Err(io::Error::new(ErrorKind::UnexpectedEof, "its index is shorter than its content"));
        }
        Ok(chunks)
    }
}
