//! From the text of a workflow to plans, cells and findings, through the crate's public door only.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use caisson_model::diagnostic::{Diagnostic, DiagnosticKind, Severity};
use caisson_model::id::RunId;
use caisson_model::job::{JobSpec, Need};
use caisson_model::outcome::Outcome;
use caisson_model::run::Submission;
use caisson_model::step::Action;
use caisson_workflow::{Expansion, Plan, PlannedJob, Ready, any_error, events, expand, plan, render};
use indexmap::IndexMap;
use serde_json::json;

const FILE: &str = ".github/workflows/test.yml";

const DJANGO: &str = r#"
name: Tests
on:
  push:
    branches: [main]
  workflow_dispatch:
    inputs:
      level: {type: choice, options: [quick, full], default: quick}
      verbose: {type: boolean}
env:
  DJANGO_SETTINGS_MODULE: polls.settings
defaults:
  run:
    shell: bash
jobs:
  test:
    runs-on: ${{ matrix.os }}
    timeout-minutes: 10
    strategy:
      fail-fast: false
      max-parallel: 2
      matrix:
        os: [Ubuntu-Latest]
        python: ["3.11", "3.12"]
        include:
          - {python: "3.13", os: ubuntu-latest, experimental: true}
    continue-on-error: ${{ matrix.experimental || false }}
    env:
      TOKEN: ${{ secrets.API_TOKEN }}
    outputs:
      version: ${{ steps.py.outputs.python-version }}
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        id: py
        with: {python-version: "${{ matrix.python }}"}
      - name: Install
        run: pip install -r requirements.txt
        env: {INDEX: "${{ secrets.INDEX_URL }}"}
      - run: python manage.py test
        if: ${{ !cancelled() }}
        timeout-minutes: 5
        working-directory: app
  report:
    needs: test
    if: always()
    runs-on: ubuntu-latest
    strategy:
      matrix:
        item: ${{ fromJSON(needs.test.outputs.items) }}
    steps:
      - run: echo "${{ needs.test.result }}"
"#;

fn submission(event: &str) -> Submission {
    Submission { event: event.into(), github: json!({"ref": "refs/heads/main", "sha": "abc"}), ..Submission::default() }
}

fn planned(text: &str) -> Plan {
    plan(text, FILE, &submission("push")).unwrap_or_else(|findings| panic!("{}", text_of(&findings)))
}

fn text_of(findings: &[Diagnostic]) -> String {
    findings.iter().map(render).collect()
}

fn ready(plan: &Plan) -> Ready {
    Ready {
        run: RunId(7),
        first_index: 1,
        needs: IndexMap::new(),
        ancestor_failed: false,
        cancelled: false,
        contexts: plan.contexts.clone().into(),
        source: None,
    }
}

fn need(outcome: Outcome, outputs: &[(&str, &str)]) -> Need {
    Need { outcome, outputs: outputs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect() }
}

#[track_caller]
fn cells(job: &PlannedJob, ready: &Ready) -> Vec<JobSpec> {
    match expand(job, ready).unwrap_or_else(|finding| panic!("{}", render(&finding))) {
        Expansion::Cells(cells) => cells,
        other => panic!("no cells: {other:?}"),
    }
}

#[test]
fn a_django_workflow_becomes_cells() {
    let plan = planned(DJANGO);
    assert_eq!(plan.workflow, "Tests");
    assert_eq!(plan.filtered, None);
    assert!(plan.warnings.is_empty(), "{}", text_of(&plan.warnings));
    let cells = cells(&plan.jobs[0], &ready(&plan));
    let names: Vec<&str> = cells.iter().map(|cell| cell.name.as_str()).collect();
    assert_eq!(names, ["test (Ubuntu-Latest, 3.11)", "test (Ubuntu-Latest, 3.12)", "test (3.13, ubuntu-latest, true)"]);
    assert_eq!(cells.iter().map(|cell| cell.id.index).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(cells.iter().map(|cell| cell.continue_on_error).collect::<Vec<_>>(), [false, false, true]);
    let first = &cells[0];
    assert_eq!(first.labels, ["ubuntu-latest"]);
    assert_eq!(first.timeout, Duration::from_secs(600));
    assert_eq!((first.strategy.fail_fast, first.strategy.max_parallel, first.strategy.job_total), (false, Some(2), 3));
    assert_eq!(first.matrix, json!({"os": "Ubuntu-Latest", "python": "3.11"}));
    assert_eq!(first.workflow_env[0].0, "DJANGO_SETTINGS_MODULE");
}

#[test]
fn steps_keep_their_templates_and_name_their_secrets() {
    let plan = planned(DJANGO);
    let steps = &plan.jobs[0].steps;
    assert_eq!(steps[0].label(), "Run actions/checkout@v4");
    assert!(matches!(&steps[1].action, Action::Uses { action, with, .. }
        if action == "actions/setup-python" && with[0].0 == "python-version" && with[0].1.0 == "${{ matrix.python }}"));
    assert!(matches!(&steps[3].action, Action::Run { shell: Some(shell), working_directory: Some(dir), .. }
        if shell.0 == "bash" && dir.0 == "app"));
    // A job's env is every step's; a step's own is its own.
    assert_eq!(steps[2].grant.secrets, ["API_TOKEN", "INDEX_URL"]);
    assert_eq!(steps[3].grant.secrets, ["API_TOKEN"]);
    assert_eq!((steps[3].location.line, steps[3].location.column), (40, 9));
    assert_eq!(steps[3].timeout_minutes.as_ref().unwrap().0, "5");
}

#[test]
fn needs_decide_whether_a_job_runs_and_as_what() {
    let plan = planned(DJANGO);
    let mut ready = ready(&plan);
    ready.needs.insert("test".into(), need(Outcome::Failure, &[("items", r#"["a","b"]"#)]));
    let report = cells(&plan.jobs[1], &ready);
    assert_eq!(report.iter().map(|cell| cell.name.as_str()).collect::<Vec<_>>(), ["report (a)", "report (b)"]);

    ready.needs.insert("test".into(), need(Outcome::Success, &[("items", "[]")]));
    let finding = expand(&plan.jobs[1], &ready).unwrap_err();
    assert_eq!(finding.construct, "jobs.report.strategy.matrix");
    assert_eq!(finding.location.line, 50);
    ready.needs.insert("test".into(), need(Outcome::Success, &[]));
    assert!(expand(&plan.jobs[1], &ready).unwrap_err().message.contains("empty text"));
}

#[test]
fn conditions_of_jobs_follow_the_results_of_their_needs() {
    let with = |condition: &str| {
        planned(&format!("on: push\njobs:\n  a:\n    runs-on: x\n  b:\n    needs: a\n    if: {condition}\n    runs-on: x\n"))
    };
    for (condition, outcome, cancelled, runs) in [
        ("''", Outcome::Success, false, true),
        ("''", Outcome::Failure, false, false),
        ("''", Outcome::Skipped, false, false),
        ("''", Outcome::TimedOut, false, false),
        ("''", Outcome::Success, true, false),
        ("failure()", Outcome::Failure, false, true),
        ("failure()", Outcome::Success, false, false),
        ("always()", Outcome::Cancelled, true, true),
        ("cancelled()", Outcome::Success, true, true),
        ("needs.a.result == 'success'", Outcome::Success, false, true),
        ("\"!failure() && needs.a.result == 'skipped'\"", Outcome::Skipped, false, true),
        ("github.ref == 'refs/heads/other'", Outcome::Success, false, false),
    ] {
        let plan = with(condition);
        let mut ready = ready(&plan);
        ready.cancelled = cancelled;
        ready.needs.insert("a".into(), need(outcome, &[]));
        let got = matches!(expand(&plan.jobs[1], &ready).unwrap(), Expansion::Cells(_));
        assert_eq!(got, runs, "if: {condition} after {outcome}, cancelled {cancelled}");
    }
    let plan = with("''");
    let mut ready = ready(&plan);
    ready.needs.insert("a".into(), need(Outcome::Success, &[]));
    ready.ancestor_failed = true;
    assert!(matches!(expand(&plan.jobs[1], &ready).unwrap(), Expansion::Skipped { .. }));
}

#[test]
fn dispatch_inputs_have_the_declared_types() {
    let dispatch = |inputs: &[(&str, &str)]| {
        let inputs = inputs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        plan(DJANGO, FILE, &Submission { inputs, ..submission("workflow_dispatch") })
    };
    let contexts = dispatch(&[("verbose", "true")]).unwrap().contexts;
    assert_eq!(contexts.inputs, json!({"level": "quick", "verbose": true}));
    assert_eq!(contexts.github["event"]["inputs"], json!({"level": "quick", "verbose": "true"}));
    for (inputs, message) in
        [(("level", "slow"), "one of quick, full"), (("verbose", "yes"), "true or false"), (("nope", "1"), "no input 'nope'")]
    {
        let findings = dispatch(&[inputs]).unwrap_err();
        assert!(findings.iter().any(|f| f.kind == DiagnosticKind::Submission && f.message.contains(message)), "{}", text_of(&findings));
    }
}

#[test]
fn a_submission_must_fit_the_workflow() {
    let findings = plan(DJANGO, FILE, &submission("pull_request")).unwrap_err();
    assert_eq!(findings[0].kind, DiagnosticKind::Submission);
    let only =
        |jobs: &[&str]| plan(DJANGO, FILE, &Submission { jobs: jobs.iter().map(|j| (*j).to_owned()).collect(), ..submission("push") });
    assert_eq!(only(&["test"]).unwrap().jobs.len(), 1);
    assert_eq!(only(&["report"]).unwrap().jobs.len(), 2);
    assert_eq!(only(&["nope"]).unwrap_err()[0].kind, DiagnosticKind::Submission);

    let other = Submission { github: json!({"ref": "refs/heads/feature"}), ..submission("push") };
    let plan = plan(DJANGO, FILE, &other).unwrap();
    assert_eq!(plan.filtered.as_deref(), Some("the branch 'feature' does not match `branches`"));
    assert_eq!(plan.warnings[0].severity, Severity::Warning);
}

#[test]
fn jobs_stand_after_what_they_need() {
    let plan = planned("on: push\njobs:\n  c: {runs-on: x, needs: [b, a]}\n  b: {runs-on: x, needs: a}\n  a: {runs-on: x}\n");
    assert_eq!(plan.jobs.iter().map(|job| job.key.0.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
}

#[test]
fn an_overview_lists_events_and_jobs() {
    let overview = events(DJANGO, FILE).unwrap();
    assert_eq!(
        (overview.workflow.as_str(), overview.events, overview.jobs),
        ("Tests", vec!["push".to_owned(), "workflow_dispatch".to_owned()], vec!["test".to_owned(), "report".to_owned()],)
    );
    assert_eq!(events("on: [push, pull_request]\njobs: {a: {runs-on: x}}", FILE).unwrap().events, ["push", "pull_request"]);
    assert!(any_error(&events("jobs: {}", FILE).unwrap_err()));
}

/// A workflow with one job whose body is given, at four spaces.
fn job(body: &str) -> String {
    format!("on: push\njobs:\n  a:\n    runs-on: x\n{body}")
}

#[track_caller]
fn refused(text: &str, kind: DiagnosticKind, place: (u32, u32), message: &str) {
    let findings = plan(text, FILE, &submission("push")).expect_err(text);
    let found = findings.iter().any(|finding| {
        let at = (finding.location.line, finding.location.column);
        finding.severity == Severity::Error
            && finding.kind == kind
            && at == place
            && finding.message.contains(message)
            && !finding.help.is_empty()
    });
    assert!(found, "no {kind:?} finding at {place:?} with {message:?} for:\n{text}\n{}", text_of(&findings));
}

#[test]
fn what_breaks_the_language_is_refused_with_its_place() {
    use DiagnosticKind::Language;
    for (body, place, message) in [
        ("    stepz: []\n", (5, 5), "unexpected value 'stepz'"),
        ("    timeout-minutes: ten\n", (5, 22), "unexpected value 'ten'"),
        ("    env: [A]\n", (5, 10), "a sequence was not expected"),
        ("    needs: nope\n", (3, 3), "at least one job"),
        ("    if: github.nope() == 1\n", (5, 20), "unexpected symbol"),
        ("    if: secrets.A == 'x'\n", (5, 9), "unrecognized named-value: 'secrets'"),
        ("    if: \"${{ matrix.x && nope }}\"\n", (5, 14), "unrecognized named-value: 'matrix'"),
        ("    steps:\n    - run: |\n        echo\n        echo ${{ nope.x }}\n", (8, 18), "unrecognized named-value: 'nope'"),
        ("    steps:\n    - run: echo ${{ 1 = 2 }}\n", (6, 23), "unexpected symbol: '='"),
        ("    steps:\n    - run: echo ${{ github.sha\n", (6, 17), "not closed"),
        ("    steps:\n    - uses: actions/checkout\n", (6, 13), "expected format"),
        ("    steps:\n    - {run: a, id: x}\n    - {run: b, id: X}\n", (7, 20), "more than once"),
        ("    steps:\n    - {run: a, id: 1x}\n", (6, 20), "invalid"),
        ("    steps:\n    - {run: a, shell: }\n", (6, 21), "unexpected value ''"),
        ("    steps:\n    - {run: a, uses: b/c@d}\n", (6, 16), "unexpected value 'uses'"),
        ("    strategy: {matrix: {v: []}}\n", (5, 28), "does not contain any values"),
        ("    strategy: {matrix: {v: [1], exclude: [{w: 1}]}}\n", (5, 16), "exclude key 'w'"),
        ("    runs-on: y\n", (5, 5), "'runs-on' is already defined"),
    ] {
        refused(&job(body), Language, place, message);
    }
    for (body, place, message) in [
        ("    uses: ./x.yml\n", (5, 5), "unexpected value 'uses'"),
        ("    steps:\n    - {run: a, if: failure('b')}\n", (6, 20), "too many parameters"),
        ("    container: {options: x}\n", (5, 16), "image cannot be empty"),
        ("    services: {db: {ports: [80]}}\n", (5, 20), "image cannot be empty"),
        ("    steps:\n    - {uses: b/c@d, run: a}\n", (6, 21), "unexpected value 'run'"),
    ] {
        refused(&job(body), Language, place, message);
    }
    for (on, place, message) in [
        ("{release: {types: }}", (1, 21), "unexpected value ''"),
        ("{create: {}}", (1, 14), "a mapping was not expected"),
        ("{repository_dispatch: {types: a}}", (1, 35), "unexpected value 'a'"),
        ("{workflow_call: {inputs: }}", (1, 28), "unexpected value ''"),
        ("{workflow_dispatch: {inputs: {a: {type: choice}}}}", (1, 38), "missing `options`"),
        ("{workflow_dispatch: {inputs: {a: {options: [b]}}}}", (1, 38), "goes with the type choice"),
        ("{workflow_dispatch: {inputs: {a: {type: boolean, default: maybe}}}}", (1, 63), "'maybe' as the default of a boolean"),
    ] {
        refused(&format!("on: {on}\njobs: {{a: {{runs-on: x}}}}\n"), Language, place, message);
    }
    let call = "on: push\njobs: {a: {uses: b/c/.github/workflows/d.yml@v1, with: \"${{ github.x }}\"}}\n";
    refused(call, Language, (2, 57), "not allowed in this context");
    refused("on: push\njobs: {b: {runs-on: x}, a: {runs-on: x, needs: [b, b]}, a: {runs-on: x}}\n", Language, (2, 57), "already defined");
    let long = "x".repeat(100);
    refused(&format!("on: push\njobs: {{{long}: {{runs-on: x}}}}\n"), Language, (2, 8), "longer than 99");
    refused(&format!("on: push\nconcurrency: {}\njobs: {{a: {{runs-on: x}}}}\n", "g".repeat(401)), Language, (2, 14), "at most 400");
    refused("on: push\njobs: {a: {runs-on: x, needs: [b]}, b: {runs-on: x, needs: [a]}, c: {runs-on: x}}", Language, (2, 32), "cycle");
    refused("on: push\njobs: {a: {runs-on: x, needs: [b]}, c: {runs-on: x}}", Language, (2, 32), "unknown job 'b'");
    refused(&job("    strategy: {matrix: {v: [{a: 1, A: 2}]}}\n"), Language, (5, 36), "already defined");
    refused("on: {push: {tags: a, tags: b}}\njobs: {a: {runs-on: x}}", Language, (1, 22), "already defined");
    refused("on: pusch\njobs: {a: {runs-on: x}}", Language, (1, 5), "unexpected value 'pusch'");
    refused("on: push\njobs: [\n", Language, (2, 7), "not YAML");
    refused("on: push\njobs: {a: {runs-on: x}}\n---\nb: c\n", Language, (3, 1), "second document");
    refused("on: push\nname: !foo x\njobs: {a: {runs-on: x}}\n", Language, (2, 12), "tag");
    refused("on: {schedule: [{cron: '61 * * * *'}]}\njobs: {a: {runs-on: x}}\n", Language, (1, 24), "invalid cron");
}

#[test]
fn what_caisson_does_not_support_is_refused_with_its_place() {
    use DiagnosticKind::Unsupported;
    for (body, place, message) in [
        ("    services: {db: {image: postgres}}\n", (5, 5), "service containers"),
        ("    container: node:20\n", (5, 5), "sandbox"),
        ("    steps:\n    - uses: acme/nope@v4\n", (6, 13), "`acme/nope` is not available"),
        ("    steps:\n    - uses: ./.github/actions/x\n", (6, 13), "there is no action.yml"),
        ("    steps:\n    - uses: docker://alpine\n", (6, 13), "docker actions"),
        ("    steps:\n    - {run: dir, shell: pwsh}\n", (6, 25), "shell `pwsh`"),
        ("    steps:\n    - {run: dir, shell: perl}\n", (6, 25), "`perl` is no shell"),
        ("    steps:\n    - {run: a, background: true}\n", (6, 16), "`background`"),
        ("    steps:\n    - {run: a, env: \"${{ fromJSON('{}') }}\"}\n", (6, 21), "in place of the whole mapping"),
        ("    steps:\n    - {run: a, timeout-minutes: 0}\n", (6, 33), "no time limit"),
    ] {
        refused(&job(body), Unsupported, place, message);
    }
    refused("on: push\njobs: {a: {uses: ./.github/workflows/x.yml}}", Unsupported, (2, 18), "is not in the checkout");
}

#[test]
fn what_is_unsafe_is_refused_and_the_fix_is_shown() {
    use DiagnosticKind::Security;
    for (script, column, message) in [
        ("echo ${{ github.event.issue.title }}", 21, "a stranger chose"),
        ("echo ${{ github.head_ref || 'x' }}", 21, "a stranger chose"),
        ("echo ${{ github.event.commits[0].message }}", 21, "a stranger chose"),
        ("echo ${{ toJSON(github.event) }}", 28, "a stranger chose"),
        ("echo ${{ format('{0}', github['event'].comment.body) }}", 35, "a stranger chose"),
        ("echo ${{ secrets.TOKEN }}", 21, "pasted into the script"),
        ("echo ${{ github.token }}", 21, "pasted into the script"),
        ("echo ${{ secrets[matrix.x] }}", 21, "not named in the text"),
    ] {
        refused(&job(&format!("    steps:\n    - run: {script}\n")), Security, (6, column), message);
    }
    for script in [
        "echo ${{ github.sha }}",
        "echo ${{ contains(github.event.issue.title, 'x') }}",
        "echo ${{ github.event.issue.number }}",
        "echo ${{ github.ref == 'refs/heads/main' && 'release' || 'snapshot' }}",
    ] {
        planned(&job(&format!("    steps:\n    - run: \"{script}\"\n")));
    }
    for event in ["pull_request_target", "workflow_run"] {
        let text = format!("on: [push, {event}]\njobs: {{a: {{runs-on: x}}}}");
        refused(&text, Security, (1, 12), event);
    }
    refused(&job("    outputs: {a: \"${{ secrets.A }}\"}\n"), Security, (5, 18), "an output would carry a secret");
}

#[test]
fn findings_read_well() {
    let text = job("    steps:\n    - name: Greet\n      run: echo \"${{ github.event.issue.title }}\"\n");
    insta::assert_snapshot!(text_of(&plan(&text, FILE, &submission("push")).unwrap_err()), @r#"
    .github/workflows/test.yml:7:22: error: `github.event.issue.title` may hold text that a stranger chose, and would be run as part of the script
       |
     7 |       run: echo "${{ github.event.issue.title }}"
       |                      ^^^^^^^^^^^^^^^^^^^^^^^^
       in: jobs.a.steps[0].run
       do: add `env: { ISSUE_TITLE: "${{ github.event.issue.title }}" }` to the step and write "$ISSUE_TITLE" in the script; a policy allows it with `allow = ["untrusted-text-in-scripts"]` under [workflow]
    "#);
}

#[test]
fn what_has_no_effect_is_said() {
    let text = "on: push\npermissions: write-all\nconcurrency: x\njobs:\n  a:\n    runs-on: x\n    environment: prod\n    steps:\n    - {uses: actions/setup-python@v5, with: {cache: pip, nope: v1}}\n";
    let plan = planned(text);
    let constructs: Vec<&str> = plan.warnings.iter().map(|warning| warning.construct.as_str()).collect();
    assert_eq!(constructs, ["permissions", "jobs.a.environment", "jobs.a.steps[0].with.nope"]);
    assert!(planned("on: push\npermissions: {contents: read}\njobs: {a: {runs-on: x}}").warnings.is_empty());
    let paths = planned("on: {push: {paths: ['**.py']}}\njobs: {a: {runs-on: x}}");
    assert!(paths.warnings[0].message.contains("`paths` is not applied"));
}

#[test]
fn names_that_are_not_there_are_said() {
    let body = "    strategy: {matrix: {os: [x], include: [{py: '3'}]}}\n    if: needs.b.result\n    steps:\n    - run: echo ${{ matrix.oss }} ${{ matrix.py }} ${{ steps.s.outputs.x }}\n      id: s\n    - {run: a, if: steps.s.outcome == 'success' && steps.t.outcome}\n    - run: a\n      env: {T: \"${{ secrets.GITHUB_TOKEN }}\"}\n    outputs: {x: \"${{ steps.s.outputs.x }}\"}\n";
    let warnings = planned(&job(body)).warnings;
    let said: Vec<(u32, u32, &str)> =
        warnings.iter().map(|w| (w.location.line, w.location.column, w.message.split(':').next().unwrap())).collect();
    assert_eq!(
        said,
        [
            (6, 9, "`needs.b` is always empty"),
            (8, 21, "`matrix.oss` is always empty"),
            (8, 56, "`steps.s` is always empty"),
            (10, 52, "`steps.t` is always empty"),
            (12, 21, "`secrets.GITHUB_TOKEN` is empty"),
        ]
    );
    assert_eq!(warnings[1].help, "did you mean `matrix.os`?");
    let computed = job("    strategy: {matrix: \"${{ fromJSON(vars.m) }}\"}\n    steps: [{run: \"${{ matrix.any }}\"}]\n");
    assert!(planned(&computed).warnings.is_empty());
}

#[test]
fn anchors_work_and_bombs_do_not() {
    let text = "on: push\njobs:\n  a: &job\n    runs-on: x\n    steps: [&s {run: echo}, *s]\n  b: *job\n";
    let plan = planned(text);
    assert_eq!((plan.jobs.len(), plan.jobs[1].steps.len()), (2, 2));

    let mut bomb = "on: push\nx0: &x0 [a, a, a, a, a, a, a, a, a]\n".to_owned();
    for i in 1..12 {
        let aliases = vec![format!("*x{}", i - 1); 9].join(", ");
        bomb.push_str(&format!("x{i}: &x{i} [{aliases}]\n"));
    }
    refused(&bomb, DiagnosticKind::Language, (6, 9), "nodes once its aliases are resolved");
    let deep = format!("on: push\njobs: {}", "[".repeat(300));
    assert!(plan_fails(&deep));
    assert!(plan_fails(&format!("on: push\nname: {}", "x".repeat(2_000_000))));
    assert!(plan_fails("on: push\nx: &a [*a]\n"));
}

#[test]
fn hostile_files_take_no_time() {
    let started = std::time::Instant::now();
    let chain: String = (0..20_000).map(|i| format!("  j{}: {{runs-on: x, needs: j{i}}}\n", i + 1)).collect();
    assert!(plan_fails(&format!("on: push\njobs:\n  j0: {{runs-on: x}}\n{chain}")));
    let unknown: String = (0..20_000).map(|i| format!("  j{i}: {{runs-on: x, needs: k{i}}}\n")).collect();
    assert!(plan_fails(&format!("on: push\njobs:\n  j: {{runs-on: x}}\n{unknown}")));
    let steps: String = (0..10_000).map(|i| format!("    - {{id: s{i}, run: \"${{{{ steps.t{i}.outputs.x }}}}\"}}\n")).collect();
    plan(&job(&format!("    steps:\n{steps}")), FILE, &submission("push")).unwrap();
    let vectors: String = (0..20_000).map(|i| format!("v{i}: [1], ")).collect();
    assert!(plan_fails(&job(&format!("    strategy: {{matrix: {{{vectors}}}}}\n"))));
    let keys: String = (0..50_000).map(|i| format!("    key{i}: {i}\n")).collect();
    assert!(plan_fails(&job(&keys)));
    let templates = "    - run: ${{ github.sha }}${{ 1 == 2 }}\n".repeat(20_000);
    plan(&job(&format!("    steps:\n{templates}")), FILE, &submission("push")).unwrap();
    assert!(plan_fails(&format!("on: push\njobs: {}", "{a: ".repeat(200_000))));
    // A debug build on a busy machine is given much more than the milliseconds that these take.
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
}

fn plan_fails(text: &str) -> bool {
    plan(text, FILE, &submission("push")).is_err_and(|findings| any_error(&findings))
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config { failure_persistence: None, ..Default::default() })]
    #[test]
    fn no_text_makes_it_panic(words in proptest::collection::vec(proptest::sample::select(vec![
        "on", ": ", "push", "\n", "\n  ", "\n    ", "- ", "jobs", "a", "runs-on", "steps", "run", "${{ ", " }}", "github.ref",
        "secrets", "matrix", "[", "]", "{", "}", ", ", "&x ", "*x", "|\n      ", "'", "\"", "!!int ", "#", "é", "strategy",
        "include", "needs", "uses", "actions/checkout@v4", "with", "if", "always()", "env", "\t", "---\n", "0x1", "~",
    ]), 0..40)) {
        let text = words.concat();
        for text in [&text, &format!("on: push\njobs:\n  a:\n    runs-on: x\n    {text}")] {
            match plan(text, FILE, &submission("push")) {
                Ok(plan) => {
                    for job in &plan.jobs {
                        let _ = expand(job, &ready(&plan));
                    }
                }
                Err(findings) => proptest::prop_assert!(any_error(&findings) && !text_of(&findings).is_empty()),
            }
        }
    }
}
