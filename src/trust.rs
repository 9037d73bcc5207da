//! Which checkouts' own policies the user has seen and accepted: checkout and digest, in the user's state folder.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use caisson_model::id::Digest;
use caisson_model::outcome::Fault;

use crate::config::Places;
use crate::report::Explained;

/// What is trusted.
#[derive(Debug)]
pub(crate) struct Ledger {
    path: PathBuf,
    entries: BTreeMap<PathBuf, Digest>,
}

/// How a policy stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Exactly this content was accepted.
    Trusted,
    /// Another content was.
    Changed,
    /// Nothing of this checkout was.
    Unknown,
}

/// The ledger cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrustError {
    /// The disk refused.
    #[error("cannot {act} {}", path.display())]
    Disk {
        /// What was tried.
        act: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The file is not what this program wrote.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How.
        reason: String,
    },
}

impl Explained for TrustError {
    fn fault(&self) -> Fault {
        Fault::Environment
    }

    fn help(&self) -> Option<String> {
        match self {
            TrustError::Damaged { path, .. } => Some(format!("remove {} and trust again what you trust", path.display())),
            TrustError::Disk { .. } => None,
        }
    }
}

impl Ledger {
    /// Reads the ledger; an absent one trusts nothing.
    pub(crate) fn open(places: &Places) -> Result<Ledger, TrustError> {
        let path = places.state.join("trusted.json");
        let entries = match std::fs::read_to_string(&path) {
            Ok(text) => {
                serde_json::from_str(&text).map_err(|error| TrustError::Damaged { path: path.clone(), reason: error.to_string() })?
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(source) => return Err(TrustError::Disk { act: "read", path, source }),
        };
        Ok(Ledger { path, entries })
    }

    /// How a checkout's policy stands.
    pub(crate) fn standing(&self, checkout: &Path, digest: Digest) -> Standing {
        match self.entries.get(checkout) {
            Some(known) if *known == digest => Standing::Trusted,
            Some(_) => Standing::Changed,
            None => Standing::Unknown,
        }
    }

    /// Every checkout with what is trusted of it.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&Path, Digest)> {
        self.entries.iter().map(|(path, digest)| (path.as_path(), *digest))
    }

    /// Accepts a content.
    pub(crate) fn trust(&mut self, checkout: &Path, digest: Digest) -> Result<(), TrustError> {
        self.entries.insert(checkout.to_owned(), digest);
        self.save()
    }

    /// Takes the trust back; tells whether there was any.
    pub(crate) fn revoke(&mut self, checkout: &Path) -> Result<bool, TrustError> {
        let known = self.entries.remove(checkout).is_some();
        self.save().map(|()| known)
    }

    fn save(&self) -> Result<(), TrustError> {
        let failed = |source| TrustError::Disk { act: "write", path: self.path.clone(), source };
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(folder).map_err(failed)?;
        // Whole or not at all: a half-written ledger must not trust anything by accident.
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
        let text = serde_json::to_string_pretty(&self.entries).map_err(|error| failed(error.into()))?;
        file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
        file.persist(&self.path).map_err(|error| failed(error.error))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn trust_lasts_until_it_is_taken_back() {
        let home = tempfile::tempdir().unwrap();
        let places = Places { root: false, config: home.path().join("c"), state: home.path().join("s") };
        let (checkout, digest) = (Path::new("/a"), Digest([7; 32]));
        Ledger::open(&places).unwrap().trust(checkout, digest).unwrap();
        let mut ledger = Ledger::open(&places).unwrap();
        assert_eq!(ledger.standing(checkout, digest), Standing::Trusted);
        assert_eq!(ledger.standing(checkout, Digest([8; 32])), Standing::Changed);
        assert_eq!(ledger.standing(Path::new("/b"), digest), Standing::Unknown);
        assert!(ledger.revoke(checkout).unwrap() && !ledger.revoke(checkout).unwrap());
        assert_eq!(Ledger::open(&places).unwrap().standing(checkout, digest), Standing::Unknown);
        std::fs::write(places.state.join("trusted.json"), "{").unwrap();
        assert!(matches!(Ledger::open(&places), Err(TrustError::Damaged { .. })));
    }
}
