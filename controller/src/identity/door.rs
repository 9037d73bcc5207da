//! Who may do what: the contract as one caller may use it. Identity comes from the connection and from a token, never from
//! what a message says; where a message names an agent or an attempt, it is compared.

use std::future::Future;
use std::pin::Pin;

use caisson_model::agent::{AgentView, Cordon, Hello};
use caisson_model::artifact::{Artifact, Clash, Kept};
use caisson_model::cache::{CacheEntry, CacheQuery, Saved};
use caisson_model::id::{AgentName, AttemptId, Digest, Hold, RunId, StepIndex};
use caisson_model::job::JobSpec;
use caisson_model::lease::{AgentMessage, Completion, ControllerMessage, Recorded, StepReport};
use caisson_model::log::{LogAck, LogChunk, LogKey, LogPush, LogRead, LogSeal};
use caisson_model::run::{Explanation, NumberedEvent, RerunScope, RunView, Submission};
use caisson_model::secret::OpenedSecrets;
use caisson_proto::api::{AgentApi, Answers, ApiError, BlobApi, ClientApi, Messages, RunDetail, Submitted};
use caisson_proto::fleet::{Certified, Enrolment, FleetApi, MemberView, NewToken, TokenView, TokenWish};
use caisson_proto::server;
use futures_util::StreamExt;

use crate::identity::entry::Scope;
use crate::identity::peer::{Link, Peer, Recognised};
use crate::identity::registry::{Registry, now};
use crate::identity::roll::Holder;
use crate::service::Service;

/// A label that only the controller gives: an agent's own pool.
const POOL: &str = "pool:";

/// The door of a listener. Without a registry there is no TLS, and everybody on this machine may do everything.
#[derive(Clone, Debug)]
pub struct Door {
    service: Service,
    registry: Option<Registry>,
}

impl Door {
    /// For callers on this machine, in the clear.
    pub fn open(service: Service) -> Door {
        Door { service, registry: None }
    }

    /// For callers who prove who they are.
    pub fn guarded(service: Service, registry: Registry) -> Door {
        Door { service, registry: Some(registry) }
    }
}

#[derive(Clone, Debug)]
enum Who {
    /// Somebody on this machine, in the clear.
    Local,
    /// Somebody with neither certificate nor token.
    Nobody,
    /// An agent, with the serial number of its certificate.
    Agent(Recognised, String),
    /// Somebody with an API token.
    Holder(Holder),
}

/// One caller.
#[derive(Clone, Debug)]
pub struct Caller {
    service: Service,
    registry: Option<Registry>,
    who: Who,
    address: String,
}

impl server::Door for Door {
    type Peer = Peer;
    type Api = Caller;

    async fn enter(&self, peer: &Peer, bearer: Option<&str>) -> Result<Caller, ApiError> {
        let address = peer.address.to_string();
        let caller = |who| Caller { service: self.service.clone(), registry: self.registry.clone(), who, address: address.clone() };
        let Some(registry) = &self.registry else {
            return match peer.link {
                Link::Plain => Ok(caller(Who::Local)),
                Link::Tls(_) => Err(ApiError::Broken("there is no registry to recognise anybody by".to_owned())),
            };
        };
        let who = match (&peer.link, bearer) {
            (Link::Plain, _) => Err(ApiError::Denied("the connection is not protected".to_owned())),
            (Link::Tls(Some(serial)), None) => {
                let known = registry.roll().recognise(serial, now());
                known.map(|known| Who::Agent(known, serial.clone())).map_err(|refusal| ApiError::Denied(refusal.to_string()))
            }
            (Link::Tls(None), Some(token)) => registry.holder(token).await.map(Who::Holder),
            (Link::Tls(None), None) => Ok(Who::Nobody),
            (Link::Tls(Some(_)), Some(_)) => Err(ApiError::Denied("a caller has a certificate or a token, not both".to_owned())),
        };
        who.map(caller).inspect_err(|error| registry.deny(address.clone(), "call", &error.to_string()))
    }
}

impl Caller {
    /// Who this is, for the record.
    fn actor(&self) -> String {
        match &self.who {
            Who::Local => "local".to_owned(),
            Who::Nobody => self.address.clone(),
            Who::Agent(known, _) => format!("agent {} at {}", known.agent, self.address),
            Who::Holder(holder) => format!("token {} at {}", holder.id, self.address),
        }
    }

    fn deny<T>(&self, what: &str, reason: String) -> Result<T, ApiError> {
        if let Some(registry) = &self.registry {
            registry.deny(self.actor(), what, &reason);
        }
        Err(ApiError::Denied(reason))
    }

    fn may(&self, scope: Scope, what: &str) -> Result<&Service, ApiError> {
        match &self.who {
            Who::Local => Ok(&self.service),
            Who::Holder(holder) if holder.scopes.iter().any(|held| *held >= scope) => Ok(&self.service),
            Who::Holder(holder) => {
                self.deny(what, format!("token {} does not allow this; it takes one with the scope {}", holder.id, scope.name()))
            }
            Who::Agent(..) => self.deny(what, "an agent's certificate does not allow this; it takes an API token".to_owned()),
            Who::Nobody => self.deny(what, format!("this takes an API token with the scope {}", scope.name())),
        }
    }

    fn agent(&self, what: &str) -> Result<&Service, ApiError> {
        match &self.who {
            Who::Local | Who::Agent(..) => Ok(&self.service),
            Who::Holder(_) | Who::Nobody => self.deny(what, "this takes an agent's certificate".to_owned()),
        }
    }

    /// Blobs are agents' and clients'.
    fn blobs(&self, scope: Scope, what: &str) -> Result<&Service, ApiError> {
        if matches!(self.who, Who::Agent(..)) { Ok(&self.service) } else { self.may(scope, what) }
    }

    /// An attempt is its agent's alone. One that nobody holds is for the engine to judge, which knows fences.
    fn own(&self, attempt: AttemptId, what: &str) -> Result<&Service, ApiError> {
        let service = self.agent(what)?;
        match (&self.who, service.owner(attempt)) {
            (Who::Agent(known, _), Some(owner)) if owner != known.agent => {
                self.deny(what, format!("attempt {attempt} is not agent {}'s", known.agent))
            }
            _ => Ok(service),
        }
    }

    /// Ready when this caller may speak no more. Long streams end then.
    fn unwelcome(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let (Some(registry), Who::Holder(holder)) = (self.registry.clone(), self.who.clone()) else {
            // Of agents the whole connection ends.
            return Box::pin(std::future::pending());
        };
        Box::pin(async move {
            let mut changes = registry.changes();
            let left = holder.expires.since(now());
            let revoked = async {
                while registry.roll().still(&holder, now()) {
                    if changes.changed().await.is_err() {
                        return;
                    }
                }
            };
            // Whichever comes first.
            let _either = tokio::time::timeout(left, revoked).await;
        })
    }

    fn admin(&self, what: &str) -> Result<Registry, ApiError> {
        self.may(Scope::Admin, what)?;
        let none = || {
            ApiError::Invalid(
                "this controller has no authority: it listens on loopback without TLS; see `caisson controller init`".to_owned(),
            )
        };
        self.registry.clone().ok_or_else(none)
    }
}

impl BlobApi for Caller {
    async fn find_missing_blobs(&self, digests: Vec<Digest>) -> Result<Vec<Digest>, ApiError> {
        self.blobs(Scope::Submit, "find-missing-blobs")?.find_missing_blobs(digests).await
    }

    async fn put_blob(&self, digest: Digest, content: Messages<Vec<u8>>) -> Result<(), ApiError> {
        self.blobs(Scope::Submit, "put-blob")?.put_blob(digest, content).await
    }

    async fn held_of_blob(&self, digest: Digest) -> Result<u64, ApiError> {
        self.blobs(Scope::Submit, "find-missing-blobs")?.held_of_blob(digest).await
    }

    async fn put_blob_from(&self, digest: Digest, offset: u64, content: Messages<Vec<u8>>) -> Result<(), ApiError> {
        self.blobs(Scope::Submit, "put-blob")?.put_blob_from(digest, offset, content).await
    }

    async fn get_blob(&self, digest: Digest, offset: u64) -> Result<Answers<Vec<u8>>, ApiError> {
        self.blobs(Scope::Read, "get-blob")?.get_blob(digest, offset).await
    }
}

impl AgentApi for Caller {
    async fn session(&self, mut hello: Hello, messages: Messages<AgentMessage>) -> Result<Answers<ControllerMessage>, ApiError> {
        let service = self.agent("session")?;
        hello.labels.retain(|label| !label.starts_with(POOL));
        if let Who::Agent(known, _) = &self.who {
            if hello.agent != known.agent {
                let reason = format!("the certificate is agent {}'s and not agent {}'s", known.agent, hello.agent);
                return self.deny("session", reason);
            }
            hello.labels.push(format!("{POOL}{}", known.pool.to_lowercase()));
        }
        service.session(hello, messages).await
    }

    async fn fetch_spec(&self, hold: Hold) -> Result<JobSpec, ApiError> {
        self.own(hold.attempt, "fetch-spec")?.fetch_spec(hold).await
    }

    async fn open_secrets(&self, hold: Hold, step: StepIndex) -> Result<OpenedSecrets, ApiError> {
        self.own(hold.attempt, "open-secrets")?.open_secrets(hold, step).await
    }

    async fn push_log(&self, chunks: Messages<LogPush>) -> Result<Answers<LogAck>, ApiError> {
        let service = self.agent("push-log")?.clone();
        let caller = self.clone();
        let (strange, stranger) = tokio::sync::oneshot::channel();
        let mut strange = Some(strange);
        // The first chunk of somebody else's attempt ends the stream, and the answers with it.
        let own = chunks.map(move |push| caller.own(push.hold.attempt, "push-log").map(|_| push)).take_while(move |checked| {
            if let (Err(error), Some(strange)) = (checked, strange.take_if(|_| checked.is_err())) {
                // Nobody listens any more when the answers are gone.
                let _gone = strange.send(error.clone());
            }
            std::future::ready(checked.is_ok())
        });
        let answers = service.push_log(Box::pin(own.filter_map(|checked| std::future::ready(checked.ok())))).await?;
        let last = futures_util::stream::once(stranger).filter_map(|error| std::future::ready(error.ok().map(Err)));
        Ok(Box::pin(answers.chain(last)))
    }

    async fn seal_log(&self, hold: Hold, step: StepIndex, seal: LogSeal) -> Result<(), ApiError> {
        self.own(hold.attempt, "seal-log")?.seal_log(hold, step, seal).await
    }

    async fn end_log(&self, hold: Hold, step: StepIndex, rest: Vec<LogChunk>, seal: LogSeal) -> Result<(), ApiError> {
        self.own(hold.attempt, "seal-log")?.end_log(hold, step, rest, seal).await
    }

    async fn report_step(&self, report: StepReport) -> Result<(), ApiError> {
        self.own(report.hold.attempt, "report-step")?.report_step(report).await
    }

    async fn complete_attempt(&self, completion: Completion) -> Result<Recorded, ApiError> {
        self.own(completion.hold.attempt, "complete-attempt")?.complete_attempt(completion).await
    }

    async fn return_attempt(&self, hold: Hold, reason: String) -> Result<(), ApiError> {
        self.own(hold.attempt, "return-attempt")?.return_attempt(hold, reason).await
    }

    async fn keep_artifact(&self, hold: Hold, artifact: Artifact, clash: Clash) -> Result<Kept, ApiError> {
        self.own(hold.attempt, "keep-artifact")?.keep_artifact(hold, artifact, clash).await
    }

    async fn list_artifacts(&self, hold: Hold) -> Result<Vec<Artifact>, ApiError> {
        self.own(hold.attempt, "list-artifacts")?.list_artifacts(hold).await
    }

    async fn drop_artifact(&self, hold: Hold, name: String) -> Result<(), ApiError> {
        self.own(hold.attempt, "drop-artifact")?.drop_artifact(hold, name).await
    }

    async fn find_cache(&self, hold: Hold, query: CacheQuery) -> Result<Option<CacheEntry>, ApiError> {
        self.own(hold.attempt, "find-cache")?.find_cache(hold, query).await
    }

    async fn save_cache(&self, hold: Hold, entry: CacheEntry) -> Result<Saved, ApiError> {
        self.own(hold.attempt, "save-cache")?.save_cache(hold, entry).await
    }
}

impl ClientApi for Caller {
    async fn submit(&self, submission: Submission) -> Result<Submitted, ApiError> {
        self.may(Scope::Submit, "submit")?.submit(submission).await
    }

    async fn cancel(&self, run: RunId) -> Result<(), ApiError> {
        self.may(Scope::Submit, "cancel")?.cancel(run).await
    }

    async fn list_runs(&self, limit: u32) -> Result<Vec<RunView>, ApiError> {
        self.may(Scope::Read, "list-runs")?.list_runs(limit).await
    }

    async fn run(&self, run: RunId) -> Result<RunDetail, ApiError> {
        self.may(Scope::Read, "run")?.run(run).await
    }

    async fn watch_run(&self, run: RunId, after: u64) -> Result<Answers<NumberedEvent>, ApiError> {
        let events = self.may(Scope::Read, "watch-run")?.watch_run(run, after).await?;
        Ok(Box::pin(events.take_until(self.unwelcome())))
    }

    async fn tail_log(&self, log: LogKey, offset: u64) -> Result<Answers<LogRead>, ApiError> {
        let reads = self.may(Scope::Read, "tail-log")?.tail_log(log, offset).await?;
        Ok(Box::pin(reads.take_until(self.unwelcome())))
    }

    async fn explain(&self, run: RunId) -> Result<Vec<Explanation>, ApiError> {
        self.may(Scope::Read, "explain")?.explain(run).await
    }

    async fn artifacts(&self, run: RunId) -> Result<Vec<Artifact>, ApiError> {
        self.may(Scope::Read, "artifacts")?.artifacts(run).await
    }

    async fn rerun(&self, run: RunId, scope: RerunScope) -> Result<RunId, ApiError> {
        self.may(Scope::Submit, "rerun")?.rerun(run, scope).await
    }

    async fn agents(&self) -> Result<Vec<AgentView>, ApiError> {
        self.may(Scope::Read, "agents")?.agents().await
    }

    async fn cordon(&self, agent: AgentName, cordon: Cordon) -> Result<(), ApiError> {
        self.may(Scope::Admin, "cordon")?.cordon(agent, cordon).await
    }

    async fn drain(&self, agent: AgentName) -> Result<(), ApiError> {
        self.may(Scope::Admin, "drain")?.drain(agent).await
    }

    async fn revoke_agent(&self, agent: AgentName) -> Result<(), ApiError> {
        let service = self.may(Scope::Admin, "revoke-agent")?;
        match &self.registry {
            Some(_) => self.expel(agent, "revoked by an administrator".to_owned()).await,
            None => service.revoke_agent(agent).await,
        }
    }
}

impl FleetApi for Caller {
    async fn enroll(&self, enrolment: Enrolment) -> Result<Certified, ApiError> {
        match (&self.registry, &self.who) {
            (Some(registry), Who::Nobody) => registry.enroll(self.actor(), enrolment).await,
            (Some(_), _) => self.deny("join", "whoever joins has neither a certificate nor an API token".to_owned()),
            (None, _) => Err(ApiError::Invalid("agents join a controller with TLS only; see `caisson controller init`".to_owned())),
        }
    }

    async fn renew_certificate(&self, request: Vec<u8>) -> Result<Certified, ApiError> {
        match (&self.registry, &self.who) {
            (Some(registry), Who::Agent(_, serial)) => registry.renew(self.actor(), serial.clone(), request).await,
            _ => self.deny("renew", "this takes an agent's certificate".to_owned()),
        }
    }

    async fn create_token(&self, wish: TokenWish) -> Result<NewToken, ApiError> {
        self.admin("create-token")?.create_token(self.actor(), wish).await
    }

    async fn list_tokens(&self) -> Result<Vec<TokenView>, ApiError> {
        let registry = self.admin("list-tokens")?;
        registry.catch_up().await?;
        let tokens = registry.roll().tokens();
        Ok(tokens)
    }

    async fn revoke_token(&self, id: String) -> Result<(), ApiError> {
        self.admin("revoke-token")?.revoke_token(self.actor(), id).await
    }

    async fn list_members(&self) -> Result<Vec<MemberView>, ApiError> {
        self.may(Scope::Read, "list-members")?;
        let Some(registry) = &self.registry else { return Ok(Vec::new()) };
        registry.catch_up().await?;
        let members = registry.roll().members();
        Ok(members)
    }

    async fn expel(&self, agent: AgentName, reason: String) -> Result<(), ApiError> {
        let service = self.may(Scope::Admin, "expel")?;
        if let Some(registry) = &self.registry {
            registry.revoke_agent(self.actor(), agent.clone(), reason).await?;
        }
        // Its jobs go to others at once, and not when its leases end.
        service.revoke_agent(agent).await
    }
}
