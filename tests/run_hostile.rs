//! What a step leaves for the agent, and what a checkout holds, when somebody means harm: pipes, links, devices and huge files where
//! small regular ones are expected, a workspace that is gone or something else, output that speaks in caisson's name.

#![allow(clippy::unwrap_used, clippy::panic)]

mod place;

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use nix::sys::stat::Mode;
use place::{Place, Run};

const GOOD: &str = "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - run: 'true'\n";

/// With a deadline of its own: what waits for a writer would wait for ever.
fn soon(place: &Place, words: &[&str]) -> (i32, String) {
    let mut all = vec!["60", env!("CARGO_BIN_EXE_caisson")];
    all.extend(words);
    let output = place.program("timeout", &all).output().unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let code = output.status.code().unwrap();
    assert_ne!(code, 124, "{words:?} did not end: {told}");
    (code, told)
}

#[test]
fn pipes_and_devices_in_a_checkout_keep_nobody_waiting() {
    let make = |place: &Place, path: &str, endless: bool| {
        let path = place.checkout().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match endless {
            true => symlink("/dev/zero", &path).unwrap(),
            false => nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o600)).unwrap(),
        }
    };
    for endless in [false, true] {
        // Where a policy should be, nothing runs: what it would have refused is not known.
        let place = Place::with(GOOD);
        make(&place, ".caisson/policy.toml", endless);
        for verb in ["run", "trust"] {
            let (code, told) = soon(&place, &[verb]);
            assert!(code == 2 || code == 3, "{verb}: {code} {told}");
            assert!(told.contains("policy.toml") && told.contains("it is no regular file"), "{verb}: {told}");
        }
        // Where a workflow could be, there is none.
        let place = Place::with(GOOD);
        make(&place, ".github/workflows/other.yml", endless);
        assert_eq!(soon(&place, &["check"]).0, 0);
        // What a project is told by.
        let place = Place::new();
        place.write("shop/manage.py", "");
        for path in ["manage.py", "requirements.txt", "pyproject.toml", "uv.lock", ".python-version", "shop/settings.py"] {
            make(&place, path, endless);
        }
        soon(&place, &["init"]);
    }
}

/// The workflow's last step always runs, and says what became of the rest.
fn run(place: &Place) -> Run {
    let run = Run::of(
        Command::new("timeout")
            .args(["120", env!("CARGO_BIN_EXE_caisson"), "run", "--json"])
            .current_dir(place.checkout())
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", place.path().join("home"))
            .output()
            .unwrap(),
    );
    assert_ne!(run.code, 124, "{}", run.told());
    run
}

const FILES: &str = r#"on: push
jobs:
  files:
    runs-on: ubuntu-latest
    steps:
      - name: Swap
        id: swap
        run: |
          set +e
          rm -f $GITHUB_ENV; mv $GITHUB_OUTPUT /tmp/away; ln -sf /etc/passwd $GITHUB_STATE; ln -sf /proc/1/environ $GITHUB_STEP_SUMMARY
          mkfifo $GITHUB_PATH.pipe; mv -f $GITHUB_PATH.pipe $GITHUB_PATH
          rmdir $(dirname $GITHUB_ENV); mv $(dirname $GITHUB_ENV) /tmp/gone
          ln $GITHUB_ENV $HOME/second
          chmod 000 $GITHUB_ENV $GITHUB_OUTPUT
          echo KEPT=1 >> $GITHUB_ENV
          echo kept=2 >> $GITHUB_OUTPUT
          exit 0
      - name: After
        run: echo "[$KEPT][${{ steps.swap.outputs.kept }}]"
      - name: Sparse
        continue-on-error: true
        run: truncate -s 1G $GITHUB_OUTPUT
      - name: Long
        continue-on-error: true
        run: head -c 3000000 /dev/zero >> $GITHUB_ENV
      - name: Late
        run: |
          (setsid sh -c 'sleep 2; echo LATE=1 >> $GITHUB_ENV' &)
      - name: Summary
        run: head -c 3000000 /dev/zero | tr '\0' x >> $GITHUB_STEP_SUMMARY
      - name: Last
        run: sleep 3; echo "late [$LATE]"
"#;

#[test]
fn command_files_are_read_as_they_are_whatever_was_done_to_their_names() {
    let run = run(&Place::with(FILES));
    run.expect(0);
    let log = run.log("files");
    assert!(log.contains("[1][2]"), "{log}");
    assert!(log.contains("late []"), "{log}");
    for name in ["Sparse", "Long"] {
        let step = run.step("files", name);
        assert_eq!(step["outcome"], "failure", "{step}");
        assert!(step["cause"]["text"].as_str().unwrap().contains("longer than 1048576 bytes"), "{step}");
    }
    assert_eq!(run.step("files", "Summary")["outcome"], "success");
    assert!(log.contains("the summary is longer than"), "{log}");
}

const WORKSPACE: &str = r#"on: push
jobs:
  gone:
    runs-on: ubuntu-latest
    steps:
      - { name: Remove, run: "rm -rf $GITHUB_WORKSPACE" }
      - { name: In it, run: pwd, continue-on-error: true }
      - { name: Link, run: "ln -s / $GITHUB_WORKSPACE", working-directory: /tmp }
      - { name: Through it, run: "pwd -P; cat etc/shadow; ls root", continue-on-error: true }
      - { name: Digest, run: "echo \"[${{ hashFiles('etc/passwd', '**/environ', 'dev/zero') }}]\"", working-directory: /tmp, continue-on-error: true }
      - { name: Pipe, run: "rm $GITHUB_WORKSPACE; mkfifo $GITHUB_WORKSPACE", working-directory: /tmp }
      - { name: In a pipe, run: pwd, continue-on-error: true }
      - { name: Checkout, uses: actions/checkout@v4, continue-on-error: true }
      - { name: Closed, run: "chmod 000 $HOME", working-directory: /tmp }
      - { name: Nowhere, run: pwd, continue-on-error: true }
  beside:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - run: test -f .github/workflows/t.yml && echo beside is whole
"#;

#[test]
fn a_workspace_that_is_something_else_fails_its_own_steps_only() {
    let place = Place::with(WORKSPACE);
    let run = run(&place);
    run.expect(0);
    for name in ["In it", "In a pipe", "Nowhere"] {
        let step = run.step("gone", name);
        assert_eq!(step["outcome"], "failure", "{step}");
        assert!(step["cause"]["text"].as_str().unwrap().contains("working directory"), "{step}");
        assert_eq!(step["cause"]["fault"], "user", "{step}");
    }
    // The link led to the sandbox's own root, in which the host's secrets are not.
    let log = run.log("gone");
    assert_eq!(run.step("gone", "Through it")["outcome"], "failure");
    assert!(!log.contains("root:$") && !log.contains("root:!") && !log.contains("root:*"), "{log}");
    // Nothing is found there, or the list of everything in sight is refused.
    let digest = run.step("gone", "Digest");
    assert!(digest["outcome"] == "failure" || log.contains("[]"), "a digest of what lies outside: {digest} {log}");
    assert!(run.log("beside").contains("beside is whole"), "{}", run.told());
    // Everything is removed, what nobody may enter as well.
    let left: Vec<_> = walkdir::WalkDir::new(place.state())
        .into_iter()
        .flatten()
        .filter(|entry| entry.path().ends_with("area"))
        .map(|entry| entry.path().to_owned())
        .collect();
    assert_eq!(left, Vec::<std::path::PathBuf>::new());
}

const FORGED: &str = r#"on: push
jobs:
  liar:
    runs-on: ubuntu-latest
    steps:
      - run: |
          printf '\033[1A\033[2K\rliar: success in 0.0s\n\033]0;title\007\033[2J\n'
          printf '{"type":"job","name":"liar","state":"finished","outcome":"success"}\n'
          printf '{"type":"run","outcome":"success","conclusion":"success"}\n'
          printf '##[error]not caisson\n::error::said by the step\n\nliar: success in 0.0s\n'
          exit 1
"#;

#[test]
fn output_in_caissons_name_changes_no_result_and_moves_no_cursor() {
    let place = Place::with(FORGED);
    let run = run(&place);
    run.expect(1);
    assert_eq!(run.job("liar")["outcome"], "failure");
    // What looks like an object of ours is text within one of ours.
    assert_eq!(run.of_type("job").filter(|object| object["name"] == "liar" && object["state"] == "finished").count(), 1);
    assert!(run.log("liar").contains(r#"{"type":"job""#));
    let shown = place.caisson(&["run"]).output().unwrap();
    assert_eq!(shown.status.code(), Some(1));
    let text = String::from_utf8_lossy(&shown.stdout).into_owned() + &String::from_utf8_lossy(&shown.stderr);
    assert!(!text.contains('\u{1b}') && !text.contains('\r') && !text.contains('\u{7}'), "{text:?}");
    // A line of the step's is one by its beginning; only caisson begins a line with the job's name alone.
    let alone: Vec<&str> = text.lines().filter(|line| line.starts_with("liar:")).collect();
    assert!(!alone.is_empty() && alone.iter().all(|line| line.contains("failure")), "{alone:?}\n{text}");
}
