//! The policed exit: the one way out of a step's network namespace.
//!
//! The step has loopback and no route. Sockets were bound inside its namespace before anything hostile ran, and their descriptors
//! belong to the agent: whatever connects there is served here, outside. Two kinds of clients come. Those that know proxies speak HTTP
//! (`CONNECT`, and absolute-form requests for plain `http://`) or SOCKS5. Those that do not ask the namespace's name server
//! (`resolver`), which answers allowed names with addresses of a range of its own (`names`); what connects to one of those is led here
//! by the kernel. Both are decided by [`rules`], resolved and dialled (`dial`), and their first words are held against the name that was
//! asked for (`tunnel`): the name in a TLS greeting (`hello`), the host of an HTTP request (`request`). Every attempt stands in the
//! [`ledger`], with the process that made it (`lineage`). TLS is never terminated, and no content of it is seen.
//!
//! # Invariants
//! - Nothing is resolved that no rule names: a refused name never leaves the host, and no question of a step ever does.
//! - A name is resolved once for a step's life, and the address that was judged is the one that is dialled.
//! - Everything a step sends is bounded in size and time before it is understood.

mod address;
mod asked;
mod border;
mod connection;
mod dial;
mod first;
mod hello;
pub mod ledger;
mod lineage;
pub mod names;
mod pour;
mod question;
mod refusal;
mod request;
mod resolver;
pub mod rules;
pub mod service;
mod socks;
mod tunnel;

use std::collections::HashSet;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use caisson_model::outcome::{EgressEntry, Verdict};
use caisson_sandbox::onlooker::Onlooker;
use caisson_sandbox::sockets::Sockets;
use tokio::net::{TcpListener, UdpSocket, UnixDatagram};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::clock;
use crate::egress::border::{Border, Meter};
use crate::egress::connection::{Connection, ended};
use crate::egress::ledger::{Ledger, Sink};
use crate::egress::lineage::{Finder, Table};
use crate::egress::rules::{Allowed, MOST_CONNECTIONS};
use crate::egress::service::Scribe;

/// How long accepting rests after an error.
const REST: Duration = Duration::from_millis(100);
/// How long the next refusal waits for the process to be found that made one.
const FINDING: Duration = Duration::from_millis(200);
/// How many connections beyond the limit are being turned away at once.
const MOST_TURNED_AWAY: usize = 256;
/// How many different refused addresses of one step are written down.
const MOST_REFUSALS: usize = 2000;

/// An open exit. Dropping it without [`Exit::close`] ends its connections as well, but nobody hears of their last bytes.
#[derive(Debug)]
pub struct Exit {
    closing: watch::Sender<bool>,
    serving: Vec<JoinHandle<()>>,
    ledger: Arc<Ledger>,
    finder: Finder,
}

impl Exit {
    /// Serves the sockets of a sandbox, with whoever finds its processes. Must be called within a tokio runtime; does not block.
    ///
    /// # Errors
    /// When a descriptor is not the socket that it should be.
    pub fn open(sockets: Sockets, onlooker: Option<Onlooker>, allowed: Allowed, sink: Sink) -> io::Result<Exit> {
        let (closing, closed) = watch::channel(false);
        let ledger = Arc::new(Ledger::new(sink));
        let most = usize::try_from(allowed.most_connections.unwrap_or(MOST_CONNECTIONS)).unwrap_or(usize::MAX);
        let most = most.min(Semaphore::MAX_PERMITS);
        let border = Border {
            meter: Arc::new(Meter::new(allowed.most_bytes)),
            allowed: Arc::new(allowed),
            names: Arc::default(),
            asked: Arc::default(),
            pins: Arc::default(),
            ledger: Arc::clone(&ledger),
            finder: Finder::new(onlooker),
        };
        let finder = border.finder.clone();
        let slots = Arc::new(Semaphore::new(most));
        let mut serving = Vec::new();
        for listener in sockets.listeners {
            let connection = Connection { border: border.clone(), closed: closed.clone() };
            serving.push(tokio::spawn(accept(listener_of(listener)?, connection, Arc::clone(&slots), most)));
        }
        if let Some((datagrams, streams)) = sockets.resolver {
            let datagrams = std::net::UdpSocket::from(datagrams);
            datagrams.set_nonblocking(true)?;
            serving.push(tokio::spawn(resolver::datagrams(UdpSocket::from_std(datagrams)?, border.clone(), closed.clone())));
            serving.push(tokio::spawn(resolver::streams(listener_of(streams)?, border.clone(), closed.clone())));
        }
        if let Some(refusals) = sockets.refusals {
            // Receiving datagrams is the same for every family, and this is the type that waits for them.
            let refusals = std::os::unix::net::UnixDatagram::from(refusals);
            serving.push(tokio::spawn(refused(UnixDatagram::from_std(refusals)?, border, closed)));
        }
        Ok(Exit { closing, serving, ledger, finder })
    }

    /// Writes into this exit's ledger for servers beside it.
    pub fn scribe(&self) -> Scribe {
        Scribe { ledger: Arc::clone(&self.ledger), finder: self.finder.clone(), lineage: Vec::new() }
    }

    /// Ends every connection and answers with everything that was attempted, in the order in which it ended.
    pub async fn close(mut self) -> Vec<EgressEntry> {
        self.closing.send_replace(true);
        for task in std::mem::take(&mut self.serving) {
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

fn listener_of(listener: OwnedFd) -> io::Result<TcpListener> {
    let listener = StdListener::from(listener);
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

async fn accept(listener: TcpListener, connection: Connection, slots: Arc<Semaphore>, most: usize) {
    let mut closed = connection.closed.clone();
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            () = ended(&mut closed) => break,
            Some(_) = open.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let connection = connection.clone();
                    let slot = Arc::clone(&slots).try_acquire_owned();
                    match slot {
                        Ok(slot) => drop(open.spawn(async move {
                            connection.serve(stream, peer).await;
                            drop(slot);
                        })),
                        // Each is written down by a task of its own, of which there may be so many beside those that are served.
                        Err(_) if open.len() < most.saturating_add(MOST_TURNED_AWAY) => {
                            drop(open.spawn(async move { connection.turn_away(stream, peer, most).await }));
                        }
                        Err(_) => connection.turn_away(stream, peer, most).await,
                    }
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

/// Writes down what the kernel refused within the namespace, each address once.
async fn refused(socket: UnixDatagram, border: Border, mut closed: watch::Receiver<bool>) {
    let mut told = HashSet::new();
    let mut buffer = vec![0; 64 * 1024];
    let mut last = false;
    loop {
        let received = if last {
            socket.try_recv(&mut buffer)
        } else {
            tokio::select! {
                // What the step did last is in the queue already.
                () = ended(&mut closed) => { last = true; continue }
                received = socket.recv(&mut buffer) => received,
            }
        };
        let count = match received {
            Ok(count) => count,
            // More was refused than the queue holds.
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => continue,
            Err(_) => return,
        };
        for (refusal, from) in refusal::read(&buffer[..count]) {
            if told.len() < MOST_REFUSALS && told.insert(refusal) {
                let entry = entry(&border, &refusal);
                let table = if refusal.protocol == "UDP" { Table::Udp } else { Table::Tcp };
                let to = SocketAddr::new(refusal.address, refusal.port);
                let lineage = match from {
                    Some(from) => timeout(FINDING, border.finder.find(table, from, to)).await.unwrap_or_default(),
                    None => Vec::new(),
                };
                border.ledger.record(EgressEntry { lineage, ..entry });
            }
        }
    }
}

fn entry(border: &Border, refusal: &refusal::Refusal) -> EgressEntry {
    let name = border.names.name(refusal.address);
    let host = name.clone().unwrap_or_else(|| refusal.address.to_canonical().to_string());
    let rule = match (refusal.protocol, border.allowed.permit(&host, refusal.port)) {
        ("TCP", Err(reason)) => reason,
        ("TCP", Ok(_)) => "it was not led to the exit".to_owned(),
        (protocol, _) => format!("no rule can allow {protocol}"),
    };
    let entry = EgressEntry::connection(clock::now(), &host, refusal.port, Verdict::Refused, rule);
    EgressEntry { address: name.map(|_| refusal.address.to_string()), ..entry }
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;
