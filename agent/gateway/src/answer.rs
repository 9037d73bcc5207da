//! What a request asks for and what it is answered with, before either is HTTP.

use crate::fetch::Found;
use crate::served::Origin;
use crate::settings::{Millis, Reach};

/// Under which terms a step is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Indexes answer as they stood before this moment.
    pub before: Option<Millis>,
    /// Whether indexes may be asked at all.
    pub reach: Reach,
}

/// What a request is about, for the ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Subject {
    /// The project; empty when there is none.
    pub name: String,
    /// The file; empty when there is none.
    pub file: String,
    /// Host and port of the index.
    pub host: String,
    /// Likewise.
    pub port: u16,
    /// Whether it is a package, which is told also when all goes well.
    pub package: bool,
}

/// The answer to a request that passes.
#[derive(Debug)]
pub(crate) enum Answer {
    /// A document.
    Document {
        /// Its type.
        content_type: &'static str,
        /// What its content depends on.
        tag: String,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// A file.
    File {
        /// Where its bytes are.
        found: Found,
        /// Where they come from, when they are not fetched just now.
        origin: Origin,
    },
    /// It lies at this path.
    Moved(String),
}
