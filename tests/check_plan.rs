//! `caisson check` and `caisson plan`: what is wrong with a checkout's workflows, and what would run, with nothing run.

#![allow(clippy::unwrap_used, clippy::panic)]

mod place;

use place::Place;
use serde_json::Value;

const TWO_MISTAKES: &str =
    "on: [push, psh]\njobs:\n  a:\n    runs-on: ubuntu-latest\n    needs: b\n    steps:\n      - run: echo ${{ github.nope( }}\n";

fn said(place: &Place, words: &[&str]) -> (i32, String, String) {
    let output = place.caisson(words).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn json(place: &Place, words: &[&str]) -> (i32, Value) {
    let (code, out, errors) = said(place, words);
    (code, serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{errors}")))
}

#[test]
fn check_tells_every_mistake_of_every_file_in_three_forms() {
    let place = Place::with(TWO_MISTAKES);
    place.write(".github/workflows/good.yaml", "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps: [{ run: \"true\" }]\n");
    let (code, text, _) = said(&place, &["check"]);
    assert_eq!(code, 2);
    for part in [
        "t.yml:1:12: error: unexpected value 'psh'",
        "did you mean `push`?",
        "t.yml:3:3: error: the workflow must contain at least one job with no dependencies",
        "t.yml:7:",
        "good.yaml: good",
    ] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    let (code, all) = json(&place, &["check", "--json"]);
    assert_eq!((code, &all["ok"]), (2, &false.into()));
    let lines: Vec<u64> = all["findings"].as_array().unwrap().iter().map(|finding| finding["line"].as_u64().unwrap()).collect();
    assert_eq!(lines, [1, 3, 7]);
    assert_eq!((&all["files"][0]["ok"], &all["files"][1]["ok"]), (&true.into(), &false.into()));
    let (code, log) = json(&place, &["check", "--sarif"]);
    assert_eq!((code, &log["version"]), (2, &"2.1.0".into()));
    let results = log["runs"][0]["results"].as_array().unwrap();
    assert!(results.len() == 3 && results.iter().all(|result| result["level"] == "error" && result["ruleId"] == "language"), "{log}");
    let (code, text, _) = said(&place, &["check", "-W", "good.yaml"]);
    assert!(code == 0 && text.contains("good.yaml: good"), "{text}");
}

#[test]
fn what_cannot_run_is_right_for_check_and_refused_by_plan_with_its_line() {
    let place = Place::with(
        "on: [push, pull_request_target]\njobs:\n  a:\n    runs-on: ubuntu-latest\n    services: { db: { image: postgres } }\n    steps:\n      - uses: docker://alpine\n      - run: echo hi\n",
    );
    let (code, text, _) = said(&place, &["check"]);
    assert!(code == 0 && text.contains("t.yml:5:5: warning: `services`"), "{text}");
    let (code, plan) = json(&place, &["plan", "--json"]);
    let workflow = &plan["workflows"][0];
    assert_eq!((code, &workflow["ok"]), (2, &false.into()));
    let lines: Vec<u64> = workflow["unsupported"].as_array().unwrap().iter().map(|finding| finding["line"].as_u64().unwrap()).collect();
    assert_eq!(lines, [5, 7]);
    assert_eq!(workflow["jobs"][0]["steps"][1]["name"], "Run echo hi");
    assert!(workflow["errors"].as_array().unwrap().iter().any(|error| error["kind"] == "security" && error["line"] == 1));
}

#[test]
fn plan_shows_cells_order_reach_and_secrets() {
    let place = Place::with(
        "on:\n  workflow_dispatch: { inputs: { level: { type: choice, options: [a, b], default: b } } }\nconcurrency: { group: one, cancel-in-progress: true }\npermissions: { contents: read }\njobs:\n  \
         last: { needs: test, runs-on: ubuntu-latest, environment: prod, steps: [{ run: \"true\" }] }\n  test:\n    runs-on: ubuntu-latest\n    timeout-minutes: 5\n    strategy: { fail-fast: false, matrix: { v: [1, 2], exclude: [{ v: 1 }], include: [{ v: 3 }] } }\n    steps:\n      \
         - run: pip install django\n      - run: deploy\n        env: { KEY: \"${{ secrets.KEY }}\" }\n",
    );
    let (code, plan) = json(&place, &["plan", "--json"]);
    assert_eq!(code, 0, "{plan}");
    let workflow = &plan["workflows"][0];
    assert_eq!(workflow["concurrency"]["group"], "one");
    assert_eq!((&workflow["permissions"]["contents"], &workflow["inputs"]["level"]), (&"read".into(), &"b".into()));
    let jobs = workflow["jobs"].as_array().unwrap();
    let (test, last) = (&jobs[0], &jobs[1]);
    assert_eq!((&test["key"], &test["order"], &last["key"], &last["order"]), (&"test".into(), &1.into(), &"last".into(), &2.into()));
    let names: Vec<&str> = test["cells"].as_array().unwrap().iter().map(|cell| cell["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["test (2)", "test (3)"]);
    assert_eq!((&test["fail_fast"], &test["timeout_minutes"], &last["environment"]), (&false.into(), &"5".into(), &"prod".into()));
    assert_eq!(test["reaches"], serde_json::json!(["the Python package index"]));
    assert_eq!((&test["secrets"], &test["steps"][1]["secrets"]), (&serde_json::json!(["KEY"]), &serde_json::json!(["KEY"])));
}

#[test]
fn each_rule_of_safety_has_a_switch_in_the_policy() {
    let job = |steps: &str| {
        format!(
            "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    outputs: {{ o: \"${{{{ steps.x.outputs.o }}}}\" }}\n    steps:\n      - {steps}\n"
        )
    };
    let script = job("run: echo '${{ github.event.pull_request.title }}'");
    let secret = job("run: echo '${{ secrets.TOKEN }}' | wc -c");
    let output = job("run: \"true\"").replace("steps.x.outputs.o", "secrets.TOKEN");
    let event = |event: &str| job("run: \"true\"").replace("on: push", &format!("on: [push, {event}]"));
    for (rule, text) in [
        ("untrusted-text-in-scripts", script),
        ("secrets-in-scripts", secret),
        ("secrets-in-outputs", output),
        ("pull-request-target", event("pull_request_target")),
        ("workflow-run", event("workflow_run")),
    ] {
        let place = Place::with(&text);
        let (code, _, errors) = said(&place, &["run", "--secret", "TOKEN=abcdef"]);
        assert!(code == 2 && errors.contains(&format!("allow = [\"{rule}\"]")), "{rule}: {errors}");
        place.write("policy.toml", &format!("[workflow]\nallow = ['{rule}']\n"));
        let run = place.run(&["--secret", "TOKEN=abcdef", "--policy", "policy.toml"]);
        assert_eq!(run.code, 0, "{rule}: {}{}", run.errors, run.told());
        assert!(run.errors.contains("the policy allows it"), "{rule}: {}", run.errors);
    }
}

#[test]
fn permissions_are_bounded_by_the_policy() {
    let place = Place::with(
        "on: push\npermissions: { contents: write, issues: read }\njobs:\n  a: { runs-on: x, permissions: write-all, steps: [{ run: \"true\" }] }\n",
    );
    place.write("policy.toml", "[workflow]\npermissions = 'read-all'\n");
    let (code, plan) = json(&place, &["plan", "--json", "--policy", "policy.toml"]);
    let workflow = &plan["workflows"][0];
    assert_eq!((code, &workflow["permissions"]["contents"], &workflow["permissions"]["issues"]), (0, &"read".into(), &"read".into()));
    assert_eq!(workflow["jobs"][0]["permissions"], "read-all");
    assert!(workflow["warnings"].to_string().contains("contents: write is more than it allows"), "{workflow}");
}

/// What bounds the text of workflows can be lowered by the policy, and what it may ask for by default is that of new repositories.
#[test]
fn a_policy_bounds_what_check_accepts() {
    let called =
        "on: workflow_call\npermissions: { issues: write }\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps: [{ run: 'true' }]\n";
    let place =
        Place::with("on: push\njobs:\n  a: { uses: ./.github/workflows/called.yml }\n  b: { uses: ./.github/workflows/called.yml }\n");
    place.write(".github/workflows/called.yml", called);
    let policy = |text: &str| {
        place.write("../policy.toml", &format!("[workflow]\n{text}\n"));
        said(&place, &["check", "-W", "t.yml", "--policy", place.path().join("policy.toml").to_str().unwrap()])
    };
    let (code, text, _) = said(&place, &["check", "-W", "t.yml"]);
    assert!(code == 2 && text.contains("is requesting 'issues: write', but is only allowed 'issues: none'"), "{text}");
    assert_eq!(policy("default_permissions = 'write'").0, 0);
    for (bound, message) in [
        ("max_depth = 2", "maximum object depth exceeded"),
        ("max_file_size = 40", "the maximum file size of 40 characters has been exceeded"),
        ("max_jobs = 3", "the workflow may not contain more than 3 jobs"),
        ("max_result_size = 2000", "maximum object size exceeded"),
    ] {
        let (code, text, _) = policy(&format!("default_permissions = 'write'\n{bound}"));
        assert!(code == 2 && text.contains(message), "{bound}: {text}");
    }
    assert_eq!(policy("max_depth = 51").0, 2);
    // A run gives the token no rights at all, so that nothing is refused there.
    assert_eq!(said(&place, &["plan", "-W", "t.yml"]).0, 0);
}

/// Another repository is checked out where the policy says so, and refused before anything runs where it does not.
#[test]
fn another_repository_is_checked_out_where_policy_lets_it() {
    let place = Place::with(
        "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - uses: actions/checkout@v4\n        with: { repository: acme/lib, path: lib }\n",
    );
    let (code, text, errors) = said(&place, &["plan"]);
    assert!(code == 2 && (text + &errors).contains("the step may not reach github.com"));
    place.write("../policy.toml", "[[step]]\njob = 'a'\npresets = ['git:github.com']\n");
    assert_eq!(said(&place, &["plan", "--policy", place.path().join("policy.toml").to_str().unwrap()]).0, 0);
}

/// Hostile files are refused with little memory and in little time, whatever they would unfold to.
#[test]
fn hostile_files_are_refused_in_bounded_time_and_memory() {
    let place = Place::new();
    let job = "jobs:\n  a:\n    runs-on: ubuntu-latest\n    steps: [{ run: 'true' }]\n";
    let mut bomb = String::from("on: push\nx0: &x0 [a, a, a, a, a, a, a, a, a, a]\n");
    (1..30).for_each(|n| bomb.push_str(&format!("x{n}: &x{n} [{}]\n", vec![format!("*x{}", n - 1); 10].join(", "))));
    let vector = |name: &str| format!("        {name}: [{}]\n", (0..200).map(|n| n.to_string()).collect::<Vec<_>>().join(", "));
    let matrix = format!("    strategy:\n      matrix:\n{}{}{}", vector("a"), vector("b"), vector("c"));
    for (name, text, message) in [
        ("large", format!("on: push\n{job}# {}\n", "x".repeat(10 << 20)), "longer than 1 MiB"),
        ("bomb", format!("{bomb}{job}"), "nodes once its aliases are resolved"),
        ("deep", format!("on: push\nenv: {}{}\n{job}", "[".repeat(400_000), "]".repeat(400_000)), "maximum object depth exceeded"),
        ("matrix", format!("on: push\n{job}{matrix}"), "the matrix has more than 256 cells"),
        (
            "expression",
            format!("on: push\n{job}      - run: echo ${{{{ {}1{} }}}}\n", "(".repeat(9000), ")".repeat(9000)),
            "max expression depth",
        ),
        ("tight", format!("on: [push]#a\n{}{job}", "x: [1]#b\n".repeat(10_000)), ""),
    ] {
        let text = if name == "expression" { text.replace("steps: [{ run: 'true' }]", "steps:\n      - run: 'true'") } else { text };
        place.write(".github/workflows/t.yml", &text);
        let began = std::time::Instant::now();
        // Half a gigabyte of addresses, threads and program included.
        let limited = ["-c", "ulimit -v 524288; exec \"$0\" check", env!("CARGO_BIN_EXE_caisson")];
        let output = place.program("/bin/sh", &limited).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let code = output.status.code();
        assert!(code == Some(2), "{name}: {code:?} {said:.500}{}", String::from_utf8_lossy(&output.stderr));
        assert!(said.contains(message), "{name}: {message} is not in {said:.2000}");
        // Generous: an unoptimised build on a loaded machine.
        assert!(began.elapsed() < std::time::Duration::from_secs(20), "{name} took {:?}", began.elapsed());
    }
}
