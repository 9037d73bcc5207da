//! Every process of ours may be killed at any moment: nothing of it is left after the next start, and nobody else is touched.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

mod place;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use place::{PATIENCE, Place, processes_with, until};

const ROUNDS: u64 = 10;

/// Steps that try to stay: other sessions, ignored signals, files, and children of children.
fn workflow(marker: &str) -> String {
    let job = |name: &str| {
        format!(
            "  {name}:\n    runs-on: ubuntu-latest\n    steps:\n      - run: |\n          echo x > left\n          trap '' INT TERM HUP\n          \
             for i in 1 2 3; do (setsid sh -c 'trap \"\" INT TERM HUP; sleep 600; : {marker}' &) ; done\n          sleep 600; : {marker}\n"
        )
    };
    format!("on: push\njobs:\n{}{}", job("a"), job("b"))
}

fn stat(pid: i32) -> Option<(i32, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit(") ").next()?.split(' ').collect();
    Some((fields.get(1)?.parse().ok()?, fields.get(19)?.parse().ok()?))
}

fn all() -> Vec<i32> {
    std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// A process and everything below it, each with its start time.
fn family(root: i32) -> Vec<(i32, u64)> {
    let parents: Vec<(i32, (i32, u64))> = all().into_iter().filter_map(|pid| Some((pid, stat(pid)?))).collect();
    let mut found = vec![root];
    let mut at = 0;
    while at < found.len() {
        let parent = found[at];
        found.extend(parents.iter().filter(|(_, (of, _))| *of == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    found.into_iter().filter_map(|pid| Some((pid, stat(pid)?.1))).collect()
}

/// From the command down to the step's own sleep. What helps at a start, and ends when it has, is beside this line.
fn line_to_sleep(root: i32) -> Vec<(i32, u64)> {
    let family = family(root);
    let sleeps = |pid: i32| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|words| words.starts_with(b"sleep\0"));
    let mut line = Vec::new();
    let mut next = family.iter().find(|(pid, _)| sleeps(*pid));
    while let Some(process) = next {
        line.push(*process);
        let parent = stat(process.0).map(|(parent, _)| parent);
        next = family.iter().find(|(pid, _)| process.0 != root && Some(*pid) == parent);
    }
    line.reverse();
    line
}

/// Groups that launchers of this family made.
fn groups(family: &[(i32, u64)]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![(PathBuf::from("/sys/fs/cgroup"), 0)];
    while let Some((directory, depth)) = todo.pop() {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let name = entry.file_name().to_string_lossy().into_owned();
            if family.iter().any(|(pid, start)| name == format!("caisson-{pid}-{start}")) {
                found.push(entry.path());
            } else if depth < 6 {
                todo.push((entry.path(), depth + 1));
            }
        }
    }
    found
}

fn kill(pid: i32, start: u64) {
    // Only if it is still the same process.
    if stat(pid).is_some_and(|(_, now)| now == start) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
}

fn quiet(mut command: Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn leftovers(state: &Path) -> Vec<PathBuf> {
    let checkouts = std::fs::read_dir(state.join("checkouts")).into_iter().flatten().flatten();
    checkouts
        .flat_map(|entry| std::fs::read_dir(entry.path().join("agent/attempts")).into_iter().flatten().flatten())
        .map(|entry| entry.path())
        .collect()
}

#[test]
fn kills_at_any_moment_leave_nothing_and_touch_no_neighbour() {
    let seed: u64 =
        std::env::var("CAISSON_KILL_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| u64::from(std::process::id()));
    eprintln!("CAISSON_KILL_SEED={seed} repeats this");
    let mut state = seed | 1;
    let mut random = move |below: u64| {
        // xorshift: any spread of moments will do.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let marker = format!("caisson-killed-{seed}");
    let place = Place::with(&workflow(&marker));
    // A neighbour of the same user, from another place, that must live through all of it.
    let beside = Place::new();
    let mut neighbour = quiet(beside.caisson(&["exec", "--", "sh", "-c", "read x < /proc/self/stat; sleep 600; exit 9"]));
    let mut before = Vec::new();
    until("the neighbour's step runs", || {
        before = line_to_sleep(neighbour.id() as i32);
        before.len() >= 5 && before[0].0 == neighbour.id() as i32
    });
    for round in 0..ROUNDS {
        let mut run = quiet(place.caisson(&["run"]));
        let root = i32::try_from(run.id()).unwrap();
        // Sometimes in the middle of a start, sometimes when everything runs.
        let wait = Duration::from_millis(random(1500));
        let deadline = Instant::now() + wait;
        let mut known = family(root);
        while Instant::now() < deadline {
            for process in family(root) {
                if !known.contains(&process) {
                    known.push(process);
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        known.extend(family(root));
        let now = family(root);
        // One of them, or two: the command, its launcher, the warden, an init, a step.
        for _ in 0..=random(2) {
            if let Some((pid, start)) = now.get(usize::try_from(random(now.len().max(1) as u64)).unwrap()) {
                kill(*pid, *start);
            }
        }
        // Then the command itself, so that the round ends: a step that was killed only fails its job.
        kill(now[0].0, now[0].1);
        run.wait().unwrap();
        let gone = |(pid, start): &(i32, u64)| stat(*pid).is_none_or(|(_, now)| now != *start);
        until(&format!("round {round}: all processes are gone"), || processes_with(&marker) == 0 && known.iter().all(gone));
        if !groups(&known).is_empty() {
            // The warden may have been among the killed: then the next launcher of the same group sweeps.
            let started = Instant::now();
            while !groups(&known).is_empty() && started.elapsed() < PATIENCE {
                assert!(place.caisson(&["exec", "--", "true"]).stdout(Stdio::null()).status().unwrap().success());
            }
            assert_eq!(groups(&known), Vec::<PathBuf>::new(), "round {round}");
        }
    }
    // Another checkout's run removes what was left for this one.
    let other = Place::with("on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - run: 'true'\n");
    let output = other.caisson(&["run"]).env("HOME", place.path().join("home")).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(leftovers(&place.state()), Vec::<PathBuf>::new());
    let after = family(neighbour.id() as i32);
    assert!(before.iter().all(|process| after.contains(process)), "the neighbour was touched: {before:?} {after:?}");
    assert_eq!(neighbour.try_wait().unwrap(), None);
    let (pid, start) = after[0];
    kill(pid, start);
    neighbour.wait().unwrap();
    until("the neighbour's processes are gone", || after.iter().all(|(pid, start)| stat(*pid).is_none_or(|(_, now)| now != *start)));
}

#[test]
fn a_run_whose_launcher_is_killed_says_so_and_ends() {
    let place = Place::with("on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - run: sleep 600\n");
    let run = place.caisson(&["run", "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let root = run.id() as i32;
    until("the step runs", || family(root).len() >= 5);
    let (launcher, start) = family(root)[1];
    kill(launcher, start);
    let output = run.wait_with_output().unwrap();
    assert!(matches!(output.status.code(), Some(3 | 4)), "{output:?}");
    until("nothing is left of it", || family(root).is_empty());
}
