//! The network namespace of a sandbox, made and furnished by the launcher (network_namespaces(7), 2.6.24).
//!
//! It belongs to the launcher's user namespace and not to the sandbox's: whatever a step becomes inside its own user namespace,
//! it has no capability over the rules and routes of its network. There is no interface but loopback and no route out; what the
//! rules below lead somewhere, they lead to sockets of whoever asked for the sandbox. Without the rules nothing is reached at all.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType};
use nix::sys::stat::Mode;

use crate::error::{Failure, Stage};
use crate::netlink::{self, ACKNOWLEDGED, Batch, CREATE, EXCLUSIVE};
use crate::sockets::Opening;
use crate::spec::{Capture, Network};
use crate::sys;

mod hold;
mod rules;

/// The index of loopback, which is the first interface of every namespace.
const LOOPBACK: u32 = 1;

/// Makes a namespace with loopback up and does something in it; what is cloned meanwhile is in it.
///
/// The launcher stays there until the next one: its own sockets are made in the namespace of the sandbox that they lead to, so
/// an empty namespace to return to would be one more to make, to switch to and to take down.
pub(crate) fn found<T>(act: impl FnOnce() -> Result<T, Failure>) -> Result<(OwnedFd, T), Failure> {
    let failed = |errno| Failure::new(Stage::Clone, "network namespace", errno);
    unshare(CloneFlags::CLONE_NEWNET).map_err(failed)?;
    let namespace = current().map_err(failed)?;
    loopback_up().map_err(|errno| Failure::new(Stage::Loopback, "", errno))?;
    Ok((namespace, act()?))
}

/// Goes into a namespace and does something there. The launcher stays, as said above.
pub(crate) fn within<T>(namespace: &OwnedFd, act: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|errno| Failure::new(Stage::Network, "network namespace", errno))?;
    act()
}

/// Gives a namespace what its spec says, before anything runs in it. Answers the sockets for whoever asked.
///
/// # Errors
/// A rule of [`Stage::Listen`] for an address that is not the sandbox's own; else what the kernel refused.
pub(crate) fn furnish(namespace: &OwnedFd, network: &Network) -> Result<Furnished, Failure> {
    match network {
        Network::Closed => Ok(Furnished::default()),
        Network::Exit { listeners, capture } => within(namespace, || open(listeners, capture.as_ref())),
    }
}

/// Sockets inside a namespace.
#[derive(Debug, Default)]
pub(crate) struct Furnished {
    /// Each with what it is.
    pub sockets: Vec<(Opening, OwnedFd)>,
    /// Why connections are not captured although the spec wants it.
    pub uncaptured: Option<String>,
    /// Where the first packets of connections are held until somebody has seen who makes them.
    pub held: Option<OwnedFd>,
}

fn current() -> Result<OwnedFd, Errno> {
    nix::fcntl::open("/proc/self/ns/net", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
}

fn loopback_up() -> Result<(), Errno> {
    let any = nix::sys::socket::socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    sys::interface_up(any.as_fd(), c"lo")
}

fn open(listeners: &[SocketAddr], capture: Option<&Capture>) -> Result<Furnished, Failure> {
    let mut furnished = Furnished::default();
    for address in listeners {
        if !address.ip().is_loopback() {
            return Err(Failure::rule(Stage::Listen, format!("{address}: not a loopback address")));
        }
        furnished.sockets.push((Opening::Listener, listen(*address)?));
    }
    let Some(capture) = capture else { return Ok(furnished) };
    let port = match listeners {
        [first, ..] => first.port(),
        [] => return Err(Failure::rule(Stage::Listen, "captured connections need a listener")),
    };
    routes(capture).map_err(|errno| Failure::new(Stage::Network, "routes", errno))?;
    let address = capture.resolver;
    let udp = UdpSocket::bind(address).map_err(|error| Failure::io(Stage::Listen, address.to_string(), &error))?;
    furnished.sockets.push((Opening::ResolverDatagrams, udp.into()));
    furnished.sockets.push((Opening::ResolverStreams, listen(address)?));
    // A kernel may lack single parts of nftables. Nothing is opened by their absence, so the sandbox stands without them.
    match rules::redirect(capture, port) {
        Ok(()) => {
            // A host without IPv6 has no such listener, and nothing can be connected over it either.
            if let Ok(six) = TcpListener::bind((Ipv6Addr::LOCALHOST, port)) {
                furnished.sockets.push((Opening::Listener, six.into()));
            }
        }
        Err(errno) => furnished.uncaptured = Some(format!("connections cannot be led to the exit by nftables: {}", errno.desc())),
    }
    // A kernel that cannot hold them lets them pass, and who makes them is looked for afterwards.
    furnished.held = hold::hold(listeners, capture).ok();
    match rules::watch() {
        Ok(socket) => furnished.sockets.push((Opening::Refusals, socket)),
        Err(errno) => {
            let reason = || format!("refused connections cannot be told of by nftables: {}", errno.desc());
            furnished.uncaptured.get_or_insert_with(reason);
        }
    }
    Ok(furnished)
}

fn listen(address: SocketAddr) -> Result<OwnedFd, Failure> {
    TcpListener::bind(address).map(OwnedFd::from).map_err(|error| Failure::io(Stage::Listen, address.to_string(), &error))
}

/// Every address is local: packets to any of them come back to this namespace, where the rules lead on what may go on.
fn routes(capture: &Capture) -> Result<(), Errno> {
    const NEW_ADDRESS: u16 = 20;
    const NEW_ROUTE: u16 = 24;
    const LOCAL_TABLE: u8 = 255;
    const BOOT: u8 = 3;
    const HOST_SCOPE: u8 = 254;
    const LOCAL: u8 = 2;
    const NO_DUPLICATE_DETECTION: u8 = 2;
    let mut families = vec![libc::AF_INET as u8];
    if std::fs::exists("/proc/self/net/if_inet6").unwrap_or(false) {
        families.push(libc::AF_INET6 as u8);
    }
    let mut batch = Batch::default();
    for family in &families {
        let route = [*family, 0, 0, 0, LOCAL_TABLE, BOOT, HOST_SCOPE, LOCAL, 0, 0, 0, 0];
        batch.message(NEW_ROUTE, ACKNOWLEDGED | CREATE | EXCLUSIVE, &route, |attributes| attributes.put(4, &LOOPBACK.to_ne_bytes()));
    }
    // Programs that ask for addresses of the families that this host has look for one beside loopback's own.
    for address in &capture.addresses {
        let (family, octets) = match address {
            IpAddr::V4(address) => (libc::AF_INET as u8, address.octets().to_vec()),
            IpAddr::V6(address) => (libc::AF_INET6 as u8, address.octets().to_vec()),
        };
        if !families.contains(&family) {
            continue;
        }
        let mut fixed = vec![family, (octets.len() * 8) as u8, NO_DUPLICATE_DETECTION, 0];
        fixed.extend_from_slice(&LOOPBACK.to_ne_bytes());
        batch.message(NEW_ADDRESS, ACKNOWLEDGED | CREATE | EXCLUSIVE, &fixed, |attributes| {
            attributes.put(2, &octets);
            attributes.put(1, &octets);
        });
    }
    netlink::ask(SockProtocol::NetlinkRoute, batch)
}
