//! The package gateway: a read-only front of the package indexes that a host is configured for.
//!
//! A step has no route. What it wants to install it asks of a [`door::Door`], a listener inside its own network namespace that is
//! served from outside; the gateway asks the index, with the host's own credentials, checks what comes against what the index
//! states, keeps it under its digest, and serves it from disk the next time.
//!
//! # Words
//! - *index*: where packages are described and lie: a Python simple index, an npm registry, a Debian archive.
//! - *page*: a document of an index; *file*: what it describes. A page states digests of files.
//! - *store*: what was fetched, on disk, under its SHA-256; shared between processes and bounded.
//! - *flight*: a file on its way, followed by everybody who wants it.
//!
//! # Invariants
//! - Nothing but `GET` and `HEAD` without body and query is answered, and no byte of a request is sent on: what the index is asked
//!   is built from names that were checked, or from addresses that the index itself named.
//! - A file whose bytes are not what its index states is never the content of a complete answer, and never kept.
//! - Only what an index answered is kept; nothing that a step says.
//! - A login is presented to the origin that it belongs to and is in no answer, message or file.
//!
//! # Entry points
//! [`settings::Settings`] says what the host is configured for; [`gateway::Gateway`] is made once, a [`door::Door`] per step.

pub mod answer;
pub mod authority;
mod debian;
pub mod digest;
pub mod door;
mod fetch;
pub mod gateway;
mod name;
mod npm;
mod python;
mod reply;
pub mod served;
pub mod settings;
pub mod store;
mod unserved;
mod upstream;
