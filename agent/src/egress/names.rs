//! Addresses that stand for names inside one namespace, and only there.
//!
//! A name that is allowed gets an address of a range of its own when it is first asked for. Whoever connects to that address
//! means the name. What the name leads to outside is nobody's business inside, and is found out when somebody connects.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};

/// The first addresses of the ranges: loopback has these beside its own.
pub const OWN: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1)), IpAddr::V6(Ipv6Addr::new(0xfdca, 0x155e, 0, 0, 0, 0, 0, 1))];
/// The ranges: an address and how many of its bits count. RFC 2544 keeps the IPv4 one free of hosts; the other is a unique local
/// one (RFC 4193).
pub const RANGES: [(IpAddr, u8); 2] =
    [(IpAddr::V4(Ipv4Addr::new(198, 18, 0, 0)), 16), (IpAddr::V6(Ipv6Addr::new(0xfdca, 0x155e, 0, 0, 0, 0, 0, 0)), 32)];
/// Where the name server of a namespace listens.
pub const RESOLVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)), 53);

/// The most names that one step can have addresses for.
const MOST: usize = 4096;
/// The first two addresses of the ranges are the network's and loopback's.
const FIRST: usize = 2;

/// The names of one step.
#[derive(Debug, Default)]
pub(super) struct Names {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    numbers: HashMap<String, usize>,
    names: Vec<String>,
}

impl Names {
    /// The addresses of a name, which stay its own until the step ends; `None` when too many names have some.
    pub(super) fn addresses(&self, name: &str) -> Option<(Ipv4Addr, Ipv6Addr)> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let number = match known.numbers.get(name) {
            Some(number) => *number,
            None if known.names.len() >= MOST => return None,
            None => {
                let number = known.names.len();
                known.names.push(name.to_owned());
                known.numbers.insert(name.to_owned(), number);
                number
            }
        };
        let [high, low] = u16::try_from(number + FIRST).ok()?.to_be_bytes();
        let mut segments = [0xfdca, 0x155e, 0, 0, 0, 0, 0, 0];
        segments[7] = u16::from_be_bytes([high, low]);
        Some((Ipv4Addr::new(198, 18, high, low), Ipv6Addr::from(segments)))
    }

    /// The name that an address stands for.
    pub(super) fn name(&self, address: IpAddr) -> Option<String> {
        let number = match address {
            IpAddr::V4(address) => match address.octets() {
                [198, 18, high, low] => u16::from_be_bytes([high, low]),
                _ => return None,
            },
            IpAddr::V6(address) => match address.segments() {
                [0xfdca, 0x155e, 0, 0, 0, 0, 0, low] => low,
                _ => return None,
            },
        };
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.names.get(usize::from(number).checked_sub(FIRST)?).cloned()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses_lead_back_to_their_names() {
        let names = Names::default();
        let (four, six) = names.addresses("a.example").unwrap();
        assert_eq!((four.to_string().as_str(), six.to_string().as_str()), ("198.18.0.2", "fdca:155e::2"));
        for number in 0..MOST - 1 {
            let name = format!("n{number}.example");
            let (four, six) = names.addresses(&name).unwrap();
            assert_eq!((names.name(four.into()), names.name(six.into())), (Some(name.clone()), Some(name)));
        }
        assert_eq!(names.addresses("a.example").unwrap().0, four, "it stays");
        assert_eq!(names.addresses("one-too-many.example"), None);
        for nobody in ["198.18.0.0", "198.18.0.1", "198.18.255.255", "198.19.0.2", "192.0.2.1", "fdca:155e::1", "fdca:155e::1:2", "::1"] {
            assert_eq!(names.name(nobody.parse().unwrap()), None, "{nobody}");
        }
    }
}
