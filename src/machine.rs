//! From settled configuration to the rules of this host, as the agent understands them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use caisson_agent::actions::interpreters;
use caisson_agent::host::HostRules;
use caisson_gateway::gateway::Gateway;
use caisson_gateway::settings::{Archive, Source};
use caisson_model::outcome::Fault;

use crate::cli::{Indexes, Kind};
use crate::config::{Config, Environment, Origin};
use crate::report::Explained;

/// A folder that is to stand in for indexes cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoMirror {
    /// It is none.
    #[error("cannot use the folder of packages {}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Two settings name one for the same indexes.
    #[error("both `wheelhouse` ({by}) and `mirror` ({mirror}) name a folder for Python's indexes")]
    Twice {
        /// Where the one stands.
        by: Origin,
        /// Where the other stands.
        mirror: Origin,
    },
    /// Of none of the suites that the host's apt asks for it has a release.
    #[error("{} has a release of none of the suites that apt's sources of this host name: {suites}", path.display())]
    Suites {
        /// Which.
        path: PathBuf,
        /// Those suites.
        suites: String,
    },
}

impl Explained for NoMirror {
    fn fault(&self) -> Fault {
        Fault::User
    }
}

fn folder(path: &Path) -> Result<PathBuf, NoMirror> {
    let folder = path.canonicalize().and_then(|path| match path.is_dir() {
        true => Ok(path),
        false => Err(std::io::ErrorKind::NotADirectory.into()),
    });
    folder.map_err(|source| NoMirror::Folder { path: path.to_owned(), source })
}

/// The host's archives as far as a mirror's tree has them.
fn mirrored(archives: &[Archive], path: &Path) -> Result<Vec<Archive>, NoMirror> {
    let there = |suite: &String| ["InRelease", "Release"].iter().any(|file| path.join("dists").join(suite).join(file).is_file());
    let mut found: Vec<Archive> = Vec::new();
    let mut wanted = BTreeSet::new();
    for archive in archives {
        wanted.extend(archive.suites.iter().cloned());
        let suites: Vec<String> = archive.suites.iter().filter(|suite| there(suite)).cloned().collect();
        if let (false, Some(source)) = (suites.is_empty(), Source::folder(path)) {
            found.push(Archive { source, suites, ..archive.clone() });
        }
    }
    if found.is_empty() {
        let suites = wanted.into_iter().collect::<Vec<_>>().join(", ");
        return Err(NoMirror::Suites { path: path.to_owned(), suites });
    }
    Ok(found)
}

/// How the package gateway answers, by the words of the command line and the settings.
///
/// # Errors
/// [`NoMirror`].
pub(crate) fn indexes(rules: &mut HostRules, config: &Config, indexes: &Indexes) -> Result<(), NoMirror> {
    let mut settings = rules.gateway.settings().clone();
    let said = |kind: Kind| indexes.mirror.iter().any(|(other, _)| *other == kind);
    let flagged = |kind: Kind| said(kind) || (kind == Kind::Python && indexes.wheelhouse.is_some());
    if config.wheelhouse.value.is_some() && config.mirror.value.contains_key(&Kind::Python) && !flagged(Kind::Python) {
        return Err(NoMirror::Twice { by: config.wheelhouse.origin.clone(), mirror: config.mirror.origin.clone() });
    }
    if let Some(path) = indexes.wheelhouse.as_ref().or(config.wheelhouse.value.as_ref()) {
        settings.wheelhouse = Some(folder(path)?);
    }
    // What the command line says of the same indexes counts instead.
    let settled = config.mirror.value.iter().map(|(kind, path)| (*kind, path)).filter(|(kind, _)| !flagged(*kind));
    for (kind, path) in settled.chain(indexes.mirror.iter().map(|(kind, path)| (*kind, path))) {
        let path = folder(path)?;
        match kind {
            Kind::Python => settings.wheelhouse = Some(path),
            Kind::Npm => settings.npm_folder = Some(path),
            Kind::Debian => settings.debian = mirrored(&settings.debian, &path)?,
        }
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
