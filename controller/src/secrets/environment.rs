//! Secrets that stand in the controller's own environment under their names. Only those that the operator listed: a
//! workflow cannot name its way to the rest.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStringExt;

use caisson_model::secret::SecretValue;

use crate::secrets::{OpenError, Opening, Provider, SecretRef};

/// Variables of this process, read when a step opens them.
#[derive(Clone, Debug)]
pub struct Environment(BTreeSet<String>);

impl Environment {
    /// These variables.
    pub fn new(names: impl IntoIterator<Item = String>) -> Environment {
        Environment(names.into_iter().collect())
    }
}

impl Provider for Environment {
    fn names(&self) -> Vec<String> {
        self.0.iter().cloned().collect()
    }

    fn open<'a>(&'a self, secret: &'a SecretRef) -> Opening<'a> {
        let read = || {
            if !self.0.contains(&secret.0) {
                return Ok(None);
            }
            let value = std::env::var_os(&secret.0).ok_or_else(|| OpenError {
                name: secret.0.clone(),
                provider: "the environment",
                reason: "the variable is not set any more".to_owned(),
            })?;
            Ok(Some(SecretValue::new(value.into_vec())))
        };
        Box::pin(std::future::ready(read()))
    }
}
