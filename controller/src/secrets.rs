//! Where secrets come from. A name becomes a value when a step opens it, and not before; values are never written down here.

pub mod clones;
pub mod environment;
pub mod given;

use std::collections::BTreeSet;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use caisson_model::secret::{OpenedSecrets, SecretValue};

/// A secret's name: what a workflow writes after `secrets.`, and all that is ever journalled of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretRef(pub String);

/// A provider could not say what a secret is.
#[derive(Debug, thiserror::Error)]
#[error("open secret {name} from {provider}: {reason}")]
pub struct OpenError {
    /// The secret.
    pub name: String,
    /// The provider.
    pub provider: &'static str,
    /// Why, without the value.
    pub reason: String,
}

/// The answer of a provider: `None` when it does not have the secret.
pub type Opening<'a> = Pin<Box<dyn Future<Output = Result<Option<SecretValue>, OpenError>> + Send + 'a>>;

/// Something that has secrets.
pub trait Provider: Send + Sync + 'static {
    /// The names that it has.
    fn names(&self) -> Vec<String>;

    /// The value of one, now.
    fn open<'a>(&'a self, secret: &'a SecretRef) -> Opening<'a>;
}

/// All providers, the first one that has a secret wins. Clones share them.
#[derive(Clone, Default)]
pub struct Secrets {
    providers: Arc<Vec<Box<dyn Provider>>>,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Secrets").field(&self.names()).finish()
    }
}

impl Secrets {
    /// These providers, the most important first.
    pub fn new(providers: Vec<Box<dyn Provider>>) -> Secrets {
        Secrets { providers: Arc::new(providers) }
    }

    /// Every name that some provider has.
    pub fn names(&self) -> BTreeSet<String> {
        self.providers.iter().flat_map(|provider| provider.names()).collect()
    }

    /// The values of these. A name that nobody has is left out: it is empty, as the workflow language wants it.
    ///
    /// # Errors
    /// [`OpenError`] when a provider that has it cannot give it.
    pub async fn open(&self, names: &[String]) -> Result<OpenedSecrets, OpenError> {
        let mut opened = OpenedSecrets::default();
        for name in names {
            let secret = SecretRef(name.clone());
            for provider in self.providers.iter() {
                if let Some(value) = provider.open(&secret).await? {
                    opened.secrets.push((secret.0, value));
                    break;
                }
            }
        }
        Ok(opened)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::secrets::environment::Environment;
    use crate::secrets::given::Given;

    #[tokio::test]
    async fn the_first_provider_wins_and_nothing_shows_a_value() {
        let given = Given::new([("TOKEN".to_owned(), SecretValue::new(b"hunter2".to_vec()))]);
        let home = std::env::var("PATH").unwrap();
        let secrets = Secrets::new(vec![Box::new(given), Box::new(Environment::new(["PATH".to_owned(), "TOKEN".to_owned()]))]);
        assert_eq!(secrets.names().into_iter().collect::<Vec<_>>(), ["PATH", "TOKEN"]);
        let opened = secrets.open(&["TOKEN".to_owned(), "PATH".to_owned(), "NOBODY".to_owned()]).await.unwrap();
        let values: Vec<_> = opened.secrets.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
        assert_eq!(values, [("TOKEN", b"hunter2".as_slice()), ("PATH", home.as_bytes())]);
        assert!(!format!("{secrets:?} {opened:?}").contains("hunter2"));
    }
}
