//! The official cases: every one must give the same kind and value, or be refused at the same stage.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

use std::path::{Path, PathBuf};

use caisson_expr::{Contexts, ErrorKind, ExprError, Expression, Function, Value, evaluate};
use serde_json::Value as Json;

/// The pure functions: the official cases know no others.
const FUNCTIONS: [Function; 8] = [
    Function::Case,
    Function::Contains,
    Function::EndsWith,
    Function::Format,
    Function::FromJson,
    Function::Join,
    Function::StartsWith,
    Function::ToJson,
];

fn cases() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance/expressions");
    folder.is_dir().then_some(folder)
}

fn run(case: &Json) -> Result<Value, ExprError> {
    let none = serde_json::Map::new();
    let given = case.get("contexts").and_then(Json::as_object).unwrap_or(&none);
    let names: Vec<&str> = given.keys().map(String::as_str).collect();
    let contexts = given.iter().fold(Contexts::new(), |contexts, (name, value)| contexts.with(name, Value::from_json(value)));
    let expression = Expression::parse(case["expr"].as_str().unwrap())?;
    expression.check(&names, &FUNCTIONS)?;
    evaluate(&expression, &contexts)
}

fn difference(case: &Json) -> Option<String> {
    let got = run(case);
    if let Some(expected) = case.get("err") {
        let kind = expected.get("kind").and_then(Json::as_str);
        return match got {
            Err(error) if kind.is_none_or(|kind| kind == error.kind.as_str()) => None,
            Err(error) => Some(format!("expected a {kind:?} error, got {}: {error}", error.kind)),
            Ok(value) => Some(format!("expected a {kind:?} error, got {value:?}")),
        };
    }
    let expected = &case["result"];
    match got {
        Ok(value) if expected["kind"] == value.kind().as_str() && value == Value::from_json(&expected["value"]) => None,
        other => Some(format!("expected {expected}, got {other:?}")),
    }
}

#[test]
fn official_cases_agree() {
    let Some(folder) = cases() else {
        eprintln!("skipped: the official cases are not beside this checkout (../shared/conformance/expressions)");
        return;
    };
    let mut ran = 0;
    let mut differences = Vec::new();
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "json")) {
        let groups: Json = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        for (group, cases) in groups.as_object().unwrap() {
            for case in cases.as_array().unwrap() {
                ran += 1;
                if let Some(difference) = difference(case) {
                    differences.push(format!("{}: {group}: {}: {difference}", file.display(), case["expr"]));
                }
            }
        }
    }
    eprintln!("{ran} official cases ran");
    assert!(ran >= 500, "only {ran} cases were found");
    assert!(differences.is_empty(), "{} of {ran} cases differ:\n{}", differences.len(), differences.join("\n"));
}

#[test]
fn errors_carry_the_stage_and_the_place() {
    for (text, kind, start) in [
        ("1 = 2", ErrorKind::Lexing, 2),
        ("1 < )", ErrorKind::Parsing, 4),
        ("a.b && nope()", ErrorKind::Parsing, 7),
        ("a == 'x' b", ErrorKind::Parsing, 9),
    ] {
        let error = Expression::parse(text).unwrap_err();
        assert_eq!((error.kind, error.span.start), (kind, start), "{text}: {error}");
    }
    let failing = Expression::parse("1 == 1 && fromJSON('{')").unwrap();
    let error = evaluate(&failing, &Contexts::new()).unwrap_err();
    assert_eq!((error.kind, error.span.start), (ErrorKind::Evaluation, 10));
}
