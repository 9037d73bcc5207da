//! What the caller supplies to an evaluation: contexts, the status of the job, files.

use crate::functions::Function;
use crate::value::{Object, Value};

/// The outside world of an expression.
pub trait Context {
    /// The value of a context such as `github`; `None` when it is not available at this place, which is an error of
    /// the expression. Names come as written: compare without regard to case.
    fn named(&self, name: &str) -> Option<Value>;

    /// Answers `success()`, `failure()`, `always()`, `cancelled()`; the arguments are those given, usually none.
    ///
    /// # Errors
    /// The reason why the function is not available here.
    fn status(&self, function: Function, arguments: &[Value]) -> Result<bool, String> {
        let _ = arguments;
        Err(format!("{function}() is not available here"))
    }

    /// Answers `hashFiles(...)`: one digest over all files that the patterns match, empty when they match none.
    ///
    /// # Errors
    /// The reason why there is no digest.
    fn hash_files(&self, patterns: &[String]) -> Result<String, String> {
        let _ = patterns;
        Err("hashFiles() is not available here".to_owned())
    }
}

/// How the job, or the jobs that it needs, fared so far; what the status functions ask about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Status {
    /// Nothing failed.
    #[default]
    Success,
    /// Something failed.
    Failure,
    /// The run was cancelled.
    Cancelled,
    /// Something that is needed was skipped: neither success nor failure.
    Skipped,
}

impl Status {
    /// What a status function answers in this state; `None` for functions of another sort.
    pub fn answer(self, function: Function) -> Option<bool> {
        match function {
            Function::Success => Some(self == Status::Success),
            Function::Failure => Some(self == Status::Failure),
            Function::Cancelled => Some(self == Status::Cancelled),
            Function::Always => Some(true),
            _ => None,
        }
    }
}

/// Contexts held in memory, with a status if the place has one and no files: enough for planning and tests.
#[derive(Clone, Debug, Default)]
pub struct Contexts {
    values: Object,
    status: Option<Status>,
}

impl Contexts {
    /// No contexts, no status.
    pub fn new() -> Contexts {
        Contexts::default()
    }

    /// The same with one context more.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Contexts {
        self.values.insert(name, value);
        self
    }

    /// The same with the status functions answered from `status`.
    #[must_use]
    pub fn with_status(mut self, status: Status) -> Contexts {
        self.status = Some(status);
        self
    }
}

impl Context for Contexts {
    fn named(&self, name: &str) -> Option<Value> {
        self.values.get(name).cloned()
    }

    fn status(&self, function: Function, _arguments: &[Value]) -> Result<bool, String> {
        self.status.and_then(|status| status.answer(function)).ok_or_else(|| format!("{function}() is not available here"))
    }
}
