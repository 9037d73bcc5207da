//! Patterns of names, as a policy writes them.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// A pattern: `*` any text, `?` one character, `[ab]` one of these. Case counts, as in what it is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(glob::Pattern);

impl Glob {
    pub(super) fn everything() -> Glob {
        Glob(glob::Pattern::new("*").unwrap_or_default())
    }

    /// Whether the pattern covers all of `text`.
    pub fn covers(&self, text: &str) -> bool {
        self.0.matches(text)
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

impl<'de> Deserialize<'de> for Glob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Glob, D::Error> {
        let text = String::deserialize(deserializer)?;
        glob::Pattern::new(&text).map(Glob).map_err(|error| D::Error::custom(format_args!("{text:?} is not a pattern: {}", error.msg)))
    }
}
