//! Secrets that the embedding command handed over, from a flag or a prompt.

use std::collections::BTreeMap;
use std::fmt;

use caisson_model::secret::SecretValue;

use crate::secrets::{Opening, Provider, SecretRef};

/// Values in memory, wiped when the controller ends.
pub struct Given(BTreeMap<String, SecretValue>);

impl Given {
    /// These secrets.
    pub fn new(secrets: impl IntoIterator<Item = (String, SecretValue)>) -> Given {
        Given(secrets.into_iter().collect())
    }
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Given").field(&self.0.keys().collect::<Vec<_>>()).finish()
    }
}

impl Provider for Given {
    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn open<'a>(&'a self, secret: &'a SecretRef) -> Opening<'a> {
        Box::pin(std::future::ready(Ok(self.0.get(&secret.0).cloned())))
    }
}
