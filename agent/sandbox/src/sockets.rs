//! The sockets of a running sandbox that belong to whoever asked for it.

use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

/// What a descriptor is that comes with a started sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Opening {
    /// A listening TCP socket.
    Listener,
    /// A UDP socket for questions of name resolution.
    ResolverDatagrams,
    /// A listening TCP socket for the same.
    ResolverStreams,
    /// A netlink socket that tells of refused connections.
    Refusals,
    /// Where a process is asked that sees who makes connections, while they are made.
    Onlooker,
}

/// Sockets inside a sandbox's network namespace. All belong to the caller alone: no process inside has one of them.
#[derive(Debug, Default)]
pub struct Sockets {
    /// Listening TCP sockets, in the order of [`crate::spec::Network::Exit`]; with a capture one more on `::1` where there is IPv6.
    pub listeners: Vec<OwnedFd>,
    /// The resolver's UDP socket, then its listening TCP socket.
    pub resolver: Option<(OwnedFd, OwnedFd)>,
    /// A netlink socket, not blocking, on which the kernel's packet log (`nfnetlink_log`) tells the first bytes of every
    /// packet that opened a connection which no rule led on. It reads only: without CAP_NET_ADMIN nothing can be configured by it.
    pub refusals: Option<OwnedFd>,
}

impl Sockets {
    /// Sorts descriptors by what they are; also the one on which an onlooker is asked.
    pub(crate) fn of(kinds: &[Opening], descriptors: Vec<OwnedFd>) -> (Sockets, Option<OwnedFd>) {
        let mut sockets = Sockets::default();
        let mut onlooker = None;
        let mut datagrams = None;
        for (kind, descriptor) in kinds.iter().zip(descriptors) {
            match kind {
                Opening::Listener => sockets.listeners.push(descriptor),
                Opening::ResolverDatagrams => datagrams = Some(descriptor),
                Opening::ResolverStreams => sockets.resolver = datagrams.take().map(|datagrams| (datagrams, descriptor)),
                Opening::Refusals => sockets.refusals = Some(descriptor),
                Opening::Onlooker => onlooker = Some(descriptor),
            }
        }
        (sockets, onlooker)
    }
}
