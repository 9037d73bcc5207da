//! What can be said about a workflow without a submission.

use caisson_model::diagnostic::Diagnostic;

use crate::action_file::Actions;
use crate::calls::{self, workflow};
use crate::diagnostic::{Report, Source, any_error};
use crate::events::{Trigger, triggers};
use crate::filter::{Verdict, unanswered, verdict};
use crate::library::{Library, NoLibrary};
use crate::limits::Limits;
use crate::support;
use crate::yaml::Node;

/// A workflow at a glance: enough to choose which one to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overview {
    /// The workflow's `name:`, or its file.
    pub workflow: String,
    /// The events that start it, in the order of the file.
    pub events: Vec<String>,
    /// Those of them that work on a branch raises: `pull_request`, and a `push` that is not for tags alone.
    pub branch_events: Vec<String>,
    /// The keys of its jobs, in the order of the file.
    pub jobs: Vec<String>,
}

/// All findings about a workflow, sorted by place; none when it is sound and everything in it is supported.
pub fn check(text: &str, file: &str, limits: &Limits, library: &dyn Library) -> Vec<Diagnostic> {
    let mut report = Report::under(Source::new(file, text), limits);
    if let Some(root) = workflow(&mut report, limits, library) {
        support::check(&root, limits.cells, &Actions { library, limits }, &mut report);
        calls::support(&root, limits, library, &mut report);
    }
    report.into_findings()
}

/// The times of `on.schedule`, in the order of the file; none when the workflow breaks a rule of the language.
pub fn schedules(text: &str, file: &str) -> Vec<String> {
    let mut report = Report::new(Source::new(file, text));
    let root = workflow(&mut report, &Limits::default(), &NoLibrary);
    if any_error(&report.into_findings()) {
        return Vec::new();
    }
    let schedule = root.as_ref().and_then(|root| root.get("on")?.get("schedule"));
    let times = schedule.map(Node::one_or_many).unwrap_or_default();
    times.into_iter().filter_map(|time| time.get("cron")?.text()).collect()
}

/// Why the filters of `on:` keep `event` from starting the workflow, by what the `github` context says of it and by the files that it
/// changed, where somebody knows them; `None` when they let it through, and when the workflow is not sound.
pub fn filtered(text: &str, file: &str, event: &str, github: &serde_json::Value, changes: Option<&[String]>) -> Option<String> {
    let mut report = Report::new(Source::new(file, text));
    let root = workflow(&mut report, &Limits::default(), &NoLibrary)?;
    let triggers = triggers(root.get("on")?);
    match verdict(triggers.iter().find(|trigger| trigger.event == event)?, github, changes) {
        Verdict::Starts => None,
        Verdict::Filtered(reason) => Some(reason),
    }
}

/// Whether a workflow filters `event` by the paths of changed files; false when the workflow is not sound.
pub fn wants_changes(text: &str, file: &str, event: &str) -> bool {
    let mut report = Report::new(Source::new(file, text));
    let root = workflow(&mut report, &Limits::default(), &NoLibrary);
    let triggers = root.as_ref().and_then(|root| root.get("on")).map(triggers).unwrap_or_default();
    triggers.iter().any(|trigger| trigger.event == event && !unanswered(trigger).is_empty())
}

/// Name, events and jobs of a workflow that breaks no rule of the language; what is unsupported does not matter here.
///
/// # Errors
/// The findings of kind language.
pub fn events(text: &str, file: &str) -> Result<Overview, Vec<Diagnostic>> {
    let mut report = Report::new(Source::new(file, text));
    let root = workflow(&mut report, &Limits::default(), &NoLibrary);
    let findings = report.into_findings();
    let triggers = root.as_ref().and_then(|root| root.get("on")).map(triggers).unwrap_or_default();
    match &root {
        Some(root) if !any_error(&findings) => Ok(Overview {
            workflow: root.get("name").and_then(Node::text).filter(|name| !name.is_empty()).unwrap_or_else(|| file.to_owned()),
            branch_events: triggers.iter().filter(|trigger| of_branches(trigger)).map(|trigger| trigger.event.clone()).collect(),
            events: triggers.into_iter().map(|trigger| trigger.event).collect(),
            jobs: root.get("jobs").map(Node::entries).unwrap_or_default().iter().map(|entry| entry.key.clone()).collect(),
        }),
        _ => Err(findings),
    }
}

/// Whether work on a branch raises the event: a push filtered by tags and not by branches is raised by tags alone.
fn of_branches(trigger: &Trigger<'_>) -> bool {
    let names = |key: &str| trigger.details.is_some_and(|details| details.get(key).is_some());
    match trigger.event.as_str() {
        "push" => !(names("tags") || names("tags-ignore")) || names("branches") || names("branches-ignore"),
        event => event == "pull_request",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::events;

    fn raised(on: &str) -> Vec<String> {
        let text = format!("on: {on}\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps: [{{run: 'true'}}]\n");
        events(&text, "t.yml").unwrap().branch_events
    }

    #[test]
    fn a_push_for_tags_alone_is_no_work_on_a_branch() {
        assert_eq!(raised("[push, pull_request, workflow_dispatch]"), ["push", "pull_request"]);
        assert_eq!(raised("{push: {tags: ['v*']}, pull_request: {}}"), ["pull_request"]);
        assert_eq!(raised("{push: {tags: ['v*'], branches: [main]}}"), ["push"]);
        assert_eq!(raised("{push: {tags-ignore: ['v*'], branches-ignore: [docs]}}"), ["push"]);
        assert_eq!(raised("{push: {tags-ignore: ['v*']}}"), [] as [&str; 0]);
        assert_eq!(raised("{push: {paths: ['*.py']}}"), ["push"]);
        assert_eq!(raised("{release: {types: [published]}}"), [] as [&str; 0]);
    }
}
