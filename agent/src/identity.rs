//! Who this agent is to its controller: a key, a certificate, and the authority to believe. Kept in one file that only its
//! owner reads; renewed at half of its life, while jobs run.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use caisson_model::time::Timestamp;
use caisson_proto::api::ApiError;
use caisson_proto::fleet::{Certified, FleetApi};
use caisson_proto::tls;
use rcgen::{CertificateParams, KeyPair};
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::retry::Backoff;

const FILE: &str = "identity.json";
/// The key of a renewal that was begun: a renewal whose answer was lost is asked for again with the same key.
const PENDING: &str = "pending.key";

/// An identity cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be read or written.
    #[error("{act} {}", path.display())]
    File {
        /// What was tried.
        act: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not what was written.
    #[error("use the identity in {}: the file is damaged; join again", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
    },
    /// A key cannot be made.
    #[error("make a key")]
    Key(#[from] rcgen::Error),
    /// The certificate and the key do not work.
    #[error("use the certificate that the controller gave")]
    Certificate(#[source] ApiError),
}

/// A new key and the request to certify it.
pub struct Request {
    /// The key, PEM.
    pub key: String,
    /// PKCS #10, DER. It names nobody: the controller would not look.
    pub request: Vec<u8>,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Request")
    }
}

impl Request {
    /// A new one.
    ///
    /// # Errors
    /// [`IdentityError::Key`].
    pub fn new() -> Result<Request, IdentityError> {
        Request::of(KeyPair::generate()?)
    }

    fn of(key: KeyPair) -> Result<Request, IdentityError> {
        let request = CertificateParams::default().serialize_request(&key)?;
        Ok(Request { key: key.serialize_pem(), request: request.der().to_vec() })
    }
}

/// An identity as it is kept.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The controller's address.
    pub controller: String,
    /// The agent's name.
    pub agent: String,
    /// Its pool.
    pub pool: String,
    /// From when the certificate counts.
    pub begins: Timestamp,
    /// Until when.
    pub ends: Timestamp,
    /// The authority's certificate, DER in base64.
    authority: String,
    /// The agent's, DER in base64.
    certificate: String,
    /// Its key, PEM.
    key: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("agent", &self.agent).field("controller", &self.controller).finish_non_exhaustive()
    }
}

impl Identity {
    /// What a controller certified for a key.
    pub fn new(controller: &str, certified: Certified, key: String) -> Identity {
        let Certified { agent, pool, certificate, authority, begins, ends } = certified;
        let (authority, certificate) = (BASE64.encode(authority), BASE64.encode(certificate));
        Identity { controller: controller.to_owned(), agent: agent.0, pool, begins, ends, authority, certificate, key }
    }

    /// Reads the one in `directory`, if there is one. Blocks.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn load(directory: &Path) -> Result<Option<Identity>, IdentityError> {
        let path = directory.join(FILE);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|_| IdentityError::Damaged { path }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(IdentityError::File { act: "read", path, source }),
        }
    }

    /// Writes it, whole or not at all. Blocks.
    ///
    /// # Errors
    /// [`IdentityError::File`].
    pub fn save(&self, directory: &Path) -> Result<(), IdentityError> {
        let path = directory.join(FILE);
        let failed = |source| IdentityError::File { act: "make", path: directory.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        let text = serde_json::to_vec(self).map_err(|_| IdentityError::Damaged { path: path.clone() })?;
        write(&path, &text)
    }

    /// The authority's certificate, DER.
    ///
    /// # Errors
    /// [`IdentityError::Damaged`].
    pub fn authority(&self) -> Result<Vec<u8>, IdentityError> {
        BASE64.decode(&self.authority).map_err(|_| IdentityError::Damaged { path: FILE.into() })
    }

    /// The certificate and key as a connection uses them.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn certified(&self) -> Result<tls::Identity, IdentityError> {
        let certificate = BASE64.decode(&self.certificate).map_err(|_| IdentityError::Damaged { path: FILE.into() })?;
        tls::Identity::new(certificate, &self.key).map_err(IdentityError::Certificate)
    }

    /// How long until half of its life is over; zero when it is.
    fn until_half(&self) -> Duration {
        let half = self.begins.after(self.ends.since(self.begins) / 2);
        half.since(clock::now())
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), IdentityError> {
    let failed = |source| IdentityError::File { act: "write", path: path.to_owned(), source };
    let part = path.with_extension("part");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&part, path).map_err(failed)?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
}

/// The key of the next certificate: the one of a renewal that was begun, or a new one, written down before it is used.
fn pending(directory: &Path) -> Result<Request, IdentityError> {
    let path = directory.join(PENDING);
    if let Ok(text) = fs::read_to_string(&path)
        && let Ok(key) = KeyPair::from_pem(&text)
    {
        return Request::of(key);
    }
    let request = Request::new()?;
    write(&path, request.key.as_bytes())?;
    Ok(request)
}

/// Renews an identity at half of its life, for ever; connections that are opened afterwards use the new one. Ends when the
/// controller refuses, or when the disk does.
///
/// # Errors
/// [`RenewError`].
pub async fn keep(api: impl FleetApi, directory: PathBuf, mut identity: Identity, used: tls::Identity) -> Result<(), RenewError> {
    loop {
        tokio::time::sleep(identity.until_half()).await;
        let folder = directory.clone();
        let request = tokio::task::spawn_blocking(move || pending(&folder)).await.map_err(|_| RenewError::Thread)??;
        let mut backoff = Backoff::new();
        let certified = loop {
            match api.renew_certificate(request.request.clone()).await {
                Ok(certified) => break certified,
                Err(error) if error.is_transient() || matches!(error, ApiError::Broken(_)) => {
                    tracing::warn!(%error, "certificate was not renewed");
                    tokio::time::sleep(backoff.pause()).await;
                }
                Err(error) => return Err(RenewError::Refused(error)),
            }
        };
        identity = Identity::new(&identity.controller, certified, request.key);
        let (folder, new) = (directory.clone(), identity.clone());
        let saved = move || {
            new.save(&folder)?;
            // It is in the identity now; if it stays behind, the next renewal uses the same key once more, which is refused nowhere.
            let _gone = fs::remove_file(folder.join(PENDING));
            Ok::<_, IdentityError>(())
        };
        tokio::task::spawn_blocking(saved).await.map_err(|_| RenewError::Thread)??;
        let certificate = BASE64.decode(&identity.certificate).map_err(|_| IdentityError::Damaged { path: FILE.into() })?;
        used.replace(certificate, &identity.key).map_err(IdentityError::Certificate)?;
        tracing::info!(ends = identity.ends.0, "certificate renewed");
    }
}

/// An identity is renewed no more.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// The controller does not want this agent any more.
    #[error("renew the agent's certificate")]
    Refused(#[source] ApiError),
    /// The files do not work.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A thread ended early.
    #[error("renew the agent's certificate: a thread ended early")]
    Thread,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_identity_is_kept_for_its_owner_alone_and_a_begun_renewal_keeps_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("identity");
        assert!(Identity::load(&home).unwrap().is_none());
        let certified = Certified {
            agent: caisson_model::id::AgentName("a".into()),
            pool: "p".into(),
            certificate: vec![1],
            authority: vec![2],
            begins: Timestamp(1),
            ends: Timestamp(9),
        };
        Identity::new("https://c:1", certified, "KEY".into()).save(&home).unwrap();
        let back = Identity::load(&home).unwrap().unwrap();
        assert_eq!((back.agent.as_str(), back.authority().unwrap()), ("a", vec![2]));
        assert!(!format!("{back:?}").contains("KEY"));
        let mode = |name: &str| fs::metadata(home.join(name)).unwrap().permissions().mode() & 0o777;
        let first = pending(&home).unwrap();
        assert_eq!(pending(&home).unwrap().key, first.key);
        assert_eq!((mode(FILE), mode(PENDING)), (0o600, 0o600));
    }
}
