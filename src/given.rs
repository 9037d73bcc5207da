//! Secrets as a person gives them: by name on the command line, the value from the environment or from a prompt.

use std::io::IsTerminal;

use caisson_model::outcome::Fault;
use caisson_model::secret::SecretValue;

use crate::config::Environment;
use crate::report::{self, Explained};

/// A secret cannot be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GivenError {
    /// The name is none.
    #[error("{name:?} is not a secret's name: {reason}")]
    Name {
        /// What was written.
        name: String,
        /// Why.
        reason: &'static str,
    },
    /// It was given twice.
    #[error("secret {0} is given twice")]
    Twice(String),
    /// There is no value.
    #[error("secret {0} has no value: the environment variable is not set, and there is no terminal to ask on")]
    Missing(String),
    /// The prompt failed.
    #[error("cannot read the value of secret {0}")]
    Prompt(String, #[source] std::io::Error),
    /// The value cannot be handed to a program.
    #[error("the value of secret {0} {1}")]
    Value(String, &'static str),
}

impl Explained for GivenError {
    fn fault(&self) -> Fault {
        match self {
            GivenError::Prompt(..) => Fault::Environment,
            _ => Fault::User,
        }
    }

    fn help(&self) -> Option<String> {
        match self {
            GivenError::Missing(name) => Some(format!("set it: {name}=... caisson ... --secret {name}")),
            GivenError::Name { .. } => Some("write --secret NAME or --secret NAME=VALUE; a name has letters, digits and _".to_owned()),
            _ => None,
        }
    }
}

/// How names of secrets are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Case {
    /// As workflows do: in upper case, whatever was written.
    Folded,
    /// As environment variables are: as written.
    Kept,
}

/// Takes every `NAME[=VALUE]`, in order.
pub(crate) fn take(texts: &[String], environment: &Environment, case: Case) -> Result<Vec<(String, SecretValue)>, GivenError> {
    let mut taken: Vec<(String, SecretValue)> = Vec::new();
    for text in texts {
        let (written, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.as_bytes().to_vec())),
            None => (text.as_str(), None),
        };
        let name = named(written, case)?;
        if taken.iter().any(|(other, _)| *other == name) {
            return Err(GivenError::Twice(name));
        }
        let value = match value.or_else(|| variable(environment, written)).or_else(|| variable(environment, &name)) {
            Some(value) => value,
            None => prompt(&name)?,
        };
        let value = SecretValue::new(value);
        if value.expose().is_empty() {
            return Err(GivenError::Value(name, "is empty"));
        }
        if value.expose().contains(&0) {
            return Err(GivenError::Value(name, "holds a zero byte, which no environment variable can"));
        }
        taken.push((name, value));
    }
    Ok(taken)
}

fn named(written: &str, case: Case) -> Result<String, GivenError> {
    let wrong = |reason| GivenError::Name { name: written.to_owned(), reason };
    let name = match case {
        Case::Folded => written.to_ascii_uppercase(),
        Case::Kept => written.to_owned(),
    };
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err(wrong("it has other characters than letters, digits and _, or begins with a digit"));
    }
    if case == Case::Folded && name.starts_with("GITHUB_") {
        return Err(wrong("names that begin with GITHUB_ are reserved"));
    }
    Ok(name)
}

fn variable(environment: &Environment, name: &str) -> Option<Vec<u8>> {
    // A variable that is set to nothing is a script's way to say that it has no value.
    environment.get(std::ffi::OsStr::new(name)).map(|value| value.as_encoded_bytes().to_vec()).filter(|value| !value.is_empty())
}

fn prompt(name: &str) -> Result<Vec<u8>, GivenError> {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(GivenError::Missing(name.to_owned()));
    }
    report::say(&format!("Value of secret {name} (not shown):"));
    let value = console::Term::stderr().read_secure_line().map_err(|error| GivenError::Prompt(name.to_owned(), error))?;
    Ok(value.into_bytes())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn taken(texts: &[&str], case: Case) -> Result<Vec<(String, String)>, GivenError> {
        let environment = [("TOKEN", "from-environment"), ("EMPTY", "")].map(|(k, v)| (k.into(), v.into())).into();
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        let found = take(&texts, &environment, case)?;
        Ok(found.into_iter().map(|(name, value)| (name, String::from_utf8(value.expose().to_vec()).unwrap())).collect())
    }

    #[test]
    fn a_value_comes_from_the_argument_or_the_environment() {
        let both = taken(&["token", "Other=a=b"], Case::Folded).unwrap();
        assert_eq!(both, [("TOKEN".into(), "from-environment".into()), ("OTHER".into(), "a=b".into())]);
        assert_eq!(taken(&["Other=x"], Case::Kept).unwrap(), [("Other".into(), "x".into())]);
    }

    #[test]
    fn what_cannot_be_a_secret_is_refused() {
        for text in ["", "a b=1", "1A=x", "GITHUB_TOKEN=x", "=x"] {
            assert!(matches!(taken(&[text], Case::Folded), Err(GivenError::Name { .. })), "{text}");
        }
        assert!(matches!(taken(&["A=x", "a=y"], Case::Folded), Err(GivenError::Twice(_))));
        assert!(matches!(taken(&["A="], Case::Folded), Err(GivenError::Value(..))));
    }
}
