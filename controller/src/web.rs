//! Small HTTP servers beside the gRPC one: operations and webhooks. HTTP/1.1, short requests with a limit on everything.

pub mod ops;

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap};
use hyper::service::service_fn;
use hyper::{Method, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// How long a request's head may take.
const HEAD: Duration = Duration::from_secs(10);
/// How long a request as a whole may take.
const WHOLE: Duration = Duration::from_secs(60);
/// How many connections there may be.
const MOST: usize = 256;

/// A request that arrived whole.
#[derive(Debug)]
pub struct Request {
    /// `GET`, `POST`.
    pub method: Method,
    /// Without the query.
    pub path: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Request {
    /// A header as text; `None` when it is absent, repeated or no text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => value.to_str().ok(),
            _ => None,
        }
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// What kind of text it is.
    pub kind: &'static str,
    /// The text.
    pub text: String,
}

impl Reply {
    /// A line of text.
    pub fn text(status: StatusCode, text: impl Into<String>) -> Reply {
        Reply { status, kind: "text/plain; charset=utf-8", text: format!("{}\n", text.into()) }
    }
}

/// Something that answers requests.
pub trait Site: Send + Sync + 'static {
    /// The longest body that it takes.
    const LONGEST: usize;

    /// Answers one.
    fn answer(&self, request: Request) -> impl Future<Output = Reply> + Send;
}

/// A web server cannot be reached at this address.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// Others than this machine could connect.
    #[error("serve {0} on {1}: the connection would not be encrypted; use a loopback address, and a reverse proxy with TLS before it")]
    Exposed(&'static str, SocketAddr),
    /// The address is taken or is not there.
    #[error("serve {0} on {1}")]
    Bind(&'static str, SocketAddr, #[source] std::io::Error),
}

/// Binds a loopback address; port 0 takes a free one. `what` names it in errors.
///
/// # Errors
/// [`WebError`].
pub async fn bind(what: &'static str, address: SocketAddr) -> Result<TcpListener, WebError> {
    if !address.ip().to_canonical().is_loopback() {
        return Err(WebError::Exposed(what, address));
    }
    TcpListener::bind(address).await.map_err(|error| WebError::Bind(what, address, error))
}

/// Serves until it is dropped.
pub async fn serve<S: Site>(listener: TcpListener, site: S) {
    let site = Arc::new(site);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < MOST => match accepted {
                Ok((stream, _)) => drop(connections.spawn(connection(stream, site.clone()))),
                Err(error) => {
                    tracing::warn!(%error, "connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
        }
    }
}

async fn connection<S: Site>(stream: TcpStream, site: Arc<S>) {
    let service = service_fn(move |request| {
        let site = site.clone();
        async move { Ok::<_, Infallible>(respond(request, site.as_ref()).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        tracing::debug!(%error, "connection ended early");
    }
}

async fn respond<S: Site>(request: hyper::Request<Incoming>, site: &S) -> hyper::Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let reading = async {
        match Limited::new(body, S::LONGEST).collect().await {
            Ok(body) => {
                let request =
                    Request { method: head.method, path: head.uri.path().to_owned(), headers: head.headers, body: body.to_bytes() };
                site.answer(request).await
            }
            Err(error) if error.is::<LengthLimitError>() => Reply::text(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long"),
            Err(_) => Reply::text(StatusCode::BAD_REQUEST, "the body broke off"),
        }
    };
    let reply = tokio::time::timeout(WHOLE, reading).await.unwrap_or_else(|_| Reply::text(StatusCode::REQUEST_TIMEOUT, "took too long"));
    let mut response = hyper::Response::new(Full::new(Bytes::from(reply.text)));
    *response.status_mut() = reply.status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(reply.kind));
    response
}
