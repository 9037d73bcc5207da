//! A package index of a test's own: a web server on loopback with two versions of `demo`, as a Python index and as an npm registry,
//! that lets in only whom it knows, and that can be made to lie.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

/// The user that an index with a password knows.
pub const LOGIN: &str = "build";
/// The newest wheel.
pub const WHEEL: &str = "demo-2.0-py3-none-any.whl";

/// In what an index lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trick {
    None,
    /// Files are other than their digests.
    Tamper,
    /// Files go on after their end, without a length.
    Lengthen,
    /// It does not say since when it has a file.
    Silent,
}

pub struct Index {
    pub address: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
    closed: Arc<AtomicBool>,
}

/// Runs Python for its output.
fn python(code: &str, input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("/usr/bin/python3").args(["-c", code]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    output.stdout
}

/// A wheel of `demo`, always the same bytes.
pub fn wheel(version: &str) -> Vec<u8> {
    static WHEELS: OnceLock<Mutex<std::collections::HashMap<String, Vec<u8>>>> = OnceLock::new();
    let mut wheels = WHEELS.get_or_init(Mutex::default).lock().unwrap();
    let code = "import io, sys, zipfile\nv = sys.stdin.read()\nb = io.BytesIO()\nz = zipfile.ZipFile(b, 'w')\ni = f'demo-{v}.dist-info'\n\
        files = {'demo.py': 'x = 1\\n', i + '/METADATA': f'Metadata-Version: 2.1\\nName: demo\\nVersion: {v}\\n', \
        i + '/WHEEL': 'Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n'}\n\
        files[i + '/RECORD'] = ''.join(f'{n},,\\n' for n in list(files) + [i + '/RECORD'])\n\
        [z.writestr(zipfile.ZipInfo(n), t) for n, t in files.items()]\nz.close()\nsys.stdout.buffer.write(b.getvalue())";
    wheels.entry(version.to_owned()).or_insert_with(|| python(code, version.as_bytes())).clone()
}

fn tarball() -> Vec<u8> {
    static TARBALL: OnceLock<Vec<u8>> = OnceLock::new();
    let code = "import gzip, io, sys, tarfile\nb = io.BytesIO()\nt = tarfile.open(fileobj=b, mode='w')\n\
        for n, s in {'package/package.json': '{\"name\": \"@team/demo\", \"version\": \"1.0.0\", \"main\": \"index.js\"}', 'package/index.js': \"console.log('demo speaks')\\n\"}.items():\n\
        \x20   i = tarfile.TarInfo(n)\n    i.size = len(s)\n    i.mode = 0o644\n    t.addfile(i, io.BytesIO(s.encode()))\nt.close()\nsys.stdout.buffer.write(gzip.compress(b.getvalue(), mtime=0))";
    TARBALL.get_or_init(|| python(code, b"")).clone()
}

fn hashed(algorithm: &str, form: &str, bytes: &[u8]) -> String {
    let code = format!(
        "import base64, hashlib, sys\nh = hashlib.{algorithm}(sys.stdin.buffer.read())\nprint(h.hexdigest() if '{form}' == 'hex' else base64.b64encode(h.digest()).decode(), end='')"
    );
    String::from_utf8(python(&code, bytes)).unwrap()
}

pub fn encoded(text: &str) -> String {
    String::from_utf8(python("import base64, sys\nprint(base64.b64encode(sys.stdin.buffer.read()).decode(), end='')", text.as_bytes()))
        .unwrap()
}

/// The value of an `Authorization` header without its first word.
pub fn basic(user: &str, password: &str) -> String {
    encoded(&format!("{user}:{password}"))
}

impl Index {
    pub fn open(password: Option<&str>, trick: Trick) -> Index {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        let closed = Arc::new(AtomicBool::new(false));
        let site = Site {
            expected: password.map(|password| format!("authorization: basic {}", basic(LOGIN, password).to_ascii_lowercase())),
            trick,
            address,
            digests: [hashed("sha256", "hex", &wheel("1.0")), hashed("sha256", "hex", &wheel("2.0"))],
            integrity: hashed("sha512", "base64", &tarball()),
        };
        let (served, gone) = (Arc::clone(&log), Arc::clone(&closed));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if gone.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(mut stream) = stream else { continue };
                site.serve(&mut stream, &served);
            }
        });
        Index { address, log, closed }
    }

    pub fn requests(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    pub fn requests_of(&self, file: &str) -> usize {
        self.requests().iter().filter(|request| request.contains(file) && request.ends_with("let in")).count()
    }

    pub fn digest(&self) -> String {
        hashed("sha256", "hex", &wheel("2.0"))
    }

    /// From now on nobody listens.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        // The listener is dropped by its thread once this connection has woken it.
        drop(TcpStream::connect(self.address));
        while TcpStream::connect(self.address).is_ok() {
            std::thread::yield_now();
        }
    }

    /// What it answers directly.
    pub fn ask(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }
}

struct Site {
    expected: Option<String>,
    trick: Trick,
    address: SocketAddr,
    digests: [String; 2],
    integrity: String,
}

impl Site {
    fn serve(&self, stream: &mut TcpStream, log: &Mutex<Vec<String>>) {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read(&mut byte) {
                Ok(1) if head.len() < 20_000 => head.push(byte[0]),
                _ => return,
            }
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let first = head.lines().next().unwrap_or_default().to_owned();
        let known = self.expected.as_ref().is_none_or(|expected| head.lines().any(|line| line.to_ascii_lowercase() == *expected));
        log.lock().unwrap().push(format!("{first} {}", if known { "let in" } else { "turned away" }));
        let path = first.split(' ').nth(1).unwrap_or_default();
        let (status, kind, body) = match () {
            () if !known => ("401 Unauthorized", "text/plain", b"who are you".to_vec()),
            () => self.page(path),
        };
        let lengthen = self.trick == Trick::Lengthen && path.starts_with("/files/");
        let length = if lengthen { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let answer = format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{length}Connection: close\r\n\r\n");
        let _ = stream.write_all(answer.as_bytes());
        let _ = stream.write_all(&body);
        if lengthen {
            let _ = stream.write_all(b"TAMPERED");
        }
    }

    fn page(&self, path: &str) -> (&'static str, &'static str, Vec<u8>) {
        const OK: &str = "200 OK";
        let file = |version: &str, digest: &str, day: &str| {
            let time = if self.trick == Trick::Silent { String::new() } else { format!(", \"upload-time\": \"{day}T12:00:00Z\"") };
            let name = format!("demo-{version}-py3-none-any.whl");
            format!("{{\"filename\": \"{name}\", \"url\": \"/files/{name}\", \"hashes\": {{\"sha256\": \"{digest}\"}}{time}}}")
        };
        match path {
            "/simple/demo/" => {
                let files = [file("1.0", &self.digests[0], "2024-01-01"), file("2.0", &self.digests[1], "2024-03-01")].join(", ");
                let page = format!("{{\"meta\": {{\"api-version\": \"1.0\"}}, \"name\": \"demo\", \"files\": [{files}]}}");
                (OK, "application/vnd.pypi.simple.v1+json", page.into_bytes())
            }
            "/private" => (OK, "text/plain", b"private".to_vec()),
            "/@team%2fdemo" => {
                let dist = format!(
                    "{{\"tarball\": \"http://{}/@team/demo/-/demo-1.0.0.tgz\", \"integrity\": \"sha512-{}\"}}",
                    self.address, self.integrity
                );
                let page = format!(
                    "{{\"name\": \"@team/demo\", \"dist-tags\": {{\"latest\": \"1.0.0\"}}, \"versions\": {{\"1.0.0\": {{\"name\": \"@team/demo\", \"version\": \"1.0.0\", \"dist\": {dist}}}}}}}"
                );
                (OK, "application/json", page.into_bytes())
            }
            "/@team/demo/-/demo-1.0.0.tgz" => (OK, "application/octet-stream", tarball()),
            path => match path.strip_prefix("/files/demo-").and_then(|rest| rest.strip_suffix("-py3-none-any.whl")) {
                Some(version) => {
                    let mut bytes = wheel(version);
                    if self.trick == Trick::Tamper {
                        let end = bytes.len();
                        bytes[end - 8..].copy_from_slice(b"TAMPERED");
                    }
                    (OK, "application/octet-stream", bytes)
                }
                None => ("404 Not Found", "text/plain", b"no".to_vec()),
            },
        }
    }
}
