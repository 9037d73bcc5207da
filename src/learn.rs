//! What a run wanted and no policy named: as entries of a policy, and as a patch of the file that they belong to.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use caisson_controller::policy::Rules;
use caisson_controller::policy::rules::StepSubject;
use caisson_model::outcome::Fault;
use caisson_model::run::StepView;
use caisson_proto::api::RunDetail;

use crate::policy_file::{IN_CHECKOUT, PolicyError, PolicyFile};
use crate::report::Explained;

/// Where a patch is written, in the checkout.
pub(crate) const PATCH: &str = ".caisson/learned.patch";

/// A patch cannot be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LearnError {
    /// The policy that it changes cannot be read.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The disk refuses.
    #[error("cannot write {}", .0.display())]
    Write(PathBuf, #[source] std::io::Error),
    /// The policy forbids it.
    #[error("the policy does not let runs learn")]
    Forbidden,
}

impl Explained for LearnError {
    fn fault(&self) -> Fault {
        match self {
            LearnError::Policy(error) => error.fault(),
            LearnError::Write(..) => Fault::Environment,
            LearnError::Forbidden => Fault::User,
        }
    }

    fn help(&self) -> Option<String> {
        match self {
            LearnError::Policy(error) => error.help(),
            LearnError::Write(..) => None,
            LearnError::Forbidden => Some("set `learn = true` under [network] in the policy, or run without --learn".to_owned()),
        }
    }
}

/// The entry of a policy that lets one step reach these destinations.
pub(crate) fn step_rule(job: &str, step: &StepView, destinations: &[&str]) -> String {
    let name = step.id.as_deref().unwrap_or(&step.name);
    let list = destinations.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", ");
    format!("[[step]]\njob = {}\nstep = {}\nallow = [{list}]\n", quoted(&literally(job)), quoted(&literally(name)))
}

/// A pattern that covers this text alone.
fn literally(text: &str) -> String {
    text.chars().map(|c| if matches!(c, '*' | '?' | '[' | ']') { format!("[{c}]") } else { c.to_string() }).collect()
}

/// A text as TOML writes it.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// The smallest entries that let these runs do what they did: one a step, with what it reached that no rule named. Empty when there is
/// nothing.
pub(crate) fn entries(runs: &[RunDetail], rules: &Rules) -> String {
    let mut wanted: BTreeMap<(String, String), (&StepView, BTreeSet<String>)> = BTreeMap::new();
    for detail in runs {
        for step in &detail.steps {
            let Some(job) = detail.jobs.iter().find(|job| job.id == step.attempt.job) else { continue };
            let new: BTreeSet<String> = step
                .result
                .iter()
                .flat_map(|result| &result.egress)
                .filter(|entry| entry.is_new() && entry.port != 0 && entry.rule.starts_with(caisson_model::outcome::LEARNING))
                .map(|entry| entry.target())
                .collect();
            if new.is_empty() {
                continue;
            }
            // A later entry stands in place of an earlier one's list, so what that allows is repeated.
            let names = [step.id.as_deref().unwrap_or_default(), step.name.as_str()];
            let subject = StepSubject { workflow: [&detail.run.workflow, &detail.run.file], job: &job.key.0, step: &names };
            let before = rules.for_step(&subject).allow.unwrap_or_default();
            let key = (job.key.0.clone(), step.id.clone().unwrap_or_else(|| step.name.clone()));
            let (_, list) = wanted.entry(key).or_insert_with(|| (step, BTreeSet::new()));
            list.extend(new);
            list.extend(before.iter().map(ToString::to_string));
        }
    }
    let texts = wanted.iter().map(|((job, _), (step, list))| {
        let list: Vec<&str> = list.iter().map(String::as_str).collect();
        step_rule(job, step, &list)
    });
    texts.collect::<Vec<_>>().join("\n")
}

/// A unified diff that adds `entries` to the end of a file named `name`, which holds `text` (`None`: it does not exist).
pub(crate) fn patch(name: &str, text: Option<&str>, entries: &str) -> String {
    let old: Vec<&str> = text.unwrap_or_default().lines().collect();
    let open = text.is_some_and(|text| !text.is_empty() && !text.ends_with('\n'));
    let context = &old[old.len().saturating_sub(3)..];
    let mut added: Vec<&str> = entries.lines().collect();
    if !old.is_empty() {
        added.insert(0, "");
    }
    let from = if text.is_some() { format!("a/{name}") } else { "/dev/null".to_owned() };
    let first = old.len() - context.len() + usize::from(!context.is_empty());
    let (kept, made) = (context.len(), context.len() + added.len());
    let after = first.max(1);
    let mut diff = format!("--- {from}\n+++ b/{name}\n@@ -{first},{kept} +{after},{made} @@\n");
    for (index, line) in context.iter().enumerate() {
        if open && index + 1 == context.len() {
            diff.push_str(&format!("-{line}\n\\ No newline at end of file\n+{line}\n"));
        } else {
            diff.push_str(&format!(" {line}\n"));
        }
    }
    added.iter().for_each(|line| diff.push_str(&format!("+{line}\n")));
    diff
}

/// Writes what runs wanted as a patch of the policy in force: the one given, else the checkout's own. Answers where it is, with its
/// text; `None` when nothing new was wanted.
pub(crate) fn write(
    runs: &[RunDetail],
    rules: &Rules,
    given: Option<&Path>,
    checkout: &Path,
) -> Result<Option<(PathBuf, String)>, LearnError> {
    let entries = entries(runs, rules);
    if entries.is_empty() {
        return Ok(None);
    }
    let file = given.map_or_else(|| checkout.join(IN_CHECKOUT), Path::to_owned);
    let name = match given {
        Some(path) => path.strip_prefix(checkout).unwrap_or(path).display().to_string().trim_start_matches('/').to_owned(),
        None => IN_CHECKOUT.to_owned(),
    };
    let text = PolicyFile::read(&file)?.map(|file| file.text);
    let path = checkout.join(PATCH);
    let failed = |error| LearnError::Write(path.clone(), error);
    std::fs::create_dir_all(path.parent().unwrap_or(checkout)).map_err(failed)?;
    let patch = patch(&name, text.as_deref(), &entries);
    std::fs::write(&path, &patch).map_err(failed)?;
    Ok(Some((path, patch)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What `git apply` makes of a file.
    fn applied(before: Option<&str>, entries: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("policy.toml");
        if let Some(text) = before {
            std::fs::write(&file, text).unwrap();
        }
        std::fs::write(folder.path().join("p.patch"), patch("policy.toml", before, entries)).unwrap();
        let git = std::process::Command::new("git").args(["apply", "p.patch"]).current_dir(folder.path()).output().unwrap();
        assert!(git.status.success(), "{}", String::from_utf8_lossy(&git.stderr));
        std::fs::read_to_string(file).unwrap()
    }

    #[test]
    fn a_patch_applies_to_every_kind_of_file() {
        let entries = "[[step]]\njob = \"a\"\nstep = \"b\"\nallow = [\"c:443\"]\n";
        assert_eq!(applied(None, entries), entries);
        for before in ["[network]\n", "[network]\nallow = []\nranges = []\n# a\n# b\n", "[network]\nallow = []"] {
            let after = applied(Some(before), entries);
            assert_eq!(after, format!("{}\n\n{entries}", before.trim_end()), "{before:?}");
            toml::from_str::<Rules>(&after).unwrap();
        }
    }

    #[test]
    fn names_are_patterns_that_cover_themselves_alone() {
        assert_eq!(literally("Run [fast] *"), "Run [[]fast[]] [*]");
        assert_eq!(quoted("a\"b"), "'a\"b'");
    }
}
