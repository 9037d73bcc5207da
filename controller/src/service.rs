//! The controller as a value: owns the engine and a clock, runs effects, and implements the contract. Clones share it.

mod agent;
mod beside;
mod client;
mod feeds;
mod intake;
mod keeping;
mod lead;
mod owner;
mod retention;
mod way;

use std::fs::{self, File, TryLockError};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use caisson_model::id::{AgentName, AttemptId, Hold, RunId, StepIndex};
use caisson_model::run::{JobView, RunEvent, RunView, StepView};
use caisson_proto::api::ApiError;
use indexmap::IndexMap;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::artifacts::Artifacts;
use crate::blobs::Blobs;
use crate::blobs::bucket::{BlobsPlace, Bucket, BucketError};
use crate::blobs::store::BlobError;
use crate::caches::{self, Caches};
use crate::core::engine::Engine;
use crate::core::event::{Answer, Event, Refusal, Timing};
use crate::identity::registry::Registry;
use crate::logs::{LogError, Logs};
use crate::metrics::{Gauges, Metrics};
use crate::mirror;
use crate::policy::Rules;
use crate::records::{Files, Records};
use crate::secrets::Secrets;
use crate::service::lead::{Claim, Lead, Seat, Term};
use crate::service::owner::{Answered, Command};
use crate::service::way::Way;
use crate::store::Place;
use crate::store::journal::{Archive, StoreError};
use crate::store::postgres::shelf::Table;

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
    /// The labels of the only agent that this controller will ever have; `None` where agents come and go.
    pub alone: Option<Vec<String>>,
    /// The mirror of actions, read anew for every submission; `None` for an empty one.
    pub mirror: Option<PathBuf>,
    /// Where clients and agents reach this controller, for those that ask one that stands by.
    pub address: String,
    /// Where blobs are, if not in `data_dir`. Several controllers may share it.
    pub blobs: Option<BlobsPlace>,
    /// The bytes of blobs that are kept at most; `None` for no quota.
    pub blobs_quota: Option<u64>,
    /// Who may speak, for a controller that stands by and has to ask the leader; `None` where nothing is asked of a caller.
    pub registry: Option<Registry>,
}

impl Options {
    /// A controller whose journal is a SQLite database in `data_dir`, with the default rules and no secrets.
    pub fn new(data_dir: PathBuf) -> Options {
        let store = Place::Sqlite(data_dir.join("journal.sqlite"));
        Options {
            store,
            data_dir,
            rules: Rules::default(),
            secrets: Secrets::default(),
            timing: Timing::default(),
            alone: None,
            mirror: None,
            address: String::new(),
            blobs: None,
            blobs_quota: None,
            registry: None,
        }
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
    /// The bucket cannot be used.
    #[error(transparent)]
    Bucket(#[from] BucketError),
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
    seat: Arc<Seat>,
    leading: Mutex<Option<JoinHandle<()>>>,
    archive: Arc<dyn Archive>,
    logs: Logs,
    blobs: Blobs,
    records: Arc<dyn Records>,
    way: Way,
    artifacts: Artifacts,
    caches: Caches,
    alone: Option<Vec<String>>,
    mirror: Option<PathBuf>,
    rules: Rules,
    secrets: Secrets,
}

fn closed() -> ApiError {
    ApiError::Unavailable("the controller is closing".to_owned())
}

fn broken(error: &dyn std::error::Error) -> ApiError {
    ApiError::Broken(told(error))
}

/// An error with all that led to it.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
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
        BlobError::Mismatch { .. } | BlobError::Offset { .. } | BlobError::Full(_) => ApiError::Invalid(error.to_string()),
        // The store may come back; whoever asks may wait for it.
        BlobError::Bucket { .. } => ApiError::Unavailable(told(&error)),
        _ => broken(&error),
    }
}

fn log_error(error: LogError) -> ApiError {
    match &error {
        LogError::Sealed(_) | LogError::Mismatch(..) => ApiError::Invalid(error.to_string()),
        LogError::Shared { .. } => ApiError::Unavailable(told(&error)),
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
        let Options { store, data_dir, rules, secrets, timing, alone, mirror, address, blobs, blobs_quota, registry } = options;
        let folder = data_dir.clone();
        // What is sealed is shared where anything is.
        let is_shared = matches!(store, Place::Postgres(_)) || matches!(blobs, Some(BlobsPlace::Bucket(_)));
        let prepare = move || -> Result<_, OpenError> {
            let failed = |error| OpenError::Folder(folder.clone(), error);
            fs::create_dir_all(&folder).map_err(failed)?;
            let lock = File::options().create(true).truncate(false).write(true).open(folder.join("lock")).map_err(failed)?;
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(OpenError::InUse(folder.clone())),
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
            let (claim, archive, records): (_, _, Arc<dyn Records>) = match store {
                Place::Postgres(url) => {
                    let archive = crate::store::postgres::look(&url)?;
                    let records = Arc::new(Table::new(&url));
                    let claim = Claim { url, address, records: records.clone() };
                    (claim.try_once()?.map_or(Err(claim.clone()), |opened| Ok((opened, Some(claim)))), archive, records)
                }
                place => {
                    let opened = crate::store::open(&place)?;
                    let archive = opened.archive.clone();
                    (Ok((opened, None)), archive, Arc::new(Files::new(folder)))
                }
            };
            Ok((Arc::new(lock), claim, archive, records))
        };
        let (lock, claim, archive, records) = tokio::task::spawn_blocking(prepare).await.map_err(|_| StoreError::Thread)??;
        let blobs = match blobs {
            None => Blobs::new(data_dir.join("blobs")),
            Some(BlobsPlace::Folder(folder)) => Blobs::new(folder),
            Some(BlobsPlace::Bucket(place)) => Blobs::in_bucket(Bucket::open(&place).await?, data_dir.join("blobs/parts")),
        };
        let blobs = blobs.and_of(mirror.iter().map(|folder| mirror::blobs(folder)).collect()).at_most(blobs_quota);
        let logs = Logs::new(data_dir.join("logs"));
        let logs = if is_shared { logs.shared(blobs.clone(), records.clone()) } else { logs };
        let seat = Arc::new(Seat {
            term: watch::Sender::new(None),
            leader: Mutex::default(),
            metrics: Metrics::default(),
            closing: watch::Sender::new(false),
            logs: logs.clone(),
        });
        let inner = Arc::new(Inner {
            seat: seat.clone(),
            leading: Mutex::default(),
            archive,
            logs,
            blobs,
            artifacts: Artifacts::new(records.clone()),
            caches: Caches::new(records.clone(), caches::MOST_BYTES),
            records,
            way: Way::new(registry),
            alone,
            mirror,
            rules,
            secrets,
        });
        let lead = Lead { timing, lock };
        let task = match claim {
            Ok((opened, claim)) => {
                let owner = lead.begin(&seat, opened, claim.is_some())?;
                tokio::spawn(lead.keep(Arc::downgrade(&seat), Some(owner), claim))
            }
            Err(claim) => tokio::spawn(lead.keep(Arc::downgrade(&seat), None, Some(claim))),
        };
        *inner.leading.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        Ok(Service { inner })
    }

    /// Whether this controller leads: gives out jobs and writes the journal. One that stands by answers what can be read.
    pub fn is_leading(&self) -> bool {
        self.inner.seat.term.borrow().is_some()
    }

    /// Ready when this controller leads; never when it is closed before.
    pub async fn leads(&self) {
        if self.inner.seat.term.subscribe().wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Ends the controller: takes nothing more, writes what it has, ends all sessions and watches. Runs are not ended: they
    /// go on when the journal is opened again. May be called twice.
    pub async fn close(&self) {
        self.inner.seat.closing.send_replace(true);
        let term = self.inner.seat.term.borrow().clone();
        if let Some(term) = term {
            let (done, ended) = oneshot::channel();
            if term.commands.send(Command::Close(done)).await.is_ok() {
                // An error means that it has ended already.
                let _already = ended.await;
            }
        }
        let leading = self.inner.leading.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(leading) = leading {
            // It watches `closing`; a panic in there was told by the runtime.
            let _ended = leading.await;
        }
    }

    /// The present term, or why nothing is decided here.
    fn term(&self) -> Result<Arc<Term>, ApiError> {
        if let Some(term) = self.inner.seat.term.borrow().clone() {
            return Ok(term);
        }
        if *self.inner.seat.closing.borrow() {
            return Err(closed());
        }
        let leader = self.inner.seat.leader.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Err(ApiError::Unavailable(match leader {
            Some(leader) => format!("this controller stands by; the one at {leader} leads"),
            None => "this controller stands by".to_owned(),
        }))
    }

    async fn call(&self, event: Event) -> Result<Answer, ApiError> {
        let (to, answer) = oneshot::channel();
        self.term()?.commands.send(Command::Call(event, to)).await.map_err(|_| closed())?;
        answered(answer.await.map_err(|_| closed())?)
    }

    async fn look<T: Send + 'static>(&self, look: impl FnOnce(&Engine) -> T + Send + 'static) -> Result<T, ApiError> {
        let (to, seen) = oneshot::channel();
        let look = Box::new(move |engine: &Engine| drop(to.send(look(engine))));
        self.term()?.commands.send(Command::Look(look)).await.map_err(|_| closed())?;
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
        if *self.inner.seat.closing.borrow() { Err(closed()) } else { Ok(()) }
    }

    /// What is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.seat.metrics
    }

    /// What the engine shows now.
    ///
    /// # Errors
    /// [`ApiError::Unavailable`] when the controller takes no calls.
    pub async fn gauges(&self) -> Result<Gauges, ApiError> {
        self.open_still()?;
        self.look(Gauges::of).await
    }

    /// Whose attempt this is, while somebody holds it.
    pub fn owner(&self, attempt: AttemptId) -> Option<AgentName> {
        self.term().ok()?.holds.owner(attempt)
    }

    fn holds(&self, hold: Hold) -> Result<(), ApiError> {
        self.open_still()?;
        if self.term()?.holds.allow(hold) { Ok(()) } else { Err(ApiError::Fenced) }
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
