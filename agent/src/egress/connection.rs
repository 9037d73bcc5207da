//! One connection of a step: understand, decide, dial, and carry bytes both ways.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use caisson_model::outcome::{EgressEntry, Verdict};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::egress::dial::{self, Unreached};
use crate::egress::ended;
use crate::egress::hello::{self, Greeting};
use crate::egress::ledger::{Ledger, now};
use crate::egress::request::{self, Kind, Request, Unfit};
use crate::egress::rules::Allowed;

/// How long a client may take to say what it wants, and a TLS client to greet.
const PATIENCE: Duration = Duration::from_secs(10);
/// One buffer for each direction of a connection.
const BUFFER: usize = 64 * 1024;

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

impl Connection {
    /// Serves the connection until either side or the exit ends it. Records exactly one entry, but for a client that says nothing.
    pub(super) async fn serve(&self, mut client: TcpStream) {
        let mut closed = self.closed.clone();
        let understood = tokio::select! {
            () = ended(&mut closed) => return,
            understood = timeout(PATIENCE, understand(&mut client)) => understood,
        };
        let (request, early) = match understood {
            Ok(Ok(Some(understood))) => understood,
            Ok(Ok(None)) => return,
            Ok(Err(unfit)) => {
                let (host, port) = unfit.target.unwrap_or_else(|| ("?".to_owned(), 0));
                return self.refuse(&mut client, &host, port, unfit.reason.to_owned(), None).await;
            }
            Err(_) => {
                return self.refuse(&mut client, "?", 0, "it did not say what it wants in time".to_owned(), None).await;
            }
        };
        let permit = match self.allowed.permit(&request.host, request.port) {
            Ok(permit) => permit,
            Err(reason) => return self.refuse(&mut client, &request.host, request.port, reason, None).await,
        };
        let dialled = tokio::select! {
            () = ended(&mut closed) => return self.record(&request, Verdict::Unreachable, "the step ended first".to_owned(), None, &Carried::default()),
            dialled = dial::dial(&permit, &request.host, request.port) => dialled,
        };
        match dialled {
            Ok((server, address)) => self.carry(client, server, address, request, early, permit.rule).await,
            Err(Unreached::Forbidden { address, what }) => {
                let reason = format!("the name leads to {address}, {what}; a policy can allow the range by name");
                self.refuse(&mut client, &request.host, request.port, reason, Some(address.to_string())).await;
            }
            Err(Unreached::Failed(error)) => {
                let told = answer("502 Bad Gateway", &format!("{}:{} cannot be reached: {error}", request.host, request.port));
                self.record(&request, Verdict::Unreachable, format!("{}: {error}", permit.rule), None, &Carried::default());
                tell(&mut client, &told).await;
            }
        }
    }

    /// Refuses a connection beyond the limit, without reading from it.
    pub(super) fn turn_away(&self, client: TcpStream) {
        drop(client);
        let rule = format!("more than {} connections at once", crate::egress::MAX_CONNECTIONS);
        self.ledger.record(EgressEntry {
            at: now(),
            host: "?".into(),
            port: 0,
            verdict: Verdict::Refused,
            rule,
            address: None,
            sent: 0,
            received: 0,
        });
    }

    async fn refuse(&self, client: &mut TcpStream, host: &str, port: u16, reason: String, address: Option<String>) {
        let text = format!(
            "refused: this step may not reach {host}:{port}: {reason}\nTo allow it, add \"{host}:{port}\" to `allow` in the policy, or pass `--allow {host}:{port}` to `caisson exec`."
        );
        self.ledger.record(EgressEntry {
            at: now(),
            host: host.to_owned(),
            port,
            verdict: Verdict::Refused,
            rule: reason,
            address,
            sent: 0,
            received: 0,
        });
        tell(client, &answer("403 Forbidden", &text)).await;
    }

    fn record(&self, request: &Request, verdict: Verdict, rule: String, address: Option<SocketAddr>, carried: &Carried) {
        self.ledger.record(EgressEntry {
            at: now(),
            host: request.host.clone(),
            port: request.port,
            verdict,
            rule,
            address: address.map(|address| address.to_string()),
            sent: carried.sent.load(Ordering::Relaxed),
            received: carried.received.load(Ordering::Relaxed),
        });
    }

    async fn carry(&self, client: TcpStream, server: TcpStream, address: SocketAddr, request: Request, early: Vec<u8>, rule: String) {
        let carried = Carried::default();
        let mut closed = self.closed.clone();
        let done = tokio::select! {
            () = ended(&mut closed) => Ok(()),
            done = exchange(client, server, &request, early, &carried) => done,
        };
        match done {
            Err(Cut::Greeting(reason)) => self.record(&request, Verdict::Refused, reason, Some(address), &carried),
            Ok(()) => self.record(&request, Verdict::Allowed, rule, Some(address), &carried),
        }
    }
}

/// Reads until the request's head is whole. `None` when the client closed without a word; otherwise the request and what
/// the client sent after its head.
async fn understand(client: &mut TcpStream) -> Result<Option<(Request, Vec<u8>)>, Unfit> {
    let mut bytes = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let read = client.read(&mut buffer).await.unwrap_or(0);
        if read == 0 {
            return if bytes.is_empty() { Ok(None) } else { Err(Unfit { reason: "the request breaks off", target: None }) };
        }
        bytes.extend_from_slice(&buffer[..read]);
        if let Some((request, head)) = request::read(&bytes)? {
            return Ok(Some((request, bytes.split_off(head))));
        }
        if bytes.len() > request::MAX_HEAD {
            return Err(Unfit { reason: "the request's head is too large", target: None });
        }
    }
}

async fn exchange(mut client: TcpStream, server: TcpStream, request: &Request, early: Vec<u8>, carried: &Carried) -> Result<(), Cut> {
    for stream in [&client, &server] {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection keeps its delay");
        }
    }
    match &request.kind {
        Kind::Connect => {
            if client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.is_err() {
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
    loop {
        match hello::read(&first) {
            Greeting::Incomplete => {}
            greeting => match judge(&greeting, host, port) {
                Ok(()) => break,
                Err(reason) => return Err(Cut::Greeting(reason)),
            },
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
    let literal = host.parse::<std::net::IpAddr>().is_ok();
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

/// Sends a last answer. What the client still sends is read for a moment, so that it sees the answer and no reset.
async fn tell(client: &mut TcpStream, text: &str) {
    let sent = timeout(PATIENCE, async {
        client.write_all(text.as_bytes()).await?;
        client.shutdown().await?;
        let mut rest = [0; 4096];
        let mut budget = 64;
        while budget > 0 && client.read(&mut rest).await? > 0 {
            budget -= 1;
        }
        io::Result::Ok(())
    });
    if let Ok(Err(error)) = sent.await {
        tracing::debug!(%error, "a refused client did not hear why");
    }
}
