//! The `${{ }}` expression language: text in, value or error out. No files, no clock, no network.
//!
//! # Words
//! - **expression**: what stands between `${{` and `}}`, without these marks ([`Expression`]).
//! - **template**: a text in which expressions are embedded ([`Template`]).
//! - **condition**: the text of an `if:`, with or without the marks ([`Condition`]).
//! - **context**: a named value such as `github` or `matrix`; the caller supplies them through [`Context`].
//! - **status function**: `success()`, `failure()`, `always()`, `cancelled()`; answered by the caller.
//! - **span**: byte range inside the text that was parsed.
//!
//! # Invariants
//! - No input makes this crate panic, recurse deeper than [`MAX_DEPTH`], or build results beyond [`MAX_RESULT`].
//! - Evaluation has no effect besides the calls of the caller's [`Context`].
//! - Nothing here knows which contexts exist or which key may use them: that is the caller's table, asked by
//!   [`Expression::check`].
//!
//! # Entry points
//! [`Expression::parse`], [`Template::parse`], [`Condition::parse`], [`evaluate()`], [`condition()`].

pub mod context;
pub mod error;
pub mod evaluate;
pub mod functions;
mod json;
mod lexer;
mod number;
pub mod parser;
pub mod template;
pub mod value;

pub use context::{Context, Contexts, Status};
pub use error::{ErrorKind, ExprError, Span};
pub use evaluate::{MAX_RESULT, evaluate};
pub use functions::Function;
pub use parser::{Call, Expression, MAX_DEPTH, MAX_LENGTH, Path, Segment};
pub use template::{Condition, Part, Template, condition};
pub use value::{Array, Kind, Object, Value};
