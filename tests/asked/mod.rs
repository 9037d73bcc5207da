//! One HTTP request as a server of the tests has it, and git's own server side as its answer.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

/// What was asked.
pub struct Asked {
    pub method: String,
    pub path: String,
    pub query: String,
    pub body: Vec<u8>,
    headers: Vec<(String, String)>,
}

impl Asked {
    /// `None` where the client went away.
    pub fn read(stream: &TcpStream) -> Option<Asked> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let (method, target) = (line.split(' ').next()?.to_owned(), line.split(' ').nth(1)?.to_owned());
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim().split_once(": ") else { break };
            headers.push((name.to_lowercase(), value.to_owned()));
        }
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let mut asked = Asked { method, path: path.to_owned(), query: query.to_owned(), body: Vec::new(), headers };
        asked.body = vec![0; asked.header("content-length").parse().unwrap_or(0)];
        reader.read_exact(&mut asked.body).ok()?;
        Some(asked)
    }

    /// A header by its name in small letters; empty without one.
    pub fn header(&self, wanted: &str) -> String {
        self.headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone()).unwrap_or_default()
    }

    /// The whole answer of git's server side for `path` below `root`.
    pub fn git(&self, root: &Path, path: &str) -> Option<Vec<u8>> {
        let mut backend = Command::new("git")
            .arg("http-backend")
            .env("GIT_PROJECT_ROOT", root)
            .env("GIT_HTTP_EXPORT_ALL", "1")
            .env("PATH_INFO", path)
            .env("REQUEST_METHOD", &self.method)
            .env("QUERY_STRING", &self.query)
            .env("CONTENT_TYPE", self.header("content-type"))
            .env("CONTENT_LENGTH", self.body.len().to_string())
            .env("HTTP_CONTENT_ENCODING", self.header("content-encoding"))
            .env("GIT_PROTOCOL", self.header("git-protocol"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        backend.stdin.take()?.write_all(&self.body).ok()?;
        let said = backend.wait_with_output().ok()?.stdout;
        let end = said.windows(4).position(|window| window == b"\r\n\r\n")?;
        let status = String::from_utf8_lossy(&said[..end]).lines().find_map(|line| Some(line.strip_prefix("Status: ")?.to_owned()));
        let first = format!("HTTP/1.1 {}\r\nConnection: close\r\n", status.unwrap_or_else(|| "200 OK".to_owned()));
        Some([first.as_bytes(), &said].concat())
    }
}
