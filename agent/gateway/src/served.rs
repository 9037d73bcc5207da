//! What a gateway tells about each file and each refusal, for a ledger.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use crate::settings::Millis;

/// What was asked for and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// When it was asked for.
    pub at: Millis,
    /// Whose index.
    pub ecosystem: Ecosystem,
    /// Host and port of the index, as far as known.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The project; empty when the request names none.
    pub name: String,
    /// The file; empty when the request names none.
    pub file: String,
    /// `sha256:` and the digest of the whole file; empty when it was not served.
    pub digest: String,
    /// Bytes that went to the client.
    pub bytes: u64,
    /// What came of it.
    pub result: ServedResult,
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServedResult {
    /// It was served whole, or the part that was asked for.
    Served(Origin),
    /// It does not pass, or what came is not what the index states.
    Refused(String),
    /// The index does not have it, or could not be asked, or the client went away.
    Missed(String),
}

/// Where a file came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The store.
    Disk,
    /// The index.
    Upstream,
    /// The folder that stands in for the index.
    Folder,
}

/// Whose packages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ecosystem {
    /// Python's simple API.
    Python,
    /// npm.
    Npm,
    /// Debian and Ubuntu archives.
    Debian,
}

impl Ecosystem {
    /// Its name in ledgers.
    pub fn name(self) -> &'static str {
        match self {
            Ecosystem::Python => "python",
            Ecosystem::Npm => "npm",
            Ecosystem::Debian => "debian",
        }
    }
}

/// Told of each file when its last byte has gone, and of each refusal at once. Must not block.
pub type Sink = Arc<dyn Fn(Served) + Send + Sync>;

/// Makes the sink of one connection, from the client's address and the one that it connected to; the client waits for it.
pub type Sinks = Arc<dyn Fn(SocketAddr, SocketAddr) -> Pin<Box<dyn Future<Output = Sink> + Send>> + Send + Sync>;
