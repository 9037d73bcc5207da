//! The secrets of one step: opened when it starts, handed to its sandbox as files on a private tmpfs, gone when it ends. They
//! are never written to the agent's disk, and every value is a mask for the rest of the job.

use caisson_expr::{Object, Value};
use caisson_model::secret::{CLONE_CREDENTIAL, OpenedSecrets};
use caisson_sandbox::spec::{SecretFile, SecretValue};

/// What a step was given.
#[derive(Debug, Default)]
pub struct StepSecrets {
    opened: OpenedSecrets,
    granted: Vec<String>,
}

impl StepSecrets {
    /// `granted` are the names of the step's grant; those that nobody gave a value are empty.
    pub fn new(opened: OpenedSecrets, granted: &[String]) -> StepSecrets {
        let granted = granted.to_vec();
        let opened = OpenedSecrets {
            secrets: opened.secrets.into_iter().filter(|(name, _)| granted.iter().any(|known| known.eq_ignore_ascii_case(name))).collect(),
        };
        StepSecrets { opened, granted }
    }

    /// The `secrets` context: the granted names and no others. A value that is no text is empty here and whole in its file.
    pub fn context(&self) -> Object {
        let said = |name: &str| !name.starts_with(CLONE_CREDENTIAL);
        let mut object: Object = self.granted.iter().filter(|name| said(name)).map(|name| (name, Value::string(""))).collect();
        for (name, value) in self.opened.secrets.iter().filter(|(name, _)| said(name)) {
            object.insert(name, Value::string(std::str::from_utf8(value.expose()).unwrap_or_default()));
        }
        object
    }

    /// Names that were granted and have no value.
    pub fn without_value(&self) -> Vec<&str> {
        let has =
            |name: &str| self.opened.secrets.iter().any(|(known, value)| known.eq_ignore_ascii_case(name) && !value.expose().is_empty());
        self.granted.iter().map(String::as_str).filter(|name| !has(name)).collect()
    }

    /// The files for the sandbox.
    pub fn files(&self) -> Vec<SecretFile> {
        self.opened
            .secrets
            .iter()
            .filter(|(name, _)| {
                !name.is_empty() && !name.contains('/') && name != "." && name != ".." && !name.starts_with(CLONE_CREDENTIAL)
            })
            .map(|(name, value)| SecretFile { name: name.clone(), value: SecretValue::new(value.expose()) })
            .collect()
    }

    /// The token with which the run's repository is cloned.
    pub fn clone_credential(&self) -> Option<&[u8]> {
        let found = self.opened.secrets.iter().find(|(name, _)| name.starts_with(CLONE_CREDENTIAL));
        found.map(|(_, value)| value.expose()).filter(|value| !value.is_empty())
    }

    /// The values to mask.
    pub fn values(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.opened.secrets.iter().map(|(name, value)| (name.as_str(), value.expose()))
    }

    /// Whether `name` was granted.
    pub fn has(&self, name: &str) -> bool {
        self.granted.iter().any(|known| known.eq_ignore_ascii_case(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use caisson_model::secret::SecretValue as Opened;

    #[test]
    fn only_granted_names_exist() {
        let opened =
            OpenedSecrets { secrets: vec![("A".into(), Opened::new(b"one".to_vec())), ("X".into(), Opened::new(b"stray".to_vec()))] };
        let clone = format!("{CLONE_CREDENTIAL}acme/shop");
        let private = OpenedSecrets { secrets: vec![(clone.clone(), Opened::new(b"token".to_vec()))] };
        let private = StepSecrets::new(private, &[clone]);
        assert_eq!((private.context().len(), private.files().len(), private.clone_credential()), (0, 0, Some(&b"token"[..])));
        let secrets = StepSecrets::new(opened, &["A".into(), "B".into()]);
        assert_eq!((secrets.clone_credential(), secrets.without_value()), (None, vec!["B"]));
        assert_eq!(secrets.files().iter().map(|file| file.name.as_str()).collect::<Vec<_>>(), ["A"]);
        let context = secrets.context();
        assert_eq!(context.get("a").map(Value::to_text), Some("one".to_owned()));
        assert_eq!(context.get("B").map(Value::to_text), Some(String::new()));
        assert!(context.get("X").is_none());
        assert!(!format!("{secrets:?}").contains("one"));
    }
}
