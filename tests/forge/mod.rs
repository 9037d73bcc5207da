//! A forge on loopback: a scripted API in the words of one of three, with git's own server behind it, and a list of what was
//! reported to it.

// Each test program uses a part of it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic)]

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::asked::Asked;

/// Whose API it speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Github,
    Gitlab,
    /// Forgejo's is the same.
    Gitea,
}

pub struct Forge {
    pub port: u16,
    root: PathBuf,
    kind: Kind,
    /// What opens its repositories, where they are private.
    clone_token: Option<String>,
    /// Path and body of what was posted.
    posted: Mutex<Vec<(String, Value)>>,
    /// What those who cloned showed, one entry per request.
    shown: Mutex<Vec<Option<String>>>,
}

pub fn output(command: &mut Command, input: &[u8]) -> Vec<u8> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let bytes = input.to_vec();
    let writing = std::thread::spawn(move || stdin.write_all(&bytes));
    let output = child.wait_with_output().unwrap();
    // A program may end before it has read everything.
    let _ = writing.join().unwrap();
    output.stdout
}

pub fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap().trim().to_owned()
}

pub fn git(directory: &Path, words: &[&str]) -> String {
    let mut command = Command::new("git");
    command
        .current_dir(directory)
        .args(["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "init.defaultBranch=main"])
        .args(words);
    text(output(command.env("GIT_CONFIG_GLOBAL", "/dev/null"), b""))
}

fn base64(bytes: &[u8]) -> String {
    text(output(Command::new("base64").arg("-w0"), bytes))
}

impl Forge {
    pub fn start(root: PathBuf, kind: Kind, clone_token: Option<&str>) -> Arc<Forge> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let clone_token = clone_token.map(str::to_owned);
        let forge = Arc::new(Forge { port, root, kind, clone_token, posted: Mutex::default(), shown: Mutex::default() });
        let serving = forge.clone();
        // Ends with the test's process.
        drop(std::thread::spawn(move || {
            for stream in listener.incoming() {
                let forge = serving.clone();
                drop(std::thread::spawn(move || forge.answer(stream.unwrap())));
            }
        }));
        forge
    }

    fn answer(&self, mut stream: TcpStream) -> Option<()> {
        let asked = Asked::read(&stream)?;
        let header = |name: &str| asked.header(name);
        let answer = if let Some(path) = asked.path.strip_prefix("/git") {
            let shown = Some(header("authorization")).filter(|shown| !shown.is_empty());
            self.shown.lock().unwrap().push(shown.clone());
            let wanted = self.clone_token.as_ref().map(|token| format!("Basic {}", base64(format!("x-access-token:{token}").as_bytes())));
            if wanted.is_some() && shown != wanted {
                let refusal = "HTTP/1.1 401 x\r\nWWW-Authenticate: Basic realm=\"git\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                return stream.write_all(refusal.as_bytes()).ok();
            }
            asked.git(&self.root, path)?
        } else {
            let authorised = match self.kind {
                Kind::Github => header("authorization") == "Bearer forge-token",
                Kind::Gitea => header("authorization") == "token forge-token",
                Kind::Gitlab => header("private-token") == "forge-token",
            };
            let (status, text) = if authorised { self.api(&asked) } else { (401, String::new()) };
            format!(
                "HTTP/1.1 {status} x\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
                text.len()
            )
            .into_bytes()
        };
        stream.write_all(&answer).ok()
    }

    fn api(&self, Asked { method, path, query, body, .. }: &Asked) -> (u16, String) {
        let base = if self.kind == Kind::Gitlab { "/api/projects/acme%2Fshop/" } else { "/api/repos/acme/shop/" };
        let Some(path) = path.strip_prefix(base) else { return (404, String::new()) };
        if method == "POST" {
            self.posted.lock().unwrap().push((path.to_owned(), serde_json::from_slice(body).unwrap()));
            return (201, "{}".to_owned());
        }
        let bare = self.root.join("shop.git");
        let head = || git(&bare, &["rev-parse", "main"]);
        let file = |sha: &str| git(&bare, &["show", &format!("{sha}:.github/workflows/t.yml")]);
        let parameter = |wanted: &str| {
            query.split('&').filter_map(|pair| pair.split_once('=')).find(|(name, _)| *name == wanted).map(|(_, value)| value.to_owned())
        };
        let listing = || json!([{ "name": "t.yml" }, { "name": "notes.txt" }]).to_string();
        let sha = parameter("ref").unwrap_or_default();
        match (self.kind, path) {
            (Kind::Gitlab, "repository/tree") if parameter("path").as_deref() == Some(".github%2Fworkflows") => (200, listing()),
            (Kind::Gitlab, "repository/files/.github%2Fworkflows%2Ft.yml/raw") => (200, file(&sha)),
            (Kind::Gitlab, "repository/branches/main") => (200, json!({ "commit": { "id": head() } }).to_string()),
            (Kind::Gitlab, _) => (404, String::new()),
            (_, "pulls/1/files") => (200, json!([{ "filename": "data" }, { "filename": "docs/b.md" }]).to_string()),
            (_, "pulls/2/files") => (200, json!([{ "filename": "docs/b.md" }]).to_string()),
            (Kind::Gitea, "branches/main") => (200, json!({ "commit": { "id": head() } }).to_string()),
            (_, "branches/main") => (200, json!({ "commit": { "sha": head() } }).to_string()),
            (_, "contents/.github/workflows") => (200, listing()),
            (_, "contents/.github/workflows/t.yml") => (200, json!({ "content": base64(file(&sha).as_bytes()) }).to_string()),
            _ => (404, String::new()),
        }
    }

    /// State and name of every status of a commit, in the order in which they were reported.
    pub fn states(&self, sha: &str) -> Vec<(String, String)> {
        let posted = self.posted.lock().unwrap();
        let of = posted.iter().filter(|(path, _)| path.strip_prefix("statuses/") == Some(sha));
        let name = if self.kind == Kind::Gitlab { "name" } else { "context" };
        of.map(|(_, body)| (body["state"].as_str().unwrap().to_owned(), body[name].as_str().unwrap().to_owned())).collect()
    }

    /// Takes what those who cloned showed since this was asked last.
    pub fn shown(&self) -> Vec<Option<String>> {
        std::mem::take(&mut *self.shown.lock().unwrap())
    }
}

pub struct Ends(pub Vec<Child>);

impl Drop for Ends {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // A failed test must not leave them behind.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
