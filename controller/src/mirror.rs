//! The mirror of actions: repositories of others, each pinned to the digest of its content when an operator added it. Workflows
//! find them by name and version; nothing is fetched when they run.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use caisson_model::id::Digest;
use caisson_model::time::Timestamp;
use caisson_workflow::{ActionText, Library, Mirrored};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::policy::Rules;
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
    repositories: BTreeMap<(String, String), MirroredRepository>,
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

/// What a workflow may refer to: its checkout's texts, the mirror, and what the rules declare.
#[derive(Clone, Copy, Debug)]
pub struct References<'r> {
    /// Texts of the checkout, by path.
    pub files: &'r IndexMap<String, String>,
    /// The mirror.
    pub mirror: &'r Mirror,
    /// The rules.
    pub rules: &'r Rules,
}

impl Library for References<'_> {
    fn workflow(&self, uses: &str) -> Option<&str> {
        self.files.workflow(uses)
    }

    fn action(&self, uses: &str) -> Option<ActionText<'_>> {
        self.files.action(uses)
    }

    fn mirrored(&self, name: &str, version: &str) -> Option<Mirrored<'_>> {
        let (repository, directory) = split(name)?;
        let found = self.mirror.repositories.get(&(repository, version.to_owned()))?;
        let (directory, description) = found.actions.get_key_value(directory)?;
        // The place inside is named after it.
        let name = found.repository.as_str();
        Some(Mirrored { tree: found.tree, name, text: ActionText { directory, file: &description.file, text: &description.text } })
    }

    fn mirrored_versions(&self, name: &str) -> Vec<String> {
        let Some((repository, _)) = split(name) else { return Vec::new() };
        self.mirror.repositories.keys().filter(|(other, _)| *other == repository).map(|(_, version)| version.clone()).collect()
    }

    fn declared_no_op(&self, name: &str) -> Option<String> {
        let name = name.to_lowercase();
        let declared = self.rules.actions.no_op.iter().any(|glob| glob.covers(&name));
        declared.then(|| format!("{} declares it a no-op", self.rules.origin()))
    }
}

/// `owner/repository` in lower case, and the directory in it.
fn split(name: &str) -> Option<(String, &str)> {
    let (owner, rest) = name.split_once('/')?;
    let (repository, directory) = rest.split_once('/').unwrap_or((rest, ""));
    Some((format!("{owner}/{repository}").to_lowercase(), directory.trim_end_matches('/')))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn actions_are_found_by_name_version_and_directory() {
        let dir = tempfile::tempdir().unwrap();
        let description = |file: &str| Description { file: file.to_owned(), text: "x".to_owned() };
        let repository = MirroredRepository {
            repository: "acme/tools".to_owned(),
            version: "v1".to_owned(),
            commit: None,
            tree: Digest([7; 32]),
            bytes: 3,
            origin: "/srv/tools".to_owned(),
            added: Timestamp(1),
            actions: [(String::new(), description("action.yml")), ("lint".to_owned(), description("lint/action.yaml"))]
                .into_iter()
                .collect(),
        };
        Mirror::add(dir.path(), &repository).unwrap();
        let mirror = Mirror::read(dir.path()).unwrap();
        let (files, rules) = (IndexMap::new(), Rules::default());
        let references = References { files: &files, mirror: &mirror, rules: &rules };
        let file = |name: &str, version: &str| references.mirrored(name, version).map(|found| found.text.file.to_owned());
        assert_eq!(file("Acme/Tools", "v1").as_deref(), Some("action.yml"));
        assert_eq!(file("acme/tools/lint", "v1").as_deref(), Some("lint/action.yaml"));
        assert_eq!(file("acme/tools/lint", "v2"), None);
        assert_eq!(file("acme/tools/none", "v1"), None);
        assert_eq!(references.mirrored_versions("acme/tools"), ["v1"]);
        assert!(Mirror::remove(dir.path(), "Acme/tools", "v1").unwrap());
        assert!(!Mirror::remove(dir.path(), "acme/tools", "v1").unwrap());
        assert_eq!(Mirror::read(dir.path()).unwrap(), Mirror::default());
    }
}
