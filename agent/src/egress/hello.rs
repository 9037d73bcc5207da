//! The greeting of a TLS client (RFC 8446, 4.1.2), read far enough to know the server name that it asks for.

/// What the first bytes of a connection are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Greeting {
    /// More bytes are needed to tell.
    Incomplete,
    /// Not TLS.
    Other,
    /// A TLS greeting.
    Tls {
        /// The server name, in lower case; `None` when the client names none.
        name: Option<String>,
        /// Whether the greeting carries an encrypted one, whose name cannot be judged.
        encrypted: bool,
    },
    /// It begins like TLS and breaks its rules.
    Malformed,
}

/// The most bytes of a greeting; larger ones are malformed. Post-quantum key shares make 2 KiB usual.
pub(super) const MAX_GREETING: usize = 32 * 1024;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
/// The extension's number in the drafts that were deployed before.
const ENCRYPTED_SERVER_NAME: u16 = 0xffce;

/// Reads `bytes` from the start of a connection.
pub(super) fn read(bytes: &[u8]) -> Greeting {
    match bytes {
        [] => return Greeting::Incomplete,
        [HANDSHAKE] => return Greeting::Incomplete,
        [HANDSHAKE, 3, ..] => {}
        _ => return Greeting::Other,
    }
    // The greeting may be spread over several records.
    let mut handshake = Vec::new();
    let mut rest = bytes;
    loop {
        let [kind, major, _, high, low, body @ ..] = rest else { return incomplete(bytes) };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if *kind != HANDSHAKE || *major != 3 || length == 0 || length > 16 * 1024 {
            return Greeting::Malformed;
        }
        let whole = body.len() >= length;
        handshake.extend_from_slice(&body[..length.min(body.len())]);
        if let [kind, a, b, c, message @ ..] = handshake.as_slice() {
            let needed = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
            if *kind != CLIENT_HELLO || needed > MAX_GREETING {
                return Greeting::Malformed;
            }
            if message.len() >= needed {
                return client_hello(&message[..needed]).unwrap_or(Greeting::Malformed);
            }
        }
        if !whole {
            return incomplete(bytes);
        }
        rest = &body[length..];
    }
}

fn incomplete(bytes: &[u8]) -> Greeting {
    if bytes.len() > MAX_GREETING { Greeting::Malformed } else { Greeting::Incomplete }
}

/// A reader that never goes beyond its bytes.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self, width: usize) -> Option<usize> {
        Some(self.take(width)?.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)))
    }

    /// A vector that begins with its length in `width` bytes.
    fn vector(&mut self, width: usize) -> Option<Reader<'a>> {
        let length = self.number(width)?;
        self.take(length).map(Reader)
    }
}

fn client_hello(message: &[u8]) -> Option<Greeting> {
    let mut reader = Reader(message);
    reader.take(2 + 32)?; // version, random
    reader.vector(1)?; // session id
    reader.vector(2)?; // cipher suites
    reader.vector(1)?; // compression methods
    let mut name = None;
    let mut encrypted = false;
    if reader.0.is_empty() {
        return Some(Greeting::Tls { name, encrypted });
    }
    let mut extensions = reader.vector(2)?;
    let mut named = false;
    while !extensions.0.is_empty() {
        let kind = u16::try_from(extensions.number(2)?).ok()?;
        let mut body = extensions.vector(2)?;
        match kind {
            // Twice the same extension is an error; servers differ in which one they believe.
            SERVER_NAME if named => return None,
            SERVER_NAME => {
                named = true;
                let mut list = body.vector(2)?;
                let host_name = list.number(1)? == 0;
                let text = list.vector(2)?;
                if !host_name || !list.0.is_empty() {
                    return None;
                }
                name = Some(std::str::from_utf8(text.0).ok()?.to_ascii_lowercase());
            }
            ENCRYPTED_CLIENT_HELLO | ENCRYPTED_SERVER_NAME => encrypted = true,
            _ => {}
        }
    }
    Some(Greeting::Tls { name, encrypted })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::{Strategy, any, prop, proptest};

    fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = kind.to_be_bytes().to_vec();
        bytes.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        bytes.extend(body);
        bytes
    }

    fn server_name(name: &str) -> Vec<u8> {
        let length = u16::try_from(name.len()).unwrap();
        let mut body = (length + 3).to_be_bytes().to_vec();
        body.push(0);
        body.extend(length.to_be_bytes());
        body.extend(name.as_bytes());
        extension(SERVER_NAME, &body)
    }

    fn greeting(extensions: &[u8], record: usize) -> Vec<u8> {
        let mut message = vec![3, 3];
        message.extend([7; 32]);
        message.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
        message.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
        message.extend(extensions);
        let mut handshake = vec![CLIENT_HELLO];
        handshake.extend(&u32::try_from(message.len()).unwrap().to_be_bytes()[1..]);
        handshake.extend(message);
        let mut bytes = Vec::new();
        for part in handshake.chunks(record) {
            bytes.extend([HANDSHAKE, 3, 1]);
            bytes.extend(u16::try_from(part.len()).unwrap().to_be_bytes());
            bytes.extend(part);
        }
        bytes
    }

    #[test]
    fn the_name_is_read_from_whole_and_split_greetings() {
        let tls = |name: &str| Greeting::Tls { name: Some(name.into()), encrypted: false };
        for record in [9000, 40, 1] {
            let bytes = greeting(&[extension(10, &[0; 6]), server_name("PyPI.org")].concat(), record);
            assert_eq!(read(&bytes), tls("pypi.org"), "{record}");
            for cut in 0..bytes.len() {
                assert!(matches!(read(&bytes[..cut]), Greeting::Incomplete), "{record} cut at {cut}");
            }
        }
    }

    #[test]
    fn what_cannot_be_judged_is_said() {
        assert_eq!(read(&greeting(&[], 9000)), Greeting::Tls { name: None, encrypted: false });
        let hidden = greeting(&[server_name("a.b"), extension(ENCRYPTED_CLIENT_HELLO, &[1, 2])].concat(), 9000);
        assert_eq!(read(&hidden), Greeting::Tls { name: Some("a.b".into()), encrypted: true });
        assert_eq!(read(&greeting(&[server_name("a.b"), server_name("c.d")].concat(), 9000)), Greeting::Malformed);
        assert_eq!(read(b"GET / HTTP/1.1"), Greeting::Other);
        assert_eq!(read(&[HANDSHAKE, 3, 1, 0, 0]), Greeting::Malformed);
        assert_eq!(read(&[&[HANDSHAKE, 3, 1, 0, 4, CLIENT_HELLO, 0xff, 0xff, 0xff][..]].concat()), Greeting::Malformed);
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), at in (0usize..200).prop_map(|at| at)) {
            read(&bytes);
            let mut real = greeting(&server_name("pypi.org"), 30);
            for (offset, byte) in bytes.iter().take(3).enumerate() {
                let place = (at + offset) % real.len();
                real[place] = *byte;
            }
            read(&real);
        }
    }
}
