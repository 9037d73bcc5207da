//! From a submission to an admitted plan: the workflow, what it may refer to, and the rules.

use std::collections::BTreeSet;

use caisson_model::diagnostic::Diagnostic;
use caisson_model::run::Submission;
use caisson_workflow::{ActionText, Library, Mirrored, Plan};
use indexmap::IndexMap;

use crate::mirror::Mirror;
use crate::policy::{self, Rules};

/// Plans a submission with what it may refer to, and admits the plan. `known` are the names of the secrets that can be opened.
///
/// # Errors
/// All findings, warnings among them, when at least one is an error.
pub fn plan(submission: &Submission, rules: &Rules, mirror: &Mirror, known: &BTreeSet<String>) -> Result<Plan, Vec<Diagnostic>> {
    policy::admit(planned(submission, rules, mirror)?, rules, known)
}

/// The plan alone, with closed grants.
///
/// # Errors
/// As [`plan`].
pub fn planned(submission: &Submission, rules: &Rules, mirror: &Mirror) -> Result<Plan, Vec<Diagnostic>> {
    let references = References { files: &submission.files, mirror, rules };
    caisson_workflow::plan_with(&submission.text, &submission.file, submission, &rules.workflow_limits(), &references)
}

/// What a workflow may refer to: its checkout's texts, the mirror, and what the rules declare.
#[derive(Clone, Copy, Debug)]
pub struct References<'r> {
    /// Texts of the checkout, by path.
    pub files: &'r IndexMap<String, String>,
    /// The mirror.
    pub mirror: &'r Mirror,
    /// The rules.
    pub rules: &'r Rules,
}

impl Library for References<'_> {
    fn workflow(&self, uses: &str) -> Option<&str> {
        self.files.workflow(uses)
    }

    fn action(&self, uses: &str) -> Option<ActionText<'_>> {
        self.files.action(uses)
    }

    fn mirrored(&self, name: &str, version: &str) -> Option<Mirrored<'_>> {
        let (repository, directory) = split(name)?;
        let found = self.mirror.repositories.get(&(repository, version.to_owned()))?;
        let (directory, description) = found.actions.get_key_value(directory)?;
        // The place inside is named after it.
        let name = found.repository.as_str();
        Some(Mirrored { tree: found.tree, name, text: ActionText { directory, file: &description.file, text: &description.text } })
    }

    fn mirrored_versions(&self, name: &str) -> Vec<String> {
        let Some((repository, _)) = split(name) else { return Vec::new() };
        self.mirror.repositories.keys().filter(|(other, _)| *other == repository).map(|(_, version)| version.clone()).collect()
    }

    fn declared_no_op(&self, name: &str) -> Option<String> {
        let name = name.to_lowercase();
        let declared = self.rules.actions.no_op.iter().any(|glob| glob.covers(&name));
        declared.then(|| format!("{} declares it a no-op", self.rules.origin()))
    }
}

/// `owner/repository` in lower case, and the directory in it.
fn split(name: &str) -> Option<(String, &str)> {
    let (owner, rest) = name.split_once('/')?;
    let (repository, directory) = rest.split_once('/').unwrap_or((rest, ""));
    Some((format!("{owner}/{repository}").to_lowercase(), directory.trim_end_matches('/')))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::mirror::{Description, MirroredRepository};
    use caisson_model::id::Digest;
    use caisson_model::time::Timestamp;

    #[test]
    fn actions_are_found_by_name_version_and_directory() {
        let dir = tempfile::tempdir().unwrap();
        let description = |file: &str| Description { file: file.to_owned(), text: "x".to_owned() };
        let repository = MirroredRepository {
            repository: "acme/tools".to_owned(),
            version: "v1".to_owned(),
            commit: None,
            tree: Digest([7; 32]),
            bytes: 3,
            origin: "/srv/tools".to_owned(),
            added: Timestamp(1),
            actions: [(String::new(), description("action.yml")), ("lint".to_owned(), description("lint/action.yaml"))]
                .into_iter()
                .collect(),
        };
        Mirror::add(dir.path(), &repository).unwrap();
        let mirror = Mirror::read(dir.path()).unwrap();
        let (files, rules) = (IndexMap::new(), Rules::default());
        let references = References { files: &files, mirror: &mirror, rules: &rules };
        let file = |name: &str, version: &str| references.mirrored(name, version).map(|found| found.text.file.to_owned());
        assert_eq!(file("Acme/Tools", "v1").as_deref(), Some("action.yml"));
        assert_eq!(file("acme/tools/lint", "v1").as_deref(), Some("lint/action.yaml"));
        assert_eq!(file("acme/tools/lint", "v2"), None);
        assert_eq!(file("acme/tools/none", "v1"), None);
        assert_eq!(references.mirrored_versions("acme/tools"), ["v1"]);
        assert!(Mirror::remove(dir.path(), "Acme/tools", "v1").unwrap());
        assert!(!Mirror::remove(dir.path(), "acme/tools", "v1").unwrap());
        assert_eq!(Mirror::read(dir.path()).unwrap(), Mirror::default());
    }
}
