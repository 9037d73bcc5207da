//! What must not be pasted into a script: text that a stranger chose, and secrets.

use caisson_expr::{Path, Segment, Span, Template};
use caisson_model::diagnostic::DiagnosticKind;

use crate::diagnostic::Report;
use crate::limits::SecurityRule;
use crate::parse;
use crate::yaml::Node;

/// Fields of the `github` context that whoever opens a pull request, issue or comment fills in. A star stands for any
/// one segment.
const STRANGERS: &[&[&str]] = &[
    &["head_ref"],
    &["ref"],
    &["ref_name"],
    &["event", "ref"],
    &["event", "issue", "title"],
    &["event", "issue", "body"],
    &["event", "issue", "labels", "*", "name"],
    &["event", "issue", "milestone", "title"],
    &["event", "pull_request", "title"],
    &["event", "pull_request", "body"],
    &["event", "pull_request", "labels", "*", "name"],
    &["event", "pull_request", "milestone", "title"],
    &["event", "pull_request", "head", "ref"],
    &["event", "pull_request", "head", "label"],
    &["event", "pull_request", "head", "repo", "default_branch"],
    &["event", "pull_request", "head", "repo", "description"],
    &["event", "comment", "body"],
    &["event", "review", "body"],
    &["event", "review_comment", "body"],
    &["event", "discussion", "title"],
    &["event", "discussion", "body"],
    &["event", "label", "name"],
    &["event", "label", "description"],
    &["event", "milestone", "title"],
    &["event", "milestone", "description"],
    &["event", "release", "name"],
    &["event", "release", "body"],
    &["event", "release", "tag_name"],
    &["event", "pages", "*", "page_name"],
    &["event", "commits", "*", "message"],
    &["event", "commits", "*", "author", "email"],
    &["event", "commits", "*", "author", "name"],
    &["event", "head_commit", "message"],
    &["event", "head_commit", "author", "email"],
    &["event", "head_commit", "author", "name"],
    &["event", "head_commit", "committer", "email"],
    &["event", "head_commit", "committer", "name"],
    &["event", "merge_group", "head_commit", "message"],
    &["event", "workflow_run", "head_branch"],
    &["event", "workflow_run", "display_title"],
    &["event", "workflow_run", "head_commit", "message"],
    &["event", "workflow_run", "pull_requests", "*", "head", "ref"],
    &["event", "client_payload", "*"],
    &["event", "changes", "title", "from"],
    &["event", "changes", "body", "from"],
];

/// Whether what the path reads may hold text that a stranger chose: one of [`STRANGERS`], or something that holds one.
pub(crate) fn is_strangers(path: &Path) -> bool {
    path.root.eq_ignore_ascii_case("github")
        && STRANGERS.iter().any(|field| {
            path.segments.iter().zip(field.iter()).all(|(segment, name)| match segment {
                Segment::Name(segment) => *name == "*" || segment.eq_ignore_ascii_case(name),
                Segment::Star | Segment::Computed => true,
            })
        })
}

/// Whether the path reads a secret.
fn is_secret(path: &Path) -> bool {
    let token = |segment: &Segment| matches!(segment, Segment::Name(name) if name.eq_ignore_ascii_case("token"));
    path.root.eq_ignore_ascii_case("secrets") || (path.root.eq_ignore_ascii_case("github") && path.segments.first().is_some_and(token))
}

/// Refuses both in the text of a `run:`. What is only compared or searched may stay: its text does not come out.
pub(crate) fn check_script(script: &Node, path: &str, report: &mut Report<'_>) {
    let Some(text) = script.text() else { return };
    let Ok(template) = Template::parse(&text) else { return };
    for (expression, offset) in template.expressions() {
        for flow in expression.flows() {
            let written = &expression.text()[flow.span.start..flow.span.end];
            let whole = expression.text().trim();
            let span = Span::new(flow.span.start + offset, flow.span.end + offset);
            let at = parse::place(script, &text, span, report);
            let name = variable(&flow);
            let fix = format!("add `env: {{ {name}: \"${{{{ {whole} }}}}\" }}` to the step and write \"${name}\" in the script");
            if is_strangers(&flow) {
                let message = format!("`{written}` may hold text that a stranger chose, and would be run as part of the script");
                report.security(SecurityRule::UntrustedTextInScripts, at, path, message, &fix);
            } else if is_secret(&flow) {
                let message = format!("`{written}` would be pasted into the script's text, where other processes and logs can see it");
                report.security(SecurityRule::SecretsInScripts, at, path, message, &fix);
            }
        }
    }
}

/// A variable's name for a path: its last plain name, in capitals.
fn variable(path: &Path) -> String {
    let names = path.segments.iter().rev().filter_map(|segment| match segment {
        Segment::Name(name) if name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') => Some(name),
        _ => None,
    });
    let words: Vec<String> = names.take(2).map(|name| name.to_uppercase().replace('-', "_")).collect();
    let name = words.into_iter().rev().collect::<Vec<_>>().join("_");
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) { format!("VALUE{name}") } else { name }
}

/// Refuses the `secrets` context where it is not followed by a name: which secrets a step gets must be readable from the
/// workflow's text.
pub(crate) fn check_secret_names(node: &Node, path: &str, report: &mut Report<'_>) {
    let Some(text) = node.text() else { return };
    let Ok(template) = Template::parse(&text) else { return };
    for (expression, offset) in template.expressions() {
        for used in expression.paths() {
            if used.root.eq_ignore_ascii_case("secrets") && !matches!(used.segments.first(), Some(Segment::Name(_))) {
                let span = Span::new(used.span.start + offset, used.span.end + offset);
                let at = parse::place(node, &text, span, report);
                let message = "the secret is not named in the text, so the step would have to be given all of them";
                let help = "write `secrets.NAME` for each secret that the step needs";
                report.error(DiagnosticKind::Security, at, path, message, help);
            }
        }
    }
}
