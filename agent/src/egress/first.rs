//! What the first bytes of a tunnel are: whether they name a host that can be held against the one that was allowed.

use crate::egress::hello::{self, Greeting};

/// The first bytes of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum First {
    /// More bytes are needed to tell, and must be there before any is passed on.
    Incomplete,
    /// It could still become a request, but no usual one, or be whole words of another protocol: to be watched until it is told apart.
    Open,
    /// It begins like a usual request that is not all there.
    Begun,
    /// TLS.
    Tls(Greeting),
    /// A request of HTTP/1.
    Http,
    /// A request that asks for encryption within another protocol: after so many bytes, what follows is to be judged anew.
    Upgrade(usize),
    /// What can't be judged, and why it may not pass.
    Unfit(&'static str),
    /// Something that names no host.
    Other,
}

/// Methods of usual requests (RFC 9110, 9.1; RFC 5789; RFC 4918).
const METHODS: [&str; 16] = [
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "CONNECT",
    "OPTIONS",
    "TRACE",
    "PATCH",
    "PROPFIND",
    "PROPPATCH",
    "MKCOL",
    "COPY",
    "MOVE",
    "LOCK",
    "REPORT",
];
/// The longest first line of a request.
const LONGEST_LINE: usize = 8 * 1024;
/// What a PostgreSQL client says first when it wants TLS or GSSAPI (protocol 3.0, `SSLRequest` and `GSSENCRequest`).
const POSTGRES: [[u8; 8]; 2] = [[0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f], [0, 0, 0, 8, 4, 0xd2, 0x16, 0x30]];

/// Looks at the bytes from the start of a connection.
pub(super) fn read(bytes: &[u8]) -> First {
    match hello::read(bytes) {
        Greeting::Incomplete => return First::Incomplete,
        Greeting::Other => {}
        greeting => return First::Tls(greeting),
    }
    for known in POSTGRES {
        if bytes.starts_with(&known) {
            return First::Upgrade(known.len());
        }
        if known.starts_with(bytes) {
            return First::Open;
        }
    }
    // A request line: METHOD, a space, something, a space, HTTP/.
    let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let method = bytes.iter().take_while(|byte| token(byte)).count();
    let word = &bytes[..method];
    match bytes.get(method) {
        None if METHODS.iter().any(|usual| usual.as_bytes().starts_with(word)) => return First::Begun,
        None if method <= 32 => return First::Open,
        Some(b' ') if (1..=32).contains(&method) => {}
        _ => return First::Other,
    }
    match bytes.iter().position(|byte| *byte == b'\n') {
        None if bytes.len() <= LONGEST_LINE && METHODS.iter().any(|usual| usual.as_bytes() == word) => First::Begun,
        None if bytes.len() <= LONGEST_LINE => First::Open,
        None => First::Unfit("its first line has no end"),
        Some(end) => {
            let line = &bytes[..end];
            if line.starts_with(b"PRI * HTTP/2") {
                return First::Unfit("HTTP/2 without TLS names a host with every request, which is not understood here");
            }
            if line.windows(6).any(|window| window.eq_ignore_ascii_case(b" HTTP/")) { First::Http } else { First::Other }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_told_apart_by_their_first_words() {
        let table: [(&[u8], First); 19] = [
            (b"", First::Incomplete),
            (b"GE", First::Begun),
            (b"ping", First::Open),
            (b"HELP", First::Open),
            (b"GET / HTTP/1.1\r", First::Begun),
            (b"GETS /", First::Open),
            (b"get key", First::Open),
            (b"\0", First::Open),
            (b"GET / HTTP/1.1\r\n", First::Http),
            (b"ODD /x http/1.0\n", First::Http),
            (b"PRI * HTTP/2.0\r\n", First::Unfit("HTTP/2 without TLS names a host with every request, which is not understood here")),
            (b"GET key\r\n", First::Other),
            (b"*1\r\n$4\r\nPING\r\n", First::Other),
            (b"EHLO me\r\n", First::Other),
            (b"SSH-2.0-OpenSSH_9.2\r\n", First::Other),
            (b"\0\0\0\x08\x04\xd2\x16\x2f", First::Upgrade(8)),
            (b"\0\0\0\x08\x04", First::Open),
            (b"\0\0\0\x54\0\x03\0\0user", First::Other),
            (b"\x16\x03\x01", First::Incomplete),
        ];
        for (bytes, expected) in table {
            assert_eq!(read(bytes), expected, "{}", String::from_utf8_lossy(bytes));
        }
        assert_eq!(read(&[b'A'; 40]), First::Other);
        assert_eq!(read(&[&b"GET "[..], &[b'a'; 9000]].concat()), First::Unfit("its first line has no end"));
    }
}
