//! From a controller that stands by to the one that leads, as a client.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use caisson_proto::api::ApiError;
use caisson_proto::client::{Bearer, Client, Credentials};
use caisson_proto::fleet::{TokenKind, TokenWish};
use caisson_proto::tls::Tls;

use crate::identity::registry::Registry;
use crate::identity::token::{Token, sha256};

/// How long the token of a controller that stands by counts, and how early it is made anew.
const TOKEN: Duration = Duration::from_secs(3600);
const EARLY: Duration = Duration::from_secs(600);

/// The way to the leader.
pub(super) struct Way {
    registry: Option<Registry>,
    open: Mutex<Option<(String, Instant, Client)>>,
}

impl Way {
    pub(super) fn new(registry: Option<Registry>) -> Way {
        Way { registry, open: Mutex::default() }
    }

    /// A connection to the leader. Where it takes tokens this controller makes one that reads, which the shared roll knows.
    pub(super) async fn to(&self, address: &str) -> Result<Client, ApiError> {
        let kept = self.open.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((at, until, client)) = kept
            && at == address
            && until > Instant::now()
        {
            return Ok(client);
        }
        let mut credentials = Credentials::default();
        if let Some(registry) = &self.registry {
            let (kind, name, lifetime) = (TokenKind::Api, "a controller that stands by".to_owned(), TOKEN);
            let wish = TokenWish { kind, name, pool: String::new(), scopes: vec!["read".to_owned()], lifetime };
            let made = registry.create_token("local".to_owned(), wish).await?;
            let token = Token::parse(&made.token).map_err(|error| ApiError::Broken(error.to_string()))?;
            let pin = |bytes: &[u8]| sha256(bytes);
            credentials = Credentials { tls: Some(Tls::of_pin(token.pin, pin, None)?), bearer: Some(Bearer(made.token)) };
        }
        let client = Client::connect_with(address, credentials).await?;
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((address.to_owned(), Instant::now() + TOKEN - EARLY, client.clone()));
        Ok(client)
    }
}
