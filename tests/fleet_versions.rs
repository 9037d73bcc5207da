//! A real agent at a controller that speaks an older version of the contract, and at one that speaks a newer one: a proxy that
//! agrees to no other version and knows nothing of what came later stands between two real processes. The other direction, an
//! older and a newer agent at the real controller, is `tests/contract/order.rs`.

#![allow(clippy::unwrap_used, clippy::panic)]

mod middleman;
mod place;

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::atomic::Ordering;

use caisson_model::agent::VersionRange;
use caisson_proto::client::Client;
use middleman::{Manner, Middleman};
use place::{Place, Run};

const WORKFLOW: &str = "on: push
jobs:
  a:
    runs-on: ubuntu-latest
    steps:
      - run: echo short
      - run: for i in $(seq 40); do echo line $i; sleep 0.1; done
";

struct Ends(Vec<Child>);

impl Drop for Ends {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _gone = (child.kill(), child.wait());
        }
    }
}

/// Runs the workflow by an agent that reaches its controller through a proxy of this manner, which is given back.
fn run_at(spoken: VersionRange) -> Middleman {
    let place = Place::with(WORKFLOW);
    std::fs::write(place.path().join("controller.toml"), "listen = \"127.0.0.1:0\"\nlease_term = \"3s\"\n").unwrap();
    let path = |name: &str| place.path().join(name).display().to_string();
    let words = ["controller", "--config", &path("controller.toml"), "--state-dir", &path("controller")];
    let mut controller = place.caisson(&words).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut url = String::new();
    BufReader::new(controller.stdout.take().unwrap()).read_line(&mut url).unwrap();
    let url = url.trim().to_owned();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (middleman, address) = runtime.block_on(async {
        let client = Client::connect(&url).await.unwrap();
        Middleman::start(client, Manner::Speaking(spoken)).await
    });
    let agent = ["agent", "--controller", &format!("http://{address}"), "--name", "one", "--state-dir", &path("agent")];
    let agent = place.caisson(&agent).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let _ends = Ends(vec![controller, agent]);
    let run = Run::of(place.caisson(&["submit", "--follow", "--json", "--controller", &url]).output().unwrap());
    run.expect(0);
    let log = run.log("a");
    let lines: Vec<&str> = log.lines().filter(|line| *line == "short" || line.starts_with("line ")).collect();
    let wrote: Vec<String> = std::iter::once("short".to_owned()).chain((1..=40).map(|i| format!("line {i}"))).collect();
    assert_eq!(lines, wrote);
    assert_eq!(run.job("a")["attempt"], 1);
    middleman
}

#[test]
fn an_agent_works_at_a_controller_of_the_version_before() {
    let before = VersionRange { min: 1, max: VersionRange::SPOKEN.max - 1 };
    let passed = run_at(before).passed;
    assert_eq!(passed.version.load(Ordering::Relaxed), u64::from(before.max));
    assert_eq!(passed.heard.load(Ordering::Relaxed), 0, "what came later is not said");
}

#[test]
fn an_agent_works_at_a_controller_of_the_version_after() {
    let after = VersionRange { min: VersionRange::SPOKEN.max - 1, max: VersionRange::SPOKEN.max + 1 };
    let passed = run_at(after).passed;
    assert_eq!(passed.version.load(Ordering::Relaxed), u64::from(VersionRange::SPOKEN.max));
    assert!(passed.heard.load(Ordering::Relaxed) > 0, "beats are answered");
}
