//! What can be wrong with an expression, and where.

use std::fmt;

/// Byte range inside the parsed text, end exclusive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

impl Span {
    /// A span from `start` up to, not including, `end`.
    pub const fn new(start: usize, end: usize) -> Span {
        Span { start, end }
    }

    /// The same range, moved right by `offset` bytes; used when the text was part of a larger one.
    pub const fn shifted(self, offset: usize) -> Span {
        Span { start: self.start + offset, end: self.end + offset }
    }
}

/// At which stage an expression was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// A character sequence is no token.
    Lexing,
    /// The tokens form no expression, or name a function or context that does not exist here.
    Parsing,
    /// The expression is well formed, but its value cannot be computed.
    Evaluation,
}

impl ErrorKind {
    /// `lexing`, `parsing` or `evaluation`.
    pub const fn as_str(self) -> &'static str {
        match self {
            ErrorKind::Lexing => "lexing",
            ErrorKind::Parsing => "parsing",
            ErrorKind::Evaluation => "evaluation",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why an expression was refused. Always the fault of whoever wrote the expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ExprError {
    /// The stage that refused it.
    pub kind: ErrorKind,
    /// The reason, lower case, without a full stop.
    pub message: String,
    /// Where, in bytes of the text given to `parse`.
    pub span: Span,
}

impl ExprError {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>, span: Span) -> ExprError {
        ExprError { kind, message: message.into(), span }
    }

    /// The reason as the language's own implementations word it, for the expression `text` that was refused.
    pub fn official(&self, text: &str) -> String {
        let mut message = self.message.clone();
        // A function's name keeps its case; every other reason begins a sentence.
        if let Some(first) = message.get(..1).filter(|_| !message.starts_with("case ")) {
            message.replace_range(..1, &first.to_ascii_uppercase());
        }
        if self.kind == ErrorKind::Evaluation || message.starts_with("Exceeded") {
            return message;
        }
        let before = text.get(..self.span.start).unwrap_or_default();
        format!("{message}. Located at position {} within expression: {text}", before.encode_utf16().count() + 1)
    }

    pub(crate) fn shifted(mut self, offset: usize) -> ExprError {
        self.span = self.span.shifted(offset);
        self
    }
}
