//! From settled configuration to the rules of this host, as the agent understands them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use caisson_agent::actions::interpreters;
use caisson_agent::host::HostRules;
use caisson_gateway::gateway::Gateway;
use caisson_model::outcome::Fault;

use crate::cli::Indexes;
use crate::config::{Config, Environment};
use crate::report::Explained;

/// A wheelhouse cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the wheelhouse {}", path.display())]
pub(crate) struct NoWheelhouse {
    path: PathBuf,
    source: std::io::Error,
}

impl Explained for NoWheelhouse {
    fn fault(&self) -> Fault {
        Fault::User
    }
}

/// How the package gateway answers, by the words of the command line and the settings.
///
/// # Errors
/// The wheelhouse is no folder.
pub(crate) fn indexes(rules: &mut HostRules, config: &Config, indexes: &Indexes) -> Result<(), NoWheelhouse> {
    let mut settings = rules.gateway.settings().clone();
    if let Some(path) = indexes.wheelhouse.as_ref().or(config.wheelhouse.value.as_ref()) {
        let folder = path.canonicalize().and_then(|path| match path.is_dir() {
            true => Ok(path),
            false => Err(std::io::ErrorKind::NotADirectory.into()),
        });
        settings.wheelhouse = Some(folder.map_err(|source| NoWheelhouse { path: path.clone(), source })?);
    }
    settings.before = indexes.before.map(|moment| moment.0).into_iter().chain(settings.before).min();
    settings.offline |= indexes.offline || config.packages_offline.value;
    if let Some(quota) = config.packages_quota.value {
        settings.quota = quota.0;
    }
    rules.gateway = Gateway::new(settings);
    Ok(())
}

/// As [`rules`], for `slots` jobs at once that write below `directory`: where the operator set no limit on the disk, each
/// job gets an equal share of what is free there now, and one share stays free.
pub(crate) fn rules_for_jobs(config: &Config, environment: &Environment, directory: &Path) -> HostRules {
    let mut rules = rules(config, environment);
    let shares = u64::from(config.slots()) + 1;
    // It may not have been made yet.
    let there = directory.ancestors().find_map(|path| nix::sys::statvfs::statvfs(path).ok());
    if let Some(found) = there {
        rules.disk_bytes = rules.disk_bytes.or(Some(found.blocks_available().saturating_mul(found.fragment_size()) / shares));
        // Some file systems have no fixed number of files.
        rules.inodes = rules.inodes.or((found.files() > 0).then(|| found.files_available() / shares));
    }
    rules
}

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
    rules.disk_bytes = config.disk.value.map(|bytes| bytes.0);
    rules.inodes = config.inodes.value.map(u64::from);
    rules.open_files = config.open_files.value.map(u64::from);
    rules.ro_paths.clone_from(&config.ro_paths.value);
    rules
}

/// The minor versions of Python 3 that this machine has, as `actions/setup-python` finds them. Blocks for a few reads of directories.
pub(crate) fn minor_versions(environment: &Environment) -> Vec<u32> {
    let text: BTreeMap<String, String> =
        environment.iter().filter_map(|(name, value)| Some((name.to_str()?.to_owned(), value.to_str()?.to_owned()))).collect();
    let found = interpreters::find(&HostRules::of_this_host(&text).interpreters);
    found.into_iter().filter(|one| one.version.major == 3 && !one.version.prerelease).map(|one| one.version.minor).collect()
}
