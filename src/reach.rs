//! How a command reaches a controller: address, authority and token from flags, environment and configuration.

use std::path::{Path, PathBuf};

use caisson_controller::identity::token::{Token, sha256};
use caisson_model::outcome::Fault;
use caisson_proto::api::ApiError;
use caisson_proto::client::{Bearer, Client, Credentials, DEFAULT_PORT};
use caisson_proto::tls::Tls;

use crate::cli::fleet::Reach;
use crate::commands::surroundings;
use crate::config::{Config, Environment, Flags};
use crate::embedded::CallError;
use crate::report::{Explained, Failure};

/// A controller cannot be reached as it is told to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReachError {
    /// Nobody said where it is.
    #[error("which controller?")]
    Nowhere,
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What should be a token is none.
    #[error("the token {from} is not usable: {reason}")]
    Token {
        /// Where it came from.
        from: String,
        /// Why.
        reason: String,
    },
    /// The authority's certificate does not work.
    #[error("the authority's certificate is not usable")]
    Authority(#[source] ApiError),
}

impl Explained for ReachError {
    fn fault(&self) -> Fault {
        Fault::User
    }

    fn help(&self) -> Option<String> {
        match self {
            ReachError::Nowhere => Some(
                "give --controller https://HOST:PORT, set CAISSON_CONTROLLER, or write `controller = \"...\"` into config.toml; on this machine alone, `caisson controller` prints its address".to_owned(),
            ),
            ReachError::Token { .. } => Some("`caisson token create --scope submit` makes one, on the controller's machine".to_owned()),
            _ => None,
        }
    }
}

/// A settled way to a controller.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    /// Its address.
    pub(crate) url: String,
    credentials: Credentials,
}

/// `HOST:PORT` or `HOST` mean `https://HOST:PORT`; several are separated by commas.
pub(crate) fn url_of(text: &str) -> String {
    if text.contains(',') {
        return text.split(',').map(|one| url_of(one.trim())).collect::<Vec<_>>().join(",");
    }
    if text.contains("://") {
        return text.trim_end_matches('/').to_owned();
    }
    let port = text.rsplit_once(':').is_some_and(|(host, port)| {
        !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) && (!host.contains(':') || host.ends_with(']'))
    });
    if port { format!("https://{text}") } else { format!("https://{text}:{DEFAULT_PORT}") }
}

fn read(path: &Path) -> Result<String, ReachError> {
    std::fs::read_to_string(path).map_err(|source| ReachError::File { path: path.to_owned(), source })
}

impl Way {
    /// Settles it. Reads files; talks to nobody.
    pub(crate) fn settle(reach: &Reach) -> Result<Way, Failure> {
        let (environment, root) = surroundings();
        let config = Config::settle(&environment, root, Flags { reach: reach.clone(), ..Flags::default() })?;
        Ok(Way::of(&config, &environment)?)
    }

    /// From settings.
    pub(crate) fn of(config: &Config, environment: &Environment) -> Result<Way, ReachError> {
        let url = url_of(config.controller.value.as_deref().ok_or(ReachError::Nowhere)?);
        let given = environment.get(std::ffi::OsStr::new("CAISSON_TOKEN")).filter(|text| !text.is_empty());
        let text = match (&config.token_file.value, given) {
            (Some(path), _) => Some((read(path)?, format!("in {}", path.display()))),
            (None, Some(text)) => Some((text.to_string_lossy().into_owned(), "in CAISSON_TOKEN".to_owned())),
            (None, None) => None,
        };
        let token = text.map(|(text, from)| match Token::parse(&text) {
            Ok(token) => Ok(token),
            Err(error) => Err(ReachError::Token { from, reason: error.to_string() }),
        });
        let token = token.transpose()?;
        let tls = match (&config.ca.value, &token) {
            (Some(path), _) => Some(Tls::of_authority(read(path)?.as_bytes(), None)),
            (None, Some(token)) => Some(Tls::of_pin(token.pin, sha256, None)),
            (None, None) => None,
        };
        let tls = tls.transpose().map_err(ReachError::Authority)?;
        Ok(Way { url, credentials: Credentials { tls, bearer: token.map(|token| Bearer(token.text())) } })
    }

    /// Connects.
    pub(crate) async fn connect(&self) -> Result<Client, CallError> {
        let failed = |source| CallError { act: format!("reach the controller {}", self.url), source };
        Client::connect_with(&self.url, self.credentials.clone()).await.map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_scheme_is_taken_for_a_protected_one() {
        for (text, url) in [
            ("ci.example.com", "https://ci.example.com:7717"),
            ("ci.example.com:1", "https://ci.example.com:1"),
            ("[::1]:1", "https://[::1]:1"),
            ("http://127.0.0.1:7717/", "http://127.0.0.1:7717"),
            ("a:1, b", "https://a:1,https://b:7717"),
        ] {
            assert_eq!(url_of(text), url);
        }
    }
}
