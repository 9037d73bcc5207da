//! The policed exit: the one way out of a step's network namespace.
//!
//! The step has loopback and no route. Where its grant names destinations, a TCP listener was bound inside its namespace
//! before anything hostile ran, and its descriptor belongs to the agent: whatever connects there is served here, outside.
//! The exit speaks HTTP as a proxy does (`CONNECT`, and absolute-form requests for plain `http://`) and SOCKS5 on the same port, decides by [`rules`],
//! resolves and dials (`dial`), holds the name in a TLS greeting against the name that was asked for (`hello`), and writes every
//! attempt into the [`ledger`]. It never terminates TLS and sees no content of it.
//!
//! # Invariants
//! - Nothing is resolved that no rule names: a refused name never leaves the host.
//! - A name is resolved once per connection, and the address that was judged is the one that is dialled.
//! - Everything a step sends is bounded in size and time before it is understood.

mod address;
mod connection;
mod dial;
mod hello;
pub mod ledger;
mod request;
pub mod rules;
pub mod service;
mod socks;

use std::io;
use std::net::TcpListener as StdListener;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use caisson_model::outcome::EgressEntry;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::egress::connection::{Connection, MAX_CONNECTIONS, ended};
use crate::egress::ledger::{Ledger, Sink};
use crate::egress::rules::Allowed;
use crate::egress::service::Scribe;

/// How long accepting rests after an error.
const REST: Duration = Duration::from_millis(100);

/// An open exit. Dropping it without [`Exit::close`] ends its connections as well, but nobody hears of their last bytes.
#[derive(Debug)]
pub struct Exit {
    closing: watch::Sender<bool>,
    accepting: Vec<JoinHandle<()>>,
    ledger: Arc<Ledger>,
}

impl Exit {
    /// Serves connections of `listeners`, which are bound and listening inside the step's namespace. Must be called within a tokio runtime; does not block.
    ///
    /// # Errors
    /// When a descriptor is no listening socket.
    pub fn open(listeners: Vec<OwnedFd>, allowed: Allowed, sink: Sink) -> io::Result<Exit> {
        let (closing, closed) = watch::channel(false);
        let ledger = Arc::new(Ledger::new(sink));
        let allowed = Arc::new(allowed);
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut accepting = Vec::new();
        for listener in listeners {
            let listener = StdListener::from(listener);
            listener.set_nonblocking(true)?;
            let listener = TcpListener::from_std(listener)?;
            let connection = Connection { allowed: Arc::clone(&allowed), ledger: Arc::clone(&ledger), closed: closed.clone() };
            accepting.push(tokio::spawn(accept(listener, connection, Arc::clone(&slots))));
        }
        Ok(Exit { closing, accepting, ledger })
    }

    /// Writes into this exit's ledger for servers beside it.
    pub fn scribe(&self) -> Scribe {
        Scribe { ledger: Arc::clone(&self.ledger), lineage: Vec::new() }
    }

    /// Ends every connection and answers with everything that was attempted, in the order in which it ended.
    pub async fn close(mut self) -> Vec<EgressEntry> {
        self.closing.send_replace(true);
        for task in std::mem::take(&mut self.accepting) {
            if let Err(error) = task.await {
                tracing::error!(%error, "an exit's listener broke");
            }
        }
        self.ledger.take()
    }
}

impl Drop for Exit {
    fn drop(&mut self) {
        self.closing.send_replace(true);
    }
}

async fn accept(listener: TcpListener, connection: Connection, slots: Arc<Semaphore>) {
    let mut closed = connection.closed.clone();
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            () = ended(&mut closed) => break,
            Some(_) = open.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let connection = connection.clone();
                    let slot = Arc::clone(&slots).try_acquire_owned();
                    open.spawn(async move {
                        match slot {
                            Ok(_slot) => connection.serve(stream).await,
                            Err(_) => connection.turn_away(stream),
                        }
                    });
                }
                Err(error) => {
                    // A step that closes at once, or a host that is out of descriptors: neither ends the exit. The latter would be
                    // told again at once, so accepting rests.
                    tracing::warn!(%error, "a connection of a step could not be accepted");
                    tokio::select! {
                        () = ended(&mut closed) => break,
                        () = tokio::time::sleep(REST) => {}
                    }
                }
            },
        }
    }
    while open.join_next().await.is_some() {}
}

#[cfg(test)]
mod tests;
