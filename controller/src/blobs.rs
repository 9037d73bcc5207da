//! Blobs by digest, in a folder. A blob is there whole or not at all: it is written beside its place and moved there once its digest is right.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use caisson_model::id::Digest;
use futures_util::{Stream, StreamExt};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// The size of the pieces that are read.
const PIECE: usize = 64 * 1024;

/// A blob could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// There is none.
    #[error("blob {0}")]
    Missing(Digest),
    /// The content is not what its digest says: nothing was kept.
    #[error("content: its digest is {found}, not {wanted}")]
    Mismatch {
        /// What was said.
        wanted: Digest,
        /// What it is.
        found: Digest,
    },
    /// What the disk has is not what was kept.
    #[error("blob {0} is damaged on the controller's disk")]
    Damaged(Digest),
    /// The disk refused.
    #[error("{act} blob {digest}")]
    Disk {
        /// What was tried.
        act: &'static str,
        /// On which blob.
        digest: Digest,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The thread that did the work is gone.
    #[error("the blob's thread was ended")]
    Thread,
}

/// All blobs of a controller. Clones share them.
#[derive(Clone, Debug)]
pub struct Blobs {
    root: Arc<PathBuf>,
    /// Further folders of blobs, which are only read.
    others: Arc<Vec<PathBuf>>,
    parts: Arc<AtomicU64>,
}

/// Where a blob lies below a folder of blobs.
pub fn path_below(root: &Path, digest: Digest) -> PathBuf {
    let text = digest.to_string();
    let hex = text.trim_start_matches("sha256:");
    let (first, rest) = hex.split_at(2);
    root.join("sha256").join(first).join(rest)
}

impl Blobs {
    /// Blobs below `root`, which is made when the first is written.
    pub fn new(root: PathBuf) -> Blobs {
        Blobs { root: Arc::new(root), others: Arc::default(), parts: Arc::default() }
    }

    /// The same, with the blobs of further folders, which are only read.
    #[must_use]
    pub fn and_of(self, others: Vec<PathBuf>) -> Blobs {
        Blobs { others: Arc::new(others), ..self }
    }

    fn path(&self, digest: Digest) -> PathBuf {
        path_below(&self.root, digest)
    }

    /// Where it is, here or elsewhere; where it would be when it is nowhere.
    fn present(&self, digest: Digest) -> PathBuf {
        let elsewhere = || self.others.iter().map(|other| path_below(other, digest)).find(|path| path.exists());
        let own = self.path(digest);
        if own.exists() { own } else { elsewhere().unwrap_or(own) }
    }

    /// Which of these are not there, in the order asked.
    ///
    /// # Errors
    /// [`BlobError::Thread`].
    pub async fn missing(&self, digests: Vec<Digest>) -> Result<Vec<Digest>, BlobError> {
        let blobs = self.clone();
        let look = move || digests.into_iter().filter(|digest| !blobs.present(*digest).exists()).collect();
        tokio::task::spawn_blocking(look).await.map_err(|_| BlobError::Thread)
    }

    /// Keeps `content`. What is there already is not read again.
    ///
    /// # Errors
    /// [`BlobError::Mismatch`] when the content is not that of `digest`; [`BlobError::Disk`].
    pub async fn put(&self, digest: Digest, mut content: impl Stream<Item = Vec<u8>> + Send + Unpin) -> Result<(), BlobError> {
        if self.missing(vec![digest]).await?.is_empty() {
            return Ok(());
        }
        let (pieces, arrived) = mpsc::channel(8);
        let blobs = self.clone();
        let writing = tokio::task::spawn_blocking(move || blobs.write(digest, arrived));
        while let Some(piece) = content.next().await {
            if pieces.send(piece).await.is_err() {
                // The writing has failed; its result says why.
                break;
            }
        }
        drop(pieces);
        writing.await.map_err(|_| BlobError::Thread)?
    }

    fn write(&self, digest: Digest, mut pieces: mpsc::Receiver<Vec<u8>>) -> Result<(), BlobError> {
        let failed = |act| move |source| BlobError::Disk { act, digest, source };
        let number = self.parts.fetch_add(1, Ordering::Relaxed);
        let part = self.root.join("parts").join(format!("{}.{number}", std::process::id()));
        let written = (|| {
            fs::create_dir_all(self.root.join("parts")).map_err(failed("make room for"))?;
            let mut file = File::create(&part).map_err(failed("write"))?;
            let mut hash = Sha256::new();
            while let Some(piece) = pieces.blocking_recv() {
                hash.update(&piece);
                file.write_all(&piece).map_err(failed("write"))?;
            }
            let found = Digest(hash.finalize().into());
            if found != digest {
                return Err(BlobError::Mismatch { wanted: digest, found });
            }
            file.sync_all().map_err(failed("sync"))?;
            let path = self.path(digest);
            let folder = path.parent().unwrap_or(&self.root);
            fs::create_dir_all(folder).map_err(failed("make room for"))?;
            fs::rename(&part, &path).map_err(failed("move"))?;
            sync_folder(folder).map_err(failed("sync"))
        })();
        if written.is_err() {
            // The first error is the one to tell; a part that stays behind harms nobody.
            let _removed = fs::remove_file(&part);
        }
        written
    }

    /// Reads a blob from `offset` on. All of it is verified on the way; damage ends the stream with an error.
    ///
    /// # Errors
    /// [`BlobError::Missing`], [`BlobError::Disk`].
    pub async fn read(
        &self,
        digest: Digest,
        offset: u64,
    ) -> Result<impl Stream<Item = Result<Vec<u8>, BlobError>> + Send + use<>, BlobError> {
        let blobs = self.clone();
        let file = tokio::task::spawn_blocking(move || File::open(blobs.present(digest))).await.map_err(|_| BlobError::Thread)?.map_err(
            |source| match source.kind() {
                ErrorKind::NotFound => BlobError::Missing(digest),
                _ => BlobError::Disk { act: "open", digest, source },
            },
        )?;
        let (pieces, arrived) = mpsc::channel(4);
        // Ends by itself: at the end of the blob, or when nobody reads any more.
        drop(tokio::task::spawn_blocking(move || read_all(file, digest, offset, &pieces)));
        Ok(ReceiverStream::new(arrived))
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn read_all(mut file: File, digest: Digest, offset: u64, pieces: &mpsc::Sender<Result<Vec<u8>, BlobError>>) {
    let mut hash = Sha256::new();
    let mut at = 0u64;
    loop {
        let mut piece = vec![0; PIECE];
        let last = match file.read(&mut piece) {
            Ok(0) if Digest(hash.clone().finalize().into()) == digest => return,
            Ok(0) => Err(BlobError::Damaged(digest)),
            Ok(read) => {
                piece.truncate(read);
                hash.update(&piece);
                let skipped = usize::try_from(offset.saturating_sub(at)).unwrap_or(usize::MAX).min(read);
                at += read as u64;
                piece.drain(..skipped);
                Ok(piece)
            }
            Err(source) if source.kind() == ErrorKind::Interrupted => continue,
            Err(source) => Err(BlobError::Disk { act: "read", digest, source }),
        };
        let ends = last.is_err();
        let empty = last.as_ref().is_ok_and(Vec::is_empty);
        if (!empty && pieces.blocking_send(last).is_err()) || ends {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn digest(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }

    async fn all(blobs: &Blobs, digest: Digest, offset: u64) -> Result<Vec<u8>, BlobError> {
        let pieces: Vec<_> = blobs.read(digest, offset).await?.collect().await;
        Ok(pieces.into_iter().collect::<Result<Vec<_>, _>>()?.concat())
    }

    #[tokio::test]
    async fn a_blob_is_there_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::new(dir.path().join("blobs"));
        let content: Vec<u8> = (0..200_000u32).map(|i| i as u8).collect();
        let name = digest(&content);
        let pieces = || futures_util::stream::iter(content.chunks(7001).map(<[u8]>::to_vec).collect::<Vec<_>>());
        assert!(matches!(all(&blobs, name, 0).await, Err(BlobError::Missing(_))));
        let cut = blobs.put(name, pieces().take(3)).await;
        assert!(matches!(cut, Err(BlobError::Mismatch { .. })));
        assert_eq!(blobs.missing(vec![name]).await.unwrap(), [name]);
        blobs.put(name, pieces()).await.unwrap();
        blobs.put(name, futures_util::stream::empty()).await.unwrap();
        assert_eq!(blobs.missing(vec![name, digest(b"x")]).await.unwrap(), [digest(b"x")]);
        for offset in [0, 1, 65_536, 199_999, 200_000, 300_000] {
            assert_eq!(all(&blobs, name, offset).await.unwrap(), content[content.len().min(offset as usize)..]);
        }
        fs::write(blobs.path(name), b"damage").unwrap();
        assert!(matches!(all(&blobs, name, 0).await, Err(BlobError::Damaged(_))));
    }
}
