//! What an action is given: the step's bench, and its inputs.

use std::future::Future;
use std::path::PathBuf;

use caisson_model::artifact::{Artifact, Clash, Kept};
use caisson_model::cache::{CacheEntry, CacheQuery, Saved};
use caisson_model::id::Digest;
use caisson_model::outcome::AnnotationLevel;

use crate::host::HostRules;
use crate::kept::Blob;
use crate::program::{Exit, Halt, Program};
use crate::trees::{Seedling, Tree};

/// What a step lends to the action that it runs.
pub trait Bench: Send {
    /// Runs a program in a sandbox of the job. One that was cut short ends the step with its [`Halt`].
    fn run(&mut self, program: Program) -> impl Future<Output = Result<Exit, Halt>> + Send;

    /// Writes a line to the step's log.
    fn say(&mut self, line: &str) -> impl Future<Output = ()> + Send;

    /// Shows a path of the host read-only, at its own place, to the rest of the job.
    fn show(&mut self, path: PathBuf);

    /// Sets an output of the step.
    fn output(&mut self, name: &str, value: &str);

    /// Sets a variable for later steps, as `GITHUB_ENV` does.
    fn export(&mut self, name: &str, value: &str);

    /// Puts a directory first in the `PATH` of later steps.
    fn add_path(&mut self, directory: &str);

    /// The host's rules.
    fn host(&self) -> &HostRules;

    /// A field of the `github` context.
    fn github(&self, key: &str) -> String;

    /// The workspace's path inside.
    fn workspace(&self) -> &str;

    /// Whether the run has a source tree.
    fn has_source(&self) -> bool;

    /// Whether the step may reach anything.
    fn has_network(&self) -> bool;

    /// The token with which the run's repository is cloned, where the step was given one.
    fn clone_credential(&self) -> Option<Vec<u8>>;

    /// A variable of the step's environment.
    fn variable(&self, name: &str) -> Option<&str>;

    /// Makes a remark, which is also a line of the log.
    fn remark(&mut self, level: AnnotationLevel, message: &str) -> impl Future<Output = ()> + Send;

    /// The digest that `hashFiles` answers for these patterns; the inner error is the function's.
    fn hash(&mut self, patterns: &[String]) -> impl Future<Output = Result<Result<String, String>, Halt>> + Send;

    /// Puts something off until after the job's last step, when `condition` holds then.
    fn later(&mut self, condition: &str, work: Later);

    /// Runs a program and hands what it prints to the controller as a blob; `None` when its code is not 0. More than `most` bytes
    /// end the step.
    fn collect(&mut self, program: Program, most: u64) -> impl Future<Output = Result<Option<Blob>, Halt>> + Send;

    /// Begins a tree; programs write it where [`Seedling::mount`] says.
    fn begin_tree(&mut self) -> impl Future<Output = Result<Seedling, Halt>> + Send;

    /// Ends a tree: it is the content of this blob.
    fn finish_tree(&mut self, seedling: Seedling, blob: Blob) -> impl Future<Output = Result<Tree, Halt>> + Send;

    /// The tree of a tar blob. `what` is its name for people.
    fn tree(&mut self, digest: Digest, what: &str) -> impl Future<Output = Result<Tree, Halt>> + Send;

    /// Whether a directory can show one of a tree.
    fn may_layer(&self, target: &str) -> bool;

    /// Lets a directory, which is there and empty, show one of a tree for the rest of the job.
    fn layer(&mut self, tree: &Tree, below: &str, target: &str) -> impl Future<Output = Result<(), Halt>> + Send;

    /// Keeps an artifact of the run.
    fn keep_artifact(&mut self, name: &str, blob: Blob, files: u32, clash: Clash) -> impl Future<Output = Result<Kept, Halt>> + Send;

    /// The artifacts of the run, by name.
    fn artifacts(&mut self) -> impl Future<Output = Result<Vec<Artifact>, Halt>> + Send;

    /// The cache entry that fits best.
    fn find_cache(&mut self, query: CacheQuery) -> impl Future<Output = Result<Option<CacheEntry>, Halt>> + Send;

    /// Saves a cache entry, unless there is one of its key.
    fn save_cache(&mut self, key: &str, version: &str, blob: Blob) -> impl Future<Output = Result<Saved, Halt>> + Send;
}

/// Something that was put off.
#[derive(Clone, Debug)]
pub enum Later {
    /// A cache is saved.
    SaveCache(Saving),
    /// Nothing but a line in the log.
    Say(String),
}

/// What is to be saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saving {
    /// The lines of `path`.
    pub paths: Vec<String>,
    /// The key.
    pub key: String,
}

/// The evaluated `with:` of a step; keys in lower case.
#[derive(Clone, Debug, Default)]
pub struct Inputs(pub Vec<(String, String)>);

impl Inputs {
    /// An input without surrounding white space; `None` when it is absent or empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.trim()).filter(|value| !value.is_empty())
    }
}

impl Inputs {
    /// Whether an input is `true`, in any case; `otherwise` when it is absent or empty.
    ///
    /// # Errors
    /// The [`Halt`] for any other word.
    pub fn truth(&self, name: &str, otherwise: bool) -> Result<bool, Halt> {
        match self.text(name) {
            None => Ok(otherwise),
            Some(text) if text.eq_ignore_ascii_case("true") => Ok(true),
            Some(text) if text.eq_ignore_ascii_case("false") => Ok(false),
            Some(text) => Err(Halt::invalid(format!("the input {name} is '{text}', where true or false is wanted"))),
        }
    }

    /// The lines of an input that are not empty, without surrounding white space.
    pub fn lines(&self, name: &str) -> Vec<String> {
        let lines = self.text(name).unwrap_or_default().lines();
        lines.map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
    }
}

/// A path that an input names, made relative to the workspace; `None` when it leaves it.
pub fn inside(workspace: &str, path: &str) -> Option<String> {
    let relative = path.strip_prefix(workspace).map_or(path, |rest| rest.trim_start_matches('/'));
    if relative.starts_with('/') {
        return None;
    }
    let mut parts = vec![workspace];
    for part in relative.split('/') {
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
    fn paths_of_inputs_stay_in_the_workspace() {
        for (path, expected) in
            [("", Some("/w")), (".", Some("/w")), ("a//b/.", Some("/w/a/b")), ("/w/a", Some("/w/a")), ("/etc", None), ("a/../..", None)]
        {
            assert_eq!(inside("/w", path).as_deref(), expected, "{path}");
        }
    }
}
