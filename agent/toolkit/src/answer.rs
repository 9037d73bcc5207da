//! Answers as clients read them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use crate::keeper::KeeperError;

/// How much of a file is sent at once.
const PIECE: u64 = 64 << 10;

/// What an answer consists of.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Why a request is not done: the status, the word that the protocol has for it, and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) reason: String,
}

impl Refusal {
    fn new(status: StatusCode, code: &'static str, reason: impl Into<String>) -> Refusal {
        Refusal { status, code, reason: reason.into() }
    }

    pub(crate) fn malformed(reason: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, "invalid_argument", reason)
    }

    pub(crate) fn missing(reason: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::NOT_FOUND, "not_found", reason)
    }

    pub(crate) fn there(reason: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::CONFLICT, "already_exists", reason)
    }

    pub(crate) fn forbidden(reason: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::FORBIDDEN, "permission_denied", reason)
    }

    pub(crate) fn unknown() -> Refusal {
        Refusal::new(StatusCode::UNAUTHORIZED, "unauthenticated", "the token is not the one of this step")
    }

    /// More than there is room for. Not a status that clients try again.
    pub(crate) fn too_much(reason: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "failed_precondition", reason)
    }

    pub(crate) fn response(&self) -> Response<Body> {
        json_of(self.status, &json!({ "code": self.code, "msg": self.reason, "message": self.reason }))
    }
}

impl From<KeeperError> for Refusal {
    fn from(error: KeeperError) -> Refusal {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", error.to_string())
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Refusal {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", format!("the agent's disk: {error}"))
    }
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// An empty answer.
pub(crate) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = status;
    response
}

/// A JSON document.
pub(crate) fn json_of(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(full(value.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// `length` bytes of a file, from `start`.
pub(crate) fn file(status: StatusCode, content: Arc<File>, content_type: &'static str, start: u64, length: u64) -> Response<Body> {
    let pieces = stream::unfold((content, start, length), |(content, at, left)| async move {
        if left == 0 {
            return None;
        }
        let mut piece = vec![0; left.min(PIECE) as usize];
        // Of a file that was written a moment ago: it comes from memory.
        match content.read_at(&mut piece, at) {
            Ok(0) => Some((Err(io::ErrorKind::UnexpectedEof.into()), (content, at, 0))),
            Ok(read) => {
                piece.truncate(read);
                Some((Ok(Frame::data(Bytes::from(piece))), (content, at + read as u64, left - read as u64)))
            }
            Err(error) => Some((Err(error), (content, at, 0))),
        }
    });
    let mut response = Response::new(StreamBody::new(pieces).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    response
}
