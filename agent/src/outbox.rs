//! What an attempt still has to tell, on disk: its reports, its logs, its completion. An agent that is killed and started again
//! tells it from there, where the job itself had finished.
//!
//! Nothing in here is synced: it has to survive the process and not the machine. What a crash of the machine tears does not
//! read back whole, and the job is then run again.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use caisson_model::id::{Hold, StepIndex};
use caisson_model::lease::{Completion, StepReport};

const REPORTS: &str = "reports";
const COMPLETION: &str = "completion";

/// The directory of one attempt.
#[derive(Clone, Debug)]
pub struct Outbox {
    directory: PathBuf,
}

/// What an earlier agent left to be told.
#[derive(Debug)]
pub struct Kept {
    /// Where.
    pub outbox: Outbox,
    /// The end of the attempt.
    pub completion: Completion,
    /// All its reports.
    pub reports: Vec<StepReport>,
    /// Steps whose logs are not known to be sealed.
    pub logs: Vec<StepIndex>,
}

impl Outbox {
    /// A new one for this attempt, below `root`. Blocks.
    ///
    /// # Errors
    /// What the system says.
    pub fn make(root: &Path, hold: Hold) -> io::Result<Outbox> {
        let directory = root.join(format!("{}-{}", hold.attempt.to_string().replace('#', "-"), hold.fence.0));
        DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        Ok(Outbox { directory })
    }

    /// Where logs are spooled.
    pub fn spool(&self) -> &Path {
        &self.directory
    }

    /// The file of reports, to be added to. Blocks.
    ///
    /// # Errors
    /// What the system says.
    pub fn reports(&self) -> io::Result<File> {
        OpenOptions::new().create(true).append(true).mode(0o600).open(self.directory.join(REPORTS))
    }

    /// Writes how the attempt ended. From now on a restart tells it. Blocks.
    ///
    /// # Errors
    /// What the system says.
    pub fn complete(&self, completion: &Completion) -> io::Result<()> {
        let part = self.directory.join("completion.part");
        fs::write(&part, serde_json::to_vec(completion)?)?;
        fs::rename(part, self.directory.join(COMPLETION))
    }

    /// Removes it: everything was told, or nobody wants to hear it. Blocks.
    pub fn remove(&self) {
        if let Err(error) = fs::remove_dir_all(&self.directory)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %self.directory.display(), "outbox was not removed");
        }
    }

    fn read(&self) -> io::Result<Option<Kept>> {
        let completion = match fs::read(self.directory.join(COMPLETION)) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let lines = match fs::read_to_string(self.directory.join(REPORTS)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            other => other?,
        };
        let reports = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let mut logs = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name();
            let step = name.to_str().and_then(|name| name.strip_prefix("step-")?.strip_suffix(".seal")?.parse().ok());
            logs.extend(step.map(StepIndex));
        }
        logs.sort();
        Ok(Some(Kept { outbox: self.clone(), completion, reports, logs }))
    }
}

/// What is to be told of finished attempts below `root`. The rest is removed: its jobs are run again. Blocks.
///
/// # Errors
/// What the system says about `root` itself.
pub fn kept(root: &Path) -> io::Result<Vec<Kept>> {
    DirBuilder::new().recursive(true).mode(0o700).create(root)?;
    let mut kept = Vec::new();
    for entry in fs::read_dir(root)? {
        let outbox = Outbox { directory: entry?.path() };
        match outbox.read() {
            Ok(Some(found)) => kept.push(found),
            Ok(None) => outbox.remove(),
            Err(error) => {
                tracing::warn!(%error, path = %outbox.directory.display(), "outbox of an earlier agent cannot be read; its job is run again");
                outbox.remove();
            }
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use caisson_model::id::{AttemptId, Fence, JobId, RunId};
    use caisson_model::outcome::Outcome;
    use caisson_model::time::Timestamp;

    use super::*;

    #[test]
    fn only_what_finished_is_kept() {
        let root = tempfile::tempdir().unwrap();
        let hold = |number| Hold { attempt: AttemptId { job: JobId { run: RunId(1), index: 1 }, number }, fence: Fence(7) };
        let (finished, torn) = (Outbox::make(root.path(), hold(1)).unwrap(), Outbox::make(root.path(), hold(2)).unwrap());
        Outbox::make(root.path(), hold(3)).unwrap();
        let completion =
            Completion { hold: hold(1), outcome: Outcome::Failure, cause: None, outputs: Default::default(), at: Timestamp(4) };
        finished.complete(&completion).unwrap();
        fs::write(finished.spool().join("step-3.seal"), b"x").unwrap();
        fs::write(torn.spool().join(COMPLETION), b"{\"hold\"").unwrap();
        let kept = kept(root.path()).unwrap();
        assert_eq!(kept.iter().map(|kept| kept.completion.clone()).collect::<Vec<_>>(), [completion]);
        assert_eq!((kept[0].logs.as_slice(), kept[0].reports.len()), ([StepIndex(3)].as_slice(), 0));
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1, "the others are gone");
    }
}
