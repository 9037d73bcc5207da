//! The agent: a session with a controller, slots, and the attempts that run in them. A broken session changes nothing by
//! itself: attempts go on, the agent comes back, names what it runs and follows the verdicts.

use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::future::Future;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use caisson_model::agent::{Hello, VersionRange};
use caisson_model::id::{Digest, Hold};
use caisson_model::lease::{AgentMessage, ControllerMessage, Verdict};
use caisson_proto::api::{AgentApi, Answers, ApiError};
use caisson_sandbox::launcher::Launcher;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use crate::beats::Beats;
use crate::clock;
use crate::job::{self, Assignment, Notice};
pub use crate::options::{Options, default_labels};
use crate::outbox::{self, Kept};
use crate::probe::Readiness;
use crate::retry::Backoff;
use crate::stop::{Stages, Stop, order};
use crate::trees::Trees;
use crate::workspace;

/// Why an agent ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Its directory cannot be used.
    #[error("use the state directory {}", path.display())]
    State {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another agent has this directory.
    #[error("another agent uses the state directory {}; give this one a directory of its own", path.display())]
    Busy {
        /// Which.
        path: PathBuf,
    },
    /// The process that builds sandboxes is gone, and every step with it.
    #[error("go on without the launcher of sandboxes, which was killed")]
    Launcher,
    /// The controller does not want this agent.
    #[error("open a session with the controller")]
    Refused(#[source] ApiError),
}

impl RunError {
    /// Whose doing this is.
    pub fn fault(&self) -> caisson_model::outcome::Fault {
        match self {
            RunError::State { .. } | RunError::Launcher => caisson_model::outcome::Fault::Environment,
            RunError::Busy { .. } => caisson_model::outcome::Fault::User,
            RunError::Refused(error) => error.fault(),
        }
    }
}

/// How long attempts may take at a shutdown: the stages, and then telling the controller.
const LEAVING: Duration = Duration::from_secs(30);

/// An agent that has not begun.
#[derive(Debug)]
pub struct Agent<A> {
    api: Arc<A>,
    launcher: Launcher,
    options: Options,
}

impl<A: AgentApi> Agent<A> {
    /// An agent that talks to `api` and runs steps through `launcher`.
    pub fn new(api: A, launcher: Launcher, options: Options) -> Agent<A> {
        Agent { api: Arc::new(api), launcher, options }
    }

    /// Serves until `shutdown` is ready and every attempt has ended, or until the controller has drained it. Attempts that
    /// still run at a shutdown are ended in stages and given back.
    ///
    /// # Errors
    /// [`RunError`]. An unreachable controller is none: the agent tries for ever.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), RunError> {
        let state = StateDirectory::open(&self.options.state_dir, &self.launcher).await?;
        let (notices, received) = mpsc::channel(64);
        let mut floor = Floor {
            api: self.api,
            launcher: self.launcher,
            options: Arc::new(self.options),
            attempts: state.attempts,
            outboxes: state.outboxes,
            trees: state.trees,
            reserved: HashMap::new(),
            running: HashMap::new(),
            closing: Vec::new(),
            notices,
            leaving: false,
            link: None,
            term: Duration::from_secs(30),
            grace: Duration::from_secs(60),
            beats: Beats::default(),
        };
        state.kept.into_iter().for_each(|kept| floor.resume(kept));
        let result = floor.serve(received, shutdown).await;
        for task in floor.closing {
            join(task).await;
        }
        result
    }
}

/// An offer that was accepted and waits for its start.
struct Reservation {
    spec: Digest,
    until: Instant,
}

struct RunningAttempt {
    stop: Arc<watch::Sender<Stop>>,
    task: JoinHandle<()>,
}

/// The open session.
struct Link {
    messages: mpsc::Sender<AgentMessage>,
    answers: Answers<ControllerMessage>,
    beat: Instant,
    /// When its hello was sent.
    greeted: Instant,
}

type Opening = Pin<Box<dyn Future<Output = Result<Link, ApiError>> + Send>>;

struct Floor<A> {
    api: Arc<A>,
    launcher: Launcher,
    options: Arc<Options>,
    attempts: PathBuf,
    trees: Trees,
    outboxes: PathBuf,
    reserved: HashMap<Hold, Reservation>,
    running: HashMap<Hold, RunningAttempt>,
    closing: Vec<JoinHandle<()>>,
    notices: mpsc::Sender<Notice>,
    leaving: bool,
    link: Option<Link>,
    term: Duration,
    grace: Duration,
    beats: Beats,
}

/// What one turn of the loop reacts to.
enum Event {
    Shutdown,
    Launcher,
    Opened(Result<Link, ApiError>),
    Message(Option<Result<ControllerMessage, ApiError>>),
    Notice(Notice),
    Clock,
}

impl<A: AgentApi> Floor<A> {
    async fn serve(&mut self, mut notices: mpsc::Receiver<Notice>, shutdown: impl Future<Output = ()> + Send) -> Result<(), RunError> {
        let mut shutdown = std::pin::pin!(shutdown);
        // Without this a service would take job after job and fail each: whoever supervises it can start it anew.
        let mut gone = gone(&self.launcher);
        let mut unbuilt: Option<Instant> = None;
        let mut shutting_down = false;
        let mut backoff = Backoff::new();
        let mut opening: Option<Opening> = Some(self.open());
        let mut retry_at: Option<Instant> = None;
        let mut lost_at: Option<Instant> = None;
        let mut last_call: Option<Instant> = None;
        loop {
            if let Some(until) = unbuilt
                && (self.running.is_empty() || until <= Instant::now())
            {
                return Err(RunError::Launcher);
            }
            if self.leaving && self.running.is_empty() {
                return Ok(());
            }
            if self.link.is_none() && opening.is_none() && retry_at.is_none() {
                retry_at = Some(Instant::now() + backoff.pause());
                // Where beats are not answered, the break is all that is known.
                lost_at = lost_at.or(self.beats.heard()).or(Some(Instant::now()));
            }
            let fence_at = lost_at.filter(|_| !self.running.is_empty()).map(|at| at + self.term + self.grace);
            let wake = [
                last_call.filter(|_| !self.running.is_empty()),
                retry_at,
                unbuilt,
                fence_at,
                self.link.as_ref().map(|link| link.beat),
                self.reserved.values().map(|reservation| reservation.until).min(),
            ];
            let wake = wake.into_iter().flatten().min();
            let event = tokio::select! {
                () = &mut shutdown, if !shutting_down => Event::Shutdown,
                opened = async { match opening.as_mut() { Some(opening) => opening.await, None => std::future::pending().await } } => Event::Opened(opened),
                message = async { match self.link.as_mut() { Some(link) => link.answers.next().await, None => std::future::pending().await } } => Event::Message(message),
                Some(notice) = notices.recv() => Event::Notice(notice),
                Ok(()) = &mut gone, if unbuilt.is_none() => Event::Launcher,
                () = async { match wake { Some(at) => tokio::time::sleep_until(at).await, None => std::future::pending().await } } => Event::Clock,
            };
            match event {
                Event::Launcher => {
                    tracing::error!("the launcher of sandboxes is gone");
                    unbuilt = Some(Instant::now() + LEAVING);
                    self.leave();
                }
                Event::Shutdown => {
                    shutting_down = true;
                    last_call = Some(Instant::now() + LEAVING);
                    self.leave();
                    self.running.values().for_each(|attempt| order(&attempt.stop, Stop::Leave(Stages::default())));
                }
                Event::Opened(opened) => {
                    opening = None;
                    match opened {
                        Ok(link) => self.link = Some(link),
                        Err(error) if error.is_transient() || matches!(error, ApiError::Broken(_)) => {
                            tracing::warn!(%error, "session was not opened");
                        }
                        Err(error) => {
                            self.running.values().for_each(|attempt| order(&attempt.stop, Stop::Forget));
                            return Err(RunError::Refused(error));
                        }
                    }
                }
                Event::Message(Some(Ok(message))) => {
                    if let ControllerMessage::Welcome { .. } = message {
                        backoff = Backoff::new();
                        lost_at = None;
                    }
                    self.obey(message);
                }
                Event::Message(Some(Err(error))) => {
                    tracing::warn!(%error, "session broke");
                    self.break_link();
                }
                Event::Message(None) => {
                    tracing::info!("session ended");
                    self.break_link();
                }
                Event::Notice(notice) => self.note(notice),
                Event::Clock => {
                    let now = Instant::now();
                    if last_call.is_some_and(|at| at <= now) {
                        tracing::warn!("attempts were left behind: the controller takes nothing more");
                        self.running.values().for_each(|attempt| order(&attempt.stop, Stop::Forget));
                        last_call = Some(now + LEAVING);
                    }
                    if retry_at.is_some_and(|at| at <= now) {
                        retry_at = None;
                        opening = Some(self.open());
                    }
                    if fence_at.is_some_and(|at| at <= now) {
                        // Whoever gave the leases has given them to somebody else by now.
                        tracing::warn!("leases ran out while the controller was out of reach");
                        self.running.values().for_each(|attempt| order(&attempt.stop, Stop::Forget));
                        lost_at = Some(now);
                    }
                    self.reserved.retain(|hold, reservation| {
                        let keep = reservation.until > now;
                        if !keep {
                            tracing::warn!(attempt = %hold.attempt, "offer was never started");
                        }
                        keep
                    });
                    if self.link.as_ref().is_some_and(|link| link.beat <= now) {
                        self.beat(now);
                    }
                }
            }
        }
    }

    fn open(&self) -> Opening {
        let readiness = Readiness::of(self.launcher.standing(), &self.options.host.allow_missing);
        let hello = Hello {
            agent: self.options.name.clone(),
            versions: VersionRange::SPOKEN,
            slots: self.options.slots.max(1),
            labels: self.options.labels.clone(),
            enforces: readiness.names(),
            memory_bytes: self.options.memory_bytes,
            cpu_milli: self.options.cpu_milli,
            running: self.running.keys().copied().collect(),
        };
        let api = Arc::clone(&self.api);
        let greeted = Instant::now();
        let beat = greeted + self.term / 3;
        Box::pin(async move {
            let (messages, outgoing) = mpsc::channel(64);
            let deadline = Duration::from_secs(30);
            let answers = tokio::time::timeout(deadline, api.session(hello, Box::pin(ReceiverStream::new(outgoing))))
                .await
                .unwrap_or_else(|_| Err(ApiError::Unavailable("no answer to the hello in 30 s".to_owned())))?;
            Ok(Link { messages, answers, beat, greeted })
        })
    }

    fn obey(&mut self, message: ControllerMessage) {
        match message {
            ControllerMessage::Welcome { version, term, grace, verdicts } => {
                tracing::info!(version, ?term, "session opened");
                self.term = term;
                self.grace = grace;
                if let Some(link) = &self.link {
                    self.beats.welcomed(link.greeted, version);
                }
                for (hold, verdict) in verdicts {
                    let Some(attempt) = self.running.get(&hold) else { continue };
                    match verdict {
                        Verdict::Keep => {}
                        Verdict::Stop => order(&attempt.stop, Stop::Cancel(Stages::default())),
                        Verdict::Forget => order(&attempt.stop, Stop::Forget),
                    }
                }
                self.beat(Instant::now());
                if self.leaving {
                    self.send(AgentMessage::Draining);
                }
            }
            ControllerMessage::Offer { hold, spec, deadline } => self.consider(hold, spec, deadline.since(clock::now())),
            ControllerMessage::Start(hold) => self.start(hold),
            ControllerMessage::Cancel { hold, terminate_after, kill_after } => {
                self.reserved.remove(&hold);
                if let Some(attempt) = self.running.get(&hold) {
                    order(&attempt.stop, Stop::Cancel(Stages { terminate_after, kill_after }));
                }
                self.send(AgentMessage::CancelAck(hold));
            }
            ControllerMessage::Forget(hold) => {
                self.reserved.remove(&hold);
                if let Some(attempt) = self.running.get(&hold) {
                    order(&attempt.stop, Stop::Forget);
                }
            }
            ControllerMessage::Drain => self.leave(),
            ControllerMessage::Heard(number) => self.beats.answered(number),
        }
    }

    fn consider(&mut self, hold: Hold, spec: Digest, left: Duration) {
        let taken = self.running.len() + self.reserved.len();
        let reason = if self.leaving {
            Some("the agent takes no more work")
        } else if self.running.contains_key(&hold) || self.reserved.contains_key(&hold) {
            // An offer that was repeated: it has been answered.
            return;
        } else if taken >= self.options.slots.max(1) as usize {
            Some("every slot is taken")
        } else {
            None
        };
        match reason {
            Some(reason) => self.send(AgentMessage::Decline { hold, reason: reason.to_owned() }),
            None => {
                // The start comes when the lease is durable; the clocks of two machines may differ.
                let until = Instant::now() + left.min(self.term) + Duration::from_secs(10);
                self.reserved.insert(hold, Reservation { spec, until });
                self.send(AgentMessage::Accept(hold));
            }
        }
    }

    fn start(&mut self, hold: Hold) {
        if self.running.contains_key(&hold) {
            return;
        }
        let Some(reservation) = self.reserved.remove(&hold) else {
            let api = Arc::clone(&self.api);
            self.closing.retain(|task| !task.is_finished());
            self.closing.push(tokio::spawn(async move {
                if let Err(error) = api.return_attempt(hold, "the agent keeps no slot for it any more".to_owned()).await {
                    tracing::warn!(%error, attempt = %hold.attempt, "attempt was not given back; its lease will end");
                }
            }));
            return;
        };
        let stop = Arc::new(watch::Sender::new(Stop::Run));
        let assignment = Assignment {
            api: Arc::clone(&self.api),
            launcher: self.launcher.clone(),
            options: Arc::clone(&self.options),
            hold,
            spec: reservation.spec,
            directory: self.attempts.join(format!("{}-{}", hold.attempt.to_string().replace('#', "-"), hold.fence.0)),
            outboxes: self.outboxes.clone(),
            stop: Arc::clone(&stop),
            notices: self.notices.clone(),
            trees: self.trees.clone(),
        };
        let notices = self.notices.clone();
        let task = tokio::spawn(async move {
            // A defect in one attempt must not take its slot for ever.
            join(tokio::spawn(job::run(assignment))).await;
            let _ = notices.send(Notice::Ended(hold)).await;
        });
        self.running.insert(hold, RunningAttempt { stop, task });
    }

    /// An attempt that an earlier agent finished is this one's until it is told.
    fn resume(&mut self, kept: Kept) {
        let hold = kept.completion.hold;
        let stop = Arc::new(watch::Sender::new(Stop::Run));
        let telling = job::resume(Arc::clone(&self.api), kept, Arc::clone(&stop), self.notices.clone());
        let notices = self.notices.clone();
        let task = tokio::spawn(async move {
            join(tokio::spawn(telling)).await;
            let _ = notices.send(Notice::Ended(hold)).await;
        });
        self.running.insert(hold, RunningAttempt { stop, task });
    }

    fn note(&mut self, notice: Notice) {
        match notice {
            Notice::Killed(hold) => self.send(AgentMessage::Killed(hold)),
            // Recorded: the slot is free, while its directories are still being removed. And the end, if nothing was recorded.
            Notice::Recorded(hold) | Notice::Ended(hold) => {
                if let Some(attempt) = self.running.remove(&hold) {
                    self.closing.retain(|task| !task.is_finished());
                    self.closing.push(attempt.task);
                }
            }
        }
    }

    fn leave(&mut self) {
        if !std::mem::replace(&mut self.leaving, true) {
            for hold in std::mem::take(&mut self.reserved).into_keys() {
                self.send(AgentMessage::Decline { hold, reason: "the agent takes no more work".to_owned() });
            }
            self.send(AgentMessage::Draining);
        }
    }

    fn beat(&mut self, now: Instant) {
        let term = self.term;
        if let Some(link) = &mut self.link {
            link.beat = now + term / 3;
        }
        let number = self.beats.next(now);
        self.send(AgentMessage::Beat { number, holds: self.running.keys().copied().collect() });
    }

    fn send(&mut self, message: AgentMessage) {
        let Some(link) = &self.link else { return };
        if link.messages.try_send(message).is_err() {
            // The queue is only ever full, or closed, when nothing gets through any more.
            tracing::warn!("session does not take messages");
            self.break_link();
        }
    }

    fn break_link(&mut self) {
        self.link = None;
        // An accepted offer does not outlive its session: the controller offers it again.
        self.reserved.clear();
    }
}

/// Says when the launcher's process is dead; an error when that can't be watched. A thread waits for it, since tokio takes no
/// foreign descriptor without `unsafe`; it ends with the launcher, which ends with the last handle on it.
fn gone(launcher: &Launcher) -> oneshot::Receiver<()> {
    let (tell, told) = oneshot::channel();
    if let Ok(process) = launcher.as_fd().try_clone_to_owned() {
        std::thread::spawn(move || {
            let mut waits = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
            while poll(&mut waits, PollTimeout::NONE) == Err(Errno::EINTR) {}
            // Nobody listens any more after an orderly end.
            let _ = tell.send(());
        });
    }
    told
}

async fn join(task: JoinHandle<()>) {
    if let Err(error) = task.await {
        tracing::error!(%error, "a task of the agent ended early; this is a defect of caisson");
    }
}

/// The agent's directory, locked for its life.
struct StateDirectory {
    attempts: PathBuf,
    trees: Trees,
    outboxes: PathBuf,
    kept: Vec<Kept>,
    _lock: File,
}

impl StateDirectory {
    /// Takes it, and removes what an earlier agent left there.
    async fn open(path: &Path, launcher: &Launcher) -> Result<StateDirectory, RunError> {
        let (path, launcher) = (path.to_owned(), launcher.clone());
        let failed = {
            let path = path.clone();
            move |source| RunError::State { path, source }
        };
        let opened = tokio::task::spawn_blocking(move || {
            let failed = |source| RunError::State { path: path.clone(), source };
            let attempts = path.join("attempts");
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&attempts).map_err(failed)?;
            let lock = File::create(path.join("agent.lock")).map_err(failed)?;
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(RunError::Busy { path: path.clone() }),
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
            for entry in std::fs::read_dir(&attempts).map_err(failed)? {
                let left = entry.map_err(failed)?.path();
                if let Err(error) = workspace::remove(&launcher, &left) {
                    tracing::warn!(%error, path = %left.display(), "directory of an earlier attempt was not removed");
                }
            }
            let trees = Trees::open(path.join("trees"), launcher);
            let outboxes = path.join("outbox");
            let kept = outbox::kept(&outboxes).map_err(failed)?;
            Ok(StateDirectory { attempts, trees, outboxes, kept, _lock: lock })
        });
        opened.await.unwrap_or_else(|error| Err(failed(io::Error::other(error))))
    }
}
