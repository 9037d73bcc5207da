//! Limits count against what an agent has: two jobs that do not fit side by side run one after the other, though there are slots,
//! and `explain` says what the second one waits for.

#![allow(clippy::unwrap_used, clippy::panic)]

mod place;

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use place::{Place, until};
use serde_json::Value;

const WORKFLOW: &str = "on: push
jobs:
  big:
    runs-on: ubuntu-latest
    strategy: { matrix: { n: [1, 2] } }
    steps:
      - run: until [ -e \"$HOME/never\" ]; do sleep 0.1; done
        timeout-minutes: 5
";

struct Ends(Vec<Child>);

impl Drop for Ends {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _gone = (child.kill(), child.wait());
        }
    }
}

/// What `explain` says of the job that waits beside the one that runs.
fn waits(limits: &str, agent: &[&str]) -> String {
    let place = Place::with(WORKFLOW);
    let path = |name: &str| place.path().join(name).display().to_string();
    std::fs::write(path("policy.toml"), format!("[limits]\n{limits}\n")).unwrap();
    let words = ["controller", "--listen", "127.0.0.1:0", "--policy", &path("policy.toml"), "--state-dir", &path("controller")];
    let mut controller = place.caisson(&words).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut url = String::new();
    BufReader::new(controller.stdout.take().unwrap()).read_line(&mut url).unwrap();
    let url = url.trim().to_owned();
    let state = path("agent");
    let mut words = vec!["agent", "--controller", &url, "--name", "one", "--slots", "4", "--state-dir", &state];
    words.extend(agent);
    let agent = place.caisson(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let _ends = Ends(vec![controller, agent]);
    let on = |words: &[&str]| {
        let mut all = words.to_vec();
        all.extend(["--controller", &url]);
        String::from_utf8(place.caisson(&all).output().unwrap().stdout).unwrap()
    };
    let run = serde_json::from_str::<Value>(&on(&["submit", "--json"])).unwrap()["id"].to_string();
    let jobs = || serde_json::from_str::<Value>(&on(&["show", &run, "--json"])).unwrap()["jobs"].as_array().unwrap().clone();
    until("one job runs", || jobs().iter().any(|job| job["state"] == "running"));
    let states: Vec<Value> = jobs().iter().map(|job| job["state"].clone()).collect();
    assert_eq!(states.iter().filter(|state| *state == "queued").count(), 1, "{states:?}");
    let said: Value = serde_json::from_str(on(&["explain", &run, "--json"]).lines().next().unwrap()).unwrap();
    on(&["cancel", &run]);
    said["reasons"][0].as_str().unwrap().to_owned()
}

#[test]
fn a_job_waits_for_memory() {
    let said = waits("memory = \"768MiB\"", &["--total-memory", "1GiB"]);
    assert_eq!(said, "it waits for memory: its limits take 768 MiB, and of the 1 GiB of agent one 256 MiB are left");
}

#[test]
fn a_job_waits_for_processors() {
    let said = waits("cpus = 1.5", &["--total-cpus", "2"]);
    assert_eq!(said, "it waits for processors: its limits take 1.5, and of the 2 of agent one 0.5 are left");
}
