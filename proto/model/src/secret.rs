//! Secrets on their way from a provider to the one step that names them.

use std::fmt;

/// With the repository's name behind it: under this name the checkout step of a run gets what opens a private repository. Granted
/// by name of the repository alone, and part of no context, so that no workflow can say it.
pub const CLONE_CREDENTIAL: &str = "caisson.clone:";

/// A secret's value. Not serialisable, not shown by `Debug`, wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(Vec<u8>);

impl SecretValue {
    /// Takes the bytes over.
    pub fn new(bytes: Vec<u8>) -> SecretValue {
        SecretValue(bytes)
    }

    /// The bytes, for the code that delivers or masks them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(***)")
    }
}

impl Drop for SecretValue {
    fn drop(&mut self) {
        self.0.fill(0);
        // The compiler may not remove a write whose result escapes.
        std::hint::black_box(&mut self.0);
    }
}

/// The secrets opened for one step of one attempt: answered once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenedSecrets {
    /// Name and value of each secret that the step declares.
    pub secrets: Vec<(String, SecretValue)>,
}
