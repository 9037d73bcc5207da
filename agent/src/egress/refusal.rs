//! What the kernel tells of connections that no rule of the namespace led on (nfnetlink_log): where to, and how.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An attempt that ended within the namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Refusal {
    /// Where to.
    pub address: IpAddr,
    /// The port; 0 where the protocol has none.
    pub port: u16,
    /// The protocol, as people call it.
    pub protocol: &'static str,
}

const HEADER: usize = 16;
const FAMILY: usize = 4;
const PACKET: u16 = 4 << 8;
const PAYLOAD: u16 = 9;

/// Reads one datagram, which may hold several messages: what was attempted, and from which end. What is not understood is left out.
pub(super) fn read(bytes: &[u8]) -> Vec<(Refusal, Option<SocketAddr>)> {
    let mut found = Vec::new();
    let mut rest = bytes;
    while let Some(length) = rest.get(..4).and_then(|field| field.try_into().ok()).map(u32::from_ne_bytes) {
        let length = length as usize;
        let Some(message) = rest.get(..length).filter(|message| message.len() >= HEADER + FAMILY) else { break };
        if u16::from_ne_bytes([message[4], message[5]]) == PACKET {
            found.extend(payload(&message[HEADER + FAMILY..]).and_then(packet));
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn payload(mut attributes: &[u8]) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(attributes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(attributes.get(2..4)?.try_into().ok()?) & 0x3fff;
        let body = attributes.get(4..length)?;
        if kind == PAYLOAD {
            return Some(body);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

fn packet(bytes: &[u8]) -> Option<(Refusal, Option<SocketAddr>)> {
    let (from, address, protocol, transport) = match bytes.first()? >> 4 {
        4 => {
            let address = |at: usize| Some(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?)));
            (address(12)?, address(16)?, *bytes.get(9)?, usize::from(bytes[0] & 0xf) * 4)
        }
        6 => {
            let address = |at: usize| Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(at..at + 16)?).ok()?)));
            (address(8)?, address(24)?, *bytes.get(6)?, 40)
        }
        _ => return None,
    };
    let port = |at: usize| bytes.get(at..at + 2).map_or(0, |port| u16::from_be_bytes([port[0], port[1]]));
    let protocol = match protocol {
        6 => "TCP",
        17 => "UDP",
        1 | 58 => return Some((Refusal { address, port: 0, protocol: "ICMP" }, None)),
        _ => return Some((Refusal { address, port: 0, protocol: "IP" }, None)),
    };
    Some((Refusal { address, port: port(transport + 2), protocol }, Some(SocketAddr::new(from, port(transport)))))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::{any, prop, proptest};

    use super::*;

    /// A message of the packet log around a packet.
    fn told(packet: &[u8]) -> Vec<u8> {
        let mut attributes = vec![8, 0, 1, 0, 8, 0, 3, 0];
        attributes.extend_from_slice(&((packet.len() + 4) as u16).to_ne_bytes());
        attributes.extend_from_slice(&PAYLOAD.to_ne_bytes());
        attributes.extend_from_slice(packet);
        attributes.resize(attributes.len().next_multiple_of(4), 0);
        let mut message = ((attributes.len() + HEADER + FAMILY) as u32).to_ne_bytes().to_vec();
        message.extend_from_slice(&PACKET.to_ne_bytes());
        message.extend_from_slice(&[0; 10 + FAMILY]);
        message.extend_from_slice(&attributes);
        message
    }

    #[test]
    fn packets_say_where_they_wanted_to_go() {
        let mut four = vec![0x45; 1];
        four.resize(40, 0);
        four[9] = 6;
        four[16..20].copy_from_slice(&[192, 0, 2, 7]);
        four[22..24].copy_from_slice(&443_u16.to_be_bytes());
        let mut six = vec![0x60; 1];
        six.resize(60, 0);
        six[6] = 17;
        six[24..40].copy_from_slice(&"2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
        six[42..44].copy_from_slice(&53_u16.to_be_bytes());
        four[12..16].copy_from_slice(&[198, 18, 0, 1]);
        four[20..22].copy_from_slice(&40_000_u16.to_be_bytes());
        let both = [told(&four), told(&six)].concat();
        let expected = [
            (Refusal { address: "192.0.2.7".parse().unwrap(), port: 443, protocol: "TCP" }, "198.18.0.1:40000".parse().ok()),
            (Refusal { address: "2001:db8::1".parse().unwrap(), port: 53, protocol: "UDP" }, "[::]:0".parse().ok()),
        ];
        assert_eq!(read(&both), expected);
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
            let _ = read(&told(&bytes));
        }
    }
}
