//! An agent that hangs for longer than term and grace loses its job to another, under a higher fence; what it does when it goes
//! on counts for nothing. One that hangs for less loses nothing.

#![allow(clippy::unwrap_used, clippy::panic)]

mod place;

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use place::{Place, processes_with, until};
use serde_json::Value;

struct Fleet {
    place: Place,
    url: String,
    controller: Child,
    agents: Vec<(&'static str, Child)>,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for child in self.agents.iter_mut().map(|(_, child)| child).chain([&mut self.controller]) {
            let _gone = (kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGCONT), child.kill(), child.wait());
        }
    }
}

impl Fleet {
    fn start(workflow: &str, settings: &str) -> Fleet {
        let place = Place::with(workflow);
        std::fs::write(place.path().join("controller.toml"), format!("listen = \"127.0.0.1:0\"\n{settings}")).unwrap();
        let config = place.path().join("controller.toml").display().to_string();
        let words = ["controller", "--config", &config, "--state-dir", "controller-state"];
        let mut controller = place.caisson(&words).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut url = String::new();
        BufReader::new(controller.stdout.take().unwrap()).read_line(&mut url).unwrap();
        Fleet { place, url: url.trim().to_owned(), controller, agents: Vec::new() }
    }

    fn agent(&mut self, name: &'static str) {
        let words = ["agent", "--controller", &self.url, "--name", name, "--slots", "1", "--state-dir", name];
        self.agents.push((name, self.place.caisson(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()));
    }

    fn on(&self, words: &[&str]) -> String {
        let mut all = words.to_vec();
        all.extend(["--controller", &self.url]);
        let output = self.place.caisson(&all).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn job(&self) -> Value {
        let shown: Value = serde_json::from_str(&self.on(&["show", "1", "--json"])).unwrap();
        shown["jobs"][0].clone()
    }

    fn signal(&self, name: &str, signal: Signal) {
        let (_, child) = self.agents.iter().find(|(known, _)| *known == name).unwrap();
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
    }

    fn holder(&self) -> String {
        until("the step", || self.job()["state"] == "running" && !self.job()["steps"].as_array().unwrap().is_empty());
        self.job()["agent"].as_str().unwrap().to_owned()
    }
}

fn ticking(marker: &str, ticks: u32) -> String {
    format!(
        "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - run: sh -c 'i=0; while [ $i -lt {ticks} ]; do i=$((i+1)); echo tick $i; sleep 0.1; done; true {marker}'\n"
    )
}

fn ticks(log: &str) -> Vec<&str> {
    log.split_once("##[endgroup]\n").unwrap().1.lines().collect()
}

#[test]
fn beyond_the_grace_another_agent_has_the_job_and_the_first_completes_nothing() {
    let marker = format!("caisson-grace-{}", std::process::id());
    let mut fleet = Fleet::start(&ticking(&marker, 80), "lease_term = \"2s\"\nlease_grace = \"2s\"\n");
    fleet.agent("one");
    fleet.agent("two");
    fleet.on(&["submit"]);
    let first = fleet.holder();
    fleet.signal(&first, Signal::SIGSTOP);
    until("another attempt", || fleet.job()["attempt"] == 2 && fleet.job()["state"] == "running");
    assert_ne!(fleet.job()["agent"], first.as_str());
    // It goes on, and brings what it has; all of it is refused, and what it ran is ended.
    fleet.signal(&first, Signal::SIGCONT);
    until("the end", || fleet.job()["state"] == "finished");
    let job = fleet.job();
    assert_eq!((&job["outcome"], &job["attempt"]), (&Value::from("success"), &Value::from(2)), "{job}");
    let log = fleet.on(&["logs", "1/a/0"]);
    assert_eq!(ticks(&log), (1..=80).map(|i| format!("tick {i}")).collect::<Vec<_>>());
    until("nothing is left of either attempt", || processes_with(&marker) == 0);
    // Both take jobs again.
    until("both are idle", || {
        let agents = fleet.on(&["agents", "--json"]);
        agents.lines().filter(|line| line.contains("\"connected\":true") && line.contains("\"jobs\":[]")).count() == 2
    });
}

#[test]
fn within_the_grace_the_same_process_goes_on() {
    let marker = format!("caisson-within-{}", std::process::id());
    let mut fleet = Fleet::start(&ticking(&marker, 60), "lease_term = \"1s\"\nlease_grace = \"60s\"\n");
    fleet.agent("one");
    fleet.on(&["submit"]);
    let first = fleet.holder();
    fleet.signal(&first, Signal::SIGSTOP);
    until("the lease is in doubt", || fleet.job()["state"] == "suspect");
    fleet.signal(&first, Signal::SIGCONT);
    until("the end", || fleet.job()["state"] == "finished");
    let job = fleet.job();
    assert_eq!((&job["outcome"], &job["attempt"]), (&Value::from("success"), &Value::from(1)), "{job}");
    let log = fleet.on(&["logs", "1/a/0"]);
    assert_eq!(ticks(&log), (1..=60).map(|i| format!("tick {i}")).collect::<Vec<_>>());
}
