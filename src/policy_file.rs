//! Which policy counts: the one given, the checkout's own once trusted, the user's, or the built-in default.

use std::io::Read;
use std::path::{Path, PathBuf};

use caisson_controller::policy::Rules;
use caisson_model::id::Digest;
use caisson_model::outcome::Fault;
use caisson_sandbox::additions::AdditionError;
use sha2::{Digest as _, Sha256};

use crate::config::Places;
use crate::regular;
use crate::report::Explained;
use crate::trust::{Ledger, Standing, TrustError};

/// Where a checkout keeps its own policy.
pub(crate) const IN_CHECKOUT: &str = ".caisson/policy.toml";

/// A policy longer than this is none.
const LONGEST: u64 = 1 << 20;

/// The policy that counts.
#[derive(Debug)]
pub(crate) struct Chosen {
    /// The rules.
    pub(crate) rules: Rules,
    /// Why another one does not count, for the person to know.
    pub(crate) warning: Option<String>,
}

/// A policy file, read once: what is shown, digested and obeyed are the same bytes.
#[derive(Debug)]
pub(crate) struct PolicyFile {
    /// Where it was read.
    pub(crate) path: PathBuf,
    /// Its text.
    pub(crate) text: String,
    /// The digest of that text.
    pub(crate) digest: Digest,
}

/// A policy cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PolicyError {
    /// It cannot be read.
    #[error("cannot read the policy {}", .0.display())]
    Read(PathBuf, #[source] std::io::Error),
    /// It is too long or not text.
    #[error("{} is not a policy: {reason}", path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: &'static str,
    },
    /// It is not understood.
    #[error("{} is not a valid policy\n{message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, column and reason.
        message: String,
    },
    /// It adds a system call that cannot be added.
    #[error("{}:{line}: a system call cannot be allowed", path.display())]
    SystemCall {
        /// The file.
        path: PathBuf,
        /// Where, from 1.
        line: usize,
        /// Which, and why not.
        source: AdditionError,
    },
    /// What is trusted cannot be looked up.
    #[error(transparent)]
    Trust(#[from] TrustError),
}

impl Explained for PolicyError {
    fn fault(&self) -> Fault {
        match self {
            PolicyError::Read(_, error) if error.kind() != std::io::ErrorKind::NotFound => Fault::Environment,
            PolicyError::Trust(error) => error.fault(),
            _ => Fault::User,
        }
    }

    fn help(&self) -> Option<String> {
        match self {
            PolicyError::Trust(error) => error.help(),
            PolicyError::SystemCall { .. } => {
                Some("`caisson exec --seccomp-log -- COMMAND` shows what a program is refused, by name".to_owned())
            }
            _ => None,
        }
    }
}

impl PolicyFile {
    /// Reads a file; `None` when there is none.
    pub(crate) fn read(path: &Path) -> Result<Option<PolicyFile>, PolicyError> {
        let failed = |error| PolicyError::Read(path.to_owned(), error);
        let file = match regular::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut bytes = Vec::new();
        file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
        let text = |reason| PolicyError::Text { path: path.to_owned(), reason };
        if bytes.len() as u64 > LONGEST {
            return Err(text("it is longer than 1 MiB"));
        }
        let digest = Digest(Sha256::digest(&bytes).into());
        let text = String::from_utf8(bytes).map_err(|_| text("it is not UTF-8 text"))?;
        Ok(Some(PolicyFile { path: path.to_owned(), text, digest }))
    }

    /// Its rules. `name` is what people call it.
    pub(crate) fn rules(&self, name: &str) -> Result<Rules, PolicyError> {
        let parsed = toml::from_str::<Rules>(&self.text);
        let mut rules = parsed.map_err(|error| PolicyError::Parse { path: self.path.clone(), message: error.to_string() })?;
        for name in rules.system_calls() {
            caisson_sandbox::additions::check(name).map_err(|error| PolicyError::SystemCall {
                path: self.path.clone(),
                line: line_of(&self.text, name),
                source: error,
            })?;
        }
        rules.origin = Some(name.to_owned());
        Ok(rules)
    }
}

/// The line on which a quoted name stands; 1 when it is written in another way.
fn line_of(text: &str, name: &str) -> usize {
    let quoted = |line: &&str| line.contains(&format!("\"{name}\"")) || line.contains(&format!("'{name}'"));
    text.lines().position(|line| quoted(&line)).map_or(1, |at| at + 1)
}

/// Finds the policy that counts. `checkout` is absolute; `None` where there is no checkout, as for a controller.
pub(crate) fn choose(given: Option<&Path>, checkout: Option<&Path>, places: &Places) -> Result<Chosen, PolicyError> {
    if let Some(path) = given {
        let missing = || PolicyError::Read(path.to_owned(), std::io::ErrorKind::NotFound.into());
        let rules = PolicyFile::read(path)?.ok_or_else(missing)?.rules(&path.display().to_string())?;
        return Ok(Chosen { rules, warning: None });
    }
    let mut warning = None;
    if let Some(checkout) = checkout
        && let Some(file) = PolicyFile::read(&checkout.join(IN_CHECKOUT))?
    {
        match Ledger::open(places)?.standing(checkout, file.digest) {
            Standing::Trusted => return Ok(Chosen { rules: file.rules(IN_CHECKOUT)?, warning: None }),
            Standing::Changed => {
                warning = Some(format!(
                    "{IN_CHECKOUT} has changed since it was trusted and does not count; read it and run `caisson trust` again"
                ));
            }
            Standing::Unknown => {
                warning = Some(format!("{IN_CHECKOUT} is not trusted and does not count; read it and run `caisson trust`"));
            }
        }
    }
    let own = places.config.join("policy.toml");
    let rules = match PolicyFile::read(&own)? {
        Some(file) => file.rules(&own.display().to_string())?,
        None => Rules::default(),
    };
    Ok(Chosen { rules, warning })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_policy_of_the_checkout_counts_only_with_the_content_that_was_trusted() {
        let home = tempfile::tempdir().unwrap();
        let checkout = tempfile::tempdir().unwrap();
        let places = Places { root: false, config: home.path().join("config"), state: home.path().join("state") };
        std::fs::create_dir_all(checkout.path().join(".caisson")).unwrap();
        let file = checkout.path().join(IN_CHECKOUT);
        let chosen = |given: Option<&Path>| choose(given, Some(checkout.path()), &places).unwrap();
        let origin = |chosen: &Chosen| chosen.rules.origin.clone();

        assert_eq!(origin(&chosen(None)), None);
        std::fs::write(&file, "[network]\nallow = ['evil.example.com']\n").unwrap();
        let untrusted = chosen(None);
        assert!(untrusted.rules.network.allow.is_empty() && untrusted.warning.unwrap().contains("caisson trust"));

        let digest = PolicyFile::read(&file).unwrap().unwrap().digest;
        Ledger::open(&places).unwrap().trust(checkout.path(), digest).unwrap();
        assert_eq!(origin(&chosen(None)).as_deref(), Some(IN_CHECKOUT));

        std::fs::write(&file, "[network]\nallow = ['evil.example.com', 'worse.example.com']\n").unwrap();
        let changed = chosen(None);
        assert!(changed.rules.network.allow.is_empty() && changed.warning.unwrap().contains("changed"));

        std::fs::create_dir_all(&places.config).unwrap();
        std::fs::write(places.config.join("policy.toml"), "[network]\ninstall = 'none'\n").unwrap();
        assert!(origin(&chosen(None)).unwrap().ends_with("config/policy.toml"));
        let given = home.path().join("mine.toml");
        std::fs::write(&given, "").unwrap();
        assert!(origin(&chosen(Some(&given))).unwrap().ends_with("mine.toml"));
    }

    #[test]
    fn a_policy_that_is_not_understood_is_refused_with_its_line() {
        let home = tempfile::tempdir().unwrap();
        let places = Places { root: false, config: home.path().join("c"), state: home.path().join("s") };
        let given = home.path().join("p.toml");
        std::fs::write(&given, "[network]\nalow = []\n").unwrap();
        std::fs::write(&given, "[seccomp]\nallow = ['ptrace',\n 'unshare']\n").unwrap();
        let error = choose(Some(&given), None, &places).unwrap_err();
        assert!(matches!(error, PolicyError::SystemCall { line: 3, .. }), "{error}");
        std::fs::write(&given, "[seccomp]\nallow = ['ptrace']\n[[step]]\nsystem_calls = ['kcmp']").unwrap();
        assert_eq!(choose(Some(&given), None, &places).unwrap().rules.system_calls().collect::<Vec<_>>(), ["ptrace", "kcmp"]);
        std::fs::write(&given, "[network]\nalow = []\n").unwrap();
        let error = choose(Some(&given), None, &places).unwrap_err();
        assert!(error.to_string().contains("line 2") && error.to_string().contains("p.toml"), "{error}");
        assert!(matches!(choose(Some(Path::new("/nowhere.toml")), None, &places), Err(PolicyError::Read(..))));
    }
}
