//! Two controllers on one database that speak TLS with one authority: the leader is killed in the middle of a job, agent and
//! client go on at the other, with their certificate and token, and that one can revoke them.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../controller/tests/database/mod.rs"]
mod database;
mod place;

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use place::{Place, until};
use serde_json::Value;

const WORKFLOW: &str = "on: push
jobs:
  a:
    runs-on: ubuntu-latest
    steps:
      - run: i=0; while [ $i -lt 150 ]; do i=$((i+1)); echo \"line $i\"; sleep 0.1; done
";

struct Ends(Vec<Child>);

impl Drop for Ends {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _gone = (child.kill(), child.wait());
        }
    }
}

fn passed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_leader_with_tls_is_killed_and_the_one_that_stood_by_goes_on() {
    let Some(store) = database::new() else { return };
    let place = Place::with(WORKFLOW);
    let path = |name: &str| place.path().join(name).display().to_string();
    let port = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let listens = [port(), port()].map(|port| format!("127.0.0.1:{port}"));
    passed(&mut place.caisson(&["controller", "init", "--name", "127.0.0.1", "--state-dir", &path("controller-0")]));
    // The authority's key is in no database: it is copied, as the README says.
    std::fs::create_dir_all(place.path().join("controller-1/controller")).unwrap();
    passed(Command::new("cp").args(["-a", &path("controller-0/controller/identity"), &path("controller-1/controller/identity")]));
    let both = listens.each_ref().map(|listen| format!("https://{listen}")).join(",");
    let mut ends = Ends(Vec::new());
    let start = |index: usize| {
        let (listen, state) = (&listens[index], path(&format!("controller-{index}")));
        let words = ["controller", "--listen", listen, "--state-dir", &state, "--store", &store, "--blobs", &path("blobs")];
        place.caisson(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    ends.0.push(start(0));
    let make = |words: &[&str]| {
        let mut all = vec!["token", "create", "--state-dir"];
        let state = path("controller-0");
        all.push(&state);
        all.extend(words);
        place.caisson(&all).output().unwrap()
    };
    until("the first leads and has its records", || make(&["--scope", "read"]).status.success());
    let [join, admin] = [&["--agent", "one"][..], &["--scope", "admin"]].map(|words| {
        let made = make(words);
        String::from_utf8(made.stdout).unwrap().trim().to_owned()
    });
    ends.0.push(start(1));
    let agent_state = path("agent");
    let joining = ["agent", "join", "--controller", &listens[0], "--token", &join, "--name", "one", "--state-dir", &agent_state];
    until("the agent joins", || place.caisson(&joining).output().unwrap().status.success());
    let words = ["agent", "--controller", &both, "--name", "one", "--slots", "1", "--state-dir", &agent_state];
    // What it says is of use where it does not do as it should.
    ends.0.push(place.caisson(&words).stdout(Stdio::null()).spawn().unwrap());

    let client = |words: &[&str]| {
        let mut command = place.caisson(words);
        command.env("CAISSON_CONTROLLER", &both).env("CAISSON_TOKEN", &admin);
        command.output().unwrap()
    };
    let show = |run: &str| -> Option<Value> { serde_json::from_slice(&client(&["show", run, "--json"]).stdout).ok() };
    until("a client is answered", || client(&["runs"]).status.success());
    let submitted: Value = serde_json::from_slice(&client(&["submit", "--json"]).stdout).unwrap();
    let run = submitted["id"].to_string();
    until("the step writes", || client(&["logs", &format!("{run}/a/0")]).stdout.windows(7).any(|window| window == b"line 10"));
    ends.0[0].kill().unwrap();
    ends.0[0].wait().unwrap();
    until("the end at the other", || show(&run).is_some_and(|shown| shown["state"] == "finished"));
    let shown = show(&run).unwrap();
    assert_eq!((&shown["outcome"], &shown["jobs"][0]["attempt"]), (&Value::from("success"), &Value::from(1)), "{shown}");
    let log = String::from_utf8(client(&["logs", &format!("{run}/a/0")]).stdout).unwrap();
    let lines: Vec<&str> = log.lines().filter(|line| line.starts_with("line ")).collect();
    assert_eq!(lines, (1..=150).map(|line| format!("line {line}")).collect::<Vec<_>>());
    // The new leader knows members and tokens, and what it says about them counts.
    assert!(client(&["agents", "revoke", "one"]).status.success());
    until("the revoked agent ends", || ends.0[2].try_wait().unwrap().is_some());
}
