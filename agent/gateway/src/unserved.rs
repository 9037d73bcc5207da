//! Why a request is not served, in words for whoever reads the step's output.

use hyper::StatusCode;

/// Why a request is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unserved {
    /// The status of the answer.
    pub status: StatusCode,
    /// Why.
    pub reason: String,
    /// What kind of reason.
    pub kind: Kind,
}

/// What kind of reason a request is not served for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It is none that this gateway passes.
    Refused,
    /// The index does not have it.
    Absent,
    /// The index could not be asked, or answered wrongly.
    Failed,
}

impl Unserved {
    /// It is not a request that passes.
    pub(crate) fn refused(reason: impl Into<String>) -> Unserved {
        Unserved { status: StatusCode::FORBIDDEN, reason: reason.into(), kind: Kind::Refused }
    }

    /// The index does not have it.
    pub(crate) fn absent(reason: impl Into<String>) -> Unserved {
        Unserved { status: StatusCode::NOT_FOUND, reason: reason.into(), kind: Kind::Absent }
    }

    /// The index could not be asked. Clients ask again after this one.
    pub(crate) fn failed(reason: impl Into<String>) -> Unserved {
        Unserved { status: StatusCode::BAD_GATEWAY, reason: reason.into(), kind: Kind::Failed }
    }

    /// The index could not be asked, and asking again would not help.
    pub(crate) fn failed_for_good(reason: impl Into<String>) -> Unserved {
        Unserved { status: StatusCode::FORBIDDEN, reason: reason.into(), kind: Kind::Failed }
    }
}
