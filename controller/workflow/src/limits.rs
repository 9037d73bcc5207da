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
    /// Levels of workflows that call workflows.
    pub call_depth: usize,
    /// What a token may do where a workflow does not say.
    pub default_permissions: DefaultPermissions,
}

/// What the token of a workflow without `permissions:` may do. It matters for calls only: they may not ask for more than
/// the caller has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DefaultPermissions {
    /// Everything.
    #[default]
    Write,
    /// Read contents and packages.
    Read,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            file_characters: 1_048_576,
            depth: 50,
            jobs: 1_000,
            cells: 256,
            call_depth: 10,
            default_permissions: DefaultPermissions::Write,
        }
    }
}
