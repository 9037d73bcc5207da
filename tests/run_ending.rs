//! How a run ends before its time: cleanly at the first interrupt, at once at the second.

#![allow(clippy::unwrap_used, clippy::panic)]

mod place;

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Stdio};
use std::time::Instant;

use nix::sys::signal::Signal;
use place::{PATIENCE, Place, processes_with, signal_group, until};

/// A command that a failed test does not leave behind.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        // Mostly it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a run and waits until a step says `sign`.
fn started(place: &Place, sign: &str) -> (Started, BufReader<ChildStdout>) {
    let mut child = Started(place.caisson(&["run", "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(child.0.stdout.take().unwrap());
    loop {
        let mut line = String::new();
        assert!(lines.read_line(&mut line).unwrap() > 0, "it ended before it said {sign}");
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        if object["text"].as_str().is_some_and(|text| text.starts_with(sign)) {
            break;
        }
    }
    (child, lines)
}

fn rest(lines: BufReader<ChildStdout>) -> String {
    lines.lines().map_while(Result::ok).collect::<Vec<_>>().join("\n")
}

#[test]
fn one_interrupt_cancels_cleanly() {
    let place = Place::with(
        "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - name: Wait\n        run: |\n          trap 'echo was asked; exit 1' INT\n          \
         echo begun; sleep 71234 & wait\n      - name: Clean up\n        if: always()\n        run: echo cleaned\n  b:\n    needs: a\n    runs-on: ubuntu-latest\n    \
         steps: [{ run: echo never }]\n",
    );
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let (mut child, lines) = started(&place, "begun");
        // To the whole group, as a terminal does: the launcher must outlive it.
        signal_group(&child.0, signal);
        let text = rest(lines);
        assert_eq!(child.0.wait().unwrap().code(), Some(130), "{text}");
        for part in ["was asked", "cleaned", "\"outcome\":\"cancelled\""] {
            assert!(text.contains(part), "{signal}: {part} is not in {text}");
        }
        assert!(!text.contains("never"));
        assert_eq!(processes_with("71234"), 0);
    }
}

#[test]
fn a_second_interrupt_kills_at_once() {
    let place = Place::with(
        "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - run: |\n          trap '' INT TERM\n          echo begun\n          \
         while :; do sleep 71235 & wait; done\n",
    );
    let (mut child, lines) = started(&place, "begun");
    let began = Instant::now();
    signal_group(&child.0, Signal::SIGINT);
    // The first is answered with a note; the step itself ignores it.
    let mut notes = BufReader::new(child.0.stderr.take().unwrap()).lines();
    assert!(notes.any(|note| note.unwrap().contains("cancelling")));
    signal_group(&child.0, Signal::SIGINT);
    assert_eq!(child.0.wait().unwrap().code(), Some(130));
    assert!(began.elapsed() < std::time::Duration::from_secs(5), "it waited for the step: {:?}", began.elapsed());
    drop(lines);
    until("every process of the step is dead", || processes_with("71235") == 0);
    // What it left is cleared up by the next run, whose jobs are its own.
    place.write(".github/workflows/t.yml", "on: push\njobs:\n  b:\n    runs-on: ubuntu-latest\n    steps: [{ run: echo fresh }]\n");
    let run = place.run(&[]);
    run.expect(0);
    assert!(run.log("b").contains("fresh") && run.log("a").is_empty(), "{}", run.told());
}

#[test]
fn a_killed_command_takes_its_steps_with_it() {
    let place = Place::with("on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - run: echo begun; sleep 71236\n");
    let (mut child, lines) = started(&place, "begun");
    // The control: they are there.
    until("the step sleeps", || processes_with("71236") > 0);
    child.0.kill().unwrap();
    child.0.wait().unwrap();
    drop(lines);
    until("every process of the step is dead", || processes_with("71236") == 0);
}

#[test]
fn a_reader_that_goes_away_ends_the_run() {
    let place = Place::with(
        "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - run: for i in $(seq 100000); do echo begun $i; sleep 0.01; done\n",
    );
    let (mut child, lines) = started(&place, "begun");
    drop(lines);
    let deadline = Instant::now() + PATIENCE;
    until("the command has ended", || child.0.try_wait().unwrap().is_some() || Instant::now() > deadline);
    assert_eq!(child.0.wait().unwrap().code(), Some(130));
}

/// A cancelled job goes on with what asked for it, and only with that; so does the run with its jobs.
#[test]
fn after_a_cancellation_runs_what_asks_for_it() {
    let place = Place::with(
        r#"
on: push
jobs:
  a:
    runs-on: ubuntu-latest
    steps:
      - run: |
          trap 'exit 1' INT
          echo begun; sleep 71237 & wait
      - run: echo ran plainly
      - if: success()
        run: echo ran on success
      - if: failure()
        run: echo ran on failure
      - if: "!cancelled()"
        run: echo ran unless cancelled
      - if: cancelled()
        run: echo "ran when cancelled, ${{ job.status }}"
      - if: always()
        run: echo "ran always, ${{ job.status }}"
      - if: success() || cancelled()
        run: echo "ran on either"
  plain:
    needs: a
    runs-on: ubuntu-latest
    steps: [{ run: echo plain job }]
  failure:
    needs: a
    if: failure()
    runs-on: ubuntu-latest
    steps: [{ run: echo failure job }]
  cancelled:
    needs: a
    if: cancelled()
    runs-on: ubuntu-latest
    steps: [{ run: "echo cancelled job, ${{ needs.a.result }}" }]
  always:
    needs: [a, plain]
    if: always()
    runs-on: ubuntu-latest
    steps: [{ run: "echo always job, ${{ needs.a.result }} ${{ needs.plain.result }}" }]
"#,
    );
    let (mut child, lines) = started(&place, "begun");
    signal_group(&child.0, Signal::SIGINT);
    let text = rest(lines);
    assert_eq!(child.0.wait().unwrap().code(), Some(130), "{text}");
    for part in
        ["ran when cancelled, cancelled", "ran always, cancelled", "ran on either", "cancelled job, cancelled", "always job, cancelled"]
    {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    for part in ["ran plainly", "ran on success", "ran on failure", "ran unless", "plain job", "failure job"] {
        assert!(!text.contains(&format!("\"text\":\"{part}")), "{part} is in {text}");
    }
}

/// The time of a job is over for all of its steps but those that ask for it; the time of a step for itself alone.
#[test]
fn times_run_out_for_a_step_and_for_a_job() {
    let place = Place::with(
        r#"
on: push
jobs:
  step:
    runs-on: ubuntu-latest
    steps:
      - id: slow
        timeout-minutes: 0.02
        continue-on-error: true
        run: sleep 71238
      - run: echo "goes on, ${{ steps.slow.outcome }} ${{ job.status }}"
  job:
    runs-on: ubuntu-latest
    timeout-minutes: 0.05
    steps:
      - run: sleep 71239
      - run: echo never
      - if: failure()
        run: echo never on failure
      - if: always()
        run: echo "cleaned, ${{ job.status }}"
"#,
    );
    let run = place.run(&[]);
    run.expect(1);
    assert!(run.log("step").contains("goes on, failure success"), "{}", run.told());
    assert!(run.log("job").contains("cleaned, cancelled") && !run.log("job").contains("never"), "{}", run.told());
    assert_eq!(run.job("step")["outcome"], "success", "{}", run.told());
    assert_eq!(run.job("job")["outcome"], "timed-out", "{}", run.told());
}

/// A job that this machine does not serve is skipped with its reason, instead of waiting for an agent that never comes.
#[test]
fn what_this_machine_is_not_is_skipped_with_its_reason() {
    let place = Place::with(
        "on: push\njobs:\n  test:\n    runs-on: ${{ matrix.os }}\n    strategy: { matrix: { os: [ubuntu-latest, windows-latest] } }\n    \
         steps: [{ run: echo here }]\n  mac:\n    runs-on: [self-hosted, macOS]\n    steps: [{ run: echo never }]\n  after:\n    needs: test\n    \
         runs-on: ubuntu-latest\n    steps: [{ run: echo after }]\n  last:\n    needs: mac\n    runs-on: ubuntu-latest\n    steps: [{ run: echo never }]\n",
    );
    let run = place.run(&[]);
    run.expect(0);
    let outcome = |job: &str| run.job(job)["outcome"].as_str().unwrap().to_owned();
    let outcomes = ["test (ubuntu-latest)", "test (windows-latest)", "mac", "after", "last"].map(outcome);
    assert_eq!(outcomes, ["success", "skipped", "skipped", "success", "skipped"]);
    let reason = run.job("test (windows-latest)")["cause"]["text"].as_str().unwrap().to_owned();
    assert_eq!(reason, "it runs on windows-latest, which this machine is not");
}
