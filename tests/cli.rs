//! What the command says of itself and of wrong use.

#![allow(clippy::unwrap_used, clippy::panic)]

mod place;

use place::Place;

fn said(place: &Place, words: &[&str]) -> (i32, String, String) {
    let output = place.caisson(words).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn wrong_use_ends_with_2_and_says_what_to_do() {
    let place = Place::new();
    let table: [(&[&str], &str); 10] = [
        (&["run"], "write .github/workflows/test.yml"),
        (&["run", "/nowhere"], "/nowhere"),
        (&["run", "--allow-missing", "luck"], "memory-limit"),
        (&["run", "--memory", "much"], "512MiB"),
        (&["run", "--no-such-flag"], "--no-such-flag"),
        (&["exec"], "CMD"),
        (&["exec", "--no-such-flag", "--", "true"], "--no-such-flag"),
        (&["exec", "--timeout", "90", "--", "true"], "90s"),
        (&["exec", "--allow", "http://x", "--", "true"], "HOST:PORT"),
        (&["trust"], ".caisson/policy.toml"),
    ];
    for (words, hint) in table {
        let (code, out, errors) = said(&place, words);
        assert_eq!(code, 2, "{words:?}: {out}{errors}");
        assert!(errors.contains(hint), "{words:?}: {errors}");
        assert!(out.is_empty(), "{words:?}: {out}");
    }
}

#[test]
fn every_command_explains_itself() {
    let place = Place::new();
    let (code, all, _) = said(&place, &["--help"]);
    assert_eq!(code, 0);
    for command in ["run", "exec", "check", "init", "plan", "eval", "doctor", "trust", "config", "controller", "agent", "submit"] {
        assert!(all.contains(&format!("\n  {command} ")), "{command}");
        let (code, text, _) = said(&place, &[command, "--help"]);
        assert!(code == 0 && text.contains("Usage: caisson"), "{command}");
    }
}

#[test]
fn doctor_agrees_with_what_a_sandbox_enforces() {
    let place = Place::new();
    let (code, text, _) = said(&place, &["doctor", "--json"]);
    let facts: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(code, if facts["ok"] == true { 0 } else { 3 }, "{text}");
    let subjects: Vec<&str> = facts["facts"].as_array().unwrap().iter().map(|fact| fact["subject"].as_str().unwrap()).collect();
    for subject in ["user-namespace", "seccomp", "landlock", "overlay", "idmapped-mounts", "memory-controller", "app-armor-restriction"] {
        assert!(subjects.contains(&subject), "{subject}");
    }
    let report = place.checkout().join("report.json");
    let mut words = vec!["exec", "--report", report.to_str().unwrap()];
    let missing: Vec<&str> = facts["missing"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|lack| lack["needed"] == true)
        .map(|lack| lack["protection"].as_str().unwrap())
        .collect();
    let missing = missing.join(",");
    if !missing.is_empty() {
        words.extend(["--allow-missing", &missing]);
    }
    words.extend(["--", "true"]);
    assert_eq!(said(&place, &words).0, 0);
    let report: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(report).unwrap()).unwrap();
    let enforced = report["enforced"].as_array().unwrap();
    for protection in ["user-namespace", "pid-namespace", "mount-namespace", "network-namespace", "seccomp", "capabilities", "no-new-privs"]
    {
        let named = |list: &serde_json::Value| list.as_array().unwrap().iter().any(|name| name == protection);
        assert_eq!(named(&facts["enforceable"]), enforced.iter().any(|name| name == protection), "{protection}");
    }
    let (_, table, _) = said(&place, &["doctor"]);
    assert!(table.contains("Enforced in every sandbox"), "{table}");
}

#[test]
fn settings_show_where_they_come_from() {
    let place = Place::new();
    let output = place.caisson(&["config", "--pids", "77"]).env("CAISSON_SLOTS", "5").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = |key: &str| text.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("{key}: {text}"));
    assert!(line("pids").contains("77") && line("pids").contains("flag --pids"));
    assert!(line("slots").contains('5') && line("slots").contains("CAISSON_SLOTS"));
    let output = place.caisson(&["config"]).env("CAISSON_SLOT", "5").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn what_goes_on_inside_can_be_traced() {
    let place = Place::with("on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - run: 'true'\n");
    let traced = |level: Option<&str>| {
        let mut command = place.caisson(&["run", "--allow-missing", "memory-limit"]);
        let output = command.envs(level.map(|level| ("CAISSON_LOG", level))).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(traced(Some("debug")).contains("caisson_"), "modules are named");
    assert!(!traced(None).contains("caisson_"), "control");
}
