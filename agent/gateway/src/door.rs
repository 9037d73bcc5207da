//! One listener of one step: HTTP/1.1 with connections that are kept, `GET` and `HEAD` only, everything bounded.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body as _, Incoming};
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue, LOCATION};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use url::Url;

use crate::answer::{Answer, Subject, Terms};
use crate::authority::AuthorityError;
use crate::fetch;
use crate::gateway::{Gateway, OpenError, Shelves};
use crate::name;
use crate::npm::Tarballs;
use crate::python::project::Links;
use crate::reply::{self, Body, Ended};
use crate::served::{Ecosystem, Origin, Served, ServedResult, Sink, Sinks};
use crate::unserved::{Kind, Unserved};

/// Connections of one step at once; further ones wait in the kernel.
const MOST_CONNECTIONS: usize = 128;
/// How long a client may take to say what it wants; also how long a connection is kept without a request.
const PATIENCE: Duration = Duration::from_secs(60);
/// The most bytes of a request's head.
const MOST_HEAD: usize = 16 << 10;
/// The longest path.
const LONGEST_PATH: usize = 1024;
/// How long accepting rests after an error.
const REST: Duration = Duration::from_millis(100);

/// Why a door cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// The listener is none.
    #[error("listen for a step's package requests")]
    Listener(#[from] io::Error),
    /// The gateway is not usable.
    #[error("open the package gateway")]
    Gateway(#[from] OpenError),
    /// It cannot answer in an index's name.
    #[error("answer in the name of a package index")]
    Authority(#[from] AuthorityError),
    /// Likewise, when the reason is everybody's.
    #[error("answer in the name of a package index")]
    NoAuthority(#[from] Arc<AuthorityError>),
}

/// A listener that is served. Dropping it ends its connections.
#[derive(Debug)]
pub struct Door {
    closing: watch::Sender<bool>,
    accepting: Option<JoinHandle<()>>,
}

/// What serves a step's connections; a clone for each.
#[derive(Clone)]
struct Room {
    shelves: Arc<Shelves>,
    front: Front,
    ecosystems: Arc<[Ecosystem]>,
    /// Where clients find a door, when they come by one.
    local: Option<SocketAddr>,
    terms: Terms,
    sink: Sink,
    closed: watch::Receiver<bool>,
}

/// How a client came.
#[derive(Clone, Debug)]
enum Front {
    /// To a door, whose paths are the gateway's own.
    Door(Ecosystem),
    /// To the name of an index, whose paths are the index's.
    Named(Url),
}

/// A client that came to the name of an index.
#[derive(Debug)]
pub struct Visitor<S> {
    /// The connection, from its first byte.
    pub stream: S,
    /// The name.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Whose packages it may have.
    pub ecosystems: Arc<[Ecosystem]>,
    /// Under which terms.
    pub terms: Terms,
}

/// Serves a client that came to the name of an index, in that name, to its end. Whether it greets in TLS is seen from its first byte.
/// Dropping the future ends the connection.
///
/// # Errors
/// [`DoorError`], when nothing was served.
pub async fn receive<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    gateway: &Gateway,
    visitor: Visitor<S>,
    sink: Sink,
) -> Result<(), DoorError> {
    let Visitor { mut stream, host, port, ecosystems, terms } = visitor;
    let shelves = gateway.shelves()?;
    let (open, closed) = watch::channel(false);
    let room = |scheme: &str| {
        let shown = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let base = Url::parse(&format!("{scheme}://{shown}:{port}/")).map_err(io::Error::other)?;
        let front = Front::Named(base);
        Ok::<_, io::Error>(Room { shelves, front, ecosystems, local: None, terms, sink, closed })
    };
    let mut first = [0];
    let read = tokio::time::timeout(PATIENCE, stream.read(&mut first)).await.map_err(io::Error::other)??;
    if read == 0 {
        return Ok(());
    }
    let stream = Again { first: Some(first[0]), stream };
    // The first byte of a TLS greeting (RFC 8446, 5.1); no method of HTTP begins with it.
    if first[0] == 22 {
        let acceptor = TlsAcceptor::from(gateway.authority()?.server(&host)?);
        let stream = tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await.map_err(io::Error::other)??;
        room("https")?.serve(stream).await;
    } else {
        room("http")?.serve(stream).await;
    }
    drop(open);
    Ok(())
}

/// A stream with its first byte put back.
#[derive(Debug)]
struct Again<S> {
    first: Option<u8>,
    stream: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Again<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buffer.remaining() > 0
            && let Some(first) = self.first.take()
        {
            buffer.put_slice(&[first]);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Again<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Door {
    /// Serves the connections of `listener`, which listens inside a step's namespace. Must be called within a tokio runtime.
    /// Blocks for a few reads the first time that a gateway is used.
    ///
    /// # Errors
    /// [`DoorError`].
    pub fn open(gateway: &Gateway, ecosystem: Ecosystem, listener: StdListener, terms: Terms, sinks: Sinks) -> Result<Door, DoorError> {
        let shelves = gateway.shelves()?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let (closing, closed) = watch::channel(false);
        let here = listener.local_addr()?;
        let (local, sink): (_, Sink) = (Some(here), Arc::new(|_| {}));
        let room = Room { shelves, front: Front::Door(ecosystem), ecosystems: [ecosystem].into(), local, terms, sink, closed };
        let accepting = Some(tokio::spawn(accept(listener, here, room, sinks)));
        Ok(Door { closing, accepting })
    }

    /// Ends every connection. Everything that was served has been told when this returns.
    pub async fn close(mut self) {
        self.closing.send_replace(true);
        if let Some(accepting) = self.accepting.take()
            && let Err(error) = accepting.await
        {
            tracing::error!(%error, "a door of the package gateway broke");
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.closing.send_replace(true);
    }
}

async fn ended(closed: &mut watch::Receiver<bool>) {
    let _gone = closed.wait_for(|closed| *closed).await.is_err();
}

async fn accept(listener: TcpListener, here: SocketAddr, room: Room, sinks: Sinks) {
    let mut closed = room.closed.clone();
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
                Ok((stream, peer)) => {
                    let (room, sink) = (room.clone(), sinks(peer, here));
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "a connection keeps its delay");
                    }
                    open.spawn(async move {
                        Room { sink: sink.await, ..room }.serve(stream).await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection to the package gateway could not be accepted");
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

impl Room {
    async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let service = service_fn(|request| async { Ok::<_, Infallible>(self.answer(request).await) });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .max_buf_size(MOST_HEAD.max(8192))
            .serve_connection(TokioIo::new(stream), service);
        let mut closed = self.closed.clone();
        tokio::select! {
            () = ended(&mut closed) => {}
            served = connection => if let Err(error) = served {
                tracing::debug!(%error, "a connection to the package gateway ended early");
            },
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let at = fetch::now();
        let head = request.method() == Method::HEAD;
        let segments = match passes(&request) {
            Ok(segments) => segments,
            Err(unserved) => {
                let mut response = reply::text(unserved.status, &unserved.reason);
                if unserved.status == StatusCode::METHOD_NOT_ALLOWED {
                    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
                }
                self.tell(at, Subject::default(), 0, String::new(), ServedResult::Refused(unserved.reason));
                return response;
            }
        };
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let accept = request.headers().get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect::<Vec<_>>().join(",");
        let accept = Some(accept.as_str()).filter(|accept| !accept.is_empty());
        let shelves = &self.shelves;
        let (subject, answer) = match &self.front {
            Front::Door(Ecosystem::Python) => match shelves.python.read(&segments) {
                Ok(ask) => (shelves.python.subject(&ask), shelves.python.answer(ask, self.terms, accept, Links::Gateway).await),
                Err(unserved) => (Subject::default(), Err(unserved)),
            },
            Front::Door(Ecosystem::Npm) => match shelves.npm.read(&segments) {
                Ok(ask) => {
                    let tarballs = self.local.map_or(Tarballs::Registry, Tarballs::Gateway);
                    (shelves.npm.subject(&ask), shelves.npm.answer(ask, self.terms, accept, tarballs).await)
                }
                Err(unserved) => (Subject::default(), Err(unserved)),
            },
            Front::Door(Ecosystem::Debian) => match shelves.debian.read(&segments) {
                Ok(ask) => (shelves.debian.subject(&ask), shelves.debian.answer(ask, self.terms).await),
                Err(unserved) => (Subject::default(), Err(unserved)),
            },
            Front::Named(base) => self.answer_named(base, request.uri().path(), &segments, accept).await,
        };
        match answer {
            Err(unserved) => {
                let response = reply::text(unserved.status, &unserved.reason);
                let result = result_of(&unserved);
                self.tell(at, subject, 0, String::new(), result);
                response
            }
            Ok(Answer::Moved(path)) => {
                let mut response = reply::text(StatusCode::MOVED_PERMANENTLY, "it lies elsewhere");
                if let Ok(value) = HeaderValue::from_str(&path) {
                    response.headers_mut().insert(LOCATION, value);
                }
                response
            }
            Ok(Answer::Document { content_type, tag, bytes }) => reply::document(request.headers(), content_type, &tag, bytes),
            Ok(Answer::File { found, origin }) => {
                let room = self.clone();
                let ending = Box::new(move |ended: Ended| room.ended(at, subject, origin, head, ended));
                let mut response = reply::file(&self.shelves.fetcher, request.headers(), head, found, ending).await;
                if matches!(self.front, Front::Door(Ecosystem::Debian)) {
                    response.headers_mut().remove(CONTENT_TYPE);
                }
                response
            }
        }
    }

    /// Answers in an index's own name.
    async fn answer_named(&self, base: &Url, path: &str, segments: &[&str], accept: Option<&str>) -> (Subject, Result<Answer, Unserved>) {
        let shelves = &self.shelves;
        let at = Subject {
            host: base.host_str().unwrap_or_default().to_owned(),
            port: base.port_or_known_default().unwrap_or(0),
            ..Subject::default()
        };
        let Ok(url) = base.join(path) else { return (at, Err(Unserved::refused("the path is malformed"))) };
        let python = self.ecosystems.contains(&Ecosystem::Python).then(|| shelves.python.read_address(&url, segments)).flatten();
        match python {
            Some(Ok(ask)) => return (shelves.python.subject(&ask), shelves.python.answer(ask, self.terms, accept, Links::Index).await),
            Some(Err(unserved)) => return (at, Err(unserved)),
            None => {}
        }
        let npm = self.ecosystems.contains(&Ecosystem::Npm).then(|| shelves.npm.read_address(&url, segments)).flatten();
        match npm {
            Some(Ok(ask)) => return (shelves.npm.subject(&ask), shelves.npm.answer(ask, self.terms, accept, Tarballs::Registry).await),
            Some(Err(unserved)) => return (at, Err(unserved)),
            None => {}
        }
        let debian = self.ecosystems.contains(&Ecosystem::Debian).then(|| shelves.debian.read_address(&url, segments)).flatten();
        match debian {
            Some(Ok(ask)) => (shelves.debian.subject(&ask), shelves.debian.answer(ask, self.terms).await),
            Some(Err(unserved)) => (at, Err(unserved)),
            None => (at, Err(Unserved::refused("of this host only packages pass the gateway"))),
        }
    }

    fn ended(&self, at: u64, subject: Subject, origin: Origin, head: bool, ended: Ended) {
        let result = match (ended.digest, ended.failed) {
            (Some(digest), _) if self.shelves.fetcher.take_fresh(digest) => ServedResult::Served(Origin::Upstream),
            (Some(_), _) => ServedResult::Served(origin),
            (None, Some(unserved)) => result_of(&unserved),
            (None, None) if head => return,
            (None, None) => ServedResult::Missed("the client went away before the end".to_owned()),
        };
        if matches!(result, ServedResult::Served(_)) && !subject.package {
            return;
        }
        self.tell(at, subject, ended.bytes, ended.digest.map(|digest| format!("sha256:{digest}")).unwrap_or_default(), result);
    }

    fn ecosystem(&self, file: &str) -> Ecosystem {
        match &self.front {
            Front::Door(ecosystem) => *ecosystem,
            Front::Named(_) if self.ecosystems.contains(&Ecosystem::Npm) && name::of_python_file(file).is_none() => Ecosystem::Npm,
            Front::Named(_) => self.ecosystems.first().copied().unwrap_or(Ecosystem::Python),
        }
    }

    fn tell(&self, at: u64, subject: Subject, bytes: u64, digest: String, result: ServedResult) {
        let Subject { name, file, host, port, .. } = subject;
        (self.sink)(Served { at, ecosystem: self.ecosystem(&file), host, port, name, file, digest, bytes, result });
    }
}

fn result_of(unserved: &Unserved) -> ServedResult {
    match unserved.kind {
        Kind::Refused => ServedResult::Refused(unserved.reason.clone()),
        Kind::Absent | Kind::Failed => ServedResult::Missed(unserved.reason.clone()),
    }
}

/// Whether a request passes at all; if so, the decoded segments of its path.
fn passes(request: &Request<Incoming>) -> Result<Vec<String>, Unserved> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let reason = format!("the package gateway is read-only: {} does not pass", request.method());
        return Err(Unserved { status: StatusCode::METHOD_NOT_ALLOWED, reason, kind: Kind::Refused });
    }
    if !request.body().is_end_stream() {
        return Err(Unserved::refused("a request with a body does not pass the package gateway"));
    }
    let uri = request.uri();
    if uri.query().is_some() {
        return Err(Unserved::refused("a request with a query does not pass the package gateway"));
    }
    if uri.path().len() > LONGEST_PATH {
        return Err(Unserved::refused("the path is too long"));
    }
    let decoded = |segment: &str| {
        let text = percent_encoding::percent_decode_str(segment).decode_utf8().ok()?.into_owned();
        (!text.chars().any(|c| c.is_control() || c == '\\')).then_some(text)
    };
    let path = uri.path().strip_prefix('/').unwrap_or(uri.path());
    path.split('/').map(|segment| decoded(segment).ok_or_else(|| Unserved::refused("the path is malformed"))).collect()
}
