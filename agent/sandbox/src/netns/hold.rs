//! The rules by which a connection's first packet is held until somebody has seen who makes it (nfnetlink_queue, 2.6.14): while it is
//! held, whoever connects waits, and so is there to be found. Nothing is decided by it; without anybody who looks, packets pass.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use super::rules::{
    DIFFERENT, EQUAL, INET, NEW_CHAIN, NEW_TABLE, REGISTER, TABLE, TCP, begin, compare, end, expression, family, field, meta, rule_of,
};
use crate::held::CONFIGURE;
use crate::netlink::{self, ACKNOWLEDGED, Attributes, Batch, CREATE};
use crate::spec::{Capture, Ports};

const CHAIN: &str = "held";
/// How many packets may be held; further ones pass.
const MOST: u32 = 4096;
/// Bytes of a packet that are told: the headers.
const SEEN: u32 = 64;
/// The flags of TCP by which the first packet of a connection is known, and how they are in it: SYN without ACK.
const FLAGS: [u8; 1] = [0x12];
const FIRST: [u8; 1] = [0x02];

/// How a rule says that a packet is held.
#[derive(Clone, Copy)]
enum Way {
    /// nftables' own expression (3.14).
    Own,
    /// By the older filter's target, for kernels that were built without the expression.
    Older,
}

/// Holds what goes to the listeners and to everything but loopback. Answers the socket on which held packets are told.
pub(super) fn hold(listeners: &[SocketAddr], capture: &Capture) -> Result<OwnedFd, Errno> {
    let socket = netlink::open(SockProtocol::NetlinkNetFilter)?;
    let mut batch = Batch::default();
    batch.message(CONFIGURE, ACKNOWLEDGED, &[0, 0, 0, 0], |settings| {
        const BIND: u8 = 1;
        const COPY_PACKET: u8 = 2;
        const PASS_WHEN_FULL: u32 = 1;
        settings.put(1, &[BIND, 0, 0, 0]);
        settings.put(2, &[&SEEN.to_be_bytes()[..], &[COPY_PACKET]].concat());
        settings.number(3, MOST);
        settings.number(4, PASS_WHEN_FULL);
        settings.number(5, PASS_WHEN_FULL);
    });
    batch.send(&socket)?;
    rules(listeners, capture, Way::Own).or_else(|_| rules(listeners, capture, Way::Older))?;
    Ok(socket)
}

fn rules(listeners: &[SocketAddr], capture: &Capture, way: Way) -> Result<(), Errno> {
    let mut batch = begin();
    batch.message(NEW_TABLE, ACKNOWLEDGED | CREATE, &INET, |table| table.text(1, TABLE));
    batch.message(NEW_CHAIN, ACKNOWLEDGED | CREATE, &INET, |chain| {
        chain.text(1, TABLE);
        chain.text(3, CHAIN);
        chain.nest(4, |hook| {
            hook.number(1, 3); // packets of this namespace's own processes
            hook.number(2, (-150_i32) as u32); // before destinations are changed
        });
        chain.text(7, "filter");
    });
    for (version, offset, loopback) in loopbacks() {
        rule_of(&mut batch, CHAIN, |expressions| {
            to(expressions, version, offset, DIFFERENT, &loopback);
            held(expressions, way);
        });
        for port in ports(listeners, capture) {
            rule_of(&mut batch, CHAIN, |expressions| {
                to(expressions, version, offset, EQUAL, &loopback);
                field(expressions, 2, 2, 2);
                compare(expressions, EQUAL, &port.to_be_bytes());
                held(expressions, way);
            });
        }
    }
    end(batch)
}

/// Each family's number, where an address stands in its header, and what all of loopback's begin with.
fn loopbacks() -> [(u8, u32, Vec<u8>); 2] {
    [
        (libc::AF_INET as u8, 16, Ipv4Addr::LOCALHOST.octets()[..1].to_vec()),
        (libc::AF_INET6 as u8, 24, Ipv6Addr::LOCALHOST.octets().to_vec()),
    ]
}

/// The ports of loopback that lead to whoever made the sandbox.
fn ports(listeners: &[SocketAddr], capture: &Capture) -> Vec<u16> {
    let mut ports: Vec<u16> = listeners.iter().map(SocketAddr::port).collect();
    for lead in capture.leads.iter().filter(|lead| IpAddr::is_loopback(&lead.address)) {
        if let Ports::Only(only) = &lead.ports {
            ports.extend(only);
        }
    }
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn to(expressions: &mut Attributes, version: u8, offset: u32, how: u32, loopback: &[u8]) {
    family(expressions, version);
    field(expressions, 1, offset, loopback.len() as u32);
    compare(expressions, how, loopback);
    meta(expressions, 16);
    compare(expressions, EQUAL, &[TCP]);
}

fn held(expressions: &mut Attributes, way: Way) {
    const PASS_WHEN_NOBODY_LISTENS: u16 = 1;
    field(expressions, 2, 13, 1);
    expression(expressions, "bitwise", |data| {
        data.number(1, REGISTER);
        data.number(2, REGISTER);
        data.number(3, 1);
        data.nest(4, |mask| mask.put(1, &FLAGS));
        data.nest(5, |changed| changed.put(1, &[0]));
    });
    compare(expressions, EQUAL, &FIRST);
    match way {
        Way::Own => expression(expressions, "queue", |data| {
            data.put(1, &0_u16.to_be_bytes());
            data.put(2, &1_u16.to_be_bytes());
            data.put(3, &PASS_WHEN_NOBODY_LISTENS.to_be_bytes());
        }),
        Way::Older => expression(expressions, "target", |data| {
            data.text(1, "NFQUEUE");
            data.number(2, 3); // its revision
            // The queue's number, how many there are, and flags; then padding.
            let fields = [0, 1, PASS_WHEN_NOBODY_LISTENS, 0_u16];
            data.put(3, &fields.map(u16::to_ne_bytes).concat());
        }),
    }
}
