//! A controller that others than this machine may reach: authority, joining, tokens, over real TLS from the command line.

#![allow(clippy::unwrap_used, clippy::panic)]

mod place;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use place::{Place, Run, needs, until};
use serde_json::Value;

const PASSING: &str = "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - run: echo first; echo second\n";

struct Fleet {
    place: Place,
    url: String,
    controller: Child,
    agents: Vec<Child>,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn passed(output: Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

fn refused(output: Output, code: i32, words: &str) {
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{}{errors}", text(&output.stdout));
    assert!(errors.contains(words), "{words:?} is not in {errors}");
}

impl Fleet {
    /// A controller with an authority, on a loopback address of its own.
    fn start(workflow: &str, settings: &str) -> Fleet {
        let place = Place::with(workflow);
        let said = passed(
            place.caisson(&["controller", "init", "--name", "127.0.0.5", "--state-dir", &state(&place, "controller")]).output().unwrap(),
        );
        assert!(said.contains("fingerprint  sha256:") && said.contains("caisson token create"), "{said}");
        let config = place.path().join("controller.toml");
        std::fs::write(&config, format!("listen = \"127.0.0.5:0\"\n{settings}")).unwrap();
        let (controller, url) = serve(&place, "controller.toml", &[]);
        Fleet { place, url, controller, agents: Vec::new() }
    }

    fn state(&self, name: &str) -> String {
        state(&self.place, name)
    }

    fn token(&self, words: &[&str]) -> String {
        let state = self.state("controller");
        let mut all = vec!["token", "create", "--state-dir", &state];
        all.extend(words);
        passed(self.place.caisson(&all).output().unwrap()).trim().to_owned()
    }

    fn join(&self, token: &str, name: &str, state: &str) -> Output {
        let host = self.url.strip_prefix("https://").unwrap();
        let state = self.state(state);
        let words = ["agent", "join", "--controller", host, "--token", token, "--name", name, "--state-dir", &state];
        self.place.caisson(&words).output().unwrap()
    }

    fn agent(&mut self, state: &str) {
        let state = self.state(state);
        self.agents.push(self.place.caisson(&["agent", "--state-dir", &state]).spawn().unwrap());
    }

    /// A client's command with an API token.
    fn client(&self, token: &str, words: &[&str]) -> Command {
        let mut command = self.place.caisson(words);
        command.env("CAISSON_CONTROLLER", &self.url).env("CAISSON_TOKEN", token);
        command
    }

    fn objects(&self, token: &str, words: &[&str]) -> Vec<Value> {
        let said = passed(self.client(token, words).output().unwrap());
        said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn state(place: &Place, name: &str) -> String {
    place.path().join(name).display().to_string()
}

fn serve(place: &Place, config: &str, more: &[&str]) -> (Child, String) {
    let (state, config) = (state(place, "controller"), place.path().join(config).display().to_string());
    let mut words = vec!["controller", "--state-dir", &state, "--config", &config];
    words.extend(more);
    let mut controller = place.caisson(&words).stdout(Stdio::piped()).spawn().unwrap();
    let mut url = String::new();
    BufReader::new(controller.stdout.take().unwrap()).read_line(&mut url).unwrap();
    (controller, url.trim().to_owned())
}

fn end(child: &mut Child) -> Option<i32> {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
    child.wait().unwrap().code()
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for child in self.agents.iter_mut().chain([&mut self.controller]) {
            // A failed test must not leave them behind.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn an_agent_joins_and_runs_what_a_client_with_a_token_submits() {
    let mut fleet = Fleet::start(PASSING, "");
    assert!(fleet.url.starts_with("https://127.0.0.5:"), "{}", fleet.url);
    let mode = |path: &str| {
        std::fs::metadata(fleet.place.path().join("controller/controller/identity").join(path)).unwrap().permissions().mode() & 0o777
    };
    assert_eq!((mode("authority.key"), mode("server.key")), (0o600, 0o600));
    // Nobody without a token or a certificate gets anywhere, whatever they speak.
    let stranger = fleet.place.caisson(&["runs", "--controller", &fleet.url, "--ca", &authority(&fleet)]).output().unwrap();
    refused(stranger, 2, "scope read");
    let plain = fleet.place.caisson(&["runs", "--controller", &fleet.url.replace("https", "http")]).output().unwrap();
    assert_ne!(plain.status.code(), Some(0));
    let token = fleet.token(&["--agent", "builder", "--pool", "linux"]);
    let joined = passed(fleet.join(&token, "ignored", "one"));
    assert!(joined.contains("agent builder of pool linux joined"), "{joined}");
    refused(fleet.join(&token, "other", "two"), 2, "was used by agent builder");
    fleet.agent("one");
    let submit = fleet.token(&["--scope", "submit"]);
    Run::of(fleet.client(&submit, &["submit", "--follow", "--json"]).output().unwrap()).expect(0);
    // What every command says of it.
    let runs = fleet.objects(&submit, &["runs", "--json"]);
    assert_eq!((runs.len(), runs[0]["outcome"].as_str()), (1, Some("success")));
    let run = &fleet.objects(&submit, &["show", "1", "--json"])[0];
    assert_eq!(run["jobs"][0]["agent"], "builder");
    assert_eq!(run["jobs"][0]["steps"][0]["outcome"], "success");
    let logs = passed(fleet.client(&submit, &["logs", "1/a"]).output().unwrap());
    assert!(logs.starts_with("##[group]Run echo first") && logs.ends_with("##[endgroup]\nfirst\nsecond\n"), "{logs}");
    assert_eq!(fleet.objects(&submit, &["logs", "--json", "-f", "1/a/0"]).last().unwrap()["text"], "second");
    refused(fleet.client(&submit, &["logs", "1/b"]).output().unwrap(), 2, "no job");
    let explained = passed(fleet.client(&submit, &["explain", "1"]).output().unwrap());
    assert!(explained.contains("run 1 is success"), "{explained}");
    let agents = fleet.objects(&submit, &["agents", "--json"]);
    assert_eq!(
        (agents[0]["name"].as_str(), agents[0]["pool"].as_str(), agents[0]["connected"].as_bool()),
        (Some("builder"), Some("linux"), Some(true))
    );
    assert!(agents[0]["labels"].as_array().unwrap().contains(&"pool:linux".into()));
    for words in [&["runs"][..], &["show", "1"], &["agents"], &["cancel", "1"]] {
        assert!(!passed(fleet.client(&submit, words).output().unwrap()).is_empty(), "{words:?}");
    }
    refused(fleet.client(&submit, &["cordon", "builder"]).output().unwrap(), 2, "scope admin");
    // The administrator's part, from elsewhere.
    let admin = fleet.token(&["--scope", "admin"]);
    passed(fleet.client(&admin, &["cordon", "builder"]).output().unwrap());
    assert_eq!(fleet.objects(&admin, &["agents", "--json"])[0]["state"], "cordoned");
    passed(fleet.client(&admin, &["cordon", "--off", "builder"]).output().unwrap());
    let again = passed(fleet.client(&admin, &["rerun", "1"]).output().unwrap());
    assert_eq!(again, "run 2\n");
    let listed = fleet.objects(&admin, &["token", "list", "--json"]);
    assert_eq!(listed[0]["state"], "used");
    let id = listed[1]["id"].as_str().unwrap().to_owned();
    passed(fleet.client(&admin, &["token", "revoke", &id]).output().unwrap());
    refused(fleet.client(&submit, &["runs"]).output().unwrap(), 2, "was revoked");
    passed(fleet.client(&admin, &["runs"]).output().unwrap());
    // Revoked beside the controller: the agent ends by itself, at once.
    passed(
        fleet
            .place
            .caisson(&["agents", "revoke", "builder", "--state-dir", &fleet.state("controller"), "--reason", "lost"])
            .output()
            .unwrap(),
    );
    until("the revoked agent is gone", || fleet.agents[0].try_wait().unwrap().is_some());
    assert_eq!(fleet.agents[0].wait().unwrap().code(), Some(2));
    assert_eq!(end(&mut fleet.controller), Some(0));
}

fn authority(fleet: &Fleet) -> String {
    fleet.place.path().join("controller/controller/identity/authority.pem").display().to_string()
}

#[test]
fn certificates_are_renewed_while_a_job_runs() {
    let workflow =
        "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - run: for i in $(seq 30); do echo tick $i; sleep 1; done\n";
    let mut fleet = Fleet::start(workflow, "agent_certificates = \"12s\"\n");
    passed(fleet.join(&fleet.token(&["--agent", "a"]), "a", "one"));
    fleet.agent("one");
    let admin = fleet.token(&["--scope", "admin"]);
    let run = Run::of(fleet.client(&admin, &["submit", "--follow", "--json"]).output().unwrap());
    run.expect(0);
    // The job took longer than two certificates live, on one attempt, and no line is missing.
    assert_eq!(run.job("a")["attempt"], 1);
    let ticks: Vec<String> = (1..=30).map(|i| format!("tick {i}")).collect();
    let log = run.log("a");
    assert_eq!(log.split_once("##[endgroup]\n").unwrap().1, ticks.join("\n"));
    let generation = fleet.objects(&admin, &["agents", "--json"])[0]["generation"].as_u64().unwrap();
    assert!(generation >= 3, "{generation}");
}

/// Type, flags and stream of the frame with which HTTP/2 begins.
const SETTINGS: [u8; 6] = [4, 0, 0, 0, 0, 0];

#[test]
fn a_second_program_sees_tls_1_3_alone_without_resumption() {
    if !needs(Command::new("openssl").arg("version").output().is_ok(), "openssl is not installed") {
        return;
    }
    let fleet = Fleet::start(PASSING, "");
    let address = fleet.url.strip_prefix("https://").unwrap().to_owned();
    let authority = authority(&fleet);
    let session = fleet.place.path().join("session.pem").display().to_string();
    let client = |words: &[&str]| {
        let mut command = Command::new("timeout");
        command
            .args(["60", "openssl", "s_client", "-connect", &address, "-CAfile", &authority, "-verify_return_error", "-alpn", "h2"])
            .args(words);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // Open until the server speaks HTTP: tickets come between the handshake and the first byte of that, its SETTINGS.
        let (mut shown, mut buffer) = (Vec::new(), [0; 4096]);
        let stdout = child.stdout.as_mut().unwrap();
        while !shown.windows(SETTINGS.len()).any(|window| window == SETTINGS) {
            match stdout.read(&mut buffer).unwrap() {
                0 => break,
                read => shown.extend_from_slice(&buffer[..read]),
            }
        }
        child.stdin.take().unwrap().write_all(b"Q\n").ok();
        let output = child.wait_with_output().unwrap();
        shown.extend_from_slice(&output.stdout);
        format!("{}{}", String::from_utf8_lossy(&shown), text(&output.stderr))
    };
    let good = client(&["-tls1_3", "-verify_ip", "127.0.0.5", "-sess_out", &session]);
    assert!(good.contains("Verify return code: 0 (ok)") && good.contains("TLSv1.3"), "{good}");
    assert!(!good.contains("New Session Ticket") && !good.contains("Resumption PSK"), "{good}");
    assert!(!std::path::Path::new(&session).exists(), "nothing that could be resumed was given out");
    let old = client(&["-tls1_2"]);
    assert!(old.contains("protocol version") || old.contains("no protocols"), "{old}");
    let wrong = client(&["-tls1_3", "-verify_ip", "127.0.0.6"]);
    assert!(wrong.contains("IP address mismatch"), "{wrong}");
}

#[test]
fn no_flag_opens_a_listener_to_others_without_tls() {
    let place = Place::new();
    for words in [&["--listen", "0.0.0.0:0"][..], &["--listen", "0.0.0.0:0", "--plain"], &["--listen", "192.0.2.1:1", "--plain"]] {
        let state = state(&place, "controller");
        let mut all = vec!["controller", "--state-dir", &state];
        all.extend(words);
        refused(place.caisson(&all).output().unwrap(), 2, "neither encrypted nor authenticated");
    }
    // The control: with an authority the same address is served, over TLS.
    passed(place.caisson(&["controller", "init", "--state-dir", &state(&place, "controller")]).output().unwrap());
    refused(
        place.caisson(&["controller", "init", "--state-dir", &state(&place, "controller")]).output().unwrap(),
        2,
        "there is one already",
    );
    std::fs::write(place.path().join("c.toml"), "listen = \"0.0.0.0:0\"\n").unwrap();
    let (mut controller, url) = serve(&place, "c.toml", &[]);
    assert!(url.starts_with("https://0.0.0.0:"), "{url}");
    assert_eq!(end(&mut controller), Some(0));
    std::fs::write(place.path().join("c.toml"), "lisen = \"0.0.0.0:0\"\n").unwrap();
    let config = place.path().join("c.toml").display().to_string();
    refused(place.caisson(&["controller", "--config", &config]).output().unwrap(), 2, "unknown field `lisen`");
    let printed = passed(place.caisson(&["controller", "--print-config"]).output().unwrap());
    std::fs::write(place.path().join("c.toml"), &printed).unwrap();
    assert_eq!(passed(place.caisson(&["controller", "--print-config", "--config", &config]).output().unwrap()), printed);
}

#[test]
fn shells_can_complete_every_command() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = passed(place.caisson(&["completions", shell]).output().unwrap());
        for word in ["token", "cordon", "rerun", "join"] {
            assert!(script.contains(word), "{shell} lacks {word}");
        }
    }
    let since = Instant::now();
    let bash = passed(place.caisson(&["completions", "bash"]).output().unwrap());
    let mut child = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(bash.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success() && since.elapsed() < Duration::from_secs(60));
}
