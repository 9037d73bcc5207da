//! A tree of nodes against the table of the language: keys, shapes, and what expressions may name.

use std::collections::HashSet;
use std::ops::Range;

use caisson_expr::{Condition, ExprError, Expression, Span, Template};

use crate::diagnostic::Report;
use crate::schema::{Definition, Mapping, Shape};
use crate::scope::Scope;
use crate::yaml::{Content, Entry, Node, Scalar};

/// How long a text with expressions may be, as the language documents it.
const MAX_TEMPLATE: usize = caisson_expr::MAX_LENGTH;

/// Checks `node` and everything below it, and adds what is wrong to the report.
pub(crate) fn check(node: &Node, definition: &Definition, outer: Scope, path: &str, report: &mut Report<'_>) {
    let scope = outer.and(definition.scope);
    match &node.content {
        Content::Scalar(scalar) => check_scalar(node, scalar, definition, scope, path, report),
        Content::Sequence(items) => {
            for shape in definition.shapes {
                let item = match shape {
                    Shape::Sequence(item) => *item,
                    Shape::Any => definition,
                    _ => continue,
                };
                if !matches!(shape, Shape::Any) || !scope.is_empty() {
                    items.iter().enumerate().for_each(|(i, node)| check(node, item, scope, &format!("{path}[{i}]"), report));
                }
                return;
            }
            report.language(node.at.clone(), path, "a sequence was not expected", expectation(definition));
        }
        Content::Mapping(entries) => {
            if definition.shapes.iter().any(|shape| matches!(shape, Shape::Any)) {
                check_free_mapping(entries, definition, scope, path, report);
                return;
            }
            match choose(entries, definition) {
                Some(mapping) => check_mapping(node, mapping, scope, path, report),
                None => report.language(node.at.clone(), path, "a mapping was not expected", expectation(definition)),
            }
        }
    }
}

/// A mapping whose keys the language leaves free: only their being there once matters, and the expressions inside.
fn check_free_mapping(entries: &[Entry], definition: &Definition, scope: Scope, path: &str, report: &mut Report<'_>) {
    let mut seen: HashSet<String> = HashSet::new();
    for entry in entries {
        let below = join(path, &entry.key);
        if !seen.insert(entry.key.to_uppercase()) {
            refuse_duplicate(entry, &below, report);
        }
        if !scope.is_empty() {
            check(&entry.value, definition, scope, &below, report);
        }
    }
}

fn refuse_duplicate(entry: &Entry, path: &str, report: &mut Report<'_>) {
    let message = format!("'{}' is already defined", entry.key);
    report.language(entry.key_at.clone(), path, message, "remove or rename one of the two; case makes no difference");
}

/// The construct's name for what `key` holds below `path`.
pub(crate) fn join(path: &str, key: &str) -> String {
    let shown: String = key.chars().take(80).collect();
    if path.is_empty() { shown } else { format!("{path}.{shown}") }
}

/// The alternative that is meant: each key, in the order of the file, leaves those that know it, so that what is told is the
/// key that does not go with those before it. When several are left, the one whose mark is there, else the one without.
fn choose<'d>(entries: &[Entry], definition: &'d Definition) -> Option<&'d Mapping> {
    let mut left: Vec<&'d Mapping> = Vec::new();
    for shape in definition.shapes {
        if let Shape::Mapping(mapping) = shape {
            left.push(mapping);
        }
    }
    for entry in entries {
        if left.len() == 1 {
            break;
        }
        let knows = |mapping: &&Mapping| mapping.others.is_some() || mapping.keys.iter().any(|key| key.name == entry.key);
        if left.iter().any(knows) {
            left.retain(knows);
        }
    }
    let marked = left.iter().find(|mapping| mapping.mark.is_empty() || entries.iter().any(|entry| entry.key == mapping.mark));
    marked.or(left.first()).copied()
}

fn check_mapping(node: &Node, mapping: &Mapping, scope: Scope, path: &str, report: &mut Report<'_>) {
    // A set: a hostile file may have a hundred thousand keys.
    let mut seen: HashSet<String> = HashSet::new();
    let mut has_expression = false;
    for entry in node.entries() {
        let below = join(path, &entry.key);
        if entry.key.contains("${{") {
            has_expression = true;
            check_expression_key(entry, scope, &below, report);
            continue;
        }
        if !entry.key.is_empty() && !seen.insert(entry.key.to_uppercase()) {
            refuse_duplicate(entry, &below, report);
            continue;
        }
        if let Some(key) = mapping.keys.iter().find(|key| key.name == entry.key) {
            check(&entry.value, key.definition, scope, &below, report);
        } else if let Some(others) = mapping.others {
            if entry.key.is_empty() {
                report.language(entry.key_at.clone(), path, "unexpected value ''", "write a name for this key");
            }
            check(&entry.value, others, scope, &below, report);
        } else {
            let message = format!("unexpected value '{}'", entry.key);
            report.language(entry.key_at.clone(), &below, message, known_keys(&entry.key, mapping));
        }
    }
    for key in mapping.keys.iter().filter(|key| key.required && !has_expression) {
        if !seen.contains(&key.name.to_uppercase()) {
            let message = format!("required property is missing: {}", key.name);
            report.language(first_line(node, report), path, message, format!("add `{}:`", key.name));
        }
    }
}

fn check_expression_key(entry: &Entry, scope: Scope, path: &str, report: &mut Report<'_>) {
    let at = entry.key_at.clone();
    if scope.is_empty() {
        report.language(at, path, "a template expression is not allowed in this context", "write the key out");
        return;
    }
    match Template::parse(&entry.key) {
        Err(error) if !entry.key.contains("insert") => report.language(at, path, error.message, "correct the expression"),
        _ => report.unsupported(at, path, "expressions as keys are not supported", "write the key out"),
    }
}

/// The place of a mapping as such: its first line, not all that it holds.
fn first_line(node: &Node, report: &Report<'_>) -> Range<usize> {
    let text = report.source.text.get(node.at.clone()).unwrap_or_default();
    let end = text.find('\n').unwrap_or(text.len());
    node.at.start..node.at.start + end
}

fn known_keys(key: &str, mapping: &Mapping) -> String {
    let near = mapping.keys.iter().map(|known| (distance(key, known.name), known.name)).min();
    if let Some((distance, name)) = near
        && distance <= 2
    {
        return format!("did you mean `{name}`?");
    }
    let names: Vec<&str> = mapping.keys.iter().map(|key| key.name).collect();
    format!("known here: {}", names.join(", "))
}

/// How many letters must change to make one word of the other.
pub(crate) fn distance(a: &str, b: &str) -> usize {
    // Words of the language are short; a hostile key of a megabyte is near to none of them.
    if a.len() > 64 || b.len() > 64 {
        return usize::MAX;
    }
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.to_lowercase().chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let changed = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

fn check_scalar(node: &Node, scalar: &Scalar, definition: &Definition, scope: Scope, path: &str, report: &mut Report<'_>) {
    let is_condition = definition.shapes.iter().any(|shape| matches!(shape, Shape::Condition));
    let text = scalar.to_text();
    if text.contains("${{") {
        if scope.is_empty() {
            if !definition.shapes.iter().any(|shape| matches!(shape, Shape::Any)) {
                let place = place(node, &text, Span::new(text.find("${{").unwrap_or(0), text.len()), report);
                let message = "a template expression is not allowed in this context";
                report.language(place, path, message, "write the value out");
            }
            return;
        }
        if text.chars().count() > MAX_TEMPLATE {
            let message = format!("exceeded max expression length {MAX_TEMPLATE}");
            report.language(node.at.clone(), path, message, "move the text into a file, or pass the values through `env:`");
            return;
        }
    }
    let expressions = if is_condition {
        Condition::parse(&text).map(|condition| {
            if condition.is_text() {
                let message = "the condition is a text with expressions in it, and so always true";
                report.warning(node.at.clone(), path, message, "put the whole condition inside one pair of ${{ }}, or write it without");
            }
            condition.expressions().into_iter().map(|(e, at)| (e.clone(), at)).collect::<Vec<_>>()
        })
    } else if text.contains("${{") {
        Template::parse(&text).map(|template| template.expressions().map(|(e, at)| (e.clone(), at)).collect())
    } else {
        if !fits(scalar, definition) {
            let shown: String = text.chars().take(120).collect();
            report.language(node.at.clone(), path, format!("unexpected value '{shown}'"), expectation(definition));
        }
        return;
    };
    match expressions {
        Ok(expressions) => {
            for (expression, offset) in expressions {
                if let Err(error) = expression.check(&scope.contexts(), &scope.functions()) {
                    refuse_name(node, &text, &expression, error, offset, scope, path, report);
                }
                // Only the condition of a job names other jobs in these; a step's status is that of its job so far.
                let given = expression.calls().into_iter().find(|call| call.function.is_status() && call.arguments > 0);
                if let Some(call) = given.filter(|_| scope.has(Scope::STEPS)) {
                    let place = place(node, &text, Span::new(call.span.start + offset, call.span.end + offset), report);
                    let help = "write it without: in a step it tells how the job stands; in a job's `if:` it may name jobs";
                    report.language(place, path, format!("too many parameters supplied: '{}'", call.function), help);
                }
            }
        }
        Err(error) => {
            let place = place(node, &text, error.span, report);
            report.language(place, path, error.message, "correct the expression");
        }
    }
}

#[allow(clippy::too_many_arguments)]
fn refuse_name(
    node: &Node,
    text: &str,
    expression: &Expression,
    error: ExprError,
    offset: usize,
    scope: Scope,
    path: &str,
    report: &mut Report<'_>,
) {
    let name = &expression.text()[error.span.start..error.span.end];
    let known = Scope::is_context(name) || caisson_expr::Function::named(name).is_some();
    let contexts = scope.contexts().join(", ");
    let help = if name.eq_ignore_ascii_case("secrets") && scope.has(Scope::STEPS) {
        "secrets cannot be named here: put the secret into `env:` and name that".to_owned()
    } else if known {
        format!("not available at this key; contexts available here: {contexts}")
    } else {
        format!("there is no such name in the language; contexts available here: {contexts}")
    };
    let place = place(node, text, Span::new(error.span.start + offset, error.span.end + offset), report);
    report.language(place, path, error.message, help);
}

/// Where a span of a scalar's text stands in the source: exactly, unless quoting or folding changed the text.
pub(crate) fn place(node: &Node, text: &str, span: Span, report: &Report<'_>) -> Range<usize> {
    let Some(raw) = report.source.text.get(node.at.clone()) else { return node.at.clone() };
    let base = node.at.start;
    let before = text.get(..span.start.saturating_add(3).min(text.len())).unwrap_or(text);
    let Some(open) = before.rfind("${{") else {
        let trimmed = text.trim();
        let lead = text.len() - text.trim_start().len();
        return match raw.find(trimmed) {
            Some(found) if span.start >= lead => {
                let start = base + found + span.start - lead;
                start..start + (span.end - span.start).min(raw.len())
            }
            _ => node.at.clone(),
        };
    };
    let ordinal = text[..open].matches("${{").count();
    let Some((found, _)) = raw.match_indices("${{").nth(ordinal) else { return node.at.clone() };
    let start = base + found;
    let same = text.get(open..span.end).is_some_and(|part| raw[found..].starts_with(part));
    if same { start + (span.start - open)..start + (span.end - open) } else { start..start + 3 }
}

fn fits(scalar: &Scalar, definition: &Definition) -> bool {
    definition.shapes.iter().any(|shape| match (shape, scalar) {
        (Shape::Any | Shape::Text, _) | (Shape::Null, Scalar::Null) => true,
        (Shape::Bool, Scalar::Bool(_)) | (Shape::Number, Scalar::Number(_)) => true,
        (Shape::Filled, scalar) => !scalar.to_text().is_empty(),
        (Shape::Word(words), Scalar::Text(text)) => words.contains(&text.as_str()),
        _ => false,
    })
}

fn expectation(definition: &Definition) -> String {
    let mut names: Vec<String> = Vec::new();
    for shape in definition.shapes {
        names.push(match shape {
            Shape::Null => "nothing".to_owned(),
            Shape::Bool => "true or false".to_owned(),
            Shape::Number => "a number".to_owned(),
            Shape::Text | Shape::Any => "a text".to_owned(),
            Shape::Filled => "a text that is not empty".to_owned(),
            Shape::Word(words) => words.join(", "),
            Shape::Condition => "a condition".to_owned(),
            Shape::Sequence(_) => "a sequence".to_owned(),
            Shape::Mapping(_) => "a mapping".to_owned(),
        });
    }
    names.dedup();
    format!("expected here: {}", names.join(", or "))
}
