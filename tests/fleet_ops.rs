//! Operations: health, readiness and metrics; and a controller that is replaced while jobs run.

#![allow(clippy::unwrap_used, clippy::panic)]

mod place;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use place::{Place, Run, needs, until};
use serde_json::Value;

struct Ends(Vec<Child>);

impl Drop for Ends {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // A failed test must not leave them behind.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn controller(place: &Place, port: u16, ops: u16, format: &str) -> Child {
    let state = place.path().join("controller").display().to_string();
    let (listen, ops) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{ops}"));
    let words = ["controller", "--listen", &listen, "--ops-listen", &ops, "--state-dir", &state, "--log-format", format];
    let mut child = place.caisson(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains(&listen), "{line}");
    child
}

fn agent(place: &Place, port: u16) -> Child {
    let state = place.path().join("agent").display().to_string();
    place.caisson(&["agent", "--controller", &format!("http://127.0.0.1:{port}"), "--name", "one", "--state-dir", &state]).spawn().unwrap()
}

fn get(port: u16, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let status = text.split(' ').nth(1)?.parse().ok()?;
    Some((status, text.split_once("\r\n\r\n")?.1.to_owned()))
}

fn term(child: &mut Child) -> Option<i32> {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
    child.wait().unwrap().code()
}

#[test]
fn a_controller_is_replaced_in_the_middle_of_a_job() {
    let place = Place::with(
        "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - run: for i in $(seq 12); do echo tick $i; sleep 1; done\n      - run: echo after\n",
    );
    let (port, ops) = (free_port(), free_port());
    let mut ends = Ends(vec![controller(&place, port, ops, "text"), agent(&place, port)]);
    let url = format!("http://127.0.0.1:{port}");
    let mut client = place.caisson(&["submit", "--controller", &url, "--follow", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
    let mut heard: Vec<String> = Vec::new();
    while !heard.last().is_some_and(|line| line.contains("\"text\":\"tick 2\"")) {
        heard.push(lines.next().unwrap().unwrap());
    }
    // Stopped as an upgrade does, and started again over the same data.
    assert_eq!(term(&mut ends.0[0]), Some(0));
    ends.0[0] = controller(&place, port, ops, "text");
    heard.extend(lines.map_while(Result::ok));
    assert_eq!(client.wait().unwrap().code(), Some(0), "{heard:#?}");
    let objects: Vec<Value> = heard.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let written = |line: &&str| line.starts_with("tick") || *line == "after";
    let said: Vec<&str> =
        objects.iter().filter(|object| object["type"] == "log").filter_map(|object| object["text"].as_str()).filter(written).collect();
    let ticks: Vec<String> = (1..=12).map(|i| format!("tick {i}")).chain(["after".to_owned()]).collect();
    assert_eq!(said, ticks, "no line is missing or there twice, and the client went on by itself");
    let job = objects.iter().rev().find(|object| object["type"] == "job").unwrap();
    assert_eq!((&job["attempt"], &job["outcome"]), (&1.into(), &"success".into()));
    // What a later reader gets is the same.
    let logs = place.caisson(&["logs", "1", "--controller", &url]).output().unwrap();
    assert_eq!(String::from_utf8(logs.stdout).unwrap().lines().filter(written).collect::<Vec<_>>(), ticks);
    assert_eq!(term(&mut ends.0[1]), Some(0));
    assert_eq!(term(&mut ends.0[0]), Some(0));
}

#[test]
fn a_controller_tells_how_it_is() {
    let place = Place::with(
        "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - run: echo x\n  b:\n    runs-on: nowhere\n    steps:\n      - run: echo x\n",
    );
    let (port, ops) = (free_port(), free_port());
    let mut ends = Ends(vec![controller(&place, port, ops, "json"), agent(&place, port)]);
    let stderr = ends.0[0].stderr.take().unwrap();
    // Everything is bound by the time that the address is printed.
    assert_eq!(get(ops, "/healthz"), Some((200, "ok\n".to_owned())));
    until("it is ready", || get(ops, "/readyz").is_some_and(|(status, _)| status == 200));
    assert_eq!(get(ops, "/else").unwrap().0, 404);
    let url = format!("http://127.0.0.1:{port}");
    let submitted = place.caisson(&["submit", "--controller", &url]).output().unwrap();
    assert_eq!(submitted.status.code(), Some(0));
    let metrics = || get(ops, "/metrics").unwrap().1;
    until("the first job ended", || metrics().contains("caisson_jobs_finished_total{outcome=\"success\"} 1"));
    let text = metrics();
    for line in [
        "caisson_jobs{state=\"queued\"} 1",
        "caisson_runs_submitted_total 1",
        "caisson_agents_connected 1",
        "caisson_dispatch_seconds_count 1",
        "caisson_sandbox_start_seconds_count 1",
        "caisson_leases_lost_total 0",
    ] {
        assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
    }
    assert!(text.contains("caisson_log_lag_seconds_count"));
    let explained = place.caisson(&["explain", "1", "--json", "--controller", &url]).output().unwrap();
    assert!(String::from_utf8(explained.stdout).unwrap().contains("nowhere"));
    if needs(Command::new("promtool").arg("--version").output().is_ok(), "promtool is not installed") {
        let mut promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let checked = promtool.wait_with_output().unwrap();
        assert!(checked.status.success() && checked.stderr.is_empty(), "{}", String::from_utf8_lossy(&checked.stderr));
    }
    let cancelled = Run::of(place.caisson(&["cancel", "1", "--json", "--controller", &url]).output().unwrap());
    cancelled.expect(0);
    assert_eq!(term(&mut ends.0[0]), Some(0));
    let lines: Vec<Value> = BufReader::new(stderr)
        .lines()
        .map_while(Result::ok)
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(&line).unwrap())
        .collect();
    let listening = lines.iter().find(|line| line["message"] == "listening").unwrap();
    assert!(listening["timestamp"].is_string() && listening["level"] == "INFO" && listening["address"].is_string(), "{listening}");
}
