//! What a desk asks of the agent: to keep things for the run, and to find them.

use std::fs::File;

use caisson_model::artifact::{Artifact, Clash, Kept};
use caisson_model::cache::{CacheEntry, CacheQuery, Saved};
use caisson_model::id::Digest;

/// The keeper did not do it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct KeeperError(pub String);

/// Bytes with their digest.
#[derive(Debug)]
pub struct Packed {
    /// Them, from the file's beginning.
    pub file: File,
    /// Their digest.
    pub digest: Digest,
    /// How many.
    pub bytes: u64,
}

/// Who keeps things for the run of a step. Every call waits for the controller.
pub trait Keeper: Send + Sync + 'static {
    /// The cache entry that fits best, of those that the run may read.
    fn find_cache(&self, query: CacheQuery) -> impl Future<Output = Result<Option<CacheEntry>, KeeperError>> + Send;

    /// Saves an entry whose content was put before, unless it is there.
    fn save_cache(
        &self,
        key: String,
        version: String,
        digest: Digest,
        bytes: u64,
    ) -> impl Future<Output = Result<Saved, KeeperError>> + Send;

    /// The artifacts of the run.
    fn artifacts(&self) -> impl Future<Output = Result<Vec<Artifact>, KeeperError>> + Send;

    /// Keeps an artifact whose content was put before.
    fn keep_artifact(
        &self,
        name: String,
        digest: Digest,
        bytes: u64,
        files: u32,
        clash: Clash,
    ) -> impl Future<Output = Result<Kept, KeeperError>> + Send;

    /// Forgets an artifact.
    fn drop_artifact(&self, name: String) -> impl Future<Output = Result<(), KeeperError>> + Send;

    /// Puts content where the run keeps it.
    fn put(&self, content: Packed) -> impl Future<Output = Result<(), KeeperError>> + Send;

    /// Writes content into a file, from its beginning, and holds it against its digest.
    fn fetch(&self, digest: Digest, into: File) -> impl Future<Output = Result<(), KeeperError>> + Send;
}
