//! A server that speaks S3, of the tests' own: moto, from PyPI, with an empty bucket named `blobs`. Gone with this value.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The server.
pub(crate) struct BucketServer {
    pub(crate) endpoint: String,
    address: SocketAddr,
    child: Child,
}

impl Drop for BucketServer {
    fn drop(&mut self) {
        let _gone = (self.child.kill(), self.child.wait());
    }
}

fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let workspace = |root: &Path| root.join("target/moto/bin/moto_server");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut places = vec![workspace(root), workspace(&root.join(".."))];
    places.extend(std::env::split_paths(&path).map(|place| place.join("moto_server")));
    places.into_iter().find(|place| place.exists())
}

impl BucketServer {
    /// Starts it; `None`, and a word about it, where it is not installed.
    pub(crate) fn start() -> Option<BucketServer> {
        let Some(program) = program() else {
            let text = "skipped: no S3 server is installed; python3 -m venv target/moto && target/moto/bin/pip install 'moto[server]'";
            assert!(std::env::var_os("CI").is_none(), "{text}");
            // Standard error is shown although the test passes.
            let _shown = writeln!(std::io::stderr(), "{text}");
            return None;
        };
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut command = Command::new(program);
        command.args(["-H", "127.0.0.1", "-p", &address.port().to_string()]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let server = BucketServer { endpoint: format!("http://{address}"), address, child };
        let begun = Instant::now();
        while !server.put("/blobs", b"").is_some_and(|answer| answer.contains("200 OK")) {
            assert!(begun.elapsed() < Duration::from_secs(120), "the S3 server did not start");
            std::thread::sleep(Duration::from_millis(100));
        }
        Some(server)
    }

    /// Puts something by hand; what was answered.
    pub(crate) fn put(&self, path: &str, content: &[u8]) -> Option<String> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        let head =
            format!("PUT {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", self.address, content.len());
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(content).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    /// What a program needs in its environment to use it.
    pub(crate) fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("AWS_ENDPOINT_URL_S3", self.endpoint.clone()),
            ("AWS_ACCESS_KEY_ID", "testing".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "testing".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
        ]
    }
}
