//! `caisson actions`: the mirror of actions that workflows may use without any network.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use caisson_controller::mirror::{self as store, Description, Mirror, MirroredRepository};
use caisson_model::id::Digest;
use caisson_model::outcome::{Bytes, Fault};
use caisson_model::time::Timestamp;
use indexmap::IndexMap;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::cli;
use crate::commands::surroundings;
use crate::config::{Config, Flags};
use crate::mirror;
use crate::report::{self, Exit, Explained, Failure};

/// A description longer than this is none.
const LONGEST: u64 = 1 << 20;
/// The most bytes of an action's repository.
const LARGEST: u64 = 1 << 30;

/// The mirror was not changed.
#[derive(Debug, thiserror::Error)]
enum ActionsError {
    /// The name is none.
    #[error("'{0}' is not OWNER/REPO@REF")]
    Name(String),
    /// The place is none.
    #[error("cannot read {}", .0.display())]
    Place(PathBuf, #[source] io::Error),
    /// git does not have it.
    #[error("cannot take {reference} out of {}: {reason}", place.display())]
    Git {
        /// The revision.
        reference: String,
        /// The repository.
        place: PathBuf,
        /// What git said.
        reason: String,
    },
    /// There is no action in it.
    #[error("{} has no action.yml: it is no repository of actions", .0.display())]
    NoAction(PathBuf),
    /// It cannot be packed.
    #[error("cannot pack {}: {reason}", place.display())]
    Pack {
        /// The directory.
        place: PathBuf,
        /// Why.
        reason: String,
    },
    /// It is not there.
    #[error("the mirror has no {0}")]
    Missing(String),
}

impl Explained for ActionsError {
    fn fault(&self) -> Fault {
        match self {
            ActionsError::Place(..) | ActionsError::Pack { .. } => Fault::Environment,
            _ => Fault::User,
        }
    }

    fn help(&self) -> Option<String> {
        match self {
            ActionsError::Name(_) => Some("write it as workflows do, without a path: actions/stale@v9".to_owned()),
            ActionsError::Place(..) | ActionsError::NoAction(_) => {
                Some("name a checkout or clone of the action's repository with --from; caisson fetches nothing by itself".to_owned())
            }
            ActionsError::Git { .. } => {
                Some("fetch that revision into the clone first, or name a directory that is no repository".to_owned())
            }
            ActionsError::Missing(_) => Some("`caisson actions list` shows what it has".to_owned()),
            ActionsError::Pack { .. } => None,
        }
    }
}

/// Adds, lists or removes.
pub(crate) fn run(arguments: cli::Actions) -> Result<Exit, Failure> {
    let (environment, root) = surroundings();
    let config = Config::settle(&environment, root, Flags { state_dir: arguments.state_dir, ..Flags::default() })?;
    let folder = mirror::folder(&config);
    match arguments.what {
        cli::ActionsCommand::Add { name, from } => add(&name, &from, &folder),
        cli::ActionsCommand::List { json } => list(&mirror::read(&config)?, json),
        cli::ActionsCommand::Remove { name } => {
            let (repository, version) = split(&name)?;
            let removed = Mirror::remove(&folder, &repository, &version).map_err(mirror::Unusable::from)?;
            if !removed {
                return Err(ActionsError::Missing(name).into());
            }
            report::note(&format!("{name} is no longer in the mirror"));
            Ok(Exit::PASSED)
        }
    }
}

fn split(name: &str) -> Result<(String, String), ActionsError> {
    let wrong = || ActionsError::Name(name.to_owned());
    let (repository, version) = name.split_once('@').ok_or_else(wrong)?;
    let legal = |text: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) && text != "." && text != ".."
    };
    let parts: Vec<&str> = repository.split('/').collect();
    let version_is_legal = !version.is_empty() && version.split('/').all(legal);
    match parts[..] {
        [owner, name] if legal(owner) && legal(name) && version_is_legal => Ok((repository.to_lowercase(), version.to_owned())),
        _ => Err(wrong()),
    }
}

fn list(mirror: &Mirror, as_json: bool) -> Result<Exit, Failure> {
    let mut text = String::new();
    // Writing to a String cannot fail.
    for one in mirror.repositories() {
        let actions: Vec<&str> = one.actions.keys().map(|path| if path.is_empty() { "." } else { path.as_str() }).collect();
        if as_json {
            let object = json!({
                "type": "action",
                "name": format!("{}@{}", one.repository, one.version),
                "commit": one.commit,
                "digest": one.tree.to_string(),
                "bytes": one.bytes,
                "from": one.origin,
                "actions": actions,
            });
            let _ = writeln!(text, "{object}");
        } else {
            let commit = one.commit.as_deref().map_or("no commit", |commit| commit.get(..12).unwrap_or(commit));
            let _ = writeln!(text, "{}@{}  {commit}  {}  {}  from {}", one.repository, one.version, one.tree, Bytes(one.bytes), one.origin);
            if actions != ["."] {
                let _ = writeln!(text, "    actions: {}", actions.join(", "));
            }
        }
    }
    if text.is_empty() && !as_json {
        report::note("the mirror is empty; add an action with `caisson actions add OWNER/REPO@REF --from DIR_OR_GIT`");
    }
    Ok(report::print(&text))
}

fn add(name: &str, from: &Path, folder: &Path) -> Result<Exit, Failure> {
    let (repository, version) = split(name)?;
    let place = from.canonicalize().map_err(|error| ActionsError::Place(from.to_owned(), error))?;
    let scratch = tempfile::tempdir().map_err(|error| ActionsError::Place(std::env::temp_dir(), error))?;
    let (tree, commit) = match is_repository(&place) {
        true => {
            let tree = scratch.path().join("tree");
            let commit = check_out(&place, &version, &tree)?;
            (tree, Some(commit))
        }
        false => (place.clone(), None),
    };
    let actions = descriptions(&tree).map_err(|error| ActionsError::Place(tree.clone(), error))?;
    if actions.is_empty() {
        return Err(ActionsError::NoAction(from.to_owned()).into());
    }
    let (digest, bytes) = pack(&tree, folder).map_err(|reason| ActionsError::Pack { place: from.to_owned(), reason })?;
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let added = Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
    let count = actions.len();
    let entry = MirroredRepository {
        repository,
        version,
        commit: commit.clone(),
        tree: digest,
        bytes,
        origin: place.display().to_string(),
        added,
        actions,
    };
    Mirror::add(folder, &entry).map_err(mirror::Unusable::from)?;
    let commit = commit.map(|commit| format!(" at commit {commit}")).unwrap_or_default();
    report::note(&format!("{name}{commit} is pinned as {digest}: {count} actions, {}", Bytes(bytes)));
    Ok(Exit::PASSED)
}

fn is_repository(place: &Path) -> bool {
    place.join(".git").exists() || (place.join("HEAD").is_file() && place.join("objects").is_dir())
}

/// The files of a revision, and the commit that it is.
fn check_out(place: &Path, reference: &str, target: &Path) -> Result<String, ActionsError> {
    let failed = |reason: String| ActionsError::Git { reference: reference.to_owned(), place: place.to_owned(), reason };
    let git = |words: &[&str]| -> Result<std::process::Output, ActionsError> {
        // Nothing of the repository's own configuration may run a program.
        let mut command = std::process::Command::new("git");
        command
            .arg("-C")
            .arg(place)
            .args(["-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "safe.directory=*"])
            .args(words);
        command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_TERMINAL_PROMPT", "0");
        command.stdin(std::process::Stdio::null()).output().map_err(|error| failed(format!("git cannot be executed: {error}")))
    };
    let mut commit = None;
    for name in [
        format!("refs/tags/{reference}"),
        format!("refs/heads/{reference}"),
        format!("refs/remotes/origin/{reference}"),
        reference.to_owned(),
    ] {
        let output = git(&["rev-parse", "--verify", "--quiet", "--end-of-options", &format!("{name}^{{commit}}")])?;
        if output.status.success() {
            commit = Some(String::from_utf8_lossy(&output.stdout).trim().to_owned());
            break;
        }
    }
    let commit = commit.ok_or_else(|| failed("it has no such tag, branch or commit".to_owned()))?;
    let output = git(&["archive", "--format=tar", &commit])?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    std::fs::create_dir(target).map_err(|error| failed(error.to_string()))?;
    let mut archive = tar::Archive::new(&output.stdout[..]);
    archive.set_preserve_permissions(false);
    // The library keeps every entry below the target.
    archive.unpack(target).map_err(|error| failed(error.to_string()))?;
    Ok(commit)
}

/// All `action.yml` of a tree, by their directories.
fn descriptions(tree: &Path) -> io::Result<IndexMap<String, Description>> {
    let mut found = IndexMap::new();
    let walk = walkdir::WalkDir::new(tree).max_depth(6).sort_by_file_name().into_iter();
    for entry in walk.filter_entry(|entry| entry.file_name() != ".git" && entry.file_name() != "node_modules") {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !entry.file_type().is_file() || (name != "action.yml" && name != "action.yaml") {
            continue;
        }
        let inside = entry.path().strip_prefix(tree).unwrap_or(entry.path());
        let directory = inside.parent().map(|path| path.display().to_string()).unwrap_or_default();
        let mut text = String::new();
        File::open(entry.path())?.take(LONGEST).read_to_string(&mut text)?;
        // Where both are, the first name counts, as everywhere.
        found.entry(directory).or_insert(Description { file: inside.display().to_string(), text });
    }
    Ok(found)
}

/// Packs a tree into the mirror's blobs. The same tree always has the same digest.
fn pack(tree: &Path, folder: &Path) -> Result<(Digest, u64), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let blobs = store::blobs(folder);
    std::fs::create_dir_all(&blobs).map_err(|error| text(&error))?;
    let mut part = tempfile::NamedTempFile::new_in(&blobs).map_err(|error| text(&error))?;
    let mut builder = tar::Builder::new(Hashing { inner: part.as_file_mut(), hash: Sha256::new(), bytes: 0 });
    builder.mode(tar::HeaderMode::Deterministic);
    builder.follow_symlinks(false);
    for entry in walkdir::WalkDir::new(tree).min_depth(1).sort_by_file_name().into_iter().filter_entry(|entry| entry.file_name() != ".git")
    {
        let entry = entry.map_err(|error| text(&error))?;
        let inside = entry.path().strip_prefix(tree).map_err(|error| text(&error))?;
        builder.append_path_with_name(entry.path(), inside).map_err(|error| text(&error))?;
        if builder.get_ref().bytes > LARGEST {
            return Err(format!("it is larger than {}", Bytes(LARGEST)));
        }
    }
    let Hashing { hash, bytes, .. } = builder.into_inner().map_err(|error| text(&error))?;
    let digest = Digest(hash.finalize().into());
    let path = caisson_controller::blobs::path_below(&blobs, digest);
    std::fs::create_dir_all(path.parent().unwrap_or(&blobs)).map_err(|error| text(&error))?;
    part.as_file().sync_all().map_err(|error| text(&error))?;
    part.persist(path).map_err(|error| text(&error))?;
    Ok((digest, bytes))
}

struct Hashing<'f> {
    inner: &'f mut File,
    hash: Sha256,
    bytes: u64,
}

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hash.update(&bytes[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_repositories() {
        assert_eq!(split("Acme/Tools@v1").ok(), Some(("acme/tools".to_owned(), "v1".to_owned())));
        assert_eq!(split("a/b@release/v2").ok(), Some(("a/b".to_owned(), "release/v2".to_owned())));
        for name in ["a@v1", "a/b", "a/b/c@v1", "a/b@", "../b@v1", "a/b@../x", "a/b@v1@v2", "a b/c@v1"] {
            assert!(split(name).is_err(), "{name}");
        }
    }
}
