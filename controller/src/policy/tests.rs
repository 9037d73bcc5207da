//! Admission over real workflows and real policy files.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::time::Duration;

use caisson_model::diagnostic::{Diagnostic, Severity};
use caisson_model::policy::{Grant, Identity, Preset};
use caisson_model::run::Submission;
use caisson_model::step::{Action, StepSpec};

use crate::policy::{Rules, admit};

const WORKFLOW: &str = r#"
name: Test
on: push
env: { SENTRY: "${{ secrets.SENTRY_DSN }}" }
jobs:
  test:
    runs-on: ubuntu-latest
    env: { DATABASE: "${{ secrets.database_url }}" }
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with: { python-version: "3.12" }
      - name: Install
        run: pip install -r requirements.txt
      - name: Test
        run: python manage.py test
      - id: both
        name: Both
        run: |
          pip install -r requirements.txt
          python manage.py test
      - name: Private
        run: pip install -r private.txt
        env: { PIP_EXTRA_INDEX_URL: "https://x:${{ secrets.PYPI_TOKEN }}@example.com" }
      - name: Upload
        run: twine upload dist/*
        env: { TOKEN: "${{ secrets.PYPI_TOKEN }}" }
"#;

fn admitted(rules: &str) -> Result<(Vec<Grant>, Vec<Diagnostic>), Vec<Diagnostic>> {
    let submission = Submission { event: "push".into(), ..Submission::default() };
    let plan = caisson_workflow::plan(WORKFLOW, "test.yml", &submission).unwrap();
    let known: BTreeSet<String> = ["SENTRY_DSN", "DATABASE_URL", "PYPI_TOKEN"].map(String::from).into();
    let plan = admit(plan, &toml::from_str::<Rules>(rules).unwrap(), &known)?;
    let ahead = |step: &&StepSpec| !step.name.as_ref().is_some_and(|name| name.0.starts_with("Packages for"));
    Ok((plan.jobs[0].steps.iter().filter(ahead).map(|step| step.grant.clone()).collect(), plan.warnings))
}

const CHECKOUT: usize = 0;
const PYTHON: usize = 1;
const INSTALL: usize = 2;
const TEST: usize = 3;
const BOTH: usize = 4;
const PRIVATE: usize = 5;
const UPLOAD: usize = 6;

#[test]
fn by_default_only_installing_reaches_the_index_and_has_no_secrets() {
    let (grants, warnings) = admitted("").unwrap();
    let index = [Preset::PythonPackages];
    assert_eq!(grants[INSTALL].egress.presets, index);
    assert_eq!(grants[INSTALL].egress.reason, "default: installs packages");
    assert_eq!(grants[PYTHON].egress.presets, index);
    assert_eq!(grants[PYTHON].egress.reason, "default: actions/setup-python");
    assert_eq!((grants[BOTH].egress.presets.as_slice(), grants[BOTH].egress.stored), (index.as_slice(), true));
    for closed in [CHECKOUT, TEST, PRIVATE, UPLOAD] {
        assert!(grants[closed].egress.is_closed(), "step {closed}: {:?}", grants[closed]);
    }
    let shared = ["DATABASE_URL", "SENTRY_DSN"];
    assert_eq!((&grants[INSTALL].secrets, &grants[PYTHON].secrets), (&vec![], &vec![]));
    assert_eq!(grants[TEST].secrets, shared);
    assert_eq!(grants[UPLOAD].secrets, ["DATABASE_URL", "PYPI_TOKEN", "SENTRY_DSN"]);
    assert!(grants.iter().all(|grant| grant.identity == Identity::User && grant.system_calls.is_empty()));
    let about: Vec<(&str, bool)> = warnings.iter().map(|w| (w.construct.as_str(), w.message.contains("gets no network"))).collect();
    assert_eq!(about, [("jobs.test.steps[5]", true)]);
}

#[test]
fn what_installs_and_does_more_runs_in_two() {
    let workflow = "on: push\njobs:\n  test:\n    runs-on: ubuntu-latest\n    env: { KEY: \"${{ secrets.SENTRY_DSN }}\" }\n    steps:\n      - run: |\n          if true; then pip install x; fi\n          pytest\n      - name: Tests\n        run: tox -e py312\n        if: github.ref != ''\n        env: { TOKEN: \"${{ secrets.PYPI_TOKEN }}\", A: b }\n      - run: pytest\n";
    let submission = Submission { event: "push".into(), ..Submission::default() };
    let planned = || caisson_workflow::plan(workflow, "test.yml", &submission).unwrap();
    let known: BTreeSet<String> = ["SENTRY_DSN", "PYPI_TOKEN"].map(String::from).into();
    let plan = admit(planned(), &Rules::default(), &known).unwrap();
    let steps = &plan.jobs[0].steps;
    let [_, ahead, tests, last] = steps.as_slice() else { panic!("{steps:?}") };
    assert_eq!(steps.iter().map(|step| step.index.0).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(ahead.name.as_ref().unwrap().0, "Packages for Tests");
    assert!(matches!(&ahead.action, Action::Run { script, .. } if script.0 == "tox --notest -e py312\n"), "{ahead:?}");
    assert_eq!((ahead.env.len(), ahead.condition.is_some(), ahead.grant.secrets.len()), (1, true, 0));
    assert_eq!((ahead.grant.egress.presets.as_slice(), ahead.grant.egress.stored), ([Preset::PythonPackages].as_slice(), false));
    assert_eq!((tests.grant.egress.stored, tests.grant.secrets.len()), (true, 2));
    assert!(last.grant.egress.is_closed() && steps[0].grant.egress.is_closed());
    assert_eq!(plan.warnings.iter().filter(|warning| warning.message.contains("gets no network")).count(), 1);
    for rules in ["[network]\nsplit = false", "[network]\ninstall = \"none\"", "[[step]]\nstep = \"Tests\"\npresets = []"] {
        let plan = admit(planned(), &toml::from_str::<Rules>(rules).unwrap(), &known).unwrap();
        assert_eq!(plan.jobs[0].steps.len(), 3, "{rules}");
        assert!(plan.jobs[0].steps.iter().all(|step| step.grant.egress.is_closed()), "{rules}");
    }
}

#[test]
fn what_cannot_be_told_apart_reaches_the_index_only_where_there_is_no_secret() {
    let script = "for env in $(tox -l); do tox -e $env; done";
    let admitted = |env: &str, rules: &str| {
        let workflow = format!("on: push\njobs:\n  test:\n    runs-on: ubuntu-latest\n{env}    steps:\n      - run: {script}\n");
        let submission = Submission { event: "push".into(), ..Submission::default() };
        let plan = caisson_workflow::plan(&workflow, "test.yml", &submission).unwrap();
        let plan = admit(plan, &toml::from_str::<Rules>(rules).unwrap(), &["KEY".to_owned()].into()).unwrap();
        assert_eq!(plan.jobs[0].steps.len(), 1);
        (plan.jobs[0].steps[0].grant.clone(), plan.warnings.len())
    };
    let (grant, warnings) = admitted("", "");
    assert_eq!((grant.egress.presets.as_slice(), grant.egress.stored, warnings), ([Preset::PythonPackages].as_slice(), false, 0));
    let (grant, warnings) = admitted("    env: { KEY: \"${{ secrets.KEY }}\" }\n", "");
    assert!(grant.egress.is_closed() && grant.secrets == ["KEY"] && warnings == 1, "{grant:?}");
    for rules in ["[network]\nsplit = false", "[network]\ninstall = \"none\"", "[[step]]\njob = \"test\"\npresets = []"] {
        assert!(admitted("", rules).0.egress.is_closed(), "{rules}");
    }
}

#[test]
fn rules_widen_and_narrow_field_by_field() {
    let (grants, _) = admitted(
        r#"
        [network]
        allow = ["api.example.com:443"]
        ranges = ["10.0.0.0/8"]
        [limits]
        memory = "4GiB"
        cpus = 1.5
        pids = 2048
        timeout = "1h 30m"
        [[step]]
        job = "te*"
        step = "Private"
        presets = ["python-packages"]
        secrets = ["PYPI_TOKEN"]
        memory = "8GiB"
        [[step]]
        step = "Upload*"
        workflow = "Test"
        allow = ["upload.example.com"]
        root = true
        system_calls = ["ptrace"]
        [[step]]
        step = "both"
        presets = ["python-packages"]
        [[step]]
        step = "Upload"
        workflow = "test.yml"
        root = false
        [[step]]
        job = "deploy"
        allow = ["never.example.com"]
        "#,
    )
    .unwrap();
    let allow = |step: usize| grants[step].egress.allow.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(allow(TEST), ["api.example.com:443"]);
    assert_eq!(grants[TEST].egress.reason, "policy [network]");
    assert_eq!(grants[TEST].egress.ranges[0].to_string(), "10.0.0.0/8");
    assert_eq!(grants[INSTALL].egress.reason, "default: installs packages, policy [network]");
    assert_eq!(grants[PRIVATE].egress.presets, [Preset::PythonPackages]);
    assert_eq!(grants[PRIVATE].secrets, ["PYPI_TOKEN"]);
    assert_eq!(grants[PRIVATE].limits.memory_bytes, Some(8 << 30));
    assert_eq!(grants[BOTH].egress.presets, [Preset::PythonPackages]);
    assert_eq!(allow(UPLOAD), ["api.example.com:443", "upload.example.com"]);
    assert_eq!(grants[UPLOAD].egress.reason, "policy [network], policy [[step]] 2");
    assert_eq!((grants[UPLOAD].identity, grants[UPLOAD].system_calls.as_slice()), (Identity::User, ["ptrace".to_owned()].as_slice()));
    let limits = &grants[TEST].limits;
    assert_eq!((limits.memory_bytes, limits.cpu_milli, limits.pids), (Some(4 << 30), Some(1500), Some(2048)));
    assert_eq!(limits.wall, Some(Duration::from_secs(90 * 60)));
}

#[test]
fn nothing_is_installed_where_the_operator_says_so() {
    let (grants, _) = admitted("network.install = \"none\"").unwrap();
    assert!(grants.iter().all(|grant| grant.egress.is_closed()));
    assert_eq!(grants[INSTALL].secrets, ["DATABASE_URL", "SENTRY_DSN"], "without the network there is nothing to take them to");
}

#[test]
fn secrets_that_policy_does_not_allow_are_refused() {
    let findings = admitted("secrets.allow = [\"DATABASE_*\", \"SENTRY_DSN\"]").unwrap_err();
    let errors: Vec<_> = findings.iter().filter(|finding| finding.severity == Severity::Error).collect();
    assert!(errors.iter().all(|error| error.message.contains("ask for secret PYPI_TOKEN")), "{errors:?}");
    assert!(!errors.is_empty());
}

#[test]
fn what_is_no_rule_is_refused_by_name() {
    let table = [
        ("netwrok = {}", "unknown field `netwrok`"),
        ("[[step]]\nallows = []", "unknown field `allows`"),
        ("network.allow = [\"http://x\"]", "is not a destination"),
        ("network.ranges = [\"10.0.0.0/99\"]", "is not an address range"),
        ("limits.memory = \"much\"", "much"),
        ("limits.memory = \"0\"", "more than nothing"),
        ("limits.cpus = 0", "number of cores"),
        ("limits.timeout = \"soon\"", "length of time"),
        ("limits.timeout = \"-1h\"", "more than nothing"),
        ("[[step]]\nstep = \"[\"", "is not a pattern"),
        ("[[step]]\npresets = [\"npm\"]", "\"npm\" is no preset"),
    ];
    for (text, expected) in table {
        let error = toml::from_str::<Rules>(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}
