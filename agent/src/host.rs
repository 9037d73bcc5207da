//! The rules of the agent's own host: the floor that no grant goes below, and what its operator configured. Read once,
//! before the first job; a value from then on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use caisson_gateway::gateway::Gateway;
use caisson_gateway::settings::Settings;
use caisson_sandbox::protection::Protection;

use crate::index::PackageIndex;
use crate::sources::{self, Files};

/// What this host's operator allows and has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRules {
    /// Protections whose lack the operator accepts, by name.
    pub allow_missing: BTreeSet<Protection>,
    /// The most memory that a step gets, in bytes; also what it gets when policy has no opinion.
    pub memory_bytes: u64,
    /// The most processor time in thousandths of a processor; `None` for no limit.
    pub cpu_milli: Option<u32>,
    /// The most processes and threads.
    pub pids: u32,
    /// The most bytes on everything that one job can write; `None` for no limit.
    pub disk_bytes: Option<u64>,
    /// The most files and directories likewise.
    pub inodes: Option<u64>,
    /// The most open files per process; `None` for the sandbox's own default.
    pub open_files: Option<u64>,
    /// The most bytes of one step's log.
    pub log_bytes: u64,
    /// Further paths of the host that every step sees, read-only, at the same place.
    pub ro_paths: Vec<PathBuf>,
    /// Where Python packages come from.
    pub index: PackageIndex,
    /// The package gateway towards it and its like.
    pub gateway: Gateway,
    /// Where to look for interpreters beside the system's own: roots of pyenv, uv and tool caches.
    pub interpreters: InterpreterRoots,
    /// The directory in which id ranges are claimed. Shared by all agents of the host; only root uses it.
    pub id_claims: PathBuf,
}

/// Directories below which interpreters lie, by the tool that made them. Those that do not exist are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterpreterRoots {
    /// `versions` of pyenv: `VERSION/bin/python`.
    pub pyenv: Vec<PathBuf>,
    /// uv's: `cpython-VERSION-.../bin/python`.
    pub uv: Vec<PathBuf>,
    /// Tool caches: `Python/VERSION/ARCH/bin/python`.
    pub tool_cache: Vec<PathBuf>,
    /// Tool caches: `node/VERSION/ARCH/bin/node`.
    pub node_tool_cache: Vec<PathBuf>,
    /// Version managers of Node.js: `vVERSION/bin/node`.
    pub node_versions: Vec<PathBuf>,
    /// The operator's own uv, beside the system's.
    pub uv_programs: Vec<PathBuf>,
}

/// Processes and threads that a step may have when nobody says otherwise.
pub const DEFAULT_PIDS: u32 = 4096;
/// Bytes of a step's log when nobody says otherwise.
pub const DEFAULT_LOG_BYTES: u64 = 64 << 20;

impl HostRules {
    /// The rules of this host without any configuration of caisson: reads pip's configuration, the size of the memory and
    /// where interpreters lie. `environment` is the operator's, of which only the settings of pip, certificate authorities,
    /// pyenv, uv and the tool cache are looked at. Blocks on the disk for a few reads.
    pub fn of_this_host(environment: &BTreeMap<String, String>) -> HostRules {
        let home = environment.get("HOME").map(PathBuf::from);
        let text = |path: PathBuf| std::fs::read_to_string(path).ok();
        let mut files = Files {
            pip: pip_files(environment, home.as_deref()).into_iter().filter_map(text).collect(),
            npm: sources::npm_files(environment).into_iter().filter_map(text).collect(),
            netrc: sources::netrc_file(environment).and_then(text),
            ..Files::default()
        };
        files.apt_lines.extend(text(PathBuf::from("/etc/apt/sources.list")));
        for path in entries("/etc/apt/sources.list.d") {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("list") => files.apt_lines.extend(text(path)),
                Some("sources") => files.apt_stanzas.extend(text(path)),
                _ => {}
            }
        }
        files.apt_auth.extend(text(PathBuf::from("/etc/apt/auth.conf")));
        files.apt_auth.extend(entries("/etc/apt/auth.conf.d").into_iter().filter_map(text));
        let gateway = Settings { store: package_store(environment, home.as_deref()), ..sources::settings(environment, &files) };
        HostRules {
            allow_missing: BTreeSet::new(),
            memory_bytes: memory_of_this_machine() / 4 * 3,
            cpu_milli: None,
            pids: DEFAULT_PIDS,
            disk_bytes: None,
            inodes: None,
            open_files: None,
            log_bytes: DEFAULT_LOG_BYTES,
            ro_paths: Vec::new(),
            index: PackageIndex::of(environment, &files.pip),
            gateway: Gateway::new(gateway),
            interpreters: interpreter_roots(environment, home.as_deref()),
            id_claims: PathBuf::from("/run/caisson/ids"),
        }
    }
}

/// The entries of a folder in the order of their names.
fn entries(folder: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    found.sort();
    found
}

/// Where packages are kept when nobody says otherwise: with the user's caches.
fn package_store(environment: &BTreeMap<String, String>, home: Option<&Path>) -> PathBuf {
    let caches = environment.get("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = caches.or_else(|| Some(home?.join(".cache"))).unwrap_or_else(|| PathBuf::from("/var/cache"));
    caches.join("caisson/packages")
}

fn pip_files(environment: &BTreeMap<String, String>, home: Option<&Path>) -> Vec<PathBuf> {
    let mut files = vec![PathBuf::from("/etc/xdg/pip/pip.conf"), PathBuf::from("/etc/pip.conf")];
    if let Some(home) = home {
        files.push(home.join(".pip/pip.conf"));
        let configuration = environment.get("XDG_CONFIG_HOME").filter(|text| !text.is_empty());
        files.push(configuration.map_or_else(|| home.join(".config"), PathBuf::from).join("pip/pip.conf"));
    }
    match environment.get("PIP_CONFIG_FILE").map(String::as_str) {
        // pip's own way to say that no file counts.
        Some("/dev/null") => files.clear(),
        Some(path) => files.push(PathBuf::from(path)),
        None => {}
    }
    files
}

fn interpreter_roots(environment: &BTreeMap<String, String>, home: Option<&Path>) -> InterpreterRoots {
    let present = |candidates: Vec<Option<PathBuf>>| {
        let mut found: Vec<PathBuf> = Vec::new();
        for path in candidates.into_iter().flatten() {
            if path.is_absolute() && path.is_dir() && !found.contains(&path) {
                found.push(path);
            }
        }
        found
    };
    let variable = |name: &str| environment.get(name).filter(|text| !text.is_empty()).map(PathBuf::from);
    InterpreterRoots {
        pyenv: present(vec![
            variable("PYENV_ROOT").map(|root| root.join("versions")),
            home.map(|home| home.join(".pyenv/versions")),
            Some(PathBuf::from("/opt/pyenv/versions")),
        ]),
        uv: present(vec![variable("UV_PYTHON_INSTALL_DIR"), home.map(|home| home.join(".local/share/uv/python"))]),
        tool_cache: present(vec![
            variable("RUNNER_TOOL_CACHE").map(|root| root.join("Python")),
            variable("AGENT_TOOLSDIRECTORY").map(|root| root.join("Python")),
            Some(PathBuf::from("/opt/hostedtoolcache/Python")),
        ]),
        node_tool_cache: present(vec![
            variable("RUNNER_TOOL_CACHE").map(|root| root.join("node")),
            variable("AGENT_TOOLSDIRECTORY").map(|root| root.join("node")),
            Some(PathBuf::from("/opt/hostedtoolcache/node")),
        ]),
        node_versions: present(vec![
            variable("NVM_DIR").map(|root| root.join("versions/node")),
            home.map(|home| home.join(".nvm/versions/node")),
            variable("FNM_DIR").map(|root| root.join("node-versions")),
            home.map(|home| home.join(".local/share/fnm/node-versions")),
        ]),
        uv_programs: home
            .into_iter()
            .flat_map(|home| [home.join(".local/bin/uv"), home.join(".cargo/bin/uv")])
            .filter_map(|path| path.canonicalize().ok())
            .collect(),
    }
}

/// The machine's memory, or less where a cgroup of this process limits it. 1 GiB when neither can be read.
pub fn memory_of_this_machine() -> u64 {
    let total = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        })
        .map_or(1 << 30, |kilobytes| kilobytes * 1024);
    cgroup_memory_limits().into_iter().fold(total, u64::min)
}

/// Memory limits on the way from this process's cgroup to the root of its hierarchy, v2 and v1 (cgroups(7)).
fn cgroup_memory_limits() -> Vec<u64> {
    let Ok(text) = std::fs::read_to_string("/proc/self/cgroup") else { return Vec::new() };
    let mut limits = Vec::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => continue,
        };
        let mut group = PathBuf::from(path.trim_start_matches('/'));
        loop {
            let limit = std::fs::read_to_string(Path::new(root).join(&group).join(file));
            limits.extend(limit.ok().and_then(|text| text.trim().parse::<u64>().ok()));
            if !group.pop() {
                break;
            }
        }
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_and_never_above_the_machine() {
        let memory = memory_of_this_machine();
        assert!(memory > 64 << 20, "{memory}");
        assert!(HostRules::of_this_host(&BTreeMap::new()).memory_bytes < memory);
    }
}
