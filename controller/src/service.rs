//! The controller as a value: owns the engine and a clock, runs effects, and implements the contract. Clones share it.

mod agent;
mod client;
mod feeds;
mod intake;
mod keeping;
mod owner;

use std::fs::{self, File, TryLockError};
use std::path::PathBuf;
use std::sync::Arc;

use caisson_model::id::{AgentName, AttemptId, Hold, RunId, StepIndex};
use caisson_model::run::{JobView, RunEvent, RunView, StepView};
use caisson_proto::api::ApiError;
use indexmap::IndexMap;
use tokio::sync::{mpsc, oneshot, watch};

use crate::artifacts::Artifacts;
use crate::blobs::{BlobError, Blobs};
use crate::caches::{self, Caches};
use crate::core::engine::Engine;
use crate::core::event::{Answer, Event, Refusal, Timing};
use crate::logs::{LogError, Logs};
use crate::mirror;
use crate::policy::Rules;
use crate::secrets::Secrets;
use crate::service::feeds::Feeds;
use crate::service::owner::{Answered, Clock, Command, Holds, Owner, REPLAY};
use crate::store::Place;
use crate::store::journal::{Archive, Opened, StoreError};
use crate::store::writer::Writer;

/// How many commands may wait for the owner.
const COMMANDS: usize = 1024;
/// How many events a watcher reads at once.
const EVENTS: u32 = 256;

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
    /// The mirror of actions, read anew for every submission; `None` for an empty one.
    pub mirror: Option<PathBuf>,
}

impl Options {
    /// A controller whose journal is a SQLite database in `data_dir`, with the default rules and no secrets.
    pub fn new(data_dir: PathBuf) -> Options {
        let store = Place::Sqlite(data_dir.join("journal.sqlite"));
        Options { store, data_dir, rules: Rules::default(), secrets: Secrets::default(), timing: Timing::default(), mirror: None }
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
    artifacts: Artifacts,
    caches: Caches,
    mirror: Option<PathBuf>,
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
        Refusal::Denied(what) => ApiError::Denied(what),
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
        let Options { store, data_dir, rules, secrets, timing, mirror } = options;
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
                opened.journal.snapshot(&opened.held.snapshot())?;
                opened.held.changed.clear();
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
            changed: opened.held.changed,
            numbers: opened.held.numbers,
            lock,
        };
        // Ends on `close`, or when the last sender is dropped; `close` waits for it.
        drop(tokio::spawn(owner.run(first)));
        let blobs = Blobs::new(data_dir.join("blobs")).and_of(mirror.iter().map(|folder| mirror::blobs(folder)).collect());
        let artifacts = Artifacts::new(data_dir.join("artifacts"));
        let caches = Caches::new(data_dir.join("caches"), caches::MOST_BYTES);
        let closing = watch::Sender::new(false);
        let inner =
            Inner { commands, archive: opened.archive, feeds, holds, logs, blobs, artifacts, caches, mirror, rules, secrets, closing };
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

    /// Whose attempt this is, while somebody holds it.
    pub fn owner(&self, attempt: AttemptId) -> Option<AgentName> {
        self.inner.holds.owner(attempt)
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
