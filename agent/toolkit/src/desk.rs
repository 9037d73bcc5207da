//! What serves one step: an HTTP/1.1 listener with everything bounded.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::AUTHORIZATION;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::answer::{self, Body, Refusal};
use crate::artifacts;
use crate::blobs;
use crate::caches;
use crate::forms::Places;
use crate::keeper::Keeper;
use crate::legacy;
use crate::parcels::Parcels;
use crate::room::{self, Room};
use crate::token::Token;

/// Connections of one step at once; further ones wait in the kernel.
const MOST_CONNECTIONS: usize = 64;
/// How long a client may take to say what it wants; also how long a connection is kept without a request.
const PATIENCE: Duration = Duration::from_secs(60);
/// The most bytes of a request's head.
const MOST_HEAD: usize = 32 << 10;
/// How long accepting rests after an error.
const REST: Duration = Duration::from_millis(100);
/// Where the services lie.
const SERVICES: &str = "/twirp/github.actions.results.api.v1.";

/// How a desk is set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What clients show.
    pub token: Token,
    /// Where it listens, as clients see it.
    pub address: SocketAddr,
    /// A directory for files without a name.
    pub spool: PathBuf,
    /// The most bytes that the step may have there, and that an archive may unpack to.
    pub most: u64,
    /// The job's directories.
    pub places: Places,
}

/// A listener that is served. Dropping it ends its connections.
#[derive(Debug)]
pub struct Desk {
    closing: watch::Sender<bool>,
    accepting: Option<JoinHandle<()>>,
}

impl Desk {
    /// Serves the connections of `listener`, which listens inside a step's namespace. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The listener is none.
    pub fn open(listener: StdListener, settings: Settings, keeper: impl Keeper) -> io::Result<Desk> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let (closing, closed) = watch::channel(false);
        let Settings { token, address, spool, most, places } = settings;
        let parcels = Parcels::new(spool, most);
        let room = Arc::new(Room { keeper, token, parcels, places, address, packing: Semaphore::new(room::MOST_PACKING) });
        let accepting = Some(tokio::spawn(accept(listener, room, closed)));
        Ok(Desk { closing, accepting })
    }

    /// Ends every connection. From now on the token and the addresses open nothing.
    pub async fn close(mut self) {
        self.closing.send_replace(true);
        if let Some(accepting) = self.accepting.take()
            && let Err(error) = accepting.await
        {
            tracing::error!(%error, "a desk of the toolkit broke");
        }
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.closing.send_replace(true);
    }
}

async fn ended(closed: &mut watch::Receiver<bool>) {
    let _gone = closed.wait_for(|closed| *closed).await.is_err();
}

async fn accept<K: Keeper>(listener: TcpListener, room: Arc<Room<K>>, mut closed: watch::Receiver<bool>) {
    let slots = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut open = JoinSet::new();
    loop {
        let slot = tokio::select! {
            () = ended(&mut closed) => break,
            Some(_) = open.join_next() => continue,
            slot = Arc::clone(&slots).acquire_owned() => slot,
        };
        let Ok(slot) = slot else { break };
        tokio::select! {
            () = ended(&mut closed) => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let (room, closed) = (Arc::clone(&room), closed.clone());
                    open.spawn(async move {
                        serve(room, stream, closed).await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection to the toolkit's services could not be accepted");
                    tokio::select! {
                        () = ended(&mut closed) => break,
                        () = tokio::time::sleep(REST) => {}
                    }
                }
            },
        }
    }
    while open.join_next().await.is_some() {}
}

async fn serve<K: Keeper>(room: Arc<Room<K>>, stream: TcpStream, mut closed: watch::Receiver<bool>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection keeps its delay");
    }
    let service = service_fn(|request| async { Ok::<_, Infallible>(answer(&room, request).await) });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(MOST_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        () = ended(&mut closed) => {}
        served = connection => if let Err(error) = served {
            tracing::debug!(%error, "a connection to the toolkit's services ended early");
        },
    }
}

async fn answer<K: Keeper>(room: &Arc<Room<K>>, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let answered = match path.strip_prefix(room::PARCELS) {
        Some(number) => blobs::answer(room, number, request).await,
        None => call(room, &path, request).await,
    };
    answered.unwrap_or_else(|refusal| {
        tracing::debug!(path, reason = refusal.reason, "the toolkit's services refused a request");
        refusal.response()
    })
}

async fn call<K: Keeper>(room: &Arc<Room<K>>, path: &str, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    if !room.token.is_shown(request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok())) {
        return Err(Refusal::unknown());
    }
    if let Some(rest) = path.strip_prefix(legacy::PREFIX) {
        return legacy::answer(room, rest, request).await;
    }
    let call = path.strip_prefix(SERVICES).and_then(|call| call.split_once('/'));
    let Some((service, method)) = call.filter(|_| request.method() == Method::POST) else {
        return Err(Refusal::missing("there is no such service"));
    };
    let (service, method) = (service.to_owned(), method.to_owned());
    let asked = room::json_body(request).await?;
    let answer = match service.as_str() {
        "ArtifactService" => artifacts::answer(room, &method, &asked).await?,
        "CacheService" => caches::answer(room, &method, &asked).await?,
        _ => return Err(Refusal::missing("there is no such service")),
    };
    Ok(answer::json_of(StatusCode::OK, &answer))
}
