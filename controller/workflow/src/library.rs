//! Where the texts of called workflows come from.

/// Workflows that others may call. The crate reads no files: whoever plans hands the texts in.
pub trait Library {
    /// The text of a workflow by what `uses:` says, such as `./.github/workflows/build.yml`; `None` when there is none.
    fn workflow(&self, uses: &str) -> Option<&str>;
}

/// The texts of a checkout, by path.
impl Library for indexmap::IndexMap<String, String> {
    fn workflow(&self, uses: &str) -> Option<&str> {
        let path = uses.strip_prefix("./").unwrap_or(uses);
        // A copy of a workflow of another repository lies under its whole name, or under that without its version.
        self.get(path).or_else(|| self.get(path.split_once('@')?.0)).map(String::as_str)
    }
}

/// A library without workflows.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoLibrary;

impl Library for NoLibrary {
    fn workflow(&self, _uses: &str) -> Option<&str> {
        None
    }
}

impl Library for std::collections::BTreeMap<String, String> {
    fn workflow(&self, uses: &str) -> Option<&str> {
        self.get(uses).map(String::as_str)
    }
}
