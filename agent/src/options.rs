//! How an agent is set up: settled before its first effect.

use std::path::PathBuf;

use caisson_model::id::AgentName;

use crate::host::HostRules;

/// How an agent is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its name, unique at its controller.
    pub name: AgentName,
    /// How many jobs it runs at once; at least 1.
    pub slots: u32,
    /// Memory that it has for jobs, in bytes; 0 says nothing, and jobs' limits do not count then.
    pub memory_bytes: u64,
    /// Processors likewise, in thousandths.
    pub cpu_milli: u32,
    /// The labels it serves, in lower case.
    pub labels: Vec<String>,
    /// A directory of its own, made if need be. Two agents cannot share one.
    pub state_dir: PathBuf,
    /// The rules of its host.
    pub host: HostRules,
}

/// The labels that a Linux agent serves when nobody says otherwise: those for which workflows are usually written.
pub fn default_labels() -> Vec<String> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => other,
    };
    ["ubuntu-latest", "ubuntu-slim", "ubuntu-26.04", "ubuntu-24.04", "ubuntu-22.04", "ubuntu-20.04", "self-hosted", "linux", architecture]
        .map(str::to_owned)
        .to_vec()
}
