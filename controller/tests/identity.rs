//! Who may speak: real TLS over loopback, every hostile act with its control.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::future::Future;
use std::path::Path;
use std::time::{Duration, Instant};

use caisson_controller::identity::authority::Authority;
use caisson_controller::identity::registry::{Book, Registry, now};
use caisson_controller::identity::token::{Token, sha256};
use caisson_controller::listen::Listener;
use caisson_controller::service::{Options, Service};
use caisson_model::agent::{Hello, VersionRange};
use caisson_model::id::AgentName;
use caisson_model::lease::ControllerMessage;
use caisson_proto::api::{AgentApi, Answers, ApiError, ClientApi};
use caisson_proto::client::{Bearer, Client, Credentials};
use caisson_proto::fleet::{Certified, Enrolment, FleetApi, NewToken, TokenKind, TokenWish};
use caisson_proto::tls::{Identity, Tls};
use futures_util::StreamExt;
use rcgen::{CertificateParams, KeyPair};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// How long anything may take on a busy machine.
async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.unwrap_or_else(|_| panic!("{what} took too long"))
}

struct Place {
    _dir: tempfile::TempDir,
    registry: Registry,
    service: Service,
    url: String,
    _stop: tokio::sync::oneshot::Sender<()>,
}

async fn place(lifetime: Duration) -> Place {
    let dir = tempfile::tempdir().unwrap();
    let identity = dir.path().join("identity");
    Authority::create(&identity, now()).unwrap();
    let registry = Registry::open(identity, lifetime, Book::Beside).await.unwrap();
    let service = Service::open(Options::new(dir.path().join("data"))).await.unwrap();
    let address = "127.0.0.1:0".parse().unwrap();
    let listener = Listener::bind_tls(address, registry.clone(), &["127.0.0.1".to_owned()]).await.unwrap();
    let url = listener.url();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    drop(tokio::spawn(listener.serve(service.clone(), async move { drop(stopped.await) })));
    Place { _dir: dir, registry, service, url, _stop: stop }
}

impl Place {
    fn tls(&self, identity: Option<Identity>) -> Tls {
        Tls::of_pin(self.registry.authority().pin(), sha256, identity).unwrap()
    }

    async fn client(&self, identity: Option<Identity>, bearer: Option<&str>) -> Result<Client, ApiError> {
        let bearer = bearer.map(|text| Bearer(text.to_owned()));
        Client::connect_with(&self.url, Credentials { tls: Some(self.tls(identity)), bearer }).await
    }

    async fn join_token(&self, name: &str) -> NewToken {
        let wish = TokenWish {
            kind: TokenKind::Join,
            name: name.into(),
            pool: "default".into(),
            scopes: Vec::new(),
            lifetime: Duration::from_secs(600),
        };
        self.registry.create_token("test".into(), wish).await.unwrap()
    }

    async fn api_token(&self, scope: &str) -> NewToken {
        let wish = TokenWish {
            kind: TokenKind::Api,
            name: "ci".into(),
            pool: String::new(),
            scopes: vec![scope.into()],
            lifetime: Duration::from_secs(600),
        };
        self.registry.create_token("test".into(), wish).await.unwrap()
    }

    async fn join(&self, name: &str) -> (KeyPair, Certified) {
        let token = self.join_token("").await.token;
        let key = KeyPair::generate().unwrap();
        let stranger = self.client(None, None).await.unwrap();
        let certified = stranger.enroll(enrolment(&token, name, &key)).await.unwrap();
        (key, certified)
    }

    async fn agent(&self, name: &str) -> (Client, KeyPair, Certified) {
        let (key, certified) = self.join(name).await;
        let client = self.client(Some(identity(&certified, &key)), None).await.unwrap();
        (client, key, certified)
    }

    fn audit(&self) -> String {
        audit(self._dir.path())
    }
}

fn audit(dir: &Path) -> String {
    let connection = rusqlite::Connection::open(dir.join("identity/identity.sqlite")).unwrap();
    let mut rows = connection.prepare("SELECT entry FROM identity ORDER BY number").unwrap();
    let rows = rows.query_map([], |row| row.get::<_, String>(0)).unwrap();
    rows.map(Result::unwrap).collect::<Vec<_>>().join("\n")
}

/// What is written down by and by.
async fn audited(place: &Place, text: &str) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !place.audit().contains(text) {
        assert!(Instant::now() < deadline, "{text} is not in\n{}", place.audit());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn request(key: &KeyPair) -> Vec<u8> {
    // The names of a request count for nothing.
    CertificateParams::new(vec!["other-agent".to_owned()]).unwrap().serialize_request(key).unwrap().der().to_vec()
}

fn enrolment(token: &str, name: &str, key: &KeyPair) -> Enrolment {
    Enrolment { token: token.to_owned(), agent: AgentName(name.to_owned()), request: request(key), facts: Vec::new() }
}

fn identity(certified: &Certified, key: &KeyPair) -> Identity {
    Identity::new(certified.certificate.clone(), &key.serialize_pem()).unwrap()
}

fn hello(name: &str) -> Hello {
    Hello {
        agent: AgentName(name.to_owned()),
        versions: VersionRange::SPOKEN,
        slots: 1,
        labels: vec!["ubuntu-latest".into(), "pool:secret".into()],
        enforces: Vec::new(),
        memory_bytes: 0,
        cpu_milli: 0,
        running: Vec::new(),
    }
}

async fn session(client: &Client, name: &str) -> Result<Answers<ControllerMessage>, ApiError> {
    client.session(hello(name), Box::pin(futures_util::stream::pending())).await
}

fn denied<T>(result: Result<T, ApiError>) -> String {
    match result.map(drop) {
        Err(ApiError::Denied(text)) => text,
        other => panic!("not denied: {other:?}"),
    }
}

/// That a client's connection is refused at the handshake or at its first call.
async fn refused(place: &Place, identity: Identity) -> String {
    match place.client(Some(identity), None).await {
        Err(error) => error.to_string(),
        Ok(client) => session(&client, "a").await.map(drop).unwrap_err().to_string(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_joins_once_per_token_and_speaks_for_itself_only() {
    let place = place(DAY).await;
    let token = place.join_token("").await.token;
    let key = KeyPair::generate().unwrap();
    let stranger = place.client(None, None).await.unwrap();
    // Without a certificate there is nothing but joining.
    denied(session(&stranger, "a").await);
    denied(stranger.list_runs(1).await);
    let certified = stranger.enroll(enrolment(&token, "a", &key)).await.unwrap();
    assert_eq!((certified.agent.0.as_str(), certified.pool.as_str()), ("a", "default"));
    let parsed = x509_parser::parse_x509_certificate(&certified.certificate).unwrap().1;
    let names = format!("{:?}", parsed.subject_alternative_name().unwrap().unwrap().value.general_names);
    assert!(names.contains("spiffe://caisson/pool/default/agent/a") && !names.contains("other-agent"), "{names}");
    // The token is used up, and the attempt is on record.
    let replay = stranger.enroll(enrolment(&token, "b", &KeyPair::generate().unwrap())).await;
    assert!(matches!(&replay, Err(ApiError::Spent(text)) if text.contains("used by agent a")), "{replay:?}");
    audited(&place, "already used: join token").await;
    assert!(!place.audit().contains(token.split('.').nth(2).unwrap()), "the secret is nowhere");
    // The control: with its certificate the agent opens its session, and nobody else's.
    let agent = place.client(Some(identity(&certified, &key)), None).await.unwrap();
    let mut answers = in_time("the welcome", session(&agent, "a")).await.unwrap();
    assert!(matches!(in_time("the welcome", answers.next()).await, Some(Ok(ControllerMessage::Welcome { .. }))));
    assert!(denied(session(&agent, "b").await).contains("the certificate is agent a's"));
    audited(&place, "and not agent b's").await;
    denied(agent.list_runs(1).await);
    denied(agent.list_tokens().await);
    // A name that is taken is not given to whoever asks for it.
    let taken = stranger.enroll(enrolment(&place.join_token("").await.token, "a", &KeyPair::generate().unwrap())).await;
    assert!(denied(taken).contains("there is an agent a already"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_belongs_to_the_agent_that_holds_it() {
    let place = place(DAY).await;
    let (one, ..) = place.agent("one").await;
    let (two, ..) = place.agent("two").await;
    let token = place.api_token("submit").await.token;
    let client = place.client(None, Some(&token)).await.unwrap();
    let (messages, outgoing) = tokio::sync::mpsc::channel(8);
    let outgoing = Box::pin(tokio_stream::wrappers::ReceiverStream::new(outgoing));
    let mut answers = one.session(hello("one"), outgoing).await.unwrap();
    let text = "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - run: 'true'\n";
    let submission = caisson_model::run::Submission {
        file: "t.yml".into(),
        text: text.into(),
        event: "push".into(),
        github: serde_json::json!({}),
        ..Default::default()
    };
    client.submit(submission).await.unwrap();
    let hold = loop {
        match in_time("a message", answers.next()).await.unwrap().unwrap() {
            ControllerMessage::Offer { hold, .. } => {
                messages.send(caisson_model::lease::AgentMessage::Accept(hold)).await.unwrap();
            }
            ControllerMessage::Start(hold) => break hold,
            _ => {}
        }
    };
    // It knows attempt and fence, and is not the one.
    assert!(denied(two.fetch_spec(hold).await).contains("is not agent two's"));
    denied(two.open_secrets(hold, caisson_model::id::StepIndex(0)).await);
    denied(two.return_attempt(hold, "mine".into()).await);
    let chunk = caisson_model::log::LogChunk { offset: 0, at: now(), bytes: b"forged\n".to_vec() };
    let push = caisson_model::log::LogPush { hold, step: caisson_model::id::StepIndex(0), chunk };
    let mut acks = two.push_log(Box::pin(futures_util::stream::iter([push]))).await.unwrap();
    denied(in_time("the refusal", acks.next()).await.unwrap());
    audited(&place, "is not agent two's").await;
    // The control.
    assert_eq!(one.fetch_spec(hold).await.unwrap().name, "a");
    place.service.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_agent_is_off_within_a_second() {
    let place = place(DAY).await;
    let (agent, key, certified) = place.agent("a").await;
    let (other, ..) = place.agent("b").await;
    let mut answers = session(&agent, "a").await.unwrap();
    let mut others = session(&other, "b").await.unwrap();
    for answers in [&mut answers, &mut others] {
        assert!(matches!(in_time("the welcome", answers.next()).await, Some(Ok(ControllerMessage::Welcome { .. }))));
    }
    // By another process, which only writes it down: `caisson agents revoke` beside a running controller.
    let elsewhere = Registry::open(place._dir.path().join("identity"), DAY, Book::AsNoted).await.unwrap();
    elsewhere.revoke_agent("test".into(), AgentName("a".into()), "lost laptop".into()).await.unwrap();
    let since = Instant::now();
    while let Some(Ok(_)) = in_time("the end of the stream", answers.next()).await {}
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    // Neither on a new connection, which fails at the handshake, nor on the old one.
    for _ in 0..20 {
        let why = refused(&place, identity(&certified, &key)).await;
        assert!(why.contains("CertificateRevoked"), "{why}");
    }
    assert!(agent.fetch_spec(hold_of_nobody()).await.is_err());
    audited(&place, "lost laptop").await;
    // The control: another agent's stream goes on.
    assert!(tokio::time::timeout(Duration::from_millis(300), others.next()).await.is_err());
}

fn hold_of_nobody() -> caisson_model::id::Hold {
    let job = caisson_model::id::JobId { run: caisson_model::id::RunId(1), index: 1 };
    let attempt = caisson_model::id::AttemptId { job, number: 1 };
    caisson_model::id::Hold { attempt, fence: caisson_model::id::Fence(1) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_and_foreign_certificates_do_not_count() {
    let short = place(Duration::from_secs(3)).await;
    let (agent, key, certified) = short.agent("a").await;
    let mut answers = session(&agent, "a").await.unwrap();
    assert!(matches!(in_time("the welcome", answers.next()).await, Some(Ok(_))));
    // On the live stream.
    while let Some(Ok(_)) = in_time("the end of the stream", answers.next()).await {}
    assert!(now() >= certified.ends);
    refused(&short, identity(&certified, &key)).await;
    // Of another authority: neither side believes the other.
    let other = place(DAY).await;
    let (foreign_key, foreign) = other.join("a").await;
    let refusal = refused(&short, identity(&foreign, &foreign_key)).await;
    assert!(!refusal.is_empty());
    let pinned = Tls::of_pin(other.registry.authority().pin(), sha256, None).unwrap();
    let strange = Client::connect_with(&short.url, Credentials { tls: Some(pinned), bearer: None }).await;
    denied(strange);
    // The control: the same pair where it belongs.
    let home = other.client(Some(identity(&foreign, &foreign_key)), None).await.unwrap();
    drop(session(&home, "a").await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_renewed_and_copies_betray_themselves() {
    let place = place(DAY).await;
    let (agent, key, first) = place.agent("a").await;
    let new_key = KeyPair::generate().unwrap();
    let second = agent.renew_certificate(request(&new_key)).await.unwrap();
    // The answer was lost: the same key gets the same generation once more.
    let again = agent.renew_certificate(request(&new_key)).await.unwrap();
    assert_ne!(second.certificate, again.certificate);
    assert_eq!(place.registry.roll().members()[0].generation, 2);
    // While the new one was not seen, the old one still opens connections.
    let still = place.client(Some(identity(&first, &key)), None).await.unwrap();
    drop(session(&still, "a").await.unwrap());
    let renewed = place.client(Some(identity(&again, &new_key)), None).await.unwrap();
    let mut answers = session(&renewed, "a").await.unwrap();
    assert!(matches!(in_time("the welcome", answers.next()).await, Some(Ok(_))));
    audited(&place, "\"confirmed\"").await;
    // Now somebody comes with the old one: there are two who have the agent's identity, and both are locked out.
    refused(&place, identity(&first, &key)).await;
    audited(&place, "generation 1 was presented after generation 2").await;
    while let Some(Ok(_)) = in_time("the end of the stream", answers.next()).await {}
    refused(&place, identity(&again, &new_key)).await;
    // A copy that renews first is found when the agent itself renews.
    let (agent, key, certified) = place.agent("b").await;
    let copy = place.client(Some(identity(&certified, &key)), None).await.unwrap();
    copy.renew_certificate(request(&KeyPair::generate().unwrap())).await.unwrap();
    denied(agent.renew_certificate(request(&KeyPair::generate().unwrap())).await);
    audited(&place, "renewed a second time").await;
    assert!(!place.registry.roll().is_member(&AgentName("b".into())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api_tokens_allow_what_their_scope_says_until_they_are_revoked() {
    let place = place(DAY).await;
    let (read, submit, admin) = (place.api_token("read").await, place.api_token("submit").await, place.api_token("admin").await);
    let reader = place.client(None, Some(&read.token)).await.unwrap();
    let submitter = place.client(None, Some(&submit.token)).await.unwrap();
    let administrator = place.client(None, Some(&admin.token)).await.unwrap();
    for client in [&reader, &submitter, &administrator] {
        client.list_runs(1).await.unwrap();
        denied(session(client, "a").await);
        denied(client.enroll(enrolment(&admin.token, "a", &KeyPair::generate().unwrap())).await);
    }
    assert!(denied(reader.cancel(caisson_model::id::RunId(1)).await).contains("scope submit"));
    assert!(matches!(submitter.cancel(caisson_model::id::RunId(1)).await, Err(ApiError::NotFound(_))));
    denied(submitter.list_tokens().await);
    assert_eq!(administrator.list_tokens().await.unwrap().len(), 3);
    let files = walkdir(place._dir.path());
    for token in [&read, &submit, &admin] {
        let secret = token.token.split('.').nth(2).unwrap().as_bytes();
        assert!(!files.iter().any(|bytes| bytes.windows(secret.len()).any(|window| window == secret)), "hashed at rest");
    }
    administrator.revoke_token(read.view.id.clone()).await.unwrap();
    assert!(denied(reader.list_runs(1).await).contains("was revoked"));
    submitter.list_runs(1).await.unwrap();
    // One that was changed, one of another controller, and a join token are none.
    let other = Token::new(TokenKind::Api, place.registry.authority().pin()).unwrap().text();
    for wrong in [other, place.join_token("").await.token, "nonsense".to_owned()] {
        denied(place.client(None, Some(&wrong)).await.unwrap().list_runs(1).await);
    }
    let long =
        TokenWish { kind: TokenKind::Join, name: String::new(), pool: "p".into(), scopes: Vec::new(), lifetime: Duration::from_secs(901) };
    assert!(matches!(administrator.create_token(long).await, Err(ApiError::Invalid(text)) if text.contains("at most 15 minutes")));
}

fn walkdir(path: &Path) -> Vec<Vec<u8>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(walkdir(&path)) } else { files.push(std::fs::read(path).unwrap()) }
    }
    files
}
