//! From settled configuration to the rules of this host, as the agent understands them.

use std::collections::BTreeMap;

use caisson_agent::host::HostRules;

use crate::config::{Config, Environment};

/// The rules of this host: what it has, and what its operator configured. Reads pip's configuration; blocks for a few reads.
pub(crate) fn rules(config: &Config, environment: &Environment) -> HostRules {
    let text: BTreeMap<String, String> =
        environment.iter().filter_map(|(name, value)| Some((name.to_str()?.to_owned(), value.to_str()?.to_owned()))).collect();
    let mut rules = HostRules::of_this_host(&text);
    rules.allow_missing.clone_from(&config.allow_missing.value);
    if let Some(memory) = config.memory.value {
        rules.memory_bytes = memory.0;
    }
    if let Some(cores) = &config.cpus.value {
        rules.cpu_milli = Some(cores.milli);
    }
    if let Some(pids) = config.pids.value {
        rules.pids = pids;
    }
    rules.ro_paths.clone_from(&config.ro_paths.value);
    rules
}
