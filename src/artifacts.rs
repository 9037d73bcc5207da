//! What the jobs of a run kept, brought to this machine. The content was written by steps: only regular files and directories
//! are taken out of it, each by its own name below the artifact's directory, and no link is followed.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use caisson_model::artifact::{Artifact, refusal};
use caisson_model::id::{Digest, RunId};
use caisson_model::outcome::Fault;
use caisson_proto::api::{ApiError, ClientApi};
use futures_util::StreamExt;
use sha2::{Digest as _, Sha256};

use crate::report::Explained;

/// Where artifacts go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// They stay where they are and are only listed.
    Nowhere,
    /// A directory of the user's: each artifact by its name.
    Named(PathBuf),
    /// A directory of our own: each by its run and its name.
    ByRun(PathBuf),
}

/// An artifact, and where it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fetched {
    /// The run.
    pub(crate) run: RunId,
    /// The artifact.
    pub(crate) artifact: Artifact,
    /// Its directory; `None` when it was not brought here.
    pub(crate) path: Option<PathBuf>,
}

/// An artifact cannot be brought here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArtifactError {
    /// A call failed.
    #[error("cannot fetch the artifacts of run {0}")]
    Call(RunId, #[source] ApiError),
    /// A directory or file cannot be written.
    #[error("cannot write the artifact {name} to {}", path.display())]
    Write {
        /// The artifact.
        name: String,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what it is said to be.
    #[error("the artifact {name} is not usable: {reason}")]
    Unusable {
        /// The artifact.
        name: String,
        /// Why.
        reason: String,
    },
}

impl Explained for ArtifactError {
    fn fault(&self) -> Fault {
        match self {
            ArtifactError::Call(_, error) => error.fault(),
            ArtifactError::Write { .. } => Fault::Environment,
            ArtifactError::Unusable { .. } => Fault::User,
        }
    }

    fn help(&self) -> Option<String> {
        match self {
            ArtifactError::Write { .. } => Some("choose a directory that you may write with --artifacts DIR".to_owned()),
            _ => None,
        }
    }
}

/// Lists the artifacts of runs, and brings them where they are to go.
pub(crate) async fn fetch(client: &impl ClientApi, runs: &[RunId], destination: &Destination) -> Result<Vec<Fetched>, ArtifactError> {
    let mut fetched: Vec<Fetched> = Vec::new();
    for run in runs.iter().copied() {
        for artifact in client.artifacts(run).await.map_err(|error| ArtifactError::Call(run, error))? {
            if let Some(reason) = refusal(&artifact.name) {
                return Err(ArtifactError::Unusable { name: artifact.name, reason: reason.to_owned() });
            }
            let path = match destination {
                Destination::Nowhere => None,
                Destination::ByRun(base) => Some(base.join(run.to_string()).join(&artifact.name)),
                Destination::Named(base) => {
                    let plain = base.join(&artifact.name);
                    // Another workflow of the same command kept one of that name.
                    let taken = fetched.iter().any(|other| other.path.as_ref() == Some(&plain));
                    Some(if taken { base.join(format!("{}.{run}", artifact.name)) } else { plain })
                }
            };
            if let Some(path) = &path {
                bring(client, run, &artifact, path).await?;
            }
            fetched.push(Fetched { run, artifact, path });
        }
    }
    Ok(fetched)
}

async fn bring(client: &impl ClientApi, run: RunId, artifact: &Artifact, path: &Path) -> Result<(), ArtifactError> {
    let failed = |error| ArtifactError::Call(run, error);
    let written = |source| ArtifactError::Write { name: artifact.name.clone(), path: path.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(written)?;
    let mut file = tempfile::tempfile_in(path).map_err(written)?;
    let mut hash = Sha256::new();
    let mut pieces = client.get_blob(artifact.digest, 0).await.map_err(failed)?;
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(failed)?;
        hash.update(&piece);
        file.write_all(&piece).map_err(written)?;
    }
    if Digest(hash.finalize().into()) != artifact.digest {
        return Err(ArtifactError::Unusable { name: artifact.name.clone(), reason: "its content is not what its digest says".to_owned() });
    }
    file.rewind().map_err(written)?;
    unpack(file, path, &artifact.name)
}

/// Takes regular files out of a tar into a directory.
fn unpack(archive: impl Read, base: &Path, name: &str) -> Result<(), ArtifactError> {
    let written = |path: &Path| {
        let (name, path) = (name.to_owned(), path.to_owned());
        move |source| ArtifactError::Write { name, path, source }
    };
    let unusable = |reason: String| ArtifactError::Unusable { name: name.to_owned(), reason };
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries().map_err(|error| unusable(error.to_string()))? {
        let mut entry = entry.map_err(|error| unusable(error.to_string()))?;
        let inside = entry.path().map_err(|error| unusable(error.to_string()))?.into_owned();
        let mut parts: Vec<&std::ffi::OsStr> = Vec::new();
        for component in inside.components() {
            match component {
                Component::Normal(part) => parts.push(part),
                Component::CurDir => {}
                _ => return Err(unusable(format!("{} leads out of it", inside.display()))),
            }
        }
        let kind = entry.header().entry_type();
        let Some((last, parents)) = parts.split_last().filter(|_| kind.is_file()) else {
            // Directories are made for the files in them; links and devices have no place here.
            continue;
        };
        let mut directory = base.to_owned();
        for part in parents {
            directory.push(part);
            match DirBuilder::new().mode(0o755).create(&directory) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    // A link could lead anywhere; what was here before may hold one.
                    if !directory.symlink_metadata().map_err(written(&directory))?.is_dir() {
                        return Err(written(&directory)(io::ErrorKind::NotADirectory.into()));
                    }
                }
                Err(error) => return Err(written(&directory)(error)),
            }
        }
        let path = directory.join(last);
        let executable = entry.header().mode().is_ok_and(|mode| mode & 0o111 != 0);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).custom_flags(nix::libc::O_NOFOLLOW).mode(if executable { 0o755 } else { 0o644 });
        let mut file: File = options.open(&path).map_err(written(&path))?;
        io::copy(&mut entry, &mut file).map_err(written(&path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn archive(entries: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o4777);
            header.set_size(content.len() as u64);
            if kind.is_symlink() || kind.is_hard_link() {
                header.set_link_name(std::str::from_utf8(content).unwrap()).unwrap();
                header.set_size(0);
            }
            // By hand: the library itself refuses to write a path that climbs.
            let bytes = path.as_bytes();
            header.as_gnu_mut().unwrap().name[..bytes.len()].copy_from_slice(bytes);
            header.set_cksum();
            builder.append(&header, if kind.is_file() { *content } else { &[] }).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn only_files_come_out_and_they_stay_below() {
        use tar::EntryType as Kind;
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("a");
        std::fs::create_dir(&base).unwrap();
        let good = archive(&[
            ("d/", Kind::Directory, b""),
            ("./d/x", Kind::Regular, b"1"),
            ("l", Kind::Symlink, b"/etc/passwd"),
            ("h", Kind::Link, b"/etc/passwd"),
        ]);
        unpack(&good[..], &base, "a").unwrap();
        assert_eq!(std::fs::read(base.join("d/x")).unwrap(), b"1");
        assert!(base.join("l").symlink_metadata().is_err() && base.join("h").symlink_metadata().is_err());
        for path in ["../out", "d/../../out", "/out"] {
            let bad = archive(&[(path, Kind::Regular, b"x")]);
            assert!(unpack(&bad[..], &base, "a").is_err(), "{path}");
        }
        assert!(!dir.path().join("out").exists());
        // What lies in the user's directory already may be a link of somebody's.
        std::os::unix::fs::symlink(dir.path(), base.join("link")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("victim"), base.join("file")).unwrap();
        assert!(unpack(&archive(&[("link/out", Kind::Regular, b"x")])[..], &base, "a").is_err());
        assert!(unpack(&archive(&[("file", Kind::Regular, b"x")])[..], &base, "a").is_err());
        assert!(!dir.path().join("out").exists() && !dir.path().join("victim").exists());
    }
}
