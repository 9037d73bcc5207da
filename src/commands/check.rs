//! `caisson check`: whether the workflows of a checkout are right, without running anything.

use std::fmt::Write as _;

use caisson_controller::planning::References;
use caisson_model::diagnostic::{Diagnostic, DiagnosticKind, Severity};
use serde_json::{Value, json};

use crate::cli;
use crate::commands::surroundings;
use crate::config::{Config, Flags};
use crate::report::{self, Exit, Failure};
use crate::selection::{self, WorkflowFile};
use crate::{mirror, policy_file, sarif};

/// What was found in one file.
struct Checked {
    file: String,
    findings: Vec<Diagnostic>,
}

impl Checked {
    fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }
}

/// Checks every workflow and says what is wrong.
pub(crate) fn run(arguments: &cli::Check) -> Result<Exit, Failure> {
    let (environment, root) = surroundings();
    let config = Config::settle(&environment, root, Flags::default())?;
    let checkout = selection::checkout(&arguments.directory)?;
    let policy = policy_file::choose(arguments.policy.as_deref(), Some(&checkout), &config.places)?;
    policy.warning.iter().for_each(|warning| report::warn(warning));
    let (limits, files, mirror) = (policy.rules.checking_limits(), selection::library(&checkout), mirror::read(&config)?);
    let library = References { files: &files, mirror: &mirror, rules: &policy.rules };
    let checked: Vec<Checked> = selection::files(&checkout, &arguments.workflows)?
        .into_iter()
        .map(|WorkflowFile { file, text }| {
            let findings = match text {
                Ok(text) => caisson_workflow::check(&text, &file, &limits, &library),
                Err(reason) => vec![unreadable(&file, reason)],
            };
            Checked { file, findings: findings.into_iter().map(put_off).collect() }
        })
        .collect();
    let wrong = checked.iter().any(|checked| checked.count(Severity::Error) > 0);
    let text = if arguments.sarif {
        let findings: Vec<&Diagnostic> = checked.iter().flat_map(|checked| &checked.findings).collect();
        format!("{}\n", sarif::log(&findings))
    } else if arguments.json {
        format!("{}\n", shown_json(&checked, !wrong))
    } else {
        shown(&checked)
    };
    let printed = report::print(&text);
    Ok(if wrong { Exit::USAGE.worst(printed) } else { printed })
}

fn unreadable(file: &str, reason: String) -> Diagnostic {
    Diagnostic {
        severity: Severity::Error,
        kind: DiagnosticKind::Language,
        location: caisson_model::step::Location { file: file.to_owned(), line: 0, column: 0 },
        width: 0,
        construct: String::new(),
        message: format!("this is no workflow: {reason}"),
        help: "write a workflow as UTF-8 text of at most 1 MiB".to_owned(),
        excerpt: String::new(),
    }
}

/// What is right in the language and refused when it is to run is no mistake of the text: it is said here, and stops only a run.
fn put_off(finding: Diagnostic) -> Diagnostic {
    let of_a_construct =
        finding.construct.starts_with("on.") || finding.construct.ends_with(".uses") || finding.construct.ends_with(".secrets");
    let later = finding.kind == DiagnosticKind::Unsupported || (finding.kind == DiagnosticKind::Security && of_a_construct);
    if finding.severity == Severity::Error && later {
        let message = format!("{} (a run is refused)", finding.message);
        return Diagnostic { severity: Severity::Warning, message, ..finding };
    }
    finding
}

fn shown(checked: &[Checked]) -> String {
    let mut text: String =
        checked.iter().flat_map(|checked| &checked.findings).map(|finding| format!("{}\n", report::finding_text(finding))).collect();
    // Writing to a String cannot fail.
    for one in checked {
        let _ = match (one.count(Severity::Error), one.count(Severity::Warning)) {
            (0, 0) => writeln!(text, "{}: good", one.file),
            (0, warnings) => writeln!(text, "{}: good, {}", one.file, counted(warnings, "warning")),
            (errors, warnings) => writeln!(text, "{}: {}, {}", one.file, counted(errors, "error"), counted(warnings, "warning")),
        };
    }
    text
}

fn counted(count: usize, word: &str) -> String {
    if count == 1 { format!("1 {word}") } else { format!("{count} {word}s") }
}

fn shown_json(checked: &[Checked], ok: bool) -> Value {
    let files: Vec<Value> = checked
        .iter()
        .map(|checked| {
            let errors = checked.count(Severity::Error);
            json!({"file": checked.file, "ok": errors == 0, "errors": errors, "warnings": checked.count(Severity::Warning)})
        })
        .collect();
    let findings: Vec<Value> = checked.iter().flat_map(|checked| &checked.findings).map(finding_json).collect();
    json!({"ok": ok, "files": files, "findings": findings})
}

/// A finding as programs read it.
pub(crate) fn finding_json(finding: &Diagnostic) -> Value {
    json!({
        "severity": finding.severity,
        "kind": finding.kind,
        "file": finding.location.file,
        "line": finding.location.line,
        "column": finding.location.column,
        "width": finding.width,
        "construct": finding.construct,
        "message": finding.message,
        "help": finding.help,
        "excerpt": finding.excerpt,
    })
}
