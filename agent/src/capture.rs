//! What the kernel leads to the exit within a sandbox's network, and the files that make programs find it: the language of rules
//! put into that of the sandbox.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use caisson_model::policy::Destination;
use caisson_sandbox::spec::{Capture, Lead, Mount, Network, Ports};

use crate::egress::names;
use crate::egress::service::Service;

/// The port on the step's loopback at which the exit listens: above the ephemeral range, so that no ordinary program sits there.
pub const EXIT_PORT: u16 = 61080;

/// Where the exit listens, inside.
pub fn exit() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, EXIT_PORT))
}

/// The network of a sandbox whose attempts are written down. What it may reach is led to the exit; everything else is refused by
/// the kernel at once. Without a destination nothing is led, and a name server that knows no name still tells what was asked for. A port of loopback that policy names is the host's.
/// `doors` are further addresses to listen on, beside the exit's.
pub fn network<'d>(
    destinations: impl Iterator<Item = &'d Destination>,
    services: &[Service],
    doors: impl Iterator<Item = SocketAddr>,
    learning: bool,
) -> Network {
    let mut ports = Vec::new();
    let mut literals: Vec<(IpAddr, Vec<u16>)> = Vec::new();
    // The step's own, but for what policy names.
    let mut loopback: Vec<(IpAddr, Vec<u16>)> = Vec::new();
    for destination in destinations {
        let of_it = destination.port.map_or_else(|| vec![443, 80], |port| vec![port]);
        match destination.host.parse::<IpAddr>() {
            Ok(address) if address.to_canonical().is_loopback() => loopback.push((address.to_canonical(), of_it)),
            Ok(address) => literals.push((address.to_canonical(), of_it)),
            Err(_) if destination.host == "localhost" => {
                loopback.extend([IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)].map(|own| (own, of_it.clone())));
            }
            Err(_) => ports.extend(of_it),
        }
    }
    ports.extend(services.iter().map(|service| service.port));
    ports.sort_unstable();
    ports.dedup();
    let mut leads: Vec<Lead> = Vec::new();
    if learning {
        leads.extend([IpAddr::from([0; 4]), IpAddr::from([0; 16])].map(|address| Lead { address, bits: 0, ports: Ports::All }));
    } else {
        if !ports.is_empty() {
            leads.extend(names::RANGES.map(|(address, bits)| Lead { address, bits, ports: Ports::Only(ports.clone()) }));
        }
        loopback.append(&mut literals);
    }
    leads.extend(loopback.into_iter().map(|(address, ports)| {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        Lead { address, bits, ports: Ports::Only(ports) }
    }));
    let capture = Capture { leads, addresses: names::OWN.to_vec(), resolver: names::RESOLVER };
    Network::Exit { listeners: [exit()].into_iter().chain(doors).collect(), capture: Some(capture) }
}

/// The files that lead programs to the namespace's own name server.
pub fn files() -> [Mount; 2] {
    let file = |target: &str, content: String| Mount::File { target: target.into(), content: content.into(), mode: 0o644 };
    [
        file("/etc/resolv.conf", format!("nameserver {}\noptions timeout:2 attempts:2\n", names::RESOLVER.ip())),
        // Without the ways that ask a daemon of the host.
        file("/etc/nsswitch.conf", NSSWITCH.to_owned()),
    ]
}

const NSSWITCH: &str = "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\nprotocols: files\nservices: files\n";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn what_is_led_is_what_rules_name() {
        let destinations: Vec<Destination> =
            ["a.example", "*.b.example:5432", "203.0.113.9:6379", "[2001:db8::1]:80", "127.0.0.1:9", "localhost:8000"]
                .map(|text| text.parse().unwrap())
                .to_vec();
        let Network::Exit { listeners, capture: Some(capture) } = network(destinations.iter(), &[], [].into_iter(), false) else {
            panic!()
        };
        assert_eq!(listeners, [exit()]);
        let shown: Vec<String> = capture.leads.iter().map(|lead| format!("{}/{} {:?}", lead.address, lead.bits, lead.ports)).collect();
        assert_eq!(
            shown,
            [
                "198.18.0.0/16 Only([80, 443, 5432])",
                "fdca:155e::/32 Only([80, 443, 5432])",
                "127.0.0.1/32 Only([9])",
                "127.0.0.1/32 Only([8000])",
                "::1/128 Only([8000])",
                "203.0.113.9/32 Only([6379])",
                "2001:db8::1/128 Only([80])"
            ]
        );
        let Network::Exit { capture: Some(capture), .. } = network([].iter(), &[], [].into_iter(), false) else { panic!() };
        assert!(capture.leads.is_empty());
        let Network::Exit { capture: Some(capture), .. } = network([].iter(), &[], [].into_iter(), true) else { panic!() };
        assert_eq!(capture.leads.len(), 2);
    }
}
