//! What the jobs of a run keep for each other and for people.

use serde::{Deserialize, Serialize};

use crate::id::{Digest, JobId};
use crate::time::Timestamp;

/// Files under a name, kept by a job of a run. Names are unique within a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Its name.
    pub name: String,
    /// The job that kept it.
    pub job: JobId,
    /// Its content: a tar blob of regular files and directories.
    pub digest: Digest,
    /// The bytes of that blob.
    pub bytes: u64,
    /// How many files are in it.
    pub files: u32,
    /// When it was kept.
    pub at: Timestamp,
}

/// What becomes of an artifact of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Clash {
    /// It stays, and the new one is refused.
    Refuse,
    /// It gives way.
    Replace,
}

/// Whether an artifact was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kept {
    /// It was, or had been by the same call.
    Kept,
    /// Another one of that name is there.
    Clashes,
}

/// A number for an artifact, as users of the language expect one: from the beginning of its digest, at most 48 bits.
pub fn number(digest: &Digest) -> u64 {
    digest.0.iter().take(6).fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

/// The longest name of an artifact, in bytes.
pub const LONGEST_NAME: usize = 256;

/// Why a text cannot be an artifact's name; `None` when it can. The name becomes a directory's.
pub fn refusal(name: &str) -> Option<&'static str> {
    if name.is_empty() || name.len() > LONGEST_NAME {
        return Some("a name has 1 to 256 bytes");
    }
    if name.contains(['"', ':', '<', '>', '|', '*', '?', '\\', '/']) || name.chars().any(char::is_control) {
        return Some("a name has none of \" : < > | * ? \\ / and no control characters");
    }
    (name == "." || name == "..").then_some("a name is no step in a path")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_directories() {
        for name in ["", ".", "..", "a/b", "a\\b", "a\nb", "x:y", &"x".repeat(257)] {
            assert!(refusal(name).is_some(), "{name:?}");
        }
        for name in ["coverage", "coverage-3.12 (sqlite)", "...", "é"] {
            assert!(refusal(name).is_none(), "{name:?}");
        }
    }
}
