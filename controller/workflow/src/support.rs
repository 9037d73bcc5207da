//! What is right in the language and yet not possible here, or not allowed: refused before anything runs, or said aloud.

use std::collections::HashSet;

use caisson_model::diagnostic::DiagnosticKind;

use crate::action_file::{Actions, Visit};
use crate::actions::{BuiltIn, Treatment};
use crate::diagnostic::Report;
use crate::events;
use crate::limits::SecurityRule;
use crate::matrix;
use crate::parse;
use crate::references;
use crate::taint;
use crate::yaml::{Content, Node, Scalar};

/// Keys of a job that cannot be honoured, with what to do instead.
const REFUSED_JOB_KEYS: &[(&str, &str, &str)] = &[
    ("container", "jobs run in caisson's own sandbox, not in a container image", "remove `container:`"),
    ("services", "service containers are not supported", "use SQLite for this run, or start the service in a step"),
    ("snapshot", "there is no image to take a snapshot of", "remove `snapshot:`"),
    ("cancel-timeout-minutes", "the time between the signals of a cancellation is fixed", "remove `cancel-timeout-minutes:`"),
];

/// Keys of a step that cannot be honoured.
const REFUSED_STEP_KEYS: &[&str] = &["background", "wait", "wait-all", "cancel", "parallel"];

/// Events that run a stranger's code with more rights than the stranger has.
const REFUSED_EVENTS: &[(&str, SecurityRule, &str)] = &[
    ("pull_request_target", SecurityRule::PullRequestTarget, "it runs with the target's rights on what a stranger proposes"),
    ("workflow_run", SecurityRule::WorkflowRun, "it runs with full rights after a run that a stranger may have started"),
];

/// Adds to the report what this version of caisson cannot or will not do.
pub(crate) fn check(root: &Node, max_cells: usize, actions: &Actions<'_>, report: &mut Report<'_>) {
    if let Some(on) = root.get("on") {
        for trigger in events::triggers(on) {
            if let Some((event, rule, reason)) = REFUSED_EVENTS.iter().find(|(event, ..)| trigger.event == *event) {
                let help = "use `pull_request`, which runs without secrets, or move this part into a workflow of its own";
                report.security(*rule, trigger.at, &format!("on.{event}"), format!("the event `{event}` is refused: {reason}"), help);
            }
        }
    }
    for key in ["permissions", "run-name"] {
        if let Some(entry) = root.entry(key) {
            warn_no_effect(key, &entry.value, entry.key_at.clone(), key, report);
        }
    }
    check_defaults(root.get("defaults"), "defaults", report);
    check_env(root.get("env"), "env", report);
    for entry in root.get("jobs").map(Node::entries).unwrap_or_default() {
        check_job(&entry.value, &parse::join("jobs", &entry.key), max_cells, actions, report);
    }
    references::check(root, report);
}

fn warn_no_effect(key: &str, value: &Node, at: std::ops::Range<usize>, path: &str, report: &mut Report<'_>) {
    let (message, help) = match key {
        "permissions" => {
            // Asking for nothing, or for reading only, is what every step has anyway.
            let words: Vec<String> = value.entries().iter().filter_map(|entry| entry.value.text()).chain(value.text()).collect();
            if words.iter().all(|word| matches!(word.as_str(), "read" | "none" | "read-all")) {
                return;
            }
            (
                "`permissions` grants nothing here: no step has a token with rights",
                "steps that write to the forge will fail; skip them with `if:`",
            )
        }
        "environment" => {
            ("`environment` has no effect: there are no protection rules and no secrets of its own", "give secrets with --secret")
        }
        _ => ("`run-name` has no effect: runs are shown by the workflow's name", "nothing to do"),
    };
    report.warning(at, path, message, help);
}

fn check_job(job: &Node, path: &str, max_cells: usize, actions: &Actions<'_>, report: &mut Report<'_>) {
    let mut inner_steps = 0;
    for (key, reason, help) in REFUSED_JOB_KEYS {
        if let Some(entry) = job.entry(key)
            && !is_empty(&entry.value)
        {
            report.unsupported(entry.key_at.clone(), &format!("{path}.{key}"), format!("`{key}`: {reason}"), *help);
        }
    }
    for key in ["permissions", "environment"] {
        if let Some(entry) = job.entry(key) {
            warn_no_effect(key, &entry.value, entry.key_at.clone(), &format!("{path}.{key}"), report);
        }
    }
    for key in ["env", "outputs", "steps", "strategy"] {
        refuse_whole_expression(job.get(key), &format!("{path}.{key}"), report);
    }
    if let Some(group) = job.get("runs-on").and_then(|node| node.entry("group")) {
        let message = "runner groups are not supported";
        report.unsupported(group.key_at.clone(), &format!("{path}.runs-on.group"), message, "choose agents by `labels`");
    }
    check_defaults(job.get("defaults"), &format!("{path}.defaults"), report);
    check_env(job.get("env"), &format!("{path}.env"), report);
    check_minutes(job.get("timeout-minutes"), &format!("{path}.timeout-minutes"), report);
    check_matrix(job, path, max_cells, report);
    for entry in job.get("outputs").map(Node::entries).unwrap_or_default() {
        check_output(&entry.value, &format!("{path}.outputs.{}", entry.key), report);
    }
    for (index, step) in job.get("steps").map(Node::items).unwrap_or_default().iter().enumerate() {
        let visit = Visit { depth: 0, tainted: &HashSet::new(), steps: &mut inner_steps };
        check_step(step, &format!("{path}.steps[{index}]"), actions, visit, report);
    }
}

fn is_empty(node: &Node) -> bool {
    match &node.content {
        Content::Scalar(scalar) => scalar.to_text().is_empty(),
        Content::Sequence(items) => items.is_empty(),
        Content::Mapping(entries) => entries.is_empty(),
    }
}

/// A mapping given as one expression: its keys would be known too late to be checked.
fn refuse_whole_expression(node: Option<&Node>, path: &str, report: &mut Report<'_>) {
    if let Some(node) = node
        && node.text().is_some_and(|text| text.contains("${{"))
    {
        let message = "an expression in place of the whole mapping is not supported";
        report.unsupported(node.at.clone(), path, message, "write the keys out, with expressions as their values");
    }
}

fn check_matrix(job: &Node, path: &str, max_cells: usize, report: &mut Report<'_>) {
    let Some(matrix) = job.get("strategy").and_then(|strategy| strategy.entry("matrix")) else { return };
    let json = matrix.value.to_json();
    // With expressions in it the cells are known when the job is expanded, and checked there.
    if json.to_string().contains("${{") || !json.is_object() {
        return;
    }
    if let Err(error) = matrix::expand(&json, max_cells) {
        let path = format!("{path}.strategy.matrix");
        let help = "change the vectors, `include` or `exclude`";
        report.error(DiagnosticKind::Language, matrix.key_at.clone(), &path, error.to_string(), help);
    }
}

fn check_output(value: &Node, path: &str, report: &mut Report<'_>) {
    let Some(text) = value.text() else { return };
    let Ok(template) = caisson_expr::Template::parse(&text) else { return };
    let secret = |path: &caisson_expr::Path| path.root.eq_ignore_ascii_case("secrets");
    if template.expressions().any(|(expression, _)| expression.flows().iter().any(secret)) {
        let message = "an output would carry a secret out of the steps that name it";
        report.security(SecurityRule::SecretsInOutputs, value.at.clone(), path, message, "name the secret in the jobs that need it");
    }
}

/// Checks one step, of a job or of an action.
pub(crate) fn check_step(step: &Node, path: &str, actions: &Actions<'_>, visit: Visit<'_>, report: &mut Report<'_>) {
    for key in REFUSED_STEP_KEYS {
        if let Some(entry) = step.entry(key)
            && !matches!(entry.value.content, Content::Scalar(Scalar::Bool(false)))
        {
            let message = format!("`{key}`: steps run one after the other");
            report.unsupported(entry.key_at.clone(), &format!("{path}.{key}"), message, "write plain steps");
        }
    }
    for key in ["env", "with"] {
        refuse_whole_expression(step.get(key), &format!("{path}.{key}"), report);
    }
    check_env(step.get("env"), &format!("{path}.env"), report);
    check_minutes(step.get("timeout-minutes"), &format!("{path}.timeout-minutes"), report);
    check_shell(step.get("shell"), &format!("{path}.shell"), report);
    for key in ["run", "name", "working-directory", "continue-on-error", "timeout-minutes"] {
        if let Some(node) = step.get(key) {
            taint::check_secret_names(node, &format!("{path}.{key}"), report);
        }
    }
    for entry in step.get("with").map(Node::entries).unwrap_or_default() {
        taint::check_secret_names(&entry.value, &format!("{path}.with.{}", entry.key), report);
    }
    if let Some(script) = step.get("run") {
        taint::check_script(script, &format!("{path}.run"), report);
    }
    if let Some(uses) = step.get("uses") {
        actions.check(step, uses, path, visit, report);
    }
}

fn check_env(env: Option<&Node>, path: &str, report: &mut Report<'_>) {
    refuse_whole_expression(env, path, report);
    for entry in env.map(Node::entries).unwrap_or_default() {
        let below = parse::join(path, &entry.key);
        if entry.key.contains(['=', '\0']) {
            let message = format!("'{}' cannot be the name of a variable", entry.key.escape_debug());
            report.unsupported(entry.key_at.clone(), &below, message, "use letters, digits and '_'");
        }
        taint::check_secret_names(&entry.value, &below, report);
    }
}

fn check_defaults(defaults: Option<&Node>, path: &str, report: &mut Report<'_>) {
    let Some(run) = defaults.and_then(|defaults| defaults.get("run")) else { return };
    refuse_whole_expression(Some(run), &format!("{path}.run"), report);
    check_shell(run.get("shell"), &format!("{path}.run.shell"), report);
}

fn check_minutes(minutes: Option<&Node>, path: &str, report: &mut Report<'_>) {
    if let Some(node) = minutes
        && let Content::Scalar(Scalar::Number(minutes)) = node.content
        && !(minutes > 0.0 && minutes <= 525_600.0)
    {
        let message = format!("{minutes} is no time limit");
        report.unsupported(node.at.clone(), path, message, "give a number of minutes above 0, at most a year");
    }
}

fn check_shell(shell: Option<&Node>, path: &str, report: &mut Report<'_>) {
    let Some(node) = shell else { return };
    let Some(text) = node.text().filter(|text| !text.is_empty() && !text.contains("${{")) else { return };
    match text.as_str() {
        "bash" | "sh" | "python" => {}
        "pwsh" | "powershell" | "cmd" => {
            let message = format!("the shell `{text}` is not supported");
            report.unsupported(node.at.clone(), path, message, "use bash, sh, python, or a command with {0} for the script's file");
        }
        custom if custom.contains("{0}") => {}
        _ => {
            let message = format!("`{text}` is no shell: it does not say where the script's file goes");
            report.unsupported(node.at.clone(), path, message, "use bash, sh, python, or a command with {0} for the script's file");
        }
    }
}

/// Checks the `with:` of a step that uses a built-in action.
pub(crate) fn check_inputs(action: &BuiltIn, step: &Node, path: &str, report: &mut Report<'_>) {
    for entry in step.get("with").map(Node::entries).unwrap_or_default() {
        let below = parse::join(&format!("{path}.with"), &entry.key);
        let Some(input) = action.input(&entry.key) else {
            let names: Vec<&str> = action.inputs.iter().map(|input| input.name).collect();
            let message = format!("`{}` has no input `{}`", action.name, entry.key);
            report.unsupported(entry.key_at.clone(), &below, message, format!("its inputs are: {}", names.join(", ")));
            continue;
        };
        let value = entry.value.text().unwrap_or_default();
        match &input.treatment {
            Treatment::Honoured | Treatment::NoEffect => {}
            // Saying no to what is not there anyway needs no remark.
            Treatment::Warned(_) if matches!(value.as_str(), "" | "false") => {}
            Treatment::Warned(reason) => {
                let message = format!("`{}` has no effect: {reason}", input.name);
                report.warning(entry.key_at.clone(), &below, message, "remove the input to be rid of this warning");
            }
            Treatment::Refused { except, .. } if except.contains(&value.trim()) => {}
            Treatment::Refused { reason, help, .. } => report.unsupported(entry.key_at.clone(), &below, *reason, *help),
        }
    }
}
