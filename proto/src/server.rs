//! Any implementor of the contract as gRPC services on a listener. No address and no caller is judged here: that is its [`Door`]'s doing.

mod fleet;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use caisson_model::agent::Cordon;
use caisson_model::cache::CacheQuery;
use caisson_model::id::{AgentName, Digest, Hold, StepIndex};
use caisson_model::lease::{AgentMessage, Completion, StepReport};
use caisson_model::log::{CHUNK_BYTES, LogChunk, LogKey, LogPush, LogSeal};
use caisson_model::run::Submission;
use futures_util::stream::{self, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};

use crate::api::{AgentApi, Answers, ApiError, BlobApi, ClientApi, Messages};
use crate::convert::{Cross, Malformed, field, required};
use crate::fleet::FleetApi;
use crate::status::{MAX_HEADERS, MAX_MESSAGE, api_error, status};
use crate::wire;
use crate::wire::admin_server::AdminServer;
use crate::wire::agent_server::{Agent, AgentServer};
use crate::wire::blobs_server::{Blobs, BlobsServer};
use crate::wire::client_server::{Client, ClientServer};
use crate::wire::enrolment_server::EnrolmentServer;

/// How long a new session may take to say hello.
const HELLO: Duration = Duration::from_secs(10);
/// How long calls that are under way at shutdown may take to end.
const LAST_CALLS: Duration = Duration::from_secs(5);
const PING_EVERY: Duration = Duration::from_secs(5);
const PING_ANSWER: Duration = Duration::from_secs(5);

/// The server could not go on serving.
#[derive(Debug, thiserror::Error)]
#[error("serve gRPC calls")]
pub struct ServeError(#[from] tonic::transport::Error);

/// Who lets callers in. For each call it gives the contract as its caller may use it.
pub trait Door: Send + Sync + 'static {
    /// What is known of a connection.
    type Peer: Clone + Send + Sync + Unpin + 'static;
    /// The contract for one caller.
    type Api: AgentApi + ClientApi + FleetApi;

    /// Lets the caller of one call in, or refuses. `bearer` is the token that came with the call.
    fn enter(&self, peer: &Self::Peer, bearer: Option<&str>) -> impl Future<Output = Result<Self::Api, ApiError>> + Send;
}

/// An accepted connection, with what is known of its other end.
#[derive(Debug)]
pub struct Accepted<IO, P> {
    /// The bytes.
    pub io: IO,
    /// The other end.
    pub peer: P,
}

/// How connections are served.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How old a connection may get before its other end is asked to open a new one, so that certificates are looked at again.
    pub age: Option<Duration>,
    /// How many calls one connection may have under way.
    pub streams: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { age: None, streams: 1024 }
    }
}

/// Serves what comes through `door` on `connections` until `shutdown`. Long streams are then ended at once, as unavailable; other
/// calls may end within 5 s.
///
/// # Errors
/// [`ServeError`] when the connections break.
pub async fn serve<D, IO, I, S>(door: D, connections: I, limits: Limits, shutdown: S) -> Result<(), ServeError>
where
    D: Door,
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    I: Stream<Item = io::Result<Accepted<IO, D::Peer>>> + Send,
    S: Future<Output = ()> + Send,
{
    let (close, closing) = watch::channel(false);
    let server = Server { door: Arc::new(door), closing: closing.clone() };
    let mut closed = closing.clone();
    let mut builder = tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PING_ANSWER))
        .http2_max_header_list_size(MAX_HEADERS)
        .max_concurrent_streams(limits.streams);
    if let Some(age) = limits.age {
        builder = builder.max_connection_age(age).max_connection_age_grace(LAST_CALLS);
    }
    let serving = builder
        .add_service(AgentServer::new(server.clone()).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE))
        .add_service(BlobsServer::new(server.clone()).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE))
        .add_service(EnrolmentServer::new(server.clone()))
        .add_service(AdminServer::new(server.clone()))
        .add_service(ClientServer::new(server).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE))
        .serve_with_incoming_shutdown(connections.map(|accepted| accepted.map(Wire)), async move {
            // An error means that the sender is gone, which is the end as well.
            let _gone = closed.wait_for(|closed| *closed).await;
        });
    tokio::pin!(serving);
    tokio::select! {
        ended = &mut serving => return Ok(ended?),
        () = shutdown => {}
    }
    close.send_replace(true);
    match tokio::time::timeout(LAST_CALLS, serving).await {
        Ok(ended) => Ok(ended?),
        // Somebody holds a call open; dropping the server closes its connections.
        Err(_elapsed) => Ok(()),
    }
}

/// A connection as the gRPC library wants it.
struct Wire<IO, P>(Accepted<IO, P>);

impl<IO, P: Clone + Send + Sync + 'static> Connected for Wire<IO, P> {
    type ConnectInfo = Known<P>;

    fn connect_info(&self) -> Known<P> {
        Known(self.0.peer.clone())
    }
}

#[derive(Clone)]
struct Known<P>(P);

impl<IO: AsyncRead + Unpin, P: Unpin> AsyncRead for Wire<IO, P> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.io).poll_read(context, buffer)
    }
}

impl<IO: AsyncWrite + Unpin, P: Unpin> AsyncWrite for Wire<IO, P> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.io).poll_shutdown(context)
    }
}

struct Server<D> {
    door: Arc<D>,
    closing: watch::Receiver<bool>,
}

impl<D> Clone for Server<D> {
    fn clone(&self) -> Self {
        Server { door: self.door.clone(), closing: self.closing.clone() }
    }
}

impl<D: Door> Server<D> {
    async fn enter<T>(&self, request: &Request<T>) -> Result<D::Api, Status> {
        let known = request.extensions().get::<Known<D::Peer>>();
        let known = known.ok_or_else(|| status(ApiError::Broken("the connection has no identity".to_owned())))?;
        let header = request.metadata().get("authorization").map(|value| value.to_str().unwrap_or_default());
        let bearer = match header {
            None => None,
            Some(text) => match text.strip_prefix("Bearer ") {
                Some(token) => Some(token),
                None => return Err(status(ApiError::Denied("the authorization header is not `Bearer TOKEN`".to_owned()))),
            },
        };
        self.door.enter(&known.0, bearer).await.map_err(status)
    }
}

type Answering<W> = Pin<Box<dyn Stream<Item = Result<W, Status>> + Send>>;

impl<D: Door> Server<D> {
    /// A stream of answers that ends when the server closes.
    fn answering<M: Cross + Send + 'static>(&self, answers: Answers<M>, refusal: Refusal) -> Answering<M::Wire>
    where
        M::Wire: Send + 'static,
    {
        let mut closing = self.closing.clone();
        let closed = async move {
            let _gone = closing.wait_for(|closed| *closed).await;
        };
        let closed = Box::pin(closed);
        let last = stream::once(async move { refusal.0.get().map(|error| Err(status(error.clone()))) });
        let mut leaving = self.closing.clone();
        let goodbye = stream::once(async move {
            let closed = *leaving.borrow_and_update();
            closed.then(|| Err(status(ApiError::Unavailable("the controller is shutting down".to_owned()))))
        });
        let answers = answers.map(|answer| answer.map(M::out).map_err(status)).take_until(closed);
        Box::pin(answers.chain(last.filter_map(std::future::ready)).chain(goodbye.filter_map(std::future::ready)))
    }
}

/// Why a stream of messages was cut short, if it was: known only after the call that reads it has begun.
#[derive(Clone, Default)]
struct Refusal(Arc<OnceLock<ApiError>>);

impl Refusal {
    fn set(&self, error: ApiError) {
        // The first reason stays; later ones follow from it.
        let _first = self.0.set(error);
    }
}

/// The caller's messages. The first one that is malformed, or a broken connection, ends the stream; the reason is kept aside.
fn incoming<W, M>(messages: Streaming<W>, refusal: Refusal, read: fn(W) -> Result<M, Malformed>) -> Messages<M>
where
    W: Send + 'static,
    M: Send + 'static,
{
    Box::pin(stream::unfold(Some(messages), move |state| {
        let refusal = refusal.clone();
        async move {
            let mut messages = state?;
            match messages.next().await? {
                Ok(wire) => match read(wire) {
                    Ok(message) => Some((message, Some(messages))),
                    Err(malformed) => {
                        refusal.set(ApiError::Invalid(malformed.to_string()));
                        None
                    }
                },
                Err(broken) => {
                    refusal.set(api_error(broken));
                    None
                }
            }
        }
    }))
}

fn invalid(malformed: Malformed) -> Status {
    status(ApiError::Invalid(malformed.to_string()))
}

fn hold(wire: Option<wire::Hold>) -> Result<Hold, Status> {
    required(wire, "hold").map_err(invalid)
}

#[tonic::async_trait]
impl<D: Door> Agent for Server<D> {
    type SessionStream = Answering<wire::SessionAnswer>;
    type PushLogStream = Answering<wire::PushLogAnswer>;

    async fn session(&self, request: Request<Streaming<wire::SessionRequest>>) -> Result<Response<Self::SessionStream>, Status> {
        let api = self.enter(&request).await?;
        let mut messages = request.into_inner();
        let first = tokio::time::timeout(HELLO, messages.message())
            .await
            .map_err(|_elapsed| status(ApiError::Invalid("hello: was not said within 10 s".to_owned())))??;
        let hello = match first.and_then(|first| first.message) {
            Some(wire::session_request::Message::Hello(hello)) => field(hello, "hello").map_err(invalid)?,
            _ => return Err(status(ApiError::Invalid("hello: must be the first message".to_owned()))),
        };
        let refusal = Refusal::default();
        let answers = api.session(hello, incoming(messages, refusal.clone(), AgentMessage::back)).await.map_err(status)?;
        Ok(Response::new(self.answering(answers, refusal)))
    }

    async fn fetch_spec(&self, request: Request<wire::FetchSpecRequest>) -> Result<Response<wire::FetchSpecAnswer>, Status> {
        let api = self.enter(&request).await?;
        let spec = api.fetch_spec(hold(request.into_inner().hold)?).await.map_err(status)?;
        let form = serde_json::to_vec(&spec).map_err(|error| status(ApiError::Broken(format!("the spec cannot be written: {error}"))))?;
        Ok(Response::new(wire::FetchSpecAnswer { spec: Some(spec.out()), form }))
    }

    async fn open_secrets(&self, request: Request<wire::OpenSecretsRequest>) -> Result<Response<wire::OpenSecretsAnswer>, Status> {
        let api = self.enter(&request).await?;
        let request = request.into_inner();
        let opened = api.open_secrets(hold(request.hold)?, StepIndex(request.step)).await.map_err(status)?;
        Ok(Response::new(opened.out()))
    }

    async fn push_log(&self, request: Request<Streaming<wire::PushLogRequest>>) -> Result<Response<Self::PushLogStream>, Status> {
        let api = self.enter(&request).await?;
        let refusal = Refusal::default();
        let answers = api.push_log(incoming(request.into_inner(), refusal.clone(), LogPush::back)).await.map_err(status)?;
        Ok(Response::new(self.answering(answers, refusal)))
    }

    async fn seal_log(&self, request: Request<wire::SealLogRequest>) -> Result<Response<wire::SealLogAnswer>, Status> {
        let api = self.enter(&request).await?;
        let request = request.into_inner();
        let seal: LogSeal = required(request.seal, "seal").map_err(invalid)?;
        let rest: Vec<LogChunk> = field(request.rest, "rest").map_err(invalid)?;
        if rest.iter().map(|chunk| chunk.bytes.len()).sum::<usize>() > CHUNK_BYTES {
            return Err(status(ApiError::Invalid("rest: it is more than 64 KiB".to_owned())));
        }
        api.end_log(hold(request.hold)?, StepIndex(request.step), rest, seal).await.map_err(status)?;
        Ok(Response::new(wire::SealLogAnswer {}))
    }

    async fn report_step(&self, request: Request<wire::ReportStepRequest>) -> Result<Response<wire::ReportStepAnswer>, Status> {
        let api = self.enter(&request).await?;
        let report = StepReport::back(request.into_inner()).map_err(invalid)?;
        api.report_step(report).await.map_err(status)?;
        Ok(Response::new(wire::ReportStepAnswer {}))
    }

    async fn complete_attempt(
        &self,
        request: Request<wire::CompleteAttemptRequest>,
    ) -> Result<Response<wire::CompleteAttemptAnswer>, Status> {
        let api = self.enter(&request).await?;
        let completion = Completion::back(request.into_inner()).map_err(invalid)?;
        let recorded = api.complete_attempt(completion).await.map_err(status)?;
        Ok(Response::new(wire::CompleteAttemptAnswer { recorded: recorded.out() }))
    }

    async fn return_attempt(&self, request: Request<wire::ReturnAttemptRequest>) -> Result<Response<wire::ReturnAttemptAnswer>, Status> {
        let api = self.enter(&request).await?;
        let request = request.into_inner();
        api.return_attempt(hold(request.hold)?, request.reason).await.map_err(status)?;
        Ok(Response::new(wire::ReturnAttemptAnswer {}))
    }

    async fn keep_artifact(&self, request: Request<wire::KeepArtifactRequest>) -> Result<Response<wire::KeepArtifactAnswer>, Status> {
        let api = self.enter(&request).await?;
        let request = request.into_inner();
        let artifact = required(request.artifact, "artifact").map_err(invalid)?;
        let clash = field(request.clash, "clash").map_err(invalid)?;
        let kept = api.keep_artifact(hold(request.hold)?, artifact, clash).await.map_err(status)?;
        Ok(Response::new(wire::KeepArtifactAnswer { kept: kept.out() }))
    }

    async fn list_artifacts(&self, request: Request<wire::ListArtifactsRequest>) -> Result<Response<wire::ListArtifactsAnswer>, Status> {
        let api = self.enter(&request).await?;
        let artifacts = api.list_artifacts(hold(request.into_inner().hold)?).await.map_err(status)?;
        Ok(Response::new(wire::ListArtifactsAnswer { artifacts: artifacts.out() }))
    }

    async fn drop_artifact(&self, request: Request<wire::DropArtifactRequest>) -> Result<Response<wire::DropArtifactAnswer>, Status> {
        let api = self.enter(&request).await?;
        let request = request.into_inner();
        api.drop_artifact(hold(request.hold)?, request.name).await.map_err(status)?;
        Ok(Response::new(wire::DropArtifactAnswer {}))
    }

    async fn find_cache(&self, request: Request<wire::FindCacheRequest>) -> Result<Response<wire::FindCacheAnswer>, Status> {
        let api = self.enter(&request).await?;
        let request = request.into_inner();
        let query = CacheQuery { keys: request.keys, version: request.version };
        let entry = api.find_cache(hold(request.hold)?, query).await.map_err(status)?;
        Ok(Response::new(wire::FindCacheAnswer { entry: entry.map(Cross::out) }))
    }

    async fn save_cache(&self, request: Request<wire::SaveCacheRequest>) -> Result<Response<wire::SaveCacheAnswer>, Status> {
        let api = self.enter(&request).await?;
        let request = request.into_inner();
        let entry = required(request.entry, "entry").map_err(invalid)?;
        let saved = api.save_cache(hold(request.hold)?, entry).await.map_err(status)?;
        Ok(Response::new(wire::SaveCacheAnswer { saved: saved.out() }))
    }
}

#[tonic::async_trait]
impl<D: Door> Blobs for Server<D> {
    type GetBlobStream = Answering<wire::GetBlobAnswer>;

    async fn find_missing_blobs(
        &self,
        request: Request<wire::FindMissingBlobsRequest>,
    ) -> Result<Response<wire::FindMissingBlobsAnswer>, Status> {
        let api = self.enter(&request).await?;
        let digests: Result<Vec<Digest>, Malformed> =
            request.into_inner().blobs.into_iter().map(|blob| field(blob.digest, "blobs.digest")).collect();
        let missing = api.find_missing_blobs(digests.map_err(invalid)?).await.map_err(status)?;
        let mut held = Vec::with_capacity(missing.len());
        for digest in &missing {
            held.push(api.held_of_blob(*digest).await.map_err(status)?);
        }
        let missing = missing.into_iter().map(|digest| wire::BlobId { digest: digest.out() }).collect();
        Ok(Response::new(wire::FindMissingBlobsAnswer { missing, held }))
    }

    async fn put_blob(&self, request: Request<Streaming<wire::PutBlobRequest>>) -> Result<Response<wire::PutBlobAnswer>, Status> {
        let api = self.enter(&request).await?;
        use wire::put_blob_request::Part;
        let mut parts = request.into_inner();
        let (digest, offset): (Digest, u64) = match parts.message().await? {
            Some(wire::PutBlobRequest { offset, part: Some(Part::Digest(digest)) }) => (field(digest, "digest").map_err(invalid)?, offset),
            _ => return Err(status(ApiError::Invalid("digest: must be the first message".to_owned()))),
        };
        let refusal = Refusal::default();
        let content = incoming(parts, refusal.clone(), |request| match request.part {
            Some(Part::Bytes(bytes)) => Ok(bytes),
            _ => Err(Malformed::new("only bytes follow the digest").within("part")),
        });
        let put = api.put_blob_from(digest, offset, content).await;
        // A blob cut short fails its digest; what cut it is the better reason.
        match (put, refusal.0.get()) {
            (Ok(()), _) => Ok(Response::new(wire::PutBlobAnswer {})),
            (Err(_), Some(reason)) => Err(status(reason.clone())),
            (Err(error), None) => Err(status(error)),
        }
    }

    async fn get_blob(&self, request: Request<wire::GetBlobRequest>) -> Result<Response<Self::GetBlobStream>, Status> {
        let api = self.enter(&request).await?;
        let request = request.into_inner();
        let digest = field(request.digest, "digest").map_err(invalid)?;
        let pieces = api.get_blob(digest, request.offset).await.map_err(status)?;
        Ok(Response::new(Box::pin(pieces.map(|piece| piece.map(|bytes| wire::GetBlobAnswer { bytes }).map_err(status)))))
    }
}

#[tonic::async_trait]
impl<D: Door> Client for Server<D> {
    type WatchRunStream = Answering<wire::NumberedEvent>;
    type TailLogStream = Answering<wire::TailLogAnswer>;

    async fn submit(&self, request: Request<wire::SubmitRequest>) -> Result<Response<wire::SubmitAnswer>, Status> {
        let api = self.enter(&request).await?;
        let submission = Submission::back(request.into_inner()).map_err(invalid)?;
        match api.submit(submission).await {
            answer @ (Ok(_) | Err(ApiError::Rejected(_))) => Ok(Response::new(answer.out())),
            Err(error) => Err(status(error)),
        }
    }

    async fn cancel(&self, request: Request<wire::CancelRequest>) -> Result<Response<wire::CancelAnswer>, Status> {
        let api = self.enter(&request).await?;
        api.cancel(field(request.into_inner().run, "run").map_err(invalid)?).await.map_err(status)?;
        Ok(Response::new(wire::CancelAnswer {}))
    }

    async fn list_runs(&self, request: Request<wire::ListRunsRequest>) -> Result<Response<wire::ListRunsAnswer>, Status> {
        let api = self.enter(&request).await?;
        let runs = api.list_runs(request.into_inner().limit).await.map_err(status)?;
        Ok(Response::new(wire::ListRunsAnswer { runs: runs.out() }))
    }

    async fn get_run(&self, request: Request<wire::GetRunRequest>) -> Result<Response<wire::GetRunAnswer>, Status> {
        let api = self.enter(&request).await?;
        let detail = api.run(field(request.into_inner().run, "run").map_err(invalid)?).await.map_err(status)?;
        Ok(Response::new(detail.out()))
    }

    async fn watch_run(&self, request: Request<wire::WatchRunRequest>) -> Result<Response<Self::WatchRunStream>, Status> {
        let api = self.enter(&request).await?;
        let request = request.into_inner();
        let run = field(request.run, "run").map_err(invalid)?;
        let events = api.watch_run(run, request.after).await.map_err(status)?;
        Ok(Response::new(self.answering(events, Refusal::default())))
    }

    async fn tail_log(&self, request: Request<wire::TailLogRequest>) -> Result<Response<Self::TailLogStream>, Status> {
        let api = self.enter(&request).await?;
        let request = request.into_inner();
        let log: LogKey = required(request.log, "log").map_err(invalid)?;
        let reads = api.tail_log(log, request.offset).await.map_err(status)?;
        Ok(Response::new(self.answering(reads, Refusal::default())))
    }

    async fn explain(&self, request: Request<wire::ExplainRequest>) -> Result<Response<wire::ExplainAnswer>, Status> {
        let api = self.enter(&request).await?;
        let explanations = api.explain(field(request.into_inner().run, "run").map_err(invalid)?).await.map_err(status)?;
        Ok(Response::new(wire::ExplainAnswer { explanations: explanations.out() }))
    }

    async fn run_artifacts(&self, request: Request<wire::RunArtifactsRequest>) -> Result<Response<wire::RunArtifactsAnswer>, Status> {
        let api = self.enter(&request).await?;
        let artifacts = api.artifacts(field(request.into_inner().run, "run").map_err(invalid)?).await.map_err(status)?;
        Ok(Response::new(wire::RunArtifactsAnswer { artifacts: artifacts.out() }))
    }

    async fn rerun(&self, request: Request<wire::RerunRequest>) -> Result<Response<wire::RerunAnswer>, Status> {
        let api = self.enter(&request).await?;
        let request = request.into_inner();
        let (run, scope) = (field(request.run, "run").map_err(invalid)?, field(request.scope, "scope").map_err(invalid)?);
        let run = api.rerun(run, scope).await.map_err(status)?;
        Ok(Response::new(wire::RerunAnswer { run: run.out() }))
    }

    async fn list_agents(&self, request: Request<wire::ListAgentsRequest>) -> Result<Response<wire::ListAgentsAnswer>, Status> {
        let api = self.enter(&request).await?;
        let agents = api.agents().await.map_err(status)?;
        Ok(Response::new(wire::ListAgentsAnswer { agents: agents.out() }))
    }

    async fn cordon(&self, request: Request<wire::CordonRequest>) -> Result<Response<wire::CordonAnswer>, Status> {
        let api = self.enter(&request).await?;
        let request = request.into_inner();
        let cordon = if request.cordoned { Cordon::On } else { Cordon::Off };
        api.cordon(AgentName(request.agent), cordon).await.map_err(status)?;
        Ok(Response::new(wire::CordonAnswer {}))
    }

    async fn drain(&self, request: Request<wire::DrainRequest>) -> Result<Response<wire::DrainAnswer>, Status> {
        let api = self.enter(&request).await?;
        api.drain(AgentName(request.into_inner().agent)).await.map_err(status)?;
        Ok(Response::new(wire::DrainAnswer {}))
    }

    async fn revoke_agent(&self, request: Request<wire::RevokeAgentRequest>) -> Result<Response<wire::RevokeAgentAnswer>, Status> {
        let api = self.enter(&request).await?;
        api.revoke_agent(AgentName(request.into_inner().agent)).await.map_err(status)?;
        Ok(Response::new(wire::RevokeAgentAnswer {}))
    }
}
