//! Two controllers on one database and one bucket, as real processes: the leader is killed, or hangs, in the middle of a job.
//! The other goes on with it, serves what the first had, and the first can write nothing when it comes back.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../controller/tests/bucket_server/mod.rs"]
mod bucket_server;
#[path = "../controller/tests/database/mod.rs"]
mod database;
mod place;

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Stdio};

use bucket_server::BucketServer;
use caisson_model::id::RunId;
use caisson_proto::api::{BlobApi, ClientApi};
use caisson_proto::client::Client;
use futures_util::StreamExt;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use place::{Place, until};
use serde_json::Value;

/// Step 0 ends early, step 1 keeps something, step 2 goes on while leaders come and go.
const WORKFLOW: &str = "on: push
jobs:
  a:
    runs-on: ubuntu-latest
    steps:
      - run: i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo \"early $i\"; done
      - run: echo kept > kept.txt
      - uses: actions/upload-artifact@v4
        with: { name: kept, path: kept.txt }
      - run: i=0; while [ $i -lt 150 ]; do i=$((i+1)); echo \"late $i\"; sleep 0.1; done
";

struct Pair {
    place: Place,
    server: BucketServer,
    store: String,
    urls: [String; 2],
    controllers: Vec<Child>,
    agent: Option<Child>,
}

impl Drop for Pair {
    fn drop(&mut self) {
        for child in self.controllers.iter_mut().chain(&mut self.agent) {
            let _gone = (child.kill(), child.wait());
        }
    }
}

impl Pair {
    fn start() -> Option<Pair> {
        let store = database::new()?;
        let server = BucketServer::start()?;
        let place = Place::with(WORKFLOW);
        let port = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let urls = [port(), port()].map(|port| format!("http://127.0.0.1:{port}"));
        let mut pair = Pair { place, server, store, urls, controllers: Vec::new(), agent: None };
        for index in 0..2 {
            let child = pair.controller(index);
            pair.controllers.push(child);
            // The first one leads.
            until("a controller", || pair.on(index, &["runs"]).is_some());
        }
        let both = pair.urls.join(",");
        let state = pair.path("agent");
        let words = ["agent", "--controller", &both, "--name", "one", "--slots", "1", "--state-dir", &state];
        pair.agent = Some(pair.place.caisson(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        Some(pair)
    }

    fn path(&self, name: &str) -> String {
        self.place.path().join(name).display().to_string()
    }

    fn controller(&self, index: usize) -> Child {
        let (listen, state) = (self.urls[index].replace("http://", ""), self.path(&format!("controller-{index}")));
        let words = ["controller", "--listen", &listen, "--state-dir", &state, "--store", &self.store, "--blobs", "s3://blobs/caisson"];
        let mut command = self.place.caisson(&words);
        command.envs(self.server.environment());
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    fn signal(&self, index: usize, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.controllers[index].id()).unwrap()), signal).unwrap();
    }

    /// What a command printed that speaks to this controller alone; none when it failed.
    fn on(&self, index: usize, words: &[&str]) -> Option<String> {
        let mut all = words.to_vec();
        all.extend(["--controller", &self.urls[index]]);
        let output = self.place.caisson(&all).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    /// The run with its jobs and steps, as this controller has it.
    fn show(&self, index: usize, run: &str) -> Option<Value> {
        self.on(index, &["show", run, "--json"]).map(|text| serde_json::from_str(&text).unwrap())
    }

    /// Whether the last step of the run writes by now.
    fn writes_late(&self, index: usize, run: &str) -> bool {
        let steps = self.show(index, run).map(|shown| shown["jobs"][0]["steps"].clone());
        steps.is_some_and(|steps| steps.as_array().unwrap().iter().any(|step| step["step"] == 3 && step["state"] == "running"))
    }

    fn submit(&self) -> String {
        let text = self.on(0, &["submit", "--json"]).unwrap();
        let object: Value = text.lines().map(|line| serde_json::from_str(line).unwrap()).next().unwrap();
        object["id"].to_string()
    }

    fn finished(&self, index: usize, run: &str) -> bool {
        self.show(index, run).is_some_and(|shown| shown["state"] == "finished")
    }

    /// What must be true of the run at its end, by this controller.
    fn check(&self, index: usize, run: &str) {
        let shown = self.show(index, run).unwrap();
        assert_eq!(shown["outcome"], "success", "{shown}");
        assert_eq!(shown["jobs"][0]["attempt"], 1, "no attempt was spent: {shown}");
        let lines = |word: &str, count: u32| (1..=count).map(|i| format!("{word} {i}\n")).collect::<String>();
        for (step, word, count) in [(0, "early", 3000), (3, "late", 150)] {
            let log = self.on(index, &["logs", &format!("{run}/a/{step}")]).unwrap();
            // After what caisson itself says of the step.
            let wrote = log.split_once("##[endgroup]\n").unwrap().1;
            assert!(wrote == lines(word, count), "step {step}: {} lines, the last is {:?}", wrote.lines().count(), wrote.lines().last());
        }
        // What the job kept is there, whole.
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let client = Client::connect(&self.urls[index]).await.unwrap();
            let kept = client.artifacts(RunId(run.parse().unwrap())).await.unwrap();
            assert_eq!(kept.iter().map(|artifact| artifact.name.as_str()).collect::<Vec<_>>(), ["kept"]);
            let pieces: Vec<_> = client.get_blob(kept[0].digest, 0).await.unwrap().collect().await;
            let bytes: usize = pieces.into_iter().map(|piece| piece.unwrap().len()).sum();
            assert_eq!(bytes as u64, kept[0].bytes);
        });
    }
}

#[test]
fn a_leader_that_is_killed_costs_nothing_and_the_other_serves_what_it_had() {
    let Some(mut pair) = Pair::start() else { return };
    let run = pair.submit();
    until("the last step", || pair.writes_late(0, &run));
    // The one that stands by answers what can be read, also what is still being written.
    assert!(pair.on(1, &["runs"]).unwrap().contains(&run));
    assert!(pair.writes_late(1, &run));
    let early = pair.on(1, &["logs", &format!("{run}/a/0")]).unwrap();
    assert!(early.ends_with("\nearly 2999\nearly 3000\n"));
    let mut following = pair.place.caisson(&["logs", "-f", &format!("{run}/a/3"), "--controller", &pair.urls[1]]);
    let mut following = following.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut live = BufReader::new(following.stdout.take().unwrap()).lines();
    assert!(live.by_ref().map(Result::unwrap).any(|line| line == "late 1"));
    assert!(!pair.finished(1, &run), "it was live");

    pair.signal(0, Signal::SIGKILL);
    pair.controllers[0].wait().unwrap();
    // Who follows at the one that stood by sees all of it, without a gap.
    let rest: Vec<String> = live.map(Result::unwrap).collect();
    assert_eq!(rest, (2..=150).map(|i| format!("late {i}")).collect::<Vec<_>>());
    assert!(following.wait().unwrap().success());
    until("the end", || pair.finished(1, &run));
    pair.check(1, &run);
    // The first one comes back with an old folder, stands by, and says the same.
    pair.controllers[0] = pair.controller(0);
    until("the first one", || pair.show(0, &run).is_some());
    pair.check(0, &run);
}

#[test]
fn a_leader_that_hung_can_write_nothing_when_it_goes_on() {
    let Some(pair) = Pair::start() else { return };
    let run = pair.submit();
    until("the last step", || pair.writes_late(0, &run));
    pair.signal(0, Signal::SIGSTOP);
    // Nobody answers at the first; the second takes over once the database says that it hangs.
    until("the take-over", || pair.on(1, &["agents"]).is_some());
    pair.signal(0, Signal::SIGCONT);
    let told = |index: usize, words: &[&str]| {
        let mut all = words.to_vec();
        all.extend(["--controller", &pair.urls[index]]);
        let output = pair.place.caisson(&all).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    until("the first one knows who leads", || told(0, &["agents"]).1.contains(&pair.urls[1]));
    let (cancelled, why) = told(0, &["cancel", &run]);
    assert!(!cancelled && why.contains("stands by"), "{why}");
    until("the end", || pair.finished(1, &run));
    pair.check(1, &run);
    pair.check(0, &run);
}
