//! A proxy between an agent and its controller that understands what they say: it can delay and repeat calls and messages, or
//! speak as a controller of another version would. Real gRPC on both sides.

// Each test program uses a part of it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic)]

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use caisson_model::agent::{AgentView, Cordon, Hello, VersionRange};
use caisson_model::artifact::{Artifact, Clash, Kept};
use caisson_model::cache::{CacheEntry, CacheQuery, Saved};
use caisson_model::id::{AgentName, Digest, Hold, RunId, StepIndex};
use caisson_model::job::JobSpec;
use caisson_model::lease::{AgentMessage, Completion, ControllerMessage, Recorded, StepReport};
use caisson_model::log::{LogAck, LogChunk, LogKey, LogPush, LogRead, LogSeal};
use caisson_model::run::{Explanation, NumberedEvent, RerunScope, RunView, Submission};
use caisson_model::secret::OpenedSecrets;
use caisson_proto::api::{AgentApi, Answers, ApiError, BlobApi, ClientApi, Messages, RunDetail, Submitted};
use caisson_proto::client::Client;
use caisson_proto::fleet::{Certified, Enrolment, FleetApi, MemberView, NewToken, TokenView, TokenWish};
use caisson_proto::server::{self, Accepted, Door, Limits};
use futures_util::{StreamExt, stream};
use tokio_stream::wrappers::TcpListenerStream;

/// What it does to what passes through.
#[derive(Clone, Copy, Debug)]
pub enum Manner {
    /// Every call and message waits for up to this long, and every other one is made twice.
    Unreliable(Duration),
    /// A controller that speaks these versions: it offers no other, and does not know what came later.
    Speaking(VersionRange),
}

/// Counts over all that passed through.
#[derive(Debug, Default)]
pub struct Passed {
    chance: AtomicU64,
    /// Calls and messages that were made twice.
    pub repeated: AtomicU64,
    /// What had to wait.
    pub delayed: AtomicU64,
    /// Beats that were answered.
    pub heard: AtomicU64,
    /// The version that was agreed last.
    pub version: AtomicU64,
    /// Chunks that came with a seal.
    pub rest: AtomicU64,
}

/// The proxy. Clones share it.
#[derive(Clone, Debug)]
pub struct Middleman {
    to: Client,
    manner: Manner,
    pub passed: Arc<Passed>,
}

impl Middleman {
    /// Serves at a port of this machine, for as long as the runtime lives, and passes on to `to`.
    pub async fn start(to: Client, manner: Manner) -> (Middleman, SocketAddr) {
        let middleman = Middleman { to, manner, passed: Arc::default() };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = TcpListenerStream::new(listener).map(|stream| Ok(Accepted { io: stream?, peer: () }));
        drop(tokio::spawn(server::serve(middleman.clone(), connections, Limits::default(), std::future::pending())));
        (middleman, address)
    }

    /// The next number of a row that is the same in every run.
    fn chance(&self) -> u64 {
        let place = self.passed.chance.fetch_add(1, Ordering::Relaxed);
        (place ^ 0x5DEE_CE66).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33
    }

    async fn wait(&self) {
        if let Manner::Unreliable(most) = self.manner {
            self.passed.delayed.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(most * u32::try_from(self.chance() % 100).unwrap() / 100).await;
        }
    }

    fn twice(&self) -> bool {
        let twice = matches!(self.manner, Manner::Unreliable(_)) && self.chance().is_multiple_of(2);
        self.passed.repeated.fetch_add(u64::from(twice), Ordering::Relaxed);
        twice
    }

    /// A call, or two of the same: the first answer counts.
    async fn call<T, F: Future<Output = T>>(&self, call: impl Fn() -> F) -> T {
        self.wait().await;
        let answer = call().await;
        if self.twice() {
            drop(call().await);
        }
        self.wait().await;
        answer
    }

    /// Each message after a while, and some of them twice.
    fn stir<T: Clone + Send + 'static>(self, messages: Messages<T>) -> Messages<T> {
        Box::pin(
            messages
                .then(move |message| {
                    let middleman = self.clone();
                    async move {
                        middleman.wait().await;
                        let copies = if middleman.twice() { 2 } else { 1 };
                        stream::iter(vec![message; copies])
                    }
                })
                .flatten(),
        )
    }
}

impl Door for Middleman {
    type Peer = ();
    type Api = Middleman;

    async fn enter(&self, _: &(), _: Option<&str>) -> Result<Middleman, ApiError> {
        Ok(self.clone())
    }
}

impl BlobApi for Middleman {
    async fn find_missing_blobs(&self, digests: Vec<Digest>) -> Result<Vec<Digest>, ApiError> {
        self.call(|| self.to.find_missing_blobs(digests.clone())).await
    }

    async fn put_blob(&self, digest: Digest, content: Messages<Vec<u8>>) -> Result<(), ApiError> {
        self.to.put_blob(digest, content).await
    }

    async fn held_of_blob(&self, digest: Digest) -> Result<u64, ApiError> {
        self.call(|| self.to.held_of_blob(digest)).await
    }

    async fn put_blob_from(&self, digest: Digest, offset: u64, content: Messages<Vec<u8>>) -> Result<(), ApiError> {
        self.to.put_blob_from(digest, offset, content).await
    }

    async fn get_blob(&self, digest: Digest, offset: u64) -> Result<Answers<Vec<u8>>, ApiError> {
        self.to.get_blob(digest, offset).await
    }
}

impl AgentApi for Middleman {
    async fn session(&self, hello: Hello, messages: Messages<AgentMessage>) -> Result<Answers<ControllerMessage>, ApiError> {
        let hello = match self.manner {
            Manner::Speaking(spoken) => {
                // The other side is agreed with as if it spoke no more than that.
                let (min, max) = (hello.versions.min.max(spoken.min), hello.versions.max.min(spoken.max));
                Hello { versions: VersionRange { min, max }, ..hello }
            }
            Manner::Unreliable(_) => hello,
        };
        let answers = self.to.session(hello, self.clone().stir(messages)).await?;
        let middleman = self.clone();
        Ok(Box::pin(
            answers
                .then(move |answer| {
                    let middleman = middleman.clone();
                    async move {
                        middleman.wait().await;
                        match &answer {
                            Ok(ControllerMessage::Welcome { version, .. }) => {
                                middleman.passed.version.store(u64::from(*version), Ordering::Relaxed)
                            }
                            Ok(ControllerMessage::Heard(_)) => drop(middleman.passed.heard.fetch_add(1, Ordering::Relaxed)),
                            _ => {}
                        }
                        let first = matches!(answer, Ok(ControllerMessage::Welcome { .. }) | Err(_));
                        let copies = if !first && middleman.twice() { 2 } else { 1 };
                        stream::iter(vec![answer; copies])
                    }
                })
                .flatten(),
        ))
    }

    async fn fetch_spec(&self, hold: Hold) -> Result<JobSpec, ApiError> {
        self.call(|| self.to.fetch_spec(hold)).await
    }

    async fn fetch_form(&self, hold: Hold) -> Result<Vec<u8>, ApiError> {
        self.call(|| self.to.fetch_form(hold)).await
    }

    async fn open_secrets(&self, hold: Hold, step: StepIndex) -> Result<OpenedSecrets, ApiError> {
        self.call(|| self.to.open_secrets(hold, step)).await
    }

    async fn push_log(&self, chunks: Messages<LogPush>) -> Result<Answers<LogAck>, ApiError> {
        self.to.push_log(self.clone().stir(chunks)).await
    }

    async fn seal_log(&self, hold: Hold, step: StepIndex, seal: LogSeal) -> Result<(), ApiError> {
        self.call(|| self.to.seal_log(hold, step, seal.clone())).await
    }

    async fn end_log(&self, hold: Hold, step: StepIndex, rest: Vec<LogChunk>, seal: LogSeal) -> Result<(), ApiError> {
        self.passed.rest.fetch_add(rest.len() as u64, Ordering::Relaxed);
        match self.manner {
            // A field that is not known is passed over.
            Manner::Speaking(VersionRange { max: ..=2, .. }) => self.to.seal_log(hold, step, seal).await,
            _ => self.call(|| self.to.end_log(hold, step, rest.clone(), seal.clone())).await,
        }
    }

    async fn report_step(&self, report: StepReport) -> Result<(), ApiError> {
        self.call(|| self.to.report_step(report.clone())).await
    }

    async fn complete_attempt(&self, completion: Completion) -> Result<Recorded, ApiError> {
        self.call(|| self.to.complete_attempt(completion.clone())).await
    }

    async fn return_attempt(&self, hold: Hold, reason: String) -> Result<(), ApiError> {
        self.call(|| self.to.return_attempt(hold, reason.clone())).await
    }

    async fn keep_artifact(&self, hold: Hold, artifact: Artifact, clash: Clash) -> Result<Kept, ApiError> {
        self.call(|| self.to.keep_artifact(hold, artifact.clone(), clash)).await
    }

    async fn list_artifacts(&self, hold: Hold) -> Result<Vec<Artifact>, ApiError> {
        self.call(|| self.to.list_artifacts(hold)).await
    }

    async fn drop_artifact(&self, hold: Hold, name: String) -> Result<(), ApiError> {
        self.call(|| self.to.drop_artifact(hold, name.clone())).await
    }

    async fn find_cache(&self, hold: Hold, query: CacheQuery) -> Result<Option<CacheEntry>, ApiError> {
        self.call(|| self.to.find_cache(hold, query.clone())).await
    }

    async fn save_cache(&self, hold: Hold, entry: CacheEntry) -> Result<Saved, ApiError> {
        self.call(|| self.to.save_cache(hold, entry.clone())).await
    }
}

/// Agents alone speak through it.
macro_rules! closed {
    ($($name:ident($($argument:ty),*) -> $answer:ty);* $(;)?) => {
        $(async fn $name(&self, $(_: $argument),*) -> Result<$answer, ApiError> {
            Err(ApiError::Unavailable("only agents speak through this proxy".to_owned()))
        })*
    };
}

impl ClientApi for Middleman {
    closed! {
        submit(Submission) -> Submitted;
        cancel(RunId) -> ();
        list_runs(u32) -> Vec<RunView>;
        run(RunId) -> RunDetail;
        watch_run(RunId, u64) -> Answers<NumberedEvent>;
        tail_log(LogKey, u64) -> Answers<LogRead>;
        explain(RunId) -> Vec<Explanation>;
        rerun(RunId, RerunScope) -> RunId;
        agents() -> Vec<AgentView>;
        cordon(AgentName, Cordon) -> ();
        drain(AgentName) -> ();
        revoke_agent(AgentName) -> ();
        artifacts(RunId) -> Vec<Artifact>;
    }
}

impl FleetApi for Middleman {
    closed! {
        enroll(Enrolment) -> Certified;
        renew_certificate(Vec<u8>) -> Certified;
        create_token(TokenWish) -> NewToken;
        list_tokens() -> Vec<TokenView>;
        revoke_token(String) -> ();
        list_members() -> Vec<MemberView>;
        expel(AgentName, String) -> ();
    }
}
