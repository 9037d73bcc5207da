//! What passes between a step and a server once both stand: the first words are held against the name that was allowed, then bytes
//! pass both ways.

use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::egress::border::{Meter, Spent};
use crate::egress::first::{self, First};
use crate::egress::hello::Greeting;
use crate::egress::pour::{pour, read, write};
use crate::egress::request::{self, Kind};

/// How long a client may take for its first words once it has begun, and on port 443 to begin.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the beginning of a usual request is held back for the rest of its first line. What comes more slowly is passed on, and cut if it
/// becomes one after all. What begins like none is never held back.
const HOLD: Duration = Duration::from_millis(200);
/// In how many pieces they may come. Each is looked at again with every piece, so this bounds the work.
const MAX_READS: usize = 512;

/// Bytes carried so far.
#[derive(Debug, Default)]
pub(super) struct Carried {
    pub sent: AtomicU64,
    pub received: AtomicU64,
}

/// Why what was allowed was cut.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// Its first words do not fit what was asked for.
    Misfit(String),
    /// The step has carried all that it may.
    Spent(Spent),
}

impl From<Spent> for Cut {
    fn from(spent: Spent) -> Cut {
        Cut::Spent(spent)
    }
}

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Cut::Misfit(reason) => f.write_str(reason),
            Cut::Spent(spent) => spent.fmt(f),
        }
    }
}

/// Both ends of a connection, and what they may say.
pub(super) struct Tunnel<'a> {
    pub client: &'a TcpStream,
    pub server: &'a TcpStream,
    pub host: &'a str,
    pub port: u16,
    pub carried: &'a Carried,
    pub meter: &'a Meter,
}

/// How a client's side ended.
enum Sent {
    /// As a stream: whatever it said was passed on.
    All,
    /// One request was passed on; nothing after it is.
    Request,
}

impl Tunnel<'_> {
    /// Carries bytes until both directions are over. `early` is what was read of the client already.
    pub(super) async fn run(&self, early: Vec<u8>) -> Result<(), Cut> {
        self.exchange(self.judged(early)).await
    }

    /// Carries one request with this head, its body, and the answer. `early` is what was read after the head.
    pub(super) async fn request(&self, head: &[u8], body: u64, early: Vec<u8>) -> Result<(), Cut> {
        self.exchange(self.send_request(head, body, early)).await
    }

    async fn exchange(&self, upward: impl Future<Output = Result<Sent, Cut>>) -> Result<(), Cut> {
        for stream in [self.client, self.server] {
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "a connection keeps its delay");
            }
        }
        let downward = pour(self.server, self.client, &self.carried.received, self.meter);
        tokio::pin!(upward, downward);
        // A cut ends both directions at once; otherwise each ends by itself (half-close).
        tokio::select! {
            biased;
            up = &mut upward => {
                up?;
                downward.await?;
            }
            down = &mut downward => {
                down?;
                // A client that has not said its first words to a server that is gone has nobody to say them to. Nor has one that
                // asked once and was answered.
                if let Some(Sent::All) = timeout(GRACE, &mut upward).await.ok().transpose()? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Judges the client's first words and passes them on with what follows.
    async fn judged(&self, early: Vec<u8>) -> Result<Sent, Cut> {
        let mut first = early;
        let mut passed = 0;
        for _ in 0..MAX_READS {
            let word = first::read(&first);
            match &word {
                // Whoever speaks another protocol waits for an answer to just that.
                First::Open if self.port != 443 && passed < first.len() => {
                    if self.send(&first[passed..]).await?.is_err() {
                        return Ok(Sent::All);
                    }
                    passed = first.len();
                }
                First::Incomplete | First::Open | First::Begun => {}
                First::Upgrade(length) => {
                    let rest = first.split_off(*length);
                    if self.send(&first[passed..]).await?.is_err() {
                        return Ok(Sent::All);
                    }
                    (first, passed) = (rest, 0);
                    continue;
                }
                // Some of it is with the server already, so the rest can't be held against the head.
                First::Http if passed > 0 => return Err(Cut::Misfit("the first line of its request comes in pieces".to_owned())),
                First::Http => match request::within(&first, self.host, self.port) {
                    Ok(None) => {}
                    Ok(Some((request, length))) => {
                        let rest = first.split_off(length);
                        let Kind::Plain { head, body } = request.kind else { return Ok(Sent::All) };
                        return self.send_request(&head, body, rest).await;
                    }
                    Err(unfit) => return Err(Cut::Misfit(unfit.reason.to_owned())),
                },
                First::Unfit(reason) => return Err(Cut::Misfit((*reason).to_owned())),
                First::Other if self.port == 443 => return Err(Cut::Misfit("what it speaks on port 443 is not TLS".to_owned())),
                First::Other => return self.stream(&first[passed..]).await,
                First::Tls(greeting) => {
                    judge(greeting, self.host).map_err(Cut::Misfit)?;
                    return self.stream(&first).await;
                }
            }
            let (known, sent) = (first.len(), passed == first.len());
            let reading = read(self.client, &mut first);
            let open = self.port != 443 && matches!(word, First::Open | First::Begun);
            let read = if self.port != 443 && (known == 0 || (open && sent)) {
                // The server may be the one who speaks first, or next.
                reading.await
            } else if open {
                match timeout(HOLD, reading).await {
                    Ok(read) => read,
                    Err(_) => {
                        if self.send(&first[passed..]).await?.is_err() {
                            return Ok(Sent::All);
                        }
                        passed = first.len();
                        continue;
                    }
                }
            } else {
                timeout(PATIENCE, reading).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            };
            match read {
                Ok(read) if read > 0 => {}
                // What was said was all, and it was no request.
                _ if known == 0 || matches!(word, First::Open | First::Begun) => return self.stream(&first[passed..]).await,
                _ => return Err(Cut::Misfit("its first words break off".to_owned())),
            }
        }
        Err(Cut::Misfit("its first words come in too many pieces".to_owned()))
    }

    /// Passes on what was judged, and everything after it.
    async fn stream(&self, first: &[u8]) -> Result<Sent, Cut> {
        if self.send(first).await?.is_ok() {
            pour(self.client, self.server, &self.carried.sent, self.meter).await?;
        }
        Ok(Sent::All)
    }

    /// Sends one request with exactly the body that it announced; nothing after it reaches the server.
    async fn send_request(&self, head: &[u8], body: u64, early: Vec<u8>) -> Result<Sent, Cut> {
        if self.send(head).await?.is_err() {
            return Ok(Sent::Request);
        }
        let mut left = body;
        let mut buffer = early;
        loop {
            let now = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            if self.send(&buffer[..now]).await?.is_err() {
                return Ok(Sent::Request);
            }
            left -= now as u64;
            if left == 0 {
                return Ok(Sent::Request);
            }
            buffer.clear();
            match read(self.client, &mut buffer).await {
                Ok(read) if read > 0 => {}
                _ => return Ok(Sent::Request),
            }
        }
    }

    /// Sends to the server and counts. The inner error is a server that is gone, which is an end and no cut.
    async fn send(&self, bytes: &[u8]) -> Result<io::Result<()>, Cut> {
        if let Err(error) = write(self.server, bytes).await {
            return Ok(Err(error));
        }
        self.carried.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.meter.count(bytes.len() as u64)?;
        Ok(Ok(()))
    }
}

/// How long a client's direction may still last once the server's is over.
const GRACE: Duration = Duration::from_secs(60);

/// Whether TLS to `host` may begin like this.
fn judge(greeting: &Greeting, host: &str) -> Result<(), String> {
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
        Greeting::Tls { .. } | Greeting::Other | Greeting::Incomplete => Ok(()),
    }
}
