//! The controller as a value: owns the engine and a clock, runs effects, and implements the contract. Clones share it.

mod feeds;
mod owner;

use std::fs::{self, File, TryLockError};
use std::path::PathBuf;
use std::sync::Arc;

use caisson_model::agent::Hello;
use caisson_model::diagnostic::Diagnostic;
use caisson_model::id::{AttemptId, Digest, Hold, RunId, StepIndex};
use caisson_model::job::JobSpec;
use caisson_model::lease::{AgentMessage, Completion, ControllerMessage, Recorded, StepChange, StepReport};
use caisson_model::log::{LogAck, LogKey, LogPush, LogRead, LogSeal};
use caisson_model::run::{Explanation, JobView, NumberedEvent, RunEvent, RunView, StepView, Submission};
use caisson_model::secret::OpenedSecrets;
use caisson_proto::api::{AgentApi, Answers, ApiError, BlobApi, ClientApi, Messages, RunDetail, Submitted};
use futures_util::future::FutureExt;
use futures_util::stream::{self, StreamExt};
use indexmap::IndexMap;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;

use crate::blobs::{BlobError, Blobs};
use crate::core::engine::Engine;
use crate::core::event::{Answer, Event, Refusal, Timing};
use crate::core::explain;
use crate::logs::{LogError, Logs};
use crate::policy::{self, Rules};
use crate::secrets::Secrets;
use crate::service::feeds::{Feed, Feeds, is_last};
use crate::service::owner::{Answered, Clock, Command, Holds, Owner, SESSION_BACKLOG};
use crate::store::Place;
use crate::store::journal::{Archive, Opened, StoreError};
use crate::store::writer::Writer;

/// How many commands may wait for the owner.
const COMMANDS: usize = 1024;
/// How many records are replayed at most before a snapshot takes their place.
const REPLAY: usize = 2000;
/// How many events a watcher reads at once.
const EVENTS: u32 = 256;
/// How many log bytes may be unanswered while more arrive; half of what an agent may have on the way.
const UNANSWERED: u64 = 512 * 1024;

/// What a controller is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the journal is.
    pub store: Place,
    /// The folder for logs and blobs; made if it is not there. One controller at a time.
    pub data_dir: PathBuf,
    /// What steps may do.
    pub rules: Rules,
    /// Where secrets come from.
    pub secrets: Secrets,
    /// How long things may take.
    pub timing: Timing,
}

impl Options {
    /// A controller whose journal is a SQLite database in `data_dir`, with the default rules and no secrets.
    pub fn new(data_dir: PathBuf) -> Options {
        let store = Place::Sqlite(data_dir.join("journal.sqlite"));
        Options { store, data_dir, rules: Rules::default(), secrets: Secrets::default(), timing: Timing::default() }
    }
}

/// A controller cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder cannot be made or locked.
    #[error("use the folder {0} for logs and blobs")]
    Folder(PathBuf, #[source] std::io::Error),
    /// Another controller uses the folder.
    #[error("use the folder {0} for logs and blobs: another controller uses it; stop that one, or choose another folder")]
    InUse(PathBuf),
    /// The journal cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A controller.
#[derive(Clone)]
pub struct Service {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("secrets", &self.inner.secrets).finish_non_exhaustive()
    }
}

struct Inner {
    commands: mpsc::Sender<Command>,
    archive: Arc<dyn Archive>,
    feeds: Arc<Feeds>,
    holds: Holds,
    logs: Logs,
    blobs: Blobs,
    rules: Rules,
    secrets: Secrets,
    closing: watch::Sender<bool>,
}

fn closed() -> ApiError {
    ApiError::Unavailable("the controller is closing".to_owned())
}

fn broken(error: &dyn std::error::Error) -> ApiError {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    ApiError::Broken(text)
}

fn refused(refusal: Refusal) -> ApiError {
    match refusal {
        Refusal::Fenced => ApiError::Fenced,
        Refusal::NotFound(what) => ApiError::NotFound(what),
        Refusal::Invalid(what) => ApiError::Invalid(what),
        Refusal::Spent(what) => ApiError::Spent(what),
    }
}

fn blob_error(error: BlobError) -> ApiError {
    match &error {
        BlobError::Missing(_) => ApiError::NotFound(error.to_string()),
        BlobError::Mismatch { .. } => ApiError::Invalid(error.to_string()),
        _ => broken(&error),
    }
}

fn log_error(error: LogError) -> ApiError {
    match &error {
        LogError::Sealed(_) | LogError::Mismatch(..) => ApiError::Invalid(error.to_string()),
        _ => broken(&error),
    }
}

fn answered(answer: Answered) -> Result<Answer, ApiError> {
    answer?.map_err(refused)
}

/// The engine gave an answer to another question.
fn confused(answer: &Answer) -> ApiError {
    ApiError::Broken(format!("an answer does not fit its call: {answer:?}"))
}

impl Service {
    /// Opens the journal, takes up what was going on, and starts. Needs a tokio runtime, which it uses until
    /// [`Service::close`] or until the last clone is dropped.
    ///
    /// # Errors
    /// [`OpenError`]; nothing was started then.
    pub async fn open(options: Options) -> Result<Service, OpenError> {
        let Options { store, data_dir, rules, secrets, timing } = options;
        let folder = data_dir.clone();
        let prepare = move || -> Result<(File, Opened), OpenError> {
            let failed = |error| OpenError::Folder(folder.clone(), error);
            fs::create_dir_all(&folder).map_err(failed)?;
            let lock = File::options().create(true).truncate(false).write(true).open(folder.join("lock")).map_err(failed)?;
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(OpenError::InUse(folder.clone())),
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
            let mut opened = crate::store::open(&store)?;
            if opened.held.replayed > REPLAY {
                opened.journal.compact(&opened.held.state)?;
            }
            Ok((lock, opened))
        };
        let (lock, opened) = tokio::task::spawn_blocking(prepare).await.map_err(|_| StoreError::Thread)??;
        let clock = Clock::start();
        let (engine, first) = Engine::recover(opened.held.state, timing, clock.now());
        let (writer, progress) = Writer::start(opened.journal)?;
        let (holds, feeds) = (Holds::default(), Arc::new(Feeds::default()));
        holds.learn(&engine);
        let going_on = engine.state().runs.values().filter(|run| run.view.finished.is_none()).map(|run| run.view.id);
        going_on.for_each(|run| feeds.begin(run, opened.held.numbers.get(&run).copied().unwrap_or_default()));
        let logs = Logs::new(data_dir.join("logs"));
        let (commands, arrived) = mpsc::channel(COMMANDS);
        let owner = Owner {
            engine,
            clock,
            commands: arrived,
            writer,
            progress,
            feeds: feeds.clone(),
            holds: holds.clone(),
            logs: logs.clone(),
            numbers: opened.held.numbers,
            lock,
        };
        // Ends on `close`, or when the last sender is dropped; `close` waits for it.
        drop(tokio::spawn(owner.run(first)));
        let blobs = Blobs::new(data_dir.join("blobs"));
        let closing = watch::Sender::new(false);
        let inner = Inner { commands, archive: opened.archive, feeds, holds, logs, blobs, rules, secrets, closing };
        Ok(Service { inner: Arc::new(inner) })
    }

    /// Ends the controller: takes nothing more, writes what it has, ends all sessions and watches. Runs are not ended: they
    /// go on when the journal is opened again. May be called twice.
    pub async fn close(&self) {
        self.inner.closing.send_replace(true);
        let (done, ended) = oneshot::channel();
        if self.inner.commands.send(Command::Close(done)).await.is_ok() {
            // An error means that it has ended already.
            let _already = ended.await;
        }
    }

    async fn call(&self, event: Event) -> Result<Answer, ApiError> {
        let (to, answer) = oneshot::channel();
        self.inner.commands.send(Command::Call(event, to)).await.map_err(|_| closed())?;
        answered(answer.await.map_err(|_| closed())?)
    }

    async fn look<T: Send + 'static>(&self, look: impl FnOnce(&Engine) -> T + Send + 'static) -> Result<T, ApiError> {
        let (to, seen) = oneshot::channel();
        let look = Box::new(move |engine: &Engine| drop(to.send(look(engine))));
        self.inner.commands.send(Command::Look(look)).await.map_err(|_| closed())?;
        seen.await.map_err(|_| closed())
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn Archive) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let archive = self.inner.archive.clone();
        let reading = tokio::task::spawn_blocking(move || read(archive.as_ref()));
        reading.await.map_err(|_| closed())?.map_err(|error| broken(&error))
    }

    /// A closed controller writes nothing: the folder may be another's by now.
    fn open_still(&self) -> Result<(), ApiError> {
        if *self.inner.closing.borrow() { Err(closed()) } else { Ok(()) }
    }

    fn holds(&self, hold: Hold) -> Result<(), ApiError> {
        self.open_still()?;
        if self.inner.holds.allow(hold) { Ok(()) } else { Err(ApiError::Fenced) }
    }

    /// All events of a run, folded: the newest view of every job and step.
    async fn folded(
        &self,
        run: RunId,
    ) -> Result<(Option<RunView>, IndexMap<u32, JobView>, IndexMap<(AttemptId, StepIndex), StepView>), ApiError> {
        let (mut view, mut jobs, mut steps) = (None, IndexMap::new(), IndexMap::new());
        let mut after = 0;
        loop {
            let events = self.read(move |archive| archive.history(run, after, EVENTS)).await?;
            let Some(newest) = events.last() else { return Ok((view, jobs, steps)) };
            after = newest.number;
            for event in events {
                match event.event {
                    RunEvent::Run(now) => view = Some(now),
                    RunEvent::Job(job) => drop(jobs.insert(job.id.index, job)),
                    RunEvent::Step(step) => drop(steps.insert((step.attempt, step.index), step)),
                    RunEvent::Egress { .. } | RunEvent::Annotation { .. } => {}
                }
            }
        }
    }
}

impl BlobApi for Service {
    async fn find_missing_blobs(&self, digests: Vec<Digest>) -> Result<Vec<Digest>, ApiError> {
        self.inner.blobs.missing(digests).await.map_err(blob_error)
    }

    async fn put_blob(&self, digest: Digest, content: Messages<Vec<u8>>) -> Result<(), ApiError> {
        self.open_still()?;
        self.inner.blobs.put(digest, content).await.map_err(blob_error)
    }

    async fn get_blob(&self, digest: Digest, offset: u64) -> Result<Answers<Vec<u8>>, ApiError> {
        let pieces = self.inner.blobs.read(digest, offset).await.map_err(blob_error)?;
        Ok(Box::pin(pieces.map(|piece| piece.map_err(blob_error))))
    }
}

impl AgentApi for Service {
    async fn session(&self, hello: Hello, mut messages: Messages<AgentMessage>) -> Result<Answers<ControllerMessage>, ApiError> {
        let (line, answers) = mpsc::channel(SESSION_BACKLOG);
        let (to, joined) = oneshot::channel();
        self.inner.commands.send(Command::Join(hello, line, to)).await.map_err(|_| closed())?;
        let (session, answer) = joined.await.map_err(|_| closed())?;
        let commands = self.inner.commands.clone();
        if let Err(error) = answered(answer) {
            // The owner forgets the line as it forgets any other.
            let _closed = commands.send(Command::Tell(Event::Gone(session))).await;
            return Err(error);
        }
        let (listening, mut deaf) = oneshot::channel::<()>();
        let mut closing = self.inner.closing.subscribe();
        // Ends with the session: when the agent stops speaking or listening, or the controller closes.
        drop(tokio::spawn(async move {
            loop {
                let message = tokio::select! {
                    message = messages.next() => message,
                    _ = &mut deaf => None,
                    // The owner says goodbye to every session itself.
                    _ = closing.wait_for(|closing| *closing) => return,
                };
                let Some(message) = message else { break };
                if commands.send(Command::Tell(Event::Message(session, message))).await.is_err() {
                    return;
                }
            }
            // If the owner has gone, so has the session.
            let _closed = commands.send(Command::Tell(Event::Gone(session))).await;
        }));
        // Dropped with the stream, which the task notices.
        Ok(Box::pin(ReceiverStream::new(answers).inspect(move |_| {
            let _held = &listening;
        })))
    }

    async fn fetch_spec(&self, hold: Hold) -> Result<JobSpec, ApiError> {
        let spec = self.look(move |engine| engine.spec(hold)).await?.map_err(refused)?;
        Ok(Arc::unwrap_or_clone(spec))
    }

    async fn open_secrets(&self, hold: Hold, step: StepIndex) -> Result<OpenedSecrets, ApiError> {
        match self.call(Event::OpenSecrets(hold, step)).await? {
            Answer::Secrets(names) => self.inner.secrets.open(&names).await.map_err(|error| broken(&error)),
            answer => Err(confused(&answer)),
        }
    }

    async fn push_log(&self, chunks: Messages<LogPush>) -> Result<Answers<LogAck>, ApiError> {
        // It is looked at once more after its end, to answer what came last.
        let pushing = Pushing { service: self.clone(), chunks: Box::pin(chunks.fuse()), unanswered: None };
        Ok(Box::pin(stream::unfold(Some(pushing), |pushing| async move {
            let mut pushing = pushing?;
            match pushing.next().await {
                Ok(Some(ack)) => Some((Ok(ack), Some(pushing))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })))
    }

    async fn seal_log(&self, hold: Hold, step: StepIndex, seal: LogSeal) -> Result<(), ApiError> {
        self.holds(hold)?;
        self.inner.logs.seal(LogKey { attempt: hold.attempt, step }, seal).await.map_err(log_error)
    }

    async fn report_step(&self, report: StepReport) -> Result<(), ApiError> {
        if let StepChange::Finished { step, .. } = &report.change
            && self.inner.holds.allow(report.hold)
        {
            let key = LogKey { attempt: report.hold.attempt, step: *step };
            if self.inner.logs.is_open(key).await.map_err(log_error)? {
                return Err(ApiError::Invalid(format!("step: the log of step {} of attempt {} is not sealed", step.0, key.attempt)));
            }
        }
        self.call(Event::Report(report)).await.map(drop)
    }

    async fn complete_attempt(&self, completion: Completion) -> Result<Recorded, ApiError> {
        match self.call(Event::Complete(completion)).await? {
            Answer::Recorded(recorded) => Ok(recorded),
            answer => Err(confused(&answer)),
        }
    }

    async fn return_attempt(&self, hold: Hold, reason: String) -> Result<(), ApiError> {
        self.call(Event::Return(hold, reason)).await.map(drop)
    }
}

/// A log stream of an agent. An answer means that the bytes are on the disk, so it waits until no more come at once.
struct Pushing {
    service: Service,
    chunks: Messages<LogPush>,
    unanswered: Option<(LogKey, u64)>,
}

impl Pushing {
    async fn next(&mut self) -> Result<Option<LogAck>, ApiError> {
        loop {
            let push = match self.unanswered {
                None => self.chunks.next().await,
                Some((key, bytes)) => match self.chunks.next().now_or_never() {
                    Some(Some(push)) if bytes < UNANSWERED && push.step == key.step && push.hold.attempt == key.attempt => Some(push),
                    Some(Some(push)) => {
                        // The answer to what came before must not wait for this one.
                        let ack = self.synced(key).await?;
                        self.chunks = Box::pin(
                            stream::once(std::future::ready(push)).chain(std::mem::replace(&mut self.chunks, Box::pin(stream::empty()))),
                        );
                        return Ok(Some(ack));
                    }
                    Some(None) | None => return self.synced(key).await.map(Some),
                },
            };
            let Some(push) = push else { return Ok(None) };
            self.service.holds(push.hold)?;
            let key = LogKey { attempt: push.hold.attempt, step: push.step };
            let bytes = push.chunk.bytes.len() as u64;
            match self.service.inner.logs.append(key, push.chunk).await.map_err(log_error)? {
                LogAck::Kept { .. } => self.unanswered = Some((key, bytes + self.unanswered.map_or(0, |(_, bytes)| bytes))),
                resync => return Ok(Some(resync)),
            }
        }
    }

    async fn synced(&mut self, key: LogKey) -> Result<LogAck, ApiError> {
        self.unanswered = None;
        let offset = self.service.inner.logs.sync(key).await.map_err(log_error)?;
        Ok(LogAck::Kept { offset })
    }
}

impl ClientApi for Service {
    async fn submit(&self, submission: Submission) -> Result<Submitted, ApiError> {
        if let Some(source) = submission.source
            && !self.find_missing_blobs(vec![source]).await?.is_empty()
        {
            return Err(ApiError::Invalid(format!("source: blob {source} was not put before")));
        }
        let (rules, known) = (self.inner.rules.clone(), self.inner.secrets.names());
        let planning = move || -> Result<_, Vec<Diagnostic>> {
            let plan = caisson_workflow::plan(&submission.text, &submission.file, &submission)?;
            policy::admit(plan, &rules, &known)
        };
        let plan = tokio::task::spawn_blocking(planning).await.map_err(|_| ApiError::Broken("the planning failed".to_owned()))?;
        let plan = plan.map_err(ApiError::Rejected)?;
        let warnings = plan.warnings.clone();
        match self.call(Event::Submit(Box::new(plan))).await? {
            Answer::Submitted(run) => Ok(Submitted { run, warnings }),
            answer => Err(confused(&answer)),
        }
    }

    async fn cancel(&self, run: RunId) -> Result<(), ApiError> {
        match self.call(Event::Cancel(run)).await {
            // It may have ended so long ago that only the store knows it.
            Err(ApiError::NotFound(what)) => match self.read(move |archive| archive.run(run)).await? {
                Some(_) => Ok(()),
                None => Err(ApiError::NotFound(what)),
            },
            other => other.map(drop),
        }
    }

    async fn list_runs(&self, limit: u32) -> Result<Vec<RunView>, ApiError> {
        self.read(move |archive| archive.runs(limit)).await
    }

    async fn run(&self, run: RunId) -> Result<RunDetail, ApiError> {
        let live = self.look(move |engine| engine.view(run)).await?;
        let (view, jobs, steps) = self.folded(run).await?;
        let (view, jobs) = match (live, view) {
            (Some(live), _) => live,
            (None, Some(view)) => (view, jobs.into_values().collect()),
            (None, None) => return Err(ApiError::NotFound(format!("run {run}"))),
        };
        let mut last: Vec<StepView> = Vec::new();
        for job in &jobs {
            let of_last = steps.iter().filter(|((attempt, _), _)| Some(*attempt) == job.attempt);
            let mut of_last: Vec<_> = of_last.map(|(_, step)| step.clone()).collect();
            of_last.sort_by_key(|step| step.index);
            last.extend(of_last);
        }
        Ok(RunDetail { run: view, jobs, steps: last })
    }

    async fn watch_run(&self, run: RunId, after: u64) -> Result<Answers<NumberedEvent>, ApiError> {
        let feed = self.inner.feeds.of(run);
        if feed.is_none() && self.read(move |archive| archive.run(run)).await?.is_none() {
            return Err(ApiError::NotFound(format!("run {run}")));
        }
        let news = feed.as_ref().map(|feed| feed.subscribe());
        // The feed is held weakly: it goes away with the run or the controller, which wakes whoever waits.
        let watching = Watching { service: self.clone(), run, after, feed: feed.as_ref().map(Arc::downgrade), news };
        drop(feed);
        let batches = stream::unfold(Some(watching), |watching| async move {
            let mut watching = watching?;
            match watching.next().await {
                Ok(events) if events.last().is_none_or(is_last) => Some((Ok(events), None)),
                Ok(events) => Some((Ok(events), Some(watching))),
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(Box::pin(batches.flat_map(|batch| {
            let (events, error) = match batch {
                Ok(events) => (events, None),
                Err(error) => (Vec::new(), Some(Err(error))),
            };
            stream::iter(events.into_iter().map(Ok).chain(error))
        })))
    }

    async fn tail_log(&self, log: LogKey, offset: u64) -> Result<Answers<LogRead>, ApiError> {
        let attempt = log.attempt;
        let live = match self.look(move |engine| engine.is_live(attempt)).await? {
            Some(live) => live,
            None => match self.read(move |archive| archive.run(attempt.job.run)).await? {
                Some(_) => false,
                None => return Err(ApiError::NotFound(format!("run {}", attempt.job.run))),
            },
        };
        let reads = self.inner.logs.tail(log, offset, live).await.map_err(log_error)?;
        let mut closing = self.inner.closing.subscribe();
        let closing = Box::pin(async move { drop(closing.wait_for(|closing| *closing).await) });
        let until_closed = reads.map(|read| read.map_err(log_error)).take_until(closing);
        let service = self.clone();
        let mut sealed = false;
        let watched = until_closed.map(move |read| {
            sealed |= matches!(read, Ok(LogRead::Seal(_)) | Err(_));
            (sealed, read)
        });
        // A reader must be able to tell a sealed log from a controller that went away.
        let goodbye = stream::once(async move { service.inner.closing.borrow().then(|| (false, Err(closed()))) });
        let all = watched.chain(goodbye.filter_map(std::future::ready));
        Ok(Box::pin(all.scan(false, |done, (last, read)| {
            let item = (!*done).then_some(read);
            *done |= last;
            std::future::ready(item)
        })))
    }

    async fn explain(&self, run: RunId) -> Result<Vec<Explanation>, ApiError> {
        match self.look(move |engine| explain::explain(engine, run)).await? {
            Ok(explanations) => Ok(explanations),
            Err(refusal) => match self.read(move |archive| archive.run(run)).await? {
                Some(_) => Ok(Vec::new()),
                None => Err(refused(refusal)),
            },
        }
    }
}

struct Watching {
    service: Service,
    run: RunId,
    after: u64,
    feed: Option<std::sync::Weak<Feed>>,
    news: Option<watch::Receiver<u64>>,
}

impl Watching {
    /// Some more events; none when the run has no more.
    async fn next(&mut self) -> Result<Vec<NumberedEvent>, ApiError> {
        loop {
            let (run, after) = (self.run, self.after);
            if let Some(news) = &mut self.news {
                news.mark_unchanged();
            }
            let feed = self.feed.as_ref().and_then(std::sync::Weak::upgrade);
            let events = match feed.and_then(|feed| feed.after(after, EVENTS as usize)) {
                Some(events) => events,
                None => self.service.read(move |archive| archive.history(run, after, EVENTS)).await?,
            };
            if let Some(newest) = events.last() {
                self.after = newest.number;
                return Ok(events);
            }
            match &mut self.news {
                Some(news) => {
                    if news.changed().await.is_err() {
                        // The feed is gone: look once more in the store, which has all of it.
                        self.news = None;
                    }
                }
                None if *self.service.inner.closing.borrow() => return Err(closed()),
                None => return Ok(Vec::new()),
            }
        }
    }
}
