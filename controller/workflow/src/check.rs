//! The rules of the language that no table of keys can say: identifiers, the graph of needs, matrices, references.

use std::collections::{HashMap, HashSet};

use caisson_model::id::JobKey;

use crate::diagnostic::Report;
use crate::events;
use crate::parse;
use crate::schema;
use crate::scope::Scope;
use crate::uses::Uses;
use crate::yaml::{Content, Node};

/// How long an identifier may be at most, as the reference parser counts it.
const MAX_IDENTIFIER: usize = 99;
/// How long the name of a concurrency group may be.
const MAX_GROUP: usize = 400;

/// Checks one file's tree by all rules that concern it alone.
pub(crate) fn tree(root: &Node, report: &mut Report<'_>) {
    parse::check(root, &schema::WORKFLOW, Scope::NONE, "", report);
    if let Some(on) = root.get("on") {
        events::check(on, report);
    }
    check_concurrency(root, "concurrency", report);
    let Some(jobs) = root.get("jobs") else { return };
    for entry in jobs.entries() {
        let path = parse::join("jobs", &entry.key);
        // An expression as key has been refused already.
        if !entry.key.contains("${{") {
            check_identifier(&entry.key, entry.key_at.clone(), &path, report);
        }
        check_job(&entry.value, &path, report);
    }
    check_graph(jobs, report);
}

fn check_identifier(id: &str, at: std::ops::Range<usize>, path: &str, report: &mut Report<'_>) {
    let mut letters = id.bytes();
    let legal = letters.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && letters.all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    let shown: String = id.chars().take(MAX_IDENTIFIER).collect();
    if id.is_empty() {
        // The table has said that already.
    } else if id.starts_with("__") {
        let message = format!("the identifier '{shown}' is invalid: IDs starting with '__' are reserved");
        report.language(at, path, message, "choose another name");
    } else if !legal {
        let message = format!("the identifier '{shown}' is invalid");
        let help = "begin with a letter or '_', and go on with letters, digits, '-' and '_'";
        report.language(at, path, message, help);
    } else if id.len() > MAX_IDENTIFIER {
        let message = format!("the identifier '{shown}...' is longer than {MAX_IDENTIFIER} characters");
        report.language(at, path, message, "choose a shorter name");
    }
}

fn check_concurrency(of: &Node, path: &str, report: &mut Report<'_>) {
    let Some(concurrency) = of.get("concurrency") else { return };
    let group = concurrency.get("group").unwrap_or(concurrency);
    if group.text().is_some_and(|text| !text.contains("${{") && text.chars().count() > MAX_GROUP) {
        let message = format!("a concurrency group's name may have at most {MAX_GROUP} characters");
        report.language(group.at.clone(), path, message, "choose a shorter name");
    }
}

/// An image that is named, of a job's container or of a service.
fn check_image(container: &Node, path: &str, report: &mut Report<'_>) {
    let image = match &container.content {
        Content::Mapping(_) => container.get("image").and_then(Node::text).unwrap_or_default(),
        // Empty as a whole, it means that there is none.
        Content::Scalar(scalar) if !scalar.to_text().is_empty() => scalar.to_text(),
        _ => return,
    };
    if image.strip_prefix("docker://").unwrap_or(&image).is_empty() {
        let at = container.get("image").unwrap_or(container).at.clone();
        report.language(at, path, "container image cannot be empty", "name it under `image:`");
    }
}

fn check_job(job: &Node, path: &str, report: &mut Report<'_>) {
    check_concurrency(job, &format!("{path}.concurrency"), report);
    if let Some(container) = job.get("container") {
        check_image(container, &format!("{path}.container"), report);
    }
    for service in job.get("services").map(Node::entries).unwrap_or_default() {
        check_image(&service.value, &format!("{path}.services.{}", service.key), report);
    }
    if let Some(group) = job.get("runs-on").and_then(|node| node.get("group")) {
        check_runner_group(group, path, report);
    }
    if let Some(matrix) = job.get("strategy").and_then(|strategy| strategy.get("matrix")) {
        for entry in matrix.entries() {
            let is_empty = matches!(&entry.value.content, Content::Sequence(items) if items.is_empty());
            if is_empty && entry.key != "include" && entry.key != "exclude" {
                let message = format!("matrix vector '{}' does not contain any values", entry.key);
                let path = format!("{path}.strategy.matrix.{}", entry.key);
                report.language(entry.value.at.clone(), &path, message, "add a value, or remove the vector");
            }
        }
    }
    let mut ids: HashSet<String> = HashSet::new();
    if let Some(steps) = job.get("steps") {
        for (index, step) in steps.items().iter().enumerate() {
            check_step(step, &format!("{path}.steps[{index}]"), &mut ids, report);
        }
    }
}

fn check_step(step: &Node, path: &str, ids: &mut HashSet<String>, report: &mut Report<'_>) {
    if let Some(node) = step.get("id")
        && let Some(id) = node.text()
        && !id.contains("${{")
    {
        let path = format!("{path}.id");
        check_identifier(&id, node.at.clone(), &path, report);
        if !ids.insert(id.to_lowercase()) {
            let message = format!("the identifier '{id}' may not be used more than once within the same scope");
            report.language(node.at.clone(), &path, message, "give each step an id of its own");
        }
    }
    if let Some(node) = step.get("uses")
        && let Some(uses) = node.text()
        && !uses.is_empty()
        && !uses.contains("${{")
        && let Err(message) = Uses::parse(&uses)
    {
        report.language(node.at.clone(), &format!("{path}.uses"), message, "write it like actions/checkout@v4");
    }
    if let Some(parallel) = step.get("parallel") {
        let mut inner = HashSet::new();
        for (index, step) in parallel.items().iter().enumerate() {
            check_step(step, &format!("{path}.parallel[{index}]"), &mut inner, report);
        }
    }
}

fn check_runner_group(group: &Node, path: &str, report: &mut Report<'_>) {
    let Some(text) = group.text().filter(|text| !text.contains("${{")) else { return };
    let path = format!("{path}.runs-on.group");
    let parts: Vec<&str> = text.split('/').collect();
    match parts.as_slice() {
        [_] => {}
        ["org" | "organization" | "ent" | "enterprise", ""] => {
            let message = format!("invalid runs-on group name '{text}'");
            report.language(group.at.clone(), &path, message, "write the group's name after the slash");
        }
        ["org" | "organization" | "ent" | "enterprise", _] => {}
        _ => {
            let message = format!("invalid runs-on group name '{text}'");
            let help = "please use 'organization/' or 'enterprise/' prefix to target a single runner group";
            report.language(group.at.clone(), &path, message, help);
        }
    }
}

/// The keys that a job's `needs:` names, as they are written.
pub(crate) fn needs(job: &Node) -> Vec<(JobKey, &Node)> {
    let named = job.get("needs").map(Node::one_or_many).unwrap_or_default();
    named.into_iter().filter_map(|node| Some((JobKey(node.text()?), node))).collect()
}

fn check_graph(jobs: &Node, report: &mut Report<'_>) {
    let Content::Mapping(entries) = &jobs.content else { return };
    let keys: HashSet<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
    // How many needs each job waits for, and who waits for whom; then jobs start as their last need is met. What never
    // starts waits for itself or for nothing that exists. Linear, however long the chain.
    let mut unmet: HashMap<&str, usize> = HashMap::new();
    let mut waiting: HashMap<String, Vec<&str>> = HashMap::new();
    for entry in entries {
        let needs = needs(&entry.value);
        // A key that is there twice has been refused; its needs count together.
        *unmet.entry(&entry.key).or_default() += needs.len();
        needs.into_iter().for_each(|(need, _)| waiting.entry(need.0).or_default().push(&entry.key));
    }
    let mut startable: Vec<&str> = unmet.iter().filter(|(_, unmet)| **unmet == 0).map(|(key, _)| *key).collect();
    if startable.is_empty() {
        let help = if entries.is_empty() { "add a job below `jobs:`" } else { "remove `needs:` from the job that runs first" };
        let message = "the workflow must contain at least one job with no dependencies";
        report.language(jobs.at.start..jobs.at.start + 1, "jobs", message, help);
        return;
    }
    let mut started: HashSet<&str> = HashSet::new();
    while let Some(key) = startable.pop() {
        started.insert(key);
        for waiter in waiting.get(key).into_iter().flatten() {
            if let Some(unmet) = unmet.get_mut(waiter) {
                *unmet -= 1;
                if *unmet == 0 {
                    startable.push(waiter);
                }
            }
        }
    }
    for entry in entries.iter().filter(|entry| !started.contains(entry.key.as_str())) {
        if report.is_full() {
            return;
        }
        for (need, node) in needs(&entry.value).into_iter().filter(|(need, _)| !started.contains(need.0.as_str())) {
            let path = format!("jobs.{}.needs", entry.key);
            if keys.contains(need.0.as_str()) {
                let message = format!("job '{}' depends on job '{need}' which creates a cycle in the dependency graph", entry.key);
                report.language(node.at.clone(), &path, message, "remove one of the needs on the circle");
            } else {
                let message = format!("job '{}' depends on unknown job '{need}'", entry.key);
                let near = entries
                    .iter()
                    .take(200)
                    .map(|entry| (parse::distance(&need.0, &entry.key), entry.key.as_str()))
                    .min()
                    .filter(|(d, _)| *d <= 2);
                let help = match near {
                    Some((_, key)) => format!("did you mean `{key}`?"),
                    None => "name a job of this workflow".to_owned(),
                };
                report.language(node.at.clone(), &path, message, help);
            }
        }
    }
}
