//! `[workflow]` of a policy: what the text of a workflow may say, and how large it may be.

use std::collections::BTreeSet;

use caisson_workflow::{DefaultPermissions, Limits, SecurityRule};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::policy::permissions::Permissions;

/// `[workflow]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorkflowRules {
    /// Rules of safety that do not count, by name.
    pub allow: BTreeSet<SecurityRule>,
    /// The most that `permissions:` of a workflow or job may ask for; what asks for more gets this.
    pub permissions: Option<Permissions>,
    /// What a token may do where a workflow does not say: `read` or `write`. It bounds what called workflows may ask for.
    pub default_permissions: Option<DefaultPermissions>,
    /// Characters of a file.
    pub max_file_size: Option<Bound<1_048_576>>,
    /// Collections inside each other.
    pub max_depth: Option<Bound<50>>,
    /// Jobs of a run, called workflows included, before matrices are expanded.
    pub max_jobs: Option<Bound<1_000>>,
    /// Bytes of a workflow with all that it calls, as objects.
    pub max_result_size: Option<Bound<10_485_760>>,
    /// Cells of one matrix.
    pub max_cells: Option<Bound<256>>,
}

impl WorkflowRules {
    pub(crate) fn limits(&self) -> Limits {
        let default = Limits::default();
        Limits {
            allow: self.allow.clone(),
            file_characters: self.max_file_size.map_or(default.file_characters, |bound| bound.0),
            depth: self.max_depth.map_or(default.depth, |bound| bound.0),
            jobs: self.max_jobs.map_or(default.jobs, |bound| bound.0),
            object_bytes: self.max_result_size.map_or(default.object_bytes, |bound| bound.0),
            cells: self.max_cells.map_or(default.cells, |bound| bound.0),
            default_permissions: self.default_permissions.unwrap_or_default(),
            ..default
        }
    }
}

/// A bound that may be lowered from `MOST`, and not raised: caisson's own memory stands behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound<const MOST: usize>(usize);

impl<'de, const MOST: usize> Deserialize<'de> for Bound<MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bound<MOST>, D::Error> {
        match usize::deserialize(deserializer)? {
            bound if (1..=MOST).contains(&bound) => Ok(Bound(bound)),
            bound => Err(D::Error::custom(format_args!("{bound} is out of range: write 1 to {MOST}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn bounds_are_lowered_only() {
        let rules: WorkflowRules = toml::from_str("max_depth = 5\ndefault_permissions = \"read\"").unwrap();
        assert_eq!((rules.limits().depth, rules.limits().default_permissions), (5, DefaultPermissions::Read));
        assert_eq!(WorkflowRules::default().limits(), Limits::default());
        for text in ["max_depth = 51", "max_jobs = 0", "max_file_size = -1", "default_permissions = \"all\"", "max_steps = 3"] {
            assert!(toml::from_str::<WorkflowRules>(text).is_err(), "{text}");
        }
    }
}
