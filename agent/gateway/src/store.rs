//! What was fetched, on disk: files under their SHA-256, and small records that say which address led to which file.
//!
//! Several processes may use one store at once. A file appears whole or not at all, is never changed, and goes only by
//! eviction, oldest use first; whoever has it open keeps it. Nothing that a step sends is ever written here.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use crate::digest::Sha256Digest;
use crate::settings::Millis;

/// A use is noted when the last one is longer ago than this, so that reading rarely writes.
const NOTED: Duration = Duration::from_secs(60);
/// A half-written file of this age belongs to nobody any more.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);
/// How full an eviction leaves the store, in percent of the quota.
const LEFT: u64 = 80;

/// A store. Clones are the same store.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
    quota: u64,
    /// Bytes that this process has kept since it last looked at the whole store; starts beyond any measure.
    unmeasured: Arc<AtomicU64>,
}

/// A file of the store, open.
#[derive(Debug)]
pub struct Stored {
    /// The file, at its beginning.
    pub file: File,
    /// Its size in bytes.
    pub size: u64,
}

/// What an address led to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The address, without credentials.
    pub url: String,
    /// The file.
    pub digest: String,
    /// The type that the server gave it.
    pub content_type: String,
    /// The server's validators.
    pub etag: Option<String>,
    /// Likewise.
    pub last_modified: Option<String>,
    /// When the server last confirmed it.
    pub confirmed_at: Millis,
    /// For how many seconds the server lets it be used without being asked.
    pub max_age: u64,
}

impl Record {
    /// The digest, if the record is whole.
    pub fn digest(&self) -> Option<Sha256Digest> {
        self.digest.parse().ok()
    }
}

impl Store {
    /// Opens a store, made if need be, for this user alone. Blocks for a few system calls.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn open(root: &Path, quota: u64) -> io::Result<Store> {
        for below in ["", "blobs", "records", "drafts"] {
            DirBuilder::new().recursive(true).mode(0o700).create(root.join(below))?;
        }
        Ok(Store { root: root.to_owned(), quota, unmeasured: Arc::new(AtomicU64::new(u64::MAX / 2)) })
    }

    fn blob(&self, digest: Sha256Digest) -> PathBuf {
        let name = digest.to_string();
        self.root.join("blobs").join(&name[..2]).join(name)
    }

    fn record_path(&self, key: &str) -> PathBuf {
        let name = Sha256Digest::of(key.as_bytes()).to_string();
        self.root.join("records").join(&name[..2]).join(name)
    }

    /// Whether a file is there.
    pub fn has(&self, digest: Sha256Digest) -> bool {
        self.blob(digest).exists()
    }

    /// Opens a file; `None` when it is not there. Notes the use.
    pub fn find(&self, digest: Sha256Digest) -> Option<Stored> {
        let file = File::open(self.blob(digest)).ok()?;
        let metadata = file.metadata().ok().filter(fs::Metadata::is_file)?;
        let old = metadata.modified().ok().and_then(|at| at.elapsed().ok()).is_none_or(|age| age > NOTED);
        if old && let Err(error) = file.set_modified(SystemTime::now()) {
            tracing::debug!(%error, "the use of a stored file was not noted");
        }
        Some(Stored { file, size: metadata.len() })
    }

    /// A new file to write to; gone when it is dropped.
    ///
    /// # Errors
    /// The disk's.
    pub fn draft(&self) -> io::Result<NamedTempFile> {
        tempfile::Builder::new().prefix("draft-").tempfile_in(self.root.join("drafts"))
    }

    /// Keeps a draft whose bytes have this digest. Who calls has verified that.
    ///
    /// # Errors
    /// The disk's.
    pub fn keep(&self, draft: NamedTempFile, digest: Sha256Digest) -> io::Result<()> {
        let size = draft.as_file().metadata()?.len();
        let path = self.blob(digest);
        self.place(draft, &path)?;
        self.unmeasured.fetch_add(size, Ordering::Relaxed);
        Ok(())
    }

    fn place(&self, draft: NamedTempFile, path: &Path) -> io::Result<()> {
        if let Some(parent) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        }
        draft.persist(path).map(drop).map_err(|error| error.error)
    }

    /// Removes a file that turned out to be damaged.
    pub fn discard(&self, digest: Sha256Digest) {
        match fs::remove_file(self.blob(digest)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => tracing::warn!(%error, "a damaged file stays in the store"),
            _ => tracing::warn!(%digest, "a damaged file was removed from the store"),
        }
    }

    /// What is known of an address under `key`.
    pub fn record(&self, key: &str) -> Option<Record> {
        serde_json::from_slice(&fs::read(self.record_path(key)).ok()?).ok()
    }

    /// Remembers it.
    ///
    /// # Errors
    /// The disk's.
    pub fn remember(&self, key: &str, record: &Record) -> io::Result<()> {
        let draft = self.draft()?;
        serde_json::to_writer(draft.as_file(), record)?;
        self.place(draft, &self.record_path(key))
    }

    /// Whether enough was kept since the last look that [`Store::trim`] is due.
    pub fn is_due(&self) -> bool {
        self.unmeasured.load(Ordering::Relaxed) > self.quota / 20
    }

    /// Looks at the whole store and removes what was not used for longest until it is well below its quota; answers with the
    /// bytes that are left. Does nothing while another process does it. Blocks for as long as listing all files takes.
    ///
    /// # Errors
    /// The disk's.
    pub fn trim(&self) -> io::Result<Option<u64>> {
        let lock = File::options().create(true).truncate(false).write(true).open(self.root.join("trim.lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        self.unmeasured.store(0, Ordering::Relaxed);
        for draft in fs::read_dir(self.root.join("drafts"))?.filter_map(Result::ok) {
            let age = draft.metadata().and_then(|metadata| metadata.modified()).ok().and_then(|at| at.elapsed().ok());
            if age.is_some_and(|age| age > ABANDONED) {
                gone(&draft.path());
            }
        }
        let mut found: Vec<(SystemTime, u64, PathBuf)> = files(&self.root.join("blobs"))
            .filter_map(|path| {
                let metadata = path.metadata().ok()?;
                Some((metadata.modified().ok()?, metadata.len(), path))
            })
            .collect();
        let mut total: u64 = found.iter().map(|(_, size, _)| size).sum();
        if total <= self.quota {
            return Ok(Some(total));
        }
        found.sort();
        let wanted = self.quota / 100 * LEFT;
        for (_, size, path) in found {
            if total <= wanted {
                break;
            }
            gone(&path);
            total -= size;
        }
        // A record without its file says nothing that is true.
        for path in files(&self.root.join("records")) {
            let record = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok());
            if record.and_then(|record| record.digest()).is_none_or(|digest| !self.has(digest)) {
                gone(&path);
            }
        }
        Ok(Some(total))
    }
}

fn files(root: &Path) -> impl Iterator<Item = PathBuf> {
    walkdir::WalkDir::new(root)
        .into_iter()
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_file())
        .map(walkdir::DirEntry::into_path)
}

fn gone(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => tracing::warn!(%error, path = %path.display(), "not removed"),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::{Read, Write};

    use super::*;

    fn keep(store: &Store, bytes: &[u8]) -> Sha256Digest {
        let mut draft = store.draft().unwrap();
        draft.write_all(bytes).unwrap();
        let digest = Sha256Digest::of(bytes);
        store.keep(draft, digest).unwrap();
        digest
    }

    #[test]
    fn files_are_found_by_digest_from_another_process_view_too() {
        let root = tempfile::tempdir().unwrap();
        let (one, two) = (Store::open(root.path(), 1000).unwrap(), Store::open(root.path(), 1000).unwrap());
        let digest = keep(&one, b"abc");
        keep(&two, b"abc");
        let mut text = String::new();
        two.find(digest).unwrap().file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "abc");
        assert!(two.find(Sha256Digest::of(b"x")).is_none());
        assert_eq!(fs::read_dir(root.path().join("drafts")).unwrap().count(), 0);
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&root.path().join("blobs").metadata().unwrap().permissions()) & 0o777, 0o700);
    }

    #[test]
    fn eviction_takes_what_was_not_used_for_longest() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), 1000).unwrap();
        let digests: Vec<_> = (0..12u8).map(|n| keep(&store, &[n; 100])).collect();
        let long_ago = SystemTime::now() - Duration::from_secs(1000);
        for (n, digest) in digests.iter().enumerate() {
            let file = File::open(store.blob(*digest)).unwrap();
            file.set_modified(long_ago + Duration::from_secs(n as u64)).unwrap();
        }
        // The oldest is used again, and so it stays.
        store.find(digests[0]).unwrap();
        let record = |digest: Sha256Digest| Record {
            url: "u".into(),
            digest: digest.to_string(),
            content_type: String::new(),
            etag: None,
            last_modified: None,
            confirmed_at: 0,
            max_age: 0,
        };
        store.remember("gone", &record(digests[1])).unwrap();
        store.remember("kept", &record(digests[0])).unwrap();
        assert_eq!(store.trim().unwrap(), Some(800));
        let left: Vec<bool> = digests.iter().map(|digest| store.has(*digest)).collect();
        assert_eq!(left, [true, false, false, false, false, true, true, true, true, true, true, true]);
        assert!(store.record("gone").is_none() && store.record("kept").is_some());
        assert!(!store.is_due());
    }
}
