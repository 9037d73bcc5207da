//! SOCKS5 (RFC 1928), as far as clients behind `ALL_PROXY` need it: no authentication, CONNECT only.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::egress::request::{self, Kind, Request, Unfit};

/// The first byte of every SOCKS5 message.
pub(super) const VERSION: u8 = 5;
/// No authentication, which is all that is offered.
pub(super) const WELCOME: [u8; 2] = [VERSION, 0];

/// What is answered to a request. The bound address is nobody's business, so it is zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// Bytes pass from now on.
    Granted = 0,
    /// No rule allows it.
    NotAllowed = 2,
    /// It is allowed, but nobody answers there.
    Unreachable = 4,
}

impl Reply {
    pub(super) fn bytes(self) -> [u8; 10] {
        [VERSION, self as u8, 0, 1, 0, 0, 0, 0, 0, 0]
    }
}

/// Reads the greeting. `None` means that more bytes are needed; otherwise how many it took.
pub(super) fn greeting(bytes: &[u8]) -> Result<Option<usize>, Unfit> {
    let [VERSION, count, methods @ ..] = bytes else { return Ok(None) };
    match methods.get(..usize::from(*count)) {
        None => Ok(None),
        Some(methods) if methods.contains(&0) => Ok(Some(2 + methods.len())),
        Some(_) => Err(Unfit { reason: "the SOCKS client insists on a password, and the exit has none", target: None }),
    }
}

/// Reads the request after the greeting. `None` means that more bytes are needed; otherwise the request and how many bytes it took.
pub(super) fn read(bytes: &[u8]) -> Result<Option<(Request, usize)>, Unfit> {
    let unfit = |reason| Err(Unfit { reason, target: None });
    let [version, command, _reserved, kind, rest @ ..] = bytes else { return Ok(None) };
    if *version != VERSION {
        return unfit("the SOCKS request is malformed");
    }
    if *command != 1 {
        return unfit("the exit takes the SOCKS command CONNECT only");
    }
    let (skipped, length) = match (kind, rest) {
        (1, _) => (0, 4),
        (4, _) => (0, 16),
        (3, [length, ..]) => (1, usize::from(*length)),
        (3, []) => return Ok(None),
        _ => return unfit("the SOCKS request has an unknown kind of address"),
    };
    let Some((address, [high, low, ..])) = rest.get(skipped..).and_then(|rest| rest.split_at_checked(length)) else { return Ok(None) };
    let port = u16::from_be_bytes([*high, *low]);
    let host = if let Ok(octets) = <[u8; 4]>::try_from(address)
        && *kind == 1
    {
        Some(Ipv4Addr::from(octets).to_string())
    } else if let Ok(octets) = <[u8; 16]>::try_from(address)
        && *kind == 4
    {
        Some(Ipv6Addr::from(octets).to_string())
    } else {
        std::str::from_utf8(address).ok().and_then(request::host)
    };
    match host {
        Some(host) if port != 0 => Ok(Some((Request { host, port, kind: Kind::Socks }, 4 + skipped + length + 2))),
        _ => unfit("the SOCKS request names no host and port"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::{any, prop, proptest};

    use super::*;

    #[test]
    fn requests_are_understood_whole_or_not_yet() {
        assert_eq!(greeting(&[5, 2, 2, 0, 9]), Ok(Some(4)));
        assert_eq!(greeting(&[5, 2, 2]), Ok(None));
        assert!(greeting(&[5, 1, 2]).is_err());
        assert!(greeting(&[5, 0]).is_err());
        let name = [&[5, 1, 0, 3, 7][..], b"Py.Org.", &[1, 187]].concat();
        let v4 = vec![5, 1, 0, 1, 10, 0, 0, 1, 0, 80];
        let v6 = [&[5, 1, 0, 4][..], &[0; 15], &[1, 0, 80]].concat();
        for (bytes, host, port) in [(name, "py.org", 443), (v4, "10.0.0.1", 80), (v6, "::1", 80)] {
            let (request, length) = read(&[&bytes[..], b"more"].concat()).unwrap().unwrap();
            assert_eq!((request.host.as_str(), request.port, length), (host, port, bytes.len()));
            for cut in 0..bytes.len() {
                assert_eq!(read(&bytes[..cut]), Ok(None), "{host} cut at {cut}");
            }
        }
    }

    #[test]
    fn what_is_no_connect_is_refused() {
        let table: [&[u8]; 6] = [
            &[5, 2, 0, 1, 10, 0, 0, 1, 0, 80],
            &[5, 3, 0, 1, 10, 0, 0, 1, 0, 80],
            &[4, 1, 0, 1, 10, 0, 0, 1, 0, 80],
            &[5, 1, 0, 1, 10, 0, 0, 1, 0, 0],
            &[5, 1, 0, 3, 0, 0, 80],
            &[5, 1, 0, 3, 3, b'a', 0, b'b', 0, 80],
        ];
        for bytes in table {
            assert!(read(bytes).is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = greeting(&bytes);
            let _ = read(&bytes);
            let _ = read(&[&[5, 1, 0, 3][..], &bytes].concat());
        }
    }
}
