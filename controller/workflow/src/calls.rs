//! Jobs that call other workflows: what they hand over against what the called one declares, rights, number and depth.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::action_file::Actions;
use crate::called;
use crate::check;
use crate::diagnostic::{Report, Source};
use crate::library::Library;
use crate::limits::{Limits, SecurityRule};
use crate::parse;
use crate::permissions::Permissions;
use crate::support;
use crate::taint;
use crate::yaml::{self, Content, Entry, Node, Scalar};

/// Reads the report's source and checks it by all rules of the language, with the workflows that it calls as far as the
/// library has them. `None` when there is no tree to go on with; otherwise what is wrong is in the report.
pub(crate) fn workflow(report: &mut Report<'_>, limits: &Limits, library: &dyn Library) -> Option<Node> {
    let root = yaml::read(report, limits)?;
    check::tree(&root, report);
    let mut calls = Calls { limits, library, jobs: 0, bytes: root.bytes() };
    let allowed = Permissions::default(limits.default_permissions);
    calls.workflow(&root, &allowed, 0, report);
    if calls.jobs > limits.jobs {
        let message = format!("the workflow may not contain more than {} jobs", limits.jobs);
        report.language(0..0, "jobs", message, "split it into several workflows");
    }
    Some(root)
}

/// The file of a called workflow, relative to the checkout where it lies in it.
pub(crate) fn file_of(uses: &str) -> &str {
    uses.strip_prefix("./").unwrap_or(uses)
}

/// What the jobs of a workflow call, as written; none for a text that is no workflow.
pub fn calls(text: &str, file: &str) -> Vec<String> {
    let mut report = Report::new(Source::new(file, text));
    let root = yaml::read(&mut report, &Limits::default());
    let jobs = root.as_ref().and_then(|root| root.get("jobs")).map(Node::entries).unwrap_or_default();
    jobs.iter().filter_map(|entry| entry.value.get("uses")?.text()).collect()
}

/// Adds what caisson cannot or will not do with the calls of a workflow, and inside the workflows that it calls.
pub(crate) fn support(root: &Node, limits: &Limits, library: &dyn Library, report: &mut Report<'_>) {
    support_below(root, limits, library, &mut BTreeSet::new(), report);
}

fn support_below(root: &Node, limits: &Limits, library: &dyn Library, seen: &mut BTreeSet<String>, report: &mut Report<'_>) {
    for entry in root.get("jobs").map(Node::entries).unwrap_or_default() {
        let Some(uses) = entry.value.get("uses") else { continue };
        let (Some(text), path) = (uses.text(), parse::join("jobs", &entry.key)) else { continue };
        check_support(&entry.value, uses, &text, &path, library, report);
        // Each file once, whoever calls it: what is wrong in it is wrong for all.
        let Some(called) = library.workflow(&text).filter(|_| seen.insert(text.clone())) else { continue };
        let mut inner = Report::under(Source::new(file_of(&text), called), limits);
        if let Some(called) = yaml::read(&mut inner, limits) {
            support::check(&called, limits.cells, &Actions { library, limits }, &mut inner);
            support_below(&called, limits, library, seen, &mut inner);
        }
        report.absorb(inner);
    }
}

fn check_support(job: &Node, uses: &Node, text: &str, path: &str, library: &dyn Library, report: &mut Report<'_>) {
    let below = format!("{path}.uses");
    let inherits = job.get("secrets").filter(|secrets| secrets.text().is_some_and(|text| text == "inherit"));
    if !text.starts_with("./") {
        if library.workflow(text).is_none() {
            let message = format!("the workflow `{text}` is of another repository: nothing is fetched at run time");
            let help = "copy the workflow into .github/workflows and call it with `./`, or put a copy into the checkout under its own name";
            report.unsupported(uses.at.clone(), &below, message, help);
        }
        if let Some(inherits) = inherits {
            let message = "all secrets would be handed to a workflow of another repository";
            let rule = SecurityRule::InheritToRemote;
            report.security(rule, inherits.at.clone(), &format!("{path}.secrets"), message, "name the secrets that it needs, one by one");
        }
    } else if library.workflow(text).is_none() {
        let message = format!("the called workflow {text} is not in the checkout");
        report.unsupported(
            uses.at.clone(),
            &below,
            message,
            "correct the path: ./.github/workflows/NAME.yml, from the top of the checkout",
        );
    }
    for entry in job.get("secrets").map(Node::entries).unwrap_or_default() {
        if entry.value.text().is_none_or(|text| called::secret_named(&text).is_none()) {
            let message = "a secret can be handed over by its name only, not as a text or expression that is made of others";
            let help = format!("write `{}: ${{{{ secrets.NAME }}}}`", entry.key);
            report.unsupported(entry.value.at.clone(), &format!("{path}.secrets.{}", entry.key), message, help);
        }
    }
    check_handed_text(job, library.workflow(text), path, report);
}

/// Refuses to hand text that a stranger chose to an input that the called workflow pastes into a script.
fn check_handed_text(job: &Node, called: Option<&str>, path: &str, report: &mut Report<'_>) {
    let strangers = |entry: &&Entry| flows(&entry.value).iter().any(taint::is_strangers);
    let handed: Vec<&Entry> = job.get("with").map(Node::entries).unwrap_or_default().iter().filter(strangers).collect();
    let Some(called) = called.filter(|_| !handed.is_empty()) else { return };
    let Some(root) = yaml::read(&mut Report::new(Source::new("", called)), &Limits::default()) else { return };
    let jobs = root.get("jobs").map(Node::entries).unwrap_or_default();
    let scripts =
        jobs.iter().flat_map(|job| job.value.get("steps").map(Node::items).unwrap_or_default()).filter_map(|step| step.get("run"));
    let pasted: Vec<String> = scripts.flat_map(flows).map(|path| path.normal()).collect();
    for entry in handed {
        if pasted.contains(&format!("inputs.{}", entry.key.to_lowercase())) {
            let message = format!(
                "the input may hold text that a stranger chose, and the called workflow pastes `inputs.{}` into a script",
                entry.key
            );
            let help = "let the called workflow pass the input through `env:`";
            let rule = SecurityRule::UntrustedTextInScripts;
            report.security(rule, entry.value.at.clone(), &format!("{path}.with.{}", entry.key), message, help);
        }
    }
}

/// The contexts whose values become part of a text.
fn flows(node: &Node) -> Vec<caisson_expr::Path> {
    let text = node.text().unwrap_or_default();
    let template = caisson_expr::Template::parse(&text).ok();
    template.iter().flat_map(caisson_expr::Template::expressions).flat_map(|(expression, _)| expression.flows()).collect()
}

struct Calls<'l> {
    limits: &'l Limits,
    library: &'l dyn Library,
    /// Jobs so far, calling ones included.
    jobs: usize,
    /// Bytes of all trees so far.
    bytes: usize,
}

/// A call that is being checked.
struct Call<'n> {
    uses: &'n str,
    /// Where the calling job's key stands.
    job_at: Range<usize>,
    /// Where the text of `uses:` stands.
    uses_at: Range<usize>,
    job: &'n Node,
    path: &'n str,
}

impl Calls<'_> {
    fn workflow(&mut self, root: &Node, inherited: &Permissions, depth: usize, report: &mut Report<'_>) {
        let permissions = root.get("permissions").map_or_else(|| inherited.clone(), Permissions::of);
        for entry in root.get("jobs").map(Node::entries).unwrap_or_default() {
            self.jobs += 1;
            // Calls of calls could multiply without end; beyond the limit the answer is known.
            if self.jobs > self.limits.jobs {
                return;
            }
            let Some(uses) = entry.value.get("uses") else { continue };
            let Some(text) = uses.text() else { continue };
            let path = parse::join("jobs", &entry.key);
            let call = Call { uses: &text, job_at: entry.key_at.clone(), uses_at: uses.at.clone(), job: &entry.value, path: &path };
            let allowed = entry.value.get("permissions").map_or_else(|| permissions.clone(), Permissions::of);
            self.call(&call, &allowed, depth, report);
        }
    }

    fn call(&mut self, call: &Call<'_>, allowed: &Permissions, depth: usize, report: &mut Report<'_>) {
        let Some(text) = self.library.workflow(call.uses) else { return };
        if depth >= self.limits.call_depth {
            let message = format!("workflows call each other more than {} levels deep", self.limits.call_depth);
            report.language(call.uses_at.clone(), call.path, message, "call fewer workflows from called ones");
            return;
        }
        let mut inner = Report::under(Source::new(file_of(call.uses), text), self.limits);
        if let Some(called) = yaml::read(&mut inner, self.limits) {
            self.bytes = self.bytes.saturating_add(called.bytes());
            if self.bytes > self.limits.object_bytes {
                let message = format!(
                    "maximum object size exceeded: the workflow with all that it calls takes more than {} bytes",
                    self.limits.object_bytes
                );
                report.language(call.uses_at.clone(), call.path, message, "call fewer or smaller workflows");
                return;
            }
            check::tree(&called, &mut inner);
            check_handed(call, &called, report);
            check_rights(call, &called, allowed, report);
            self.workflow(&called, allowed, depth + 1, &mut inner);
        }
        report.absorb(inner);
    }
}

/// The declarations of `workflow_call`; `None` when the workflow cannot be called.
fn declarations<'n>(called: &'n Node, part: &str) -> Option<&'n [Entry]> {
    let on = called.get("on")?;
    let trigger = crate::events::triggers(on).into_iter().find(|trigger| trigger.event == "workflow_call")?;
    Some(trigger.details.and_then(|details| details.get(part)).map(Node::entries).unwrap_or_default())
}

fn check_handed(call: &Call<'_>, called: &Node, report: &mut Report<'_>) {
    let (Some(inputs), Some(secrets)) = (declarations(called, "inputs"), declarations(called, "secrets")) else {
        let message = format!("the workflow '{}' cannot be called: it does not run on `workflow_call`", call.uses);
        report.language(call.uses_at.clone(), call.path, message, "add `workflow_call:` to its `on:`");
        return;
    };
    let with = call.job.get("with").map(Node::entries).unwrap_or_default();
    for entry in with {
        let path = format!("{}.with.{}", call.path, entry.key);
        match find(inputs, &entry.key) {
            None => {
                let message = format!("invalid input, {} is not defined in the referenced workflow", entry.key);
                report.language(entry.value.at.clone(), &path, message, declared(inputs));
            }
            Some(input) => check_type(&input.value, &entry.value, &path, report),
        }
    }
    for input in inputs.iter().filter(|input| is_required(input)) {
        if find(with, &input.key).is_none() {
            let message = format!("input {} is required, but not provided while calling", input.key);
            report.language(call.uses_at.clone(), call.path, message, format!("add `{}:` to the call's `with:`", input.key));
        }
    }
    let handed = call.job.get("secrets");
    // All of them, or a word that means nothing and has been refused.
    if handed.is_some_and(|handed| handed.text().is_some_and(|text| !text.is_empty())) {
        return;
    }
    let handed = handed.map(Node::entries).unwrap_or_default();
    for entry in handed.iter().filter(|entry| find(secrets, &entry.key).is_none()) {
        let message = format!("invalid secret, {} is not defined in the referenced workflow", entry.key);
        report.language(entry.value.at.clone(), &format!("{}.secrets.{}", call.path, entry.key), message, declared(secrets));
    }
    for secret in secrets.iter().filter(|secret| is_required(secret) && find(handed, &secret.key).is_none()) {
        let message = format!("secret {} is required, but not provided while calling", secret.key);
        report.language(call.uses_at.clone(), call.path, message, format!("add `{}:` to the call's `secrets:`", secret.key));
    }
}

fn find<'e>(entries: &'e [Entry], name: &str) -> Option<&'e Entry> {
    entries.iter().find(|entry| entry.key.eq_ignore_ascii_case(name))
}

fn declared(entries: &[Entry]) -> String {
    let names: Vec<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
    if names.is_empty() { "it declares none: remove this".to_owned() } else { format!("it declares: {}", names.join(", ")) }
}

fn is_required(entry: &Entry) -> bool {
    matches!(entry.value.get("required").map(|node| &node.content), Some(Content::Scalar(Scalar::Bool(true))))
}

/// Whether a value that is no expression has the declared type; a text takes every scalar.
fn check_type(declaration: &Node, value: &Node, path: &str, report: &mut Report<'_>) {
    let wanted = declaration.get("type").and_then(Node::text).unwrap_or_default();
    let Content::Scalar(scalar) = &value.content else { return };
    let text = scalar.to_text();
    let fits = match (wanted.as_str(), scalar) {
        _ if text.contains("${{") => true,
        ("boolean", scalar) => matches!(scalar, Scalar::Bool(_)),
        ("number", scalar) => matches!(scalar, Scalar::Number(_)),
        _ => true,
    };
    if !fits {
        report.language(value.at.clone(), path, format!("unexpected value '{text}'"), format!("a {wanted} is declared"));
    }
}

fn check_rights(call: &Call<'_>, called: &Node, allowed: &Permissions, report: &mut Report<'_>) {
    let refuse = |who: String, (excess, allowed): (String, String), report: &mut Report<'_>| {
        let message = format!("error calling workflow '{}': {who} is requesting '{excess}', but is only allowed '{allowed}'", call.uses);
        report.language(call.job_at.clone(), call.path, message, "raise the calling job's `permissions:`, or ask for less");
    };
    if let Some(beyond) = called.get("permissions").map(Permissions::of).and_then(|wanted| wanted.beyond(allowed)) {
        refuse(format!("the workflow '{}'", call.uses), beyond, report);
    }
    for entry in called.get("jobs").map(Node::entries).unwrap_or_default() {
        let beyond = entry.value.get("permissions").map(Permissions::of).and_then(|wanted| wanted.beyond(allowed));
        if let Some(beyond) = beyond {
            let name = entry.value.get("name").and_then(Node::text).filter(|name| !name.is_empty());
            refuse(format!("the nested job '{}'", name.unwrap_or_else(|| entry.key.clone())), beyond, report);
        }
    }
}
