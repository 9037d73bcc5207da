//! Packets that the kernel holds until they are let go on (nfnetlink_queue, 2.6.14), as their reader has them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};

use crate::lineage::{Ends, Table};
use crate::netlink::{Batch, UNACKNOWLEDGED, attribute, split};

const SUBSYSTEM: u16 = 3 << 8;
const PACKET: u16 = SUBSYSTEM;
const VERDICT: u16 = SUBSYSTEM | 1;
/// Configures a queue.
pub(crate) const CONFIGURE: u16 = SUBSYSTEM | 2;
/// `nfgenmsg`.
const FIXED: usize = 4;
const TCP: u8 = 6;

/// The socket on which they are told.
#[derive(Debug)]
pub(crate) struct Held(OwnedFd);

impl AsFd for Held {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Held {
    /// For a socket that is bound to the queue.
    pub(crate) fn new(socket: OwnedFd) -> Held {
        Held(socket)
    }

    /// Shows each packet that is there, and lets it go on afterwards. Does not block.
    pub(crate) fn release(&self, mut see: impl FnMut(Ends)) {
        let mut buffer = [0; 4096];
        loop {
            let read = match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(read) => read,
                // More were held than the socket could tell of, and those passed.
                Err(Errno::EINTR | Errno::ENOBUFS) => continue,
                Err(_) => return,
            };
            let mut rest = &buffer[..read];
            while let Some((kind, body, next)) = split(rest) {
                rest = next;
                let Some(attributes) = body.get(FIXED..).filter(|_| kind == PACKET) else { continue };
                let Some(id) = attribute(attributes, 1).and_then(|header| header.get(..4)) else { continue };
                if let Some(ends) = attribute(attributes, 10).and_then(ends) {
                    see(ends);
                }
                self.let_go(id);
            }
        }
    }

    fn let_go(&self, id: &[u8]) {
        const ACCEPT: u32 = 1;
        let mut batch = Batch::default();
        batch.message(VERDICT, UNACKNOWLEDGED, &[0; FIXED], |verdict| {
            verdict.put(2, &[&ACCEPT.to_be_bytes()[..], id].concat());
        });
        // A packet that cannot be let go is sent again by whoever connects, and passes once nobody listens.
        let _ = batch.tell(&self.0);
    }
}

/// Both ends of a connection, from the headers of its first packet.
fn ends(packet: &[u8]) -> Option<Ends> {
    let (protocol, local, remote, transport) = match packet.first()? >> 4 {
        4 => {
            let address = |at: usize| Some(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?)));
            (*packet.get(9)?, address(12)?, address(16)?, usize::from(packet[0] & 0xf) * 4)
        }
        6 => {
            let address = |at: usize| Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?)));
            (*packet.get(6)?, address(8)?, address(24)?, 40)
        }
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?));
    let (local, remote) = (SocketAddr::new(local, port(transport)?), SocketAddr::new(remote, port(transport + 2)?));
    (protocol == TCP).then_some(Ends { table: Table::Tcp, local, remote })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn headers_tell_both_ends_and_nothing_makes_it_panic() {
        let mut four = vec![0x45; 1];
        four.resize(40, 0);
        four[9] = TCP;
        four[12..16].copy_from_slice(&[198, 18, 0, 1]);
        four[16..20].copy_from_slice(&[198, 18, 0, 2]);
        four[20..24].copy_from_slice(&[0x9c, 0x40, 0x01, 0xbb]);
        let found = ends(&four).unwrap();
        assert_eq!((found.local.to_string(), found.remote.to_string()), ("198.18.0.1:40000".into(), "198.18.0.2:443".into()));
        let mut six = vec![0x60; 1];
        six.resize(60, 0);
        six[6] = TCP;
        six[23] = 1;
        six[39] = 2;
        six[40..44].copy_from_slice(&[0x9c, 0x40, 0x01, 0xbb]);
        assert_eq!(ends(&six).unwrap().remote.to_string(), "[::2]:443");
        for whole in [four, six] {
            for cut in 0..=whole.len() {
                let _ = ends(&whole[..cut]);
            }
        }
        assert_eq!(ends(&[]), None);
    }
}
