//! What the language costs: checking and planning a workflow of a thousand lines, and evaluating the expressions of a step.
//! `cargo bench --bench language`.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::expect_used)]

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::{Duration, Instant};

use caisson_expr::{Condition, Contexts, Status, Template, Value};
use caisson_model::run::Submission;
use caisson_workflow::{Limits, NoLibrary};
use serde_json::json;

/// A workflow of a thousand lines, as large projects write them: jobs with matrices, services of expressions, steps with scripts.
fn workflow() -> String {
    let mut text = String::from(
        "name: Large\non:\n  push: { branches: [main], paths: ['src/**', '!src/docs/**'] }\nenv:\n  A: ${{ github.ref }}\njobs:\n",
    );
    let mut job = 0;
    while text.lines().count() < 985 {
        let needs = if job == 0 { String::new() } else { format!("    needs: [job{}]\n", job - 1) };
        write!(
            text,
            "  job{job}:\n    name: Job ${{{{ matrix.python }}}} on ${{{{ matrix.os }}}}\n    runs-on: ${{{{ matrix.os }}}}\n{needs}    strategy:\n      fail-fast: false\n      matrix:\n        \
             os: [ubuntu-latest, ubuntu-22.04]\n        python: ['3.10', '3.11', '3.12', '3.13']\n        exclude:\n          - {{ os: ubuntu-22.04, python: '3.13' }}\n    outputs:\n      key: \
             ${{{{ steps.key.outputs.value }}}}\n    steps:\n      - uses: actions/checkout@v4\n      - uses: actions/setup-python@v5\n        with:\n          python-version: ${{{{ matrix.python }}}}\n          \
             cache: pip\n      - id: key\n        run: |\n          set -eu\n          echo \"value=$RUNNER_OS-$KEY\" >> \"$GITHUB_OUTPUT\"\n        env:\n          KEY: ${{{{ hashFiles('**/requirements*.txt') }}}}\n      \
             - name: Test\n        if: ${{{{ github.event_name == 'push' && !startsWith(github.ref, 'refs/tags/') }}}}\n        run: |\n          python -m pip install -r requirements.txt\n          python manage.py \
             test --parallel\n        timeout-minutes: 10\n      - if: failure() || cancelled()\n        run: echo \"${{{{ toJSON(job.status) }}}} ${{{{ steps.key.outcome }}}}\"\n",
        )
        .expect("writing to a String");
        job += 1;
    }
    while text.lines().count() < 1000 {
        text.push_str("# the end\n");
    }
    text
}

/// The median over many runs, after a warm-up.
fn median(mut act: impl FnMut()) -> Duration {
    (0..5).for_each(|_| act());
    let mut times: Vec<Duration> = (0..101)
        .map(|_| {
            let began = Instant::now();
            act();
            began.elapsed()
        })
        .collect();
    times.sort();
    times[50]
}

fn main() {
    // Every test binary is also asked to list its tests.
    if std::env::args().any(|argument| argument == "--list" || argument == "--test") {
        return;
    }
    let text = workflow();
    let (limits, file) = (Limits::default(), ".github/workflows/large.yml");
    let submission = Submission {
        file: file.to_owned(),
        text: text.clone(),
        event: "push".to_owned(),
        github: json!({ "ref": "refs/heads/main", "repository": "acme/shop", "event": {} }),
        changes: Some(vec!["src/a.py".to_owned()]),
        ..Submission::default()
    };
    assert!(!caisson_workflow::any_error(&caisson_workflow::check(&text, file, &limits, &NoLibrary)));
    let plan = caisson_workflow::plan(&text, file, &submission).expect("it is sound");
    let check = median(|| drop(black_box(caisson_workflow::check(&text, file, &limits, &NoLibrary))));
    let planning = median(|| drop(black_box(caisson_workflow::plan(&text, file, &submission))));
    println!("a workflow of {} lines, {} jobs, {} bytes", text.lines().count(), plan.jobs.len(), text.len());
    println!("  check              {:8.3} ms", check.as_secs_f64() * 1e3);
    println!("  check and plan     {:8.3} ms", planning.as_secs_f64() * 1e3);

    // A step as the workflow above has them: a condition, a name, and four values.
    let contexts = Contexts::new()
        .with("github", Value::from_json(&json!({ "ref": "refs/heads/main", "event_name": "push", "sha": "0".repeat(40) })))
        .with("matrix", Value::from_json(&json!({ "os": "ubuntu-latest", "python": "3.12" })))
        .with("steps", Value::from_json(&json!({ "key": { "outputs": { "value": "x" }, "outcome": "success" } })))
        .with_status(Status::Success);
    let condition = "github.event_name == 'push' && !startsWith(github.ref, 'refs/tags/')";
    let templates =
        ["Job ${{ matrix.python }} on ${{ matrix.os }}", "${{ steps.key.outputs.value }}", "${{ toJSON(matrix) }}", "${{ github.sha }}"];
    let step = median(|| {
        let holds = Condition::parse(condition).expect("it is sound").evaluate(&contexts);
        assert!(holds.expect("it evaluates"));
        for template in templates {
            black_box(Template::parse(template).expect("it is sound").render(&contexts).expect("it evaluates"));
        }
    });
    println!("  a step's expressions (1 condition, 5 values), parsed and evaluated {:.1} us", step.as_secs_f64() * 1e6);
}
