//! What a workflow may refer to beside itself: called workflows, local actions, actions of the mirror, and those that are
//! declared to do nothing.

use caisson_model::id::Digest;
use indexmap::IndexMap;

/// What others may refer to. The crate reads no files: whoever plans hands the texts in.
pub trait Library {
    /// The text of a workflow by what `uses:` says, such as `./.github/workflows/build.yml`; `None` when there is none.
    fn workflow(&self, uses: &str) -> Option<&str>;

    /// The file and text of a local action by what `uses:` says, such as `./.github/actions/setup`; `None` when there is none.
    fn action(&self, _uses: &str) -> Option<ActionText<'_>> {
        None
    }

    /// An action of the mirror by `owner/repository[/path]` and version; `None` when that was never added.
    fn mirrored(&self, _name: &str, _version: &str) -> Option<Mirrored<'_>> {
        None
    }

    /// The versions of an action's repository that the mirror has, for messages.
    fn mirrored_versions(&self, _name: &str) -> Vec<String> {
        Vec::new()
    }

    /// Who declared the action of this name to do nothing; `None` when nobody did.
    fn declared_no_op(&self, _name: &str) -> Option<String> {
        None
    }
}

/// The description of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActionText<'l> {
    /// Its directory, relative to the top of its repository; empty for the top.
    pub directory: &'l str,
    /// The file, for messages.
    pub file: &'l str,
    /// Its text.
    pub text: &'l str,
}

/// An action of the mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mirrored<'l> {
    /// The whole repository as a tar blob.
    pub tree: Digest,
    /// `owner/repository`.
    pub name: &'l str,
    /// Its description.
    pub text: ActionText<'l>,
}

/// A library with nothing in it.
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

/// The texts of a checkout, by path.
impl Library for IndexMap<String, String> {
    fn workflow(&self, uses: &str) -> Option<&str> {
        let path = uses.strip_prefix("./").unwrap_or(uses);
        // A copy of a workflow of another repository lies under its whole name, or under that without its version.
        self.get(path).or_else(|| self.get(path.split_once('@')?.0)).map(String::as_str)
    }

    fn action(&self, uses: &str) -> Option<ActionText<'_>> {
        let directory = local_directory(uses)?;
        let file = |name: &str| if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") };
        let (file, text) = ["action.yml", "action.yaml"].iter().find_map(|name| self.get_key_value(&file(name)))?;
        let directory = file.rsplit_once('/').map_or("", |(directory, _)| directory);
        Some(ActionText { directory, file, text })
    }
}

/// The directory that a local `uses:` names, relative to the workspace; `None` when it leaves it.
pub fn local_directory(uses: &str) -> Option<String> {
    let rest = uses.strip_prefix("./").or_else(|| (uses == ".").then_some(""))?;
    let mut parts = Vec::new();
    for part in rest.split('/') {
        match part {
            "" | "." => {}
            ".." => return None,
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_actions_lie_in_the_checkout() {
        for (uses, expected) in [
            ("./", Some("")),
            ("./a", Some("a")),
            ("./a//b/./c/", Some("a/b/c")),
            ("./../x", None),
            ("./a/../../x", None),
            ("a/b", None),
            ("/etc", None),
        ] {
            assert_eq!(local_directory(uses).as_deref(), expected, "{uses}");
        }
    }
}
