//! The same command as an ordinary user: it works through user namespaces, and what does not hold is refused or named.

#![allow(clippy::unwrap_used, clippy::panic)]

mod place;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use place::{Place, Run, needs};
use serde_json::json;

const USER: u32 = 1000;

/// A place that belongs to the user, and the command where that user can execute it.
fn rootless(workflow: &str) -> Option<(Place, PathBuf)> {
    if !needs(nix::unistd::geteuid().is_root(), "only root can become another user; the other tests are the rootless ones then") {
        return None;
    }
    let place = Place::with(workflow);
    let program = place.path().join("caisson");
    fs::copy(env!("CARGO_BIN_EXE_caisson"), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for entry in walkdir::WalkDir::new(place.path()) {
        chown(entry.unwrap().path(), Some(USER), Some(USER)).unwrap();
    }
    Some((place, program))
}

fn as_user(place: &Place, program: &Path, words: &[&str]) -> Command {
    let mut all = vec!["--reuid", "1000", "--regid", "1000", "--clear-groups", "--", program.to_str().unwrap()];
    all.extend(words);
    place.program("setpriv", &all)
}

const WORKFLOW: &str = "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - uses: actions/checkout@v4\n      - name: Who\n        run: id -u; touch mine; cat /proc/self/status | grep -E 'CapEff|NoNewPrivs|Seccomp:'\n";

#[test]
fn what_cannot_be_enforced_is_refused_by_name_and_allowed_by_name() {
    let Some((place, program)) = rootless(WORKFLOW) else { return };
    let doctor = as_user(&place, &program, &["doctor", "--json"]).output().unwrap();
    let facts: serde_json::Value = serde_json::from_slice(&doctor.stdout).unwrap();
    let needed: Vec<&str> = facts["missing"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|lack| lack["needed"] == true)
        .map(|lack| lack["protection"].as_str().unwrap())
        .collect();
    assert_eq!(doctor.status.code(), Some(if needed.is_empty() { 0 } else { 3 }), "{facts}");
    let refused = Run::of(as_user(&place, &program, &["run", "--json"]).output().unwrap());
    if needed.is_empty() {
        refused.expect(0);
        return;
    }
    refused.expect(3);
    for name in &needed {
        assert!(refused.told().contains(&format!("--allow-missing {}", needed.join(","))), "{name}: {}", refused.told());
    }
    let run = Run::of(as_user(&place, &program, &["run", "--json", "--allow-missing", &needed.join(",")]).output().unwrap());
    run.expect(0);
    let log = run.log("a");
    assert!(
        log.contains("1000\n")
            && log.contains("CapEff:\t0000000000000000")
            && log.contains("NoNewPrivs:\t1")
            && log.contains("Seccomp:\t2"),
        "{log}"
    );
    // The lack is a value in the result, never a line of a log only.
    let missing = run.step("a", "Who")["missing"].as_array().unwrap();
    for name in needed {
        assert!(missing.iter().any(|lack| lack["protection"] == name && lack["reason"] != json!("")), "{missing:?}");
    }
}

#[test]
fn settings_in_the_users_file_count() {
    let Some((place, program)) = rootless(WORKFLOW) else { return };
    let folder = place.path().join("home/.config/caisson");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("config.toml"), "allow_missing = ['memory-limit', 'pids-limit']\npids = 500\n").unwrap();
    Run::of(as_user(&place, &program, &["run", "--json"]).output().unwrap()).expect(0);
    let shown = as_user(&place, &program, &["config"]).output().unwrap();
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(text.contains("500") && text.contains("config.toml"), "{text}");
    fs::write(folder.join("config.toml"), "\nallow_mising = []\n").unwrap();
    let refused = Run::of(as_user(&place, &program, &["run", "--json"]).output().unwrap());
    refused.expect(2);
    assert!(refused.errors.contains("line 2") && refused.errors.contains("config.toml"), "{}", refused.errors);
}
