//! From something that happened to its runs, and from their ends back to the forge.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use caisson_model::id::RunId;
use caisson_model::outcome::Outcome;
use caisson_model::run::{RunEvent, RunState, Submission};
use caisson_proto::api::{ApiError, ClientApi};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::metrics::Metrics;
use crate::service::Service;
use crate::triggers::delivery::Delivery;
use crate::triggers::forge::{ForgeError, Forges, State};
use crate::triggers::settings::Repository;

/// How long a run's end is waited for when the controller does not answer.
const PAUSE: Duration = Duration::from_secs(1);

/// A run whose end a forge waits for. Kept in a file, so that a controller that starts again tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Debt {
    repository: String,
    sha: String,
    context: String,
}

/// The course of triggered runs. Clones share it.
#[derive(Clone, Debug)]
pub struct Course(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    service: Service,
    forges: Forges,
    repositories: Vec<Repository>,
    path: PathBuf,
    debts: Mutex<BTreeMap<u64, Debt>>,
    tasks: Mutex<JoinSet<()>>,
}

/// Nothing was started, or not all.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The forge did not give the workflows.
    #[error(transparent)]
    Forge(#[from] ForgeError),
    /// The controller takes nothing.
    #[error("submit the workflows of {0}: {1}")]
    Submit(String, ApiError),
}

impl Course {
    /// Takes up what an earlier controller owes the forges. `path` is the file of debts.
    ///
    /// # Errors
    /// The file is damaged, or the disk does not work. Blocks for a moment.
    pub fn open(service: Service, forges: Forges, repositories: Vec<Repository>, path: PathBuf) -> std::io::Result<Course> {
        let debts: BTreeMap<u64, Debt> = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        let owed = debts.clone();
        let course = Course(Arc::new(Inner { service, forges, repositories, path, debts: Mutex::new(debts), tasks: Mutex::default() }));
        owed.into_iter().for_each(|(run, debt)| course.attend(RunId(run), debt));
        Ok(course)
    }

    /// The repositories.
    pub fn repositories(&self) -> &[Repository] {
        &self.0.repositories
    }

    /// What is counted.
    pub fn metrics(&self) -> &Metrics {
        self.0.service.metrics()
    }

    /// Whether runs can be started here.
    pub fn is_leading(&self) -> bool {
        self.0.service.is_leading()
    }

    /// The forges.
    pub fn forges(&self) -> &Forges {
        &self.0.forges
    }

    /// Starts every workflow of the commit that the event starts. `only` names one workflow file, for a schedule.
    ///
    /// # Errors
    /// [`StartError`]. A workflow that is refused is none: the forge is told, and the others start.
    pub async fn start(&self, repository: &Repository, delivery: &Delivery, only: Option<&str>) -> Result<Vec<RunId>, StartError> {
        let inner = &self.0;
        let workflows = inner.forges.workflows(repository, &delivery.sha).await?;
        let changes = self.changes(repository, delivery, &workflows).await;
        let changed = self.changed(repository, delivery, &workflows).await?;
        let mut runs = Vec::new();
        for (file, text) in workflows.iter().filter(|(file, _)| only.is_none_or(|only| only == file)) {
            let name = match caisson_workflow::events(text, file) {
                Ok(overview) if !overview.events.contains(&delivery.event) => continue,
                Ok(overview) => overview.workflow,
                // It will be refused with all its findings.
                Err(_) => file.clone(),
            };
            if let Some(reason) = caisson_workflow::filtered(text, file, &delivery.event, &delivery.github, changes.as_deref()) {
                tracing::debug!(file, reason, "workflow not started");
                continue;
            }
            let mut github = delivery.github.clone();
            if changed.contains(file) {
                // As far as this workflow goes, the commit is one of an ordinary branch.
                tracing::warn!(file, repository = repository.name, sha = delivery.sha, "workflow is not what the protected branch holds");
                github["ref_protected"] = false.into();
            }
            let submission = Submission {
                file: file.clone(),
                text: text.clone(),
                event: delivery.event.clone(),
                github,
                files: workflows.iter().cloned().collect(),
                changes: changes.clone(),
                ..Submission::default()
            };
            let debt = Debt {
                repository: repository.name.clone(),
                sha: delivery.sha.clone(),
                context: format!("caisson / {name} ({})", delivery.event),
            };
            match inner.service.submit(submission).await {
                Ok(submitted) => {
                    tracing::info!(run = %submitted.run, repository = repository.name, sha = delivery.sha, event = delivery.event, "run triggered");
                    self.owe(submitted.run, Some(debt.clone()));
                    self.attend(submitted.run, debt);
                    runs.push(submitted.run);
                }
                Err(ApiError::Rejected(findings)) => {
                    self.metrics().refuse_workflow();
                    tracing::warn!(file, repository = repository.name, sha = delivery.sha, "workflow refused");
                    let first = findings.iter().find(|finding| finding.severity == caisson_model::diagnostic::Severity::Error);
                    let text = first.map_or("the workflow was refused".to_owned(), |finding| {
                        format!("{}:{}: {}", finding.location.file, finding.location.line, finding.message)
                    });
                    self.spawn_report(debt, State::Error, text);
                }
                Err(error) => return Err(StartError::Submit(repository.name.clone(), error)),
            }
        }
        Ok(runs)
    }

    /// The files that changed, where a workflow asks; `None` when nobody can say, and then nothing is kept back.
    async fn changes(&self, repository: &Repository, delivery: &Delivery, workflows: &[(String, String)]) -> Option<Vec<String>> {
        if !workflows.iter().any(|(file, text)| caisson_workflow::wants_changes(text, file, &delivery.event)) {
            return None;
        }
        match self.0.forges.changes(repository, delivery).await {
            Ok(changes) => changes,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "what changed is not known, filters of paths do not count");
                None
            }
        }
    }

    /// Of a commit on a protected branch, the workflows that are not, or not any more, what the branch holds: these are not run
    /// with its trust.
    async fn changed(
        &self,
        repository: &Repository,
        delivery: &Delivery,
        workflows: &[(String, String)],
    ) -> Result<Vec<String>, ForgeError> {
        let github = &delivery.github;
        let (true, Some(branch)) = (github["ref_protected"] == true, github["ref_name"].as_str()) else { return Ok(Vec::new()) };
        let head = self.0.forges.head(repository, branch).await?;
        if head == delivery.sha {
            return Ok(Vec::new());
        }
        let held = self.0.forges.workflows(repository, &head).await?;
        Ok(workflows.iter().filter(|workflow| !held.contains(workflow)).map(|(file, _)| file.clone()).collect())
    }

    fn owe(&self, run: RunId, debt: Option<Debt>) {
        let mut debts = self.0.debts.lock().unwrap_or_else(PoisonError::into_inner);
        match debt {
            Some(debt) => drop(debts.insert(run.0, debt)),
            None => drop(debts.remove(&run.0)),
        }
        let written = serde_json::to_vec(&*debts).map_err(std::io::Error::from).and_then(|bytes| {
            let part = self.0.path.with_extension("part");
            std::fs::write(&part, bytes)?;
            std::fs::rename(&part, &self.0.path)
        });
        if let Err(error) = written {
            tracing::error!(%error, "what forges wait for was not written down");
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    fn report(&self, debt: Debt, state: State, text: String) -> impl Future<Output = ()> + Send + use<> {
        let repository = self.0.repositories.iter().find(|repository| repository.name == debt.repository && repository.statuses).cloned();
        let forges = self.0.forges.clone();
        async move {
            let Some(repository) = repository else { return };
            let text: String = text.chars().take(140).collect();
            if let Err(error) = forges.report(&repository, &debt.sha, &debt.context, state, &text).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "status was not reported");
            }
        }
    }

    fn spawn_report(&self, debt: Debt, state: State, text: String) {
        self.spawn(self.report(debt, state, text));
    }

    /// Tells the forge that a run goes on, and how it ended.
    fn attend(&self, run: RunId, debt: Debt) {
        // The tasks belong to the course, so they must not keep it.
        let weak = Arc::downgrade(&self.0);
        let service = self.0.service.clone();
        let pending = self.report(debt.clone(), State::Pending, format!("run {run} goes on"));
        self.spawn(async move {
            pending.await;
            let Some(outcome) = end(&service, run).await else { return };
            let Some(course) = weak.upgrade().map(Course) else { return };
            let (state, text) = match outcome {
                Outcome::Success | Outcome::Skipped => (State::Success, "passed"),
                Outcome::Failure | Outcome::TimedOut => (State::Failure, "failed"),
                Outcome::Cancelled => (State::Error, "was cancelled"),
                Outcome::Faulted => (State::Error, "could not be carried out"),
            };
            let report = course.report(debt, state, format!("run {run} {text}"));
            report.await;
            course.owe(run, None);
        });
    }
}

/// How a run ended; `None` when the controller closes before.
async fn end(service: &Service, run: RunId) -> Option<Outcome> {
    let mut after = 0;
    loop {
        let mut events = match service.watch_run(run, after).await {
            Ok(events) => events,
            Err(error) if error.is_transient() => return None,
            Err(error) => {
                tracing::warn!(%run, %error, "run cannot be watched");
                return None;
            }
        };
        while let Some(Ok(event)) = events.next().await {
            after = event.number;
            if let RunEvent::Run(view) = event.event
                && view.state == RunState::Finished
            {
                return Some(view.outcome.unwrap_or(Outcome::Faulted));
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}
