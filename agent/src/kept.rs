//! What actions keep, as values: blobs of the controller, and directories of the job that show a tree.

use std::path::PathBuf;

use caisson_model::id::Digest;
use caisson_sandbox::spec::{Mount, Upper};

use crate::trees::Tree;

/// Where a tree appears while programs write or read it.
pub const TREE: &str = "/caisson/tree";
/// A blob that the controller has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub bytes: u64,
}

/// A directory of the job that shows a tree, with the job's changes on top.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Where it appears.
    pub target: String,
    /// The directory in the tree.
    pub below: String,
    /// The tree.
    pub tree: Tree,
    /// Where changes go.
    pub upper: PathBuf,
}

impl Layer {
    /// The mount.
    pub fn mount(&self) -> Mount {
        let lower = self.tree.path().join(self.below.trim_start_matches('/'));
        let (upper, owner) = (Upper::Directory(self.upper.clone()), Some(self.tree.owner()));
        Mount::Overlay { lower: vec![lower], upper, target: PathBuf::from(&self.target), owner }
    }
}
