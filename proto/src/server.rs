//! Any implementor of the contract as gRPC services on a listener. No address is judged here: whoever binds the listener answers for it.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use caisson_model::agent::Cordon;
use caisson_model::id::{AgentName, Digest, Hold, StepIndex};
use caisson_model::lease::{AgentMessage, Completion, StepReport};
use caisson_model::log::{LogKey, LogPush, LogSeal};
use caisson_model::run::Submission;
use futures_util::stream::{self, Stream, StreamExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::api::{AgentApi, Answers, ApiError, ClientApi, Messages};
use crate::convert::{Cross, Malformed, field, required};
use crate::status::{MAX_HEADERS, MAX_MESSAGE, api_error, status};
use crate::wire;
use crate::wire::agent_server::{Agent, AgentServer};
use crate::wire::blobs_server::{Blobs, BlobsServer};
use crate::wire::client_server::{Client, ClientServer};

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

/// Serves `api` on `listener` until `shutdown`. Long streams are then ended at once, as unavailable; other calls may end within 5 s.
///
/// # Errors
/// [`ServeError`] when the listener breaks.
pub async fn serve<A, S>(api: A, listener: TcpListener, shutdown: S) -> Result<(), ServeError>
where
    A: AgentApi + ClientApi,
    S: Future<Output = ()> + Send,
{
    let (close, closing) = watch::channel(false);
    let server = Server { api: Arc::new(api), closing: closing.clone() };
    let mut closed = closing.clone();
    let serving = tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PING_ANSWER))
        .http2_max_header_list_size(MAX_HEADERS)
        .add_service(AgentServer::new(server.clone()).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE))
        .add_service(BlobsServer::new(server.clone()).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE))
        .add_service(ClientServer::new(server).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE))
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), async move {
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

struct Server<A> {
    api: Arc<A>,
    closing: watch::Receiver<bool>,
}

impl<A> Clone for Server<A> {
    fn clone(&self) -> Self {
        Server { api: self.api.clone(), closing: self.closing.clone() }
    }
}

type Answering<W> = Pin<Box<dyn Stream<Item = Result<W, Status>> + Send>>;

impl<A: Send + Sync + 'static> Server<A> {
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
impl<A: AgentApi + ClientApi> Agent for Server<A> {
    type SessionStream = Answering<wire::SessionAnswer>;
    type PushLogStream = Answering<wire::PushLogAnswer>;

    async fn session(&self, request: Request<Streaming<wire::SessionRequest>>) -> Result<Response<Self::SessionStream>, Status> {
        let mut messages = request.into_inner();
        let first = tokio::time::timeout(HELLO, messages.message())
            .await
            .map_err(|_elapsed| status(ApiError::Invalid("hello: was not said within 10 s".to_owned())))??;
        let hello = match first.and_then(|first| first.message) {
            Some(wire::session_request::Message::Hello(hello)) => field(hello, "hello").map_err(invalid)?,
            _ => return Err(status(ApiError::Invalid("hello: must be the first message".to_owned()))),
        };
        let refusal = Refusal::default();
        let answers = self.api.session(hello, incoming(messages, refusal.clone(), AgentMessage::back)).await.map_err(status)?;
        Ok(Response::new(self.answering(answers, refusal)))
    }

    async fn fetch_spec(&self, request: Request<wire::FetchSpecRequest>) -> Result<Response<wire::FetchSpecAnswer>, Status> {
        let spec = self.api.fetch_spec(hold(request.into_inner().hold)?).await.map_err(status)?;
        Ok(Response::new(wire::FetchSpecAnswer { spec: Some(spec.out()) }))
    }

    async fn open_secrets(&self, request: Request<wire::OpenSecretsRequest>) -> Result<Response<wire::OpenSecretsAnswer>, Status> {
        let request = request.into_inner();
        let opened = self.api.open_secrets(hold(request.hold)?, StepIndex(request.step)).await.map_err(status)?;
        Ok(Response::new(opened.out()))
    }

    async fn push_log(&self, request: Request<Streaming<wire::PushLogRequest>>) -> Result<Response<Self::PushLogStream>, Status> {
        let refusal = Refusal::default();
        let answers = self.api.push_log(incoming(request.into_inner(), refusal.clone(), LogPush::back)).await.map_err(status)?;
        Ok(Response::new(self.answering(answers, refusal)))
    }

    async fn seal_log(&self, request: Request<wire::SealLogRequest>) -> Result<Response<wire::SealLogAnswer>, Status> {
        let request = request.into_inner();
        let seal: LogSeal = required(request.seal, "seal").map_err(invalid)?;
        self.api.seal_log(hold(request.hold)?, StepIndex(request.step), seal).await.map_err(status)?;
        Ok(Response::new(wire::SealLogAnswer {}))
    }

    async fn report_step(&self, request: Request<wire::ReportStepRequest>) -> Result<Response<wire::ReportStepAnswer>, Status> {
        let report = StepReport::back(request.into_inner()).map_err(invalid)?;
        self.api.report_step(report).await.map_err(status)?;
        Ok(Response::new(wire::ReportStepAnswer {}))
    }

    async fn complete_attempt(
        &self,
        request: Request<wire::CompleteAttemptRequest>,
    ) -> Result<Response<wire::CompleteAttemptAnswer>, Status> {
        let completion = Completion::back(request.into_inner()).map_err(invalid)?;
        let recorded = self.api.complete_attempt(completion).await.map_err(status)?;
        Ok(Response::new(wire::CompleteAttemptAnswer { recorded: recorded.out() }))
    }

    async fn return_attempt(&self, request: Request<wire::ReturnAttemptRequest>) -> Result<Response<wire::ReturnAttemptAnswer>, Status> {
        let request = request.into_inner();
        self.api.return_attempt(hold(request.hold)?, request.reason).await.map_err(status)?;
        Ok(Response::new(wire::ReturnAttemptAnswer {}))
    }
}

#[tonic::async_trait]
impl<A: AgentApi + ClientApi> Blobs for Server<A> {
    type GetBlobStream = Answering<wire::GetBlobAnswer>;

    async fn find_missing_blobs(
        &self,
        request: Request<wire::FindMissingBlobsRequest>,
    ) -> Result<Response<wire::FindMissingBlobsAnswer>, Status> {
        let digests: Result<Vec<Digest>, Malformed> =
            request.into_inner().blobs.into_iter().map(|blob| field(blob.digest, "blobs.digest")).collect();
        let missing = self.api.find_missing_blobs(digests.map_err(invalid)?).await.map_err(status)?;
        let missing = missing.into_iter().map(|digest| wire::BlobId { digest: digest.out() }).collect();
        Ok(Response::new(wire::FindMissingBlobsAnswer { missing }))
    }

    async fn put_blob(&self, request: Request<Streaming<wire::PutBlobRequest>>) -> Result<Response<wire::PutBlobAnswer>, Status> {
        use wire::put_blob_request::Part;
        let mut parts = request.into_inner();
        let digest: Digest = match parts.message().await?.and_then(|first| first.part) {
            Some(Part::Digest(digest)) => field(digest, "digest").map_err(invalid)?,
            _ => return Err(status(ApiError::Invalid("digest: must be the first message".to_owned()))),
        };
        let refusal = Refusal::default();
        let content = incoming(parts, refusal.clone(), |request| match request.part {
            Some(Part::Bytes(bytes)) => Ok(bytes),
            _ => Err(Malformed::new("only bytes follow the digest").within("part")),
        });
        let put = self.api.put_blob(digest, content).await;
        // A blob cut short fails its digest; what cut it is the better reason.
        match (put, refusal.0.get()) {
            (Ok(()), _) => Ok(Response::new(wire::PutBlobAnswer {})),
            (Err(_), Some(reason)) => Err(status(reason.clone())),
            (Err(error), None) => Err(status(error)),
        }
    }

    async fn get_blob(&self, request: Request<wire::GetBlobRequest>) -> Result<Response<Self::GetBlobStream>, Status> {
        let request = request.into_inner();
        let digest = field(request.digest, "digest").map_err(invalid)?;
        let pieces = self.api.get_blob(digest, request.offset).await.map_err(status)?;
        Ok(Response::new(Box::pin(pieces.map(|piece| piece.map(|bytes| wire::GetBlobAnswer { bytes }).map_err(status)))))
    }
}

#[tonic::async_trait]
impl<A: AgentApi + ClientApi> Client for Server<A> {
    type WatchRunStream = Answering<wire::NumberedEvent>;
    type TailLogStream = Answering<wire::TailLogAnswer>;

    async fn submit(&self, request: Request<wire::SubmitRequest>) -> Result<Response<wire::SubmitAnswer>, Status> {
        let submission = Submission::back(request.into_inner()).map_err(invalid)?;
        match self.api.submit(submission).await {
            answer @ (Ok(_) | Err(ApiError::Rejected(_))) => Ok(Response::new(answer.out())),
            Err(error) => Err(status(error)),
        }
    }

    async fn cancel(&self, request: Request<wire::CancelRequest>) -> Result<Response<wire::CancelAnswer>, Status> {
        self.api.cancel(field(request.into_inner().run, "run").map_err(invalid)?).await.map_err(status)?;
        Ok(Response::new(wire::CancelAnswer {}))
    }

    async fn list_runs(&self, request: Request<wire::ListRunsRequest>) -> Result<Response<wire::ListRunsAnswer>, Status> {
        let runs = self.api.list_runs(request.into_inner().limit).await.map_err(status)?;
        Ok(Response::new(wire::ListRunsAnswer { runs: runs.out() }))
    }

    async fn get_run(&self, request: Request<wire::GetRunRequest>) -> Result<Response<wire::GetRunAnswer>, Status> {
        let detail = self.api.run(field(request.into_inner().run, "run").map_err(invalid)?).await.map_err(status)?;
        Ok(Response::new(detail.out()))
    }

    async fn watch_run(&self, request: Request<wire::WatchRunRequest>) -> Result<Response<Self::WatchRunStream>, Status> {
        let request = request.into_inner();
        let run = field(request.run, "run").map_err(invalid)?;
        let events = self.api.watch_run(run, request.after).await.map_err(status)?;
        Ok(Response::new(self.answering(events, Refusal::default())))
    }

    async fn tail_log(&self, request: Request<wire::TailLogRequest>) -> Result<Response<Self::TailLogStream>, Status> {
        let request = request.into_inner();
        let log: LogKey = required(request.log, "log").map_err(invalid)?;
        let reads = self.api.tail_log(log, request.offset).await.map_err(status)?;
        Ok(Response::new(self.answering(reads, Refusal::default())))
    }

    async fn explain(&self, request: Request<wire::ExplainRequest>) -> Result<Response<wire::ExplainAnswer>, Status> {
        let explanations = self.api.explain(field(request.into_inner().run, "run").map_err(invalid)?).await.map_err(status)?;
        Ok(Response::new(wire::ExplainAnswer { explanations: explanations.out() }))
    }

    async fn rerun(&self, request: Request<wire::RerunRequest>) -> Result<Response<wire::RerunAnswer>, Status> {
        let request = request.into_inner();
        let (run, scope) = (field(request.run, "run").map_err(invalid)?, field(request.scope, "scope").map_err(invalid)?);
        let run = self.api.rerun(run, scope).await.map_err(status)?;
        Ok(Response::new(wire::RerunAnswer { run: run.out() }))
    }

    async fn list_agents(&self, _: Request<wire::ListAgentsRequest>) -> Result<Response<wire::ListAgentsAnswer>, Status> {
        let agents = self.api.agents().await.map_err(status)?;
        Ok(Response::new(wire::ListAgentsAnswer { agents: agents.out() }))
    }

    async fn cordon(&self, request: Request<wire::CordonRequest>) -> Result<Response<wire::CordonAnswer>, Status> {
        let request = request.into_inner();
        let cordon = if request.cordoned { Cordon::On } else { Cordon::Off };
        self.api.cordon(AgentName(request.agent), cordon).await.map_err(status)?;
        Ok(Response::new(wire::CordonAnswer {}))
    }

    async fn drain(&self, request: Request<wire::DrainRequest>) -> Result<Response<wire::DrainAnswer>, Status> {
        self.api.drain(AgentName(request.into_inner().agent)).await.map_err(status)?;
        Ok(Response::new(wire::DrainAnswer {}))
    }

    async fn revoke_agent(&self, request: Request<wire::RevokeAgentRequest>) -> Result<Response<wire::RevokeAgentAnswer>, Status> {
        self.api.revoke_agent(AgentName(request.into_inner().agent)).await.map_err(status)?;
        Ok(Response::new(wire::RevokeAgentAnswer {}))
    }
}
