//! The policed exit between real clients and real servers, and against hostile ones. Each refusal has a control that passes.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use caisson_agent::egress::Exit;
use caisson_agent::egress::rules::Allowed;
use caisson_model::outcome::{EgressEntry, EgressPhase, Verdict};
use caisson_sandbox::sockets::Sockets;

const DEADLINE: Duration = Duration::from_secs(20);

fn sockets(listener: TcpListener) -> Sockets {
    Sockets { listeners: vec![listener.into()], ..Sockets::default() }
}

/// An exit on loopback with a runtime of its own.
struct Door {
    runtime: tokio::runtime::Runtime,
    exit: Option<Exit>,
    address: SocketAddr,
    told: Arc<Mutex<Vec<EgressEntry>>>,
}

impl Door {
    fn open(destinations: &[String]) -> Door {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let destinations = destinations.iter().map(|text| text.parse().unwrap()).collect();
        let allowed = Allowed { destinations, reason: "test".to_owned(), ..Allowed::default() };
        let told = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&told);
        let tell = Arc::new(move |entry: &EgressEntry| {
            // Told when it opens as well, which the ledger does not keep.
            if entry.phase == EgressPhase::Ended {
                sink.lock().unwrap().push(entry.clone());
            }
        });
        let exit = runtime.block_on(async { Exit::open(sockets(listener), None, allowed, tell).unwrap() });
        Door { runtime, exit: Some(exit), address, told }
    }

    fn close(mut self) -> Vec<EgressEntry> {
        let exit = self.exit.take().unwrap();
        let begun = Instant::now();
        let entries = self.runtime.block_on(exit.close());
        assert!(begun.elapsed() < Duration::from_secs(2), "closing took {:?}", begun.elapsed());
        assert_eq!(entries, *self.told.lock().unwrap(), "the sink heard something else");
        entries
    }

    /// Everything that is answered to these bytes.
    fn say(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = connect(self.address);
        stream.write_all(bytes).unwrap();
        let mut heard = Vec::new();
        // A cut connection may end with a reset: what was heard before counts.
        let _reset = stream.read_to_end(&mut heard);
        heard
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < DEADLINE, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A process that ends with the test.
struct Server {
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.child.kill().is_ok();
        let _reaped = self.child.wait().is_ok();
    }
}

/// Python's own web server on a directory; with TLS where a certificate is given.
fn serve(directory: &Path, certificate: Option<&Path>) -> Server {
    let script = "import http.server,ssl,sys,functools\n\
        h=functools.partial(http.server.SimpleHTTPRequestHandler,directory=sys.argv[1])\n\
        s=http.server.ThreadingHTTPServer(('127.0.0.1',0),h)\n\
        if len(sys.argv)>2:\n    c=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER);c.load_cert_chain(sys.argv[2]);s.socket=c.wrap_socket(s.socket,server_side=True)\n\
        print(s.server_address[1],flush=True)\ns.serve_forever()";
    let mut command = Command::new("python3");
    command.args(["-c", script]).arg(directory).args(certificate).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    Server { port: line.trim().parse().unwrap_or_else(|_| panic!("the server said {line:?}")), child }
}

/// Runs a client with nothing of our own environment but where programs are; `None` (said aloud) when there is no such program.
fn run(home: &Path, program: &str, args: &[&str]) -> Option<(bool, String)> {
    let path = std::env::var_os("PATH").unwrap();
    match Command::new(program).args(args).env_clear().env("PATH", path).env("HOME", home).output() {
        Ok(ran) => {
            Some((ran.status.success(), format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr))))
        }
        Err(error) => {
            eprintln!("skipped: {program}: {error}");
            None
        }
    }
}

/// A package index in `directory` with one wheel, and what is needed to serve it as `localhost` by TLS.
fn index(directory: &Path) -> Option<std::path::PathBuf> {
    let wheel = "import sys,zipfile,os\nos.makedirs('simple/demo-pkg');n='demo_pkg-1.0-py3-none-any.whl'\n\
        z=zipfile.ZipFile(n,'w');d='demo_pkg-1.0.dist-info/'\n\
        z.writestr('demo_pkg.py','x = 1\\n');z.writestr(d+'METADATA','Metadata-Version: 2.1\\nName: demo-pkg\\nVersion: 1.0\\n')\n\
        z.writestr(d+'WHEEL','Wheel-Version: 1.0\\nGenerator: t\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n\
        z.writestr(d+'RECORD','demo_pkg.py,,\\n'+d+'METADATA,,\\n'+d+'WHEEL,,\\n'+d+'RECORD,,\\n');z.close()\n\
        open('simple/demo-pkg/index.html','w').write(f'<a href=\"/{n}\">{n}</a>')";
    assert!(Command::new("python3").args(["-c", wheel]).current_dir(directory).status().unwrap().success());
    let pem = directory.join("server.pem");
    let args = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout key.pem -out cert.pem";
    let made = Command::new("openssl").args(args.split(' ')).current_dir(directory).output();
    if !made.is_ok_and(|made| made.status.success()) {
        eprintln!("skipped: openssl made no certificate");
        return None;
    }
    let parts = ["key.pem", "cert.pem"].map(|name| std::fs::read(directory.join(name)).unwrap());
    std::fs::write(&pem, parts.concat()).unwrap();
    Some(pem)
}

#[test]
fn real_clients_reach_what_is_allowed_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let Some(pem) = index(directory.path()) else { return };
    let cert = directory.path().join("cert.pem").display().to_string();
    let (tls, plain) = (serve(directory.path(), Some(&pem)), serve(directory.path(), None));
    let (https, http) = (format!("https://localhost:{}", tls.port), format!("http://localhost:{}", plain.port));
    let page = "/simple/demo-pkg/index.html";
    let python = "import sys,ssl,urllib.request as u\n\
        o=u.build_opener(u.ProxyHandler({'http':sys.argv[1],'https':sys.argv[1]}),u.HTTPSHandler(context=ssl.create_default_context(cafile=sys.argv[3])))\n\
        print(o.open(sys.argv[2],timeout=20).read().decode())";
    let allowed = [format!("localhost:{}", tls.port), format!("localhost:{}", plain.port)];
    for open in [true, false] {
        let destinations: &[String] = if open { &allowed } else { &[] };
        let check = |name: &str, port: u16, client: &dyn Fn(&str) -> Option<(bool, String)>, expected: &str| {
            let door = Door::open(destinations);
            let Some((passed, said)) = client(&door.address.to_string()) else { return };
            let ledger = door.close();
            assert_eq!((passed, passed && said.contains(expected)), (open, open), "{name}: {said}");
            let verdict = if open { Verdict::Allowed } else { Verdict::Refused };
            assert!(!ledger.is_empty(), "{name}: nothing was recorded");
            for entry in &ledger {
                assert_eq!((entry.host.as_str(), entry.port, entry.verdict), ("localhost", port, verdict), "{name}: {ledger:?}");
                assert_eq!(entry.sent > 0 && entry.received > 0, open, "{name}: {ledger:?}");
            }
        };
        let home = directory.path();
        let urls = [(format!("{https}{page}"), tls.port), (format!("{http}{page}"), plain.port)];
        for (url, port) in &urls {
            let python = |exit: &str| run(home, "python3", &["-c", python, &format!("http://{exit}"), url, &cert]);
            check("urllib", *port, &python, "demo_pkg-1.0");
            for scheme in ["http", "socks5h"] {
                let proxy = |exit: &str| format!("{scheme}://{exit}");
                let curl = |exit: &str| run(home, "curl", &["-sSf", "-m", "20", "--cacert", &cert, "-x", &proxy(exit), url]);
                check("curl", *port, &curl, "demo_pkg-1.0");
            }
            let wget = |exit: &str| {
                let proxy = format!("http_proxy=http://{exit}");
                let (proxies, ca) = (proxy.replace("http_proxy", "https_proxy"), format!("--ca-certificate={cert}"));
                run(home, "wget", &["-q", "-O-", "-T", "20", "-t", "1", "-e", &proxy, "-e", &proxies, "-e", "use_proxy=yes", &ca, url])
            };
            check("wget", *port, &wget, "demo_pkg-1.0");
        }
        if !run(home, "python3", &["-m", "pip", "--version"]).is_some_and(|(there, _)| there) {
            eprintln!("skipped: python3 has no pip");
            continue;
        }
        let pip = |exit: &str| {
            let (index, proxy, to) = (format!("{https}/simple"), format!("http://{exit}"), home.join("got").display().to_string());
            let fixed = [
                "-m",
                "pip",
                "--isolated",
                "--disable-pip-version-check",
                "--retries",
                "0",
                "--timeout",
                "20",
                "download",
                "--no-deps",
                "--no-cache-dir",
            ];
            run(home, "python3", &[&fixed[..], &["--cert", &cert, "--proxy", &proxy, "-i", &index, "-d", &to, "demo-pkg"]].concat())
        };
        check("pip", tls.port, &pip, "demo_pkg-1.0");
        assert!(directory.path().join("got/demo_pkg-1.0-py3-none-any.whl").exists());
    }
}

#[test]
fn hostile_requests_are_refused_and_reach_nobody() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let host = format!("localhost:{port}");
    let plain = |head: &str| format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n{head}\r\n").into_bytes();
    let connect = |target: &str| format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").into_bytes();
    let large = format!("X: {}\r\n", "x".repeat(17 * 1024));
    let many = "X: y\r\n".repeat(200);
    let table: Vec<(&str, Vec<u8>)> = vec![
        ("another port", connect("localhost:1")),
        ("the address of an allowed name", connect(&format!("127.0.0.1:{port}"))),
        ("the address in IPv6 form", connect(&format!("[::ffff:127.0.0.1]:{port}"))),
        ("the address as a number", connect(&format!("2130706433:{port}"))),
        ("the address in short", connect(&format!("127.1:{port}"))),
        ("a name below", connect(&format!("a.localhost:{port}"))),
        ("a name with a null", connect(&format!("localhost\0.evil:{port}"))),
        ("metadata", connect("169.254.169.254:80")),
        ("no port", connect("localhost")),
        ("user information", connect(&format!("u:p@localhost:{port}"))),
        ("another Host", format!("GET http://{host}/ HTTP/1.1\r\nHost: evil.example\r\n\r\n").into()),
        ("another Host's port", format!("GET http://{host}/ HTTP/1.1\r\nHost: localhost:1\r\n\r\n").into()),
        ("two Hosts", plain("Host: evil.example\r\n")),
        ("two lengths", plain("Content-Length: 0\r\nContent-Length: 5\r\n")),
        ("a list of lengths", plain("Content-Length: 0, 5\r\n")),
        ("chunks and a length", plain("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n")),
        ("disguised chunks", plain("Transfer-Encoding: xchunked\r\n")),
        ("a space before the colon", plain("Content-Length : 5\r\n")),
        ("a folded header", plain("X: y\r\n Host: evil.example\r\n")),
        ("a bare line feed", format!("GET http://{host}/ HTTP/1.1\nHost: {host}\n\n").into()),
        ("a bare carriage return", plain("X: y\rHost: evil.example\r\n")),
        ("a head too large", plain(&large)),
        ("too many headers", plain(&many)),
        ("origin form", format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").into()),
        ("another scheme", format!("GET ftp://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n").into()),
        ("TLS to the exit itself", vec![22, 3, 1, 0, 5, 1, 0, 0, 1, 0, b'\r', b'\n', b'\r', b'\n']),
        ("a space in the target", format!("GET http://{host}/a b HTTP/1.1\r\n\r\n").into()),
    ];
    let door = Door::open(&[host.clone(), "*.localhost:2".to_owned()]);
    for (what, bytes) in &table {
        let heard = String::from_utf8_lossy(&door.say(bytes)).into_owned();
        assert!(heard.starts_with("HTTP/1.1 403 ") && heard.contains("caisson: refused: "), "{what}: {heard:?}");
    }
    let socks: [(&str, Vec<u8>); 3] = [
        ("an address", [&[5, 1, 0, 5, 1, 0, 1, 127, 0, 0, 1][..], &port.to_be_bytes()].concat()),
        ("another port", [&[5, 1, 0, 5, 1, 0, 3, 9][..], b"localhost", &[0, 1]].concat()),
        ("a listener", [&[5, 1, 0, 5, 2, 0, 3, 9][..], b"localhost", &port.to_be_bytes()].concat()),
    ];
    for (what, bytes) in &socks {
        assert_eq!(door.say(bytes), [&[5, 0][..], &[5, 2, 0, 1, 0, 0, 0, 0, 0, 0]].concat(), "SOCKS: {what}");
    }
    let ledger = door.close();
    assert_eq!(ledger.len(), table.len() + socks.len());
    assert!(ledger.iter().all(|entry| entry.verdict == Verdict::Refused && entry.sent + entry.received == 0), "{ledger:?}");
    server.set_nonblocking(true).unwrap();
    assert!(server.accept().is_err(), "somebody reached the server");

    // Control: the same server is reached by who asks for it rightly.
    let door = Door::open(std::slice::from_ref(&host));
    let mut stream = TcpStream::connect(door.address).unwrap();
    stream.write_all(&plain("")).unwrap();
    until("the allowed request", || server.accept().is_ok());
}

#[test]
fn a_name_that_leads_inside_is_refused_with_the_line_that_would_allow_it() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    // No address literal by the rules of policy, but every resolver leads it to loopback.
    let door = Door::open(&[format!("127.1:{port}")]);
    let heard = String::from_utf8(door.say(format!("CONNECT 127.1:{port} HTTP/1.1\r\n\r\n").as_bytes())).unwrap();
    assert!(
        heard.starts_with("HTTP/1.1 403 ") && heard.contains("loopback") && heard.contains("add \"127.0.0.1/32\" to `ranges`"),
        "{heard}"
    );
    let ledger = door.close();
    assert_eq!((ledger[0].verdict, ledger[0].address.as_deref()), (Verdict::Refused, Some("127.0.0.1")));
    server.set_nonblocking(true).unwrap();
    assert!(server.accept().is_err(), "the server was dialled");
}

#[test]
fn a_flood_of_silent_connections_is_bounded_and_passes() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = server.local_addr().unwrap();
    let door = Door::open(&[target.to_string()]);
    let flood: Vec<TcpStream> = (0..600).map(|_| connect(door.address)).collect();
    until("refusals of what is too much", || door.told.lock().unwrap().len() >= 88);
    assert!(door.told.lock().unwrap().iter().all(|entry| entry.rule.contains("512 connections")));
    drop(flood);
    until("a connection after the flood", || {
        let mut stream = connect(door.address);
        let mut heard = [0; 12];
        stream.write_all(format!("CONNECT {target} HTTP/1.1\r\n\r\n").as_bytes()).is_ok()
            && stream.read_exact(&mut heard).is_ok()
            && heard == *b"HTTP/1.1 200"
    });
    // Neither a client that says nothing nor one that will not hear its refusal delays the end.
    let _silent = connect(door.address);
    let mut deaf = connect(door.address);
    deaf.write_all(b"CONNECT evil.example:443 HTTP/1.1\r\n\r\n").unwrap();
    until("the refusal", || door.told.lock().unwrap().iter().any(|entry| entry.host == "evil.example"));
    door.close();
}

#[test]
fn each_side_may_end_its_half_first() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = server.local_addr().unwrap();
    let serving = std::thread::spawn(move || {
        let (mut stream, _) = server.accept().unwrap();
        let mut seen = Vec::new();
        stream.read_to_end(&mut seen).unwrap();
        stream.write_all(&vec![b'y'; 3 << 20]).unwrap();
        seen.len()
    });
    let door = Door::open(&[target.to_string()]);
    let mut stream = connect(door.address);
    stream.write_all(format!("CONNECT {target} HTTP/1.1\r\n\r\n").as_bytes()).unwrap();
    let mut head = [0; 39];
    stream.read_exact(&mut head).unwrap();
    stream.write_all(&vec![b'x'; 2 << 20]).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).unwrap();
    assert_eq!((serving.join().unwrap(), heard.len()), (2 << 20, 3 << 20));
    until("the entry", || !door.told.lock().unwrap().is_empty());
    let ledger = door.close();
    assert_eq!((ledger[0].sent, ledger[0].received), (2 << 20, 3 << 20));
}
