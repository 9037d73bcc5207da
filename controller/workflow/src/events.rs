//! `on:`: which events there are, what each may be filtered by, and what a workflow says about them.

use std::collections::HashSet;
use std::ops::Range;

use crate::diagnostic::Report;
use crate::parse;
use crate::schema::{self, Definition};
use crate::scope::Scope;
use crate::yaml::{Content, Entry, Node, Scalar};

/// An event of the language and the keys that may stand below it.
struct Known {
    name: &'static str,
    /// Values of `types:`; empty when the event has none.
    types: &'static [&'static str],
    /// Further keys, each a text or a sequence of texts.
    filters: &'static [&'static str],
}

const BRANCHES: &[&str] = &["branches", "branches-ignore"];
const PULL: &[&str] = &["branches", "branches-ignore", "paths", "paths-ignore"];
const PUSH: &[&str] = &["branches", "branches-ignore", "tags", "tags-ignore", "paths", "paths-ignore"];
const CHANGES: &[&str] = &["created", "edited", "deleted"];
const PULL_TYPES: &[&str] = &[
    "assigned",
    "unassigned",
    "labeled",
    "unlabeled",
    "opened",
    "edited",
    "closed",
    "reopened",
    "synchronize",
    "converted_to_draft",
    "locked",
    "unlocked",
    "enqueued",
    "dequeued",
    "milestoned",
    "demilestoned",
    "ready_for_review",
    "review_requested",
    "review_request_removed",
    "auto_merge_enabled",
    "auto_merge_disabled",
    "stacked",
];

const fn event(name: &'static str, types: &'static [&'static str], filters: &'static [&'static str]) -> Known {
    Known { name, types, filters }
}

static EVENTS: &[Known] = &[
    event("branch_protection_rule", CHANGES, &[]),
    event("check_run", &["completed", "created", "rerequested", "requested_action"], &[]),
    event("check_suite", &["completed"], &[]),
    event("create", &[], &[]),
    event("delete", &[], &[]),
    event("deployment", &[], &[]),
    event("deployment_status", &[], &[]),
    event(
        "discussion",
        &[
            "created",
            "edited",
            "deleted",
            "transferred",
            "pinned",
            "unpinned",
            "labeled",
            "unlabeled",
            "locked",
            "unlocked",
            "category_changed",
            "answered",
            "unanswered",
        ],
        &[],
    ),
    event("discussion_comment", CHANGES, &[]),
    event("fork", &[], &[]),
    event("gollum", &[], &[]),
    event("image_version", &["created", "ready", "deleted"], &["names", "versions"]),
    event("issue_comment", CHANGES, &[]),
    event(
        "issues",
        &[
            "opened",
            "edited",
            "deleted",
            "transferred",
            "pinned",
            "unpinned",
            "closed",
            "reopened",
            "assigned",
            "unassigned",
            "labeled",
            "unlabeled",
            "locked",
            "unlocked",
            "milestoned",
            "demilestoned",
            "field_added",
            "field_removed",
            "typed",
            "untyped",
        ],
        &[],
    ),
    event("label", CHANGES, &[]),
    event("merge_group", &["checks_requested"], BRANCHES),
    event("milestone", &["created", "closed", "opened", "edited", "deleted"], &[]),
    event("page_build", &[], &[]),
    event("project", &["created", "closed", "reopened", "edited", "deleted"], &[]),
    event("project_card", &["created", "moved", "converted", "edited", "deleted"], &[]),
    event("project_column", &["created", "updated", "moved", "deleted"], &[]),
    event("public", &[], &[]),
    event("pull_request", PULL_TYPES, PULL),
    event("pull_request_comment", CHANGES, &[]),
    event("pull_request_review", &["submitted", "edited", "dismissed"], &[]),
    event("pull_request_review_comment", CHANGES, &[]),
    event("pull_request_target", PULL_TYPES, PULL),
    event("push", &[], PUSH),
    event("registry_package", &["published", "updated"], &[]),
    event("release", &["published", "unpublished", "created", "edited", "deleted", "prereleased", "released"], &[]),
    event("repository_dispatch", &[], &["types"]),
    event("schedule", &[], &[]),
    event("status", &[], &[]),
    event("watch", &["started"], &[]),
    event("workflow_call", &[], &[]),
    event("workflow_dispatch", &[], &[]),
    event("workflow_run", &["requested", "completed", "in_progress"], &["workflows", "branches", "branches-ignore"]),
];

/// The keys of events that are mappings with a shape of their own.
const SHAPED: &[(&str, &str, &Definition)] = &[
    ("workflow_call", "inputs", &schema::CALL_INPUTS),
    ("workflow_call", "secrets", &schema::CALL_DECLARED_SECRETS),
    ("workflow_call", "outputs", &schema::CALL_OUTPUTS),
    ("workflow_dispatch", "inputs", &schema::DISPATCH_INPUTS),
];

/// An event that a workflow names, with the node that says more about it.
#[derive(Clone, Debug)]
pub(crate) struct Trigger<'n> {
    pub(crate) event: String,
    pub(crate) at: Range<usize>,
    pub(crate) details: Option<&'n Node>,
}

/// The events that `on:` names, in order; whatever is no event is left out.
pub(crate) fn triggers(on: &Node) -> Vec<Trigger<'_>> {
    let named = |node: &Node| node.text().map(|event| Trigger { event, at: node.at.clone(), details: None });
    match &on.content {
        Content::Scalar(_) => named(on).into_iter().collect(),
        Content::Sequence(items) => items.iter().filter_map(named).collect(),
        Content::Mapping(entries) => entries
            .iter()
            .map(|entry| Trigger {
                event: entry.key.clone(),
                at: entry.key_at.clone(),
                details: Some(&entry.value).filter(|node| !node.is_null()),
            })
            .collect(),
    }
}

/// Checks `on:` against the table of events.
pub(crate) fn check(on: &Node, report: &mut Report<'_>) {
    if let Content::Sequence(items) = &on.content
        && let Some(item) = items.iter().find(|item| item.text().is_none())
    {
        report.language(item.at.clone(), "on", "an event's name was expected", "write the event as plain text");
    }
    let mut seen: HashSet<String> = HashSet::new();
    for trigger in triggers(on) {
        let path = format!("on.{}", trigger.event.chars().take(80).collect::<String>());
        if trigger.event.contains("${{") {
            let message = "a template expression is not allowed in this context";
            report.language(trigger.at, "on", message, "name the event");
            continue;
        }
        if !seen.insert(trigger.event.clone()) && matches!(on.content, Content::Mapping(_)) {
            let message = format!("'{}' is already defined", trigger.event);
            report.language(trigger.at, &path, message, "join the two");
            continue;
        }
        let Some(known) = EVENTS.iter().find(|known| known.name == trigger.event) else {
            let message = format!("unexpected value '{}'", trigger.event);
            report.language(trigger.at, &path, message, nearest(&trigger.event));
            continue;
        };
        match trigger.details {
            Some(details) => check_details(known, details, &path, report),
            None if known.name == "schedule" && matches!(on.content, Content::Mapping(_)) => {
                report.language(trigger.at, &path, "a schedule needs at least one time", "add `- cron: '0 4 * * *'`");
            }
            None => {}
        }
    }
    if seen.is_empty() && matches!(&on.content, Content::Mapping(entries) if entries.is_empty()) {
        report.language(on.at.clone(), "on", "no event is named", "name one, such as `push`");
    }
}

fn nearest(event: &str) -> String {
    match EVENTS.iter().map(|known| (parse::distance(event, known.name), known.name)).min() {
        Some((distance, name)) if distance <= 3 => format!("did you mean `{name}`?"),
        _ => "name an event of the language, such as push, pull_request, workflow_dispatch".to_owned(),
    }
}

fn check_details(known: &Known, details: &Node, path: &str, report: &mut Report<'_>) {
    if known.name == "schedule" {
        parse::check(details, &schema::CRON, Scope::NONE, path, report);
        for entry in details.items() {
            if let Some(cron) = entry.get("cron")
                && cron.text().is_some_and(|text| !is_cron(&text))
            {
                let message = "invalid cron expression";
                let help = "write five fields: minute, hour, day of month, month, day of week, such as '30 5 * * 1'";
                report.language(cron.at.clone(), path, message, help);
            }
        }
        return;
    }
    let Content::Mapping(entries) = &details.content else {
        let shown = details.text().unwrap_or_default();
        report.language(details.at.clone(), path, format!("unexpected value '{shown}'"), "expected here: a mapping, or nothing");
        return;
    };
    if known.types.is_empty() && known.filters.is_empty() && !SHAPED.iter().any(|(event, ..)| *event == known.name) {
        report.language(details.at.clone(), path, "a mapping was not expected", format!("`{}` takes no keys", known.name));
        return;
    }
    let mut seen: HashSet<String> = HashSet::new();
    for entry in entries {
        let below = parse::join(path, &entry.key);
        if !seen.insert(entry.key.to_lowercase()) {
            let message = format!("'{}' is already defined", entry.key);
            report.language(entry.key_at.clone(), &below, message, "join the two");
            continue;
        }
        let shaped = SHAPED.iter().find(|(event, key, _)| *event == known.name && *key == entry.key);
        if let Some((_, _, definition)) = shaped {
            parse::check(&entry.value, definition, Scope::NONE, &below, report);
            if entry.key == "inputs" {
                entry.value.entries().iter().for_each(|input| check_input(input, known.name, &below, report));
            }
        } else if known.name == "repository_dispatch" && entry.key == "types" {
            parse::check(&entry.value, &schema::TEXTS, Scope::NONE, &below, report);
        } else if known.filters.contains(&entry.key.as_str()) {
            parse::check(&entry.value, &schema::ONE_OR_MANY, Scope::NONE, &below, report);
        } else if entry.key == "types" && !known.types.is_empty() {
            check_types(known, &entry.value, &below, report);
        } else if known.name == "workflow_dispatch" && details.get("inputs").is_none() {
            // The reference parser leaves a mapping alone of which it knows no key, here and only here.
            let message = format!("`{}` has no meaning for workflow_dispatch and is ignored", entry.key);
            report.warning(entry.key_at.clone(), &below, message, "remove it; known here: inputs");
        } else {
            let mut keys: Vec<&str> = known.filters.to_vec();
            keys.extend(SHAPED.iter().filter(|(event, ..)| *event == known.name).map(|(_, key, _)| *key));
            if !known.types.is_empty() {
                keys.push("types");
            }
            let help = if keys.is_empty() { format!("`{}` takes no keys", known.name) } else { format!("known here: {}", keys.join(", ")) };
            report.language(entry.key_at.clone(), &below, format!("unexpected value '{}'", entry.key), help);
        }
    }
    for kind in ["branches", "tags", "paths"] {
        if let (Some(_), Some(ignore)) = (details.get(kind), details.entry(&format!("{kind}-ignore"))) {
            let message = format!("`{kind}` and `{kind}-ignore` cannot both be given for one event");
            let help = format!("keep `{kind}` and write the exceptions with a leading `!`");
            // The reference parser lets this pass; the forge itself does not, and neither has a meaning for it.
            report.unsupported(ignore.key_at.clone(), path, message, help);
        }
    }
}

/// What the table cannot say of an input: that its parts go together.
fn check_input(input: &Entry, event: &str, path: &str, report: &mut Report<'_>) {
    let path = parse::join(path, &input.key);
    let kind = input.value.get("type").and_then(Node::text).unwrap_or_else(|| "string".to_owned());
    let options = input.value.get("options").map(Node::items);
    // The first line of what it holds.
    let at = input.value.at.start..input.value.at.start + 1;
    match kind.as_str() {
        "choice" if options.is_none_or(<[Node]>::is_empty) => {
            let help = "list what can be chosen under `options:`";
            report.language(at.clone(), &path, "missing `options` for an input of type choice", help);
        }
        "choice" => {}
        kind if options.is_some() => {
            let message = format!("`options` goes with the type choice only, and this input's type is {kind}");
            report.language(at.clone(), &path, message, "write `type: choice`, or remove `options:`");
        }
        _ => {}
    }
    let Some(default) = input.value.get("default") else { return };
    let Content::Scalar(scalar) = &default.content else { return };
    let text = scalar.to_text();
    let fits = match (kind.as_str(), scalar) {
        ("boolean", Scalar::Bool(_) | Scalar::Null) => true,
        // A quoted word is common, and harmless, where a person starts the run.
        ("boolean", Scalar::Text(text)) => {
            text.contains("${{") || (event == "workflow_dispatch" && matches!(text.as_str(), "true" | "false" | ""))
        }
        ("boolean", _) => false,
        _ => true,
    };
    if !fits {
        let message = format!("unexpected value '{text}' as the default of a {kind}");
        report.language(default.at.clone(), &path, message, "expected here: true or false, without quotes");
    }
    if kind == "choice" && !text.is_empty() && !options.is_none_or(|all| all.iter().any(|option| option.text().as_ref() == Some(&text))) {
        let message = format!("the default '{text}' is none of the options: a run that is given no value is refused");
        report.warning(default.at.clone(), &path, message, "name one of the options");
    }
}

fn check_types(known: &Known, types: &Node, path: &str, report: &mut Report<'_>) {
    if let Content::Mapping(_) = types.content {
        report.language(types.at.clone(), path, "a mapping was not expected", "write a sequence of types");
    }
    if types.is_null() {
        report.language(types.at.clone(), path, "unexpected value ''", format!("known here: {}", known.types.join(", ")));
    }
    for item in types.one_or_many() {
        let text = item.text().unwrap_or_default();
        if !known.types.contains(&text.as_str()) {
            let help = format!("known here: {}", known.types.join(", "));
            report.language(item.at.clone(), path, format!("unexpected value '{text}'"), help);
        }
    }
}

/// Whether a text is a cron expression of five fields.
pub(crate) fn is_cron(text: &str) -> bool {
    const MONTHS: &[&str] = &["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
    const DAYS: &[&str] = &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];
    let fields: Vec<&str> = text.split(' ').filter(|field| !field.is_empty()).collect();
    let ranges: [(u32, u32, &[&str]); 5] = [(0, 59, &[]), (0, 23, &[]), (1, 31, &[]), (1, 12, MONTHS), (0, 6, DAYS)];
    fields.len() == 5 && fields.iter().zip(ranges).all(|(field, range)| field.split(',').all(|part| is_cron_part(part, range)))
}

fn is_cron_part(part: &str, (low, high, names): (u32, u32, &[&str])) -> bool {
    let (range, step) = match part.split_once('/') {
        Some((range, step)) => (range, Some(step)),
        None => (part, None),
    };
    if step.is_some_and(|step| !step.parse::<u32>().is_ok_and(|step| step > 0 && step <= high)) {
        return false;
    }
    let value = |text: &str| {
        let named = names.iter().position(|name| name.eq_ignore_ascii_case(text)).map(|at| at as u32 + low);
        named.or_else(|| text.parse().ok()).filter(|value| (low..=high).contains(value))
    };
    match range.split_once('-') {
        _ if range == "*" => true,
        Some((from, to)) => matches!((value(from), value(to)), (Some(from), Some(to)) if from <= to),
        None => value(range).is_some(),
    }
}
