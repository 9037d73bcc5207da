//! One connection of a step: understand, decide, dial, and carry bytes both ways.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use caisson_model::outcome::{EgressEntry, Verdict};
use caisson_model::policy::AddressRange;
use caisson_model::time::Timestamp;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::clock;
use crate::egress::dial::{self, Unreached};
use crate::egress::hello::{self, Greeting};
use crate::egress::ledger::Ledger;
use crate::egress::request::{self, Kind, Request, Unfit, unfit};
use crate::egress::rules::Allowed;
use crate::egress::service::{Guest, Scribe, Service, Visit};
use crate::egress::socks::{self, Reply};

/// The most connections that one step may have open at once; further ones are refused and recorded.
pub(super) const MAX_CONNECTIONS: usize = 256;

/// How long a client may take to say what it wants, and a TLS client to greet.
const PATIENCE: Duration = Duration::from_secs(10);
/// In how many pieces a request, or a greeting, may come. Each is looked at again with every piece, so this bounds the work.
const MAX_READS: usize = 512;
/// One buffer for each direction of a connection.
const BUFFER: usize = 64 * 1024;

/// The answer to a CONNECT that is granted.
const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// What serves a connection; a clone for each.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub allowed: Arc<Allowed>,
    pub ledger: Arc<Ledger>,
    pub closed: watch::Receiver<bool>,
}

/// Bytes carried so far.
#[derive(Debug, Default)]
struct Carried {
    sent: AtomicU64,
    received: AtomicU64,
}

/// Why a connection that was allowed was cut.
enum Cut {
    /// The TLS greeting does not fit the name that was asked for.
    Greeting(String),
}

/// The protocol in which a client hears an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Voice {
    Http,
    Socks,
}

/// An attempt as it stood when it was decided.
struct Attempt {
    at: Timestamp,
    host: String,
    port: u16,
}

impl Attempt {
    fn new(host: &str, port: u16) -> Attempt {
        Attempt { at: clock::now(), host: host.to_owned(), port }
    }

    fn entry(self, verdict: Verdict, rule: String, address: Option<String>, carried: &Carried) -> EgressEntry {
        let Attempt { at, host, port } = self;
        let count = |bytes: &AtomicU64| bytes.load(Ordering::Relaxed);
        let entry = EgressEntry::connection(at, &host, port, verdict, rule);
        EgressEntry { address, sent: count(&carried.sent), received: count(&carried.received), ..entry }
    }
}

impl Connection {
    /// Serves the connection until either side or the exit ends it. Records exactly one entry, but for a client that says nothing.
    pub(super) async fn serve(&self, mut client: TcpStream) {
        let mut closed = self.closed.clone();
        let mut voice = Voice::Http;
        let understood = tokio::select! {
            () = ended(&mut closed) => return,
            understood = timeout(PATIENCE, understand(&mut client, &mut voice)) => understood,
        };
        let (request, early) = match understood {
            Ok(Ok(Some(understood))) => understood,
            Ok(Ok(None)) => return,
            Ok(Err(unfit)) => {
                let (host, port) = unfit.target.unwrap_or_else(|| ("?".to_owned(), 0));
                return self.refuse(&mut client, voice, Attempt::new(&host, port), unfit.reason.to_owned(), None).await;
            }
            Err(_elapsed) => {
                let reason = "it did not say what it wants in time".to_owned();
                return self.refuse(&mut client, voice, Attempt::new("?", 0), reason, None).await;
            }
        };
        if let Some(service) = self.allowed.service(&request.host, request.port) {
            return self.visit(service, client, request, early).await;
        }
        let attempt = Attempt::new(&request.host, request.port);
        let permit = match self.allowed.permit(&request.host, request.port) {
            Ok(permit) => permit,
            Err(reason) => return self.refuse(&mut client, voice, attempt, reason, None).await,
        };
        let dialled = tokio::select! {
            () = ended(&mut closed) => {
                let rule = "the step ended first".to_owned();
                return self.ledger.record(attempt.entry(Verdict::Unreachable, rule, None, &Carried::default()));
            }
            dialled = dial::dial(&permit, &request.host, request.port) => dialled,
        };
        match dialled {
            Ok((server, address)) => self.carry(client, server, address, request, early, attempt, permit.rule).await,
            Err(Unreached::Forbidden { address, what }) => {
                let reason = format!("the name leads to {address}, {what}");
                self.refuse(&mut client, voice, attempt, reason, Some(address)).await;
            }
            Err(Unreached::Failed(error)) => {
                let text = format!("{}:{} cannot be reached: {error}", request.host, request.port);
                let rule = format!("{}: {error}", permit.rule);
                self.ledger.record(attempt.entry(Verdict::Unreachable, rule, None, &Carried::default()));
                self.tell(&mut client, voice, "502 Bad Gateway", Reply::Unreachable, &text).await;
            }
        }
    }

    /// Hands the connection to a server of the agent's own.
    async fn visit(&self, service: &Service, mut client: TcpStream, request: Request, mut early: Vec<u8>) {
        let granted = match request.kind {
            Kind::Connect => client.write_all(ESTABLISHED).await,
            Kind::Socks => client.write_all(&Reply::Granted.bytes()).await,
            Kind::Plain { head, .. } => {
                early.splice(0..0, head);
                Ok(())
            }
        };
        if granted.is_err() {
            return;
        }
        let scribe = Scribe { ledger: Arc::clone(&self.ledger), lineage: Vec::new() };
        let visit = Visit { stream: Guest::new(early, client), host: request.host, port: request.port, scribe };
        let mut closed = self.closed.clone();
        tokio::select! {
            () = ended(&mut closed) => {}
            () = (service.serve)(visit) => {}
        }
    }

    /// Refuses a connection beyond the limit, without reading from it.
    pub(super) fn turn_away(&self, client: TcpStream) {
        let reason = format!("more than {} connections at once", MAX_CONNECTIONS);
        // A client that cannot take a few bytes at once hears nothing.
        let _told = client.try_write(answer("503 Service Unavailable", &reason).as_bytes()).is_ok();
        self.ledger.record(Attempt::new("?", 0).entry(Verdict::Refused, reason, None, &Carried::default()));
    }

    async fn refuse(&self, client: &mut TcpStream, voice: Voice, attempt: Attempt, reason: String, address: Option<IpAddr>) {
        let (host, port) = (&attempt.host, attempt.port);
        let target = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let remedy = match address {
            Some(address) => format!("To allow it, add \"{}\" to `ranges` under [network] in the policy.", AddressRange::single(address)),
            None if port == 0 || self.allowed.permit(host, port).is_ok() => "No policy can allow that.".to_owned(),
            None => format!("To allow it, add \"{target}\" to `allow` in the policy, or pass `--allow {target}` to `caisson exec`."),
        };
        let text = format!("refused: this step may not reach {target}: {reason}\n{remedy}");
        let address = address.map(|address| address.to_string());
        self.ledger.record(attempt.entry(Verdict::Refused, reason, address, &Carried::default()));
        self.tell(client, voice, "403 Forbidden", Reply::NotAllowed, &text).await;
    }

    /// Sends a last answer, unless the exit closes first. What the client still sends is read for a moment, so that it sees the answer and no reset.
    async fn tell(&self, client: &mut TcpStream, voice: Voice, status: &str, reply: Reply, text: &str) {
        let bytes = match voice {
            Voice::Http => answer(status, text).into_bytes(),
            Voice::Socks => reply.bytes().to_vec(),
        };
        let mut closed = self.closed.clone();
        let telling = async {
            client.write_all(&bytes).await?;
            client.shutdown().await?;
            let mut rest = [0; 4096];
            let mut budget = 64;
            while budget > 0 && client.read(&mut rest).await? > 0 {
                budget -= 1;
            }
            io::Result::Ok(())
        };
        tokio::select! {
            () = ended(&mut closed) => {}
            told = timeout(PATIENCE, telling) => if let Ok(Err(error)) = told {
                tracing::debug!(%error, "a refused client did not hear why");
            },
        }
    }

    #[expect(clippy::too_many_arguments, reason = "both ends, what was asked, and what was decided: each is used once, here")]
    async fn carry(
        &self,
        client: TcpStream,
        server: TcpStream,
        address: SocketAddr,
        request: Request,
        early: Vec<u8>,
        attempt: Attempt,
        rule: String,
    ) {
        let carried = Carried::default();
        let mut closed = self.closed.clone();
        let done = tokio::select! {
            () = ended(&mut closed) => Ok(()),
            done = exchange(client, server, &request, early, &carried) => done,
        };
        let (verdict, rule) = match done {
            Err(Cut::Greeting(reason)) => (Verdict::Refused, reason),
            Ok(()) => (Verdict::Allowed, rule),
        };
        self.ledger.record(attempt.entry(verdict, rule, Some(address.to_string()), &carried));
    }
}

/// Resolves when the exit closes, or was dropped.
pub(super) async fn ended(closed: &mut watch::Receiver<bool>) {
    let _gone = closed.wait_for(|closed| *closed).await.is_err();
}

/// Reads until the request is whole. `None` when the client closed without a word; otherwise the request and what
/// the client sent after it. Sets `voice` as soon as it is known.
async fn understand(client: &mut TcpStream, voice: &mut Voice) -> Result<Option<(Request, Vec<u8>)>, Unfit> {
    let mut bytes = Vec::new();
    let mut welcomed = false;
    for _ in 0..MAX_READS {
        let mut buffer = [0; 4096];
        let read = client.read(&mut buffer).await.unwrap_or(0);
        if read == 0 {
            return if bytes.is_empty() && !welcomed { Ok(None) } else { Err(unfit("the request breaks off")) };
        }
        bytes.extend_from_slice(&buffer[..read]);
        if !welcomed && bytes.first() == Some(&socks::VERSION) {
            *voice = Voice::Socks;
            let Some(length) = socks::greeting(&bytes)? else { continue };
            bytes.drain(..length);
            client.write_all(&socks::WELCOME).await.map_err(|_| unfit("the SOCKS client went away"))?;
            welcomed = true;
        }
        let understood = if welcomed { socks::read(&bytes)? } else { request::read(&bytes)? };
        if let Some((request, length)) = understood {
            return Ok(Some((request, bytes.split_off(length))));
        }
        if bytes.len() > request::MAX_HEAD {
            return Err(unfit("the request's head is too large"));
        }
    }
    Err(unfit("the request comes in too many pieces"))
}

async fn exchange(mut client: TcpStream, server: TcpStream, request: &Request, early: Vec<u8>, carried: &Carried) -> Result<(), Cut> {
    for stream in [&client, &server] {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection keeps its delay");
        }
    }
    match &request.kind {
        Kind::Connect | Kind::Socks => {
            let granted: &[u8] = match request.kind {
                Kind::Socks => &Reply::Granted.bytes(),
                _ => ESTABLISHED,
            };
            if client.write_all(granted).await.is_err() {
                return Ok(());
            }
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            let upward = tunnel_up(from_client, to_server, early, &request.host, request.port, carried);
            let downward = pour(from_server, to_client, &carried.received);
            tokio::pin!(upward, downward);
            // A cut ends both directions at once; otherwise each ends by itself (half-close).
            tokio::select! {
                up = &mut upward => {
                    up?;
                    downward.await;
                }
                () = &mut downward => upward.await?,
            }
        }
        Kind::Plain { head, body } => {
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            let upward = send_request(from_client, to_server, head, early, *body, &carried.sent);
            let downward = pour(from_server, to_client, &carried.received);
            tokio::pin!(upward, downward);
            // The answer's end is the exchange's end, however much of the request was read.
            tokio::select! {
                biased;
                () = &mut downward => {}
                _open = &mut upward => downward.await,
            }
        }
    }
    Ok(())
}

/// Sends one plain request with exactly the body that it announced; nothing after it reaches the server. Answers with the
/// server's half, which stays open until the answer is read.
async fn send_request(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    head: &[u8],
    early: Vec<u8>,
    body: u64,
    sent: &AtomicU64,
) -> Option<OwnedWriteHalf> {
    to.write_all(head).await.ok()?;
    sent.fetch_add(head.len() as u64, Ordering::Relaxed);
    let mut left = body;
    let mut buffer = early;
    loop {
        let now = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        to.write_all(&buffer[..now]).await.ok()?;
        sent.fetch_add(now as u64, Ordering::Relaxed);
        left -= now as u64;
        if left == 0 {
            return Some(to);
        }
        buffer.resize(BUFFER, 0);
        let read = from.read(&mut buffer).await.ok().filter(|read| *read > 0)?;
        buffer.truncate(read);
    }
}

/// Carries the client's bytes of a tunnel, once its greeting was judged.
async fn tunnel_up(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    early: Vec<u8>,
    host: &str,
    port: u16,
    carried: &Carried,
) -> Result<(), Cut> {
    let mut first = early;
    let mut buffer = vec![0; BUFFER];
    let mut reads = 0;
    loop {
        match hello::read(&first) {
            Greeting::Incomplete => {}
            greeting => match judge(&greeting, host, port) {
                Ok(()) => break,
                Err(reason) => return Err(Cut::Greeting(reason)),
            },
        }
        reads += 1;
        if reads > MAX_READS {
            return Err(Cut::Greeting("its TLS greeting comes in too many pieces".to_owned()));
        }
        let read = if first.is_empty() && port != 443 {
            // On other ports the server may be the one who speaks first.
            from.read(&mut buffer).await
        } else {
            timeout(PATIENCE, from.read(&mut buffer)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        };
        match read {
            Ok(read) if read > 0 => first.extend_from_slice(&buffer[..read]),
            _ if first.is_empty() => {
                let _closed = to.shutdown().await;
                return Ok(());
            }
            _ => return Err(Cut::Greeting("its TLS greeting breaks off".to_owned())),
        }
    }
    if to.write_all(&first).await.is_ok() {
        carried.sent.fetch_add(first.len() as u64, Ordering::Relaxed);
        pour(from, to, &carried.sent).await;
    }
    Ok(())
}

/// Whether a tunnel to `host` and `port` may begin like this.
fn judge(greeting: &Greeting, host: &str, port: u16) -> Result<(), String> {
    let literal = host.parse::<IpAddr>().is_ok();
    match greeting {
        Greeting::Malformed => Err("its TLS greeting is malformed".to_owned()),
        Greeting::Tls { encrypted: true, .. } => {
            Err("its TLS greeting is encrypted, so that its server name cannot be compared".to_owned())
        }
        Greeting::Tls { name: Some(name), .. } if name.strip_suffix('.').unwrap_or(name) != host => {
            Err(format!("it asked for {host}, but its TLS greeting names {name}"))
        }
        Greeting::Tls { name: None, .. } if !literal => Err(format!("it asked for {host}, but its TLS greeting names no server")),
        Greeting::Other if port == 443 => Err("what it speaks on port 443 is not TLS".to_owned()),
        Greeting::Tls { .. } | Greeting::Other | Greeting::Incomplete => Ok(()),
    }
}

/// Carries bytes one way until the end, counts them, and passes the end on.
async fn pour(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, count: &AtomicU64) {
    let mut buffer = vec![0; BUFFER];
    while let Ok(read) = from.read(&mut buffer).await {
        if read == 0 || to.write_all(&buffer[..read]).await.is_err() {
            break;
        }
        count.fetch_add(read as u64, Ordering::Relaxed);
    }
    let _closed = to.shutdown().await;
}

fn answer(status: &str, text: &str) -> String {
    let body = format!("caisson: {text}\n");
    format!("HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}
