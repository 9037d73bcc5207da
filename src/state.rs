//! Where a checkout's journal, logs, blobs and workspaces live, and who may use them now.

use std::collections::HashSet;
use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use caisson_controller::records::Files;
use caisson_model::id::Digest;
use caisson_model::outcome::Fault;
use sha2::{Digest as _, Sha256};

use crate::report::{self, Explained};

/// How many runs' logs are kept for a checkout.
const KEPT_RUNS: usize = 50;

/// A state directory that is ours until this value is dropped.
#[derive(Debug)]
pub(crate) struct State {
    /// For the controller: journal, logs, blobs.
    pub(crate) controller: PathBuf,
    /// For the agent: workspaces, spools.
    pub(crate) agent: PathBuf,
    /// For what is handed from one to the other before either runs.
    pub(crate) scratch: PathBuf,
    /// For what runs of this checkout kept for people.
    pub(crate) artifacts: PathBuf,
    _lock: File,
}

/// A state directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {act} the state directory {}", path.display())]
pub(crate) struct StateError {
    act: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl Explained for StateError {
    fn fault(&self) -> Fault {
        Fault::Environment
    }

    fn help(&self) -> Option<String> {
        Some("choose another with CAISSON_STATE_DIR or `state_dir` in config.toml".to_owned())
    }
}

impl State {
    /// Opens the state of a checkout below `root`, made if need be, for this user alone. Waits while another run of the same
    /// checkout uses it, and says so.
    pub(crate) fn of_checkout(root: &Path, checkout: &Path) -> Result<State, StateError> {
        let digest = Sha256::digest(checkout.as_os_str().as_encoded_bytes());
        let short: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        let name = checkout.file_name().map_or("root".into(), |name| name.to_string_lossy().into_owned());
        let name: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')).take(40).collect();
        State::open(&root.join("checkouts").join(format!("{name}-{short}")), Some(checkout))
    }

    /// Opens a state directory by itself.
    pub(crate) fn of_directory(path: &Path) -> Result<State, StateError> {
        State::open(path, None)
    }

    fn open(path: &Path, checkout: Option<&Path>) -> Result<State, StateError> {
        let failed = |act| move |source| StateError { act, path: path.to_owned(), source };
        let directory = |path: &Path| std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        directory(path).map_err(failed("make"))?;
        let lock = File::options().create(true).truncate(false).write(true).open(path.join("command.lock")).map_err(failed("lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                report::note("another caisson uses this checkout's state; waiting until it ends (Ctrl-C gives up)");
                lock.lock().map_err(failed("lock"))?;
            }
            Err(TryLockError::Error(source)) => return Err(failed("lock")(source)),
        }
        let state = State {
            controller: path.join("controller"),
            agent: path.join("agent"),
            scratch: path.join("scratch"),
            artifacts: path.join("artifacts"),
            _lock: lock,
        };
        // What an interrupted command left there is nobody's any more, now that the lock is ours.
        match std::fs::remove_dir_all(&state.scratch) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(failed("clear")(source)),
            _ => directory(&state.scratch).map_err(failed("make"))?,
        }
        if let Some(checkout) = checkout {
            // For a person who wonders what the folder is.
            std::fs::write(path.join("checkout"), format!("{}\n", checkout.display())).map_err(failed("write to"))?;
        }
        Ok(state)
    }

    /// The agents' directories of other checkouts below `root` that a killed command left, each with the lock that says that
    /// nobody uses it now. A directory that is not laid out as ours is left alone.
    pub(crate) fn abandoned(root: &Path) -> Vec<(PathBuf, File)> {
        let entries = std::fs::read_dir(root.join("checkouts")).into_iter().flatten().flatten();
        let left = entries.filter_map(|entry| {
            let path = entry.path();
            let attempts = path.join("agent/attempts");
            // Nothing in it: nothing was left.
            std::fs::read_dir(&attempts).ok()?.next()?.ok()?;
            // Not made where it is missing: then the place is not ours.
            let lock = File::options().write(true).open(path.join("command.lock")).ok()?;
            lock.try_lock().ok()?;
            Some((attempts, lock))
        });
        left.collect()
    }

    /// Removes what no later run needs: source trees, and the logs of all but the last runs. Only while no controller runs here.
    pub(crate) fn prune(&self) -> Result<(), StateError> {
        let path = &self.controller;
        let failed = |source| StateError { act: "prune", path: path.clone(), source };
        self.prune_blobs().map_err(failed)?;
        let entries = match std::fs::read_dir(path.join("logs")) {
            Ok(entries) => entries,
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(failed(source)),
        };
        let mut runs: Vec<u64> = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
        runs.sort_unstable_by(|a, b| b.cmp(a));
        for run in runs.into_iter().skip(KEPT_RUNS) {
            std::fs::remove_dir_all(path.join("logs").join(run.to_string())).map_err(failed)?;
            for kept in [path.join("artifacts"), self.artifacts.clone()] {
                match std::fs::remove_dir_all(kept.join(run.to_string())) {
                    Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(failed(source)),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Removes the blobs that no artifact and no cache is made of: source trees, and what belonged to runs that are gone.
    fn prune_blobs(&self) -> io::Result<()> {
        let records = Files::new(self.controller.clone());
        let mut needed: HashSet<Digest> = caisson_controller::artifacts::blobs(&records, |_| true)?.into_iter().collect();
        needed.extend(caisson_controller::caches::blobs(&records, |_| true)?.into_keys());
        let root = self.controller.join("blobs");
        let kept: HashSet<PathBuf> = needed.into_iter().map(|digest| caisson_controller::blobs::path_below(&root, digest)).collect();
        let mut open = vec![root];
        while let Some(folder) = open.pop() {
            let entries = match std::fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for entry in entries {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    open.push(entry.path());
                } else if !kept.contains(&entry.path()) {
                    std::fs::remove_file(entry.path())?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn two_checkouts_of_one_name_have_two_states_and_pruning_keeps_the_newest_logs() {
        let root = tempfile::tempdir().unwrap();
        let a = State::of_checkout(root.path(), Path::new("/a/shop")).unwrap();
        let b = State::of_checkout(root.path(), Path::new("/b/shop")).unwrap();
        assert_ne!(a.controller, b.controller);
        for run in 1..=60 {
            std::fs::create_dir_all(a.controller.join(format!("logs/{run}/1.1"))).unwrap();
        }
        std::fs::create_dir_all(a.controller.join("blobs/sha256/ab")).unwrap();
        std::fs::write(a.controller.join("blobs/sha256/ab/cd"), "a source tree").unwrap();
        a.prune().unwrap();
        b.prune().unwrap();
        assert!(!a.controller.join("blobs/sha256/ab/cd").exists() && !a.controller.join("logs/10").exists());
        assert!(a.controller.join("logs/11").exists() && a.controller.join("logs/60").exists());
    }

    #[test]
    fn a_state_is_one_commands_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        let first = State::of_directory(root.path()).unwrap();
        std::fs::write(first.scratch.join("left"), "x").unwrap();
        let again = File::options().write(true).open(root.path().join("command.lock")).unwrap();
        assert!(matches!(again.try_lock(), Err(TryLockError::WouldBlock)));
        drop(first);
        let second = State::of_directory(root.path()).unwrap();
        assert!(!second.scratch.join("left").exists());
    }
}
