//! What a store of blobs is, and what can go wrong with it.

use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};

use caisson_model::id::Digest;
use caisson_model::time::Timestamp;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

/// The size of the pieces that are read.
pub(super) const PIECE: usize = 64 * 1024;
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
    /// It cannot go on from there.
    #[error("offset: {held} bytes of blob {digest} are held, go on from there or from 0")]
    Offset {
        /// Which blob.
        digest: Digest,
        /// How many bytes are held.
        held: u64,
    },
    /// What the store has is not what was kept.
    #[error("blob {0} is damaged in the controller's store")]
    Damaged(Digest),
    /// The quota is used up.
    #[error(
        "content: the controller keeps {0} bytes of blobs at most, and they are used up; shorten the retention, or raise `blobs_quota`"
    )]
    Full(u64),
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
    /// The bucket refused.
    #[error("{act} blob {digest}")]
    Bucket {
        /// What was tried.
        act: &'static str,
        /// On which blob.
        digest: Digest,
        /// Why it failed.
        #[source]
        source: Box<object_store::Error>,
    },
    /// What there is cannot be listed.
    #[error("list the blobs")]
    List(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The thread that did the work is gone.
    #[error("the blob's thread was ended")]
    Thread,
}

/// Raw pieces of a blob, as the store has them.
pub(super) type Pieces = BoxStream<'static, Result<Vec<u8>, BlobError>>;

/// A blob that is in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Which.
    pub digest: Digest,
    /// Its size.
    pub bytes: u64,
    /// When it was put.
    pub at: Timestamp,
}

/// Where blobs lie. It need not check what it is given: everything comes from a part whose digest is right.
pub(super) trait Store: Debug + Send + Sync + 'static {
    /// Whether it has a blob.
    fn has(&self, digest: Digest) -> BoxFuture<'_, Result<bool, BlobError>>;

    /// Takes a part in; it may be moved. When it is ready, the blob survives a crash.
    fn take<'s>(&'s self, digest: Digest, part: &'s Path) -> BoxFuture<'s, Result<(), BlobError>>;

    /// All bytes of a blob.
    fn open(&self, digest: Digest) -> BoxFuture<'_, Result<Pieces, BlobError>>;

    /// Everything that is there.
    fn list(&self) -> BoxFuture<'_, Result<Vec<Stored>, BlobError>>;

    /// Removes a blob; one that is not there is no error.
    fn remove(&self, digest: Digest) -> BoxFuture<'_, Result<(), BlobError>>;
}

/// Where a blob lies below a folder of blobs.
pub(super) fn path_below(root: &Path, digest: Digest) -> PathBuf {
    let text = digest.to_string();
    let hex = text.trim_start_matches("sha256:");
    let (first, rest) = hex.split_at(2);
    root.join("sha256").join(first).join(rest)
}

pub(super) fn stamp(time: std::time::SystemTime) -> Timestamp {
    let since = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
