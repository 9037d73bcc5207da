//! A run that learns what it wants, the policy that comes of it, and a later run that wants more.

#![allow(clippy::unwrap_used, clippy::panic)]

mod place;
mod town;

use std::fs;
use std::process::Command;

use place::{Place, Run};
use serde_json::{Value, json};
use town::Town;

const ASK: &str = "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - name: Ask\n        run: |\n          \
    curl -sSf -m 20 http://web.example/\n          \
    python3 -c 'import socket; s = socket.create_connection((\"web.example\", 7000), 10); s.sendall(b\"ping\"); s.settimeout(10); print(s.recv(4))'\n          \
    python3 -c 'import socket; s = socket.create_connection((\"203.0.113.10\", 7000), 10); s.sendall(b\"ping\"); s.settimeout(10); print(s.recv(4))'\n          \
    curl -sS -m 20 http://inner.example/ || true\n          \
    curl -sS -m 20 --noproxy '*' http://169.254.169.254/ || true\n";

#[test]
fn what_is_learnt_is_the_smallest_policy_and_a_later_run_that_wants_more_fails() {
    let Some(mut town) = Town::new() else { return };
    town.web();
    let place = Place::with(ASK);
    let run = |words: &[&str]| Run::of(town.caisson(&place, &[&["run", "--json"], words].concat()).output().unwrap());
    assert!(Command::new("git").args(["init", "-q", "."]).current_dir(place.checkout()).status().unwrap().success());

    // The control: without a policy it fails, and says what would open what it wanted.
    run(&[]).expect(1);
    let learnt = run(&["--learn"]);
    learnt.expect(0);
    // Nothing that lies inside was opened.
    let of = |run: &Run, host: &str| -> Vec<Value> {
        run.of_type("egress").filter(|entry| entry["host"] == host && entry["port"] != 0).cloned().collect()
    };
    for (host, words) in [("inner.example", "a private network"), ("169.254.169.254", "link-local")] {
        let entries = of(&learnt, host);
        assert!(!entries.is_empty() && entries.iter().all(|entry| entry["verdict"] == "refused"), "{host}: {entries:?}");
        assert!(entries[0]["rule"].as_str().unwrap().contains(words), "{entries:?}");
    }
    let patch = fs::read_to_string(place.checkout().join(".caisson/learned.patch")).unwrap();
    let applied = Command::new("git").args(["apply", ".caisson/learned.patch"]).current_dir(place.checkout()).output().unwrap();
    assert!(applied.status.success(), "{patch}: {}", String::from_utf8_lossy(&applied.stderr));
    let policy = fs::read_to_string(place.checkout().join(".caisson/policy.toml")).unwrap();
    let read: toml::Table = policy.parse().unwrap();
    let steps = read["step"].as_array().unwrap();
    assert_eq!(steps.len(), 1, "{policy}");
    assert_eq!(steps[0]["step"].as_str(), Some("Ask"));
    let allowed: Vec<&str> = steps[0]["allow"].as_array().unwrap().iter().filter_map(toml::Value::as_str).collect();
    assert_eq!(allowed, ["203.0.113.10:7000", "inner.example:80", "web.example:7000", "web.example:80"], "{policy}");
    assert!(policy.contains("# ranges = [\"10.9.0.1/32\"]") && steps[0].get("ranges").is_none(), "{policy}");

    // It works, and it is enough.
    assert!(town.caisson(&place, &["trust"]).output().unwrap().status.success());
    let enforced = run(&[]);
    enforced.expect(0);
    assert!(of(&enforced, "web.example").iter().all(|entry| entry["verdict"] == "allowed"), "{}", enforced.told());
    assert!(fs::read_to_string(place.checkout().join(".caisson/learned.patch")).unwrap() == patch, "it did not learn");
    // The range that was proposed opens what it says, once a person takes it.
    let opened = policy.replace("# ranges = [", "ranges = [");
    place.write("opened.toml", &opened);
    let opened = run(&["--policy", "opened.toml"]);
    assert!(of(opened.expect(0), "inner.example").iter().all(|entry| entry["verdict"] == "allowed"), "{}", opened.told());

    // A later change reaches for something new.
    place.write(".github/workflows/t.yml", &format!("{ASK}          curl -sS -m 20 http://other.example/ || true\n"));
    run(&[]).expect(0);
    let failed = run(&["--fail-on-new-egress"]);
    failed.expect(1);
    let step = failed.step("a", "Ask");
    assert_eq!(step["outcome"], json!("failure"));
    assert!(step["cause"]["message"].as_str().unwrap().contains("other.example:80"), "{step}");
    assert!(!step["cause"]["message"].as_str().unwrap().contains("web.example"), "{step}");
    let told = town.caisson(&place, &["run", "--fail-on-new-egress"]).output().unwrap();
    let text = String::from_utf8(told.stdout).unwrap();
    assert!(text.contains("step `Ask` tried to reach other.example:80, refused") && text.contains("\"other.example:80\""), "{text}");

    // Whoever says so forbids it.
    place.write("never.toml", "[network]\nlearn = false\n");
    run(&["--learn", "--policy", "never.toml"]).expect(2);
}
