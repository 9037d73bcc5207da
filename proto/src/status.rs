//! [`ApiError`] <-> gRPC status. The whole error stands in the status' details, so that a caller over the wire sees what a caller in the same process sees.

use prost::Message;
use tonic::{Code, Status};

use crate::api::ApiError;
use crate::convert::{Cross, Malformed};
use crate::tls;
use crate::wire;

/// Trailers are HTTP/2 headers, which both sides bound; details are written there in base64.
pub(crate) const MAX_HEADERS: u32 = 128 * 1024;
const MAX_DETAILS: usize = 64 * 1024;
const MAX_TEXT: usize = 8 * 1024;
const MAX_TITLE: usize = 512;

/// The most bytes of one message. A job's spec carries its workflow's scripts and contexts; a step's result up to 1 MiB of summary.
pub(crate) const MAX_MESSAGE: usize = 64 * 1024 * 1024;

pub(crate) fn status(error: ApiError) -> Status {
    let code = match &error {
        ApiError::Fenced => Code::Aborted,
        ApiError::NotFound(_) => Code::NotFound,
        ApiError::Invalid(_) => Code::InvalidArgument,
        ApiError::Rejected(_) => Code::FailedPrecondition,
        ApiError::Denied(_) => Code::PermissionDenied,
        ApiError::Spent(_) => Code::AlreadyExists,
        ApiError::Unavailable(_) => Code::Unavailable,
        ApiError::Broken(_) => Code::Internal,
    };
    let error = bounded(error);
    let mut title = error.to_string();
    shorten(&mut title, MAX_TITLE);
    Status::with_details(code, title, error.out().encode_to_vec().into())
}

/// The error that `status` carries; one without details comes from the transport and not from the other side's service.
pub(crate) fn api_error(status: Status) -> ApiError {
    if !status.details().is_empty() {
        let failure = wire::Failure::decode(status.details()).map_err(|_| Malformed::new("is an encoded Failure"));
        return match failure.and_then(ApiError::back) {
            Ok(error) => error,
            Err(malformed) => ApiError::Broken(format!("details of its status: {malformed}")),
        };
    }
    match status.code() {
        Code::Unimplemented | Code::OutOfRange | Code::ResourceExhausted | Code::InvalidArgument => {
            ApiError::Broken(status.message().to_owned())
        }
        _ => {
            let reason = reason(&status);
            // What ended the connection is known by its text only: the HTTP/2 library keeps no more of it.
            let distrust = tls::DISTRUST.iter().any(|alert| reason.contains(&format!("fatal alert: {alert}")));
            if distrust {
                ApiError::Denied(format!("the controller does not accept this certificate: {reason}"))
            } else {
                ApiError::Unavailable(reason)
            }
        }
    }
}

fn reason(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        source = error.source();
    }
    if text.is_empty() { status.code().description().to_owned() } else { text }
}

fn bounded(mut error: ApiError) -> ApiError {
    match &mut error {
        ApiError::NotFound(text) | ApiError::Invalid(text) | ApiError::Denied(text) => shorten(text, MAX_TEXT),
        ApiError::Spent(text) | ApiError::Unavailable(text) | ApiError::Broken(text) => shorten(text, MAX_TEXT),
        ApiError::Rejected(diagnostics) => {
            let mut left = MAX_DETAILS;
            let fits = diagnostics.iter().position(|diagnostic| {
                let size = diagnostic.clone().out().encoded_len() + 8;
                let over = size > left;
                left = left.saturating_sub(size);
                over
            });
            diagnostics.truncate(fits.unwrap_or(diagnostics.len()));
        }
        ApiError::Fenced => {}
    }
    error
}

fn shorten(text: &mut String, limit: usize) {
    if text.len() > limit {
        let end = (0..=limit - 3).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push_str("...");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_error_survives_its_status() {
        let text = || "field x: rule y \u{1F512}".to_owned();
        let errors = [
            ApiError::Fenced,
            ApiError::NotFound(text()),
            ApiError::Invalid(text()),
            ApiError::Rejected(Vec::new()),
            ApiError::Denied(text()),
            ApiError::Spent(text()),
            ApiError::Unavailable(text()),
            ApiError::Broken(text()),
        ];
        for error in errors {
            assert_eq!(api_error(status(error.clone())), error);
        }
    }

    #[test]
    fn what_has_no_details_is_the_transport() {
        for code in [Code::Unknown, Code::Cancelled, Code::Unavailable, Code::Internal, Code::DeadlineExceeded] {
            assert!(api_error(Status::new(code, "h2")).is_transient(), "{code:?}");
        }
        assert!(!api_error(Status::new(Code::Unimplemented, "")).is_transient());
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let cut = api_error(status(ApiError::Invalid("\u{1F512}".repeat(10_000))));
        assert!(matches!(cut, ApiError::Invalid(text) if text.len() <= MAX_TEXT && text.ends_with("...")));
    }
}
