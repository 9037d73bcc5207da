//! Blobs by digest. A blob is there whole or not at all: it is written to a part of this machine's, checked against its digest,
//! and only then given to the store, which is a folder or a bucket. What is read is checked again on its way out.

pub mod bucket;
mod folder;
mod parts;
pub mod store;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use caisson_model::id::Digest;
use caisson_model::time::Timestamp;
use futures_util::stream;
use futures_util::{Stream, StreamExt};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use crate::blobs::bucket::Bucket;
use crate::blobs::folder::Folder;
use crate::blobs::parts::{Parts, Room};
use crate::blobs::store::{BlobError, PIECE, Pieces, Store, stamp};

/// How many blobs are asked for at once.
const ASKED: usize = 16;

/// All blobs of a controller. Clones share them.
#[derive(Clone, Debug)]
pub struct Blobs {
    store: Arc<dyn Store>,
    parts: Arc<Parts>,
    /// Further folders of blobs, which are only read.
    others: Arc<Vec<PathBuf>>,
    /// Bytes that are kept at most, and are kept.
    most: Option<u64>,
    used: Arc<AtomicU64>,
    /// What somebody was told is there: it is about to be used.
    told: Arc<Mutex<HashMap<Digest, Timestamp>>>,
}

/// What a collection did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Blobs that were removed.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The bytes that are left.
    pub left: u64,
}

/// Where a blob lies below a folder of blobs.
pub fn path_below(root: &Path, digest: Digest) -> PathBuf {
    store::path_below(root, digest)
}

impl Blobs {
    /// Blobs below `root`, which is made when the first is written.
    pub fn new(root: PathBuf) -> Blobs {
        Blobs::over(Arc::new(Parts::new(root.join("parts"))), Arc::new(Folder::new(root)))
    }

    /// Blobs in a bucket; `parts` is a folder of this machine for what is on its way there.
    pub fn in_bucket(bucket: Bucket, parts: PathBuf) -> Blobs {
        Blobs::over(Arc::new(Parts::new(parts)), Arc::new(bucket))
    }

    fn over(parts: Arc<Parts>, store: Arc<dyn Store>) -> Blobs {
        Blobs { store, parts, others: Arc::default(), most: None, used: Arc::default(), told: Arc::default() }
    }

    /// The same, with the blobs of further folders, which are only read.
    #[must_use]
    pub fn and_of(self, others: Vec<PathBuf>) -> Blobs {
        Blobs { others: Arc::new(others), ..self }
    }

    /// The same, with at most so many bytes, as far as the last [`Blobs::collect`] has counted.
    #[must_use]
    pub fn at_most(self, most: Option<u64>) -> Blobs {
        Blobs { most, ..self }
    }

    fn elsewhere(&self, digest: Digest) -> Option<PathBuf> {
        self.others.iter().map(|other| path_below(other, digest)).find(|path| path.exists())
    }

    async fn has(&self, digest: Digest) -> Result<bool, BlobError> {
        Ok(self.elsewhere(digest).is_some() || self.store.has(digest).await?)
    }

    fn tell(&self, digest: Digest) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(digest, now());
    }

    /// Which of these are not there, in the order asked.
    ///
    /// # Errors
    /// [`BlobError`].
    pub async fn missing(&self, digests: Vec<Digest>) -> Result<Vec<Digest>, BlobError> {
        let looked = stream::iter(digests).map(async |digest| Ok::<_, BlobError>((digest, self.has(digest).await?))).buffered(ASKED);
        let looked: Vec<_> = looked.collect().await;
        let mut missing = Vec::new();
        for found in looked {
            match found? {
                (digest, true) => self.tell(digest),
                (digest, false) => missing.push(digest),
            }
        }
        Ok(missing)
    }

    /// How many bytes of a blob are held that was not put whole; a put may go on from there.
    ///
    /// # Errors
    /// [`BlobError`].
    pub async fn held(&self, digest: Digest) -> Result<u64, BlobError> {
        let parts = self.parts.clone();
        tokio::task::spawn_blocking(move || parts.held(digest)).await.map_err(|_| BlobError::Thread)
    }

    /// Keeps `content`, which begins at `offset`. What is there already is not read again.
    ///
    /// # Errors
    /// [`BlobError::Mismatch`] when the content is not that of `digest`, as when it was cut short: then [`Blobs::held`] says from
    /// where to go on. [`BlobError::Offset`] when less is held. [`BlobError::Full`].
    pub async fn put(&self, digest: Digest, offset: u64, mut content: impl Stream<Item = Vec<u8>> + Send + Unpin) -> Result<(), BlobError> {
        if self.missing(vec![digest]).await?.is_empty() {
            return Ok(());
        }
        let (pieces, arrived) = mpsc::channel(8);
        let (parts, room) = (self.parts.clone(), Room { most: self.most, used: self.used.load(Ordering::Relaxed) });
        let writing = tokio::task::spawn_blocking(move || parts.write(digest, offset, arrived, room));
        while let Some(piece) = content.next().await {
            if pieces.send(piece).await.is_err() {
                // The writing has failed; its result says why.
                break;
            }
        }
        drop(pieces);
        let part = writing.await.map_err(|_| BlobError::Thread)??;
        let taken = self.store.take(digest, part.path()).await;
        let bytes = part.bytes();
        // Moved, or not needed any more; a part that was not taken is held for the next try.
        if taken.is_ok() {
            drop(tokio::task::spawn_blocking(move || part.remove()).await);
            self.used.fetch_add(bytes, Ordering::Relaxed);
            self.tell(digest);
        }
        taken
    }

    /// Keeps a file of this machine under its digest, which the caller knows. The file stays.
    ///
    /// # Errors
    /// As [`Blobs::put`].
    pub async fn put_file(&self, digest: Digest, path: &Path) -> Result<(), BlobError> {
        let failed = |source| BlobError::Disk { act: "open the source of", digest, source };
        let file = tokio::fs::File::open(path).await.map_err(failed)?;
        let cut = Arc::new(Mutex::new(None));
        let noted = cut.clone();
        let pieces = stream::unfold((file, noted), |(mut file, noted)| async move {
            let mut piece = vec![0; PIECE];
            match tokio::io::AsyncReadExt::read(&mut file, &mut piece).await {
                Ok(0) => None,
                Ok(read) => {
                    piece.truncate(read);
                    Some((piece, (file, noted)))
                }
                Err(error) => {
                    *noted.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    None
                }
            }
        });
        let put = self.put(digest, 0, Box::pin(pieces)).await;
        match cut.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(source) => Err(BlobError::Disk { act: "read the source of", digest, source }),
            None => put,
        }
    }

    /// Reads a blob from `offset` on. All of it is verified on the way; damage ends the stream with an error.
    ///
    /// # Errors
    /// [`BlobError::Missing`]; others of the store.
    pub async fn read(
        &self,
        digest: Digest,
        offset: u64,
    ) -> Result<impl Stream<Item = Result<Vec<u8>, BlobError>> + Send + use<>, BlobError> {
        let raw = match self.elsewhere(digest) {
            Some(path) => folder::open(path, digest).await?,
            None => self.store.open(digest).await?,
        };
        Ok(verified(raw, digest, offset))
    }

    /// Removes what is not among the needed ones and was put before `before`, unless somebody was told since that it is there; also parts that nobody went on with.
    ///
    /// # Errors
    /// [`BlobError`]; some may have been removed.
    pub async fn collect(&self, needed: &HashSet<Digest>, before: Timestamp) -> Result<Collected, BlobError> {
        let mut done = Collected::default();
        for stored in self.store.list().await? {
            let told = self.told.lock().unwrap_or_else(PoisonError::into_inner).get(&stored.digest).copied();
            if needed.contains(&stored.digest) || stored.at >= before || told.is_some_and(|told| told >= before) {
                done.left += stored.bytes;
                continue;
            }
            self.store.remove(stored.digest).await?;
            done.blobs += 1;
            done.bytes += stored.bytes;
        }
        self.told.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, told| *told >= before);
        self.used.store(done.left, Ordering::Relaxed);
        let parts = self.parts.clone();
        tokio::task::spawn_blocking(move || parts.collect(before)).await.map_err(|_| BlobError::Thread)?;
        Ok(done)
    }
}

fn now() -> Timestamp {
    stamp(std::time::SystemTime::now())
}

/// The bytes from `offset` on; an error in the place of the end when the whole is not what its digest says.
fn verified(raw: Pieces, digest: Digest, offset: u64) -> impl Stream<Item = Result<Vec<u8>, BlobError>> + Send + use<> {
    stream::unfold(Some((raw, Sha256::new(), 0u64)), move |state| async move {
        let (mut raw, mut hash, mut at) = state?;
        loop {
            let mut piece = match raw.next().await {
                None if Digest(hash.clone().finalize().into()) == digest => return None,
                None => return Some((Err(BlobError::Damaged(digest)), None)),
                Some(Err(error)) => return Some((Err(error), None)),
                Some(Ok(piece)) => piece,
            };
            hash.update(&piece);
            let skipped = usize::try_from(offset.saturating_sub(at)).unwrap_or(usize::MAX).min(piece.len());
            at += piece.len() as u64;
            piece.drain(..skipped);
            if !piece.is_empty() {
                return Some((Ok(piece), Some((raw, hash, at))));
            }
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use std::fs;

    fn digest(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }

    async fn all(blobs: &Blobs, digest: Digest, offset: u64) -> Result<Vec<u8>, BlobError> {
        let pieces: Vec<_> = blobs.read(digest, offset).await?.collect().await;
        Ok(pieces.into_iter().collect::<Result<Vec<_>, _>>()?.concat())
    }

    fn pieces(content: &[u8]) -> impl Stream<Item = Vec<u8>> + Send + Unpin + use<> {
        stream::iter(content.chunks(7001).map(<[u8]>::to_vec).collect::<Vec<_>>())
    }

    #[tokio::test]
    async fn a_blob_is_there_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("blobs");
        let blobs = Blobs::new(root.clone());
        let content: Vec<u8> = (0..200_000u32).map(|i| i as u8).collect();
        let name = digest(&content);
        assert!(matches!(all(&blobs, name, 0).await, Err(BlobError::Missing(_))));
        let cut = blobs.put(name, 0, pieces(&content).take(3)).await;
        assert!(matches!(cut, Err(BlobError::Mismatch { .. })));
        assert_eq!(blobs.missing(vec![name]).await.unwrap(), [name]);
        blobs.put(name, 0, pieces(&content)).await.unwrap();
        blobs.put(name, 0, stream::empty()).await.unwrap();
        assert_eq!(blobs.missing(vec![name, digest(b"x")]).await.unwrap(), [digest(b"x")]);
        for offset in [0, 1, 65_536, 199_999, 200_000, 300_000] {
            assert_eq!(all(&blobs, name, offset).await.unwrap(), content[content.len().min(offset as usize)..]);
        }
        fs::write(path_below(&root, name), b"damage").unwrap();
        assert!(matches!(all(&blobs, name, 0).await, Err(BlobError::Damaged(_))));
    }

    #[tokio::test]
    async fn a_put_goes_on_where_it_was_cut() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::new(dir.path().join("blobs"));
        let content: Vec<u8> = (0..50_000u32).map(|i| (i / 7) as u8).collect();
        let name = digest(&content);
        assert_eq!(blobs.held(name).await.unwrap(), 0);
        assert!(matches!(blobs.put(name, 0, pieces(&content).take(3)).await, Err(BlobError::Mismatch { .. })));
        assert_eq!(blobs.held(name).await.unwrap(), 3 * 7001);
        assert!(matches!(blobs.put(name, 3 * 7001 + 1, stream::empty()).await, Err(BlobError::Offset { held: 21_003, .. })));
        blobs.put(name, 20_000, pieces(&content[20_000..])).await.unwrap();
        assert_eq!(all(&blobs, name, 0).await.unwrap(), content);
        assert_eq!(blobs.held(name).await.unwrap(), 0);
        // What was held was wrong: it is forgotten, and the next try begins anew.
        let other = digest(b"right");
        assert!(blobs.put(other, 0, pieces(b"wrong")).await.is_err());
        assert!(blobs.put(other, 5, pieces(b"!")).await.is_err());
        assert_eq!(blobs.held(other).await.unwrap(), 0);
        blobs.put(other, 0, pieces(b"right")).await.unwrap();
    }

    #[tokio::test]
    async fn what_nobody_needs_goes_and_a_quota_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::new(dir.path().join("blobs")).at_most(Some(40));
        let (one, two) = (digest(b"0123456789"), digest(b"abcdefghij"));
        blobs.put(one, 0, pieces(b"0123456789")).await.unwrap();
        blobs.put(two, 0, pieces(b"abcdefghij")).await.unwrap();
        assert!(matches!(blobs.put(digest(&[7; 21]), 0, pieces(&[7; 21])).await, Err(BlobError::Full(40))));
        let later = Timestamp(now().0 + 5000);
        let spared = blobs.collect(&HashSet::new(), Timestamp(now().0 - 60_000)).await.unwrap();
        assert_eq!(spared, Collected { blobs: 0, bytes: 0, left: 20 });
        let done = blobs.collect(&HashSet::from([two]), later).await.unwrap();
        assert_eq!(done, Collected { blobs: 1, bytes: 10, left: 10 });
        assert_eq!(blobs.missing(vec![one, two]).await.unwrap(), [one]);
        blobs.put(digest(&[7; 21]), 0, pieces(&[7; 21])).await.unwrap();
    }
}
