//! From a permit to a connection: resolve once, judge each address, dial the one that was judged.

use std::io;
use std::net::{IpAddr, SocketAddr};
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

/// Connects to `host` and `port` as far as `permit` reaches. Answers the stream and the address that was dialled.
pub(super) async fn dial(permit: &Permit, host: &str, port: u16) -> Result<(TcpStream, SocketAddr), Unreached> {
    let addresses: Vec<SocketAddr> = match &permit.reach {
        Reach::Literal(address) => vec![SocketAddr::new(*address, port)],
        Reach::Anywhere | Reach::Public(_) => {
            let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the name did not resolve in time");
            let found = timeout(RESOLVE, lookup_host((host, port))).await.map_err(late);
            found.and_then(|found| found).map_err(Unreached::Failed)?.take(MAX_ADDRESSES).collect()
        }
    };
    let mut forbidden = None;
    let mut open = Vec::new();
    for address in addresses {
        match (&permit.reach, address::inner(address.ip())) {
            (Reach::Public(ranges), Some(what)) if !ranges.iter().any(|range| range.contains(address.ip())) => {
                forbidden = Some(Unreached::Forbidden { address: address.ip(), what });
            }
            _ => open.push(address),
        }
    }
    match race(open).await {
        Ok(reached) => Ok(reached),
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
        assert!(matches!(dial(&permit(Reach::Public(Vec::new())), name, port).await, Err(Unreached::Forbidden { .. })));
        assert!(matches!(dial(&permit(Reach::Public(ranges("10.0.0.0/8"))), name, port).await, Err(Unreached::Forbidden { .. })));
        assert!(dial(&permit(Reach::Public(ranges("127.0.0.0/8"))), name, port).await.is_ok());
        assert!(dial(&permit(Reach::Anywhere), name, port).await.is_ok());
    }
}
