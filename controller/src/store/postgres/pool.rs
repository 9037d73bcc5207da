//! Connections for whoever has something short to do. A connection that fails is not used again.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::store::journal::StoreError;
use crate::store::postgres::line::Line;

/// How many are kept while nobody uses them.
const IDLE: usize = 4;

/// The connections.
pub(super) struct Pool {
    url: String,
    idle: Mutex<Vec<Line>>,
}

impl Pool {
    pub(super) fn new(url: &str, first: Option<Line>) -> Pool {
        Pool { url: url.to_owned(), idle: Mutex::new(first.into_iter().collect()) }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Line>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with a connection. Blocks.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut Line) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let kept = self.idle().pop();
        let mut line = match kept {
            Some(open) if !open.is_closed() => open,
            _ => Line::open(&self.url)?,
        };
        let done = work(&mut line)?;
        let mut idle = self.idle();
        if idle.len() < IDLE {
            idle.push(line);
        }
        Ok(done)
    }
}
