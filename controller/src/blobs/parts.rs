//! Blobs on their way in: a file of this machine each, named by the digest that it shall have, so that a put that was cut
//! short can go on. Synchronous.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use caisson_model::id::Digest;
use caisson_model::time::Timestamp;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use crate::blobs::store::{BlobError, PIECE, stamp};

/// The folder.
#[derive(Debug)]
pub(super) struct Parts {
    folder: PathBuf,
    number: AtomicU64,
}

/// How much may be kept, and is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) most: Option<u64>,
    pub(super) used: u64,
}

/// A part whose digest is right. Nobody else writes to it while this lives.
#[derive(Debug)]
pub(super) struct Part {
    path: PathBuf,
    bytes: u64,
    _lock: File,
}

impl Part {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn remove(self) {
        // Not there: it was moved. A part that stays behind is collected later.
        let _moved = fs::remove_file(&self.path);
    }
}

impl Parts {
    pub(super) fn new(folder: PathBuf) -> Parts {
        Parts { folder, number: AtomicU64::new(0) }
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.folder.join(digest.to_string().trim_start_matches("sha256:"))
    }

    /// How many bytes are held.
    pub(super) fn held(&self, digest: Digest) -> u64 {
        fs::metadata(self.path(digest)).map_or(0, |data| data.len())
    }

    /// The part of this digest; one of its own when somebody is writing that, which can only begin at 0.
    fn open(&self, digest: Digest, offset: u64) -> io::Result<(PathBuf, File)> {
        fs::create_dir_all(&self.folder)?;
        let path = self.path(digest);
        loop {
            let file = File::options().read(true).write(true).create(true).truncate(false).open(&path)?;
            match file.try_lock() {
                // It may have been moved to its place since it was opened.
                Ok(()) if file.metadata()?.nlink() == 0 => continue,
                Ok(()) => return Ok((path, file)),
                Err(TryLockError::WouldBlock) if offset == 0 => {
                    let number = self.number.fetch_add(1, Ordering::Relaxed);
                    let path = path.with_extension(format!("{}.{number}", std::process::id()));
                    return File::create_new(&path).map(|file| (path, file));
                }
                Err(TryLockError::WouldBlock) => return Err(io::Error::new(ErrorKind::WouldBlock, "somebody else is putting it")),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }

    /// Writes pieces from `offset` on, and gives the part if it is then what its digest says.
    pub(super) fn write(&self, digest: Digest, offset: u64, mut pieces: mpsc::Receiver<Vec<u8>>, room: Room) -> Result<Part, BlobError> {
        let failed = |act| move |source| BlobError::Disk { act, digest, source };
        let (path, mut file) = self.open(digest, offset).map_err(|source| match source.kind() {
            ErrorKind::WouldBlock => BlobError::Offset { digest, held: 0 },
            _ => BlobError::Disk { act: "make a part for", digest, source },
        })?;
        let held = file.metadata().map_err(failed("measure"))?.len();
        if offset > held {
            return Err(BlobError::Offset { digest, held });
        }
        let written = (|| {
            file.set_len(offset).map_err(failed("cut"))?;
            let mut hash = Sha256::new();
            read_into(&mut file, &mut hash).map_err(failed("read a part of"))?;
            file.seek(SeekFrom::Start(offset)).map_err(failed("write"))?;
            let mut bytes = offset;
            while let Some(piece) = pieces.blocking_recv() {
                bytes += piece.len() as u64;
                if let Some(most) = room.most.filter(|most| room.used.saturating_add(bytes) > *most) {
                    return Err(BlobError::Full(most));
                }
                hash.update(&piece);
                file.write_all(&piece).map_err(failed("write"))?;
            }
            let found = Digest(hash.finalize().into());
            if found != digest {
                return Err(BlobError::Mismatch { wanted: digest, found });
            }
            file.sync_all().map_err(failed("sync"))?;
            Ok(bytes)
        })();
        match written {
            Ok(bytes) => Ok(Part { path, bytes, _lock: file }),
            // Cut short, perhaps: the next one may go on. What was gone on with and is wrong has to begin anew.
            Err(error @ BlobError::Mismatch { .. }) if offset == 0 && path == self.path(digest) => Err(error),
            Err(error) => {
                // The first error is the one to tell; a part that stays behind is collected later.
                let _removed = fs::remove_file(&path);
                Err(error)
            }
        }
    }

    /// Removes parts that nobody has gone on with since `before`.
    pub(super) fn collect(&self, before: Timestamp) {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let old = entry.metadata().and_then(|data| data.modified()).is_ok_and(|modified| stamp(modified) < before);
            if old && File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok()) {
                // Looked at again the next time.
                let _removed = fs::remove_file(entry.path());
            }
        }
    }
}

fn read_into(file: &mut File, hash: &mut Sha256) -> io::Result<()> {
    file.seek(SeekFrom::Start(0))?;
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(read) => hash.update(&piece[..read]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
