//! The units of systemd that are handed out: systemd itself understands every line of them.

#![allow(clippy::unwrap_used, clippy::panic)]

mod place;

use std::fs;
use std::path::Path;
use std::process::Command;

use place::needs;

/// What systemd says about a unit, which is nothing when all of it is understood. The program stands elsewhere here.
fn said(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    fs::write(&path, text.replace("/usr/bin/caisson", env!("CARGO_BIN_EXE_caisson"))).unwrap();
    let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output().unwrap();
    String::from_utf8_lossy(&output.stderr).lines().filter(|line| line.contains(name)).map(|line| format!("{line}\n")).collect()
}

#[test]
fn systemd_understands_the_units() {
    let there = Command::new("systemd-analyze").arg("--version").output().is_ok();
    if !needs(there, "no systemd-analyze; apt-get install systemd") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for unit in ["controller/caisson-controller.service", "agent/caisson-agent.service"] {
        let text = fs::read_to_string(root.join(unit)).unwrap();
        let name = Path::new(unit).file_name().unwrap().to_str().unwrap();
        assert_eq!(said(folder.path(), name, &text), "", "{unit}");
        let misspelt = text.replacen("LockPersonality=", "LockPersonalty=", 1);
        assert!(said(folder.path(), name, &misspelt).contains("LockPersonalty"), "a slip of the keyboard is not seen");
    }
}
