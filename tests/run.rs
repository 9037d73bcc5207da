//! `caisson run` on small checkouts: the language, secrets, the network, policy, cancelling, and the same over gRPC.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const CAISSON: &str = env!("CARGO_BIN_EXE_caisson");

/// A checkout with one workflow, and a home of its own.
struct Checkout {
    root: tempfile::TempDir,
}

impl Checkout {
    fn new(workflow: &str) -> Checkout {
        let root = tempfile::Builder::new().prefix("caisson-test-").tempdir().unwrap();
        fs::create_dir_all(root.path().join("project/.github/workflows")).unwrap();
        fs::create_dir(root.path().join("home")).unwrap();
        fs::write(root.path().join("project/.github/workflows/test.yml"), workflow).unwrap();
        Checkout { root }
    }

    fn project(&self) -> PathBuf {
        self.root.path().join("project")
    }

    fn write(&self, path: &str, content: &str) {
        let path = self.project().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn git(&self, arguments: &[&str]) {
        let made = Command::new("git")
            .current_dir(self.project())
            .env("HOME", self.root.path().join("home"))
            .args(["-c", "user.name=t", "-c", "user.email=t@t.invalid"])
            .args(arguments)
            .output()
            .unwrap();
        assert!(made.status.success(), "git {arguments:?}: {}", text(&made.stderr));
    }

    /// `caisson ...` with nothing of the caller's environment but what is needed to find programs.
    fn caisson(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(CAISSON);
        command.current_dir(self.project()).env_clear().stdin(Stdio::null()).args(arguments);
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", self.root.path().join("home"));
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.caisson(&["run"]).args(arguments).output().unwrap()
    }

    /// Runs with `--json`; answers with the lines and the exit code.
    fn lines(&self, arguments: &[&str]) -> (Vec<Value>, i32) {
        let output = self.run(&[&["--json"], arguments].concat());
        let lines = text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect();
        (lines, output.status.code().unwrap_or_else(|| panic!("{}", text(&output.stderr))))
    }

    /// Every file below the state directory and the home, searched for bytes.
    fn holds(&self, needle: &str) -> Vec<PathBuf> {
        let found = walkdir::WalkDir::new(self.root.path().join("home"))
            .into_iter()
            .filter_map(Result::ok)
            .filter(|entry| entry.file_type().is_file());
        found
            .filter(|entry| fs::read(entry.path()).is_ok_and(|bytes| text(&bytes).contains(needle)))
            .map(|entry| entry.into_path())
            .collect()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn all(output: &Output) -> String {
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

fn outcome<'a>(lines: &'a [Value], kind: &str, name: &str) -> &'a str {
    let mut found = lines.iter().filter(|line| line["type"] == kind && line["name"] == name).filter_map(|line| line["outcome"].as_str());
    found.next_back().unwrap_or_else(|| panic!("no finished {kind} {name:?} in {lines:#?}"))
}

const LANGUAGE: &str = r#"
name: language
on: [push, workflow_dispatch]
env:
  LEVEL: workflow
jobs:
  first:
    runs-on: ubuntu-latest
    outputs:
      answer: ${{ steps.make.outputs.answer }}
    env:
      LEVEL: job
    steps:
      - uses: actions/checkout@v4
      - name: Files
        run: test "$(cat data.txt)" = tracked && test "$(cat new.txt)" = untracked && test ! -e ignored.txt && test "$PWD" = "$GITHUB_WORKSPACE"
      - name: Make
        id: make
        env:
          LEVEL: step
        run: |
          test "$LEVEL" = step
          echo "answer=42" >> "$GITHUB_OUTPUT"
          echo "FROM_FILE=set" >> "$GITHUB_ENV"
          mkdir -p "$HOME/tools" && printf '#!/bin/sh\necho tool' > "$HOME/tools/a-tool" && chmod +x "$HOME/tools/a-tool"
          echo "$HOME/tools" >> "$GITHUB_PATH"
          printf 'MANY<<END\none\ntwo\nEND\n' >> "$GITHUB_ENV"
          echo '## The summary text' >> "$GITHUB_STEP_SUMMARY"
      - name: See
        run: test "$FROM_FILE" = set && test "$(a-tool)" = tool && test "$MANY" = "$(printf 'one\ntwo')" && test "$LEVEL" = job
      - name: Python
        shell: python
        run: |
          import os
          print("::warning file=data.txt,line=3::look here")
          assert os.environ["CI"] == "true"
      - name: Skipped
        if: ${{ env.LEVEL == 'other' }}
        run: exit 1
      - name: Tolerated
        continue-on-error: true
        run: exit 3
      - name: Sees what was tolerated
        if: steps.make.outcome == 'success'
        run: test "${{ job.status }}" = success
  cell:
    needs: first
    runs-on: ubuntu-latest
    strategy:
      matrix:
        n: [1, 2]
        include:
          - n: 2
            extra: more
        exclude:
          - n: 1
    steps:
      - name: Values
        run: test "${{ matrix.n }}${{ matrix.extra }}${{ needs.first.outputs.answer }}" = 2more42
"#;

#[test]
fn the_language_of_a_workflow_holds() {
    let checkout = Checkout::new(LANGUAGE);
    checkout.write("data.txt", "tracked");
    checkout.write(".gitignore", "ignored.txt\n");
    checkout.write("ignored.txt", "x");
    checkout.git(&["init", "-q"]);
    checkout.git(&["add", "."]);
    checkout.git(&["commit", "-qm", "first"]);
    checkout.write("new.txt", "untracked");
    let (lines, code) = checkout.lines(&[]);
    let logs: Vec<_> = lines.iter().filter(|line| line["type"] == "log").collect();
    assert_eq!(code, 0, "{logs:#?} {:#?}", lines.last());
    let last = lines.last().unwrap();
    assert_eq!((&last["type"], &last["outcome"], &last["state"]), (&"run".into(), &"success".into(), &"finished".into()));
    assert_eq!(outcome(&lines, "step", "Skipped"), "skipped");
    assert_eq!(outcome(&lines, "step", "Sees what was tolerated"), "success");
    assert_eq!(outcome(&lines, "job", "cell (2, more)"), "success");
    assert!(lines.iter().any(|line| line["type"] == "annotation" && line["message"] == "look here"), "{lines:#?}");
    let plain = checkout.run(&[]);
    assert_eq!(plain.status.code(), Some(0), "{}", all(&plain));
    assert!(all(&plain).contains("first/See | ") || all(&plain).contains("first/Python | "), "{}", all(&plain));
    assert!(all(&plain).contains("The summary text"), "{}", all(&plain));
}

#[test]
fn a_failure_is_named_and_ends_the_job() {
    let checkout = Checkout::new(
        "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - name: Fails\n        run: exit 5\n      - name: After\n        run: echo no\n      - name: Always\n        if: always()\n        run: echo yes\n  b:\n    needs: a\n    runs-on: ubuntu-latest\n    steps:\n      - run: echo no\n",
    );
    let (lines, code) = checkout.lines(&[]);
    assert_eq!(code, 1);
    assert_eq!(outcome(&lines, "step", "Fails"), "failure");
    let step = lines.iter().rfind(|line| line["type"] == "step" && line["name"] == "Fails").unwrap();
    assert_eq!(step["exit_code"], 5, "{step}");
    assert_eq!(outcome(&lines, "step", "After"), "skipped");
    assert_eq!(outcome(&lines, "step", "Always"), "success");
    assert_eq!(outcome(&lines, "job", "b"), "skipped");
    let plain = all(&checkout.run(&[]));
    assert!(plain.contains("exit code 5"), "{plain}");
}

#[test]
fn what_is_not_supported_is_refused_before_anything_runs() {
    let checkout = Checkout::new(
        "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - run: touch $HOME/ran\n      - uses: some/action@v1\n    services: {db: {image: postgres}}\n",
    );
    let output = checkout.run(&[]);
    assert_eq!(output.status.code(), Some(2), "{}", all(&output));
    let said = text(&output.stderr);
    assert!(said.contains("test.yml:7:") && said.contains("some/action"), "{said}");
    assert!(said.contains("test.yml:8:"), "both are said: {said}");
    for (arguments, word) in [(&["-W", "none.yml"][..], "none.yml"), (&["-j", "zzz"], "zzz"), (&["-e", "zzz"], "zzz")] {
        let checkout = Checkout::new("on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - run: 'true'\n");
        let output = checkout.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?} {}", all(&output));
        assert!(text(&output.stderr).contains(word), "{}", all(&output));
    }
}

#[test]
fn a_secret_exists_for_the_step_that_names_it_and_is_masked() {
    let value = "p4ss-w0rd-of-the-test";
    let checkout = Checkout::new(
        r#"
on: push
jobs:
  a:
    runs-on: ubuntu-latest
    steps:
      - name: Has
        env:
          TOKEN: ${{ secrets.TOKEN }}
        run: |
          test "$TOKEN" = "$(cat /run/secrets/TOKEN)"
          printf %s "$TOKEN" | wc -c
          echo "plain $TOKEN"
          printf %s "$TOKEN" | head -c 7; sleep 0.3; printf %s "$TOKEN" | tail -c +8; echo
          printf %s "$TOKEN" | base64
      - name: Has not
        run: test ! -e /run/secrets/TOKEN && test -z "$TOKEN" && ! grep -rs p4''ss /home /tmp && ! cat /proc/*/environ | grep -a p4''ss-
"#,
    );
    let output = checkout.caisson(&["run", "--secret", "token"]).env("TOKEN", value).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", all(&output));
    assert!(all(&output).contains("plain ***"), "{}", all(&output));
    assert!(!all(&output).contains("p4ss") && !all(&output).contains("w0rd-of"), "{}", all(&output));
    assert!(!all(&output).contains("cDRzcy13MHJkLW9m"), "base64: {}", all(&output));
    assert_eq!(checkout.holds(value), Vec::<PathBuf>::new());
    fs::write(checkout.root.path().join("home/control"), value).unwrap();
    assert_eq!(checkout.holds(value).len(), 1, "control: the search finds what is there");
    let unset = checkout.run(&["--secret", "NOT_SET"]);
    assert_eq!(unset.status.code(), Some(2), "{}", all(&unset));
}

/// A listener of the host that answers every connection.
fn listener() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
        }
    });
    port
}

#[test]
fn the_network_is_closed_but_for_what_a_trusted_policy_names() {
    let port = listener();
    let fetch = format!("import urllib.request as u; print(u.urlopen('http://127.0.0.1:{port}/', timeout=20).read().decode())");
    let control = Command::new("/usr/bin/python3").args(["-c", &fetch]).output().unwrap();
    assert!(control.status.success(), "control: {}", all(&control));
    let checkout = Checkout::new(&format!(
        "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - name: Fetch\n        shell: python\n        run: |\n          {fetch}\n"
    ));
    assert_eq!(checkout.run(&[]).status.code(), Some(1));
    let policy = format!("[[step]]\nstep = \"Fetch\"\nallow = [\"127.0.0.1:{port}\"]\n");
    checkout.write(".caisson/policy.toml", &policy);
    let untrusted = checkout.run(&[]);
    assert_eq!(untrusted.status.code(), Some(1), "{}", all(&untrusted));
    assert!(all(&untrusted).contains("caisson trust"), "{}", all(&untrusted));
    assert!(checkout.caisson(&["trust"]).output().unwrap().status.success());
    let (lines, code) = checkout.lines(&[]);
    assert_eq!(code, 0, "{lines:#?}");
    let egress = lines.iter().find(|line| line["type"] == "egress").unwrap();
    assert_eq!((&egress["host"], &egress["port"], &egress["verdict"]), (&"127.0.0.1".into(), &port.into(), &"allowed".into()), "{egress}");
    checkout.write(".caisson/policy.toml", &format!("{policy}\n"));
    assert_eq!(checkout.run(&[]).status.code(), Some(1), "a changed policy is another policy");
    let file = checkout.root.path().join("own.toml");
    fs::write(&file, policy).unwrap();
    assert_eq!(checkout.run(&["--policy", file.to_str().unwrap()]).status.code(), Some(0));
    let broken = checkout.root.path().join("broken.toml");
    fs::write(&broken, "[network]\nalow = []\n").unwrap();
    let refused = checkout.run(&["--policy", broken.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(2), "{}", all(&refused));
    assert!(text(&refused.stderr).contains("alow"), "{}", all(&refused));
}

#[test]
fn credentials_of_the_caller_do_not_enter() {
    let checkout = Checkout::new(
        "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - uses: actions/checkout@v4\n      - run: git log --oneline && ! grep -rs hunt''er2 . && ! git config --get-regexp extraheader && ! env | grep hunt''er2\n",
    );
    checkout.git(&["init", "-q"]);
    checkout.git(&["add", "."]);
    checkout.git(&["commit", "-qm", "first"]);
    checkout.git(&["remote", "add", "origin", "https://me:hunter2@git.example/x/y.git"]);
    checkout.git(&["config", "http.extraheader", "Authorization: hunter2"]);
    let output = checkout.caisson(&["run"]).env("PRIVATE", "hunter2").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", all(&output));
}

/// A child that does not outlive a test that fails.
struct Guarded(Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        // It may have ended, which is what most tests wait for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::yield_now();
    }
}

/// Reads lines of a child's output until one contains `needle`.
fn read_until(child: &mut Child, needle: &str) -> BufReader<std::process::ChildStdout> {
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut seen = String::new();
    while !seen.contains(needle) {
        assert!(reader.read_line(&mut seen).unwrap() > 0, "it ended before {needle:?}: {seen}");
    }
    reader
}

fn processes_with(word: &str) -> usize {
    let lines = fs::read_dir("/proc").unwrap().filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok());
    lines.filter(|line| line.split(|byte| *byte == 0).any(|part| part == word.as_bytes())).count()
}

#[test]
fn an_interrupt_cancels_and_leaves_nothing() {
    let mark = format!("{}", 200_000 + std::process::id());
    let checkout = Checkout::new(&format!(
        "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - run: |\n          echo re''ady\n          exec sleep {mark}\n      - name: Cleans up\n        if: always()\n        run: echo cleaned\n"
    ));
    let mut child = Guarded(checkout.caisson(&["run", "--json"]).stdout(Stdio::piped()).spawn().unwrap());
    let mut reader = read_until(&mut child.0, "ready");
    kill(Pid::from_raw(child.0.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    assert_eq!(child.0.wait().unwrap().code(), Some(130), "{rest}");
    let last: Value = serde_json::from_str(rest.lines().last().unwrap()).unwrap();
    assert_eq!((&last["type"], &last["outcome"]), (&"run".into(), &"cancelled".into()));
    assert!(rest.contains("cleaned"), "always() ran: {rest}");
    assert_eq!(processes_with(&mark), 0);
}

#[test]
fn a_killed_run_leaves_no_process() {
    let mark = format!("{}", 300_000 + std::process::id());
    let checkout = Checkout::new(&format!(
        "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - run: |\n          setsid sleep {mark} &\n          echo re''ady\n          exec sleep {mark}\n"
    ));
    let mut child = Guarded(checkout.caisson(&["run", "--json"]).stdout(Stdio::piped()).spawn().unwrap());
    let _reader = read_until(&mut child.0, "ready");
    assert!(processes_with(&mark) > 0, "control: they run");
    child.0.kill().unwrap();
    child.0.wait().unwrap();
    wait_for("the end of all processes", || processes_with(&mark) == 0);
    let again = checkout.caisson(&["run", "-j", "zzz"]).output().unwrap();
    assert_eq!(again.status.code(), Some(2), "the state of the killed run is in nobody's way: {}", all(&again));
}

#[test]
fn limits_and_timeouts_are_typed_causes() {
    let checkout = Checkout::new(
        "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - name: Slow\n        timeout-minutes: 0.01\n        continue-on-error: true\n        run: sleep 1000\n      - name: Hog\n        shell: python\n        run: x = bytearray(1 << 30)\n",
    );
    let policy = checkout.root.path().join("own.toml");
    fs::write(&policy, "[limits]\nmemory = \"96MiB\"\n").unwrap();
    let (lines, code) = checkout.lines(&["--policy", policy.to_str().unwrap()]);
    if code == 3 {
        eprintln!("skipped: memory cannot be limited here");
        return;
    }
    assert_eq!(code, 1);
    let cause = |name: &str| lines.iter().rfind(|line| line["type"] == "step" && line["name"] == name).unwrap()["cause"].to_string();
    assert!(cause("Slow").contains("timed-out"), "{}", cause("Slow"));
    assert!(cause("Hog").contains("out-of-memory"), "{}", cause("Hog"));
}

#[test]
fn controller_and_agent_apart_do_the_same() {
    let checkout = Checkout::new(
        "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - uses: actions/checkout@v4\n      - name: Speaks\n        run: echo hello from $(cat data.txt)\n",
    );
    checkout.write("data.txt", "afar");
    let everywhere = checkout.caisson(&["controller", "--listen", "0.0.0.0:0"]).output().unwrap();
    assert!(!everywhere.status.success() && text(&everywhere.stderr).contains("loopback"), "{}", all(&everywhere));
    let state = checkout.root.path().join("controller");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let url = format!("http://{address}");
    let mut controller = checkout
        .caisson(&["controller", "--listen", &address, "--state-dir", state.to_str().unwrap()])
        .stderr(Stdio::null())
        .spawn()
        .map(Guarded)
        .unwrap();
    wait_for("the controller's port", || std::net::TcpStream::connect(&address).is_ok());
    let agent_state = checkout.root.path().join("agent");
    let mut agent = checkout
        .caisson(&["agent", "--controller", &url, "--state-dir", agent_state.to_str().unwrap()])
        .stderr(Stdio::null())
        .spawn()
        .map(Guarded)
        .unwrap();
    let output = checkout.caisson(&["submit", ".", "--controller", &url, "--follow"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", all(&output));
    assert!(all(&output).contains("hello from afar"), "{}", all(&output));
    for child in [&mut agent, &mut controller] {
        kill(Pid::from_raw(child.0.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        child.0.wait().unwrap();
    }
    let journal = walkdir::WalkDir::new(&state).into_iter().filter_map(Result::ok).any(|entry| entry.file_name() == "journal.sqlite");
    assert!(journal, "the journal is where it was asked for");
}

#[test]
fn an_ordinary_user_is_told_what_cannot_be_enforced() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: the test becomes another user, which needs root");
        return;
    }
    let checkout = Checkout::new(
        "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - uses: actions/checkout@v4\n      - run: test $(id -u) = 1000 && test -e .github\n",
    );
    // The program lies where that user may execute it, and the checkout belongs to it.
    let program = checkout.root.path().join("caisson");
    fs::copy(CAISSON, &program).unwrap();
    let owned = Command::new("chown").args(["-R", "4321:4321"]).arg(checkout.root.path()).status().unwrap();
    assert!(owned.success());
    let as_user = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "4321", "--regid", "4321", "--clear-groups", "--"]).arg(&program).args(arguments);
        command.current_dir(checkout.project()).env_clear().stdin(Stdio::null());
        command.env("PATH", "/usr/local/bin:/usr/bin:/bin").env("HOME", checkout.root.path().join("home")).output().unwrap()
    };
    let doctor = as_user(&["doctor"]);
    let plain = as_user(&["run"]);
    if doctor.status.success() {
        assert_eq!(plain.status.code(), Some(0), "{}", all(&plain));
        return;
    }
    assert_eq!((doctor.status.code(), plain.status.code()), (Some(3), Some(3)), "{} {}", all(&doctor), all(&plain));
    assert!(all(&plain).contains("memory-limit") && all(&plain).contains("--allow-missing"), "{}", all(&plain));
    let allowed = as_user(&["run", "--allow-missing", "memory-limit"]);
    assert_eq!(allowed.status.code(), Some(0), "{}", all(&allowed));
    assert!(all(&allowed).contains("memory-limit"), "the summary names what did not hold: {}", all(&allowed));
}
