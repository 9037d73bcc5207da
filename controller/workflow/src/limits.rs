//! What bounds a workflow file.

/// Bounds on the size of a workflow. The defaults are the documented ones of the language where it documents any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Characters of a file.
    pub file_characters: usize,
    /// Collections inside each other.
    pub depth: usize,
    /// Jobs of a run, called workflows included, before matrices are expanded.
    pub jobs: usize,
    /// Cells of one matrix.
    pub cells: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { file_characters: 1_048_576, depth: 50, jobs: 1_000, cells: 256 }
    }
}
