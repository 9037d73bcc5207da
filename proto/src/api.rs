//! The contract in model words: what agents and clients may ask of a controller.
//!
//! Each trait has two implementors: the controller's service itself, in the same process, and [`crate::client`], over gRPC. Neither side can tell which it talks to.
//!
//! # The order of calls
//! An agent opens a [`AgentApi::session`] and says hello. Offers come down; it answers accept or decline before the offer's
//! deadline. Only after `Start`, when the lease is durable, does it [`AgentApi::fetch_spec`] and begin. For each step: report
//! started, [`AgentApi::open_secrets`] if the grant names any, push the log, seal it, report finished. After the last step:
//! [`AgentApi::complete_attempt`], repeated until it is recorded or fenced. A break of the session changes nothing by itself:
//! the agent goes on, reconnects, names what it runs, and follows the verdicts of the welcome.
//!
//! A client puts the source as a blob, submits, watches the run, and tails logs from any offset.
//!
//! # Rules
//! - Every call of an agent carries its [`Hold`]; a lower fence than the controller's is answered [`ApiError::Fenced`] and changes nothing.
//! - Everything is idempotent: a call repeated after a broken connection has the same effect and answer, but for
//!   `open_secrets`, which answers once per attempt and step.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use caisson_model::agent::{AgentView, Cordon, Hello};
use caisson_model::artifact::{Artifact, Clash, Kept};
use caisson_model::cache::{CacheEntry, CacheQuery, Saved};
use caisson_model::diagnostic::Diagnostic;
use caisson_model::id::{AgentName, Digest, Hold, RunId, StepIndex};
use caisson_model::job::JobSpec;
use caisson_model::lease::{AgentMessage, Completion, ControllerMessage, Recorded, StepReport};
use caisson_model::log::{LogAck, LogChunk, LogKey, LogPush, LogRead, LogSeal};
use caisson_model::outcome::Fault;
use caisson_model::run::{Explanation, JobView, NumberedEvent, RerunScope, RunView, StepView, Submission};
use caisson_model::secret::OpenedSecrets;
use futures_util::Stream;

/// A stream of answers. It ends with an error when the connection breaks, and without one when there is nothing more.
pub type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, ApiError>> + Send + 'static>>;

/// A stream of messages from the caller.
pub type Messages<T> = Pin<Box<dyn Stream<Item = T> + Send + 'static>>;

/// Why a call was not answered as asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiError {
    /// The attempt is not the caller's any more: stop, and say nothing more about it.
    Fenced,
    /// There is no such thing; the text names it.
    NotFound(String),
    /// The request breaks a rule; the text names field and rule.
    Invalid(String),
    /// The workflow was refused. At least one diagnostic is an error.
    Rejected(Vec<Diagnostic>),
    /// The caller may not do this.
    Denied(String),
    /// It was done before and can be done once only.
    Spent(String),
    /// The other side cannot be reached, or is going away: try again.
    Unavailable(String),
    /// The other side is broken; the text says how.
    Broken(String),
}

impl ApiError {
    /// Whether the same call may succeed later without any change.
    pub fn is_transient(&self) -> bool {
        matches!(self, ApiError::Unavailable(_))
    }

    /// Whose doing this is.
    pub fn fault(&self) -> Fault {
        match self {
            ApiError::NotFound(_) | ApiError::Invalid(_) | ApiError::Rejected(_) | ApiError::Denied(_) => Fault::User,
            ApiError::Unavailable(_) => Fault::Environment,
            ApiError::Fenced | ApiError::Spent(_) | ApiError::Broken(_) => Fault::Ours,
        }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ApiError::Fenced => f.write_str("the attempt belongs to somebody else now"),
            ApiError::NotFound(what) => write!(f, "there is no {what}"),
            ApiError::Invalid(what) => write!(f, "the request is not valid: {what}"),
            ApiError::Rejected(diagnostics) => write!(f, "the workflow was refused with {} findings", diagnostics.len()),
            ApiError::Denied(what) => write!(f, "not allowed: {what}"),
            ApiError::Spent(what) => write!(f, "already used: {what}"),
            ApiError::Unavailable(what) => write!(f, "the controller cannot be reached: {what}"),
            ApiError::Broken(what) => write!(f, "the controller failed: {what}"),
        }
    }
}

impl std::error::Error for ApiError {}

/// Blobs by digest: source trees, artifacts, caches and actions. Shared by agents and clients.
pub trait BlobApi: Send + Sync + 'static {
    /// Which of these the controller does not have, in the order asked.
    fn find_missing_blobs(&self, digests: Vec<Digest>) -> impl Future<Output = Result<Vec<Digest>, ApiError>> + Send;

    /// Stores the bytes of `content` under `digest`. Verified before it becomes readable; putting what is there already succeeds.
    fn put_blob(&self, digest: Digest, content: Messages<Vec<u8>>) -> impl Future<Output = Result<(), ApiError>> + Send;

    /// How many bytes of a blob that was put in part are held: [`BlobApi::put_blob_from`] may go on from there.
    fn held_of_blob(&self, digest: Digest) -> impl Future<Output = Result<u64, ApiError>> + Send {
        // Nothing, unless an implementor keeps parts.
        let _any = digest;
        std::future::ready(Ok(0))
    }

    /// As [`BlobApi::put_blob`], with `content` that begins at `offset`. What was held is forgotten if the whole is wrong then.
    fn put_blob_from(&self, digest: Digest, offset: u64, content: Messages<Vec<u8>>) -> impl Future<Output = Result<(), ApiError>> + Send {
        async move {
            match offset {
                0 => self.put_blob(digest, content).await,
                _ => Err(ApiError::Invalid("offset: nothing is held here, begin at 0".to_owned())),
            }
        }
    }

    /// Reads a blob from `offset` on, in pieces of at most 64 KiB. The reader verifies the digest of the whole.
    fn get_blob(&self, digest: Digest, offset: u64) -> impl Future<Output = Result<Answers<Vec<u8>>, ApiError>> + Send;
}

/// What an agent asks of a controller.
pub trait AgentApi: BlobApi {
    /// Opens the session: the only way for work, cancelling and draining. The first answer is `Welcome`.
    fn session(
        &self,
        hello: Hello,
        messages: Messages<AgentMessage>,
    ) -> impl Future<Output = Result<Answers<ControllerMessage>, ApiError>> + Send;

    /// The job's spec; its digest equals the one offered.
    fn fetch_spec(&self, hold: Hold) -> impl Future<Output = Result<JobSpec, ApiError>> + Send;

    /// The spec as the very bytes that the offered digest covers: JSON, in which a newer controller may say more than this side
    /// knows. A side that reads passes that over; the digest is right all the same.
    fn fetch_form(&self, hold: Hold) -> impl Future<Output = Result<Vec<u8>, ApiError>> + Send {
        async move {
            let spec = self.fetch_spec(hold).await?;
            serde_json::to_vec(&spec).map_err(|error| ApiError::Broken(format!("the spec cannot be written: {error}")))
        }
    }

    /// The secrets that the step declares. Once per attempt and step; the second call is answered [`ApiError::Spent`].
    fn open_secrets(&self, hold: Hold, step: StepIndex) -> impl Future<Output = Result<OpenedSecrets, ApiError>> + Send;

    /// Sends masked output. Chunks are contiguous; a gap is answered `Resync`. Answers are the window: a sender waits for
    /// them before more than 1 MiB is unanswered.
    fn push_log(&self, chunks: Messages<LogPush>) -> impl Future<Output = Result<Answers<LogAck>, ApiError>> + Send;

    /// Ends a step's log. The controller compares length and digest with what it kept.
    fn seal_log(&self, hold: Hold, step: StepIndex, seal: LogSeal) -> impl Future<Output = Result<(), ApiError>> + Send;

    /// As [`AgentApi::seal_log`], together with the last chunks of the log, at most [`caisson_model::log::CHUNK_BYTES`] together,
    /// where they were not pushed. Answered `Invalid` by a controller that does not know of them: push them, then seal.
    fn end_log(
        &self,
        hold: Hold,
        step: StepIndex,
        rest: Vec<LogChunk>,
        seal: LogSeal,
    ) -> impl Future<Output = Result<(), ApiError>> + Send {
        async move {
            match rest.is_empty() {
                true => self.seal_log(hold, step, seal).await,
                false => Err(ApiError::Invalid("rest: chunks are pushed here".to_owned())),
            }
        }
    }

    /// Tells of a step. Idempotent on (attempt, sequence).
    fn report_step(&self, report: StepReport) -> impl Future<Output = Result<(), ApiError>> + Send;

    /// Ends the attempt: result, slot and dependants in one transaction.
    fn complete_attempt(&self, completion: Completion) -> impl Future<Output = Result<Recorded, ApiError>> + Send;

    /// Gives the attempt back unfinished, for a reason that is not the job's own: it is queued again at no cost to a user's retries.
    fn return_attempt(&self, hold: Hold, reason: String) -> impl Future<Output = Result<(), ApiError>> + Send;

    /// Keeps an artifact of the run whose blob was put before. Repeating the same call succeeds.
    fn keep_artifact(&self, hold: Hold, artifact: Artifact, clash: Clash) -> impl Future<Output = Result<Kept, ApiError>> + Send;

    /// The artifacts of the run, by name.
    fn list_artifacts(&self, hold: Hold) -> impl Future<Output = Result<Vec<Artifact>, ApiError>> + Send;

    /// Forgets an artifact of the run. One that is not there is no error.
    fn drop_artifact(&self, hold: Hold, name: String) -> impl Future<Output = Result<(), ApiError>> + Send;

    /// The entry that fits best of those that the run's repository and trust may read.
    fn find_cache(&self, hold: Hold, query: CacheQuery) -> impl Future<Output = Result<Option<CacheEntry>, ApiError>> + Send;

    /// Saves an entry whose blob was put before, unless there is one of its key.
    fn save_cache(&self, hold: Hold, entry: CacheEntry) -> impl Future<Output = Result<Saved, ApiError>> + Send;
}

/// A run with its jobs and steps.
#[derive(Clone, Debug, PartialEq)]
pub struct RunDetail {
    /// The run.
    pub run: RunView,
    /// Its jobs in order.
    pub jobs: Vec<JobView>,
    /// Steps of the last attempts, in order.
    pub steps: Vec<StepView>,
}

/// What a submission is answered with.
#[derive(Clone, Debug, PartialEq)]
pub struct Submitted {
    /// The run.
    pub run: RunId,
    /// Findings that do not stop it.
    pub warnings: Vec<Diagnostic>,
}

/// What a person's command asks of a controller.
pub trait ClientApi: BlobApi {
    /// Parses, checks, plans and admits the workflow and queues its jobs; or [`ApiError::Rejected`] and nothing happened.
    fn submit(&self, submission: Submission) -> impl Future<Output = Result<Submitted, ApiError>> + Send;

    /// Cancels a run. Cancelling what has ended is no error.
    fn cancel(&self, run: RunId) -> impl Future<Output = Result<(), ApiError>> + Send;

    /// The newest runs first, at most `limit`.
    fn list_runs(&self, limit: u32) -> impl Future<Output = Result<Vec<RunView>, ApiError>> + Send;

    /// One run.
    fn run(&self, run: RunId) -> impl Future<Output = Result<RunDetail, ApiError>> + Send;

    /// The run's history after event `after` (0 for all of it), then what follows, until the run has finished.
    fn watch_run(&self, run: RunId, after: u64) -> impl Future<Output = Result<Answers<NumberedEvent>, ApiError>> + Send;

    /// A step's log from `offset` on, without a gap, then what follows, until it is sealed.
    fn tail_log(&self, log: LogKey, offset: u64) -> impl Future<Output = Result<Answers<LogRead>, ApiError>> + Send;

    /// Why the jobs of a run are not running.
    fn explain(&self, run: RunId) -> impl Future<Output = Result<Vec<Explanation>, ApiError>> + Send;

    /// Runs the plan of an ended run again, as a new run; [`ApiError::Invalid`] while it goes on, or when nothing of it failed.
    fn rerun(&self, run: RunId, scope: RerunScope) -> impl Future<Output = Result<RunId, ApiError>> + Send;

    /// Every agent that has a session, holds an attempt, or is cordoned or revoked; by name.
    fn agents(&self) -> impl Future<Output = Result<Vec<AgentView>, ApiError>> + Send;

    /// Whether an agent is offered new jobs. Outlives sessions and restarts; an agent need not be known for it.
    fn cordon(&self, agent: AgentName, cordon: Cordon) -> impl Future<Output = Result<(), ApiError>> + Send;

    /// Cordons an agent and lets it leave when its attempts have ended. [`ApiError::NotFound`] when it has no session.
    fn drain(&self, agent: AgentName) -> impl Future<Output = Result<(), ApiError>> + Send;

    /// Ends an agent's session at once and gives its attempts to others; its sessions are refused from now on.
    fn revoke_agent(&self, agent: AgentName) -> impl Future<Output = Result<(), ApiError>> + Send;

    /// What the run's jobs kept, by name; the content is a blob.
    fn artifacts(&self, run: RunId) -> impl Future<Output = Result<Vec<Artifact>, ApiError>> + Send;
}
