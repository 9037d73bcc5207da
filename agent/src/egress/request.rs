//! The first thing that a client says to a proxy, understood as strictly as two servers could misunderstand it.

use std::net::Ipv6Addr;

/// The most bytes of a request's head.
pub(super) const MAX_HEAD: usize = 16 * 1024;
const MAX_HEADERS: usize = 100;

/// Headers that concern one connection and are not passed on (RFC 9110, 7.6.1).
const HOP_BY_HOP: [&str; 10] = [
    "connection",
    "proxy-connection",
    "keep-alive",
    "proxy-authorization",
    "proxy-authenticate",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
];

/// A request that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// The host: lower case, no trailing dot, no brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// What is asked for.
    pub kind: Kind,
}

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A tunnel.
    Connect,
    /// A tunnel, asked for in SOCKS5.
    Socks,
    /// One exchange over plain HTTP.
    Plain {
        /// The head to send on, in origin form and with `Connection: close`.
        head: Vec<u8>,
        /// How many bytes of body follow.
        body: u64,
    },
}

/// Why a request is not understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unfit {
    /// What is wrong with it.
    pub reason: &'static str,
    /// Host and port, as far as they were understood.
    pub target: Option<(String, u16)>,
}

pub(super) fn unfit(reason: &'static str) -> Unfit {
    Unfit { reason, target: None }
}

/// Reads a head. `None` means that more bytes are needed; otherwise the request and how many bytes its head took.
pub(super) fn read(bytes: &[u8]) -> Result<Option<(Request, usize)>, Unfit> {
    let Some(end) = end(bytes)? else { return Ok(None) };
    let head = &bytes[..end];
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        _ => return Err(unfit("the request's head is malformed")),
    }
    // Older clients, among them the tunnels of Python before 3.12, speak HTTP/1.0.
    let (Some(method), Some(path), Some(version @ (0 | 1))) = (parsed.method, parsed.path, parsed.version) else {
        return Err(unfit("the request is neither HTTP/1.1 nor HTTP/1.0"));
    };
    let request = if method == "CONNECT" {
        let (host, port) = authority(path, None).ok_or(unfit("CONNECT names no host and port"))?;
        Request { host, port, kind: Kind::Connect }
    } else {
        plain(method, path, version, parsed.headers)?
    };
    Ok(Some((request, end)))
}

/// Where the head ends; `None` when more bytes are needed.
fn end(bytes: &[u8]) -> Result<Option<usize>, Unfit> {
    // Clients may send empty lines before a request (RFC 9112, 2.2), but to a proxy none does.
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4) else {
        // A client that ends lines with a bare line feed would be understood by some servers.
        return if bytes.windows(2).any(|window| window == b"\n\n") { Err(unfit("lines end with a bare line feed")) } else { Ok(None) };
    };
    if end > MAX_HEAD {
        return Err(unfit("the request's head is too large"));
    }
    let head = &bytes[..end];
    if head.iter().enumerate().any(|(at, byte)| (*byte == b'\n' && (at == 0 || head[at - 1] != b'\r')) || *byte == 0) {
        return Err(unfit("lines end with a bare line feed"));
    }
    Ok(Some(end))
}

fn plain(method: &str, path: &str, version: u8, headers: &[httparse::Header<'_>]) -> Result<Request, Unfit> {
    let rest = path.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case("http://")).map(|_| &path[7..]);
    let rest = rest.ok_or(unfit("the exit takes CONNECT and absolute http:// requests only"))?;
    let split = rest.find(['/', '?']).unwrap_or(rest.len());
    let (host, port) = authority(&rest[..split], Some(80)).ok_or(unfit("the request's host is malformed"))?;
    let about = |reason| Unfit { reason, target: Some((host.clone(), port)) };
    let mut named = headers.iter().filter(|header| header.name.eq_ignore_ascii_case("host"));
    if let Some(first) = named.next() {
        let value = std::str::from_utf8(first.value).map_err(|_| about("a header is not text"))?;
        if authority(value.trim(), Some(80)).as_ref() != Some(&(host.clone(), port)) {
            return Err(about("the Host header names another host than the request"));
        }
    }
    let (head, body) = rewritten(method, &rest[split..], version, headers, &host, port)?;
    Ok(Request { host, port, kind: Kind::Plain { head, body } })
}

/// The head of one request as it is sent on, in origin form and for a connection that closes, and how many bytes of body follow.
fn rewritten(
    method: &str,
    target: &str,
    version: u8,
    headers: &[httparse::Header<'_>],
    host: &str,
    port: u16,
) -> Result<(Vec<u8>, u64), Unfit> {
    let about = |reason| Unfit { reason, target: Some((host.to_owned(), port)) };
    let mut body = None;
    let mut seen_host = false;
    let mut kept = Vec::new();
    for header in headers {
        let value = std::str::from_utf8(header.value).map_err(|_| about("a header is not text"))?;
        let name = header.name.to_ascii_lowercase();
        match name.as_str() {
            "host" if seen_host => return Err(about("there are two Host headers")),
            "host" => seen_host = true,
            "transfer-encoding" => return Err(about("a body must have a Content-Length")),
            "content-length" if body.is_some() => return Err(about("there are two Content-Length headers")),
            "content-length" => {
                let digits = value.trim();
                let plain_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
                body = Some(digits.parse::<u64>().ok().filter(|_| plain_digits).ok_or(about("the Content-Length is no number"))?);
            }
            _ => {}
        }
        if !HOP_BY_HOP.contains(&name.as_str()) && name != "host" {
            kept.push((header.name, value));
        }
    }
    let target = if target.starts_with('/') || target == "*" { target.to_owned() } else { format!("/{target}") };
    let shown = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let shown = if port == 80 { shown } else { format!("{shown}:{port}") };
    let mut head = format!("{method} {target} HTTP/1.{version}\r\nHost: {shown}\r\nConnection: close\r\n");
    for (name, value) in kept {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    Ok((head.into_bytes(), body.unwrap_or(0)))
}

/// Reads the head of a request within a tunnel to `host` and `port`: it must name that host, or none at all is passed on. As
/// [`read`] otherwise.
pub(super) fn within(bytes: &[u8], host: &str, port: u16) -> Result<Option<(Request, usize)>, Unfit> {
    let Some(end) = end(bytes)? else { return Ok(None) };
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(&bytes[..end]) {
        Ok(httparse::Status::Complete(_)) => {}
        _ => return Err(unfit("the request's head is malformed")),
    }
    let (Some(method), Some(path), Some(version @ (0 | 1))) = (parsed.method, parsed.path, parsed.version) else {
        return Err(unfit("the request is neither HTTP/1.1 nor HTTP/1.0"));
    };
    let own = Unfit { reason: "its request names another host than the connection", target: Some((host.to_owned(), port)) };
    let target = if path.starts_with('/') || path == "*" {
        path
    } else {
        // Absolute, as a proxy's client says it: the same host, or it is not passed on.
        let rest = path.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case("http://")).map(|_| &path[7..]).ok_or_else(|| own.clone())?;
        let split = rest.find(['/', '?']).unwrap_or(rest.len());
        if authority(&rest[..split], Some(port)) != Some((host.to_owned(), port)) {
            return Err(own);
        }
        &rest[split..]
    };
    if method == "CONNECT" {
        return Err(own);
    }
    let named = parsed.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("host"));
    let mut agree = named.map(|header| std::str::from_utf8(header.value).ok().and_then(|value| authority(value.trim(), Some(port))));
    if !agree.all(|named| named.is_some_and(|(name, _)| name == host)) {
        return Err(own);
    }
    let (head, body) = rewritten(method, target, version, parsed.headers, host, port)?;
    Ok(Some((Request { host: host.to_owned(), port, kind: Kind::Plain { head, body } }, end)))
}

/// Host and port of `HOST:PORT`, `[V6]:PORT`, or without a port where there is a default. User information is refused.
fn authority(text: &str, default: Option<u16>) -> Option<(String, u16)> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, tail) = rest.split_once(']')?;
        let address: Ipv6Addr = host.parse().ok()?;
        (address.to_string(), if tail.is_empty() { None } else { Some(tail.strip_prefix(':')?) })
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host.to_owned(), Some(port)),
            None => (text.to_owned(), None),
        }
    };
    let host = self::host(&host)?;
    let port = match port {
        None => default?,
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok().filter(|port| *port != 0)?,
        Some(_) => return None,
    };
    Some((host, port))
}

/// A host as rules and ledger spell it: lower case, no trailing dot; `None` for what is neither name nor address.
pub(super) fn host(text: &str) -> Option<String> {
    let host = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b':');
    (!host.is_empty() && host.len() <= 253 && host.bytes().all(sound)).then_some(host)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::{any, prop, proptest};

    fn refused(text: &str) -> &'static str {
        read(text.as_bytes()).expect_err(text).reason
    }

    #[test]
    fn tunnels_are_understood() {
        let table = [("a.b:443", "a.b", 443), ("A.B.:8443", "a.b", 8443), ("[::1]:5", "::1", 5), ("10.0.0.1:80", "10.0.0.1", 80)];
        for (target, host, port) in table {
            let text = format!("CONNECT {target} HTTP/1.1\r\nHost: x\r\n\r\nrest");
            let (request, head) = read(text.as_bytes()).unwrap().unwrap();
            assert_eq!((request.host.as_str(), request.port, request.kind), (host, port, Kind::Connect));
            assert_eq!(&text[head..], "rest");
        }
        for target in ["a.b", "a.b:0", "a.b:99999", "a.b:4 4", "u@a.b:443", "a/b:443", ":443", "[::1:443", "a.b:+443"] {
            assert!(read(format!("CONNECT {target} HTTP/1.1\r\n\r\n").as_bytes()).is_err(), "{target}");
        }
    }

    #[test]
    fn plain_requests_are_rewritten() {
        let text = "POST http://A.b:81/x?y HTTP/1.1\r\nHost: a.b:81\r\nProxy-Connection: keep-alive\r\nConnection: upgrade\r\nX-Y: z\r\nContent-Length: 3\r\n\r\nabc";
        let (request, _) = read(text.as_bytes()).unwrap().unwrap();
        let Kind::Plain { head, body } = request.kind else { unreachable!() };
        assert_eq!((request.host.as_str(), request.port, body), ("a.b", 81, 3));
        assert_eq!(
            String::from_utf8(head).unwrap(),
            "POST /x?y HTTP/1.1\r\nHost: a.b:81\r\nConnection: close\r\nX-Y: z\r\nContent-Length: 3\r\n\r\n"
        );
    }

    #[test]
    fn older_clients_are_understood() {
        let (request, _) = read(b"CONNECT a.b:443 HTTP/1.0\r\n\r\n").unwrap().unwrap();
        assert_eq!((request.host.as_str(), request.kind), ("a.b", Kind::Connect));
        // The server must not answer in a form that the client cannot read.
        let (request, _) = read(b"GET http://a.b/ HTTP/1.0\r\n\r\n").unwrap().unwrap();
        let Kind::Plain { head, .. } = request.kind else { unreachable!() };
        assert!(head.starts_with(b"GET / HTTP/1.0\r\n"));
    }

    #[test]
    fn what_two_servers_could_read_differently_is_refused() {
        assert_eq!(refused("GET http://a.b/ HTTP/1.1\r\nHost: c.d\r\n\r\n"), "the Host header names another host than the request");
        assert_eq!(refused("GET http://a.b/ HTTP/1.1\r\nHost: a.b\r\nHost: a.b\r\n\r\n"), "there are two Host headers");
        assert_eq!(refused("POST http://a.b/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"), "a body must have a Content-Length");
        assert_eq!(
            refused("POST http://a.b/ HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"),
            "there are two Content-Length headers"
        );
        assert_eq!(refused("POST http://a.b/ HTTP/1.1\r\nContent-Length: +1\r\n\r\n"), "the Content-Length is no number");
        assert_eq!(refused("GET http://a.b/ HTTP/1.1\nHost: a.b\n\n"), "lines end with a bare line feed");
        assert_eq!(refused("GET http://a.b/ HTTP/1.1\r\nX: y\nHost: c.d\r\n\r\n"), "lines end with a bare line feed");
        assert_eq!(refused("GET / HTTP/1.1\r\nHost: a.b\r\n\r\n"), "the exit takes CONNECT and absolute http:// requests only");
        assert_eq!(refused("GET https://a.b/ HTTP/1.1\r\n\r\n"), "the exit takes CONNECT and absolute http:// requests only");
        assert_eq!(refused("GET http://u:p@a.b/ HTTP/1.1\r\n\r\n"), "the request's host is malformed");
        assert_eq!(refused("GET http://a.b/ HTTP/2.0\r\n\r\n"), "the request's head is malformed");
        assert_eq!(read(b"CONNECT a.b:443 HTTP/1.1\r\n"), Ok(None));
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), tail in "[ -~\r\n]{0,200}") {
            let _ = read(&bytes);
            let _ = read(format!("GET http://{tail}\r\n\r\n").as_bytes());
            let _ = read(format!("CONNECT {tail}\r\n\r\n").as_bytes());
        }
    }
}
