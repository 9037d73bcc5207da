#![allow(clippy::unwrap_used, clippy::panic)]
use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::process::Command;

use super::*;

fn git(directory: &Path, arguments: &[&str]) {
    let identity =
        ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "init.defaultBranch=main", "-c", "protocol.file.allow=always"];
    let output = Command::new("git").arg("-C").arg(directory).args(identity).args(arguments).output().unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn write(directory: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = directory.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

/// What an archive holds: path -> content, or the target of a link after `-> `.
fn packed(directory: &Path) -> (BTreeMap<String, String>, Vec<String>) {
    let scratch = tempfile::tempdir().unwrap();
    let directory = directory.canonicalize().unwrap();
    let snapshot = pack(&directory, Repository::of(&directory).unwrap().as_ref(), scratch.path()).unwrap();
    let mut bytes = Vec::new();
    { &snapshot.file }.read_to_end(&mut bytes).unwrap();
    assert_eq!(Digest(Sha256::digest(&bytes).into()), snapshot.digest);
    let mut entries = BTreeMap::new();
    for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        let mut text = Vec::new();
        entry.read_to_end(&mut text).unwrap();
        let text = match entry.link_name().unwrap() {
            Some(target) => format!("-> {}", target.display()),
            None => String::from_utf8_lossy(&text).into_owned(),
        };
        entries.insert(path, text);
    }
    (entries, snapshot.notes)
}

#[test]
fn the_work_tree_is_taken_as_it_stands_without_what_is_ignored() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &[(".gitignore", "*.secret\n"), ("kept.py", "old"), ("gone.py", "x"), ("deep/er/a.py", "a")]);
    git(dir.path(), &["init", "-q"]);
    git(dir.path(), &["add", "."]);
    git(dir.path(), &["commit", "-qm", "first"]);
    write(dir.path(), &[("kept.py", "new"), ("untracked.py", "u"), ("my.secret", "hush")]);
    std::fs::remove_file(dir.path().join("gone.py")).unwrap();
    let (entries, _) = packed(dir.path());
    let text = |path: &str| entries.get(path).map(String::as_str);
    assert_eq!((text("kept.py"), text("untracked.py"), text("deep/er/a.py")), (Some("new"), Some("u"), Some("a")));
    assert_eq!((text("gone.py"), text("my.secret")), (None, None));
    // From a folder below the top, only what lies there, and no history.
    let (below, _) = packed(&dir.path().join("deep"));
    assert_eq!(below.keys().collect::<Vec<_>>(), ["er/a.py"]);
}

#[test]
fn the_history_comes_without_credentials_hooks_or_configuration() {
    let dir = tempfile::tempdir().unwrap();
    git(dir.path(), &["init", "-q"]);
    write(dir.path(), &[("a", "1")]);
    git(dir.path(), &["add", "."]);
    git(dir.path(), &["commit", "-qm", "first"]);
    git(dir.path(), &["tag", "v1"]);
    git(dir.path(), &["remote", "add", "origin", "https://user:hunter2@example.com/team/shop.git"]);
    git(dir.path(), &["config", "http.extraheader", "AUTHORIZATION: hunter2"]);
    write(dir.path(), &[(".git/hooks/post-checkout", "hunter2"), (".git/credentials", "hunter2")]);
    let (entries, notes) = packed(dir.path());
    assert!(entries.values().all(|text| !text.contains("hunter2")), "{entries:?}");
    assert!(entries.keys().all(|path| !path.contains("hooks") && !path.contains("credentials")));
    assert!(entries[".git/config"].contains("url = \"https://example.com/team/shop.git\""), "{}", entries[".git/config"]);
    assert_eq!(notes, Vec::<String>::new());
    // What came is a repository that git reads.
    let copy = tempfile::tempdir().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let directory = dir.path().canonicalize().unwrap();
    let snapshot = pack(&directory, Repository::of(&directory).unwrap().as_ref(), scratch.path()).unwrap();
    tar::Archive::new(snapshot.file).unpack(copy.path()).unwrap();
    let output = Command::new("git").arg("-C").arg(copy.path()).args(["describe", "--tags"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "v1\n");
    git(copy.path(), &["fsck", "--strict"]);
}

#[test]
fn a_folder_that_became_a_link_does_not_lead_out_of_the_checkout() {
    let outside = tempfile::tempdir().unwrap();
    write(outside.path(), &[("key", "private")]);
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &[("a/key", "public"), ("b", "b")]);
    git(dir.path(), &["init", "-q"]);
    git(dir.path(), &["add", "."]);
    std::fs::remove_dir_all(dir.path().join("a")).unwrap();
    symlink(outside.path(), dir.path().join("a")).unwrap();
    symlink("b", dir.path().join("link")).unwrap();
    let (entries, notes) = packed(dir.path());
    assert!(entries.values().all(|text| !text.contains("private")), "{entries:?}");
    assert_eq!(entries["link"], "-> b");
    assert!(notes.iter().any(|note| note.contains("a/key")) || !entries.contains_key("a/key"), "{notes:?}");
}

#[test]
fn submodules_come_along_and_foreign_repositories_are_named() {
    let module = tempfile::tempdir().unwrap();
    write(module.path(), &[("m.py", "m")]);
    for arguments in [&["init", "-q"][..], &["add", "."], &["commit", "-qm", "m"]] {
        git(module.path(), arguments);
    }
    let dir = tempfile::tempdir().unwrap();
    git(dir.path(), &["init", "-q"]);
    git(dir.path(), &["submodule", "-q", "add", &module.path().display().to_string(), "sub"]);
    let foreign = dir.path().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    write(&foreign, &[("f.py", "f")]);
    for arguments in [&["init", "-q"][..], &["add", "."], &["commit", "-qm", "f"]] {
        git(&foreign, arguments);
    }
    let (entries, notes) = packed(dir.path());
    assert_eq!(entries["sub/m.py"], "m");
    assert!(!entries.contains_key("sub/.git") && !entries.contains_key("foreign/f.py"));
    assert!(notes.iter().any(|note| note.contains("foreign")), "{notes:?}");
}

#[test]
fn without_git_every_file_is_taken_and_no_configuration_of_git_is() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &[("a/b", "1"), (".env", "2")]);
    std::fs::create_dir(dir.path().join("empty")).unwrap();
    std::fs::set_permissions(dir.path().join("a/b"), std::fs::Permissions::from_mode(0o750)).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(120));
    write(dir.path(), &[(&long, "long")]);
    let (entries, notes) = packed(dir.path());
    drop(socket);
    assert_eq!((entries["a/b"].as_str(), entries[".env"].as_str(), entries[&long].as_str()), ("1", "2", "long"));
    assert!(entries.contains_key("empty/") || entries.contains_key("empty"));
    assert!(notes.iter().any(|note| note.contains("socket")), "{notes:?}");
}

#[test]
fn what_a_repository_configures_is_not_executed() {
    let dir = tempfile::tempdir().unwrap();
    git(dir.path(), &["init", "-q"]);
    write(dir.path(), &[("a", "1"), ("evil.sh", "#!/bin/sh\ntouch \"$(dirname \"$0\")/executed\"\n")]);
    std::fs::set_permissions(dir.path().join("evil.sh"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let evil = dir.path().join("evil.sh").display().to_string();
    git(dir.path(), &["config", "core.fsmonitor", &evil]);
    // The control: git alone does execute it.
    let output = Command::new("git").arg("-C").arg(dir.path()).args(["ls-files", "--others"]).output().unwrap();
    assert!(output.status.success());
    assert!(dir.path().join("executed").exists(), "the control shows nothing");
    std::fs::remove_file(dir.path().join("executed")).unwrap();
    packed(dir.path());
    assert!(!dir.path().join("executed").exists());
}
