//! What a sandbox sees of the host's system: a read-only view of its programs and libraries, an allow-list of `/etc`, and
//! own files in place of those that tell about the host or its people. No home, no `/root`, no `/tmp`, `/var`, `/run`,
//! `/srv`, `/opt`, no socket.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use caisson_sandbox::host::Mode;
use caisson_sandbox::spec::{Access, HostOwner, Mount, SeenAs, Upper};

use crate::host::HostRules;
pub use crate::view::entries::upper_name;
use crate::view::entries::{ETC, matching, own_files};

mod entries;
mod root;

/// How the system directories appear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum System {
    /// Read-only.
    ReadOnly,
    /// Writable through an overlay, the host's root seen as the namespace's: for a step that is root of its namespace, and
    /// for the later steps of its job.
    Overlay(Upper),
}

/// What a step that is root of its namespace cannot do where the launcher has no root's powers, and what to do about it; `None`
/// where it can do everything that root of a namespace can.
pub const fn limits_of_root(mode: Mode) -> Option<&'static str> {
    match mode {
        Mode::Root => None,
        Mode::Subordinate { .. } => Some(
            "without root outside, new packages can be installed, but files that this host has can be neither changed nor \
             replaced: for that run caisson as root, or install what the host lacks alone",
        ),
        Mode::Single => Some(
            "with a single id, new packages can be installed whose files all belong to root; other owners do not exist here, and files \
             that this host has can be neither changed nor replaced: run caisson as root, or give this user subordinate ids \
             (`usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER`)",
        ),
    }
}

/// The user inside.
pub const USER: &str = "runner";
/// The home directory inside.
pub const HOME: &str = "/home/runner";
/// Where programs are looked up when nobody says otherwise.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Files of `/etc` up to this size are copied into the sandbox's root, which costs less than a mount each.
const SMALL: u64 = 32 << 10;

/// How long a look at `/etc` is good for: steps come in crowds, and each is described twice. What changes there meanwhile is seen by
/// the next one, as if that had changed a moment later.
const FRESH: Duration = Duration::from_secs(1);

/// The last look at `/etc`, and when it was.
static SEEN: Mutex<Option<(Instant, Vec<Mount>)>> = Mutex::new(None);

/// The mounts of the system view. Looks at the host's disk to see what is there.
pub fn mounts(host: &HostRules, system: &System) -> Vec<Mount> {
    let mut mounts = Vec::new();
    for name in DIRECTORIES {
        let path = Path::new("/").join(name);
        let Ok(metadata) = path.symlink_metadata() else { continue };
        if metadata.is_symlink() {
            if let Ok(to) = std::fs::read_link(&path) {
                mounts.push(Mount::Symlink { target: path, to });
            }
        } else if metadata.is_dir() {
            mounts.push(directory(path, name, system));
        }
    }
    if let System::Overlay(Upper::Directory(area)) = system {
        // The job has an `/etc` of its own, a copy of what follows.
        mounts.extend(crate::apt::mounts(area));
        mounts.extend(shown_paths(host));
        return mounts;
    }
    if let System::Overlay(upper) = system {
        mounts.extend(root::mounts(upper));
        mounts.extend(shown_paths(host));
        return mounts;
    }
    mounts.push(Mount::Directory { target: "/etc".into(), mode: 0o755 });
    mounts.extend(etc());
    for (target, content) in own_files() {
        mounts.push(Mount::File { target: target.into(), content: content.into(), mode: 0o644 });
    }
    mounts.extend(shown_paths(host));
    mounts
}

/// The entries of the host's `/etc`, as they were a moment ago.
fn etc() -> Vec<Mount> {
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    match &*seen {
        Some((at, mounts)) if at.elapsed() < FRESH => mounts.clone(),
        _ => {
            let mounts: Vec<Mount> = matching(&ETC).iter().filter_map(|path| entry(path)).collect();
            *seen = Some((Instant::now(), mounts.clone()));
            mounts
        }
    }
}

/// Further paths of the host that every step sees.
fn shown_paths(host: &HostRules) -> Vec<Mount> {
    let paths = host.ro_paths.iter().cloned().chain(host.index.directories());
    paths.filter(|path| path.exists() && !already_visible(path)).map(read_only).collect()
}

/// System directories that a host may have at its root. Those that are links stay links.
pub const DIRECTORIES: [&str; 7] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];

/// A read-only bind of a host path at its own place.
pub fn read_only(path: PathBuf) -> Mount {
    Mount::Bind { source: path.clone(), target: path, access: Access::ReadOnly, owner: None }
}

/// Whether the system view shows this path anyway.
pub fn already_visible(path: &Path) -> bool {
    DIRECTORIES.iter().any(|name| path.starts_with(Path::new("/").join(name)))
        || ETC.iter().filter(|name| !name.ends_with('*')).any(|name| path.starts_with(Path::new("/etc").join(name)))
}

fn directory(path: PathBuf, name: &str, system: &System) -> Mount {
    match system {
        System::ReadOnly => read_only(path),
        System::Overlay(upper) => {
            let upper = match upper {
                // Each directory has an upper of its own below the job's.
                Upper::Directory(below) => Upper::Directory(below.join(upper_name(name))),
                Upper::Memory { size, inodes } => Upper::Memory { size: *size, inodes: *inodes },
            };
            let owner = Some(HostOwner { uid: 0, gid: 0, seen_as: SeenAs::Root });
            Mount::Overlay { lower: vec![path.clone()], upper, target: path, owner }
        }
    }
}

/// An entry of `/etc`: a link as a link when it leads to what the view shows, else what it leads to, and only if that is a
/// regular file or a directory.
fn entry(path: &Path) -> Option<Mount> {
    let metadata = path.symlink_metadata().ok()?;
    if metadata.is_symlink() {
        let to = std::fs::read_link(path).ok()?;
        let full = std::fs::canonicalize(path).ok()?;
        if already_visible(&full) {
            return Some(Mount::Symlink { target: path.to_owned(), to });
        }
        return (full.is_file() && full.starts_with("/etc")).then(|| shown(full, path.to_owned()));
    }
    (metadata.is_dir() || metadata.is_file()).then(|| shown(path.to_owned(), path.to_owned()))
}

fn shown(source: PathBuf, target: PathBuf) -> Mount {
    let small = source.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() <= SMALL);
    match small.then(|| std::fs::read(&source)) {
        Some(Ok(content)) => Mount::File { target, content, mode: 0o644 },
        _ => Mount::Bind { source, target, access: Access::ReadOnly, owner: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn targets(mounts: &[Mount]) -> Vec<String> {
        mounts
            .iter()
            .map(|mount| match mount {
                Mount::Bind { target, .. }
                | Mount::Overlay { target, .. }
                | Mount::Tmpfs { target, .. }
                | Mount::Directory { target, .. }
                | Mount::File { target, .. }
                | Mount::System { target, .. }
                | Mount::Symlink { target, .. } => target.display().to_string(),
            })
            .collect()
    }

    #[test]
    fn the_view_shows_programs_and_nothing_private() {
        let host = HostRules::of_this_host(&BTreeMap::new());
        let mounts = mounts(&host, &System::ReadOnly);
        let targets = targets(&mounts);
        assert!(targets.contains(&"/usr".to_owned()));
        for private in
            ["/root", "/home", "/var", "/run", "/srv", "/mnt", "/tmp", "/etc/shadow", "/etc/ssh", "/etc/ssl", "/etc/ssl/private", "/etc"]
        {
            let bound = mounts.iter().any(|mount| matches!(mount, Mount::Bind { target, .. } if target == Path::new(private)));
            assert!(!bound, "{private}");
        }
        assert!(mounts.iter().all(|mount| !matches!(mount, Mount::Bind { access: Access::ReadWrite, .. })));
        let mut unique = targets.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), targets.len(), "no target twice");
    }
}
