//! What users rely on in the language, case by case: each file of `semantics/` says what it must print (`#=`) and how it must end
//! (`#!`). `semantics/compare.py` runs the same files with another implementation of the language.

#![allow(clippy::unwrap_used, clippy::panic)]

mod place;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use place::Place;

#[test]
fn every_case_prints_what_it_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/semantics");
    let place = Place::new();
    let mut cases: BTreeMap<String, (Vec<String>, String)> = BTreeMap::new();
    for entry in walkdir::WalkDir::new(&folder).into_iter().map(Result::unwrap).filter(|entry| entry.file_type().is_file()) {
        let inside = entry.path().strip_prefix(&folder).unwrap().display().to_string();
        if inside.ends_with(".py") {
            continue;
        }
        let text = fs::read_to_string(entry.path()).unwrap();
        if inside.starts_with("actions/") {
            place.write(&format!(".github/{inside}"), &text);
            continue;
        }
        let mut expected: Vec<String> = text.lines().filter_map(|line| line.strip_prefix("#= ")).map(str::to_owned).collect();
        expected.sort();
        let outcome = text.lines().find_map(|line| line.strip_prefix("#! ")).unwrap_or("success");
        cases.insert(format!(".github/workflows/{inside}"), (expected, outcome.to_owned()));
        place.write(&format!(".github/workflows/{inside}"), &text);
    }
    assert!(cases.len() >= 40, "{}", cases.len());
    let run = place.run(&[]);
    run.expect(1);
    let mut files: BTreeMap<u64, String> = BTreeMap::new();
    let mut outcomes: BTreeMap<String, String> = BTreeMap::new();
    for object in run.of_type("run") {
        let file = object["file"].as_str().unwrap().to_owned();
        files.insert(object["id"].as_u64().unwrap(), file.clone());
        if let Some(outcome) = object["outcome"].as_str() {
            outcomes.insert(file, outcome.to_owned());
        }
    }
    let mut said: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for object in run.of_type("log") {
        // Jobs run side by side: within a case only what was said counts, and not in which order jobs said it.
        if let Some(line) = object["text"].as_str().and_then(|text| text.strip_prefix("=> ")) {
            said.entry(files[&object["run"].as_u64().unwrap()].clone()).or_default().push(line.to_owned());
        }
    }
    let mut wrong = Vec::new();
    for (file, (expected, outcome)) in &cases {
        let mut found = said.remove(file).unwrap_or_default();
        found.sort();
        if found != *expected || outcomes.get(file) != Some(outcome) {
            wrong.push(format!("{file}: {expected:?} {outcome} was expected, this is {found:?} {:?}", outcomes.get(file)));
        }
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), run.errors);
}
