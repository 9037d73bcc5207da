//! The artifacts of runs: names and digests, a small file each. The content is a blob.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use caisson_model::artifact::{Artifact, Clash, Kept};
use caisson_model::id::{Digest, RunId};

use crate::records;

/// An artifact could not be kept or read.
#[derive(Debug, thiserror::Error)]
#[error("{act} artifacts of run {run}")]
pub struct ArtifactError {
    act: &'static str,
    run: RunId,
    #[source]
    source: io::Error,
}

/// All artifacts of a controller. Clones share them.
#[derive(Clone, Debug)]
pub struct Artifacts {
    root: Arc<PathBuf>,
}

impl Artifacts {
    /// Artifacts below `root`, which is made when the first is kept.
    pub fn new(root: PathBuf) -> Artifacts {
        Artifacts { root: Arc::new(root) }
    }

    fn folder(&self, run: RunId) -> PathBuf {
        self.root.join(run.to_string())
    }

    /// Keeps one. The same one twice is kept once. Blocks.
    ///
    /// # Errors
    /// [`ArtifactError`].
    pub fn keep(&self, run: RunId, artifact: &Artifact, clash: Clash) -> Result<Kept, ArtifactError> {
        let failed = |source| ArtifactError { act: "keep", run, source };
        let path = self.folder(run).join(records::file_name(&[&artifact.name]));
        if records::write(&path, artifact, records::There::Stays).map_err(failed)? {
            return Ok(Kept::Kept);
        }
        let there: Option<Artifact> = records::read(&path).map_err(failed)?;
        let same = there.is_some_and(|there| (there.digest, there.job) == (artifact.digest, artifact.job));
        match clash {
            _ if same => Ok(Kept::Kept),
            Clash::Refuse => Ok(Kept::Clashes),
            Clash::Replace => records::write(&path, artifact, records::There::GivesWay).map(|_written| Kept::Kept).map_err(failed),
        }
    }

    /// Those of a run, by name. Blocks.
    ///
    /// # Errors
    /// [`ArtifactError`].
    pub fn of(&self, run: RunId) -> Result<Vec<Artifact>, ArtifactError> {
        let failed = |source| ArtifactError { act: "list", run, source };
        let mut found: Vec<Artifact> = records::all(&self.folder(run)).map_err(failed)?.into_iter().map(|(_, artifact)| artifact).collect();
        found.sort_by(|a: &Artifact, b: &Artifact| a.name.cmp(&b.name));
        Ok(found)
    }

    /// Forgets one. Blocks.
    ///
    /// # Errors
    /// [`ArtifactError`].
    pub fn drop(&self, run: RunId, name: &str) -> Result<(), ArtifactError> {
        match fs::remove_file(self.folder(run).join(records::file_name(&[name]))) {
            Err(source) if source.kind() != ErrorKind::NotFound => Err(ArtifactError { act: "forget", run, source }),
            _ => Ok(()),
        }
    }
}

/// The blobs that the artifacts below a folder are made of. Blocks.
///
/// # Errors
/// The folder cannot be read.
pub fn blobs(root: &Path) -> io::Result<Vec<Digest>> {
    let mut found = Vec::new();
    for folder in records::folders(root)? {
        found.extend(records::all::<Artifact>(&folder)?.into_iter().map(|(_, artifact)| artifact.digest));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use caisson_model::id::JobId;
    use caisson_model::time::Timestamp;

    #[test]
    fn a_name_is_one_artifact() {
        let dir = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::new(dir.path().join("artifacts"));
        let run = RunId(7);
        let of = |name: &str, byte| Artifact {
            name: name.to_owned(),
            job: JobId { run, index: 1 },
            digest: Digest([byte; 32]),
            bytes: 1,
            files: 1,
            at: Timestamp(5),
        };
        assert!(artifacts.of(run).unwrap().is_empty());
        assert_eq!(artifacts.keep(run, &of("b", 1), Clash::Refuse).unwrap(), Kept::Kept);
        assert_eq!(artifacts.keep(run, &of("b", 1), Clash::Refuse).unwrap(), Kept::Kept);
        assert_eq!(artifacts.keep(run, &of("b", 2), Clash::Refuse).unwrap(), Kept::Clashes);
        assert_eq!(artifacts.keep(run, &of("b", 2), Clash::Replace).unwrap(), Kept::Kept);
        assert_eq!(artifacts.keep(run, &of("a/../x", 3), Clash::Refuse).unwrap(), Kept::Kept);
        let names: Vec<_> = artifacts.of(run).unwrap().into_iter().map(|a| (a.name, a.digest.0[0])).collect();
        assert_eq!(names, [("a/../x".to_owned(), 3), ("b".to_owned(), 2)]);
        assert_eq!(blobs(&dir.path().join("artifacts")).unwrap().len(), 2);
        artifacts.drop(run, "b").unwrap();
        artifacts.drop(run, "b").unwrap();
        assert_eq!(artifacts.of(run).unwrap().len(), 1);
        assert!(artifacts.of(RunId(8)).unwrap().is_empty());
    }
}
