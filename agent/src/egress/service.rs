//! Servers of the agent's own that a step reaches by a name which exists only inside its namespace.
//!
//! A service never touches the network on a step's word: the exit hands it the step's connection, and what it does outside is its
//! own affair. It is reached through the proxy (`http://HOST:PORT/...` and CONNECT) and, where the namespace has a resolver, by
//! connecting to the name like to any other.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use caisson_model::outcome::{EgressEntry, EgressKind, Process, Verdict};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::clock;
use crate::egress::ledger::Ledger;
use crate::egress::lineage::{Finder, Table};

/// Serves one connection to its end. Dropped when the exit closes, so it must be sound to be dropped at any await.
pub type Serve = Arc<dyn Fn(Visit) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// A server of the agent's own.
#[derive(Clone)]
pub struct Service {
    /// Its name inside: lower case, no trailing dot. It shadows what the name may mean outside, and is never resolved there.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// What serves a connection to it.
    pub serve: Serve,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Service({}:{})", self.host, self.port)
    }
}

/// One connection of a step to a service.
#[derive(Debug)]
pub struct Visit {
    /// What the client says and hears: from the first byte that is meant for the service.
    pub stream: Guest,
    /// The name and port that were asked for.
    pub host: String,
    /// As above.
    pub port: u16,
    /// Where to write down what was served.
    pub scribe: Scribe,
}

/// Writes into the ledger of the step that a connection belongs to.
#[derive(Clone, Debug)]
pub struct Scribe {
    pub(super) ledger: Arc<Ledger>,
    pub(super) finder: Finder,
    pub(super) lineage: Vec<Process>,
}

/// How long the beginning of a connection waits for the process to be found that made it.
const FINDING: Duration = Duration::from_millis(200);

impl Scribe {
    /// The same for the process that connected from `peer` to `to`, as the step sees both.
    pub async fn of(&self, peer: SocketAddr, to: SocketAddr) -> Scribe {
        let lineage = timeout(FINDING, self.finder.find(Table::Tcp, peer, to)).await.unwrap_or_default();
        Scribe { lineage, ..self.clone() }
    }

    /// An entry to fill in, with the time and the step's process that asked: of [`EgressKind::Package`], over, without bytes.
    pub fn entry(&self, host: &str, port: u16, verdict: Verdict, rule: String) -> EgressEntry {
        let entry = EgressEntry::connection(clock::now(), host, port, verdict, rule);
        EgressEntry { kind: EgressKind::Package, lineage: self.lineage.clone(), ..entry }
    }

    /// Adds an entry to the step's ledger; its views hear of it at once.
    pub fn record(&self, entry: EgressEntry) {
        self.ledger.record(entry);
    }
}

/// A client's stream with what was already read of it in front.
#[derive(Debug)]
pub struct Guest {
    early: Vec<u8>,
    taken: usize,
    stream: TcpStream,
}

impl Guest {
    pub(super) fn new(early: Vec<u8>, stream: TcpStream) -> Guest {
        Guest { early, taken: 0, stream }
    }
}

impl AsyncRead for Guest {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let guest = &mut *self;
        let rest = &guest.early[guest.taken..];
        if rest.is_empty() {
            guest.early = Vec::new();
            guest.taken = 0;
            return Pin::new(&mut guest.stream).poll_read(context, buffer);
        }
        let count = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..count]);
        guest.taken += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Guest {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
