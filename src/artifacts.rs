//! What the jobs of a run kept, brought to this machine. The content was written by steps: only regular files and directories
//! are taken out of it, each by its own name below the artifact's directory, and no link is followed.

use std::fs::DirBuilder;
use std::io::{self, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use caisson_model::artifact::{Artifact, refusal};
use caisson_model::id::{Digest, RunId};
use caisson_model::outcome::Fault;
use caisson_proto::api::{ApiError, ClientApi};
use futures_util::StreamExt;
use sha2::{Digest as _, Sha256};

use crate::report::Explained;
use crate::unpack::{self, UnpackError};

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
    unpack::unpack(file, path).map_err(|error| match error {
        UnpackError::Write { path, source } => ArtifactError::Write { name: artifact.name.clone(), path, source },
        UnpackError::Unusable(reason) => ArtifactError::Unusable { name: artifact.name.clone(), reason },
    })
}
