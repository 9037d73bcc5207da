//! The newest state of every run, job and step that was heard of.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use caisson_model::id::{AttemptId, JobId, RunId, StepIndex};
use caisson_model::outcome::{Annotation, Fault, Outcome, Verdict};
use caisson_model::run::{JobView, RunEvent, RunState, RunView, StepView};
use caisson_model::time::Timestamp;

use crate::artifacts::Fetched;
use crate::report::Exit;
use crate::view::news::News;

/// Everything.
#[derive(Clone, Debug, Default)]
pub(crate) struct Board {
    /// By number.
    pub(crate) runs: BTreeMap<RunId, RunEntry>,
    /// What their jobs kept; known at the end.
    pub(crate) artifacts: Vec<Fetched>,
}

/// A run.
#[derive(Clone, Debug)]
pub(crate) struct RunEntry {
    /// Itself.
    pub(crate) view: RunView,
    /// Its jobs.
    pub(crate) jobs: BTreeMap<JobId, JobEntry>,
}

/// A job.
#[derive(Clone, Debug)]
pub(crate) struct JobEntry {
    /// Itself.
    pub(crate) view: JobView,
    /// The steps of its newest attempt.
    pub(crate) steps: BTreeMap<StepIndex, StepEntry>,
}

/// A step.
#[derive(Clone, Debug)]
pub(crate) struct StepEntry {
    /// Itself.
    pub(crate) view: StepView,
    /// Its remarks while it runs; its result has them all.
    pub(crate) annotations: Vec<Annotation>,
}

impl Board {
    /// Takes news in.
    pub(crate) fn take(&mut self, news: &News) {
        let News::Event(run, event) = news else { return };
        match &event.event {
            RunEvent::Run(view) => match self.runs.get_mut(run) {
                Some(entry) => entry.view = view.clone(),
                None => drop(self.runs.insert(*run, RunEntry { view: view.clone(), jobs: BTreeMap::new() })),
            },
            RunEvent::Job(view) => {
                let Some(entry) = self.runs.get_mut(run) else { return };
                match entry.jobs.get_mut(&view.id) {
                    Some(job) => {
                        // A new attempt begins anew.
                        if job.view.attempt != view.attempt {
                            job.steps.retain(|_, step| Some(step.view.attempt) == view.attempt);
                        }
                        job.view = view.clone();
                    }
                    None => drop(entry.jobs.insert(view.id, JobEntry { view: view.clone(), steps: BTreeMap::new() })),
                }
            }
            RunEvent::Step(view) => {
                let Some(job) = self.job_mut(view.attempt) else { return };
                match job.steps.get_mut(&view.index) {
                    Some(step) => step.view = view.clone(),
                    None => drop(job.steps.insert(view.index, StepEntry { view: view.clone(), annotations: Vec::new() })),
                }
            }
            RunEvent::Annotation { attempt, step, annotation } => {
                if let Some(step) = self.job_mut(*attempt).and_then(|job| job.steps.get_mut(step)) {
                    step.annotations.push(annotation.clone());
                }
            }
            RunEvent::Egress { .. } => {}
        }
    }

    fn job_mut(&mut self, attempt: AttemptId) -> Option<&mut JobEntry> {
        self.runs.get_mut(&attempt.job.run)?.jobs.get_mut(&attempt.job)
    }

    /// A job by its attempt.
    pub(crate) fn job(&self, attempt: AttemptId) -> Option<&JobEntry> {
        self.runs.get(&attempt.job.run)?.jobs.get(&attempt.job)
    }

    /// A step by its attempt and position.
    pub(crate) fn step(&self, attempt: AttemptId, index: StepIndex) -> Option<(&JobEntry, &StepEntry)> {
        let job = self.job(attempt)?;
        Some((job, job.steps.get(&index).filter(|step| step.view.attempt == attempt)?))
    }

    /// All jobs in order.
    pub(crate) fn jobs(&self) -> impl Iterator<Item = (&RunEntry, &JobEntry)> {
        self.runs.values().flat_map(|run| run.jobs.values().map(move |job| (run, job)))
    }

    /// How people call a job: with its workflow where there are several.
    pub(crate) fn job_name(&self, job: &JobEntry) -> String {
        match self.runs.get(&job.view.id.run) {
            Some(run) if self.runs.len() > 1 => format!("{} / {}", run.view.workflow, job.view.name),
            _ => job.view.name.clone(),
        }
    }

    /// Whether this many runs have been heard of and all have ended.
    pub(crate) fn finished(&self, runs: usize) -> bool {
        self.runs.len() >= runs && self.runs.values().all(|run| run.view.state == RunState::Finished)
    }

    /// The exit code of all runs together.
    pub(crate) fn exit(&self) -> Exit {
        self.runs.values().map(RunEntry::exit).fold(Exit::PASSED, Exit::worst)
    }
}

impl RunEntry {
    /// The exit code of the run.
    pub(crate) fn exit(&self) -> Exit {
        let fault = self.jobs.values().filter(|job| !job.view.continues()).filter_map(JobEntry::fault).max_by_key(|fault| match fault {
            Fault::User => 0,
            Fault::Environment => 1,
            Fault::Ours => 2,
        });
        Exit::of_run(self.view.outcome.unwrap_or(Outcome::Cancelled), fault)
    }
}

/// Whether a job's end lets its run go on.
trait Continues {
    fn continues(&self) -> bool;
}

impl Continues for JobView {
    fn continues(&self) -> bool {
        self.outcome.is_some_and(Outcome::passed)
    }
}

impl JobEntry {
    /// The step that made the job fail: the first one that counts as failed.
    pub(crate) fn culprit(&self) -> Option<&StepEntry> {
        self.steps.values().find(|step| step.view.result.as_ref().is_some_and(|result| !result.conclusion.passed()))
    }

    /// Whose doing it is that the job did not pass.
    fn fault(&self) -> Option<Fault> {
        let own = self.view.cause.as_ref();
        let step = self.culprit().and_then(|step| step.view.result.as_ref()?.cause.as_ref());
        own.or(step).map(caisson_model::outcome::Cause::fault)
    }

    /// Why the job did not pass, in words; empty for one that did.
    pub(crate) fn cause(&self) -> String {
        if let Some(cause) = &self.view.cause {
            return cause.to_string();
        }
        match (self.view.outcome, self.culprit()) {
            (Some(outcome), Some(step)) if !outcome.passed() => match step.view.result.as_ref().and_then(|result| result.cause.as_ref()) {
                Some(cause) => format!("{}: {cause}", step.view.name),
                None => step.view.name.clone(),
            },
            _ => String::new(),
        }
    }

    /// How long the job ran; `None` for one that never did.
    pub(crate) fn time(&self, now: Timestamp) -> Option<Duration> {
        self.view.started.map(|started| self.view.finished.unwrap_or(now).since(started))
    }

    /// The most memory that one of its steps used.
    pub(crate) fn peak(&self) -> Option<u64> {
        self.steps.values().filter_map(|step| step.view.result.as_ref()?.usage.peak_memory_bytes).max()
    }
}

impl StepEntry {
    /// What the step tried to reach in vain: host, port and why, each once; a name whose lookup was refused only where no connection to it
    /// was.
    pub(crate) fn refusals(&self) -> Vec<(String, String)> {
        let mut refusals: Vec<(String, String)> = Vec::new();
        let entries = || self.view.result.iter().flat_map(|result| &result.egress).filter(|entry| entry.verdict == Verdict::Refused);
        let connected: BTreeSet<&str> = entries().filter(|entry| entry.port != 0).map(|entry| entry.host.as_str()).collect();
        for entry in entries().filter(|entry| entry.port != 0 || !connected.contains(entry.host.as_str())) {
            let refusal = (entry.target(), entry.rule.clone());
            if !refusals.contains(&refusal) {
                refusals.push(refusal);
            }
        }
        refusals
    }
}
