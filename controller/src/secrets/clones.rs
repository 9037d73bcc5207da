//! The tokens with which checkout steps clone private repositories. They are on no list of names, so that no workflow gets one
//! by asking for it.

use std::collections::BTreeMap;
use std::fmt;

use caisson_model::secret::{CLONE_CREDENTIAL, SecretValue};

use crate::secrets::{Opening, Provider, SecretRef};
use crate::triggers::settings::Repository;

/// Tokens by the name of the secret.
pub struct Clones(BTreeMap<String, SecretValue>);

impl Clones {
    /// Those of these repositories that have one.
    pub fn of(repositories: &[Repository]) -> Clones {
        let token = |repository: &Repository| {
            let token = repository.clone_token.as_ref()?;
            Some((format!("{CLONE_CREDENTIAL}{}", repository.name), SecretValue::new(token.clone().into_bytes())))
        };
        Clones(repositories.iter().filter_map(token).collect())
    }
}

impl fmt::Debug for Clones {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clones").field(&self.0.keys().collect::<Vec<_>>()).finish()
    }
}

impl Provider for Clones {
    fn names(&self) -> Vec<String> {
        Vec::new()
    }

    fn open<'a>(&'a self, secret: &'a SecretRef) -> Opening<'a> {
        Box::pin(std::future::ready(Ok(self.0.get(&secret.0).cloned())))
    }
}
