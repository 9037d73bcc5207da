//! Everything durable that the engine knows, and the one function that changes it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use caisson_model::id::{AgentName, AttemptId, Digest, JobId, JobKey, RunId};
use caisson_model::job::{Need, RunContexts};
use caisson_model::outcome::Outcome;
use caisson_model::run::{RunState, RunView};
use caisson_model::time::Timestamp;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::core::job::{End, IllegalMove, Job, Lease, Life, Reports, StepLife, Stop, digest};
use crate::core::record::{Mark, Record};
use crate::core::terms::{Entered, Terms, Turn};
use caisson_workflow::PlannedJob;

/// What the records add up to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// How often a controller opened the journal.
    pub epoch: u64,
    /// The newest run.
    pub last_run: u64,
    /// How often a concurrency group was entered.
    #[serde(default)]
    pub entered: u64,
    /// Agents that get no new jobs.
    #[serde(default)]
    pub cordoned: BTreeSet<AgentName>,
    /// Agents that are refused.
    #[serde(default)]
    pub revoked: BTreeSet<AgentName>,
    /// Runs that have not been forgotten.
    #[serde(default)]
    pub runs: BTreeMap<RunId, Run>,
}

/// A run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The run as clients see it.
    pub view: RunView,
    /// When a person cancelled it.
    pub cancelled: Option<Timestamp>,
    /// Contexts of the whole run.
    pub contexts: Arc<RunContexts>,
    /// Its source tree.
    pub source: Option<Digest>,
    /// On which terms it was taken in.
    #[serde(default)]
    pub terms: Arc<Terms>,
    /// Its place in a concurrency group.
    #[serde(default)]
    pub turn: Option<Entered>,
    /// The jobs of the workflow file, in plan.
    pub groups: Vec<Group>,
    /// Cells and placeholders; job `RUN.N` is at position N - 1.
    pub jobs: Vec<Job>,
}

/// A job of the workflow file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// As planned.
    pub planned: Arc<PlannedJob>,
    /// Its cells, or its placeholder, by their index.
    pub cells: Vec<u32>,
}

/// A record does not fit the state: the journal is damaged, or of another build.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// It is about something that is not there.
    #[error("a record names {0}, which does not exist")]
    Unknown(String),
    /// It moves a job where it cannot go.
    #[error(transparent)]
    Move(#[from] IllegalMove),
}

impl Run {
    /// One of its jobs.
    pub fn job(&self, id: JobId) -> Option<&Job> {
        let at = usize::try_from(id.index).ok()?.checked_sub(1)?;
        self.jobs.get(at)
    }

    /// The same, to change it.
    pub fn job_mut(&mut self, id: JobId) -> Option<&mut Job> {
        let at = usize::try_from(id.index).ok()?.checked_sub(1)?;
        self.jobs.get_mut(at)
    }

    /// The group of a key.
    pub fn group(&self, key: &JobKey) -> Option<&Group> {
        self.groups.iter().find(|group| group.planned.key == *key)
    }

    /// The jobs of a group.
    pub fn cells<'a>(&'a self, group: &'a Group) -> impl Iterator<Item = &'a Job> {
        group.cells.iter().filter_map(|index| self.job(JobId { run: self.view.id, index: *index }))
    }

    /// All jobs in the order of the workflow, the cells of a matrix together.
    pub fn in_order(&self) -> impl Iterator<Item = &Job> {
        self.groups.iter().flat_map(|group| self.cells(group))
    }

    /// What a group looks like to those that need it; `None` until all its cells have ended. A failure that was allowed
    /// by `continue-on-error` counts as success.
    pub fn need(&self, key: &JobKey) -> Option<Need> {
        let mut outcomes = Vec::new();
        let mut outputs = IndexMap::new();
        for job in self.cells(self.group(key)?) {
            let end = job.life.end()?;
            outcomes.push(if job.counts() || end.outcome.result() != "failure" { end.outcome } else { Outcome::Success });
            gather(&mut outputs, &end.outputs);
        }
        Some(Need { outcome: worst(outcomes, Outcome::Skipped), outputs })
    }

    /// The cells of calling jobs, by their prefix, that `max-parallel` does not let begin yet.
    pub fn held_back(&self) -> BTreeSet<&str> {
        /// Of each cell whether it has begun and whether it has ended.
        type Cells<'s> = BTreeMap<&'s str, (bool, bool)>;
        // For each caller, how many may be at work.
        let mut callers: BTreeMap<&JobKey, (u32, Cells<'_>)> = BTreeMap::new();
        for group in &self.groups {
            let Some((scope, gate)) = group.planned.scope.as_ref().and_then(|scope| Some((scope, scope.gate.as_ref()?))) else { continue };
            let (_, cells) = callers.entry(&gate.caller).or_insert_with(|| (gate.most.max(1), BTreeMap::new()));
            let cell = cells.entry(&scope.prefix).or_insert((false, true));
            // A job that calls in turn still waits when its own jobs are at work.
            cell.0 |= group.planned.collector.is_some() || self.cells(group).any(|job| job.life != Life::Waiting);
            cell.1 &= self.need(&group.planned.key).is_some();
        }
        let mut held = BTreeSet::new();
        for (most, cells) in callers.into_values() {
            let at_work = cells.values().filter(|(begun, ended)| *begun && !*ended).count();
            if at_work >= usize::try_from(most).unwrap_or(usize::MAX) {
                held.extend(cells.into_iter().filter(|(_, (begun, _))| !begun).map(|(prefix, _)| prefix));
            }
        }
        held
    }

    /// Whether a job that this one depends on, directly or not, failed.
    pub fn ancestor_failed(&self, key: &JobKey) -> bool {
        let mut seen: BTreeSet<&JobKey> = BTreeSet::new();
        let mut open: Vec<&JobKey> = self.group(key).map(|group| group.planned.needs.iter().collect()).unwrap_or_default();
        while let Some(next) = open.pop() {
            if seen.insert(next) {
                if self.need(next).is_some_and(|need| need.outcome.result() == "failure") {
                    return true;
                }
                open.extend(self.group(next).into_iter().flat_map(|group| &group.planned.needs));
            }
        }
        false
    }

    /// How the run ends; `None` until all jobs have ended.
    pub fn result(&self) -> Option<Outcome> {
        let outcomes = self.groups.iter().map(|group| self.need(&group.planned.key).map(|need| need.outcome));
        Some(worst(outcomes.collect::<Option<Vec<_>>>()?, Outcome::Skipped))
    }
}

/// Adds a cell's outputs to its group's. An empty one counts as not set: where every cell of a matrix sets an output of its
/// own, or only one cell sets any, the others' empty values must not take its place.
fn gather(outputs: &mut IndexMap<String, String>, of: &IndexMap<String, String>) {
    outputs.extend(of.iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| (name.clone(), value.clone())));
}

fn put(set: &mut BTreeSet<AgentName>, agent: &AgentName, on: bool) {
    if on {
        set.insert(agent.clone());
    } else {
        set.remove(agent);
    }
}

/// The outcome that stands for several.
fn worst(outcomes: impl IntoIterator<Item = Outcome>, none: Outcome) -> Outcome {
    let rank = |outcome: &Outcome| match outcome {
        Outcome::Skipped => 0,
        Outcome::Success => 1,
        Outcome::Cancelled => 2,
        Outcome::Failure => 3,
        Outcome::TimedOut => 4,
        Outcome::Faulted => 5,
    };
    outcomes.into_iter().max_by_key(rank).unwrap_or(none)
}

impl State {
    /// All of it but the runs.
    pub fn without_runs(&self) -> State {
        State {
            epoch: self.epoch,
            last_run: self.last_run,
            entered: self.entered,
            cordoned: self.cordoned.clone(),
            revoked: self.revoked.clone(),
            runs: BTreeMap::new(),
        }
    }

    /// One job.
    pub fn job(&self, id: JobId) -> Option<&Job> {
        self.runs.get(&id.run)?.job(id)
    }

    /// The same, to change what is not durable: offers, renewals, suspicion.
    pub fn job_mut(&mut self, id: JobId) -> Option<&mut Job> {
        self.runs.get_mut(&id.run)?.job_mut(id)
    }

    /// Performs a record.
    ///
    /// # Errors
    /// [`ApplyError`] when it does not fit; the state may not be used any more then.
    pub fn apply(&mut self, record: &Record) -> Result<(), ApplyError> {
        match record {
            Record::Opened { epoch } => self.epoch = *epoch,
            Record::Submitted { run, at, plan, terms } => {
                let view = RunView {
                    id: *run,
                    workflow: plan.workflow.clone(),
                    file: plan.file.clone(),
                    event: plan.event.clone(),
                    state: RunState::Queued,
                    outcome: None,
                    submitted: *at,
                    started: None,
                    finished: None,
                    rerun_of: terms.rerun_of,
                    ledger: None,
                };
                // What it was made of is for the store alone.
                let kept = Terms { submission: None, ..Terms::clone(terms) };
                let mut new = Run {
                    turn: kept.turn.as_ref().map(|turn| self.enter(turn)),
                    terms: Arc::new(kept),
                    view,
                    cancelled: None,
                    contexts: Arc::new(plan.contexts.clone()),
                    source: plan.source,
                    groups: Vec::new(),
                    jobs: Vec::new(),
                };
                for (index, planned) in (1..).zip(&plan.jobs) {
                    let id = JobId { run: *run, index };
                    let name = planned.name.as_ref().map_or_else(|| planned.key.0.clone(), |name| name.0.clone());
                    new.jobs.push(Job::waiting(id, planned.key.clone(), name));
                    new.groups.push(Group { planned: Arc::new(planned.clone()), cells: vec![index] });
                }
                self.last_run = self.last_run.max(run.0);
                self.runs.insert(*run, new);
            }
            Record::Expanded { run, key, at, cells, turns } => {
                let turns: Vec<_> = turns.iter().map(|turn| turn.as_ref().map(|turn| self.enter(turn))).collect();
                let state = self.run_mut(*run)?;
                for (spec, turn) in cells.iter().zip(turns.into_iter().chain(std::iter::repeat(None))) {
                    let mut job = Job::waiting(spec.id, key.clone(), spec.name.clone());
                    (job.digest, job.turn) = (Some(digest(spec)), turn);
                    job.spec = Some(spec.clone());
                    job.enter(Life::Queued { since: *at })?;
                    match state.job_mut(spec.id) {
                        Some(placeholder) if placeholder.life == Life::Waiting => *placeholder = job,
                        Some(_) => return Err(ApplyError::Unknown(format!("a waiting job {}", spec.id))),
                        None => state.jobs.push(job),
                    }
                }
                let group = state.groups.iter_mut().find(|group| group.planned.key == *key);
                let group = group.ok_or_else(|| ApplyError::Unknown(format!("job {key} of run {run}")))?;
                group.cells = cells.iter().map(|spec| spec.id.index).collect();
            }
            Record::Called { run, jobs, collector, .. } => {
                let state = self.run_mut(*run)?;
                let at = state.groups.iter().position(|group| group.planned.key == collector.key);
                let at = at.ok_or_else(|| ApplyError::Unknown(format!("job {} of run {run}", collector.key)))?;
                state.groups[at].planned = Arc::new(PlannedJob::clone(collector));
                for (offset, planned) in (1..).zip(jobs) {
                    let index = u32::try_from(state.jobs.len() + 1).map_err(|_| ApplyError::Unknown(format!("room in run {run}")))?;
                    let title = planned.scope.as_ref().map(|scope| scope.title.as_str()).unwrap_or_default();
                    let own = planned.scope.as_ref().and_then(|scope| planned.key.0.strip_prefix(&scope.prefix)).unwrap_or(&planned.key.0);
                    let name = planned.name.as_ref().map_or(own, |name| &name.0);
                    state.jobs.push(Job::waiting(JobId { run: *run, index }, planned.key.clone(), format!("{title}{name}")));
                    // Right after the caller, so that they are shown together.
                    state.groups.insert(at + offset, Group { planned: Arc::new(planned.clone()), cells: vec![index] });
                }
            }
            Record::Leased { hold, agent, at } => {
                let job = self.known(hold.attempt.job)?;
                job.attempts = hold.attempt.number;
                job.agent = Some(agent.clone());
                job.enter(Life::Leased(Lease {
                    hold: *hold,
                    agent: agent.clone(),
                    since: *at,
                    expires: *at,
                    stop: None,
                    reports: Reports::default(),
                    steps: BTreeMap::new(),
                    opened: BTreeSet::new(),
                }))?;
            }
            Record::Reported { attempt, sequence, step, mark, at, ledger } => {
                let lease = self.held(*attempt)?;
                lease.reports.take(*sequence);
                match mark {
                    Mark::Remark => return Ok(()),
                    Mark::Started => {
                        lease.steps.entry(*step).or_insert(StepLife { started: *at, finished: false });
                    }
                    Mark::Finished => lease.steps.entry(*step).or_insert(StepLife { started: *at, finished: true }).finished = true,
                }
                let job = self.known(attempt.job)?;
                let started = *job.started.get_or_insert(*at);
                if let Life::Leased(lease) = &job.life {
                    let lease = lease.clone();
                    job.enter(Life::Running(lease))?;
                }
                let run = self.run_mut(attempt.job.run)?;
                run.view.started.get_or_insert(started);
                run.view.state = RunState::Running;
                run.view.ledger = ledger.or(run.view.ledger);
            }
            Record::SecretsOpened { attempt, step } => {
                self.held(*attempt)?.opened.insert(*step);
            }
            Record::Cancelled { run, at } => {
                self.run_mut(*run)?.cancelled.get_or_insert(*at);
            }
            Record::Stopping { attempt, at, outcome } => {
                self.held(*attempt)?.stop.get_or_insert(Stop { at: *at, outcome: *outcome });
            }
            Record::Released { attempt, at, lost } => {
                self.held(*attempt)?;
                let job = self.known(attempt.job)?;
                job.losses += u32::from(*lost);
                job.enter(Life::Queued { since: *at })?;
            }
            Record::Retried { hold, at, .. } => {
                self.held(hold.attempt)?;
                let job = self.known(hold.attempt.job)?;
                job.retried.push(*hold);
                job.enter(Life::Queued { since: *at })?;
            }
            Record::Cordoned { agent, on } => put(&mut self.cordoned, agent, *on),
            Record::Revoked { agent, on } => put(&mut self.revoked, agent, *on),
            Record::Ended { job, at, hold, by, outcome, cause, outputs } => {
                let end = End { at: *at, hold: *hold, by: *by, outcome: *outcome, cause: cause.clone(), outputs: outputs.clone() };
                self.known(*job)?.enter(Life::Finished(end))?;
            }
            Record::RunEnded { run, at, outcome } => {
                let view = &mut self.run_mut(*run)?.view;
                view.state = RunState::Finished;
                view.outcome = Some(*outcome);
                view.finished = Some(*at);
            }
            Record::Forgotten { run } => {
                self.runs.remove(run).ok_or_else(|| ApplyError::Unknown(format!("run {run}")))?;
            }
        }
        Ok(())
    }

    fn enter(&mut self, turn: &Turn) -> Entered {
        self.entered += 1;
        Entered { group: turn.group.clone(), number: self.entered }
    }

    fn run_mut(&mut self, run: RunId) -> Result<&mut Run, ApplyError> {
        self.runs.get_mut(&run).ok_or_else(|| ApplyError::Unknown(format!("run {run}")))
    }

    fn known(&mut self, job: JobId) -> Result<&mut Job, ApplyError> {
        self.job_mut(job).ok_or_else(|| ApplyError::Unknown(format!("job {job}")))
    }

    fn held(&mut self, attempt: AttemptId) -> Result<&mut Lease, ApplyError> {
        let lease = self.job_mut(attempt.job).and_then(|job| job.life.lease_mut());
        lease.filter(|lease| lease.hold.attempt == attempt).ok_or_else(|| ApplyError::Unknown(format!("a lease of attempt {attempt}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_output_of_one_cell_does_not_hide_that_of_another() {
        let cells = [[("a", "1"), ("b", "")], [("a", ""), ("b", "2")], [("a", ""), ("b", "")], [("a", "3"), ("b", "")]];
        let mut outputs = IndexMap::new();
        for cell in cells {
            gather(&mut outputs, &cell.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().collect());
        }
        assert_eq!(outputs, IndexMap::from([("a".to_owned(), "3".to_owned()), ("b".to_owned(), "2".to_owned())]));
    }
}
