//! From a permit to a connection: resolve once, judge each address, dial the one that was judged.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::egress::address;
use crate::egress::rules::{Permit, Reach};

/// How long a name may take to resolve.
const RESOLVE: Duration = Duration::from_secs(10);
/// How long one address may take to answer before the next is tried.
const CONNECT: Duration = Duration::from_secs(10);
/// How long an address has before the next one is tried beside it.
const STAGGER: Duration = Duration::from_millis(250);
/// The most addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;
/// The most names that are remembered; further ones are looked up, and judged, anew each time.
const MAX_PINS: usize = 4096;

/// Why nobody was reached.
#[derive(Debug)]
pub(super) enum Unreached {
    /// The name leads to an address that it may not lead to.
    Forbidden {
        /// The address.
        address: IpAddr,
        /// What it is.
        what: &'static str,
    },
    /// The name did not resolve, or nobody answered.
    Failed(io::Error),
}

/// What names led to when they were first asked for: the answer of one step's whole life, so that a name cannot mean one thing when
/// it is judged and another later.
#[derive(Debug, Default)]
pub(super) struct Pins(Mutex<HashMap<String, Vec<IpAddr>>>);

impl Pins {
    /// What `host` leads to; looked up outside once.
    async fn addresses(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        if let Some(known) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(host) {
            return Ok(known.clone());
        }
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the name did not resolve in time");
        let found = timeout(RESOLVE, lookup_host((host, 0))).await.map_err(late)??;
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in found.map(|address| address.ip()) {
            if addresses.len() < MAX_ADDRESSES && !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        let mut pins = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if pins.len() >= MAX_PINS {
            return Ok(addresses);
        }
        // Whoever looked it up at the same time and was first decides.
        Ok(pins.entry(host.to_owned()).or_insert(addresses).clone())
    }

    /// Remembers which of a name's addresses answered, so that it is dialled first from now on.
    fn answered(&self, host: &str, address: IpAddr) {
        let mut pins = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(addresses) = pins.get_mut(host)
            && let Some(at) = addresses.iter().position(|known| *known == address).filter(|at| *at > 0)
        {
            addresses[..=at].rotate_right(1);
        }
    }
}

/// Connects to `host` and `port` as far as `permit` reaches. Answers the stream and the address that was dialled.
pub(super) async fn dial(permit: &Permit, pins: &Pins, host: &str, port: u16) -> Result<(TcpStream, SocketAddr), Unreached> {
    let addresses = match &permit.reach {
        Reach::Literal(address) => vec![*address],
        Reach::Anywhere | Reach::Public(_) => pins.addresses(host).await.map_err(Unreached::Failed)?,
    };
    let mut forbidden = None;
    let mut open = Vec::new();
    for address in addresses {
        match (&permit.reach, address::inner(address)) {
            (Reach::Public(ranges), Some(what)) if !ranges.iter().any(|range| range.contains(address)) => {
                forbidden = Some(Unreached::Forbidden { address, what });
            }
            _ => open.push(SocketAddr::new(address, port)),
        }
    }
    match race(open).await {
        Ok((stream, address)) => {
            pins.answered(host, address.ip());
            Ok((stream, address))
        }
        // What policy can change is told rather than what it cannot.
        Err(error) => Err(forbidden.unwrap_or(Unreached::Failed(error))),
    }
}

/// Dials each address a little after the one before it, or as soon as that one failed; the first to answer wins (RFC 8305, in its simplest form).
async fn race(addresses: Vec<SocketAddr>) -> io::Result<(TcpStream, SocketAddr)> {
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let mut waiting = addresses.into_iter();
    let mut dialling = FuturesUnordered::new();
    loop {
        dialling.extend(waiting.next().map(|address| async move {
            let late = |_| io::Error::new(io::ErrorKind::TimedOut, "nobody answered in time");
            let reached = timeout(CONNECT, TcpStream::connect(address)).await.map_err(late).and_then(|reached| reached);
            reached.map(|stream| (stream, address))
        }));
        let patience = if waiting.len() > 0 { STAGGER } else { CONNECT };
        match timeout(patience, dialling.next()).await {
            Ok(Some(Ok(reached))) => return Ok(reached),
            Ok(Some(Err(error))) => failed = error,
            Ok(None) => return Err(failed),
            Err(_elapsed) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_dead_address_does_not_hide_a_living_one() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let living = listener.local_addr().unwrap();
        let closed = {
            let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            socket.local_addr().unwrap()
        };
        assert_eq!(race(vec![closed, living]).await.unwrap().1, living);
        assert_eq!(race(vec![closed]).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(race(Vec::new()).await.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_name_is_dialled_only_where_it_may_lead() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let permit = |reach| Permit { rule: String::new(), reach };
        // Not an address literal by our rules, but every resolver of this system family leads it to 127.0.0.1.
        let name = "127.1";
        let ranges = |text: &str| vec![text.parse().unwrap()];
        assert!(matches!(dial(&permit(Reach::Public(Vec::new())), &Pins::default(), name, port).await, Err(Unreached::Forbidden { .. })));
        assert!(matches!(
            dial(&permit(Reach::Public(ranges("10.0.0.0/8"))), &Pins::default(), name, port).await,
            Err(Unreached::Forbidden { .. })
        ));
        assert!(dial(&permit(Reach::Public(ranges("127.0.0.0/8"))), &Pins::default(), name, port).await.is_ok());
        assert!(dial(&permit(Reach::Anywhere), &Pins::default(), name, port).await.is_ok());
    }

    #[tokio::test]
    async fn the_address_that_answered_is_the_first_from_then_on() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let [dead, living]: [IpAddr; 2] = ["::1".parse().unwrap(), "127.0.0.1".parse().unwrap()];
        let pins = Pins::default();
        pins.0.lock().unwrap().insert("two.example".to_owned(), vec![dead, living]);
        let permit = Permit { rule: String::new(), reach: Reach::Anywhere };
        assert_eq!(dial(&permit, &pins, "two.example", port).await.unwrap().1.ip(), living);
        assert_eq!(pins.0.lock().unwrap()["two.example"], [living, dead]);
    }
}
