//! What came of an act.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What came of one act.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Which.
    pub result: Result,
    /// What the kernel or the sandbox answered, or why it was not tried. One line.
    pub detail: String,
}

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Result {
    /// The act failed, as it must in a sandbox.
    #[serde(rename = "refused")]
    Refused,
    /// The act had its effect.
    #[serde(rename = "SUCCEEDED")]
    Succeeded,
    /// It could not be tried here.
    #[serde(rename = "skipped")]
    Skipped,
    /// The act ended without a verdict, so nothing is known: counts as if it had succeeded.
    #[serde(rename = "unknown")]
    Unknown,
}

impl Result {
    /// The word for it, as shown and serialised.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Succeeded => "SUCCEEDED",
            Self::Skipped => "skipped",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Result {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.word())
    }
}

impl Verdict {
    /// The act failed.
    pub fn refused(detail: impl fmt::Display) -> Self {
        Self { result: Result::Refused, detail: line(&detail) }
    }

    /// The act had its effect.
    pub fn succeeded(detail: impl fmt::Display) -> Self {
        Self { result: Result::Succeeded, detail: line(&detail) }
    }

    /// It could not be tried.
    pub fn skipped(reason: impl fmt::Display) -> Self {
        Self { result: Result::Skipped, detail: line(&reason) }
    }

    /// Nothing is known.
    pub fn unknown(detail: impl fmt::Display) -> Self {
        Self { result: Result::Unknown, detail: line(&detail) }
    }

    /// Refused with the error, or what success says.
    pub fn of<T, E: fmt::Display>(result: std::result::Result<T, E>, done: impl fmt::Display) -> Self {
        match result {
            Ok(_) => Self::succeeded(done),
            Err(error) => Self::refused(error),
        }
    }
}

fn line(text: &impl fmt::Display) -> String {
    text.to_string().replace(['\n', '\r'], " ")
}
