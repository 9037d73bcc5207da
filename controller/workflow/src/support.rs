//! What is right in the language and yet not possible here, or not allowed: refused before anything runs, or said aloud.

use std::collections::HashSet;

use caisson_expr::{Path, Segment, Template as Text};
use caisson_model::diagnostic::DiagnosticKind;

use crate::action_file::{Actions, Found, MAX_DEPTH, Visit};
use crate::actions::{BuiltIn, Treatment};
use crate::diagnostic::{Report, Source};
use crate::events;
use crate::library::ActionText;
use crate::limits::SecurityRule;
use crate::matrix;
use crate::parse;
use crate::references;
use crate::schema;
use crate::scope::Scope;
use crate::taint;
use crate::uses::Uses;
use crate::yaml::{self, Content, Node, Scalar};

/// How many steps the actions of one workflow may come to.
const MAX_STEPS: usize = 10_000;

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
        "environment" => (
            "`environment` is a name only: this machine's policy has no rules for it",
            "a policy gives it refs, secrets and variables under [[environment]]",
        ),
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
    // An empty vector has been refused at its own place.
    if let Err(error) = matrix::expand(&json, max_cells)
        && !matches!(error, matrix::MatrixError::EmptyVector(_))
    {
        let path = format!("{path}.strategy.matrix");
        let help = "change the vectors, `include` or `exclude`";
        report.error(DiagnosticKind::Language, matrix.key_at.clone(), &path, error.to_string(), help);
    }
}

fn check_output(value: &Node, path: &str, report: &mut Report<'_>) {
    let Some(text) = value.text() else { return };
    let Ok(template) = caisson_expr::Template::parse(&text) else { return };
    let secret = |path: &Path| path.root.eq_ignore_ascii_case("secrets");
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
            let message = format!("`{}` has no input `{}`: it is ignored", action.name, entry.key);
            report.warning(entry.key_at.clone(), &below, message, format!("remove it; its inputs are: {}", names.join(", ")));
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
        }
    }
}

impl Actions<'_> {
    /// Checks what a step uses, and everything that this uses in turn.
    pub(crate) fn check(&self, step: &Node, uses: &Node, path: &str, visit: Visit<'_>, report: &mut Report<'_>) {
        let Some(text) = uses.text() else { return };
        let construct = format!("{path}.uses");
        if Uses::parse(&text).is_err() {
            // The language's own check has refused it.
            return;
        }
        match self.find(&text) {
            Ok(Found::BuiltIn(action)) => check_inputs(action, step, path, report),
            Ok(Found::NoOp { reason }) => {
                report.warning(uses.at.clone(), &construct, format!("`{text}` does nothing here: {reason}"), "nothing to do");
            }
            Ok(Found::Described { text: described, .. }) => {
                if visit.depth >= MAX_DEPTH {
                    let message = format!("actions use each other more than {MAX_DEPTH} levels deep");
                    report.language(uses.at.clone(), &construct, message, "use fewer actions from within actions");
                    return;
                }
                self.described(step, uses, path, described, visit, report);
            }
            Err(nowhere) => report.unsupported(uses.at.clone(), &construct, nowhere.message, nowhere.help),
        }
    }

    fn described(&self, step: &Node, uses: &Node, path: &str, text: ActionText<'_>, visit: Visit<'_>, report: &mut Report<'_>) {
        let mut inner = Report::under(Source::new(text.file, text.text), self.limits);
        let root = yaml::read(&mut inner, self.limits);
        if let Some(root) = &root {
            parse::check(root, &schema::ACTION, Scope::NONE, "", &mut inner);
            let tainted = self.handed(step, root, path, visit.tainted, report);
            self.runs(root, uses, path, &Visit { depth: visit.depth + 1, tainted: &tainted, steps: visit.steps }, report, &mut inner);
        }
        report.absorb(inner);
    }

    /// Looks at what the step hands over; answers which inputs hold a stranger's text.
    fn handed(&self, step: &Node, root: &Node, path: &str, tainted: &HashSet<String>, report: &mut Report<'_>) -> HashSet<String> {
        let declared = root.get("inputs").map(Node::entries).unwrap_or_default();
        let with = step.get("with").map(Node::entries).unwrap_or_default();
        let mut carriers = HashSet::new();
        for entry in with {
            let below = parse::join(&format!("{path}.with"), &entry.key);
            if !declared.iter().any(|input| input.key.eq_ignore_ascii_case(&entry.key)) {
                let names: Vec<&str> = declared.iter().map(|input| input.key.as_str()).collect();
                let message = format!("the action declares no input `{}`", entry.key);
                let help = if names.is_empty() { "it declares none".to_owned() } else { format!("its inputs are: {}", names.join(", ")) };
                report.warning(entry.key_at.clone(), &below, message, help);
            }
            let flows = entry.value.text().and_then(|text| Text::parse(&text).ok()).is_some_and(|template| {
                template
                    .expressions()
                    .any(|(expression, _)| expression.flows().iter().any(|flow| taint::is_strangers(flow) || carries(flow, tainted)))
            });
            if flows {
                carriers.insert(entry.key.to_lowercase());
            }
        }
        for input in declared {
            let required = input.value.get("required").and_then(Node::text).is_some_and(|text| text == "true");
            let given = with.iter().any(|entry| entry.key.eq_ignore_ascii_case(&input.key));
            if required && !given && input.value.get("default").is_none() {
                let message = format!("the action requires the input `{}`, which is not given: it is empty", input.key);
                let help = format!("add `{}:` to the step's `with:`", input.key);
                report.warning(step.at.start..step.at.start, &format!("{path}.with"), message, help);
            }
        }
        carriers
    }

    fn runs(&self, root: &Node, uses: &Node, path: &str, visit: &Visit<'_>, report: &mut Report<'_>, inner: &mut Report<'_>) {
        let Some(runs) = root.get("runs") else { return };
        let using = runs.get("using").and_then(Node::text).unwrap_or_default().to_lowercase();
        match using.as_str() {
            "composite" => {}
            using if using.starts_with("node") => {
                if runs.get("main").and_then(Node::text).is_none_or(|main| main.is_empty()) {
                    inner.language(
                        runs.at.start..runs.at.start,
                        "runs.main",
                        "`main` is required: the program of the action",
                        "add `main:`",
                    );
                }
                for key in ["main", "pre", "post"] {
                    if let Some(node) = runs.get(key)
                        && node.text().is_some_and(|text| text.starts_with('/') || text.split('/').any(|part| part == ".."))
                    {
                        let message = format!("`{key}` leaves the action's directory");
                        inner.unsupported(node.at.clone(), &format!("runs.{key}"), message, "name a file of the action");
                    }
                }
                return;
            }
            "docker" => {
                let message = "the action runs in a container of its own, which would stand outside the step's sandbox";
                report.unsupported(uses.at.clone(), &format!("{path}.uses"), message, "do the same in a `run:` step");
                return;
            }
            other => {
                let at = runs.get("using").map_or(runs.at.start..runs.at.start, |node| node.at.clone());
                inner.unsupported(at, "runs.using", format!("`using: {other}` is not supported"), "composite and node actions are");
                return;
            }
        }
        // Counted here and not by the visits below, which borrow it.
        let mut count = *visit.steps;
        let mut ids: HashSet<String> = HashSet::new();
        for (index, step) in runs.get("steps").map(Node::items).unwrap_or_default().iter().enumerate() {
            count += 1;
            let below = format!("runs.steps[{index}]");
            if count > MAX_STEPS {
                inner.language(
                    step.at.start..step.at.start,
                    &below,
                    format!("the workflow's actions come to more than {MAX_STEPS} steps"),
                    "use fewer",
                );
                return;
            }
            if let Some(node) = step.get("id")
                && let Some(id) = node.text()
                && !ids.insert(id.to_lowercase())
            {
                let message = format!("the identifier '{id}' may not be used more than once within the same scope");
                inner.language(node.at.clone(), &format!("{below}.id"), message, "give each step an id of its own");
            }
            if let Some(script) = step.get("run") {
                self.check_tainted(script, &below, visit.tainted, uses, path, report);
            }
            check_step(step, &below, self, Visit { depth: visit.depth, tainted: visit.tainted, steps: &mut count }, inner);
        }
    }

    /// A script of an action into which an input is pasted that holds a stranger's text.
    fn check_tainted(&self, script: &Node, below: &str, tainted: &HashSet<String>, uses: &Node, path: &str, report: &mut Report<'_>) {
        let Some(template) = script.text().and_then(|text| Text::parse(&text).ok()) else { return };
        for (expression, _) in template.expressions() {
            if let Some(flow) = expression.flows().iter().find(|flow| carries(flow, tainted)) {
                let written = &expression.text()[flow.span.start..flow.span.end];
                let message =
                    format!("the action pastes `{written}` into a script ({below}), and this step hands over text that a stranger chose");
                let help = "let the action take it from `env:`, or do not hand it over";
                report.security(SecurityRule::UntrustedTextInScripts, uses.at.clone(), &format!("{path}.uses"), message, help);
                return;
            }
        }
    }
}

fn carries(flow: &Path, tainted: &HashSet<String>) -> bool {
    flow.root.eq_ignore_ascii_case("inputs")
        && !tainted.is_empty()
        && match flow.segments.first() {
            Some(Segment::Name(name)) => tainted.contains(&name.to_lowercase()),
            // All of them, or one that is computed.
            _ => true,
        }
}
