//! From a permit to a connection: resolve once, judge each address, dial the one that was judged.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::egress::address;
use crate::egress::rules::{Permit, Reach};

/// How long a name may take to resolve.
const RESOLVE: Duration = Duration::from_secs(10);
/// How long one address may take to answer before the next is tried.
const CONNECT: Duration = Duration::from_secs(10);
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
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        if let (Reach::Public(ranges), Some(what)) = (&permit.reach, address::inner(address.ip()))
            && !ranges.iter().any(|range| range.contains(address.ip()))
        {
            forbidden = Some(Unreached::Forbidden { address: address.ip(), what });
            continue;
        }
        match timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok((stream, address)),
            Ok(Err(error)) => failed = error,
            Err(_) => failed = io::Error::new(io::ErrorKind::TimedOut, "nobody answered in time"),
        }
    }
    Err(forbidden.unwrap_or(Unreached::Failed(failed)))
}
