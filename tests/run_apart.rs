//! Controller, agent and client as three processes over loopback: the same run, the same answers.

#![allow(clippy::unwrap_used, clippy::panic)]

mod place;

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use place::{Place, Run, processes_with, signal_group, until};

struct Fleet {
    url: String,
    processes: Vec<Child>,
}

impl Fleet {
    fn start(place: &Place) -> Fleet {
        let state = place.path().join("controller").display().to_string();
        let mut controller =
            place.caisson(&["controller", "--listen", "127.0.0.1:0", "--state-dir", &state]).stdout(Stdio::piped()).spawn().unwrap();
        let mut url = String::new();
        BufReader::new(controller.stdout.take().unwrap()).read_line(&mut url).unwrap();
        let url = url.trim().to_owned();
        assert!(url.starts_with("http://127.0.0.1:"), "{url}");
        let state = place.path().join("agent").display().to_string();
        let agent = place.caisson(&["agent", "--controller", &url, "--name", "one", "--state-dir", &state]).spawn().unwrap();
        Fleet { url, processes: vec![controller, agent] }
    }

    /// Ends the agent, then the controller; both leave with 0.
    fn stop(&mut self) {
        for child in self.processes.iter_mut().rev() {
            kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
            assert_eq!(child.wait().unwrap().code(), Some(0));
        }
        self.processes.clear();
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for child in &mut self.processes {
            // A failed test must not leave them behind.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn a_submitted_run_ends_as_a_local_one_does() {
    let place = Place::with(
        "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    outputs: { x: '${{ steps.s.outputs.x }}' }\n    steps:\n      - uses: actions/checkout@v4\n      \
         - id: s\n        run: cat data; echo x=7 >> $GITHUB_OUTPUT\n  b:\n    needs: a\n    runs-on: ubuntu-latest\n    steps:\n      - run: test ${{ needs.a.outputs.x }} = 7; exit 5\n",
    );
    place.write("data", "from the checkout\n");
    let local = place.run(&[]);
    let mut fleet = Fleet::start(&place);
    let url = fleet.url.clone();
    let apart = Run::of(place.caisson(&["submit", "--controller", &url, "--follow", "--json"]).output().unwrap());
    apart.expect(1);
    assert_eq!(local.code, apart.code);
    let story = |run: &Run| -> Vec<String> {
        let kept = run.objects.iter().filter(|o| o["state"] == "finished" || o["type"] == "log");
        let mut lines: Vec<String> =
            kept.map(|o| format!("{} {} {} {} {}", o["type"], o["job_name"], o["name"], o["outcome"], o["text"])).collect();
        lines.sort();
        lines
    };
    assert_eq!(story(&local), story(&apart));
    let submitted = place.caisson(&["submit", "--controller", &url]).output().unwrap();
    assert_eq!(String::from_utf8(submitted.stdout).unwrap(), "run 2  .github/workflows/t.yml\n");
    fleet.stop();
}

#[test]
fn an_interrupted_client_cancels_its_run_and_the_agent_goes_on() {
    let place = Place::with("on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - run: echo begun; sleep 71237\n");
    let mut fleet = Fleet::start(&place);
    let mut child = place.caisson(&["submit", "--controller", &fleet.url, "--follow", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("\"text\":\"begun\"")));
    signal_group(&child, Signal::SIGINT);
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest:?}");
    until("the step is dead", || processes_with("71237") == 0);
    place.write(".github/workflows/t.yml", "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps: [{ run: 'true' }]\n");
    Run::of(place.caisson(&["submit", "--controller", &fleet.url, "--follow", "--json"]).output().unwrap()).expect(0);
    fleet.stop();
}

#[test]
fn a_controller_listens_on_loopback_alone() {
    let place = Place::new();
    let output = place.caisson(&["controller", "--listen", "0.0.0.0:0"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("loopback"));
}

#[test]
fn an_agent_waits_for_its_controller_and_says_so() {
    let place = Place::new();
    let mut child = place.caisson(&["agent", "--controller", "http://127.0.0.1:1"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("http://127.0.0.1:1 is tried again")));
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
}
