//! The rules of a namespace in nftables' terms (nf_tables, `inet` NAT since 5.2): what is led to the listener, and what is told.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use crate::netlink::{self, ACKNOWLEDGED, APPEND, Attributes, Batch, CREATE, UNACKNOWLEDGED};
use crate::spec::{Capture, Lead, Ports};

pub(super) const TABLE: &str = "caisson";
const CHAIN: &str = "output";

const SUBSYSTEM: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
pub(super) const NEW_TABLE: u16 = SUBSYSTEM;
pub(super) const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const NEW_RULE: u16 = SUBSYSTEM | 6;
/// `nfgenmsg` of the family that holds IPv4 and IPv6.
pub(super) const INET: [u8; 4] = [1, 0, 0, 0];
/// The only register that is used.
pub(super) const REGISTER: u32 = 1;
pub(super) const EQUAL: u32 = 0;
pub(super) const DIFFERENT: u32 = 1;
pub(super) const TCP: u8 = 6;

/// The group of the kernel's packet log that refused connections are told to.
const GROUP: u16 = 1;
/// How many refused connections are told per second, and at once. A step can make more, and learns nothing by it.
const TOLD: (u64, u32) = (200, 400);
/// Bytes of a packet that are told: the headers.
const SEEN: u32 = 64;

/// Leads what `capture` names to `port` of the namespace's loopback.
pub(super) fn redirect(capture: &Capture, port: u16) -> Result<(), Errno> {
    let mut batch = begin();
    batch.message(NEW_TABLE, ACKNOWLEDGED | CREATE, &INET, |table| table.text(1, TABLE));
    batch.message(NEW_CHAIN, ACKNOWLEDGED | CREATE, &INET, |chain| {
        chain.text(1, TABLE);
        chain.text(3, CHAIN);
        chain.nest(4, |hook| {
            hook.number(1, 3); // packets of this namespace's own processes
            hook.number(2, (-100_i32) as u32); // where destinations are changed
        });
        chain.text(7, "nat");
    });
    for lead in &capture.leads {
        match &lead.ports {
            Ports::All => rule(&mut batch, |expressions| led(expressions, lead, None, port)),
            Ports::Only(ports) => {
                for only in ports {
                    rule(&mut batch, |expressions| led(expressions, lead, Some(*only), port));
                }
            }
        }
    }
    end(batch)
}

/// Tells of the first packet of every connection that no rule led on. Answers the socket that hears it.
pub(super) fn watch() -> Result<OwnedFd, Errno> {
    const CONFIGURE: u16 = (4 << 8) | 1;
    const BIND: u8 = 1;
    const COPY_PACKET: u8 = 2;
    let socket = netlink::open(SockProtocol::NetlinkNetFilter)?;
    let [high, low] = GROUP.to_be_bytes();
    let mut batch = Batch::default();
    batch.message(CONFIGURE, ACKNOWLEDGED, &[0, 0, high, low], |settings| {
        settings.put(1, &[BIND]);
        settings.put(2, &[&SEEN.to_be_bytes()[..], &[COPY_PACKET, 0]].concat());
        settings.number(5, 1); // each packet at once
    });
    batch.send(&socket)?;
    let mut batch = begin();
    rule(&mut batch, |expressions| {
        family(expressions, libc::AF_INET as u8);
        field(expressions, 1, 16, 1);
        compare(expressions, DIFFERENT, &Ipv4Addr::LOCALHOST.octets()[..1]);
        told(expressions);
    });
    rule(&mut batch, |expressions| {
        family(expressions, libc::AF_INET6 as u8);
        field(expressions, 1, 24, 16);
        compare(expressions, DIFFERENT, &Ipv6Addr::LOCALHOST.octets());
        told(expressions);
    });
    end(batch)?;
    nix::fcntl::fcntl(&socket, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
    Ok(socket)
}

pub(super) fn begin() -> Batch {
    let mut batch = Batch::default();
    batch.message(BATCH_BEGIN, UNACKNOWLEDGED, &[0, 0, 0, 10], |_| {});
    batch
}

pub(super) fn end(mut batch: Batch) -> Result<(), Errno> {
    batch.message(BATCH_END, UNACKNOWLEDGED, &[0, 0, 0, 10], |_| {});
    netlink::ask(SockProtocol::NetlinkNetFilter, batch)
}

fn rule(batch: &mut Batch, expressions: impl FnOnce(&mut Attributes)) {
    rule_of(batch, CHAIN, expressions);
}

/// Adds a rule to a chain.
pub(super) fn rule_of(batch: &mut Batch, chain: &str, expressions: impl FnOnce(&mut Attributes)) {
    batch.message(NEW_RULE, ACKNOWLEDGED | CREATE | APPEND, &INET, |rule| {
        rule.text(1, TABLE);
        rule.text(2, chain);
        rule.nest(4, expressions);
    });
}

/// TCP to the lead's addresses, and to `only` this port, goes to `port`.
fn led(expressions: &mut Attributes, lead: &Lead, only: Option<u16>, port: u16) {
    let whole = usize::from(lead.bits / 8);
    let (version, offset, octets) = match lead.address {
        IpAddr::V4(address) => (libc::AF_INET as u8, 16, address.octets().to_vec()),
        IpAddr::V6(address) => (libc::AF_INET6 as u8, 24, address.octets().to_vec()),
    };
    let prefix = &octets[..whole.min(octets.len())];
    family(expressions, version);
    if !prefix.is_empty() {
        field(expressions, 1, offset, prefix.len() as u32);
        compare(expressions, EQUAL, prefix);
    }
    if prefix.is_empty() {
        // All addresses but the step's own loopback.
        match lead.address {
            IpAddr::V4(_) => {
                field(expressions, 1, offset, 1);
                compare(expressions, DIFFERENT, &Ipv4Addr::LOCALHOST.octets()[..1]);
            }
            IpAddr::V6(_) => {
                field(expressions, 1, offset, 16);
                compare(expressions, DIFFERENT, &Ipv6Addr::LOCALHOST.octets());
            }
        }
    }
    meta(expressions, 16);
    compare(expressions, EQUAL, &[TCP]);
    if let Some(only) = only {
        field(expressions, 2, 2, 2);
        compare(expressions, EQUAL, &only.to_be_bytes());
    }
    expression(expressions, "immediate", |data| {
        data.number(1, REGISTER);
        data.nest(2, |value| value.put(1, &port.to_be_bytes()));
    });
    expression(expressions, "redir", |data| {
        data.number(1, REGISTER);
        data.number(2, REGISTER);
        data.number(3, 2); // the port is given
    });
}

fn told(expressions: &mut Attributes) {
    // The state of a connection is looked at for one effect alone: a chain of this kind sees nothing where nobody follows connections,
    // and without a rule that leads some on, nobody does.
    expression(expressions, "ct", |data| {
        data.number(1, REGISTER);
        data.number(2, 0);
    });
    expression(expressions, "limit", |data| {
        data.put(1, &TOLD.0.to_be_bytes());
        data.put(2, &1_u64.to_be_bytes());
        data.number(3, TOLD.1);
    });
    expression(expressions, "log", |data| {
        data.put(1, &GROUP.to_be_bytes());
        data.number(3, SEEN);
    });
}

pub(super) fn family(expressions: &mut Attributes, version: u8) {
    meta(expressions, 15);
    compare(expressions, EQUAL, &[version]);
}

pub(super) fn meta(expressions: &mut Attributes, key: u32) {
    expression(expressions, "meta", |data| {
        data.number(2, key);
        data.number(1, REGISTER);
    });
}

/// Loads bytes of the network (1) or transport (2) header.
pub(super) fn field(expressions: &mut Attributes, header: u32, offset: u32, length: u32) {
    expression(expressions, "payload", |data| {
        data.number(1, REGISTER);
        data.number(2, header);
        data.number(3, offset);
        data.number(4, length);
    });
}

pub(super) fn compare(expressions: &mut Attributes, how: u32, with: &[u8]) {
    expression(expressions, "cmp", |data| {
        data.number(1, REGISTER);
        data.number(2, how);
        data.nest(3, |value| value.put(1, with));
    });
}

pub(super) fn expression(expressions: &mut Attributes, name: &str, data: impl FnOnce(&mut Attributes)) {
    expressions.nest(1, |element| {
        element.text(1, name);
        element.nest(2, data);
    });
}
