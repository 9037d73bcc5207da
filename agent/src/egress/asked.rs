//! The names that a step asked for.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// How many different names are written down; more are counted by the ledger's own bound on entries.
const MOST_NAMES: usize = 2000;

/// Which names were written down already: each once a step and verdict, however often it is asked for.
#[derive(Debug, Default)]
pub(super) struct Asked(Mutex<HashSet<String>>);

impl Asked {
    /// Whether a name is asked for the first time.
    pub(super) fn first(&self, name: &str) -> bool {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.len() < MOST_NAMES && names.insert(name.to_owned())
    }
}
