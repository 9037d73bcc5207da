//! The system as one command sees it that is root of its namespace: everything that a package manager reads and writes
//! belongs to it, may be changed, and is gone with it. The host's own files are layers below, never written. What a job keeps
//! from step to step is not made here.

use std::path::{Path, PathBuf};

use caisson_sandbox::spec::{Access, HostOwner, Mount, SeenAs, SystemEntry, Upper};

use crate::view::entries::{ETC, matching, own_files, upper_name};

/// Of `/etc`, beside what every step sees: how packages are found and configured. What could hold a password is left out.
const ETC_OF_ROOT: [&str; 12] = [
    "adduser.conf",
    "apt/apt.conf.d",
    "apt/keyrings",
    "apt/preferences.d",
    "apt/sources.list",
    "apt/sources.list.d",
    "apt/trusted.gpg.d",
    "debconf.conf",
    "deluser.conf",
    "dpkg",
    "login.defs",
    "pam.d",
];

/// Directories of `/var` that packages expect.
const VAR: [(&str, u32); 12] = [
    ("backups", 0o755),
    ("cache", 0o755),
    ("cache/apt", 0o755),
    ("cache/apt/archives", 0o755),
    ("cache/apt/archives/partial", 0o755),
    ("cache/debconf", 0o755),
    ("lib", 0o755),
    ("lib/apt", 0o755),
    ("lib/apt/lists", 0o755),
    ("lib/apt/lists/partial", 0o755),
    ("log", 0o755),
    ("tmp", 0o1777),
];

/// Where packages are registered.
const DPKG: &str = "/var/lib/dpkg";

/// Files larger than this are not configuration.
const LARGEST: u64 = 4 << 20;
/// Bytes and files of what such a step may write to `/etc` and `/var` in memory.
const MEMORY: (u64, u64) = (4 << 30, 500_000);

/// The mounts of `/etc`, `/var` and `/run`.
pub(super) fn mounts(upper: &Upper) -> Vec<Mount> {
    let mut mounts = Vec::new();
    for name in ["etc", "var"] {
        let target = Path::new("/").join(name);
        mounts.push(match upper {
            Upper::Directory(below) => Mount::Bind { source: below.join(upper_name(name)), target, access: Access::ReadWrite, owner: None },
            Upper::Memory { .. } => Mount::Tmpfs { target, size: MEMORY.0, inodes: MEMORY.1, mode: 0o755 },
        });
    }
    mounts.push(Mount::Tmpfs { target: "/run".into(), size: 256 << 20, inodes: 100_000, mode: 0o755 });
    for (target, content) in own_files() {
        if !matches!(target, "/etc/passwd" | "/etc/group") {
            entry(&mut mounts, target.into(), SystemEntry::File { content: content.into(), mode: 0o644 });
        }
    }
    accounts(&mut mounts);
    for path in matching(ETC.iter().chain(&ETC_OF_ROOT)) {
        copy(&mut mounts, &path);
    }
    for (name, mode) in VAR {
        entry(&mut mounts, Path::new("/var").join(name), SystemEntry::Directory { mode });
    }
    if Path::new(DPKG).is_dir() {
        let upper = match upper {
            Upper::Directory(below) => Upper::Directory(below.join(upper_name("dpkg"))),
            Upper::Memory { size, inodes } => Upper::Memory { size: *size, inodes: *inodes },
        };
        let owner = Some(HostOwner { uid: 0, gid: 0, seen_as: SeenAs::Root });
        mounts.push(Mount::Overlay { lower: vec![DPKG.into()], upper, target: DPKG.into(), owner });
    }
    mounts
}

fn entry(mounts: &mut Vec<Mount>, target: PathBuf, what: SystemEntry) {
    mounts.push(Mount::System { target, what });
}

/// The accounts of the system, whose names packages and their registry go by, and none of a person.
fn accounts(mounts: &mut Vec<Mount>) {
    for (path, field) in [("/etc/passwd", 2), ("/etc/group", 2)] {
        let host = std::fs::read_to_string(path).unwrap_or_default();
        let own = own_files().into_iter().find(|(target, _)| *target == path).map(|(_, content)| content).unwrap_or_default();
        let mut text = own.to_owned();
        let name = |line: &str| line.split(':').next().unwrap_or_default().to_owned();
        let known: Vec<String> = own.lines().map(name).collect();
        for line in host.lines() {
            let fields: Vec<&str> = line.split(':').collect();
            let id = fields.get(field).and_then(|id| id.parse::<u32>().ok());
            if id.is_some_and(|id| id < 1000) && !known.contains(&name(line)) {
                // A group's members are people.
                let cut = if path == "/etc/group" { format!("{}:x:{}:", fields[0], fields[2]) } else { line.to_owned() };
                text.push_str(&cut);
                text.push('\n');
            }
        }
        entry(mounts, path.into(), SystemEntry::File { content: text.into(), mode: 0o644 });
    }
    for (path, content) in [("/etc/shadow", "root:*:1::::::\nrunner:*:1::::::\n"), ("/etc/gshadow", "root:*::\nrunner:*::\n")] {
        entry(mounts, path.into(), SystemEntry::File { content: content.into(), mode: 0o640 });
    }
}

/// A file, a link, or a directory with everything below it.
fn copy(mounts: &mut Vec<Mount>, path: &Path) {
    let Ok(metadata) = path.symlink_metadata() else { return };
    if metadata.is_symlink() {
        if let Ok(to) = std::fs::read_link(path) {
            entry(mounts, path.to_owned(), SystemEntry::Link { to });
        }
    } else if metadata.is_dir() {
        entry(mounts, path.to_owned(), SystemEntry::Directory { mode: 0o755 });
        let mut below: Vec<PathBuf> = std::fs::read_dir(path).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
        below.sort();
        below.iter().for_each(|path| copy(mounts, path));
    } else if metadata.is_file() && metadata.len() <= LARGEST && world_readable(&metadata) {
        let Ok(content) = std::fs::read(path) else { return };
        if !holds_credentials(path, &content) {
            use std::os::unix::fs::PermissionsExt;
            entry(mounts, path.to_owned(), SystemEntry::File { content, mode: metadata.permissions().mode() & 0o755 });
        }
    }
}

fn world_readable(metadata: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    metadata.permissions().mode() & 0o004 != 0
}

/// Whether a file of apt names a user in an address, as private mirrors have it.
fn holds_credentials(path: &Path, content: &[u8]) -> bool {
    if !path.starts_with("/etc/apt") {
        return false;
    }
    let text = String::from_utf8_lossy(content);
    text.split_whitespace().any(|word| {
        let authority = word.split_once("://").map_or("", |(_, rest)| rest.split('/').next().unwrap_or_default());
        authority.contains('@')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_with_users_stay_outside() {
        let apt = Path::new("/etc/apt/sources.list.d/x.list");
        assert!(holds_credentials(apt, b"deb https://me:secret@mirror.example.com/debian bookworm main"));
        assert!(!holds_credentials(apt, b"deb [signed-by=/x] https://mirror.example.com/debian bookworm main # a@b"));
    }

    #[test]
    fn people_are_not_among_the_accounts() {
        let mut mounts = Vec::new();
        accounts(&mut mounts);
        for mount in &mounts {
            let Mount::System { target, what: SystemEntry::File { content, .. } } = mount else { continue };
            let text = String::from_utf8_lossy(content);
            for line in text.lines().filter(|_| target.ends_with("passwd")) {
                let id: u32 = line.split(':').nth(2).and_then(|id| id.parse().ok()).unwrap_or(u32::MAX);
                assert!(id <= 1000 || id == 65534, "{line}");
            }
            assert!(text.starts_with("root:"), "{text}");
        }
        assert_eq!(mounts.len(), 4);
    }
}
