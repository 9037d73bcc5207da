//! The source tree as steps will see it: a tar of the checkout as it stands, without what git ignores and without credentials.

use std::collections::HashSet;
use std::fs::{File, Metadata};
use std::io::{self, BufWriter, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use caisson_model::id::Digest;
use caisson_model::outcome::{Bytes, Fault};
use sha2::{Digest as _, Sha256};

use crate::git::{self, GitError, Repository};
use crate::regular;
use crate::report::Explained;

/// A history larger than this is left out: unpacking it for every job would cost more than any step needs it.
const LARGEST_HISTORY: u64 = 1 << 30;

/// The step's user and group, inside.
const RUNNER: u64 = 1000;

/// A finished archive.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// Its bytes, from the start.
    pub(crate) file: File,
    /// Its digest.
    pub(crate) digest: Digest,
    /// What was left out, for the person to know.
    pub(crate) notes: Vec<String>,
}

/// A checkout cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    /// git did not answer.
    #[error(transparent)]
    Git(#[from] GitError),
    /// A file cannot be read.
    #[error("cannot read {} for the source archive", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// A file changed while it was read.
    #[error("{} changed while it was read", .0.display())]
    Changed(PathBuf),
    /// The archive cannot be written.
    #[error("cannot write the source archive to {}", .0.display())]
    Write(PathBuf, #[source] io::Error),
}

impl Explained for SourceError {
    fn fault(&self) -> Fault {
        match self {
            SourceError::Git(error) => error.fault(),
            SourceError::Changed(_) => Fault::User,
            SourceError::Read(..) | SourceError::Write(..) => Fault::Environment,
        }
    }

    fn help(&self) -> Option<String> {
        match self {
            SourceError::Git(error) => error.help(),
            SourceError::Changed(_) => Some("run again when nothing writes to the checkout".to_owned()),
            SourceError::Read(..) => Some("make it readable, or let .gitignore exclude it".to_owned()),
            SourceError::Write(..) => None,
        }
    }
}

/// Packs the checkout in `directory` (absolute, without symbolic links). The archive is made in `scratch` and has no name there.
pub(crate) fn pack(directory: &Path, repository: Option<&Repository>, scratch: &Path) -> Result<Snapshot, SourceError> {
    let written = |error| SourceError::Write(scratch.to_owned(), error);
    let file = tempfile::tempfile_in(scratch).map_err(written)?;
    let sink = Hashing { inner: BufWriter::with_capacity(1 << 20, file), hash: Sha256::new() };
    let mut builder = tar::Builder::new(sink);
    // Holes would need an archive format that not every tar reads.
    builder.sparse(false);
    let mut packer = Packer { root: directory.to_owned(), scratch: scratch.to_owned(), builder, real: HashSet::new(), notes: Vec::new() };
    match repository {
        Some(git) => {
            packer.git_files(Path::new(""), git)?;
            if git.top {
                packer.history(git)?;
            }
        }
        None => packer.every_file()?,
    }
    let Packer { builder, notes, .. } = packer;
    let Hashing { inner, hash } = builder.into_inner().map_err(written)?;
    let mut file = inner.into_inner().map_err(|error| written(error.into_error()))?;
    file.rewind().map_err(written)?;
    Ok(Snapshot { file, digest: Digest(hash.finalize().into()), notes })
}

struct Hashing {
    inner: BufWriter<File>,
    hash: Sha256,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hash.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

struct Packer {
    root: PathBuf,
    scratch: PathBuf,
    builder: tar::Builder<Hashing>,
    /// Folders below the root that are real ones and no symbolic links.
    real: HashSet<PathBuf>,
    notes: Vec<String>,
}

impl Packer {
    /// The files that git lists in a folder, which appears as `prefix`.
    fn git_files(&mut self, prefix: &Path, git: &Repository) -> Result<(), SourceError> {
        for path in git.files()? {
            let inside = prefix.join(&path);
            let absolute = self.root.join(&inside);
            let Ok(metadata) = std::fs::symlink_metadata(&absolute) else {
                // Listed and not there: deleted in the work tree, which is archived as it stands.
                continue;
            };
            if !self.reachable(&inside) {
                self.notes.push(format!("{} is left out: a folder on the way to it is a symbolic link", inside.display()));
            } else if !metadata.is_dir() {
                self.entry(&absolute, &inside, &metadata)?;
            } else if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
                self.notes.push(format!("{} is left out: it is a repository of its own that is not a submodule", inside.display()));
            } else if let Some(module) = Repository::of(&absolute)?.filter(|module| module.top) {
                self.git_files(&inside, &module)?;
            }
        }
        Ok(())
    }

    /// Every file of a folder that no git knows.
    fn every_file(&mut self) -> Result<(), SourceError> {
        let root = self.root.clone();
        let walk = walkdir::WalkDir::new(&root).min_depth(1).sort_by_file_name().into_iter();
        for entry in walk.filter_entry(|entry| entry.file_name() != ".git") {
            let entry = entry.map_err(|error| {
                let path = error.path().unwrap_or(&root).to_owned();
                SourceError::Read(path, error.into())
            })?;
            let metadata = entry.metadata().map_err(|error| SourceError::Read(entry.path().to_owned(), error.into()))?;
            let inside = entry.path().strip_prefix(&root).unwrap_or(entry.path()).to_owned();
            self.entry(entry.path(), &inside, &metadata)?;
        }
        Ok(())
    }

    /// Whether every folder on the way to `path` is a real one: a checkout could otherwise name files of its reader's.
    fn reachable(&mut self, path: &Path) -> bool {
        if path.components().any(|part| !matches!(part, Component::Normal(_))) {
            return false;
        }
        let mut folder = PathBuf::new();
        for part in path.parent().into_iter().flat_map(Path::components) {
            folder.push(part);
            if !self.real.contains(&folder) {
                let is_real = std::fs::symlink_metadata(self.root.join(&folder)).is_ok_and(|metadata| metadata.is_dir());
                if !is_real {
                    return false;
                }
                self.real.insert(folder.clone());
            }
        }
        true
    }

    fn entry(&mut self, from: &Path, inside: &Path, metadata: &Metadata) -> Result<(), SourceError> {
        let kind = metadata.file_type();
        if kind.is_file() {
            let file = regular::open(from).map_err(|error| SourceError::Read(from.to_owned(), error))?;
            let opened = file.metadata().map_err(|error| SourceError::Read(from.to_owned(), error))?;
            // It is the file that was looked at and not one that was put in its place.
            if (opened.dev(), opened.ino()) != (metadata.dev(), metadata.ino()) {
                return Err(SourceError::Changed(from.to_owned()));
            }
            let mut header = header(tar::EntryType::Regular, opened.permissions().mode() & 0o777 | 0o400, opened.mtime());
            header.set_size(opened.len());
            let mut content = Exactly { inner: file.take(opened.len()), left: opened.len(), broken: false };
            return match self.builder.append_data(&mut header, inside, &mut content) {
                Ok(()) if content.left == 0 => Ok(()),
                Ok(()) => Err(SourceError::Changed(from.to_owned())),
                Err(error) if content.broken => Err(SourceError::Read(from.to_owned(), error)),
                Err(error) => Err(self.unwritten(error)),
            };
        }
        if kind.is_symlink() {
            let target = std::fs::read_link(from).map_err(|error| SourceError::Read(from.to_owned(), error))?;
            let mut header = header(tar::EntryType::Symlink, 0o777, metadata.mtime());
            header.set_size(0);
            return self.builder.append_link(&mut header, inside, target).map_err(|error| self.unwritten(error));
        }
        if kind.is_dir() {
            let mut header = header(tar::EntryType::Directory, metadata.permissions().mode() & 0o777 | 0o700, metadata.mtime());
            header.set_size(0);
            return self.builder.append_data(&mut header, inside, io::empty()).map_err(|error| self.unwritten(error));
        }
        self.notes.push(format!("{} is left out: it is neither a file, nor a folder, nor a symbolic link", inside.display()));
        Ok(())
    }

    fn own(&mut self, inside: &str, content: &[u8]) -> Result<(), SourceError> {
        let mut header = header(tar::EntryType::Regular, 0o644, 0);
        header.set_size(content.len() as u64);
        self.builder.append_data(&mut header, inside, content).map_err(|error| self.unwritten(error))
    }

    fn unwritten(&self, error: io::Error) -> SourceError {
        SourceError::Write(self.scratch.clone(), error)
    }

    /// A `.git` with history, branches, tags and index, and with a configuration of our own: the real one may hold
    /// credentials and names of programs, hooks are programs, and the reflog tells what a person did.
    fn history(&mut self, git: &Repository) -> Result<(), SourceError> {
        let left_out = |reason: &str| format!("the history (.git) is left out: {reason}; steps see the files alone");
        let borrowed = std::fs::metadata(git.common_dir.join("objects/info/alternates")).is_ok_and(|metadata| metadata.len() > 0);
        if borrowed {
            self.notes.push(left_out("it borrows objects from another repository"));
            return Ok(());
        }
        let format = git.setting("extensions.objectFormat")?.unwrap_or_else(|| "sha1".to_owned());
        if git.setting("extensions.refStorage")?.is_some_and(|storage| storage != "files") {
            self.notes.push(left_out("its branches are not stored as files"));
            return Ok(());
        }
        let mut parts = Vec::new();
        for folder in ["refs", "objects"] {
            parts.extend(tree(&git.common_dir, folder)?);
        }
        for file in ["packed-refs", "shallow"] {
            parts.extend(single(&git.common_dir, file));
        }
        for file in ["HEAD", "index"] {
            parts.extend(single(&git.git_dir, file));
        }
        let shared = std::fs::read_dir(&git.git_dir).map_err(|error| SourceError::Read(git.git_dir.clone(), error))?;
        let shared = shared.filter_map(Result::ok).filter_map(|entry| entry.file_name().into_string().ok());
        for file in shared.filter(|name| name.starts_with("sharedindex.")) {
            parts.extend(single(&git.git_dir, &file));
        }
        let size: u64 = parts.iter().map(|(_, _, metadata)| metadata.len()).sum();
        if size > LARGEST_HISTORY {
            self.notes.push(left_out(&format!("it has {}, more than {}", Bytes(size), Bytes(LARGEST_HISTORY))));
            return Ok(());
        }
        for (from, inside, metadata) in parts {
            match self.entry(&from, &Path::new(".git").join(inside), &metadata) {
                // git replaces its files by renaming; a lock or a loose object that has just gone is no part of a commit.
                Err(SourceError::Read(_, error)) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(SourceError::Changed(from));
                }
                result => result?,
            }
        }
        let mut config = format!(
            "[core]\n\trepositoryformatversion = {}\n\tfilemode = true\n\tbare = false\n\tlogallrefupdates = true\n",
            u8::from(format != "sha1")
        );
        if format != "sha1" {
            config.push_str(&format!("[extensions]\n\tobjectformat = {}\n", if format == "sha256" { "sha256" } else { "sha1" }));
        }
        if let Some(url) = git.setting("remote.origin.url")?.as_deref().and_then(git::without_credentials) {
            config.push_str(&format!("[remote \"origin\"]\n\turl = \"{url}\"\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n"));
        }
        self.own(".git/config", config.as_bytes())
    }
}

type Part = (PathBuf, PathBuf, Metadata);

fn tree(root: &Path, folder: &str) -> Result<Vec<Part>, SourceError> {
    let mut parts = Vec::new();
    for entry in walkdir::WalkDir::new(root.join(folder)).sort_by_file_name() {
        let entry = entry.map_err(|error| SourceError::Read(root.join(folder), error.into()))?;
        let metadata = entry.metadata().map_err(|error| SourceError::Read(entry.path().to_owned(), error.into()))?;
        let inside = entry.path().strip_prefix(root).unwrap_or(entry.path()).to_owned();
        let temporary = entry.file_name().to_string_lossy().starts_with("tmp_") || inside.extension().is_some_and(|e| e == "lock");
        // The stash is what a person put aside, not what is checked out.
        if (metadata.is_file() || metadata.is_dir()) && !temporary && !inside.starts_with("refs/stash") {
            parts.push((entry.path().to_owned(), inside, metadata));
        }
    }
    Ok(parts)
}

fn single(root: &Path, name: &str) -> Option<Part> {
    let path = root.join(name);
    let metadata = std::fs::symlink_metadata(&path).ok().filter(Metadata::is_file)?;
    Some((path, PathBuf::from(name), metadata))
}

fn header(kind: tar::EntryType, mode: u32, modified: i64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(u64::try_from(modified).unwrap_or(0));
    header.set_uid(RUNNER);
    header.set_gid(RUNNER);
    header
}

/// A file as it is read into the archive: tells afterwards whether it was as long as it had been, and whether reading failed.
struct Exactly {
    inner: io::Take<File>,
    left: u64,
    broken: bool,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = self.inner.read(buffer);
        match &result {
            Ok(count) => self.left = self.left.saturating_sub(*count as u64),
            Err(error) => self.broken |= error.kind() != io::ErrorKind::Interrupted,
        }
        result
    }
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
