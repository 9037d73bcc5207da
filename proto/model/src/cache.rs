//! What runs keep for later ones. An entry is never changed; a key belongs to a repository and its trust.

use serde::{Deserialize, Serialize};

use crate::id::Digest;
use crate::time::Timestamp;

/// The longest key, in bytes.
pub const LONGEST_KEY: usize = 512;
/// The most keys of one question: a first choice and what may stand in for it.
pub const MOST_KEYS: usize = 10;

/// What is looked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheQuery {
    /// Keys in the order of preference, 1 to [`MOST_KEYS`]. Each is tried whole first, then as the beginning of a key; of several
    /// entries that begin with it, the newest counts.
    pub keys: Vec<String>,
    /// What tells entries of the same key apart that hold different paths.
    pub version: String,
}

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheEntry {
    /// Its key.
    pub key: String,
    /// As in [`CacheQuery::version`].
    pub version: String,
    /// Its content, a blob.
    pub digest: Digest,
    /// The bytes of that blob.
    pub bytes: u64,
    /// When it was saved.
    pub at: Timestamp,
}

/// Whether an entry was saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Saved {
    /// It was.
    Saved,
    /// There is one of that key and version: it stays as it is.
    AlreadyThere,
}

/// The one of two entries that fits keys better: by an earlier key, wholly, newer.
pub fn better(a: CacheEntry, b: CacheEntry, keys: &[String]) -> CacheEntry {
    let rank = |entry: &CacheEntry| {
        let key = keys.iter().position(|key| entry.key.starts_with(key.as_str())).unwrap_or(keys.len());
        (key, keys.get(key) != Some(&entry.key), std::cmp::Reverse(entry.at))
    };
    if rank(&b) < rank(&a) { b } else { a }
}

/// The version of an entry as the keeper has it, by the one that clients of the language's toolkit make: a digest of the paths and of
/// how they pack. Which packing that was cannot be seen from it, so it is said beside it.
pub fn version_of_clients(version: &str, gzip: bool) -> String {
    format!("{}:{version}", if gzip { "gzip" } else { "zstd" })
}

/// Why a text cannot be a key; `None` when it can.
pub fn refusal(key: &str) -> Option<&'static str> {
    if key.is_empty() || key.len() > LONGEST_KEY {
        return Some("a key has 1 to 512 bytes");
    }
    key.contains(',')
        .then_some("a key has no comma")
        .or_else(|| key.chars().any(char::is_control).then_some("a key has no control characters"))
}
