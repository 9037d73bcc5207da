//! What an action is given: the step's bench, and its inputs.

use std::future::Future;
use std::path::PathBuf;

use crate::host::HostRules;
use crate::program::{Exit, Halt, Program};

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
