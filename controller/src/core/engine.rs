//! The engine: one function that takes an event and gives effects.

mod admin;
mod called;
mod calls;
mod index;
mod moves;
mod offers;
mod sessions;
mod waiting;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use caisson_model::id::{AgentName, AttemptId, Hold, JobId, RunId};
use caisson_model::job::JobSpec;
use caisson_model::run::{JobView, RunEvent, RunView};
use caisson_model::time::Timestamp;

use crate::core::effect::Effect;
use crate::core::event::{Answer, Event, Refusal, SessionId, Timing};
use crate::core::job::{Job, Lease, Life};
use crate::core::matching::{Agents, Ask, Place, Queue};
use crate::core::record::Record;
use crate::core::state::{ApplyError, Run, State};
use crate::core::turns::Turns;

/// How many ended runs stay in memory, for late calls of their agents.
const ENDED_RUNS: usize = 256;

/// The scheduler.
#[derive(Clone, Debug)]
pub struct Engine {
    state: State,
    timing: Timing,
    agents: Agents,
    sessions: BTreeMap<SessionId, AgentName>,
    queue: Queue,
    turns: Turns,
    due: BTreeSet<(Timestamp, JobId)>,
    indexed: HashMap<JobId, Indexed>,
    refusals: BTreeMap<JobId, BTreeMap<AgentName, Timestamp>>,
    fences: u64,
    ended: BTreeSet<(Timestamp, RunId)>,
    broken: Option<ApplyError>,
    effects: Vec<Effect>,
    now: Timestamp,
    #[cfg(test)]
    weakness: Option<Weakness>,
}

/// Where a job stands in the indexes.
#[derive(Clone, Debug, Default, PartialEq)]
struct Indexed {
    place: Option<Place>,
    due: Option<Timestamp>,
    holder: Option<AgentName>,
    active: bool,
    ask: Ask,
}

/// The answer to a call, or why there is none.
pub type Decision = Result<Answer, Refusal>;

impl Engine {
    /// Takes over what the journal held, in a new epoch. Leases of an earlier life run on: each has a full term from `now`
    /// to be heard of.
    pub fn recover(mut state: State, timing: Timing, now: Timestamp) -> (Engine, Vec<Effect>) {
        let mut touched = Vec::new();
        for run in state.runs.values_mut() {
            for job in &mut run.jobs {
                match &mut job.life {
                    Life::Offered { since, .. } => job.life = Life::Queued { since: *since },
                    Life::Suspect { lease, .. } => {
                        let lease = lease.clone();
                        job.life = if lease.steps.is_empty() { Life::Leased(lease) } else { Life::Running(lease) };
                    }
                    _ => {}
                }
                if let Some(lease) = job.life.lease_mut() {
                    lease.expires = now.after(timing.term);
                }
                touched.push(job.id);
            }
        }
        let ended = state.runs.values().filter_map(|run| Some((run.view.finished?, run.view.id))).collect();
        let epoch = state.epoch + 1;
        let mut engine = Engine {
            state,
            timing,
            agents: Agents::default(),
            sessions: BTreeMap::new(),
            queue: Queue::default(),
            turns: Turns::default(),
            due: BTreeSet::new(),
            indexed: HashMap::new(),
            refusals: BTreeMap::new(),
            fences: 0,
            ended,
            broken: None,
            effects: Vec::new(),
            now,
            #[cfg(test)]
            weakness: None,
        };
        engine.record(Record::Opened { epoch });
        engine.take_places();
        touched.into_iter().for_each(|job| engine.index(job));
        // A crash may have come between the end of a job and what follows from it; then all of it is missing, since one
        // event's records are one transaction. Looking once more costs nothing.
        let runs: Vec<RunId> = engine.state.runs.keys().copied().collect();
        runs.into_iter().for_each(|run| engine.advance(run));
        engine.dispatch();
        let effects = std::mem::take(&mut engine.effects);
        (engine, effects)
    }

    /// Whether a test took this protection away.
    #[cfg(test)]
    fn lacks(&self, weakness: Weakness) -> bool {
        self.weakness == Some(weakness)
    }

    /// Whether the job waits for nothing but an agent.
    #[cfg(test)]
    pub(crate) fn is_in_line(&self, job: JobId) -> bool {
        self.indexed.get(&job).is_some_and(|indexed| indexed.place.is_some())
    }

    /// Takes a protection away.
    #[cfg(test)]
    pub(crate) fn weaken(&mut self, weakness: Option<Weakness>) {
        self.weakness = weakness;
    }

    /// Takes an event. `now` never goes back. The answer may be given once the effects' records are durable.
    pub fn handle(&mut self, event: Event, now: Timestamp) -> (Decision, Vec<Effect>) {
        self.now = self.now.max(now);
        let decision = match event {
            Event::Submit(plan, terms) => self.submit(plan, terms),
            Event::Cancel(run) => self.cancel(run),
            Event::Hello(session, hello) => self.hello(session, hello),
            Event::Message(session, message) => self.message(session, message),
            Event::Gone(session) => self.gone(session),
            Event::Report(report) => self.report(report),
            Event::OpenSecrets(hold, step) => self.open_secrets(hold, step),
            Event::Complete(completion) => self.complete(completion),
            Event::Return(hold, reason) => self.give_back(hold, &reason),
            Event::Cordon(agent, cordon) => self.cordon(agent, cordon),
            Event::Drain(agent) => self.drain(agent),
            Event::Revoke(agent) => self.revoke(agent),
            Event::Admit(agent) => self.admit(agent),
            Event::Tick => {
                self.tick();
                Ok(Answer::Done)
            }
        };
        self.dispatch();
        (decision, std::mem::take(&mut self.effects))
    }

    /// When [`Event::Tick`] is due next.
    pub fn deadline(&self) -> Option<Timestamp> {
        self.due.first().map(|(at, _)| *at)
    }

    /// A record did not fit the state: the engine contradicts itself and must not go on. The shell stops then.
    pub fn broken(&self) -> Option<&ApplyError> {
        self.broken.as_ref()
    }

    /// Everything durable.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The agents that are known.
    pub fn agents(&self) -> &Agents {
        &self.agents
    }

    /// The limits in force.
    pub fn timing(&self) -> &Timing {
        &self.timing
    }

    /// Until when an agent is not offered this job again, for agents that refused it.
    pub fn refusals(&self, job: JobId) -> impl Iterator<Item = (&AgentName, Timestamp)> {
        self.refusals.get(&job).into_iter().flatten().map(|(agent, until)| (agent, *until))
    }

    /// The job's spec, for the holder of its lease.
    ///
    /// # Errors
    /// [`Refusal::Fenced`] for everybody else.
    pub fn spec(&self, hold: Hold) -> Result<Arc<JobSpec>, Refusal> {
        self.lease(hold)?;
        self.state.job(hold.attempt.job).and_then(|job| job.spec.clone()).ok_or(Refusal::Fenced)
    }

    /// The lease of this hold.
    ///
    /// # Errors
    /// [`Refusal::Fenced`] when it is not, or not any more, the one in force.
    pub fn lease(&self, hold: Hold) -> Result<&Lease, Refusal> {
        let job = self.state.job(hold.attempt.job);
        #[cfg(test)]
        if self.lacks(Weakness::Fence) {
            return job.and_then(|job| job.life.lease()).ok_or(Refusal::Fenced);
        }
        job.and_then(|job| job.life.lease()).filter(|lease| lease.hold == hold).ok_or(Refusal::Fenced)
    }

    /// Whether the attempt may still write; `None` when the run is not in memory.
    pub fn is_live(&self, attempt: AttemptId) -> Option<bool> {
        let run = self.state.runs.get(&attempt.job.run)?;
        let lease = run.job(attempt.job).and_then(|job| job.life.lease());
        Some(lease.is_some_and(|lease| lease.hold.attempt == attempt))
    }

    /// The run and its jobs; `None` when it is not in memory.
    pub fn view(&self, run: RunId) -> Option<(RunView, Vec<JobView>)> {
        let run = self.state.runs.get(&run)?;
        Some((run.view.clone(), run.in_order().map(Job::view).collect()))
    }

    fn record(&mut self, record: Record) {
        if let Err(error) = self.state.apply(&record) {
            // Nothing after this can be trusted; the first contradiction is the one to report.
            self.broken.get_or_insert(error);
        }
        self.effects.push(Effect::Record(Box::new(record)));
    }

    fn tell(&mut self, run: RunId, event: RunEvent) {
        self.effects.push(Effect::Tell { run, at: self.now, event: Box::new(event) });
    }

    fn tell_run(&mut self, run: RunId) {
        if let Some(view) = self.state.runs.get(&run).map(|run| run.view.clone()) {
            self.tell(run, RunEvent::Run(view));
        }
    }

    fn tell_job(&mut self, id: JobId) {
        if let Some(view) = self.state.job(id).map(Job::view) {
            self.tell(id.run, RunEvent::Job(view));
        }
    }

    /// Moves a job in a way that is not durable.
    fn enter(&mut self, id: JobId, life: Life) {
        if let Some(job) = self.state.job_mut(id)
            && let Err(error) = job.enter(life)
        {
            self.broken.get_or_insert(error.into());
        }
        self.index(id);
    }

    fn run(&self, run: RunId) -> Result<&Run, Refusal> {
        self.state.runs.get(&run).ok_or_else(|| Refusal::NotFound(format!("run {run}")))
    }
}

/// A protection that a test takes away, to see that the others notice.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weakness {
    /// Calls are answered whatever their fence.
    Fence,
    /// Effects leave before their records are durable. The shell's; here for the list to be whole.
    Durability,
    /// Secrets are handed out as often as somebody asks.
    SecretsOnce,
    /// Offers do not lapse.
    OfferDeadline,
    /// Logs that nobody sealed stay open. The shell's likewise.
    EndLogs,
}
