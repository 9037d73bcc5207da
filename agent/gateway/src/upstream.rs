//! The way to the indexes: one client that knows the host's certificate authorities, proxies and credentials. It only asks (GET),
//! and presents a login nowhere but at the origin that it belongs to.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Certificate, Client, ClientBuilder, Proxy, Response, ResponseBuilderExt as _, StatusCode};
use url::Url;

use crate::settings::{Login, Settings, Source};
use crate::unserved::Unserved;

const CONNECT: Duration = Duration::from_secs(20);
/// How long an index may be silent in the middle of an answer.
const SILENCE: Duration = Duration::from_secs(60);
const MOST_REDIRECTS: usize = 5;

/// Why there is no way to the indexes.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The authorities cannot be read.
    #[error("read the certificate authorities {}", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The client cannot be built from the settings.
    #[error("set up the connection to the package indexes")]
    Client(#[from] reqwest::Error),
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// A document of the index; it may come compressed.
    Page,
    /// A file, byte for byte.
    File,
}

/// The clients.
#[derive(Clone, Debug)]
pub(crate) struct Upstream {
    checked: Pair,
    unchecked: Option<Pair>,
    trusted: Vec<String>,
    logins: Vec<(Url, Login)>,
}

#[derive(Clone, Debug)]
struct Pair {
    pages: Client,
    files: Client,
}

impl Upstream {
    /// Sets the clients up. Reads the certificate authorities; blocks for that.
    pub(crate) fn open(settings: &Settings) -> Result<Upstream, ClientError> {
        let checked = pair(settings, |builder| builder)?;
        let unchecked = match settings.trusted_hosts.is_empty() {
            true => None,
            false => Some(pair(settings, |builder| builder.tls_danger_accept_invalid_certs(true))?),
        };
        let sources =
            settings.python.iter().chain(&settings.python_links).chain(&settings.npm.registry).chain(settings.npm.scopes.values());
        let sources = sources.chain(settings.debian.iter().map(|archive| &archive.source));
        let logins = sources.filter_map(|Source { url, login }| Some((url.clone(), login.clone()?))).collect();
        Ok(Upstream { checked, unchecked, trusted: settings.trusted_hosts.clone(), logins })
    }

    /// Asks. The answer's head is here when this returns.
    pub(crate) async fn ask(&self, wanted: Wanted, url: &Url, headers: &[(HeaderName, &str)]) -> Result<Response, Unserved> {
        if url.scheme() == "file" {
            return folder(url).await;
        }
        let pair = match &self.unchecked {
            Some(unchecked) if self.trusts(url) => unchecked,
            _ => &self.checked,
        };
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            if let Ok(value) = HeaderValue::from_str(value) {
                map.insert(name, value);
            }
        }
        let request = match wanted {
            Wanted::Page => pair.pages.get(url.clone()),
            Wanted::File => pair.files.get(url.clone()).header(ACCEPT_ENCODING, "identity").header(ACCEPT, "*/*"),
        };
        let request = match self.login(url) {
            Some(Login::Basic { user, password }) => request.basic_auth(user, Some(password)),
            Some(Login::Bearer(token)) => request.bearer_auth(token),
            None => request,
        };
        request.headers(map).send().await.map_err(|error| Unserved::failed(format!("{} cannot be asked: {}", place(url), chain(&error))))
    }

    /// The login for an address: that of the source with the same origin and the longest common path.
    fn login(&self, url: &Url) -> Option<&Login> {
        let of_origin = self.logins.iter().filter(|(source, _)| source.origin() == url.origin());
        let shared = |source: &Url| source.path().bytes().zip(url.path().bytes()).take_while(|(a, b)| a == b).count();
        of_origin.max_by_key(|(source, _)| shared(source)).map(|(_, login)| login)
    }

    fn trusts(&self, url: &Url) -> bool {
        let host = url.host_str().unwrap_or_default();
        let with_port = format!("{host}:{}", url.port_or_known_default().unwrap_or_default());
        self.trusted.iter().any(|trusted| *trusted == host || *trusted == with_port)
    }
}

/// The answer that a server would give of this folder: the file, or that there is none.
async fn folder(url: &Url) -> Result<Response, Unserved> {
    let unread = |error: &std::io::Error| Unserved::failed_for_good(format!("{} cannot be read: {error}", place(url)));
    let path = url.to_file_path().map_err(|()| Unserved::refused("the path is malformed"))?;
    let opened = match tokio::fs::File::open(&path).await {
        Ok(file) => Some((file.metadata().await.map_err(|error| unread(&error))?, file)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => None,
        Err(error) => return Err(unread(&error)),
    };
    let answer = hyper::Response::builder().url(url.clone());
    let answer = match opened.filter(|(metadata, _)| metadata.is_file()) {
        Some((metadata, file)) => answer.header(CONTENT_LENGTH, metadata.len()).body(reqwest::Body::from(file)),
        None => answer.status(StatusCode::NOT_FOUND).body(reqwest::Body::from("")),
    };
    answer.map(Response::from).map_err(|_| Unserved::refused("the path is malformed"))
}

fn pair(settings: &Settings, change: impl Fn(ClientBuilder) -> ClientBuilder) -> Result<Pair, ClientError> {
    let mut authorities = None;
    if let Some(path) = &settings.certificates {
        let bytes = fs::read(path).map_err(|source| ClientError::Authorities { path: path.clone(), source })?;
        authorities = Some(Certificate::from_pem_bundle(&bytes)?);
    }
    let proxy = settings.proxy.as_deref().map(Proxy::all).transpose()?;
    let build = |gzip: bool| {
        let mut builder = Client::builder()
            .user_agent(concat!("caisson/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .redirect(Policy::custom(redirect))
            .gzip(gzip);
        if let Some(authorities) = &authorities {
            builder = builder.tls_certs_only(authorities.iter().cloned());
        }
        if let Some(proxy) = &proxy {
            builder = builder.proxy(proxy.clone());
        }
        change(builder).build()
    };
    Ok(Pair { pages: build(true)?, files: build(false)? })
}

fn redirect(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let downgraded = attempt.previous().last().is_some_and(|url| url.scheme() == "https") && attempt.url().scheme() != "https";
    if attempt.previous().len() > MOST_REDIRECTS {
        attempt.error("the index redirects too often")
    } else if downgraded || !matches!(attempt.url().scheme(), "http" | "https") {
        attempt.error("the index redirects to a place that is not as safe")
    } else {
        attempt.follow()
    }
}

/// Host and port of an address, for messages: the rest may hold more than a reader should know.
pub(crate) fn place(url: &Url) -> String {
    if url.scheme() == "file" {
        return "the mirror's folder".to_owned();
    }
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// An error with its causes, without the address, which the message has.
fn chain(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&error.to_string());
        source = error.source();
    }
    if text.is_empty() { "the request failed".to_owned() } else { text }
}
