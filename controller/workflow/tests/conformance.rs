//! The official cases of the workflow language: what must be accepted is accepted, what must be refused is refused.
//! Only findings of kind language count: what caisson does not support is not wrong.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use caisson_model::diagnostic::{Diagnostic, DiagnosticKind, Severity};
use caisson_workflow::{DefaultPermissions, Limits, check};

/// How many of the cases that the reference parser supports, and of the others, agree at least.
const FLOOR_REFERENCE: usize = 50;
const FLOOR_OTHERS: usize = 48;
/// How many of the lines that the cases give have a finding.
const FLOOR_LINES: usize = 56;

fn folder() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance/workflows");
    folder.is_dir().then_some(folder)
}

struct Case {
    file: String,
    text: String,
    called: BTreeMap<String, String>,
    limits: Limits,
    expected: serde_json::Value,
}

fn case(path: &Path) -> Case {
    let whole = std::fs::read_to_string(path).unwrap();
    let mut parts: Vec<String> = vec![String::new()];
    for line in whole.lines() {
        if line.trim_end() == "---" {
            parts.push(String::new());
        } else {
            let part = parts.last_mut().unwrap();
            part.push_str(line);
            part.push('\n');
        }
    }
    let expected = serde_json::from_str(&parts.pop().unwrap()).unwrap();
    let options = parts.remove(0);
    let option = |name: &str| {
        let value = options.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.map(|value| value.trim().to_owned())
    };
    let number = |name: &str, default: usize| option(name).map_or(default, |value| value.parse().unwrap());
    let defaults = Limits::default();
    let limits = Limits {
        file_characters: number("max-file-size", defaults.file_characters),
        depth: number("max-depth", defaults.depth),
        jobs: number("max-job-limit", defaults.jobs),
        object_bytes: number("max-result-size", defaults.object_bytes),
        default_permissions: match option("permissions-policy").as_deref() {
            Some("LimitedRead") => DefaultPermissions::Read,
            _ => DefaultPermissions::Write,
        },
        ..defaults
    };
    let text = parts.remove(0);
    let called = parts.chunks(2).map(|pair| (pair[0].trim().to_owned(), pair[1].clone())).collect();
    let name = path.file_name().unwrap().to_string_lossy();
    Case { file: format!(".github/workflows/{name}"), text, called, limits, expected }
}

fn language_errors(case: &Case) -> Vec<Diagnostic> {
    let findings = check(&case.text, &case.file, &case.limits, &case.called);
    let language = |finding: &Diagnostic| finding.kind == DiagnosticKind::Language && finding.severity == Severity::Error;
    findings.into_iter().filter(language).collect()
}

/// The lines that the expected messages give.
fn lines(expected: &serde_json::Value) -> Vec<u32> {
    let messages = expected["errors"].as_array().into_iter().flatten().filter_map(|error| error["Message"].as_str());
    messages
        .filter_map(|message| {
            let (_, after) = message.split_once("(Line: ")?;
            after.split(',').next()?.parse().ok()
        })
        .collect()
}

#[test]
fn official_cases_agree() {
    let Some(folder) = folder() else {
        eprintln!("skipped: the official cases are not beside this checkout (../shared/conformance/workflows)");
        return;
    };
    let skipped = std::fs::read_to_string(folder.join("skipped-by-the-reference-parser.txt")).unwrap();
    let skipped: Vec<&str> = skipped.lines().map(str::trim).collect();
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yml"));
    files.sort();
    let (mut reference, mut others, mut lines_given, mut lines_equal) = ([0, 0], [0, 0], 0, 0);
    let mut differences = Vec::new();
    for file in &files {
        let case = case(file);
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let errors = language_errors(&case);
        let refused = case.expected.get("errors").is_some();
        let agrees = refused != errors.is_empty();
        let group = if skipped.contains(&name.as_str()) { &mut others } else { &mut reference };
        group[1] += 1;
        group[0] += usize::from(agrees);
        let found: Vec<String> = errors.iter().map(|error| format!("{}: {}", error.location.line, error.message)).collect();
        if !agrees {
            differences.push(format!("{name}: expected {}, found {found:?}", case.expected["errors"]));
        }
        for line in lines(&case.expected) {
            lines_given += 1;
            if errors.iter().any(|error| error.location.line == line) {
                lines_equal += 1;
            } else if agrees {
                differences.push(format!("{name}: line {line} of {} is not among {found:?}", case.expected["errors"]));
            }
        }
    }
    eprintln!(
        "reference {}/{}, others {}/{}, lines {lines_equal}/{lines_given}\n{}",
        reference[0],
        reference[1],
        others[0],
        others[1],
        differences.join("\n")
    );
    assert!(files.len() >= 90, "only {} cases were found", files.len());
    let agree = reference[0] >= FLOOR_REFERENCE && others[0] >= FLOOR_OTHERS && lines_equal >= FLOOR_LINES;
    assert!(agree, "fewer cases agree than before");
}
