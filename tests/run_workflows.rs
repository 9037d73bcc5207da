//! `caisson run` does what a workflow says, tells it in every form, and ends with the right code.

#![allow(clippy::unwrap_used, clippy::panic)]

mod place;

use place::Place;
use serde_json::json;

const TEAM: &str = r#"
name: Team
on:
  push:
  workflow_dispatch:
    inputs:
      who: { type: string, default: nobody }
env: { LEVEL: workflow, GREETING: hello }
jobs:
  build:
    runs-on: ubuntu-latest
    env: { LEVEL: job }
    outputs: { answer: "${{ steps.think.outputs.answer }}" }
    steps:
      - uses: actions/checkout@v4
      - name: Think
        id: think
        env: { LEVEL: step }
        run: |
          test -f hello.py
          echo "$GREETING at $LEVEL from ${{ inputs.who || 'a push' }}"
          echo "answer=42" >> "$GITHUB_OUTPUT"
          echo "LATER=kept" >> "$GITHUB_ENV"
          mkdir -p bin && printf '#!/bin/sh\necho found\n' > bin/tool && chmod +x bin/tool
          echo "$PWD/bin" >> "$GITHUB_PATH"
          echo '## Thought' >> "$GITHUB_STEP_SUMMARY"
          echo '::group::Inner'
          echo '::warning file=hello.py,line=1::look here'
          echo '::endgroup::'
      - name: Remember
        run: tool && echo "$LATER"
      - name: Python
        shell: python
        run: |
          import os
          print("python says", os.environ["LEVEL"])
      - name: May fail
        continue-on-error: true
        run: exit 9
      - name: Not on failure
        if: failure()
        run: echo never
  use:
    needs: build
    runs-on: ubuntu-latest
    strategy:
      matrix:
        n: [1, 2]
        include: [{ n: 2, extra: more }]
    steps:
      - name: Show
        run: echo "cell ${{ matrix.n }} ${{ matrix.extra }} got ${{ needs.build.outputs.answer }}"
  never:
    if: ${{ github.event_name == 'schedule' }}
    runs-on: ubuntu-latest
    steps: [{ run: exit 1 }]
"#;

#[test]
fn a_teams_workflow_runs_as_it_says() {
    let place = Place::with(TEAM);
    place.write("hello.py", "print('hello')\n");
    let run = place.run(&[]);
    run.expect(0);
    let log = run.log("build");
    for line in ["hello at step from a push", "found", "kept", "python says job"] {
        assert!(log.lines().any(|other| other == line), "{line} is not in {log}");
    }
    assert!(!log.contains("never"));
    assert_eq!(run.job("build")["outputs"], json!({ "answer": "42" }));
    assert!(run.log("use (1)").contains("cell 1  got 42") && run.log("use (2, more)").contains("cell 2 more got 42"), "{}", run.told());
    assert_eq!(run.step("build", "May fail")["outcome"], "failure");
    assert_eq!(run.step("build", "May fail")["conclusion"], "success");
    assert_eq!(run.step("build", "May fail")["cause"]["kind"], "exit-code");
    assert_eq!(run.step("build", "Not on failure")["outcome"], "skipped");
    assert_eq!(run.job("never")["outcome"], "skipped");
    assert_eq!(run.step("build", "Think")["summary"], "## Thought\n");
    let remark = run.of_type("annotation").next().unwrap();
    assert_eq!((&remark["level"], &remark["file"], &remark["message"]), (&json!("warning"), &json!("hello.py"), &json!("look here")));
    // Every step had a sandbox, and says what it enforced and cost.
    let think = run.step("build", "Think");
    assert!(think["enforced"].as_array().unwrap().contains(&json!("seccomp")), "{think}");
    assert!(think["usage"]["wall_ms"].as_f64().unwrap() > 0.0, "{think}");
    let last = run.objects.last().unwrap();
    assert_eq!((&last["type"], &last["state"], &last["outcome"]), (&json!("run"), &json!("finished"), &json!("success")));
    // The checkout is what it was: steps had a copy.
    assert!(!place.checkout().join("bin").exists());
}

#[test]
fn inputs_events_and_jobs_are_chosen_on_the_command_line() {
    let place = Place::with(TEAM);
    place.write("hello.py", "");
    let run = place.run(&["-e", "workflow_dispatch", "--input", "who=ann", "-j", "build", "--env", "GREETING=hi", "--env", "OTHER=x"]);
    run.expect(0);
    // What the workflow says stands above what the command line says.
    assert!(run.log("build").contains("hello at step from ann"), "{}", run.told());
    assert_eq!(run.of_type("job").filter(|job| job["state"] == "finished").count(), 1);
    for (words, reason) in [
        (vec!["-e", "schedule"], "schedule"),
        (vec!["-j", "nothing"], "nothing"),
        (vec!["-W", "nothing.yml"], "nothing.yml"),
        (vec!["-e", "workflow_dispatch", "--input", "unknown=1"], "unknown"),
        (vec!["--input", "novalue"], "KEY=VALUE"),
    ] {
        let refused = place.run(&words);
        refused.expect(2);
        assert!(refused.errors.contains(reason) && refused.objects.is_empty(), "{}", refused.told());
    }
}

#[test]
fn a_failure_has_its_cause_and_stops_what_needs_it() {
    let place = Place::with(
        "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - name: Break\n        run: kill -SEGV $$\n      - run: echo never\n      \
         - if: always()\n        run: echo last words\n  b:\n    needs: a\n    runs-on: ubuntu-latest\n    steps: [{ run: 'true' }]\n",
    );
    let run = place.run(&[]);
    run.expect(1);
    assert_eq!(run.step("a", "Break")["cause"]["kind"], "signal", "{}", run.told());
    assert_eq!((&run.job("a")["outcome"], &run.job("b")["outcome"]), (&json!("failure"), &json!("skipped")));
    assert!(run.log("a").contains("last words") && !run.log("a").contains("never"));
    assert_eq!(run.objects.last().unwrap()["exit_code"], 1);
}

#[test]
fn limits_end_a_step_with_their_cause() {
    let place = Place::with(
        "on: push\njobs:\n  memory:\n    runs-on: ubuntu-latest\n    steps:\n      - name: Eat\n        shell: python\n        run: 'x = b\"x\" * (1 << 30)'\n  \
         time:\n    runs-on: ubuntu-latest\n    steps:\n      - name: Sleep\n        timeout-minutes: 0.02\n        run: sleep 600\n",
    );
    let mut words = vec!["--memory", "128MiB"];
    let limited = memory_is_limited(&place);
    if !limited {
        words.extend(["--allow-missing", "memory-limit"]);
    }
    let run = place.run(&words);
    run.expect(1);
    assert_eq!(run.step("time", "Sleep")["outcome"], "timed-out", "{}", run.told());
    if place::needs(limited, "this host cannot limit memory") {
        let cause = &run.step("memory", "Eat")["cause"];
        assert_eq!((&cause["kind"], &cause["limit"]), (&json!("out-of-memory"), &json!(128 << 20)), "{}", run.told());
    }
}

fn memory_is_limited(place: &Place) -> bool {
    let output = place.caisson(&["doctor", "--json"]).output().unwrap();
    let facts: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    facts["enforceable"].as_array().is_some_and(|all| all.contains(&json!("memory-limit")))
}

#[test]
fn what_is_not_supported_is_refused_before_anything_runs() {
    let table = [
        ("    services: { db: { image: postgres } }\n    steps: [{ run: 'touch ran' }]", "services"),
        ("    steps: [{ uses: someone/else@v1 }]", "someone/else"),
        ("    steps: [{ run: 'echo ${{ nonsense.x }}' }]", "nonsense"),
        ("    steps: [{ run: 'echo ${{ secrets.TOKEN }}' }]", "TOKEN"),
        ("    steps: [{ run: 'true', shel: bash }]", "shel"),
    ];
    for (job, word) in table {
        let place = Place::with(&format!(
            "on: push\njobs:\n  fine:\n    runs-on: ubuntu-latest\n    steps: [{{ run: 'true' }}]\n  a:\n    runs-on: ubuntu-latest\n{job}\n"
        ));
        let run = place.run(&[]);
        run.expect(2);
        // File, line, column.
        let named = run.errors.lines().any(|line| line.starts_with(".github/workflows/t.yml:8:") && line.contains("error"));
        assert!(named && run.errors.contains(word), "{job}: {}", run.told());
        assert!(run.objects.is_empty(), "something ran: {}", run.told());
    }
}

#[test]
fn several_workflows_run_and_the_worst_of_them_is_the_last_line() {
    let place = Place::with("name: Good\non: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps: [{ run: 'true' }]\n");
    place
        .write(".github/workflows/a.yaml", "name: Bad\non: push\njobs:\n  b:\n    runs-on: ubuntu-latest\n    steps: [{ run: 'false' }]\n");
    place.write(
        ".github/workflows/c.yml",
        "name: Other\non: issues\njobs:\n  c:\n    runs-on: ubuntu-latest\n    steps: [{ run: 'true' }]\n",
    );
    let run = place.run(&[]);
    run.expect(1);
    let ends: Vec<_> = run.objects.iter().rev().take(2).map(|o| (o["type"].as_str().unwrap(), o["name"].as_str().unwrap())).collect();
    assert_eq!(ends, [("run", "Bad"), ("run", "Good")], "{}", run.told());
    assert!(run.errors.contains("c.yml does not run"), "{}", run.errors);
}

const SOUND: &str = "name: Good\non: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps: [{ run: 'true' }]\n";
const PUBLISHING: &str = "name: Publish\non: push\njobs:\n  p:\n    runs-on: ubuntu-latest\n    steps: [{ uses: 'acme/publish@v1' }]\n  q:\n    runs-on: ubuntu-latest\n    steps: [{ run: 'true' }]\n";

#[test]
fn a_refused_workflow_stops_the_others_only_where_it_was_named() {
    let place = Place::with(SOUND);
    place.write(".github/workflows/publish.yml", PUBLISHING);
    let run = place.run(&[]);
    run.expect(2);
    assert!(run.errors.contains("1 of 2 workflows were refused; the rest runs"), "{}", run.errors);
    assert!(run.objects.iter().any(|o| o["type"] == "run" && o["name"] == "Good" && o["outcome"] == "success"), "{}", run.told());
    let run = place.run(&["-W", "t.yml", "-W", "publish.yml"]);
    run.expect(2);
    assert!(run.errors.contains("nothing was run") && run.objects.is_empty(), "{}", run.told());
}

#[test]
fn a_job_that_was_chosen_runs_whatever_the_others_cannot_do() {
    let place = Place::with(PUBLISHING);
    let run = place.run(&[]);
    run.expect(2);
    assert!(run.errors.contains("-j q"), "{}", run.errors);
    place.run(&["-j", "q"]).expect(0);
    place.run(&["-j", "p"]).expect(2);
}

#[test]
fn plain_lines_name_job_and_step_and_the_summary_says_what_failed() {
    let place = Place::with(
        "name: Plain\non: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - name: Speak\n        run: printf '\\033[31mred\\033[0m \\033]0;title\\007\\033[2Jtext\\n'; exit 4\n",
    );
    let output = place.caisson(&["run"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.lines().any(|line| line == "a/Speak | red text"), "{text}");
    assert!(!text.contains('\u{1b}'), "{text:?}");
    assert!(text.contains("a/Speak: failure") && text.contains("exit code 4"), "{text}");
    let row = text.lines().find(|line| line.starts_with("a ") && line.contains("failure")).unwrap();
    assert!(row.ends_with("Speak: exit code 4"), "{row}");
    assert!(text.lines().last().unwrap().starts_with("Plain: failure in "), "{text}");
    let quiet = place.caisson(&["run", "-q"]).output().unwrap();
    assert!(String::from_utf8(quiet.stdout).unwrap().contains("a/Speak | red text"));
}

#[test]
fn a_repository_is_seen_as_it_stands() {
    let place = Place::with(
        "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - uses: actions/checkout@v4\n      - name: Look\n        run: |\n          \
         echo \"on $GITHUB_REF_NAME of $GITHUB_REPOSITORY\"; cat tracked untracked; test ! -e ignored; test ! -e .git/hooks/post-checkout\n          \
         if grep -rqs hunt''er2 . || git config --get-regexp extraheader || env | grep -q hunt''er2; then exit 9; fi\n          test -z \"$(git status --porcelain --untracked-files=no | grep -v tracked)\"; git log --format=%s -1\n",
    );
    let git = |words: &[&str]| {
        let output = place.program("git", words).env("GIT_CONFIG_GLOBAL", "/dev/null").output().unwrap();
        assert!(output.status.success(), "git {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    place.write("tracked", "old\n");
    place.write(".gitignore", "ignored\n");
    git(&["init", "-q", "-b", "feature"]);
    git(&["add", "."]);
    git(&["-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-qm", "first words"]);
    git(&["remote", "add", "origin", "https://x:hunter2@example.com/team/shop.git"]);
    git(&["config", "http.extraheader", "Authorization: hunter2"]);
    place.write("tracked", "new\n");
    place.write("untracked", "there\n");
    place.write("ignored", "x");
    place.write(".git/hooks/post-checkout", "hunter2");
    // The control: in the checkout itself the same search finds it.
    let found = place.program("grep", &["-rqs", "hunter2", ".git/config", ".git/hooks"]).output().unwrap();
    assert!(found.status.success());
    let mut command = place.caisson(&["run", "--json"]);
    let run = place::Run::of(command.env("PRIVATE", "hunter2").output().unwrap());
    run.expect(0);
    let log = run.log("a");
    for line in ["on feature of team/shop", "new", "there", "first words"] {
        assert!(log.lines().any(|other| other == line), "{line}: {log}");
    }
    assert!(place.found_in_state(b"x:hunter2@").is_empty());
}

#[test]
fn nothing_of_a_run_stays_but_its_journal_and_logs() {
    let place = Place::with(
        "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - run: mkdir -p ~/deep/er && touch ~/deep/er/left && (setsid sleep 86543 >/dev/null 2>&1 &)\n",
    );
    place.run(&[]).expect(0);
    assert_eq!(place::processes_with("86543"), 0);
    let attempts =
        walkdir::WalkDir::new(place.state()).into_iter().filter_map(Result::ok).filter(|entry| entry.file_name() == "left").count();
    assert_eq!(attempts, 0);
    place.run(&[]).expect(0);
}
