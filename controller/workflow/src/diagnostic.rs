//! Collecting findings about a text, and writing one for a person.

use std::collections::BTreeSet;
use std::ops::Range;

use caisson_model::diagnostic::{Diagnostic, DiagnosticKind, Severity};
use caisson_model::step::Location;

use crate::limits::{Limits, SecurityRule};

/// How many findings one file may yield; the rest says nothing new and would only cost memory.
const MAX_FINDINGS: usize = 200;

/// A text with its name, able to say on which line and column a byte stands.
#[derive(Clone, Debug)]
pub(crate) struct Source<'t> {
    pub(crate) file: &'t str,
    pub(crate) text: &'t str,
    lines: Vec<usize>,
}

impl<'t> Source<'t> {
    pub(crate) fn new(file: &'t str, text: &'t str) -> Source<'t> {
        let breaks = text.bytes().enumerate().filter(|&(_, byte)| byte == b'\n').map(|(at, _)| at + 1);
        Source { file, text, lines: std::iter::once(0).chain(breaks).collect() }
    }

    /// Line and column of a byte, both from 1; the column counts characters.
    pub(crate) fn position(&self, byte: usize) -> (u32, u32) {
        let mut byte = byte.min(self.text.len());
        while !self.text.is_char_boundary(byte) {
            byte -= 1;
        }
        let line = self.lines.partition_point(|&start| start <= byte) - 1;
        let column = self.text[self.lines[line]..byte].chars().count();
        (line as u32 + 1, column as u32 + 1)
    }

    pub(crate) fn location(&self, byte: usize) -> Location {
        let (line, column) = self.position(byte);
        Location { file: self.file.to_owned(), line, column }
    }

    /// The whole line on which a byte stands, without its break.
    fn line(&self, byte: usize) -> &'t str {
        let line = self.lines.partition_point(|&start| start <= byte.min(self.text.len())) - 1;
        let end = self.lines.get(line + 1).copied().unwrap_or(self.text.len());
        self.text[self.lines[line]..end].trim_end_matches(['\n', '\r'])
    }
}

/// The findings about one source, in the order in which they were found.
#[derive(Debug)]
pub(crate) struct Report<'t> {
    pub(crate) source: Source<'t>,
    pub(crate) findings: Vec<Diagnostic>,
    /// Rules of safety that do not count.
    allow: BTreeSet<SecurityRule>,
}

/// What is said about a place; see [`Report::add`].
pub(crate) struct Finding<'s> {
    pub(crate) kind: DiagnosticKind,
    pub(crate) severity: Severity,
    /// The construct by name, such as `jobs.test.steps[2].uses`.
    pub(crate) construct: &'s str,
    pub(crate) message: String,
    pub(crate) help: String,
}

impl<'t> Report<'t> {
    pub(crate) fn new(source: Source<'t>) -> Report<'t> {
        Report { source, findings: Vec::new(), allow: BTreeSet::new() }
    }

    /// The same, for a source under the same limits.
    pub(crate) fn under(source: Source<'t>, limits: &Limits) -> Report<'t> {
        Report { source, findings: Vec::new(), allow: limits.allow.clone() }
    }

    /// Whether nothing more is taken up: what costs time to find need not be looked for.
    pub(crate) fn is_full(&self) -> bool {
        self.findings.len() >= MAX_FINDINGS
    }

    /// Adds a finding about the bytes `at`.
    pub(crate) fn add(&mut self, at: Range<usize>, finding: Finding<'_>) {
        if self.is_full() {
            return;
        }
        let first_line = self.source.text.get(at.clone()).unwrap_or_default().lines().next().unwrap_or_default();
        let diagnostic = Diagnostic {
            severity: finding.severity,
            kind: finding.kind,
            location: self.source.location(at.start),
            width: first_line.trim_end().chars().count() as u32,
            construct: finding.construct.to_owned(),
            message: finding.message,
            help: finding.help,
            // A line of a hostile file may be as long as the file; no frame needs more than this.
            excerpt: self.source.line(at.start).chars().take(500).collect(),
        };
        if !self.findings.contains(&diagnostic) {
            self.findings.push(diagnostic);
        }
    }

    /// The text is no workflow of the language.
    pub(crate) fn language(&mut self, at: Range<usize>, construct: &str, message: impl Into<String>, help: impl Into<String>) {
        self.error(DiagnosticKind::Language, at, construct, message, help);
    }

    /// The language has it, caisson does not.
    pub(crate) fn unsupported(&mut self, at: Range<usize>, construct: &str, message: impl Into<String>, help: impl Into<String>) {
        self.error(DiagnosticKind::Unsupported, at, construct, message, help);
    }

    /// The language has it, caisson refuses it for safety, unless the policy switches the rule off: then it is said aloud.
    pub(crate) fn security(&mut self, rule: SecurityRule, at: Range<usize>, construct: &str, message: impl Into<String>, help: &str) {
        let (severity, help) = match self.allow.contains(&rule) {
            true => (Severity::Warning, format!("the policy allows it ({}); better: {help}", rule.as_str())),
            false => (Severity::Error, format!("{help}; a policy allows it with `allow = [\"{}\"]` under [workflow]", rule.as_str())),
        };
        self.add(at, Finding { kind: DiagnosticKind::Security, severity, construct, message: message.into(), help });
    }

    /// It runs, but not all of what it says has an effect.
    pub(crate) fn warning(&mut self, at: Range<usize>, construct: &str, message: impl Into<String>, help: impl Into<String>) {
        let (message, help) = (message.into(), help.into());
        let (kind, severity) = (DiagnosticKind::Unsupported, Severity::Warning);
        self.add(at, Finding { kind, severity, construct, message, help });
    }

    pub(crate) fn error(
        &mut self,
        kind: DiagnosticKind,
        at: Range<usize>,
        construct: &str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let (message, help) = (message.into(), help.into());
        self.add(at, Finding { kind, severity: Severity::Error, construct, message, help });
    }

    /// Takes over the findings about another source.
    pub(crate) fn absorb(&mut self, other: Report<'_>) {
        let room = MAX_FINDINGS.saturating_sub(self.findings.len());
        let new: Vec<Diagnostic> = other.findings.into_iter().filter(|finding| !self.findings.contains(finding)).collect();
        self.findings.extend(new.into_iter().take(room));
    }

    /// The findings, sorted by place.
    pub(crate) fn into_findings(mut self) -> Vec<Diagnostic> {
        // Those of this file first, then those of the files that it calls.
        let file = self.source.file;
        self.findings.sort_by(|a, b| {
            let key = |finding: &Diagnostic| (finding.location.file != file, finding.location.line, finding.location.column);
            key(a).cmp(&key(b))
        });
        self.findings
    }
}

/// Whether any of these stops a run.
pub fn any_error(findings: &[Diagnostic]) -> bool {
    findings.iter().any(|finding| finding.severity == Severity::Error)
}

/// A finding as a person reads it: place, reason, the line with the part marked, the next action. Several lines, with a
/// line break after the last; no colours.
pub fn render(finding: &Diagnostic) -> String {
    use std::fmt::Write;

    let severity = match finding.severity {
        Severity::Warning => "warning",
        Severity::Error => "error",
    };
    let place = &finding.location;
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = match place.line {
        0 => writeln!(out, "{}: {severity}: {}", place.file, finding.message),
        line => writeln!(out, "{}:{line}:{}: {severity}: {}", place.file, place.column, finding.message),
    };
    if place.line > 0 && !finding.excerpt.is_empty() {
        let number = place.line.to_string();
        let margin = " ".repeat(number.len());
        let before: String = finding.excerpt.chars().take(place.column.saturating_sub(1) as usize).collect();
        // Tabs stay tabs, so that the mark stands under what it marks whatever their width.
        let indent: String = before.chars().map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        let room = finding.excerpt.chars().count().saturating_sub(before.chars().count()).max(1);
        let marks = "^".repeat((finding.width.max(1) as usize).min(room));
        let _ = writeln!(out, " {margin} |\n {number} | {}\n {margin} | {indent}{marks}", finding.excerpt);
    }
    if !finding.construct.is_empty() {
        let _ = writeln!(out, "   in: {}", finding.construct);
    }
    if !finding.help.is_empty() {
        let _ = writeln!(out, "   do: {}", finding.help);
    }
    out
}
