//! A step's output on its way from the agent to whoever reads it.

use serde::{Deserialize, Serialize};

use crate::id::{AttemptId, Digest, Hold, StepIndex};
use crate::time::Timestamp;

/// The most bytes that one chunk carries.
pub const CHUNK_BYTES: usize = 64 * 1024;

/// Some masked bytes of a step's output (stdout and stderr as one stream, in the order written).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogChunk {
    /// Where the first byte stands in the step's log, from 0.
    pub offset: u64,
    /// When the first byte was read.
    pub at: Timestamp,
    /// The bytes: at least 1, at most [`CHUNK_BYTES`].
    pub bytes: Vec<u8>,
}

/// What an agent sends on the log stream of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPush {
    /// Who sends.
    pub hold: Hold,
    /// Which step.
    pub step: StepIndex,
    /// The bytes.
    pub chunk: LogChunk,
}

/// What the controller answers on that stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogAck {
    /// Everything before this offset is kept for good.
    Kept {
        /// The offset of the next byte.
        offset: u64,
    },
    /// The chunk did not fit on; send again from here.
    Resync {
        /// The offset of the next byte.
        offset: u64,
    },
}

/// The end of a step's log. A step is terminal only once its log is sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSeal {
    /// The log's length in bytes.
    pub total: u64,
    /// SHA-256 over all its bytes.
    pub digest: Digest,
    /// The head of the hash chain over all its bytes, in links of 64 KiB; `None` of an agent that does not know it.
    #[serde(default)]
    pub chain: Option<Digest>,
    /// Stretches that are missing, said aloud: offset and number of bytes that a limit or a crash took at that offset.
    pub gaps: Vec<LogGap>,
}

/// A stretch of a log that was not kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogGap {
    /// Where it would stand.
    pub offset: u64,
    /// How many bytes are missing.
    pub bytes: u64,
    /// Why.
    pub reason: String,
}

/// What a reader of a log receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogRead {
    /// Some bytes; offsets are contiguous.
    Chunk(LogChunk),
    /// The end: nothing follows.
    Seal(LogSeal),
}

/// Which log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogKey {
    /// The attempt.
    pub attempt: AttemptId,
    /// The step.
    pub step: StepIndex,
}
