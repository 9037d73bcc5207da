//! The mirror of actions: repositories of others, each pinned to the digest of its content when an operator added it. Workflows
//! find them by name and version; nothing is fetched when they run.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use caisson_model::id::Digest;
use caisson_model::time::Timestamp;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::records;

/// A repository of actions at one version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MirroredRepository {
    /// `owner/repository`, in lower case.
    pub repository: String,
    /// The version by which workflows name it.
    pub version: String,
    /// The commit that it was when it was added, if it came from git.
    pub commit: Option<String>,
    /// Its content, a tar blob.
    pub tree: Digest,
    /// The bytes of that blob.
    pub bytes: u64,
    /// Where it came from, for people.
    pub origin: String,
    /// When it was added.
    pub added: Timestamp,
    /// The descriptions of its actions by their directory; the empty one is the top.
    pub actions: IndexMap<String, Description>,
}

/// An `action.yml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// The file, as messages name it.
    pub file: String,
    /// Its text.
    pub text: String,
}

/// The mirror cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{act} the mirror of actions in {}", folder.display())]
pub struct MirrorError {
    act: &'static str,
    folder: PathBuf,
    #[source]
    source: io::Error,
}

/// Everything that was added, as it stands when it is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mirror {
    pub(crate) repositories: BTreeMap<(String, String), MirroredRepository>,
}

impl Mirror {
    /// Reads a mirror; one that is not there is empty. Blocks.
    ///
    /// # Errors
    /// [`MirrorError`].
    pub fn read(folder: &Path) -> Result<Mirror, MirrorError> {
        let failed = |source| MirrorError { act: "read", folder: folder.to_owned(), source };
        let found = records::all::<MirroredRepository>(folder).map_err(failed)?;
        let repositories = found.into_iter().map(|(_, found)| ((found.repository.clone(), found.version.clone()), found)).collect();
        Ok(Mirror { repositories })
    }

    /// Keeps a repository whose blob lies in [`blobs`] already; one of the same name and version gives way. Blocks.
    ///
    /// # Errors
    /// [`MirrorError`].
    pub fn add(folder: &Path, repository: &MirroredRepository) -> Result<(), MirrorError> {
        let failed = |source| MirrorError { act: "add to", folder: folder.to_owned(), source };
        let path = folder.join(records::file_name(&[&repository.repository, &repository.version]));
        records::write(&path, repository, records::There::GivesWay).map(|_written| ()).map_err(failed)
    }

    /// Forgets a repository; whether there was one. Its blob goes when no other needs it. Blocks.
    ///
    /// # Errors
    /// [`MirrorError`].
    pub fn remove(folder: &Path, repository: &str, version: &str) -> Result<bool, MirrorError> {
        let failed = |source| MirrorError { act: "remove from", folder: folder.to_owned(), source };
        let repository = repository.to_lowercase();
        let before = Mirror::read(folder)?;
        let Some(gone) = before.repositories.get(&(repository.clone(), version.to_owned())) else { return Ok(false) };
        std::fs::remove_file(folder.join(records::file_name(&[&repository, version]))).map_err(failed)?;
        let others = before.repositories().filter(|other| *other != gone);
        if others.map(|other| other.tree).all(|tree| tree != gone.tree) {
            match std::fs::remove_file(crate::blobs::path_below(&blobs(folder), gone.tree)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                _ => {}
            }
        }
        Ok(true)
    }

    /// All of them, by name and version.
    pub fn repositories(&self) -> impl Iterator<Item = &MirroredRepository> {
        self.repositories.values()
    }
}

/// Where the content of a mirror lies.
pub fn blobs(folder: &Path) -> PathBuf {
    folder.join("blobs")
}
