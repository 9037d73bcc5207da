//! Which workflows a person means, and what to hand in for each.

use std::io::Read;
use std::path::{Path, PathBuf};

use caisson_model::diagnostic::Diagnostic;
use caisson_model::outcome::Fault;
use caisson_model::run::{Submission, Texts};
use caisson_workflow::Overview;
use indexmap::IndexMap;

use crate::cli::Selection;
use crate::config::Environment;
use crate::git::{Facts, GitError, Repository, Since};
use crate::plans::Refused;
use crate::references;
use crate::report::{Explained, Failure};
use crate::{generated, machine, project};

/// Where workflows lie in a checkout.
pub(crate) const FOLDER: &str = ".github/workflows";

/// What a workflow is called that stands in no file.
const GENERATED: &str = "(generated)";

/// A workflow longer than this is none.
const LONGEST: u64 = 1 << 20;

/// How many workflows others may refer to.
const MOST_FILES: usize = 1000;

/// What was chosen.
#[derive(Debug)]
pub(crate) struct Chosen {
    /// The checkout, absolute and without symbolic links.
    pub(crate) checkout: PathBuf,
    /// Its repository.
    pub(crate) repository: Option<Repository>,
    /// One per workflow, without the source's digest.
    pub(crate) submissions: Vec<Submission>,
    /// What a person should know about the choice.
    pub(crate) notes: Vec<String>,
    /// Whether the workflows were named, so that they are to run together or not at all.
    pub(crate) named: bool,
    /// Workflows that are none, where the rest may run without them.
    pub(crate) refused: Option<Refused>,
}

/// Nothing can be chosen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SelectionError {
    /// The checkout is none.
    #[error("cannot use {} as a checkout", .0.display())]
    Checkout(PathBuf, #[source] std::io::Error),
    /// There are no workflows.
    #[error("{} has no workflows: there is no *.yml or *.yaml in {FOLDER}", .0.display())]
    NoWorkflows(PathBuf),
    /// A named workflow is not there.
    #[error("there is no workflow {}", .0.display())]
    NoSuchWorkflow(PathBuf),
    /// A workflow cannot be read.
    #[error("cannot read the workflow {}", .0.display())]
    Read(PathBuf, #[source] std::io::Error),
    /// A workflow is too long or not text.
    #[error("{} is not a workflow: {reason}", path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// No workflow has the event.
    #[error("no workflow is started by the event {event}")]
    NoEvent {
        /// The event.
        event: String,
        /// Each workflow with its events.
        known: Vec<String>,
    },
    /// No workflow has a job that was named.
    #[error("no workflow that the event starts has a job {job}")]
    NoJob {
        /// The job.
        job: String,
        /// The jobs that there are.
        known: Vec<String>,
    },
    /// Workflows break rules of the language.
    #[error("{count} {} refused", if *count == 1 { "workflow is" } else { "workflows are" })]
    Refused {
        /// How many.
        count: usize,
        /// Why.
        findings: Vec<Diagnostic>,
    },
    /// The commit that changes are to be counted from is none.
    #[error("--base {0} names no commit here")]
    Base(String),
    /// git did not answer.
    #[error(transparent)]
    Git(#[from] GitError),
}

impl Explained for SelectionError {
    fn fault(&self) -> Fault {
        match self {
            SelectionError::Git(error) => error.fault(),
            SelectionError::Read(..) => Fault::Environment,
            _ => Fault::User,
        }
    }

    fn help(&self) -> Option<String> {
        match self {
            SelectionError::NoWorkflows(_) => {
                Some(format!("write {FOLDER}/test.yml, or name a checkout that has workflows: caisson run DIR"))
            }
            SelectionError::NoSuchWorkflow(_) => Some(format!("name a file of {FOLDER}, or give a path")),
            SelectionError::NoEvent { known, .. } => Some(format!("events: {}", known.join("; "))),
            SelectionError::NoJob { known, .. } => Some(format!("jobs: {}", known.join(", "))),
            SelectionError::Base(_) => Some("name a branch, tag or commit of this repository: --base main".to_owned()),
            SelectionError::Git(error) => error.help(),
            _ => None,
        }
    }

    fn findings(&self) -> Vec<Diagnostic> {
        match self {
            SelectionError::Refused { findings, .. } => findings.clone(),
            _ => Vec::new(),
        }
    }
}

/// The absolute path of a checkout.
pub(crate) fn checkout(directory: &Path) -> Result<PathBuf, SelectionError> {
    let failed = |error| SelectionError::Checkout(directory.to_owned(), error);
    let path = directory.canonicalize().map_err(failed)?;
    if path.is_dir() { Ok(path) } else { Err(failed(std::io::ErrorKind::NotADirectory.into())) }
}

struct Candidate {
    file: String,
    text: String,
    overview: Overview,
}

/// Reads the workflows, decides the event of each, and asks git what the `github` context says.
pub(crate) fn choose(selection: &Selection, environment: &Environment) -> Result<Chosen, Failure> {
    let checkout = checkout(&selection.directory)?;
    let mut candidates = Vec::new();
    let mut notes = Vec::new();
    let (mut refused, mut findings) = (0, Vec::new());
    for found in found(&checkout, &selection.workflows, environment)? {
        let WorkflowFile { file, text } = found;
        let text = text.map_err(|reason| SelectionError::Text { path: checkout.join(&file), reason })?;
        if file == GENERATED {
            notes.push(format!(
                "this checkout has no workflow, so this one is used; `caisson init` writes it to {}:\n\n{text}",
                generated::FILE
            ));
        }
        match caisson_workflow::events(&text, &file) {
            Ok(overview) => candidates.push(Candidate { file, text, overview }),
            Err(found) => {
                refused += 1;
                findings.extend(found);
            }
        }
    }
    let named = !selection.workflows.is_empty();
    if refused > 0 && (named || candidates.is_empty()) {
        return Err(SelectionError::Refused { count: refused, findings }.into());
    }
    let refused = (refused > 0).then(|| Refused::unread(refused, findings));
    // Whatever is there means: what work on this branch starts. A release is not made by the way.
    let of_branches = !named
        && selection.event.is_none()
        && selection.jobs.is_empty()
        && candidates.iter().any(|candidate| !candidate.overview.branch_events.is_empty());
    let repository = Repository::of(&checkout).map_err(SelectionError::Git)?;
    let facts = Facts::of(&checkout, repository.as_ref(), actor(environment)).map_err(SelectionError::Git)?;
    let files = library(&checkout);
    let mut submissions = Vec::new();
    let mut started: Vec<&Candidate> = Vec::new();
    for candidate in &candidates {
        if of_branches && candidate.overview.branch_events.is_empty() {
            notes.push(format!(
                "{} does not run: no push or pull request of a branch starts it (its events: {}); -W runs it",
                candidate.file,
                candidate.overview.events.join(", ")
            ));
            continue;
        }
        match event_of(&candidate.overview, selection.event.as_deref()) {
            Some(event) => {
                started.push(candidate);
                let changes = changes(selection, repository.as_ref(), &event)?;
                let github = context(selection, &facts, &event);
                if changes.is_some()
                    && let Some(reason) = caisson_workflow::filtered(&candidate.text, &candidate.file, &event, &github, changes.as_deref())
                {
                    notes.push(format!("{} does not run on {event}: {reason}", candidate.file));
                    continue;
                }
                submissions.push(Submission {
                    file: candidate.file.clone(),
                    text: candidate.text.clone(),
                    event,
                    inputs: selection.inputs.iter().cloned().collect(),
                    env: selection.env.iter().cloned().collect(),
                    jobs: selection.jobs.iter().filter(|job| candidate.overview.jobs.contains(job)).cloned().collect(),
                    matrix: cells(selection),
                    github,
                    source: None,
                    files: files.clone(),
                    priority: 0,
                    changes,
                });
            }
            None => notes.push(format!(
                "{} does not run: {} does not start it (its events: {})",
                candidate.file,
                selection.event.as_deref().unwrap_or("no local event"),
                candidate.overview.events.join(", ")
            )),
        }
    }
    if started.is_empty() {
        let known = candidates.iter().map(|candidate| format!("{} has {}", candidate.file, candidate.overview.events.join(", ")));
        return Err(SelectionError::NoEvent {
            event: selection.event.clone().unwrap_or_else(|| "push".to_owned()),
            known: known.collect(),
        }
        .into());
    }
    if !selection.jobs.is_empty() {
        if let Some(job) = selection.jobs.iter().find(|job| !started.iter().any(|candidate| candidate.overview.jobs.contains(job))) {
            let known = started.iter().flat_map(|candidate| candidate.overview.jobs.clone()).collect();
            return Err(SelectionError::NoJob { job: job.clone(), known }.into());
        }
        // A workflow that has none of the jobs has nothing to do; an empty list would mean all of them.
        submissions.retain(|submission| !submission.jobs.is_empty());
    }
    Ok(Chosen { checkout, repository, submissions, notes, named, refused })
}

/// The cells that were asked for: the values of each key together.
fn cells(selection: &Selection) -> IndexMap<String, Vec<String>> {
    let mut cells: IndexMap<String, Vec<String>> = IndexMap::new();
    for (key, value) in &selection.matrix {
        cells.entry(key.clone()).or_default().push(value.clone());
    }
    cells
}

/// The files that changed since the commit that was named; `None` without one.
fn changes(selection: &Selection, repository: Option<&Repository>, event: &str) -> Result<Option<Vec<String>>, SelectionError> {
    let Some(base) = &selection.base else { return Ok(None) };
    let since = if event == "pull_request" { Since::Fork } else { Since::There };
    let changes = repository.map(|repository| repository.changes(base, since)).transpose()?.flatten();
    changes.map(Some).ok_or_else(|| SelectionError::Base(base.clone()))
}

/// The `github` context; what a pull request is for is the branch that was named.
fn context(selection: &Selection, facts: &Facts, event: &str) -> serde_json::Value {
    let mut github = facts.context(event);
    if event == "pull_request"
        && let Some(base) = &selection.base
    {
        let branch = base.strip_prefix("refs/heads/").or_else(|| base.strip_prefix("refs/remotes/origin/"));
        let branch = branch.or_else(|| base.strip_prefix("origin/")).unwrap_or(base);
        // A commit is no branch: the pull request is for the default one.
        if branch.contains(['~', '^', '@', ':']) || (branch.len() >= 7 && branch.bytes().all(|b| b.is_ascii_hexdigit())) {
            return github;
        }
        github["base_ref"] = branch.into();
        github["event"]["pull_request"]["base"]["ref"] = branch.into();
    }
    github
}

/// The event that a workflow is to be started with: the one asked for if the workflow has it; else the likeliest one.
fn event_of(overview: &Overview, asked: Option<&str>) -> Option<String> {
    let among = |events: &[String], event: &str| events.iter().find(|other| *other == event).cloned();
    match asked {
        Some(event) => among(&overview.events, event),
        None => ["push", "pull_request"]
            .into_iter()
            .find_map(|event| among(&overview.branch_events, event))
            .or_else(|| ["push", "workflow_dispatch", "schedule"].into_iter().find_map(|event| among(&overview.events, event))),
    }
}

fn all(checkout: &Path) -> Result<Vec<PathBuf>, SelectionError> {
    let folder = checkout.join(FOLDER);
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(SelectionError::NoWorkflows(checkout.to_owned())),
        Err(error) => return Err(SelectionError::Read(folder, error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| SelectionError::Read(folder.clone(), error))?.path();
        if path.extension().is_some_and(|extension| extension == "yml" || extension == "yaml") && path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    if paths.is_empty() { Err(SelectionError::NoWorkflows(checkout.to_owned())) } else { Ok(paths) }
}

/// The texts that workflows of the checkout may call, by path. What cannot be read is not there.
pub(crate) fn library(checkout: &Path) -> Texts {
    let paths = all(checkout).unwrap_or_default();
    let text = |path: &PathBuf| Some((path.strip_prefix(checkout).ok()?.to_str()?.to_owned(), read(path).ok()?));
    let mut submission = Submission::default();
    submission.files.extend(paths.iter().filter_map(text));
    let mut open: Vec<String> = submission.files.iter().flat_map(|(path, text)| caisson_workflow::calls(text, path)).collect();
    // Workflows elsewhere in the checkout, and copies of other repositories' under their names; a few rounds of calls at most.
    while let Some(uses) = open.pop() {
        let path = uses.strip_prefix("./").unwrap_or(&uses);
        let inside = |path: &str| Path::new(path).components().all(|part| matches!(part, std::path::Component::Normal(_)));
        let places = [Some(path), path.split_once('@').map(|(path, _)| path)];
        for path in places.into_iter().flatten().filter(|path| inside(path)) {
            if submission.files.len() >= MOST_FILES || submission.files.contains_key(path) {
                continue;
            }
            if let Ok(text) = read(&checkout.join(path)) {
                open.extend(caisson_workflow::calls(&text, path));
                submission.files.insert(path.to_owned(), text);
            }
        }
    }
    // And the actions of the checkout that any of these use.
    for text in submission.files.values().cloned().collect::<Vec<_>>() {
        for (path, text) in references::texts(checkout, &text) {
            if submission.files.len() < MOST_FILES {
                submission.files.entry(path).or_insert(text);
            }
        }
    }
    submission.files
}

/// A workflow of a checkout as it was found.
#[derive(Debug)]
pub(crate) struct WorkflowFile {
    /// Its path, relative to the checkout where it lies in it.
    pub(crate) file: String,
    /// Its text, or why it has none.
    pub(crate) text: Result<String, String>,
}

/// The workflows named, or all of them.
pub(crate) fn files(checkout: &Path, names: &[PathBuf]) -> Result<Vec<WorkflowFile>, SelectionError> {
    let paths = if names.is_empty() { all(checkout)? } else { named(checkout, names)? };
    let file = |path: PathBuf| {
        let text = match read(&path) {
            Ok(text) => Ok(text),
            Err(SelectionError::Text { reason, .. }) => Err(reason),
            Err(error) => return Err(error),
        };
        Ok(WorkflowFile { file: path.strip_prefix(checkout).unwrap_or(&path).display().to_string(), text })
    };
    paths.into_iter().map(file).collect()
}

/// The same; where a Django checkout has none at all, the one that is made for it.
fn found(checkout: &Path, names: &[PathBuf], environment: &Environment) -> Result<Vec<WorkflowFile>, SelectionError> {
    match files(checkout, names) {
        Err(SelectionError::NoWorkflows(path)) => match project::discover(checkout, &machine::minor_versions(environment)) {
            Some(project) => Ok(vec![WorkflowFile { file: GENERATED.to_owned(), text: Ok(generated::workflow(&project)) }]),
            None => Err(SelectionError::NoWorkflows(path)),
        },
        found => found,
    }
}

/// A submission of every workflow, right or wrong, to be looked at: the event asked for where a workflow has it, else its likeliest.
pub(crate) fn every(selection: &Selection, environment: &Environment) -> Result<(PathBuf, Vec<Submission>), Failure> {
    let checkout = checkout(&selection.directory)?;
    let repository = Repository::of(&checkout).map_err(SelectionError::Git)?;
    let facts = Facts::of(&checkout, repository.as_ref(), actor(environment)).map_err(SelectionError::Git)?;
    let files = library(&checkout);
    let submission = |found: WorkflowFile| {
        // A text that is none is refused by the plan, as an empty one.
        let text = found.text.unwrap_or_default();
        let overview = caisson_workflow::events(&text, &found.file).ok();
        let likeliest = |asked| overview.as_ref().and_then(|overview| event_of(overview, asked));
        let asked = likeliest(selection.event.as_deref()).or_else(|| selection.event.clone());
        let first = || overview.as_ref().and_then(|overview| overview.events.first().cloned());
        let event = asked.or_else(|| likeliest(None)).or_else(first).unwrap_or_else(|| "push".to_owned());
        Ok(Submission {
            file: found.file,
            text,
            changes: if selection.base.is_some() { changes(selection, repository.as_ref(), &event)? } else { None },
            github: context(selection, &facts, &event),
            event,
            inputs: selection.inputs.iter().cloned().collect(),
            env: selection.env.iter().cloned().collect(),
            jobs: selection.jobs.clone(),
            matrix: cells(selection),
            files: files.clone(),
            ..Submission::default()
        })
    };
    let found = found(&checkout, &selection.workflows, environment)?;
    Ok((checkout, found.into_iter().map(submission).collect::<Result<_, SelectionError>>()?))
}

fn actor(environment: &Environment) -> &str {
    ["USER", "LOGNAME"].iter().find_map(|name| environment.get(std::ffi::OsStr::new(name))?.to_str()).unwrap_or("caisson")
}

fn named(checkout: &Path, names: &[PathBuf]) -> Result<Vec<PathBuf>, SelectionError> {
    let mut paths = Vec::new();
    for name in names {
        // First as a path from here, as any other command would take it.
        let places = [name.clone(), checkout.join(name), checkout.join(FOLDER).join(name)];
        let found = places.iter().find(|path| path.is_file()).and_then(|path| path.canonicalize().ok());
        let found = found.ok_or_else(|| SelectionError::NoSuchWorkflow(name.clone()))?;
        if !paths.contains(&found) {
            paths.push(found);
        }
    }
    Ok(paths)
}

fn read(path: &Path) -> Result<String, SelectionError> {
    let failed = |error| SelectionError::Read(path.to_owned(), error);
    let mut bytes = Vec::new();
    crate::regular::open(path).map_err(failed)?.take(LONGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
    let text = |reason: &str| SelectionError::Text { path: path.to_owned(), reason: reason.to_owned() };
    if bytes.len() as u64 > LONGEST {
        return Err(text("it is longer than 1 MiB"));
    }
    String::from_utf8(bytes).map_err(|_| text("it is not UTF-8 text"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const BOTH: &str = "on: [pull_request, push]\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps: [{run: 'true'}]\n";
    const BY_HAND: &str = "on: workflow_dispatch\njobs:\n  b:\n    runs-on: ubuntu-latest\n    steps: [{run: 'true'}]\n";

    fn choose_in(files: &[(&str, &str)], selection: Selection) -> Result<Chosen, Failure> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join(FOLDER)).unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(FOLDER).join(name), text).unwrap();
        }
        choose(&Selection { directory: dir.path().to_owned(), ..selection }, &Environment::new())
    }

    fn chosen(result: &Chosen) -> Vec<(String, String)> {
        result.submissions.iter().map(|s| (s.file.clone(), s.event.clone())).collect()
    }

    #[test]
    fn every_workflow_runs_with_its_likeliest_event() {
        let pull = BOTH.replace("[pull_request, push]", "{push: {tags: ['v*']}, pull_request: {}}");
        let result = choose_in(&[("b.yaml", &pull), ("a.yml", BOTH), ("c.txt", "")], Selection::default()).unwrap();
        assert_eq!(
            chosen(&result),
            [(".github/workflows/a.yml".into(), "push".into()), (".github/workflows/b.yaml".into(), "pull_request".into())]
        );
        let result = choose_in(&[("b.yml", BY_HAND)], Selection::default()).unwrap();
        assert_eq!(chosen(&result), [(".github/workflows/b.yml".into(), "workflow_dispatch".into())]);
    }

    #[test]
    fn what_no_branch_starts_runs_by_name_only() {
        let release = BOTH.replace("[pull_request, push]", "{push: {tags: ['v*']}}");
        let files = [("a.yml", BOTH), ("b.yml", BY_HAND), ("r.yml", release.as_str())];
        let result = choose_in(&files, Selection::default()).unwrap();
        assert_eq!(chosen(&result), [(".github/workflows/a.yml".into(), "push".into())]);
        assert!(result.notes.iter().any(|note| note.contains("r.yml does not run")), "{:?}", result.notes);
        let result = choose_in(&files, Selection { workflows: vec!["r.yml".into()], ..Selection::default() }).unwrap();
        assert_eq!(chosen(&result), [(".github/workflows/r.yml".into(), "push".into())]);
        let result = choose_in(&files, Selection { jobs: vec!["b".into()], ..Selection::default() }).unwrap();
        assert_eq!(chosen(&result), [(".github/workflows/b.yml".into(), "workflow_dispatch".into())]);
    }

    #[test]
    fn a_text_that_is_no_workflow_stops_the_others_only_where_it_was_named() {
        let files = [("a.yml", BOTH), ("z.yml", "on: [push\n")];
        let result = choose_in(&files, Selection::default()).unwrap();
        assert!(chosen(&result).len() == 1 && result.refused.is_some());
        let named = Selection { workflows: vec!["a.yml".into(), "z.yml".into()], ..Selection::default() };
        assert_eq!(choose_in(&files, named).unwrap_err().fault, Fault::User);
    }

    #[test]
    fn an_event_leaves_out_what_it_does_not_start_and_says_so() {
        let selection = Selection { event: Some("pull_request".into()), ..Selection::default() };
        let result = choose_in(&[("a.yml", BOTH), ("b.yml", BY_HAND)], selection.clone()).unwrap();
        assert_eq!(chosen(&result), [(".github/workflows/a.yml".into(), "pull_request".into())]);
        assert!(result.notes[0].contains("b.yml does not run"), "{:?}", result.notes);
        let failure = choose_in(&[("b.yml", BY_HAND)], selection).unwrap_err();
        assert!(failure.fault == Fault::User && failure.help.unwrap().contains("workflow_dispatch"));
    }

    #[test]
    fn files_and_jobs_are_chosen_by_name() {
        let files = [("a.yml", BOTH), ("b.yml", BY_HAND)];
        let result = choose_in(&files, Selection { workflows: vec!["b.yml".into()], ..Selection::default() }).unwrap();
        assert_eq!(chosen(&result).len(), 1);
        let result = choose_in(&files, Selection { jobs: vec!["a".into()], ..Selection::default() }).unwrap();
        assert_eq!((chosen(&result).len(), result.submissions[0].jobs.clone()), (1, vec!["a".to_owned()]));
        let failure = choose_in(&files, Selection { jobs: vec!["zzz".into()], ..Selection::default() }).unwrap_err();
        assert!(failure.chain[0].contains("zzz") && failure.help.unwrap().contains("a, b"));
        let failure = choose_in(&files, Selection { workflows: vec!["zzz.yml".into()], ..Selection::default() }).unwrap_err();
        assert_eq!(failure.fault, Fault::User);
    }

    #[test]
    fn no_workflow_at_all_is_a_usage_error_with_a_next_action() {
        let failure = choose_in(&[], Selection::default()).unwrap_err();
        assert!(failure.fault == Fault::User && failure.help.unwrap().contains("test.yml"));
        let failure = choose_in(&[("a.yml", "on: [push\n")], Selection::default()).unwrap_err();
        assert!(failure.fault == Fault::User && failure.chain[0].contains("refused"));
    }
}
