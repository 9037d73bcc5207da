//! `actions/checkout` with its inputs: parts of the run's own tree, revisions of its history, and other repositories from a real
//! git server.

#![allow(clippy::unwrap_used, clippy::panic)]

mod place;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use place::Place;

/// Serves the repositories of a folder with git's own server side; ends with the test's process.
fn serve(root: PathBuf) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(std::thread::spawn(move || {
        for stream in listener.incoming() {
            let root = root.clone();
            drop(std::thread::spawn(move || answer(stream.unwrap(), &root)));
        }
    }));
    port
}

fn answer(mut stream: TcpStream, root: &Path) -> Option<()> {
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
    let header = |wanted: &str| headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone()).unwrap_or_default();
    let mut body = vec![0; header("content-length").parse().unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let mut backend = Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("PATH_INFO", path)
        .env("REQUEST_METHOD", &method)
        .env("QUERY_STRING", query)
        .env("CONTENT_TYPE", header("content-type"))
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("GIT_PROTOCOL", header("git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    backend.stdin.take()?.write_all(&body).ok()?;
    let said = backend.wait_with_output().ok()?.stdout;
    let end = said.windows(4).position(|window| window == b"\r\n\r\n")?;
    let status = String::from_utf8_lossy(&said[..end]).lines().find_map(|line| Some(line.strip_prefix("Status: ")?.to_owned()));
    let first = format!("HTTP/1.1 {}\r\nConnection: close\r\n", status.unwrap_or_else(|| "200 OK".to_owned()));
    stream.write_all(&[first.as_bytes(), &said].concat()).ok()
}

/// A repository with folders, a tag and a second commit.
fn repository(at: &Path) {
    std::fs::create_dir_all(at).unwrap();
    let write = |path: &str, text: &str| {
        let path = at.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    git(at, &["init", "-q", "-b", "main"]);
    for path in ["top", "docs/a", "src/app/x", "src/lib/y"] {
        write(path, "one\n");
    }
    git(at, &["add", "."]);
    git(at, &["commit", "-qm", "first"]);
    git(at, &["tag", "v1"]);
    write("src/app/x", "two\n");
    git(at, &["commit", "-qam", "second"]);
}

fn git(at: &Path, words: &[&str]) -> String {
    let identity = ["-c", "user.name=a", "-c", "user.email=a@example.com"];
    let output = Command::new("git")
        .arg("-C")
        .arg(at)
        .args(identity)
        .args(words)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .output()
        .unwrap();
    assert!(output.status.success(), "git {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn parts_and_revisions_of_the_own_tree() {
    let workflow = r#"
on: push
jobs:
  cone:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
        with: { sparse-checkout: src/app, fetch-depth: 0, persist-credentials: false }
      - run: echo "has $(git ls-files -v | grep -c ^S) hidden"; find . -path ./.git -prune -o -type f -print | sort | tr '\n' ' '
  patterns:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
        with:
          sparse-checkout: |
            /docs/
            /src/lib/y
          sparse-checkout-cone-mode: false
          path: part
      - run: cd part && find . -path ./.git -prune -o -type f -print | sort | tr '\n' ' '
  revision:
    runs-on: ubuntu-latest
    steps:
      - id: c
        uses: actions/checkout@v4
        with: { ref: v1 }
      - run: echo "at $(cat src/app/x) ${{ steps.c.outputs.ref }} ${{ steps.c.outputs.commit }}"
"#;
    let place = Place::with(workflow);
    repository(&place.checkout());
    let first = git(&place.checkout(), &["rev-parse", "v1"]);
    let run = place.run(&[]);
    run.expect(0);
    assert!(run.log("cone").contains("has 3 hidden\n./src/app/x ./top"), "{}", run.log("cone"));
    assert!(run.log("patterns").contains("./docs/a ./src/lib/y"), "{}", run.log("patterns"));
    assert!(!run.log("patterns").contains("./top"), "{}", run.log("patterns"));
    assert!(run.log("revision").contains(&format!("at one v1 {first}")), "{}", run.log("revision"));
}

#[test]
fn another_repository_comes_from_its_server_where_policy_lets_the_step() {
    let place = Place::new();
    repository(&place.path().join("served/acme/lib"));
    let (head, tagged) = {
        let at = place.path().join("served/acme/lib");
        (git(&at, &["rev-parse", "HEAD"]), git(&at, &["rev-parse", "v1"]))
    };
    let port = serve(place.path().join("served"));
    let workflow = r#"
on: push
jobs:
  whole:
    runs-on: ubuntu-latest
    steps:
      - id: c
        uses: actions/checkout@v4
        with: { repository: acme/lib, github-server-url: "http://localhost:PORT", path: lib, fetch-depth: 0 }
      - run: echo "whole $(git -C lib rev-list --count HEAD) $(cat lib/src/app/x) ${{ steps.c.outputs.commit }}"
  tag:
    runs-on: ubuntu-latest
    steps:
      - id: c
        uses: actions/checkout@v4
        with: { repository: acme/lib, github-server-url: "http://localhost:PORT", path: lib, ref: v1, sparse-checkout: docs }
      - run: echo "tag $(git -C lib rev-list --count HEAD) ${{ steps.c.outputs.ref }} ${{ steps.c.outputs.commit }}"; cd lib; ls -d docs src top
        continue-on-error: true
"#;
    place.write(".github/workflows/t.yml", &workflow.replace("PORT", &port.to_string()));
    let refused = place.run(&[]);
    assert!(refused.code == 2 && refused.errors.contains("may not reach localhost"), "{}", refused.errors);
    place.write("../policy.toml", &format!("[[step]]\nstep = \"*checkout*\"\nallow = [\"localhost:{port}\"]\n"));
    let policy = place.path().join("policy.toml");
    let run = place.run(&["--policy", policy.to_str().unwrap()]);
    run.expect(0);
    assert!(run.log("whole").contains(&format!("whole 2 two {head}")), "{}", run.log("whole"));
    assert!(run.log("tag").contains(&format!("tag 1 v1 {tagged}")), "{}", run.log("tag"));
    assert!(run.log("tag").contains("docs\ntop") && run.log("tag").contains("cannot access 'src'"), "{}", run.log("tag"));
}
