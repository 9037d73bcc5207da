//! The most that a token of a workflow may do, and what is left of a wish for more.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

/// An upper bound on `permissions:`, written as there.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Permissions {
    /// The same for every scope.
    All(Everything),
    /// By scope; nothing for scopes that are not listed.
    Scopes(BTreeMap<String, Level>),
}

/// A bound for all scopes at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Everything {
    /// Nothing at all.
    None,
    /// Reading.
    ReadAll,
    /// Anything.
    WriteAll,
}

/// What may be done in one scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Nothing.
    None,
    /// Reading.
    Read,
    /// Writing, and reading.
    Write,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Level::None => "none",
            Level::Read => "read",
            Level::Write => "write",
        }
    }

    fn named(text: &str) -> Level {
        match text {
            "write" | "write-all" => Level::Write,
            "read" | "read-all" => Level::Read,
            _ => Level::None,
        }
    }
}

impl Permissions {
    fn of(&self, scope: &str) -> Level {
        match self {
            Permissions::All(Everything::None) => Level::None,
            Permissions::All(Everything::ReadAll) => Level::Read,
            Permissions::All(Everything::WriteAll) => Level::Write,
            Permissions::Scopes(scopes) => scopes.get(scope).copied().unwrap_or(Level::None),
        }
    }

    fn written(&self) -> Value {
        match self {
            Permissions::All(Everything::None) => Value::Object(Map::new()),
            Permissions::All(Everything::ReadAll) => "read-all".into(),
            Permissions::All(Everything::WriteAll) => "write-all".into(),
            Permissions::Scopes(scopes) => {
                Value::Object(scopes.iter().map(|(scope, level)| (scope.clone(), level.as_str().into())).collect())
            }
        }
    }

    /// Lowers what is asked for to this bound, and names what was too much: `contents: write`.
    pub fn bound(&self, asked: &mut Value) -> Vec<String> {
        match asked {
            Value::Object(scopes) => {
                let mut excess = Vec::new();
                for (scope, level) in scopes {
                    let (wanted, most) = (Level::named(level.as_str().unwrap_or_default()), self.of(scope));
                    if wanted > most {
                        excess.push(format!("{scope}: {}", wanted.as_str()));
                        *level = most.as_str().into();
                    }
                }
                excess
            }
            Value::String(word) => {
                let wanted = Level::named(word);
                let within = match self {
                    Permissions::All(_) => wanted <= self.of(""),
                    Permissions::Scopes(_) => false,
                };
                if within {
                    return Vec::new();
                }
                let word = std::mem::take(word);
                *asked = self.written();
                vec![word]
            }
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn a_wish_is_lowered_to_the_bound_and_the_excess_named() {
        let bounds = |text: &str| toml::from_str::<BTreeMap<String, Permissions>>(text).unwrap().remove("p").unwrap();
        for (bound, asked, granted, excess) in [
            (
                "p = 'read-all'",
                json!({"contents": "write", "issues": "read"}),
                json!({"contents": "read", "issues": "read"}),
                vec!["contents: write"],
            ),
            ("p = 'read-all'", json!("write-all"), json!("read-all"), vec!["write-all"]),
            ("p = 'write-all'", json!("write-all"), json!("write-all"), vec![]),
            ("p = 'none'", json!("read-all"), json!({}), vec!["read-all"]),
            (
                "p = { contents = 'read' }",
                json!({"contents": "read", "packages": "read"}),
                json!({"contents": "read", "packages": "none"}),
                vec!["packages: read"],
            ),
            ("p = { contents = 'read' }", json!("read-all"), json!({"contents": "read"}), vec!["read-all"]),
        ] {
            let mut value = asked;
            assert_eq!(bounds(bound).bound(&mut value), excess, "{bound}");
            assert_eq!(value, granted, "{bound}");
        }
        assert!(toml::from_str::<BTreeMap<String, Permissions>>("p = 'sometimes'").is_err());
    }
}
