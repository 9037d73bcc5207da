//! The artifacts of runs: names and digests, a record each. The content is a blob.

use std::io;
use std::sync::Arc;

use caisson_model::artifact::{Artifact, Clash, Kept};
use caisson_model::id::{Digest, RunId};

use crate::records::{self, Records, There};

/// Where their records lie.
const FOLDER: &str = "artifacts";

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
    records: Arc<dyn Records>,
}

impl Artifacts {
    /// Artifacts by these records.
    pub fn new(records: Arc<dyn Records>) -> Artifacts {
        Artifacts { records }
    }

    /// Keeps one. The same one twice is kept once. Blocks.
    ///
    /// # Errors
    /// [`ArtifactError`].
    pub fn keep(&self, run: RunId, artifact: &Artifact, clash: Clash) -> Result<Kept, ArtifactError> {
        let failed = |source| ArtifactError { act: "keep", run, source };
        let key = key(run, &artifact.name);
        let records = self.records.as_ref();
        if records::put(records, &key, artifact, There::Stays).map_err(failed)? {
            return Ok(Kept::Kept);
        }
        let there: Option<Artifact> = records::take(records, &key).map_err(failed)?;
        let same = there.is_some_and(|there| (there.digest, there.job) == (artifact.digest, artifact.job));
        match clash {
            _ if same => Ok(Kept::Kept),
            Clash::Refuse => Ok(Kept::Clashes),
            Clash::Replace => records::put(records, &key, artifact, There::GivesWay).map(|_written| Kept::Kept).map_err(failed),
        }
    }

    /// Those of a run, by name. Blocks.
    ///
    /// # Errors
    /// [`ArtifactError`].
    pub fn of(&self, run: RunId) -> Result<Vec<Artifact>, ArtifactError> {
        let failed = |source| ArtifactError { act: "list", run, source };
        let kept = records::values(self.records.as_ref(), &format!("{FOLDER}/{run}")).map_err(failed)?;
        let mut found: Vec<Artifact> = kept.into_iter().map(|(_, artifact)| artifact).collect();
        found.sort_by(|a: &Artifact, b: &Artifact| a.name.cmp(&b.name));
        Ok(found)
    }

    /// Forgets one. Blocks.
    ///
    /// # Errors
    /// [`ArtifactError`].
    pub fn drop(&self, run: RunId, name: &str) -> Result<(), ArtifactError> {
        self.records.remove(&key(run, name)).map_err(|source| ArtifactError { act: "forget", run, source })
    }
}

fn key(run: RunId, name: &str) -> String {
    format!("{FOLDER}/{run}/{}", records::file_name(&[name]))
}

/// The blobs that artifacts are made of; those that `stays` says no to are forgotten first. Blocks.
///
/// # Errors
/// The records cannot be read or removed.
pub fn blobs(records: &dyn Records, stays: impl Fn(&Artifact) -> bool) -> io::Result<Vec<Digest>> {
    let mut found = Vec::new();
    for (key, artifact) in records::values::<Artifact>(records, FOLDER)? {
        match stays(&artifact) {
            true => found.push(artifact.digest),
            false => records.remove(&key)?,
        }
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
        let files = Arc::new(records::Files::new(dir.path().to_owned()));
        let artifacts = Artifacts::new(files.clone());
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
        assert_eq!(blobs(files.as_ref(), |_| true).unwrap().len(), 2);
        artifacts.drop(run, "b").unwrap();
        artifacts.drop(run, "b").unwrap();
        assert_eq!(artifacts.of(run).unwrap().len(), 1);
        assert!(artifacts.of(RunId(8)).unwrap().is_empty());
        assert!(blobs(files.as_ref(), |artifact| artifact.at.0 > 5).unwrap().is_empty());
        assert!(artifacts.of(run).unwrap().is_empty(), "what does not stay is forgotten");
    }
}
