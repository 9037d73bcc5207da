//! What a step's `uses:` leads to: a built-in action, one that does nothing, or the description of an action (`action.yml`) that
//! lies in the checkout or in the mirror. Descriptions are checked like the workflow itself, and their steps become steps of the
//! plan, so that each gets a grant of its own before anything runs.

use std::collections::HashSet;

use caisson_expr::{Path, Segment, Template as Text};
use caisson_model::step::{Action, ActionInput, ActionPlace, Composite, Condition, Hook, NodeAction, Template};

use crate::actions::{self, BuiltIn};
use crate::diagnostic::{Report, Source};
use crate::library::{ActionText, Library};
use crate::limits::{Limits, SecurityRule};
use crate::parse;
use crate::plan;
use crate::schema;
use crate::scope::Scope;
use crate::support;
use crate::taint;
use crate::uses::Uses;
use crate::yaml::{self, Node};

/// How deep actions may use each other, as the language documents it.
const MAX_DEPTH: usize = 10;
/// How many steps the actions of one workflow may come to.
const MAX_STEPS: usize = 10_000;

/// Actions that send reports to a service: there is nothing to send from a sandbox, and nothing is lost without.
const REPORTERS: [&str; 10] = [
    "codecov/codecov-action",
    "codecov/test-results-action",
    "coverallsapp/github-action",
    "codacy/codacy-coverage-reporter-action",
    "codacy/codacy-analysis-cli-action",
    "paambaati/codeclimate-action",
    "deepsourcelabs/test-coverage-action",
    "qltysh/qlty-action/coverage",
    "github/codeql-action/upload-sarif",
    "dorny/test-reporter",
];

/// Where actions come from.
#[derive(Clone, Copy)]
pub(crate) struct Actions<'l> {
    pub(crate) library: &'l dyn Library,
    pub(crate) limits: &'l Limits,
}

enum Found<'l> {
    BuiltIn(&'static BuiltIn),
    NoOp { reason: String },
    Described { place: ActionPlace, text: ActionText<'l> },
}

/// Why a `uses:` leads nowhere.
struct Nowhere {
    message: String,
    help: String,
}

/// One `uses:` on the way down.
pub(crate) struct Visit<'v> {
    /// How many actions are around it.
    pub(crate) depth: usize,
    /// Inputs of the action around it that hold text of a stranger's choosing, in lower case.
    pub(crate) tainted: &'v HashSet<String>,
    /// Steps of actions seen so far.
    pub(crate) steps: &'v mut usize,
}

impl<'l> Actions<'l> {
    fn find(&self, uses: &str) -> Result<Found<'l>, Nowhere> {
        let nowhere = |message: String, help: &str| Err(Nowhere { message, help: help.to_owned() });
        match Uses::parse(uses) {
            Ok(Uses::Repository { name, version }) => {
                if let Some(built_in) = actions::find(&name) {
                    return Ok(Found::BuiltIn(built_in));
                }
                if let Some(reason) = self.library.declared_no_op(&name) {
                    return Ok(Found::NoOp { reason });
                }
                if let Some(found) = self.library.mirrored(&name, &version) {
                    let (tree, path) = (found.tree, found.text.directory.to_owned());
                    let place = ActionPlace::Mirror { tree, name: format!("{}/{version}", found.name), path };
                    return Ok(Found::Described { place, text: found.text });
                }
                if REPORTERS.iter().any(|reporter| reporter.eq_ignore_ascii_case(&name)) {
                    return Ok(Found::NoOp { reason: "it reports to a service, and nothing is sent from a sandbox".to_owned() });
                }
                let known = self.library.mirrored_versions(&name);
                let repository: Vec<&str> = name.splitn(3, '/').take(2).collect();
                let repository = repository.join("/");
                if known.is_empty() {
                    let help = format!(
                        "add it to the mirror with `caisson actions add {repository}@{version} --from DIR_OR_GIT`, declare it under `no_op` of [actions] in the policy, or use one that is built in: {}",
                        actions::names().join(", ")
                    );
                    nowhere(format!("the action `{name}` is not available: nothing is fetched at run time"), &help)
                } else {
                    let help = format!(
                        "it has {}; add this one with `caisson actions add {repository}@{version} --from DIR_OR_GIT`",
                        known.join(", ")
                    );
                    nowhere(format!("the mirror has no `{name}@{version}`"), &help)
                }
            }
            Ok(Uses::Local) => match self.library.action(uses) {
                Some(text) => Ok(Found::Described { place: ActionPlace::Workspace(text.directory.to_owned()), text }),
                None => nowhere(
                    format!("there is no action.yml or action.yaml in `{uses}` of the checkout"),
                    "what an action may do is decided before anything runs, so it must be there from the start: correct the path, or add the file",
                ),
            },
            Ok(Uses::Docker) => nowhere(
                "docker actions are refused: a container of its own would stand outside the step's sandbox".to_owned(),
                "do the same in a `run:` step, or use a JavaScript or composite action from the mirror",
            ),
            Err(message) => nowhere(message, "write it like actions/checkout@v4"),
        }
    }

    /// Checks what a step uses, and everything that this uses in turn.
    pub(crate) fn check(&self, step: &Node, uses: &Node, path: &str, visit: Visit<'_>, report: &mut Report<'_>) {
        let Some(text) = uses.text() else { return };
        let construct = format!("{path}.uses");
        if Uses::parse(&text).is_err() {
            // The language's own check has refused it.
            return;
        }
        match self.find(&text) {
            Ok(Found::BuiltIn(action)) => support::check_inputs(action, step, path, report),
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
            support::check_step(step, &below, self, Visit { depth: visit.depth, tainted: visit.tainted, steps: &mut count }, inner);
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

    /// What a checked step executes when it uses an action. `None` for what the check has refused.
    pub(crate) fn action(&self, step: &Node, uses: &str, depth: usize) -> Option<Action> {
        let with: Vec<(String, Template)> =
            plan::pairs(step.get("with")).into_iter().map(|(key, value)| (key.to_lowercase(), value)).collect();
        let repository = |uses: &str| match Uses::parse(uses) {
            Ok(Uses::Repository { name, version }) => (name, version),
            _ => (uses.to_owned(), String::new()),
        };
        let (place, text) = match self.find(uses).ok()? {
            Found::BuiltIn(built_in) => {
                return Some(Action::Uses { action: built_in.name.to_owned(), version: repository(uses).1, with });
            }
            Found::NoOp { reason } => {
                let (action, version) = repository(uses);
                return Some(Action::NoOp { action, version, reason });
            }
            Found::Described { place, text } => (place, text),
        };
        if depth >= MAX_DEPTH {
            return None;
        }
        let mut report = Report::under(Source::new(text.file, text.text), self.limits);
        let root = yaml::read(&mut report, self.limits)?;
        let inputs = root.get("inputs").map(Node::entries).unwrap_or_default().iter();
        let inputs = inputs.map(|input| ActionInput {
            name: input.key.to_lowercase(),
            default: Template(input.value.get("default").and_then(Node::text).unwrap_or_default()),
        });
        let (inputs, uses) = (inputs.collect(), uses.to_owned());
        let runs = root.get("runs")?;
        let part = |key: &str| runs.get(key).and_then(Node::text).filter(|text| !text.is_empty());
        if part("using")?.to_lowercase().starts_with("node") {
            let hook = |key: &str| {
                let condition = part(&format!("{key}-if")).unwrap_or_else(|| "always()".to_owned());
                Some(Hook { program: part(key)?, condition: Condition(condition) })
            };
            return Some(Action::Node(NodeAction { uses, place, with, inputs, main: part("main")?, pre: hook("pre"), post: hook("post") }));
        }
        let outputs = root.get("outputs").map(Node::entries).unwrap_or_default().iter();
        let outputs = outputs.filter_map(|output| Some((output.key.clone(), Template(output.value.get("value")?.text()?)))).collect();
        let steps = runs.get("steps").map(Node::items).unwrap_or_default().iter().enumerate();
        let steps = steps.map(|(index, step)| plan::step(index, step, &[None, None], &[], &report, self, depth + 1)).collect();
        Some(Action::Composite(Composite { uses, place, with, inputs, outputs, steps }))
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
