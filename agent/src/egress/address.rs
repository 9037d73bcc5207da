//! Addresses that an allowed name may not lead to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why nobody is dialled at `address` merely because an allowed *name* resolves to it; `None` for an ordinary public address.
///
/// The ranges are those of the IANA special-purpose registries (RFC 6890 and its successors) that lead to the host itself, its
/// neighbours or a cloud's metadata service.
pub(super) fn inner(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => inner_v4(address),
        IpAddr::V6(address) => inner_v6(address),
    }
}

fn inner_v4(address: Ipv4Addr) -> Option<&'static str> {
    let [a, b, c, _] = address.octets();
    match (a, b, c) {
        (0, ..) => Some("this host (0.0.0.0/8)"),
        (127, ..) => Some("loopback (127.0.0.0/8)"),
        (10, ..) | (172, 16..=31, _) | (192, 168, _) => Some("a private network"),
        (169, 254, _) => Some("link-local (169.254.0.0/16, cloud metadata)"),
        (100, 64..=127, _) => Some("carrier-grade NAT (100.64.0.0/10)"),
        (192, 0, 0) => Some("a protocol assignment (192.0.0.0/24)"),
        (198, 18..=19, _) => Some("a benchmarking network (198.18.0.0/15)"),
        (224..=239, ..) => Some("multicast"),
        (240..=255, ..) => Some("a reserved range"),
        _ => None,
    }
}

fn inner_v6(address: Ipv6Addr) -> Option<&'static str> {
    if let Some(mapped) = address.to_ipv4_mapped() {
        return Some(inner_v4(mapped).unwrap_or("an IPv4 address in IPv6 form"));
    }
    let segments = address.segments();
    match segments {
        [0, 0, 0, 0, 0, 0, 0, 0] => Some("this host (::)"),
        [0, 0, 0, 0, 0, 0, 0, 1] => Some("loopback (::1)"),
        [0, 0, 0, 0, 0, 0, ..] => Some("an IPv4 address in IPv6 form"),
        // NAT64 and 6to4 carry an IPv4 address that nobody has judged.
        [0x64, 0xff9b, ..] => Some("a NAT64 address"),
        [0x2002, ..] => Some("a 6to4 address"),
        [0xfc00..=0xfdff, ..] => Some("a private network (fc00::/7)"),
        [0xfe80..=0xfebf, ..] => Some("link-local (fe80::/10)"),
        [0xfec0..=0xfeff, ..] => Some("site-local (fec0::/10)"),
        [0xff00..=0xffff, ..] => Some("multicast"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn inner_addresses_are_known() {
        for text in [
            "0.0.0.0",
            "127.0.0.1",
            "127.255.255.254",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "192.0.0.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "::7f00:1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "ff02::1",
        ] {
            assert!(inner(text.parse().unwrap()).is_some(), "{text}");
        }
        for text in ["8.8.8.8", "172.32.0.1", "100.128.0.1", "198.20.0.1", "203.0.113.80", "2606:4700::1", "2a00:1450::1"] {
            assert_eq!(inner(text.parse().unwrap()), None, "{text}");
        }
    }
}
