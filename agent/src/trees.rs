//! Directory trees by digest: what caches and mirrored actions are unpacked to, once per agent. A tree is written by programs in
//! a sandbox before it has its name, and never again after; steps see it read-only, or below an overlay of their own, so that
//! showing it costs the same however many files it holds.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use caisson_model::id::Digest;
use caisson_sandbox::launcher::Launcher;
use caisson_sandbox::spec::{Access, AreaDirectory, HostOwner, Ids, Mount, SeenAs};

/// The most bytes that all trees of an agent take together; those that were not used for longest go first.
const MOST_BYTES: u64 = 20 << 30;
/// The directory in a tree's area.
const TREE: &str = "tree";

/// A tree cannot be made or shown.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The agent's own directory.
    #[error("{act} the tree {}", path.display())]
    Own {
        /// What was tried.
        act: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The directory that belongs to a job's ids.
    #[error("make the tree {}", path.display())]
    Area {
        /// Where.
        path: PathBuf,
        /// What the launcher said.
        source: caisson_sandbox::error::AreaError,
    },
}

/// All trees of an agent. Clones share them.
#[derive(Clone, Debug)]
pub struct Trees {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    launcher: Launcher,
    most: u64,
    /// How many users each tree has: those of a running job must stay.
    used: Mutex<HashMap<Digest, usize>>,
    number: AtomicU64,
}

/// A tree in use. It stays on the disk at least as long as this value.
#[derive(Debug)]
pub struct Tree {
    digest: Digest,
    path: PathBuf,
    owner: HostOwner,
    trees: Trees,
}

/// A tree that is being made.
#[derive(Debug)]
pub struct Seedling {
    directory: PathBuf,
    trees: Trees,
    rooted: bool,
}

impl Trees {
    /// Trees below `root`, which is made when the first is. What an earlier agent did not finish is removed. Blocks.
    pub fn open(root: PathBuf, launcher: Launcher) -> Trees {
        let trees =
            Trees { inner: Arc::new(Inner { root, launcher, most: MOST_BYTES, used: Mutex::default(), number: AtomicU64::default() }) };
        for entry in trees.entries().into_iter().filter(|path| !is_finished(path)) {
            trees.remove(&entry);
        }
        trees
    }

    /// The tree of a digest, if this agent has it.
    pub fn find(&self, digest: Digest) -> Option<Tree> {
        let directory = self.directory(digest);
        // Counted first, so that nobody removes it between the look and the use.
        self.count(digest, 1);
        let path = directory.join("area").join(TREE);
        match fs::metadata(&path) {
            Ok(metadata) if is_finished(&directory) => {
                // The time of the last use; what it cannot be written for only makes the tree go earlier.
                let _touched = fs::File::open(directory.join("bytes")).and_then(|file| file.set_modified(SystemTime::now()));
                let owner = HostOwner { uid: metadata.uid(), gid: metadata.gid(), seen_as: SeenAs::Step };
                Some(Tree { digest, path, owner, trees: self.clone() })
            }
            _ => {
                self.count(digest, -1);
                None
            }
        }
    }

    /// Begins a tree that sandboxes with these ids can write. Blocks.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn begin(&self, ids: Ids) -> Result<Seedling, TreeError> {
        let own = |act, path: &Path, source| TreeError::Own { act, path: path.to_owned(), source };
        let root = &self.inner.root;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(|source| own("make room for", root, source))?;
        let number = self.inner.number.fetch_add(1, Ordering::Relaxed);
        let directory = root.join(format!("new-{}-{number}", std::process::id()));
        fs::DirBuilder::new().mode(0o700).create(&directory).map_err(|source| own("make", &directory, source))?;
        let seedling = Seedling { directory, trees: self.clone(), rooted: false };
        let area = seedling.directory.join("area");
        let range = match ids {
            Ids::Default => None,
            Ids::Range(range) => Some(range),
        };
        let tree = AreaDirectory { name: TREE.to_owned(), uid: 1000, gid: 1000, mode: 0o755 };
        self.inner.launcher.create_area(&area, &[tree], range).map_err(|source| TreeError::Area { path: area, source })?;
        Ok(seedling)
    }

    fn directory(&self, digest: Digest) -> PathBuf {
        self.inner.root.join(digest.to_string().trim_start_matches("sha256:"))
    }

    fn count(&self, digest: Digest, by: isize) {
        let mut used = self.inner.used.lock().unwrap_or_else(PoisonError::into_inner);
        let users = used.entry(digest).or_insert(0);
        *users = users.saturating_add_signed(by);
        if *users == 0 {
            used.remove(&digest);
        }
    }

    fn entries(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.inner.root).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
    }

    fn remove(&self, directory: &Path) {
        let removed = crate::workspace::remove(&self.inner.launcher, directory);
        if let Err(error) = removed {
            tracing::warn!(%error, path = %directory.display(), "a tree was not removed");
        }
    }

    /// Removes trees that nobody uses, the longest unused first, until the rest is small enough.
    fn make_room(&self) {
        let mut trees: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for path in self.entries() {
            let Ok(metadata) = fs::metadata(path.join("bytes")) else { continue };
            let bytes = fs::read_to_string(path.join("bytes")).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
            trees.push((metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), bytes, path));
        }
        let mut total: u64 = trees.iter().map(|(_, bytes, _)| bytes).sum();
        trees.sort();
        for (_, bytes, path) in trees {
            if total <= self.inner.most {
                return;
            }
            // Held while it is removed: whoever looks for it meanwhile waits, and then does not find it.
            let used = self.inner.used.lock().unwrap_or_else(PoisonError::into_inner);
            let busy = used.keys().any(|digest| self.directory(*digest) == path);
            if !busy {
                self.remove(&path);
                total -= bytes;
            }
        }
    }
}

/// The number of bytes is written last.
fn is_finished(directory: &Path) -> bool {
    directory.join("bytes").is_file() && directory.file_name().is_some_and(|name| !name.to_string_lossy().starts_with("new-"))
}

impl Seedling {
    /// The mount that lets a program write it.
    pub fn mount(&self, target: &str) -> Mount {
        Mount::Bind { source: self.directory.join("area").join(TREE), target: target.into(), access: Access::ReadWrite, owner: None }
    }

    /// The mount that shows it.
    pub fn shown(&self, target: &str) -> Mount {
        Mount::Bind { source: self.directory.join("area").join(TREE), target: target.into(), access: Access::ReadOnly, owner: None }
    }

    /// Gives it its name: from now on nobody writes it. `bytes` is about what it takes. Blocks.
    ///
    /// # Errors
    /// [`TreeError::Own`].
    pub fn finish(mut self, digest: Digest, bytes: u64) -> Result<Tree, TreeError> {
        let trees = self.trees.clone();
        let target = trees.directory(digest);
        let own = |act, source| TreeError::Own { act, path: target.clone(), source };
        fs::write(self.directory.join("bytes"), bytes.to_string()).map_err(|source| own("finish", source))?;
        match fs::rename(&self.directory, &target) {
            Ok(()) => self.rooted = true,
            // Somebody else was faster with the same.
            Err(_) if is_finished(&target) => {}
            Err(source) => return Err(own("name", source)),
        }
        let tree = trees.find(digest).ok_or_else(|| own("find", io::ErrorKind::NotFound.into()))?;
        trees.make_room();
        Ok(tree)
    }
}

impl Drop for Seedling {
    fn drop(&mut self) {
        if !self.rooted {
            self.trees.remove(&self.directory);
        }
    }
}

impl Tree {
    /// Its place on the host.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whose its files are on the host, who appear as the step's own.
    pub fn owner(&self) -> HostOwner {
        self.owner
    }

    /// The mount that shows it, read-only.
    pub fn shown(&self, target: &str) -> Mount {
        Mount::Bind { source: self.path.clone(), target: target.into(), access: Access::ReadOnly, owner: Some(self.owner) }
    }
}

impl Clone for Tree {
    fn clone(&self) -> Tree {
        self.trees.count(self.digest, 1);
        Tree { digest: self.digest, path: self.path.clone(), owner: self.owner, trees: self.trees.clone() }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        self.trees.count(self.digest, -1);
    }
}
