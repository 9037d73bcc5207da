//! What bounds a workflow file.

use std::collections::BTreeSet;

use serde::Deserialize;

/// Bounds on the size of a workflow. The defaults are the documented ones of the language where it documents any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Characters of a file.
    pub file_characters: usize,
    /// Collections inside each other.
    pub depth: usize,
    /// Jobs of a run, called workflows included, before matrices are expanded.
    pub jobs: usize,
    /// Cells of one matrix.
    pub cells: usize,
    /// Levels of workflows that call workflows.
    pub call_depth: usize,
    /// Bytes of a workflow with all that it calls, each as often as it is called, once they are objects: an estimate of memory.
    pub object_bytes: usize,
    /// What a token may do where a workflow does not say.
    pub default_permissions: DefaultPermissions,
    /// Rules of safety that do not count.
    pub allow: BTreeSet<SecurityRule>,
}

/// A rule of safety that a policy may switch off, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecurityRule {
    /// Text that a stranger chose is not pasted into a script.
    UntrustedTextInScripts,
    /// A secret is not pasted into a script.
    SecretsInScripts,
    /// No secret leaves a job through its outputs.
    SecretsInOutputs,
    /// The event `pull_request_target` starts nothing.
    PullRequestTarget,
    /// The event `workflow_run` starts nothing.
    WorkflowRun,
    /// `secrets: inherit` hands nothing to a workflow of another repository.
    InheritToRemote,
}

impl SecurityRule {
    /// Its name in a policy.
    pub const fn as_str(self) -> &'static str {
        match self {
            SecurityRule::UntrustedTextInScripts => "untrusted-text-in-scripts",
            SecurityRule::SecretsInScripts => "secrets-in-scripts",
            SecurityRule::SecretsInOutputs => "secrets-in-outputs",
            SecurityRule::PullRequestTarget => "pull-request-target",
            SecurityRule::WorkflowRun => "workflow-run",
            SecurityRule::InheritToRemote => "inherit-to-remote",
        }
    }
}

/// What the token of a workflow without `permissions:` may do. It matters for calls only: they may not ask for more than
/// the caller has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DefaultPermissions {
    /// Everything.
    #[default]
    Write,
    /// Read contents and packages.
    Read,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            file_characters: 1_048_576,
            depth: 50,
            jobs: 1_000,
            cells: 256,
            call_depth: 10,
            object_bytes: 10 << 20,
            default_permissions: DefaultPermissions::Write,
            allow: BTreeSet::new(),
        }
    }
}
