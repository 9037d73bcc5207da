//! Findings in the Static Analysis Results Interchange Format, version 2.1.0, which forges and editors read.

use caisson_model::diagnostic::{Diagnostic, DiagnosticKind, Severity};
use serde_json::{Value, json};

/// The rules by which results are grouped.
const RULES: [(DiagnosticKind, &str, &str); 5] = [
    (DiagnosticKind::Language, "language", "The text is no workflow of the language."),
    (DiagnosticKind::Unsupported, "unsupported", "The language has it, caisson does not support it."),
    (DiagnosticKind::Security, "security", "The language has it, caisson refuses it for safety."),
    (DiagnosticKind::Policy, "policy", "The policy refuses it."),
    (DiagnosticKind::Submission, "submission", "It does not fit what was asked for."),
];

/// The log of one run of the check.
pub(crate) fn log(findings: &[&Diagnostic]) -> Value {
    let rules: Vec<Value> = RULES.iter().map(|(_, id, text)| json!({"id": id, "shortDescription": {"text": text}})).collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {"name": "caisson", "version": env!("CARGO_PKG_VERSION"), "rules": rules}},
            "columnKind": "unicodeCodePoints",
            "results": findings.iter().map(|finding| result(finding)).collect::<Vec<_>>(),
        }],
    })
}

fn result(finding: &Diagnostic) -> Value {
    let rule = RULES.iter().position(|(kind, ..)| *kind == finding.kind).unwrap_or_default();
    let level = match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let mut text = finding.message.clone();
    if !finding.help.is_empty() {
        text.push_str(&format!("; do: {}", finding.help));
    }
    let mut place = json!({"artifactLocation": {"uri": uri(&finding.location.file)}});
    if finding.location.line > 0 {
        let (line, column) = (finding.location.line, finding.location.column.max(1));
        let mut region = json!({"startLine": line, "startColumn": column, "endLine": line, "endColumn": column + finding.width.max(1)});
        if !finding.excerpt.is_empty() {
            region["snippet"] = json!({"text": finding.excerpt});
        }
        place["region"] = region;
    }
    let mut location = json!({"physicalLocation": place});
    if !finding.construct.is_empty() {
        location["logicalLocations"] = json!([{"fullyQualifiedName": finding.construct}]);
    }
    json!({"ruleId": RULES[rule].1, "ruleIndex": rule, "level": level, "message": {"text": text}, "locations": [location]})
}

/// A path as a reference: what a URI has other uses for is written as its number.
fn uri(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => out.push(byte.into()),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_has_its_rule_its_level_and_its_place() {
        let finding = Diagnostic {
            severity: Severity::Warning,
            kind: DiagnosticKind::Security,
            location: caisson_model::step::Location { file: "a b.yml".into(), line: 3, column: 7 },
            width: 4,
            construct: "jobs.a".into(),
            message: "no".into(),
            help: "yes".into(),
            excerpt: "      text".into(),
        };
        let log = log(&[&finding]);
        let result = &log["runs"][0]["results"][0];
        assert_eq!(
            (&result["ruleId"], &result["level"], &result["message"]["text"]),
            (&json!("security"), &json!("warning"), &json!("no; do: yes"))
        );
        assert_eq!(log["runs"][0]["tool"]["driver"]["rules"][2]["id"], "security");
        let place = &result["locations"][0]["physicalLocation"];
        assert_eq!(place["artifactLocation"]["uri"], "a%20b.yml");
        assert_eq!((&place["region"]["startLine"], &place["region"]["endColumn"]), (&json!(3), &json!(11)));
    }
}
