//! The contract over gRPC, caller's side. Reconnecting after a broken stream is left to the caller; single calls connect anew by themselves.

mod fleet;
mod switch;

use std::fmt;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use caisson_model::agent::{AgentView, Cordon, Hello};
use caisson_model::artifact::{Artifact, Clash, Kept};
use caisson_model::cache::{CacheEntry, CacheQuery, Saved};
use caisson_model::id::{AgentName, Digest, Hold, RunId, StepIndex};
use caisson_model::job::JobSpec;
use caisson_model::lease::{AgentMessage, Completion, ControllerMessage, Recorded, StepReport};
use caisson_model::log::{LogAck, LogChunk, LogKey, LogPush, LogRead, LogSeal};
use caisson_model::run::{Explanation, NumberedEvent, RerunScope, RunView, Submission};
use caisson_model::secret::OpenedSecrets;
use futures_util::{Stream, StreamExt};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

use crate::api::{AgentApi, Answers, ApiError, BlobApi, ClientApi, Messages, RunDetail, Submitted};
use crate::client::switch::Switch;
use crate::convert::{Cross, Malformed, field, keep, required};
use crate::status::{MAX_HEADERS, MAX_MESSAGE, api_error};
use crate::tls::{self, Tls};
use crate::wire;
use crate::wire::admin_client::AdminClient;
use crate::wire::agent_client::AgentClient;
use crate::wire::blobs_client::BlobsClient;
use crate::wire::client_client::ClientClient;
use crate::wire::enrolment_client::EnrolmentClient;

/// No single call may hang for ever: the other side can be alive and stuck.
const CALL: Duration = Duration::from_secs(60);
/// Where a controller listens when nobody says otherwise.
pub const DEFAULT_PORT: u16 = 7717;
const CONNECT: Duration = Duration::from_secs(10);
/// How long one of several controllers may take to say whether it leads, and how long one is looked for.
const PROBE: Duration = Duration::from_secs(2);
const LEADER: Duration = Duration::from_secs(30);
/// How soon a dead connection without traffic is noticed: at most the sum of both.
const PING_EVERY: Duration = Duration::from_secs(5);
const PING_ANSWER: Duration = Duration::from_secs(5);

/// What is needed to reach a controller beside its address.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// For `https` addresses: whom to believe, and who we are.
    pub tls: Option<Tls>,
    /// A token that goes with every call. Never sent without TLS to another machine.
    pub bearer: Option<Bearer>,
}

/// A token's text, which no trace shows.
#[derive(Clone)]
pub struct Bearer(pub String);

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[derive(Clone, Debug)]
struct Carry(Option<MetadataValue<Ascii>>);

impl Interceptor for Carry {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

type Line = InterceptedService<Switch, Carry>;

/// A controller at the other end of a connection. Clones share it.
#[derive(Clone, Debug)]
pub struct Client {
    agent: AgentClient<Line>,
    blobs: BlobsClient<Line>,
    client: ClientClient<Line>,
    enrolment: EnrolmentClient<Line>,
    admin: AdminClient<Line>,
    several: usize,
}

impl Client {
    /// Connects to a controller on this machine without TLS: `http://127.0.0.1:7717`.
    ///
    /// # Errors
    /// As [`Client::connect_with`].
    pub async fn connect(url: &str) -> Result<Client, ApiError> {
        Client::connect_with(url, Credentials::default()).await
    }

    /// Connects to `url`: `https://HOST:PORT`, or `http://` and a loopback address; or to whichever leads of several such,
    /// separated by commas. With several, calls move on to the next one by themselves when one is lost or stands by.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] when `url` is none, or is not protected; [`ApiError::Denied`] when the two sides do not believe each
    /// other; [`ApiError::Unavailable`] when nobody answers there within 10 s, or none of several leads within 30 s.
    pub async fn connect_with(url: &str, credentials: Credentials) -> Result<Client, ApiError> {
        let addresses: Vec<&str> = url.split(',').map(str::trim).filter(|address| !address.is_empty()).collect();
        let &[address] = addresses.as_slice() else {
            let mut channels = Vec::new();
            for address in addresses {
                channels.push(channel(address, &credentials, Wait::Later).await?);
            }
            if channels.is_empty() {
                return Err(wrong(url, "it is empty".to_owned()));
            }
            let client = Client::over(Switch::new(channels), header(&credentials)?);
            client.find_leader(url).await?;
            return Ok(client);
        };
        let channel = channel(address, &credentials, Wait::Now).await?;
        Ok(Client::over(Switch::new(vec![channel]), header(&credentials)?))
    }

    fn over(switch: Switch, header: Option<MetadataValue<Ascii>>) -> Client {
        let several = switch.len();
        let line = InterceptedService::new(switch, Carry(header));
        Client {
            agent: AgentClient::new(line.clone()).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE),
            blobs: BlobsClient::new(line.clone()).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE),
            enrolment: EnrolmentClient::new(line.clone()),
            admin: AdminClient::new(line.clone()),
            client: ClientClient::new(line).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE),
            several,
        }
    }

    /// Asks one after the other something that only a leader answers.
    async fn find_leader(&self, url: &str) -> Result<(), ApiError> {
        let looking = async {
            let mut asked = 0;
            loop {
                let asking = tokio::time::timeout(PROBE, self.agents());
                match asking.await.unwrap_or_else(|_late| Err(ApiError::Unavailable("no answer".to_owned()))) {
                    Err(ApiError::Unavailable(_)) => {}
                    // A refusal is an answer too: what was asked for is not the caller's to see.
                    _ => return,
                }
                asked += 1;
                if asked % self.several == 0 {
                    tokio::time::sleep(PROBE / 4).await;
                }
            }
        };
        let none = |_late| ApiError::Unavailable(format!("{url}: none of these leads"));
        tokio::time::timeout(LEADER, looking).await.map_err(none)
    }
}

fn wrong(url: &str, why: String) -> ApiError {
    ApiError::Invalid(format!("controller address {url:?}: {why}; write https://HOST:PORT"))
}

/// When a connection is made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    Now,
    Later,
}

/// The token as it goes with every call.
fn header(credentials: &Credentials) -> Result<Option<MetadataValue<Ascii>>, ApiError> {
    let header = credentials.bearer.as_ref().map(|bearer| MetadataValue::try_from(format!("Bearer {}", bearer.0)));
    let mut header =
        header.transpose().map_err(|_| ApiError::Invalid("the token is not one: it has characters that no token has".to_owned()))?;
    if let Some(value) = &mut header {
        value.set_sensitive(true);
    }
    Ok(header)
}

async fn channel(url: &str, credentials: &Credentials, wait: Wait) -> Result<Channel, ApiError> {
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|e| wrong(url, e.to_string()))?;
    let endpoint = endpoint
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_ANSWER)
        .keep_alive_while_idle(true)
        .http2_max_header_list_size(MAX_HEADERS);
    let uri = endpoint.uri().clone();
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let channel = match (uri.scheme_str(), wait) {
        (Some("http"), _) if !is_loopback(host) => {
            return Err(wrong(url, "without TLS only this machine is spoken to (127.0.0.1, localhost)".to_owned()));
        }
        (Some("http"), Wait::Now) => endpoint.connect().await,
        (Some("http"), Wait::Later) => Ok(endpoint.connect_lazy()),
        (Some("https"), wait) => {
            let unknown = || wrong(url, "nobody said which authority to believe (a CA file, or a token that names it)".to_owned());
            let tls = credentials.tls.clone().ok_or_else(unknown)?;
            let connector = tls.connector(host, uri.port_u16().unwrap_or(DEFAULT_PORT))?;
            match wait {
                Wait::Now => endpoint.connect_with_connector(connector).await,
                Wait::Later => Ok(endpoint.connect_with_connector_lazy(connector)),
            }
        }
        (Some(other), _) => return Err(wrong(url, format!("the scheme {other} is not supported"))),
        (None, _) => return Err(wrong(url, "it has no scheme".to_owned())),
    };
    channel.map_err(|error| failure(url, &error))
}

/// Whether a host is this machine for sure.
pub fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// A connection that did not come about: distrust is not mended by trying again.
fn failure(url: &str, error: &(dyn std::error::Error + 'static)) -> ApiError {
    let text = format!("{url}: {}", chain(error));
    let mut cause = Some(error);
    while let Some(error) = cause {
        if tls::is_distrust(error) {
            return ApiError::Denied(text);
        }
        cause = error.source();
    }
    ApiError::Unavailable(text)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

fn call<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL);
    request
}

/// A stream of requests as a type of its own. A boxed `dyn Stream` across an await would make the compiler forget that it lives for ever.
struct Outgoing<W>(Messages<W>);

impl<W> Stream for Outgoing<W> {
    type Item = W;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<W>> {
        self.0.as_mut().poll_next(context)
    }
}

fn malformed(error: Malformed) -> ApiError {
    ApiError::Broken(format!("its answer: {error}"))
}

fn answers<M: Cross + Send + 'static>(stream: Streaming<M::Wire>) -> Answers<M>
where
    M::Wire: Send + 'static,
{
    Box::pin(stream.map(|answer| answer.map_err(api_error).and_then(|wire| M::back(wire).map_err(malformed))))
}

impl BlobApi for Client {
    async fn find_missing_blobs(&self, digests: Vec<Digest>) -> Result<Vec<Digest>, ApiError> {
        let blobs = digests.into_iter().map(|digest| wire::BlobId { digest: digest.out() }).collect();
        let request = call(wire::FindMissingBlobsRequest { blobs });
        let answer = self.blobs.clone().find_missing_blobs(request).await.map_err(api_error)?.into_inner();
        answer.missing.into_iter().map(|blob| field(blob.digest, "missing").map_err(malformed)).collect()
    }

    async fn put_blob(&self, digest: Digest, content: Messages<Vec<u8>>) -> Result<(), ApiError> {
        self.put_blob_from(digest, 0, content).await
    }

    async fn held_of_blob(&self, digest: Digest) -> Result<u64, ApiError> {
        let request = call(wire::FindMissingBlobsRequest { blobs: vec![wire::BlobId { digest: digest.out() }] });
        let answer = self.blobs.clone().find_missing_blobs(request).await.map_err(api_error)?.into_inner();
        Ok(answer.held.first().copied().unwrap_or(0))
    }

    async fn put_blob_from(&self, digest: Digest, offset: u64, content: Messages<Vec<u8>>) -> Result<(), ApiError> {
        use wire::put_blob_request::Part;
        let part = |part| wire::PutBlobRequest { offset: 0, part: Some(part) };
        let first = wire::PutBlobRequest { offset, ..part(Part::Digest(digest.out())) };
        let first = futures_util::stream::once(std::future::ready(first));
        // Whoever made the pieces may have made them larger than a message may be.
        let pieces = content.flat_map(|bytes| {
            let pieces: Vec<_> = bytes.chunks(1024 * 1024).map(<[u8]>::to_vec).collect();
            futures_util::stream::iter(pieces)
        });
        let stream = Outgoing(Box::pin(first.chain(pieces.map(move |bytes| part(Part::Bytes(bytes))))));
        self.blobs.clone().put_blob(stream).await.map_err(api_error)?;
        Ok(())
    }

    async fn get_blob(&self, digest: Digest, offset: u64) -> Result<Answers<Vec<u8>>, ApiError> {
        let request = wire::GetBlobRequest { digest: digest.out(), offset };
        let stream = self.blobs.clone().get_blob(request).await.map_err(api_error)?.into_inner();
        Ok(Box::pin(stream.map(|answer| answer.map(|piece| piece.bytes).map_err(api_error))))
    }
}

impl AgentApi for Client {
    async fn session(&self, hello: Hello, messages: Messages<AgentMessage>) -> Result<Answers<ControllerMessage>, ApiError> {
        let hello = wire::SessionRequest { message: Some(wire::session_request::Message::Hello(hello.out())) };
        let stream = Outgoing(Box::pin(futures_util::stream::once(std::future::ready(hello)).chain(messages.map(Cross::out))));
        Ok(answers(self.agent.clone().session(stream).await.map_err(api_error)?.into_inner()))
    }

    async fn fetch_spec(&self, hold: Hold) -> Result<JobSpec, ApiError> {
        let request = call(wire::FetchSpecRequest { hold: Some(hold.out()) });
        let answer = self.agent.clone().fetch_spec(request).await.map_err(api_error)?.into_inner();
        required(answer.spec, "spec").map_err(malformed)
    }

    async fn fetch_form(&self, hold: Hold) -> Result<Vec<u8>, ApiError> {
        let request = call(wire::FetchSpecRequest { hold: Some(hold.out()) });
        let answer = self.agent.clone().fetch_spec(request).await.map_err(api_error)?.into_inner();
        if !answer.form.is_empty() {
            return Ok(answer.form);
        }
        // A controller of the first version: its digest covers what the spec makes of itself.
        let spec: JobSpec = required(answer.spec, "spec").map_err(malformed)?;
        serde_json::to_vec(&spec).map_err(|error| ApiError::Broken(format!("the spec cannot be written: {error}")))
    }

    async fn open_secrets(&self, hold: Hold, step: StepIndex) -> Result<OpenedSecrets, ApiError> {
        let request = call(wire::OpenSecretsRequest { hold: Some(hold.out()), step: step.out() });
        let answer = self.agent.clone().open_secrets(request).await.map_err(api_error)?.into_inner();
        OpenedSecrets::back(answer).map_err(malformed)
    }

    async fn push_log(&self, chunks: Messages<LogPush>) -> Result<Answers<LogAck>, ApiError> {
        let stream = Outgoing(Box::pin(chunks.map(Cross::out)));
        Ok(answers(self.agent.clone().push_log(stream).await.map_err(api_error)?.into_inner()))
    }

    async fn seal_log(&self, hold: Hold, step: StepIndex, seal: LogSeal) -> Result<(), ApiError> {
        self.end_log(hold, step, Vec::new(), seal).await
    }

    async fn end_log(&self, hold: Hold, step: StepIndex, rest: Vec<LogChunk>, seal: LogSeal) -> Result<(), ApiError> {
        let request = call(wire::SealLogRequest { hold: Some(hold.out()), step: step.out(), seal: Some(seal.out()), rest: rest.out() });
        self.agent.clone().seal_log(request).await.map_err(api_error)?;
        Ok(())
    }

    async fn report_step(&self, report: StepReport) -> Result<(), ApiError> {
        self.agent.clone().report_step(call(report.out())).await.map_err(api_error)?;
        Ok(())
    }

    async fn complete_attempt(&self, completion: Completion) -> Result<Recorded, ApiError> {
        let answer = self.agent.clone().complete_attempt(call(completion.out())).await.map_err(api_error)?.into_inner();
        field(answer.recorded, "recorded").map_err(malformed)
    }

    async fn return_attempt(&self, hold: Hold, reason: String) -> Result<(), ApiError> {
        let request = call(wire::ReturnAttemptRequest { hold: Some(hold.out()), reason });
        self.agent.clone().return_attempt(request).await.map_err(api_error)?;
        Ok(())
    }

    async fn keep_artifact(&self, hold: Hold, artifact: Artifact, clash: Clash) -> Result<Kept, ApiError> {
        let request = wire::KeepArtifactRequest { hold: Some(hold.out()), artifact: Some(artifact.out()), clash: clash.out() };
        let answer = self.agent.clone().keep_artifact(call(request)).await.map_err(api_error)?.into_inner();
        field(answer.kept, "kept").map_err(malformed)
    }

    async fn list_artifacts(&self, hold: Hold) -> Result<Vec<Artifact>, ApiError> {
        let request = call(wire::ListArtifactsRequest { hold: Some(hold.out()) });
        let answer = self.agent.clone().list_artifacts(request).await.map_err(api_error)?.into_inner();
        field(answer.artifacts, "artifacts").map_err(malformed)
    }

    async fn drop_artifact(&self, hold: Hold, name: String) -> Result<(), ApiError> {
        let request = call(wire::DropArtifactRequest { hold: Some(hold.out()), name });
        self.agent.clone().drop_artifact(request).await.map_err(api_error)?;
        Ok(())
    }

    async fn find_cache(&self, hold: Hold, query: CacheQuery) -> Result<Option<CacheEntry>, ApiError> {
        let request = call(wire::FindCacheRequest { hold: Some(hold.out()), keys: query.keys, version: query.version });
        let answer = self.agent.clone().find_cache(request).await.map_err(api_error)?.into_inner();
        keep::optional(answer.entry, "entry").map_err(malformed)
    }

    async fn save_cache(&self, hold: Hold, entry: CacheEntry) -> Result<Saved, ApiError> {
        let request = call(wire::SaveCacheRequest { hold: Some(hold.out()), entry: Some(entry.out()) });
        let answer = self.agent.clone().save_cache(request).await.map_err(api_error)?.into_inner();
        field(answer.saved, "saved").map_err(malformed)
    }
}

impl ClientApi for Client {
    async fn submit(&self, submission: Submission) -> Result<Submitted, ApiError> {
        let answer = self.client.clone().submit(call(submission.out())).await.map_err(api_error)?.into_inner();
        Result::<Submitted, ApiError>::back(answer).map_err(malformed)?
    }

    async fn cancel(&self, run: RunId) -> Result<(), ApiError> {
        self.client.clone().cancel(call(wire::CancelRequest { run: run.out() })).await.map_err(api_error)?;
        Ok(())
    }

    async fn list_runs(&self, limit: u32) -> Result<Vec<RunView>, ApiError> {
        let answer = self.client.clone().list_runs(call(wire::ListRunsRequest { limit })).await.map_err(api_error)?.into_inner();
        field(answer.runs, "runs").map_err(malformed)
    }

    async fn run(&self, run: RunId) -> Result<RunDetail, ApiError> {
        let answer = self.client.clone().get_run(call(wire::GetRunRequest { run: run.out() })).await.map_err(api_error)?.into_inner();
        RunDetail::back(answer).map_err(malformed)
    }

    async fn watch_run(&self, run: RunId, after: u64) -> Result<Answers<NumberedEvent>, ApiError> {
        let request = wire::WatchRunRequest { run: run.out(), after };
        Ok(answers(self.client.clone().watch_run(request).await.map_err(api_error)?.into_inner()))
    }

    async fn tail_log(&self, log: LogKey, offset: u64) -> Result<Answers<LogRead>, ApiError> {
        let request = wire::TailLogRequest { log: Some(log.out()), offset };
        Ok(answers(self.client.clone().tail_log(request).await.map_err(api_error)?.into_inner()))
    }

    async fn explain(&self, run: RunId) -> Result<Vec<Explanation>, ApiError> {
        let answer = self.client.clone().explain(call(wire::ExplainRequest { run: run.out() })).await.map_err(api_error)?.into_inner();
        field(answer.explanations, "explanations").map_err(malformed)
    }

    async fn artifacts(&self, run: RunId) -> Result<Vec<Artifact>, ApiError> {
        let request = call(wire::RunArtifactsRequest { run: run.out() });
        let answer = self.client.clone().run_artifacts(request).await.map_err(api_error)?.into_inner();
        field(answer.artifacts, "artifacts").map_err(malformed)
    }

    async fn rerun(&self, run: RunId, scope: RerunScope) -> Result<RunId, ApiError> {
        let request = call(wire::RerunRequest { run: run.out(), scope: scope.out() });
        field(self.client.clone().rerun(request).await.map_err(api_error)?.into_inner().run, "run").map_err(malformed)
    }

    async fn agents(&self) -> Result<Vec<AgentView>, ApiError> {
        let answer = self.client.clone().list_agents(call(wire::ListAgentsRequest {})).await.map_err(api_error)?.into_inner();
        field(answer.agents, "agents").map_err(malformed)
    }

    async fn cordon(&self, agent: AgentName, cordon: Cordon) -> Result<(), ApiError> {
        let request = call(wire::CordonRequest { agent: agent.out(), cordoned: cordon == Cordon::On });
        self.client.clone().cordon(request).await.map_err(api_error)?;
        Ok(())
    }

    async fn drain(&self, agent: AgentName) -> Result<(), ApiError> {
        self.client.clone().drain(call(wire::DrainRequest { agent: agent.out() })).await.map_err(api_error)?;
        Ok(())
    }

    async fn revoke_agent(&self, agent: AgentName) -> Result<(), ApiError> {
        self.client.clone().revoke_agent(call(wire::RevokeAgentRequest { agent: agent.out() })).await.map_err(api_error)?;
        Ok(())
    }
}
