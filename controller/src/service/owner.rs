//! The task that owns the engine. Commands come in through one bounded channel; what an event left behind goes to the
//! journal's thread, and its effects and answer leave when that says it is durable. Timers are the engine's next deadline.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fs::File;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use caisson_model::agent::Hello;
use caisson_model::id::{AgentName, AttemptId, Fence, Hold, RunId};
use caisson_model::lease::ControllerMessage;
use caisson_model::run::NumberedEvent;
use caisson_model::time::Timestamp;
use caisson_proto::api::ApiError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::core::effect::Effect;
use crate::core::engine::{Decision, Engine};
use crate::core::event::{Event, SessionId};
use crate::core::record::Record;
use crate::logs::Logs;
use crate::metrics::Metrics;
use crate::service::feeds::Feeds;
use crate::store::journal::{Snapshot, Transaction};
use crate::store::writer::{Progress, Writer};

/// How many messages a session may be behind before it is ended: its agent comes back and is told what counts.
pub(super) const SESSION_BACKLOG: usize = 1024;
/// How many events may wait for the disk before no more are taken.
const UNWRITTEN: usize = 4096;
/// How often a leader shows that it lives.
const BEAT: Duration = Duration::from_secs(1);
/// How many records a restart replays, about, at most.
pub(super) const REPLAY: usize = 2000;

/// What a session is sent.
pub(super) type Line = mpsc::Sender<Result<ControllerMessage, ApiError>>;

/// What the owner is asked.
pub(super) enum Command {
    /// Something happened; the answer comes when it is durable.
    Call(Event, oneshot::Sender<Answered>),
    /// Something happened that nobody waits for.
    Tell(Event),
    /// An agent opened a session.
    Join(Hello, Line, oneshot::Sender<(SessionId, Answered)>),
    /// Somebody wants to see the engine.
    Look(Box<dyn FnOnce(&Engine) + Send>),
    /// End; the answer comes when everything is written.
    Close(oneshot::Sender<()>),
}

/// A decision, or why it could not be kept.
pub(super) type Answered = Result<Decision, ApiError>;

/// Wall time that never goes back while the process lives.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    began: Instant,
    epoch: u64,
}

impl Clock {
    pub(super) fn start() -> Clock {
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { began: Instant::now(), epoch: u64::try_from(epoch.as_millis()).unwrap_or(u64::MAX) }
    }

    pub(super) fn now(&self) -> Timestamp {
        Timestamp(self.epoch).after(self.began.elapsed())
    }

    fn instant(&self, at: Timestamp) -> Instant {
        self.began + at.since(Timestamp(self.epoch))
    }
}

/// The attempts whose holders may write logs and fetch their spec, for those who must not ask the owner each time.
#[derive(Clone, Debug, Default)]
pub(super) struct Holds(Arc<RwLock<HashMap<AttemptId, (Fence, AgentName)>>>);

impl Holds {
    /// Whether the hold is in force.
    pub(super) fn allow(&self, hold: Hold) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&hold.attempt).is_some_and(|(fence, _)| *fence == hold.fence)
    }

    /// Whose attempt this is, while it is held.
    pub(super) fn owner(&self, attempt: AttemptId) -> Option<AgentName> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&attempt).map(|(_, agent)| agent.clone())
    }

    fn set(&self, attempt: AttemptId, held: Option<(Fence, AgentName)>) {
        let mut holds = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match held {
            Some(held) => drop(holds.insert(attempt, held)),
            None => drop(holds.remove(&attempt)),
        }
    }

    pub(super) fn learn(&self, engine: &Engine) {
        let jobs = engine.state().runs.values().flat_map(|run| &run.jobs);
        jobs.filter_map(|job| job.life.lease())
            .for_each(|lease| self.set(lease.hold.attempt, Some((lease.hold.fence, lease.agent.clone()))));
    }

    fn follow(&self, record: &Record) {
        match record {
            Record::Leased { hold, agent, .. } => self.set(hold.attempt, Some((hold.fence, agent.clone()))),
            Record::Released { attempt, .. } => self.set(*attempt, None),
            Record::Retried { hold, .. } => self.set(hold.attempt, None),
            Record::Ended { hold: Some(hold), .. } => self.set(hold.attempt, None),
            _ => {}
        }
    }
}

/// What leaves when a transaction is durable.
struct Leaving {
    number: u64,
    history: Vec<(RunId, NumberedEvent)>,
    effects: Vec<Effect>,
    answer: Reply,
}

enum Reply {
    Nobody,
    Caller(oneshot::Sender<Answered>, Decision),
    Session(oneshot::Sender<(SessionId, Answered)>, SessionId, Decision),
}

impl Reply {
    fn give(self, failure: Option<&ApiError>) {
        // A caller that has gone away does not need its answer.
        let _gone = match self {
            Reply::Nobody => true,
            Reply::Caller(to, decision) => to.send(failure.map_or(Ok(decision), |error| Err(error.clone()))).is_err(),
            Reply::Session(to, session, decision) => to.send((session, failure.map_or(Ok(decision), |error| Err(error.clone())))).is_err(),
        };
    }
}

/// The owner.
pub(super) struct Owner {
    pub(super) engine: Engine,
    pub(super) clock: Clock,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) writer: Writer,
    pub(super) progress: watch::Receiver<Progress>,
    pub(super) feeds: Arc<Feeds>,
    pub(super) holds: Holds,
    pub(super) metrics: Metrics,
    pub(super) logs: Logs,
    /// Runs that changed since the last snapshot.
    pub(super) changed: BTreeSet<RunId>,
    /// The number of the newest event of every run that goes on.
    pub(super) numbers: BTreeMap<RunId, u64>,
    /// The lock of the folder, let go when everything is written.
    pub(super) lock: Arc<File>,
    /// Whether others wait for a sign of life.
    pub(super) beats: bool,
    /// Says when nothing is decided any more.
    pub(super) over: watch::Sender<bool>,
}

struct Working {
    owner: Owner,
    sessions: HashMap<SessionId, Line>,
    last_session: u64,
    last_transaction: u64,
    unsnapped: usize,
    leaving: VecDeque<Leaving>,
    endings: JoinSet<()>,
}

impl Owner {
    /// Works until it is told to close, nobody is left who could ask, or the journal fails. `first` are the effects of the recovery.
    pub(super) async fn run(self, first: Vec<Effect>) {
        let mut working = Working {
            owner: self,
            sessions: HashMap::new(),
            last_session: 0,
            last_transaction: 0,
            unsnapped: 0,
            leaving: VecDeque::new(),
            endings: JoinSet::new(),
        };
        let closing = working.work(first).await;
        working.finish().await;
        if let Some(closing) = closing {
            // Whoever asked may have stopped waiting.
            let _gone = closing.send(());
        }
    }
}

impl Working {
    async fn work(&mut self, first: Vec<Effect>) -> Option<oneshot::Sender<()>> {
        if self.commit(first, Reply::Nobody).await.is_err() {
            return None;
        }
        let mut beats = tokio::time::interval(BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let deadline = self.owner.engine.deadline().map(|at| self.owner.clock.instant(at));
            let timer = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            let more = self.leaving.len() < UNWRITTEN;
            tokio::select! {
                biased;
                changed = self.owner.progress.changed() => {
                    if changed.is_err() || self.release().is_err() {
                        return None;
                    }
                }
                _ = beats.tick(), if self.owner.beats => self.owner.writer.beat(),
                command = self.owner.commands.recv(), if more => {
                    match command {
                        None => return None,
                        Some(Command::Close(done)) => return Some(done),
                        Some(command) => if self.command(command).await.is_err() {
                            return None;
                        }
                    }
                }
                () = timer, if more => {
                    if self.event(Event::Tick, |_| Reply::Nobody).await.is_err() {
                        return None;
                    }
                }
            }
        }
    }

    async fn command(&mut self, command: Command) -> Result<(), ()> {
        match command {
            Command::Call(event, to) => self.event(event, |decision| Reply::Caller(to, decision)).await,
            Command::Tell(event) => {
                if let Event::Gone(session) = &event {
                    self.sessions.remove(session);
                }
                self.event(event, |_| Reply::Nobody).await
            }
            Command::Join(hello, line, to) => {
                self.last_session += 1;
                let session = SessionId(self.last_session);
                self.sessions.insert(session, line);
                self.event(Event::Hello(session, hello), |decision| Reply::Session(to, session, decision)).await
            }
            Command::Look(look) => {
                look(&self.owner.engine);
                Ok(())
            }
            // Taken care of by the loop.
            Command::Close(_) => Ok(()),
        }
    }

    async fn event(&mut self, event: Event, reply: impl FnOnce(Decision) -> Reply) -> Result<(), ()> {
        self.owner.metrics.before(&event, &self.owner.engine);
        let (decision, effects) = self.owner.engine.handle(event, self.owner.clock.now());
        if let Some(error) = self.owner.engine.broken() {
            tracing::error!(%error, "engine contradicted itself, closing");
            reply(decision).give(Some(&ApiError::Broken(format!("the engine contradicts itself: {error}"))));
            return Err(());
        }
        self.commit(effects, reply(decision)).await
    }

    /// Hands what is durable to the journal and keeps the rest back until it is written.
    async fn commit(&mut self, effects: Vec<Effect>, answer: Reply) -> Result<(), ()> {
        let mut transaction = Transaction::default();
        let mut rest = Vec::new();
        for effect in effects {
            self.owner.metrics.follow(&effect);
            match effect {
                Effect::Record(record) => {
                    self.owner.holds.follow(&record);
                    self.owner.changed.extend(record.run());
                    self.unsnapped += 1;
                    transaction.records.push(*record);
                }
                Effect::Tell { run, at, event } => {
                    let number = self.owner.numbers.entry(run).or_default();
                    *number += 1;
                    transaction.history.push((run, NumberedEvent { number: *number, at, event: *event }));
                }
                other => {
                    // Known before anybody can see that the attempt is over: this task answers those who ask.
                    if let Effect::EndLogs(attempt, reason) = &other {
                        self.owner.logs.begin_end(*attempt, reason.clone());
                    }
                    rest.push(other);
                }
            }
        }
        let history = transaction.history.clone();
        if !transaction.records.is_empty() || !history.is_empty() {
            self.last_transaction += 1;
            self.leaving.push_back(Leaving { number: self.last_transaction, history, effects: rest, answer });
            let mut handed = self.owner.writer.commit(self.last_transaction, transaction).await;
            if handed.is_ok() && self.unsnapped > REPLAY {
                let changed = std::mem::take(&mut self.owner.changed);
                self.unsnapped = 0;
                // The state is what all records that were handed over add up to; what is not durable in it is put right at a recovery.
                handed = self.owner.writer.snapshot(Snapshot::of(self.owner.engine.state(), &changed)).await;
            }
            return handed.or_else(|_ended| self.release());
        }
        // Nothing to write: it follows what is being written, so that nothing overtakes.
        self.leaving.push_back(Leaving { number: self.last_transaction, history, effects: rest, answer });
        self.release()
    }

    /// Lets go what has become durable, in order.
    fn release(&mut self) -> Result<(), ()> {
        let progress = self.owner.progress.borrow_and_update().clone();
        while self.leaving.front().is_some_and(|leaving| leaving.number <= progress.durable) {
            let Some(leaving) = self.leaving.pop_front() else { break };
            for (run, event) in leaving.history {
                if crate::service::feeds::is_last(&event) {
                    self.owner.numbers.remove(&run);
                }
                self.owner.feeds.add(run, event);
            }
            for effect in leaving.effects {
                self.perform(effect);
            }
            leaving.answer.give(None);
        }
        match progress.failure {
            None => Ok(()),
            Some(failure) => {
                tracing::error!(failure, "journal failed, closing");
                let error = ApiError::Broken(format!("the journal: {failure}"));
                self.leaving.drain(..).for_each(|leaving| leaving.answer.give(Some(&error)));
                Err(())
            }
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Send(session, message) => self.say(session, Ok(message)),
            Effect::Close(session, reason) => {
                self.say(session, Err(ApiError::Denied(reason)));
                self.sessions.remove(&session);
            }
            Effect::EndLogs(attempt, _) => {
                let logs = self.owner.logs.clone();
                while self.endings.try_join_next().is_some() {}
                self.endings.spawn(async move {
                    if let Err(error) = logs.end(attempt).await {
                        tracing::error!(%attempt, error = &error as &dyn std::error::Error, "logs of an ended attempt were not sealed");
                    }
                });
            }
            // Both were taken out when the transaction was made.
            Effect::Record(_) | Effect::Tell { .. } => {}
        }
    }

    fn say(&mut self, session: SessionId, message: Result<ControllerMessage, ApiError>) {
        let Some(line) = self.sessions.get(&session) else { return };
        if line.try_send(message).is_err() {
            // Gone, or so far behind that it had better come back and be told what counts.
            self.sessions.remove(&session);
        }
    }

    async fn finish(mut self) {
        self.owner.commands.close();
        let Owner { writer, mut progress, feeds, lock, over, .. } = self.owner;
        over.send_replace(true);
        let written = tokio::task::spawn_blocking(move || writer.finish()).await;
        let durable = match written {
            Ok(()) => progress.borrow_and_update().clone(),
            Err(_) => Progress::default(),
        };
        let error = ApiError::Unavailable("the controller is closing, or another one leads now".to_owned());
        for leaving in self.leaving {
            let failed = leaving.number > durable.durable;
            if !failed {
                leaving.history.into_iter().for_each(|(run, event)| feeds.add(run, event));
            }
            leaving.answer.give(failed.then_some(&error));
        }
        for line in self.sessions.into_values() {
            // A session that is full ends without a word.
            let _full = line.try_send(Err(error.clone()));
        }
        feeds.close();
        while self.endings.join_next().await.is_some() {}
        drop(lock);
    }
}
