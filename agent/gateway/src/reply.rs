//! Answers: documents from memory, and files from disk or on their way, whole or in one range. A file's last bytes go out
//! only once all of them are verified, so that what is wrong never arrives as a complete answer.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH, IF_RANGE,
    RANGE, VARY,
};
use hyper::{Response, StatusCode};
use tokio::sync::watch;

use crate::digest::{Check, Sha256Digest, Stated};
use crate::fetch::{Fetcher, Flight, Found, Progress};
use crate::store::{Store, Stored};
use crate::unserved::Unserved;

/// The body of an answer.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// How much of a file is in memory at once, per client.
const CHUNK: usize = 256 * 1024;

/// How a file's answer ended, told once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Bytes that were handed to the connection.
    pub bytes: u64,
    /// The whole file's digest, when everything that was asked for went out.
    pub digest: Option<Sha256Digest>,
    /// Why not, when the reason is the file's.
    pub failed: Option<Unserved>,
}

/// Told how a file's answer ended.
pub(crate) type Ending = Box<dyn FnOnce(Ended) + Send>;

/// A body from memory.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A text for people.
pub(crate) fn text(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(full(format!("caisson: {text}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// A document. `tag` names its content; a client that has it gets no body.
pub(crate) fn document(asked: &HeaderMap, content_type: &'static str, tag: &str, bytes: impl Into<Bytes>) -> Response<Body> {
    let tag = format!("\"{tag}\"");
    let same = |value: &HeaderValue| value.to_str().is_ok_and(|list| list.split(',').any(|one| one.trim().trim_start_matches("W/") == tag));
    let mut response = match asked.get(IF_NONE_MATCH).is_some_and(same) {
        true => {
            let mut response = Response::new(full(Bytes::new()));
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        }
        false => Response::new(full(bytes)),
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=600, public"));
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(ETAG, tag);
    }
    response
}

/// A file's answer. Waits until it is known that the file comes.
pub(crate) async fn file(fetcher: &Arc<Fetcher>, asked: &HeaderMap, head: bool, found: Found, ending: Ending) -> Response<Body> {
    let found = match settle(fetcher, found, asked.contains_key(RANGE) || head).await {
        Ok(found) => found,
        Err(unserved) => {
            let response = text(unserved.status, &unserved.reason);
            ending(Ended { bytes: 0, digest: None, failed: Some(unserved) });
            return response;
        }
    };
    match found {
        Settled::Coming { flight, watch, length } => {
            let mut response = Response::new(Body::default());
            if let Some(length) = length {
                response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
            }
            marks(&mut response, None);
            *response.body_mut() = stream_body(told(following(flight, watch.clone()), Goal::Flight(watch), ending));
            response
        }
        Settled::Stored { stored, digest } => {
            let size = stored.size;
            let range = match range(asked, digest, size) {
                Ok(range) => range,
                Err(()) => {
                    ending(Ended { bytes: 0, digest: None, failed: None });
                    let mut response = text(StatusCode::RANGE_NOT_SATISFIABLE, "the file has no such range");
                    if let Ok(value) = HeaderValue::from_str(&format!("bytes */{size}")) {
                        response.headers_mut().insert(CONTENT_RANGE, value);
                    }
                    return response;
                }
            };
            let mut response = Response::new(Body::default());
            let (from, to) = range.unwrap_or((0, size));
            response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(to - from));
            if range.is_some() {
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                if let Ok(value) = HeaderValue::from_str(&format!("bytes {from}-{}/{size}", to - 1)) {
                    response.headers_mut().insert(CONTENT_RANGE, value);
                }
            }
            marks(&mut response, Some(digest));
            let file = Arc::new(stored.file);
            let body = match range {
                // A part cannot be verified by itself.
                Some(_) => match verify(fetcher.store.clone(), Arc::clone(&file), size, digest).await {
                    Ok(()) => reading(None, file, from, to, digest),
                    Err(unserved) => {
                        let response = text(unserved.status, &unserved.reason);
                        ending(Ended { bytes: 0, digest: None, failed: Some(unserved) });
                        return response;
                    }
                },
                None => reading(Some(fetcher.store.clone()), file, from, to, digest),
            };
            if head {
                ending(Ended { bytes: 0, digest: None, failed: None });
            } else {
                *response.body_mut() = stream_body(told(body, Goal::Bytes(to - from, digest), ending));
            }
            response
        }
    }
}

enum Settled {
    Stored { stored: Stored, digest: Sha256Digest },
    Coming { flight: Arc<Flight>, watch: watch::Receiver<Progress>, length: Option<u64> },
}

/// Waits for the first word about a file on its way, or for its end if it is `whole` that is needed.
async fn settle(fetcher: &Fetcher, found: Found, whole: bool) -> Result<Settled, Unserved> {
    let flight = match found {
        Found::Stored(stored, digest) => return Ok(Settled::Stored { stored, digest }),
        Found::Coming(flight) => flight,
    };
    let mut watch = flight.watch();
    loop {
        let progress = watch.borrow_and_update().clone();
        match progress {
            Progress::Failed(unserved) => return Err(unserved),
            Progress::Whole { digest, .. } => {
                let gone = || Unserved::failed("the file was evicted as soon as it was stored; the quota is too small");
                return fetcher.store.find(digest).map(|stored| Settled::Stored { stored, digest }).ok_or_else(gone);
            }
            Progress::Coming { length, .. } if !whole => return Ok(Settled::Coming { flight, watch, length }),
            Progress::Coming { .. } | Progress::Asking => {}
        }
        if watch.changed().await.is_err() {
            return Err(Unserved::failed("the gateway is closing"));
        }
    }
}

fn marks(response: &mut Response<Body>, digest: Option<Sha256Digest>) {
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=365000000, immutable, public"));
    if let Some(tag) = digest.and_then(|digest| HeaderValue::from_str(&format!("\"{digest}\"")).ok()) {
        headers.insert(ETAG, tag);
    }
}

/// The one range that is asked for, half open; `None` for the whole. Several ranges at once are answered with the whole (RFC 9110, 14.2).
fn range(asked: &HeaderMap, digest: Sha256Digest, size: u64) -> Result<Option<(u64, u64)>, ()> {
    let Some(text) = asked.get(RANGE).and_then(|value| value.to_str().ok()) else { return Ok(None) };
    if asked.get(IF_RANGE).is_some_and(|value| value.as_bytes() != format!("\"{digest}\"").as_bytes()) {
        return Ok(None);
    }
    let Some((first, last)) = text.strip_prefix("bytes=").filter(|list| !list.contains(',')).and_then(|list| list.trim().split_once('-'))
    else {
        return Ok(None);
    };
    let range = match (first.trim(), last.trim()) {
        ("", last) => last.parse().ok().map(|count: u64| (size.saturating_sub(count), size)),
        (first, "") => first.parse().ok().map(|first| (first, size)),
        (first, last) => first.parse().ok().zip(last.parse::<u64>().ok()).map(|(first, last)| (first, size.min(last.saturating_add(1)))),
    };
    match range {
        Some((from, to)) if from < to => Ok(Some((from, to))),
        Some(_) => Err(()),
        None => Ok(None),
    }
}

type Pieces = BoxStream<'static, Result<Bytes, Unserved>>;

/// Follows a file on its way.
fn following(flight: Arc<Flight>, watch: watch::Receiver<Progress>) -> Pieces {
    let state = Some((flight, watch, 0u64));
    stream::unfold(state, |state| async {
        let (flight, mut watch, at) = state?;
        loop {
            let progress = watch.borrow_and_update().clone();
            let (ready, done) = match progress {
                Progress::Failed(unserved) => return Some((Err(unserved), None)),
                Progress::Whole { size, .. } => (size, true),
                // The last byte that is there may be the file's last one.
                Progress::Coming { written, .. } => (written.saturating_sub(1), false),
                Progress::Asking => (0, false),
            };
            if at < ready {
                let length = usize::try_from(ready - at).unwrap_or(CHUNK).min(CHUNK);
                let mut buffer = vec![0; length];
                return match flight.read_at(&mut buffer, at) {
                    Ok(read) if read > 0 => {
                        buffer.truncate(read);
                        Some((Ok(buffer.into()), Some((flight, watch, at + read as u64))))
                    }
                    _ => Some((Err(Unserved::failed("a file on its way cannot be read back")), None)),
                };
            }
            if done {
                return None;
            }
            if watch.changed().await.is_err() {
                return Some((Err(Unserved::failed("the gateway is closing")), None));
            }
        }
    })
    .boxed()
}

/// Reads a stored file. With a store, all of it is verified on the way, and the last piece goes out only when it is right.
fn reading(verified: Option<Store>, file: Arc<File>, from: u64, to: u64, digest: Sha256Digest) -> Pieces {
    let check = verified.map(|store| (store, Check::new(Stated::sha256(digest, Some(to)))));
    stream::unfold(Some((file, from, check)), move |state| async move {
        let (file, at, check) = state?;
        if at >= to && to != 0 {
            return None;
        }
        let read = tokio::task::spawn_blocking(move || {
            let mut check = check;
            let length = usize::try_from(to - at).unwrap_or(CHUNK).min(CHUNK);
            let mut buffer = vec![0; length];
            let damaged = Unserved::failed("a stored file is damaged; it was removed and is fetched anew next time");
            if file.read_exact_at(&mut buffer, at).is_err() {
                return Err(damaged);
            }
            if let Some((_, check)) = &mut check {
                check.update(&buffer);
            }
            let next = at + length as u64;
            if next == to
                && let Some((store, check)) = check.take()
                && check.finish().is_err()
            {
                store.discard(digest);
                return Err(damaged);
            }
            Ok((Bytes::from(buffer), (next < to).then_some((file, next, check))))
        });
        match read.await {
            Ok(Ok((bytes, next))) => Some((Ok(bytes), next)),
            Ok(Err(unserved)) => Some((Err(unserved), None)),
            Err(_) => Some((Err(Unserved::failed("reading a stored file ended early")), None)),
        }
    })
    .boxed()
}

async fn verify(store: Store, file: Arc<File>, size: u64, digest: Sha256Digest) -> Result<(), Unserved> {
    let mut pieces = reading(Some(store), file, 0, size, digest);
    while let Some(piece) = pieces.next().await {
        piece?;
    }
    Ok(())
}

/// When everything that was asked for is out.
enum Goal {
    /// After so many bytes of this file.
    Bytes(u64, Sha256Digest),
    /// When the file on its way is whole and all of it is out.
    Flight(watch::Receiver<Progress>),
}

/// Counts what goes out and tells the end, also when the client goes away.
struct Told {
    pieces: Pieces,
    bytes: u64,
    failed: Option<Unserved>,
    goal: Goal,
    ending: Option<Ending>,
}

fn told(pieces: Pieces, goal: Goal, ending: Ending) -> Told {
    Told { pieces, bytes: 0, failed: None, goal, ending: Some(ending) }
}

impl Stream for Told {
    type Item = Result<Bytes, io::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = self.pieces.poll_next_unpin(context);
        polled.map(|piece| match piece {
            Some(Ok(bytes)) => {
                self.bytes += bytes.len() as u64;
                Some(Ok(bytes))
            }
            Some(Err(unserved)) => {
                let error = io::Error::other(unserved.reason.clone());
                self.failed = Some(unserved);
                Some(Err(error))
            }
            None => None,
        })
    }
}

impl Drop for Told {
    // Whoever sends the body may stop asking at the announced length, so that the end is judged here.
    fn drop(&mut self) {
        let digest = match &self.goal {
            Goal::Bytes(count, digest) => (*count == self.bytes).then_some(*digest),
            Goal::Flight(watch) => match *watch.borrow() {
                Progress::Whole { digest, size } if size == self.bytes => Some(digest),
                _ => None,
            },
        };
        if let Some(ending) = self.ending.take() {
            ending(Ended { bytes: self.bytes, digest, failed: self.failed.take() });
        }
    }
}

fn stream_body(told: Told) -> Body {
    StreamBody::new(told.map(|piece| piece.map(Frame::data))).boxed_unsync()
}
