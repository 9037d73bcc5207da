//! A finding about a workflow or a policy: plain data, so that it crosses the wire and becomes text, JSON or SARIF at the edge.

use serde::{Deserialize, Serialize};

use crate::step::Location;

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// Whether it stops the run.
    pub severity: Severity,
    /// Which kind of rule found it.
    pub kind: DiagnosticKind,
    /// Where it is. Line 0 means the file as a whole.
    pub location: Location,
    /// How many characters of that line are meant; 0 when unknown.
    pub width: u32,
    /// The construct by name: `jobs.test.steps[2].uses`.
    pub construct: String,
    /// What is wrong: lower case, no full stop.
    pub message: String,
    /// What to do about it; empty when there is nothing to add.
    pub help: String,
    /// The text of the line, for a code frame; empty when there is none.
    pub excerpt: String,
}

/// Whether a finding stops the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Said and shown; the run goes on.
    Warning,
    /// Nothing runs.
    Error,
}

/// Which kind of rule found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiagnosticKind {
    /// The text is no workflow of the language.
    Language,
    /// The language has it, caisson does not support it.
    Unsupported,
    /// The language has it, caisson refuses it for safety.
    Security,
    /// The controller's policy refuses it.
    Policy,
    /// It does not fit what was asked for on submission: an unknown event, input or job.
    Submission,
}
