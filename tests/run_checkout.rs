//! `actions/checkout` with its inputs: parts of the run's own tree, revisions of its history, and other repositories from a real
//! git server.

#![allow(clippy::unwrap_used, clippy::panic)]

mod asked;
mod place;

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use asked::Asked;
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
    let asked = Asked::read(&stream)?;
    stream.write_all(&asked.git(root, &asked.path)?).ok()
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
