//! What a step sends to the exit before anything is decided: many mutations of each kind of first words.

use crate::egress::{first, hello, question, request, socks};
use crate::hostile_bytes::{fuzz, shape};

/// A greeting of TLS 1.2 form with one server name.
const HELLO: &[u8] = b"\x16\x03\x01\x00\x41\x01\x00\x00\x3d\x03\x03\
    0123456789abcdef0123456789abcdef\x00\x00\x02\x13\x01\x01\x00\x00\x12\x00\x00\x00\x0e\x00\x0c\x00\x00\x09localhost";

#[test]
fn greetings_of_tls_are_read_whatever_they_hold() {
    fuzz("TLS greetings", &[HELLO, &HELLO[..20]], &[b"\x00\x00", b"\x16\x03\x01", b"\xfe\x0d", b"\xff\xce", b"localhost"], |bytes| {
        shape(&hello::read(bytes))
    });
}

#[test]
fn questions_to_the_name_server_are_read_whatever_they_hold() {
    let example = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04pypi\x03org\x00\x00\x01\x00\x01";
    fuzz("DNS questions", &[example], &[b"\xc0\x0c", b"\x00\x1c", b"\x3f", b"\x00\xff"], |bytes| {
        let read = question::read(bytes);
        if let Ok(question) = &read {
            let answer = question.answer(question::Answer::Addresses([198, 18, 0, 1].into(), std::net::Ipv6Addr::LOCALHOST));
            assert!(answer.len() <= 512, "{}", answer.len());
        }
        shape(&read)
    });
}

#[test]
fn requests_to_the_proxy_are_read_whatever_they_hold() {
    let examples: [&[u8]; 3] = [
        b"CONNECT pypi.org:443 HTTP/1.1\r\nHost: pypi.org\r\n\r\n",
        b"GET http://pypi.org/simple/ HTTP/1.1\r\nHost: pypi.org\r\nContent-Length: 3\r\n\r\nabc",
        b"POST http://[::1]:80/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n",
    ];
    let words: [&[u8]; 8] = [b"\r\n", b"Host: ", b"Content-Length: ", b"Transfer-Encoding: chunked", b":", b"@", b"[::1]", b"http://"];
    fuzz("proxy requests", &examples, &words, |bytes| {
        shape(&(request::read(bytes), request::within(bytes, "pypi.org", 80), first::read(bytes)))
    });
}

#[test]
fn socks_greetings_are_read_whatever_they_hold() {
    let examples: [&[u8]; 3] = [b"\x05\x01\x00", b"\x05\x01\x00\x03\x08pypi.org\x01\xbb", b"\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50"];
    fuzz("SOCKS", &examples, &[b"\x05", b"\x00\x04", b"\xff"], |bytes| shape(&(socks::greeting(bytes), socks::read(bytes))));
}
