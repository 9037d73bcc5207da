//! What is known of a connection before anything is said on it.

use std::net::SocketAddr;

use caisson_model::id::AgentName;
use caisson_model::time::Timestamp;

/// The other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where it is.
    pub address: SocketAddr,
    /// How it is connected.
    pub link: Link,
}

/// How a peer is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// In the clear, over this machine's own loopback.
    Plain,
    /// TLS; with the serial number of the certificate that it proved to have, in hexadecimal digits.
    Tls(Option<String>),
}

/// An agent, recognised by its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recognised {
    /// Its name.
    pub agent: AgentName,
    /// Its pool.
    pub pool: String,
    /// The certificate's generation.
    pub generation: u64,
    /// Whether it is the newest, and was not seen before.
    pub fresh: bool,
    /// Until when the certificate counts.
    pub ends: Timestamp,
}
