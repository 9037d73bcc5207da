//! Limits of steps and of `exec`: each ends what passes it with a typed cause, and spares everything else.
#![allow(clippy::unwrap_used, clippy::panic)]

mod place;

use place::{Place, needs};
use serde_json::Value;

/// `caisson exec` with these words: its exit code, its report and what it said.
fn exec(words: &[&str]) -> (i32, Value, String) {
    let place = Place::new();
    let report = place.path().join("report.json");
    let mut all = vec!["exec", "--report", report.to_str().unwrap()];
    all.extend(words);
    let output = place.caisson(&all).output().unwrap();
    let text = std::fs::read_to_string(&report).unwrap_or_default();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let report = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}\n{said}"));
    (output.status.code().unwrap(), report, said)
}

#[test]
fn memory_that_runs_out_names_limit_peak_and_victim() {
    let script = "sleep 30 & exec python3 -c 'x = bytearray(300 << 20)'";
    let (code, report, said) = exec(&["--memory", "64MiB", "--", "sh", "-c", script]);
    if !needs(!said.contains("memory-limit"), "no memory cgroup here") {
        return;
    }
    assert_eq!(code, 137, "{said}");
    assert_eq!(report["cause"]["kind"], "out-of-memory");
    let message = report["cause"]["message"].as_str().unwrap();
    assert_eq!(message, "out of memory: limit 64 MiB, peak 64 MiB, killed pid 2 python3");
    assert!(report["times"]["wall_seconds"].as_f64().unwrap() < 25.0, "the sleeper was ended with it");
}

#[test]
fn a_full_disk_has_its_cause_and_its_exit_code() {
    for (words, script, kind) in [
        // One file system in memory: the kernel refuses, the program sees the error.
        (["--disk", "10MiB"], "head -c 30M /dev/zero > big || exit 7", "MiB"),
        // Several together: whoever passes the limit is killed.
        (["--disk", "10MiB"], "head -c 8M /dev/zero > a; head -c 8M /dev/zero > /tmp/b; sleep 60", "MiB"),
        (["--inodes", "200"], "for i in $(seq 500); do : > f$i || exit 7; done", "files"),
    ] {
        let (code, report, said) = exec(&[words[0], words[1], "--", "sh", "-c", script]);
        assert_eq!((code, report["cause"]["kind"].as_str()), (153, Some("disk")), "{script}: {said}");
        assert!(report["cause"]["message"].as_str().unwrap().contains(kind), "{report}");
        assert!(report["enforced"].as_array().unwrap().contains(&"disk-limit".into()), "{report}");
    }
    // The same acts within their limits.
    let (code, report, said) = exec(&["--disk", "40MiB", "--inodes", "1000", "--", "sh", "-c", "head -c 8M /dev/zero > a; cat a > /tmp/b"]);
    assert_eq!((code, &report["cause"]), (0, &Value::Null), "{said}");
    assert!(report["peak_disk_bytes"].as_u64().unwrap() >= 16 << 20, "{report}");
}

#[test]
fn what_is_written_to_a_real_directory_counts_without_a_name_too() {
    let place = Place::new();
    let work = place.path().join("work");
    std::fs::create_dir(&work).unwrap();
    std::fs::write(work.join("before"), vec![1; 8 << 20]).unwrap();
    let exec = |script: &str| {
        let rw = work.to_str().unwrap();
        let words = ["exec", "--disk", "6MiB", "--timeout", "60s", "--rw", rw, "--chdir", rw, "--", "python3", "-c", script];
        place.caisson(&words).output().unwrap()
    };
    let output = exec("for n in range(4): open(f'f{n}', 'wb').write(b'x' * (3 << 20))\nimport time; time.sleep(50)");
    assert_eq!(output.status.code(), Some(153), "{output:?}");
    let hidden = "import os, time\nfor n in range(4):\n  f = open('gone', 'wb'); os.unlink('gone'); f.write(b'x' * (3 << 20)); f.flush(); os.dup(f.fileno())\ntime.sleep(50)";
    for n in 0..4 {
        let _ = std::fs::remove_file(work.join(format!("f{n}")));
    }
    let output = exec(hidden);
    assert_eq!(output.status.code(), Some(153), "{output:?}");
    let output = exec("open('small', 'wb').write(b'x' * (3 << 20))");
    assert_eq!(output.status.code(), Some(0), "what was there before does not count: {output:?}");
}

#[test]
fn output_is_cut_at_its_limit() {
    let place = Place::new();
    let output = place.caisson(&["exec", "--output", "5000B", "--", "yes"]).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(141), 5000), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stderr).contains("too much output: limit 4.9 KiB"));
    let output = place.caisson(&["exec", "--output", "5000B", "--", "sh", "-c", "echo out; echo err >&2; exit 3"]).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice(), output.stderr.as_slice()), (Some(3), &b"out\n"[..], &b"err\n"[..]));
}

#[test]
fn descriptors_are_limited() {
    let place = Place::new();
    let output = place.caisson(&["exec", "--open-files", "33", "--", "sh", "-c", "ulimit -n; ulimit -Hn"]).output().unwrap();
    assert_eq!(output.stdout, b"33\n33\n");
}

const WORKFLOW: &str = "\
on: push
jobs:
  small:
    runs-on: ubuntu-latest
    steps:
      - name: First
        run: head -c 12M /dev/zero > first
      - name: Second
        run: head -c 12M /dev/zero > second
  many:
    runs-on: ubuntu-latest
    steps:
      - name: Many
        run: for i in $(seq 900); do mkdir $i; done; sleep 50
  neighbour:
    runs-on: ubuntu-latest
    steps:
      - name: Fine
        run: |
          head -c 2M /dev/zero > x
          test $(ulimit -n) = 77
";

#[test]
fn a_job_is_held_to_its_policys_disk_over_all_its_steps_and_neighbours_go_on() {
    let place = Place::with(WORKFLOW);
    let policy = place.path().join("policy.toml");
    std::fs::write(&policy, "[limits]\ndisk = '20MiB'\ninodes = 500\nopen_files = 77\ncpu_weight = 50\n").unwrap();
    let run = place.run(&["--policy", policy.to_str().unwrap()]);
    run.expect(1);
    assert_eq!(run.step("small", "First")["outcome"], "success");
    let second = run.step("small", "Second");
    assert_eq!(
        (&second["outcome"], &second["cause"]["kind"], &second["cause"]["resource"]),
        (&"failure".into(), &"disk".into(), &"bytes".into()),
        "{second}"
    );
    let many = run.step("many", "Many");
    assert_eq!((&many["cause"]["kind"], &many["cause"]["resource"]), (&"disk".into(), &"inodes".into()), "{many}");
    let fine = run.step("neighbour", "Fine");
    assert_eq!(fine["outcome"], "success", "{fine}");
    assert!(fine["enforced"].as_array().unwrap().contains(&"disk-limit".into()), "{fine}");
    for word in ["wall_ms", "user_ms", "system_ms", "build_ms", "teardown_ms", "read_bytes", "written_bytes"] {
        assert!(fine["usage"][word].is_number(), "{word}: {fine}");
    }
}
