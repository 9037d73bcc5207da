//! `caisson selftest`: every attack is refused in every mode that can be reached here, and the suite can see: each attack
//! succeeds where nothing stops it.

#![allow(clippy::unwrap_used, clippy::panic)]

mod place;

use std::collections::BTreeSet;

use place::{Place, needs};
use serde_json::Value;

fn selftest(words: &[&str]) -> (i32, Value, String) {
    let place = Place::new();
    let mut all = vec!["selftest", "--json"];
    all.extend(words);
    let output = place.caisson(&all).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let object = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {errors}"));
    (output.status.code().unwrap(), object, errors)
}

fn told(object: &Value) -> String {
    let bad = object["attacks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|attack| !matches!(attack["result"].as_str(), Some("refused" | "skipped")) || attack["control"]["result"] == "failed");
    bad.map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_attack_is_refused_and_has_been_seen_to_succeed() {
    let (code, object, errors) = selftest(&["--verify-attacks"]);
    assert_eq!(code, 0, "{}\n{errors}", told(&object));
    assert_eq!(object["ok"], true);
    let attacks = object["attacks"].as_array().unwrap();
    let ids: BTreeSet<&str> = attacks.iter().map(|attack| attack["id"].as_str().unwrap()).collect();
    assert!(ids.len() > 200, "{}", ids.len());
    for family in ["files", "processes", "kernel", "network", "information", "resources", "survival", "forging"] {
        assert!(attacks.iter().any(|attack| attack["family"] == family && attack["result"] == "refused"), "{family}");
    }
    let steps: BTreeSet<&str> = attacks.iter().map(|attack| attack["step"].as_str().unwrap()).collect();
    assert_eq!(steps, ["exit", "root", "tool", "user"].into());
    let shown = object["controls"]["shown"].as_u64().unwrap();
    // Without the host's root most of the kernel's surface cannot be shown.
    let least = if nix::unistd::geteuid().is_root() { 180 } else { 60 };
    assert!(shown >= least, "{shown} of {} controls", ids.len());
    assert_eq!(object["controls"]["failed"], 0);
    let skipped = object["counts"]["skipped"].as_u64().unwrap();
    assert!(skipped * 10 < attacks.len() as u64, "{skipped} of {}", attacks.len());
}

#[test]
fn as_root_the_modes_of_ordinary_users_are_tried_too() {
    if !needs(nix::unistd::geteuid().is_root(), "only root can become somebody else") {
        return;
    }
    let (code, object, errors) = selftest(&["--mode", "root,single", "--attack", "files,processes.first"]);
    assert_eq!(code, 0, "{}\n{errors}", told(&object));
    assert_eq!(object["modes"], serde_json::json!(["root", "single"]));
    let settings: BTreeSet<String> = object["settings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|setting| format!("{}/{}", setting["mode"].as_str().unwrap(), setting["step"].as_str().unwrap()))
        .collect();
    assert_eq!(settings.len(), 8, "{settings:?}");
}

#[test]
fn an_attack_that_does_not_exist_is_a_usage_error() {
    let place = Place::new();
    let output = place.caisson(&["selftest", "--attack", "nonsense"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("families are files"));
}
