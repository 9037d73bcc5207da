//! One connection of a step: understand, decide, dial, and write down what became of it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use caisson_model::outcome::{EgressEntry, EgressPhase, Process, Verdict};
use caisson_model::policy::AddressRange;
use caisson_model::time::Timestamp;
use nix::sys::socket::sockopt::{Ip6tOriginalDst, Linger, OriginalDst};
use nix::sys::socket::{getsockopt, setsockopt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::clock;
use crate::egress::border::Border;
use crate::egress::dial::{self, Unreached};
use crate::egress::lineage::{Finder, Table};
use crate::egress::request::{self, Kind, Request, Unfit, unfit};
use crate::egress::service::{Guest, Scribe, Service, Visit};
use crate::egress::socks::{self, Reply};
use crate::egress::tunnel::{Carried, Tunnel};

/// How long a client may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);
/// In how many pieces a request may come. Each is looked at again with every piece, so this bounds the work.
const MAX_READS: usize = 512;
/// How long a refusal waits for the process that asked to be found, and the end of a connection whose process was seen when it was made.
const FINDING: Duration = Duration::from_millis(200);
const RECALLING: Duration = Duration::from_secs(5);

/// How long a connection that stands is held back for the same.
const HURRY: Duration = Duration::from_millis(2);

/// How long a connection must stand to be told of before it ends.
const STANDING: Duration = Duration::from_millis(250);

/// The answer to a CONNECT that is granted.
const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// What serves a connection; a clone for each.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub border: Border,
    pub closed: watch::Receiver<bool>,
}

/// The protocol in which a client hears an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Voice {
    Http,
    Socks,
    /// It does not know that there is an exit: its connection is reset.
    None,
}

/// An attempt as it stood when it was decided.
struct Attempt {
    at: Timestamp,
    host: String,
    port: u16,
    lineage: Lineage,
}

/// The process that asked.
struct Lineage {
    known: Vec<Process>,
    /// Where to ask, until it is known.
    asking: Asking,
}

enum Asking {
    /// It was seen when it connected, and can be asked for whenever it is needed.
    Later(Finder, SocketAddr, SocketAddr),
    /// It is being looked for, before it is gone.
    Now(JoinHandle<Vec<Process>>),
    Over,
}

impl Lineage {
    fn of(finder: &Finder, peer: SocketAddr, remote: Option<SocketAddr>) -> Lineage {
        let asking = match remote {
            Some(remote) if finder.remembers() => Asking::Later(finder.clone(), peer, remote),
            Some(remote) => {
                let finder = finder.clone();
                Asking::Now(tokio::spawn(async move { finder.find(Table::Tcp, peer, remote).await }))
            }
            None => Asking::Over,
        };
        Lineage { known: Vec::new(), asking }
    }

    /// Waits for it as long as a connection may be held back: a program that asks once and ends is gone after its answer.
    async fn hurry(&mut self) {
        if let Asking::Now(finding) = &mut self.asking
            && let Ok(found) = timeout(HURRY, finding).await
        {
            self.known = found.unwrap_or_default();
            self.asking = Asking::Over;
        }
    }

    async fn found(&mut self) -> Vec<Process> {
        match &mut self.asking {
            Asking::Later(finder, peer, remote) => {
                self.known = timeout(RECALLING, finder.find(Table::Tcp, *peer, *remote)).await.unwrap_or_default();
            }
            Asking::Now(finding) => self.known = timeout(FINDING, finding).await.ok().and_then(Result::ok).unwrap_or_default(),
            Asking::Over => {}
        }
        self.asking = Asking::Over;
        self.known.clone()
    }
}

impl Attempt {
    fn entry(&self, verdict: Verdict, rule: String, address: Option<String>, carried: &Carried) -> EgressEntry {
        let count = |bytes: &AtomicU64| bytes.load(Ordering::Relaxed);
        let entry = EgressEntry::connection(self.at, &self.host, self.port, verdict, rule);
        let lineage = self.lineage.known.clone();
        EgressEntry { address, sent: count(&carried.sent), received: count(&carried.received), lineage, ..entry }
    }
}

/// What a captured connection was made to.
enum Aim {
    /// The listener itself: a client that knows proxies.
    Proxy,
    /// A name, by its address inside.
    Name(String, u16),
    /// An address that stands for no name.
    Literal(SocketAddr),
}

impl Connection {
    /// Serves the connection until either side or the exit ends it. Records exactly one entry, but for a client that says nothing.
    pub(super) async fn serve(&self, client: TcpStream, peer: SocketAddr) {
        let (aim, remote) = self.aim(&client);
        let lineage = Lineage::of(&self.border.finder, peer, remote);
        match aim {
            Aim::Proxy => self.proxied(client, lineage).await,
            Aim::Name(host, port) => self.go(client, Voice::None, Request { host, port, kind: Kind::Connect }, Vec::new(), lineage).await,
            Aim::Literal(address) => {
                let request = Request { host: address.ip().to_canonical().to_string(), port: address.port(), kind: Kind::Connect };
                self.go(client, Voice::None, request, Vec::new(), lineage).await;
            }
        }
    }

    /// Where the client wanted to go, as the kernel remembers it; also as an address.
    fn aim(&self, client: &TcpStream) -> (Aim, Option<SocketAddr>) {
        let Ok(here) = client.local_addr() else { return (Aim::Proxy, None) };
        let original = match here {
            SocketAddr::V4(_) => getsockopt(client, OriginalDst)
                .map(|address| SocketAddr::from((Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr)), u16::from_be(address.sin_port)))),
            SocketAddr::V6(_) => getsockopt(client, Ip6tOriginalDst)
                .map(|address| SocketAddr::from((Ipv6Addr::from(address.sin6_addr.s6_addr), u16::from_be(address.sin6_port)))),
        };
        let aim = match original {
            // Nothing was changed on its way.
            Err(_) => Aim::Proxy,
            Ok(address) if address == here => Aim::Proxy,
            Ok(address) => match self.border.names.name(address.ip()) {
                Some(name) => Aim::Name(name, address.port()),
                // Loopback is the step's own but for what policy names, by one name or the other.
                None if address.ip().is_loopback() && self.border.allowed.permit(&address.ip().to_string(), address.port()).is_err() => {
                    Aim::Name("localhost".to_owned(), address.port())
                }
                None => Aim::Literal(address),
            },
        };
        (aim, Some(original.unwrap_or(here)))
    }

    async fn proxied(&self, mut client: TcpStream, lineage: Lineage) {
        let mut closed = self.closed.clone();
        let mut voice = Voice::Http;
        let understood = tokio::select! {
            () = ended(&mut closed) => return,
            understood = timeout(PATIENCE, understand(&mut client, &mut voice)) => understood,
        };
        let unknown = |lineage| Attempt { at: clock::now(), host: "?".to_owned(), port: 0, lineage };
        match understood {
            Ok(Ok(Some((request, early)))) => self.go(client, voice, request, early, lineage).await,
            Ok(Ok(None)) => {}
            Ok(Err(unfit)) => {
                let (host, port) = unfit.target.unwrap_or_else(|| ("?".to_owned(), 0));
                self.refuse(&mut client, voice, Attempt { host, port, ..unknown(lineage) }, unfit.reason.to_owned(), None).await;
            }
            Err(_elapsed) => {
                let reason = "it did not say what it wants in time".to_owned();
                self.refuse(&mut client, voice, unknown(lineage), reason, None).await;
            }
        }
    }

    /// From what is wanted to the end of it.
    async fn go(&self, mut client: TcpStream, voice: Voice, request: Request, early: Vec<u8>, lineage: Lineage) {
        let border = &self.border;
        let mut attempt = Attempt { at: clock::now(), host: request.host.clone(), port: request.port, lineage };
        if let Some(service) = border.allowed.service(&request.host, request.port) {
            return self.visit(service, client, voice, request, early, attempt).await;
        }
        let permit = match border.allowed.permit(&request.host, request.port) {
            Ok(permit) => permit,
            Err(reason) => return self.refuse(&mut client, voice, attempt, reason, None).await,
        };
        let mut closed = self.closed.clone();
        let dialled = tokio::select! {
            () = ended(&mut closed) => {
                let rule = "the step ended first".to_owned();
                return border.ledger.record(attempt.entry(Verdict::Unreachable, rule, None, &Carried::default()));
            }
            dialled = dial::dial(&permit, &border.pins, &request.host, request.port) => dialled,
        };
        match dialled {
            Ok((server, address)) => self.carry(client, voice, server, address, request, early, attempt, permit.rule).await,
            Err(Unreached::Forbidden { address, what }) => {
                let reason = format!("the name leads to {address}, {what}");
                self.refuse(&mut client, voice, attempt, reason, Some(address)).await;
            }
            Err(Unreached::Failed(error)) => {
                let text = format!("{}:{} cannot be reached: {error}", request.host, request.port);
                let rule = format!("{}: {error}", permit.rule);
                attempt.lineage.found().await;
                border.ledger.record(attempt.entry(Verdict::Unreachable, rule, None, &Carried::default()));
                self.tell(&mut client, voice, "502 Bad Gateway", Reply::Unreachable, &text).await;
            }
        }
    }

    /// Hands the connection to a server of the agent's own.
    async fn visit(
        &self,
        service: &Service,
        mut client: TcpStream,
        voice: Voice,
        request: Request,
        mut early: Vec<u8>,
        mut attempt: Attempt,
    ) {
        let granted = match (voice, request.kind) {
            (_, Kind::Plain { head, .. }) => {
                early.splice(0..0, head);
                Ok(())
            }
            (Voice::None, _) => Ok(()),
            (Voice::Socks, _) => client.write_all(&Reply::Granted.bytes()).await,
            (Voice::Http, _) => client.write_all(ESTABLISHED).await,
        };
        if granted.is_err() {
            return;
        }
        let (ledger, finder) = (Arc::clone(&self.border.ledger), self.border.finder.clone());
        let scribe = Scribe { ledger, finder, lineage: attempt.lineage.found().await };
        let visit = Visit { stream: Guest::new(early, client), host: request.host, port: request.port, scribe };
        let mut closed = self.closed.clone();
        tokio::select! {
            () = ended(&mut closed) => {}
            () = (service.serve)(visit) => {}
        }
    }

    /// Refuses a connection beyond the limit, without reading from it.
    pub(super) async fn turn_away(&self, client: TcpStream, peer: SocketAddr, most: usize) {
        let reason = format!("more than {most} connections at once");
        let (aim, remote) = self.aim(&client);
        let mut lineage = Lineage::of(&self.border.finder, peer, remote);
        let (host, port, voice) = match aim {
            Aim::Proxy => ("?".to_owned(), 0, Voice::Http),
            Aim::Name(host, port) => (host, port, Voice::None),
            Aim::Literal(address) => (address.ip().to_string(), address.port(), Voice::None),
        };
        match voice {
            Voice::None => reset(&client),
            // A client that cannot take a few bytes at once hears nothing.
            _ => drop(client.try_write(answer("503 Service Unavailable", &reason).as_bytes())),
        }
        drop(client);
        let at = clock::now();
        // Whoever was refused need not wait until it is known who it was.
        let lineage = lineage.found().await;
        self.border.ledger.record(EgressEntry { lineage, ..EgressEntry::connection(at, &host, port, Verdict::Refused, reason) });
    }

    async fn refuse(&self, client: &mut TcpStream, voice: Voice, mut attempt: Attempt, reason: String, address: Option<IpAddr>) {
        let (host, port) = (&attempt.host, attempt.port);
        let target = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let remedy = match address {
            Some(address) => format!("To allow it, add \"{}\" to `ranges` under [network] in the policy.", AddressRange::single(address)),
            None if port == 0 || self.border.allowed.permit(host, port).is_ok() => "No policy can allow that.".to_owned(),
            None => format!("To allow it, add \"{target}\" to `allow` in the policy, or pass `--allow {target}` to `caisson exec`."),
        };
        let text = format!("refused: this step may not reach {target}: {reason}\n{remedy}");
        let address = address.map(|address| address.to_string());
        attempt.lineage.found().await;
        self.border.ledger.record(attempt.entry(Verdict::Refused, reason, address, &Carried::default()));
        self.tell(client, voice, "403 Forbidden", Reply::NotAllowed, &text).await;
    }

    /// Sends a last answer, unless the exit closes first. What the client still sends is read for a moment, so that it sees the answer and no reset.
    async fn tell(&self, client: &mut TcpStream, voice: Voice, status: &str, reply: Reply, text: &str) {
        let bytes = match voice {
            Voice::Http => answer(status, text).into_bytes(),
            Voice::Socks => reply.bytes().to_vec(),
            Voice::None => return reset(client),
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
        mut client: TcpStream,
        voice: Voice,
        server: TcpStream,
        address: SocketAddr,
        request: Request,
        early: Vec<u8>,
        mut attempt: Attempt,
        rule: String,
    ) {
        let carried = Carried::default();
        let mut closed = self.closed.clone();
        let Request { host, port, kind } = request;
        let address = Some(address.to_string());
        attempt.lineage.hurry().await;
        let passing = async {
            let granted = match (&kind, voice) {
                (Kind::Plain { .. }, _) | (_, Voice::None) => Ok(()),
                (_, Voice::Socks) => client.write_all(&Reply::Granted.bytes()).await,
                (_, Voice::Http) => client.write_all(ESTABLISHED).await,
            };
            if granted.is_err() {
                return Ok(());
            }
            let tunnel = Tunnel { client: &client, server: &server, host: &host, port, carried: &carried, meter: &self.border.meter };
            match &kind {
                Kind::Plain { head, body } => tunnel.request(head, *body, early).await,
                Kind::Connect | Kind::Socks => tunnel.run(early).await,
            }
        };
        // Told beside the bytes, which do not wait for it; what is over at once is told once.
        let opening = async {
            tokio::time::sleep(STANDING).await;
            attempt.lineage.found().await;
            let entry = attempt.entry(Verdict::Allowed, rule.clone(), address.clone(), &carried);
            self.border.ledger.tell(&EgressEntry { phase: EgressPhase::Open, ..entry });
            std::future::pending::<()>().await;
        };
        let done = tokio::select! {
            () = ended(&mut closed) => Ok(()),
            done = passing => done,
            () = opening => Ok(()),
        };
        attempt.lineage.found().await;
        let (verdict, rule) = match done {
            Err(cut) => {
                reset(&client);
                (Verdict::Refused, cut.to_string())
            }
            Ok(()) => (Verdict::Allowed, rule),
        };
        self.border.ledger.record(attempt.entry(verdict, rule, address, &carried));
    }
}

/// Lets a connection end with a reset when it is dropped: a client that knows nothing of the exit sees that it was refused.
fn reset(client: &TcpStream) {
    let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    if let Err(error) = setsockopt(client, Linger, &linger) {
        tracing::debug!(%error, "a connection cannot be reset");
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

fn answer(status: &str, text: &str) -> String {
    let body = format!("caisson: {text}\n");
    format!("HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}
