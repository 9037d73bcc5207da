#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use caisson_model::outcome::{EgressEntry, Verdict};
use caisson_sandbox::sockets::Sockets;

use crate::egress::Exit;
use crate::egress::rules::Allowed;

fn sockets(listener: TcpListener) -> Sockets {
    Sockets { listeners: vec![listener.into()], ..Sockets::default() }
}

/// A server that answers each connection with `answer` once it has read something, and tells what it read.
fn server(answer: &'static [u8]) -> (SocketAddr, thread::JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serving = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut seen = vec![0; 4096];
        let read = stream.read(&mut seen).unwrap();
        seen.truncate(read);
        stream.write_all(answer).unwrap();
        seen
    });
    (address, serving)
}

/// What `talk` and the ledger say after one client spoke to an exit with these destinations.
fn through(destinations: &[String], talk: impl FnOnce(SocketAddr) -> Vec<u8>) -> (Vec<u8>, Vec<EgressEntry>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let allowed = Allowed { destinations: destinations.iter().map(|text| text.parse().unwrap()).collect(), ..Allowed::default() };
    let exit = runtime.block_on(async { Exit::open(sockets(listener), None, allowed, Arc::new(|_| {})).unwrap() });
    let heard = talk(address);
    (heard, runtime.block_on(exit.close()))
}

/// Sends each part, waiting for some answer between them, and reads to the end.
fn say(exit: SocketAddr, parts: &[&[u8]]) -> Vec<u8> {
    let mut stream = TcpStream::connect(exit).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut heard = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            let mut buffer = [0; 4096];
            let read = stream.read(&mut buffer).unwrap();
            heard.extend_from_slice(&buffer[..read]);
        }
        stream.write_all(part).unwrap();
    }
    // A cut connection may end with a reset: what was heard before counts.
    let _reset = stream.read_to_end(&mut heard);
    heard
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn an_allowed_tunnel_carries_bytes_and_is_recorded() {
    let (address, serving) = server(b"pong");
    let (heard, ledger) =
        through(&[address.to_string()], |exit| say(exit, &[format!("CONNECT {address} HTTP/1.1\r\n\r\n").as_bytes(), b"ping"]));
    assert!(text(&heard).starts_with("HTTP/1.1 200") && heard.ends_with(b"pong"), "{}", text(&heard));
    assert_eq!(serving.join().unwrap(), b"ping");
    let [entry] = ledger.as_slice() else { panic!("{ledger:?}") };
    assert_eq!((entry.verdict, entry.sent, entry.received, entry.address.clone()), (Verdict::Allowed, 4, 4, Some(address.to_string())));
}

#[test]
fn a_plain_request_is_passed_on_in_origin_form_and_nothing_after_it() {
    let (address, serving) = server(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
    let smuggled = format!("GET http://{address}/a HTTP/1.1\r\nHost: {address}\r\n\r\nGET /b HTTP/1.1\r\nHost: evil\r\n\r\n");
    let (heard, ledger) = through(&[address.to_string()], |exit| say(exit, &[smuggled.as_bytes()]));
    assert!(heard.ends_with(b"ok"), "{}", text(&heard));
    assert_eq!(text(&serving.join().unwrap()), format!("GET /a HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"));
    assert_eq!(ledger.len(), 1);
}

#[test]
fn what_no_rule_names_is_refused_and_recorded() {
    let (other, _serving) = server(b"");
    let (heard, ledger) = through(&["127.0.0.1:9".to_owned()], |exit| say(exit, &[format!("CONNECT {other} HTTP/1.1\r\n\r\n").as_bytes()]));
    assert!(text(&heard).starts_with("HTTP/1.1 403"), "{}", text(&heard));
    assert!(text(&heard).contains("--allow"), "{}", text(&heard));
    assert_eq!((ledger.len(), ledger[0].verdict), (1, Verdict::Refused));
}

/// A TLS greeting that Python's OpenSSL makes for `name`.
fn python_greeting(name: &str) -> Vec<u8> {
    let script = "import ssl,sys\nc=ssl.create_default_context()\nc.check_hostname=False\nc.verify_mode=ssl.CERT_NONE\ni=ssl.MemoryBIO();o=ssl.MemoryBIO()\n\
                  s=c.wrap_bio(i,o,server_hostname=sys.argv[1])\ntry: s.do_handshake()\nexcept ssl.SSLWantReadError: pass\nsys.stdout.buffer.write(o.read())";
    let made = Command::new("python3").args(["-c", script, name]).output().unwrap();
    assert!(made.status.success(), "{}", text(&made.stderr));
    made.stdout
}

#[test]
fn the_name_in_a_tls_greeting_must_be_the_one_that_was_asked_for() {
    // `localhost` is a name that resolves everywhere; its server is no TLS server, which does not matter to the exit.
    let (address, serving) = server(b"pong");
    let connect = format!("CONNECT localhost:{} HTTP/1.1\r\n\r\n", address.port());
    let rules = [format!("localhost:{}", address.port())];
    let (heard, ledger) = through(&rules, |exit| say(exit, &[connect.as_bytes(), &python_greeting("localhost")]));
    assert!(heard.ends_with(b"pong"), "control: {}", text(&heard));
    assert_eq!(ledger[0].verdict, Verdict::Allowed, "control: {ledger:?}");
    serving.join().unwrap();

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut seen = Vec::new();
        let _reset = stream.read_to_end(&mut seen);
        seen
    });
    let connect = format!("CONNECT localhost:{port} HTTP/1.1\r\n\r\n");
    let (_, ledger) = through(&[format!("localhost:{port}")], |exit| say(exit, &[connect.as_bytes(), &python_greeting("evil.example")]));
    assert_eq!(ledger[0].verdict, Verdict::Refused, "{ledger:?}");
    assert!(ledger[0].rule.contains("evil.example"), "{ledger:?}");
    assert_eq!(serving.join().unwrap(), b"", "not one byte of it reached the server");
}

#[test]
fn an_allowed_name_that_leads_inside_is_refused() {
    // The host's own name for loopback, allowed by a wildcard that does not name it.
    let resolves = Command::new("getent").args(["hosts", "inside.localhost"]).output();
    if !resolves
        .is_ok_and(|found| found.status.success() && text(&found.stdout).contains("127.0.0.1") | text(&found.stdout).contains("::1"))
    {
        eprintln!("skipped: this host's resolver does not lead *.localhost to loopback");
        return;
    }
    let (heard, ledger) = through(&["*.localhost:9".to_owned()], |exit| say(exit, &[b"CONNECT inside.localhost:9 HTTP/1.1\r\n\r\n"]));
    assert!(text(&heard).contains("loopback"), "{}", text(&heard));
    assert_eq!(ledger[0].verdict, Verdict::Refused);
}

#[test]
fn an_exit_that_closes_ends_its_connections() {
    let (address, _serving) = server(b"");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let exit_address = listener.local_addr().unwrap();
    let allowed = Allowed { destinations: vec![address.to_string().parse().unwrap()], ..Allowed::default() };
    let exit = runtime.block_on(async { Exit::open(sockets(listener), None, allowed, Arc::new(|_| {})).unwrap() });
    let mut stream = TcpStream::connect(exit_address).unwrap();
    stream.write_all(format!("CONNECT {address} HTTP/1.1\r\n\r\n").as_bytes()).unwrap();
    let mut heard = [0; 64];
    let read = stream.read(&mut heard).unwrap();
    assert!(text(&heard[..read]).starts_with("HTTP/1.1 200"));
    let ledger = runtime.block_on(exit.close());
    assert_eq!(ledger.len(), 1);
    assert_eq!(stream.read(&mut heard).unwrap_or(0), 0, "the connection is over");
    assert!(TcpStream::connect(exit_address).is_err(), "and nobody listens any more");
}

#[test]
fn a_real_client_fetches_through_the_exit() {
    let (address, serving) = server(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello");
    let (heard, ledger) = through(&[address.to_string()], |exit| {
        let script = "import sys,urllib.request as u\no=u.build_opener(u.ProxyHandler({'http':sys.argv[1]}))\nprint(o.open(sys.argv[2],timeout=20).read().decode())";
        let ran = Command::new("python3").args(["-c", script, &format!("http://{exit}"), &format!("http://{address}/x")]).output().unwrap();
        [ran.stdout, ran.stderr].concat()
    });
    assert_eq!(text(&heard), "hello\n");
    assert_eq!(ledger[0].verdict, Verdict::Allowed);
    serving.join().unwrap();
}

#[test]
fn a_service_of_the_agent_answers_to_its_name_and_writes_what_it_served() {
    use caisson_model::outcome::EgressKind;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use crate::egress::service::{Service, Visit};

    let serve = Arc::new(|mut visit: Visit| {
        let serving = async move {
            let mut head = vec![0; 4096];
            let read = visit.stream.read(&mut head).await.unwrap_or(0);
            let first = text(&head[..read]).lines().next().unwrap_or_default().to_owned();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{first}", first.len());
            visit.stream.write_all(answer.as_bytes()).await.unwrap();
            visit.stream.shutdown().await.unwrap();
            let entry = visit.scribe.entry(&visit.host, visit.port, Verdict::Allowed, "test".to_owned());
            visit.scribe.record(EgressEntry { received: 9, ..entry });
        };
        Box::pin(serving) as std::pin::Pin<Box<dyn Future<Output = ()> + Send>>
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let services = vec![Service { host: "packages.inside".to_owned(), port: 80, serve }];
    let allowed = Allowed { services, ..Allowed::default() };
    let exit = runtime.block_on(async { Exit::open(sockets(listener), None, allowed, Arc::new(|_| {})).unwrap() });
    let plain = text(&say(address, &[b"GET http://packages.inside/simple/ HTTP/1.1\r\n\r\n"]));
    assert!(plain.ends_with("\r\n\r\nGET /simple/ HTTP/1.1"), "{plain}");
    let tunnel = text(&say(address, &[b"CONNECT packages.inside:80 HTTP/1.1\r\n\r\n", b"GET /x HTTP/1.1\r\n\r\n"]));
    assert!(tunnel.starts_with("HTTP/1.1 200 Connection") && tunnel.ends_with("GET /x HTTP/1.1"), "{tunnel}");
    let other = text(&say(address, &[b"CONNECT packages.inside:443 HTTP/1.1\r\n\r\n"]));
    assert!(other.starts_with("HTTP/1.1 403"), "{other}");
    let ledger = runtime.block_on(exit.close());
    let kinds: Vec<_> = ledger.iter().map(|entry| (entry.kind, entry.received, entry.verdict)).collect();
    let served = (EgressKind::Package, 9, Verdict::Allowed);
    assert_eq!(kinds, [served, served, (EgressKind::Connection, 0, Verdict::Refused)]);
}
