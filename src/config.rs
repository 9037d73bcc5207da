//! The operator's settings: files, environment and flags become one settled [`Config`] before anything has an effect.
//!
//! What a *step* may do is policy and stands elsewhere ([`crate::policy_file`]); here is what this machine offers.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use caisson_model::outcome::{Bytes, Fault};
use caisson_sandbox::protection::Protection;
use serde::Deserialize;

use crate::cli::fleet::Reach;
use crate::cli::{Kind, Machine, mirror};
use crate::quantity::{self, Cores};
use crate::report::Explained;

/// Everything settled.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    /// Protections that may be missing.
    pub(crate) allow_missing: Setting<BTreeSet<Protection>>,
    /// Memory of a step; `None` for three quarters of the machine's.
    pub(crate) memory: Setting<Option<Bytes>>,
    /// CPU of a step; `None` for no limit.
    pub(crate) cpus: Setting<Option<Cores>>,
    /// Processes of a step; `None` for the agent's default.
    pub(crate) pids: Setting<Option<u32>>,
    /// Bytes on what a job can write.
    pub(crate) disk: Setting<Option<Bytes>>,
    /// Files and directories likewise.
    pub(crate) inodes: Setting<Option<u32>>,
    /// Open files of a process.
    pub(crate) open_files: Setting<Option<u32>>,
    /// Further host paths that every step sees, read-only.
    pub(crate) ro_paths: Setting<Vec<PathBuf>>,
    /// Jobs at once; `None` for one per two cores, at least 2.
    pub(crate) slots: Setting<Option<u32>>,
    /// Where journals, logs, blobs and workspaces live.
    pub(crate) state_dir: Setting<PathBuf>,
    /// Bytes that stored packages may take; `None` for the gateway's default.
    pub(crate) packages_quota: Setting<Option<Bytes>>,
    /// Whether the package gateway serves only what is stored.
    pub(crate) packages_offline: Setting<bool>,
    /// A folder that stands in for the Python indexes.
    pub(crate) wheelhouse: Setting<Option<PathBuf>>,
    /// Folders that stand in for indexes, by whose.
    pub(crate) mirror: Setting<Mirrors>,
    /// The controller that commands talk to.
    pub(crate) controller: Setting<Option<String>>,
    /// The certificate of its authority.
    pub(crate) ca: Setting<Option<PathBuf>>,
    /// A file with an API token.
    pub(crate) token_file: Setting<Option<PathBuf>>,
    /// Where files of the user are looked for.
    pub(crate) places: Places,
}

/// Folders that stand in for indexes.
pub(crate) type Mirrors = BTreeMap<Kind, PathBuf>;

/// A value and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting<T> {
    /// The value.
    pub(crate) value: T,
    /// Where it came from.
    pub(crate) origin: Origin,
}

/// Where a setting came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Nobody said anything.
    Default,
    /// A configuration file.
    File(PathBuf),
    /// An environment variable.
    Environment(&'static str),
    /// A flag.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(path) => write!(f, "{}", path.display()),
            Origin::Environment(name) => write!(f, "environment variable {name}"),
            Origin::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// Folders of the user who runs the command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Places {
    /// Whether that user is root, for whom files under `/etc/caisson` count too.
    pub(crate) root: bool,
    /// `$XDG_CONFIG_HOME/caisson`.
    pub(crate) config: PathBuf,
    /// `$XDG_STATE_HOME/caisson`.
    pub(crate) state: PathBuf,
}

/// Flags that are settings too.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags {
    /// Limits and lacks.
    pub(crate) machine: Machine,
    /// `--slots`.
    pub(crate) slots: Option<u32>,
    /// `--state-dir`.
    pub(crate) state_dir: Option<PathBuf>,
    /// How to reach a controller.
    pub(crate) reach: Reach,
}

/// Why settings are not usable.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// There is no place to look for files.
    #[error("cannot tell where configuration and state belong: neither HOME nor {missing} is set to an absolute path")]
    Homeless {
        /// The variable that would do as well.
        missing: &'static str,
    },
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not understood.
    #[error("{} is not a valid configuration\n{message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, column and reason.
        message: String,
    },
    /// A variable is not understood.
    #[error("environment variable {name} is not valid: {reason}")]
    Variable {
        /// Its name.
        name: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A variable is not known.
    #[error("environment variable {name} is not known")]
    UnknownVariable {
        /// Its name.
        name: String,
    },
}

impl Explained for ConfigError {
    fn fault(&self) -> Fault {
        match self {
            ConfigError::Homeless { .. } | ConfigError::Read { .. } => Fault::Environment,
            _ => Fault::User,
        }
    }

    fn help(&self) -> Option<String> {
        match self {
            ConfigError::Homeless { .. } => Some("set HOME".to_owned()),
            ConfigError::Parse { .. } => Some(format!("known keys: {}", KEYS.join(", "))),
            ConfigError::UnknownVariable { .. } => Some(format!("known: {}", VARIABLES.join(", "))),
            _ => None,
        }
    }
}

const KEYS: [&str; 17] = [
    "allow_missing",
    "memory",
    "cpus",
    "pids",
    "disk",
    "inodes",
    "open_files",
    "ro_paths",
    "slots",
    "state_dir",
    "packages_quota",
    "packages_offline",
    "wheelhouse",
    "mirror",
    "controller",
    "ca",
    "token_file",
];

const VARIABLES: [&str; 20] = [
    "CAISSON_ALLOW_MISSING",
    "CAISSON_CA",
    "CAISSON_CONTROLLER",
    "CAISSON_CPUS",
    "CAISSON_DISK",
    "CAISSON_INODES",
    "CAISSON_LOG",
    "CAISSON_MEMORY",
    "CAISSON_MIRROR",
    "CAISSON_OPEN_FILES",
    "CAISSON_PACKAGES_OFFLINE",
    "CAISSON_PACKAGES_QUOTA",
    "CAISSON_PIDS",
    "CAISSON_RO_PATHS",
    "CAISSON_SLOTS",
    "CAISSON_STATE_DIR",
    "CAISSON_STORE",
    "CAISSON_TOKEN",
    "CAISSON_TOKEN_FILE",
    "CAISSON_WHEELHOUSE",
];

/// One layer of settings: a file's, or the environment's.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Layer {
    #[serde(default, deserialize_with = "protections")]
    allow_missing: Option<BTreeSet<Protection>>,
    #[serde(default, deserialize_with = "size")]
    memory: Option<Bytes>,
    cpus: Option<Cores>,
    pids: Option<std::num::NonZeroU32>,
    #[serde(default, deserialize_with = "size")]
    disk: Option<Bytes>,
    inodes: Option<std::num::NonZeroU32>,
    open_files: Option<std::num::NonZeroU32>,
    #[serde(default, deserialize_with = "absolute")]
    ro_paths: Option<Vec<PathBuf>>,
    slots: Option<std::num::NonZeroU32>,
    state_dir: Option<PathBuf>,
    #[serde(default, deserialize_with = "size")]
    packages_quota: Option<Bytes>,
    packages_offline: Option<bool>,
    wheelhouse: Option<PathBuf>,
    mirror: Option<Mirrors>,
    controller: Option<String>,
    ca: Option<PathBuf>,
    token_file: Option<PathBuf>,
}

fn protections<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<BTreeSet<Protection>>, D::Error> {
    // By way of FromStr, whose error lists the names that are known.
    let names = Vec::<String>::deserialize(deserializer)?;
    names.iter().map(|name| name.parse()).collect::<Result<_, _>>().map(Some).map_err(serde::de::Error::custom)
}

fn size<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Bytes>, D::Error> {
    String::deserialize(deserializer)?.parse().map(Some).map_err(serde::de::Error::custom)
}

fn absolute<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<PathBuf>>, D::Error> {
    let paths = Vec::<PathBuf>::deserialize(deserializer)?;
    match paths.iter().find(|path| !path.is_absolute()) {
        Some(path) => Err(serde::de::Error::custom(format!("{} is not an absolute path", path.display()))),
        None => Ok(Some(paths)),
    }
}

/// The environment of this process, handed in so that a test can make its own.
pub(crate) type Environment = BTreeMap<OsString, OsString>;

impl Places {
    /// Finds the folders from `HOME`, `XDG_CONFIG_HOME` and `XDG_STATE_HOME`. Root without a HOME uses `/etc` and `/var/lib`.
    pub(crate) fn of(environment: &Environment, root: bool) -> Result<Places, ConfigError> {
        let absolute = |name: &str| environment.get(std::ffi::OsStr::new(name)).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = absolute("HOME");
        let place = |variable: &'static str, below: &str, system: &str| match (absolute(variable), &home) {
            (Some(path), _) => Ok(path.join("caisson")),
            (None, Some(home)) => Ok(home.join(below).join("caisson")),
            (None, None) if root => Ok(PathBuf::from(system)),
            (None, None) => Err(ConfigError::Homeless { missing: variable }),
        };
        Ok(Places {
            root,
            config: place("XDG_CONFIG_HOME", ".config", "/etc/caisson")?,
            state: place("XDG_STATE_HOME", ".local/state", "/var/lib/caisson")?,
        })
    }
}

/// A folder as seen from where the command was started: what is made below it is used from elsewhere.
fn from_here(setting: Setting<PathBuf>) -> Setting<PathBuf> {
    // Only an empty path, or a folder that was removed under our feet, has no absolute form; using it fails with its own words.
    let value = std::path::absolute(&setting.value).unwrap_or(setting.value);
    Setting { value, origin: setting.origin }
}

impl Config {
    /// Settles the configuration: flag before environment before the user's file before the system's file before default.
    pub(crate) fn settle(environment: &Environment, root: bool, flags: Flags) -> Result<Config, ConfigError> {
        let places = Places::of(environment, root)?;
        let mut layers = vec![(from_flags(flags), None), (from_environment(environment)?, None)];
        let mut files = vec![places.config.join("config.toml")];
        if root {
            files.push(PathBuf::from("/etc/caisson/config.toml"));
        }
        for path in files {
            if let Some(layer) = read(&path)? {
                layers.push((layer, Some(path)));
            }
        }
        let origin = |level: usize, file: &Option<PathBuf>, flag: &'static str, variable: &'static str| match (level, file) {
            (0, _) => Origin::Flag(flag),
            (_, Some(path)) => Origin::File(path.clone()),
            (_, None) => Origin::Environment(variable),
        };
        macro_rules! settle {
            ($field:ident, $flag:literal, $variable:literal) => {
                layers
                    .iter_mut()
                    .enumerate()
                    .find_map(|(level, (layer, file))| layer.$field.take().map(|value| (value, origin(level, file, $flag, $variable))))
            };
        }
        fn optional<T, U>(found: Option<(T, Origin)>, convert: impl Fn(T) -> U) -> Setting<Option<U>> {
            match found {
                Some((value, origin)) => Setting { value: Some(convert(value)), origin },
                None => Setting { value: None, origin: Origin::Default },
            }
        }
        fn or<T>(found: Option<(T, Origin)>, default: T) -> Setting<T> {
            let (value, origin) = found.unwrap_or((default, Origin::Default));
            Setting { value, origin }
        }
        Ok(Config {
            allow_missing: or(settle!(allow_missing, "--allow-missing", "CAISSON_ALLOW_MISSING"), BTreeSet::new()),
            memory: optional(settle!(memory, "--memory", "CAISSON_MEMORY"), |bytes| bytes),
            cpus: optional(settle!(cpus, "--cpus", "CAISSON_CPUS"), |cores| cores),
            pids: optional(settle!(pids, "--pids", "CAISSON_PIDS"), |n| n.get()),
            disk: optional(settle!(disk, "--disk", "CAISSON_DISK"), |bytes| bytes),
            inodes: optional(settle!(inodes, "--inodes", "CAISSON_INODES"), |n| n.get()),
            open_files: optional(settle!(open_files, "--open-files", "CAISSON_OPEN_FILES"), |n| n.get()),
            ro_paths: or(settle!(ro_paths, "--ro", "CAISSON_RO_PATHS"), Vec::new()),
            slots: optional(settle!(slots, "--slots", "CAISSON_SLOTS"), |n| n.get()),
            state_dir: from_here(or(settle!(state_dir, "--state-dir", "CAISSON_STATE_DIR"), places.state.clone())),
            packages_quota: optional(settle!(packages_quota, "--packages-quota", "CAISSON_PACKAGES_QUOTA"), |bytes| bytes),
            packages_offline: or(settle!(packages_offline, "--offline", "CAISSON_PACKAGES_OFFLINE"), false),
            wheelhouse: optional(settle!(wheelhouse, "--wheelhouse", "CAISSON_WHEELHOUSE"), |path| path),
            mirror: or(settle!(mirror, "--mirror", "CAISSON_MIRROR"), Mirrors::new()),
            controller: optional(settle!(controller, "--controller", "CAISSON_CONTROLLER"), |url| url),
            ca: optional(settle!(ca, "--ca", "CAISSON_CA"), |path| path),
            token_file: optional(settle!(token_file, "--token-file", "CAISSON_TOKEN_FILE"), |path| path),
            places,
        })
    }

    /// How many jobs run at once: one per two cores, since a test suite runs in parallel itself; at least 2, so that a run shows its width.
    pub(crate) fn slots(&self) -> u32 {
        self.slots.value.unwrap_or_else(|| {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            u32::try_from(cores / 2).unwrap_or(u32::MAX).max(2)
        })
    }

    /// Each setting with its value and origin, in the order of the documentation.
    pub(crate) fn rows(&self) -> Vec<(&'static str, String, String)> {
        let list = |items: Vec<String>| if items.is_empty() { "none".to_owned() } else { items.join(", ") };
        let (none, shown) = (|| "none".to_owned(), |path: &Path| path.display().to_string());
        let paths = self.ro_paths.value.iter().map(|path| path.display().to_string()).collect();
        vec![
            (
                "allow_missing",
                list(self.allow_missing.value.iter().map(Protection::to_string).collect()),
                self.allow_missing.origin.to_string(),
            ),
            (
                "memory",
                self.memory.value.map_or("three quarters of this machine's".to_owned(), |bytes| bytes.to_string()),
                self.memory.origin.to_string(),
            ),
            ("cpus", self.cpus.value.map_or("no limit".to_owned(), |cores| cores.to_string()), self.cpus.origin.to_string()),
            ("pids", self.pids.value.map_or("4096".to_owned(), |n| n.to_string()), self.pids.origin.to_string()),
            (
                "disk",
                self.disk.value.map_or("an equal share of what is free for each slot".to_owned(), |bytes| bytes.to_string()),
                self.disk.origin.to_string(),
            ),
            (
                "inodes",
                self.inodes.value.map_or("an equal share of what is free for each slot".to_owned(), |n| n.to_string()),
                self.inodes.origin.to_string(),
            ),
            ("open_files", self.open_files.value.map_or("65536".to_owned(), |n| n.to_string()), self.open_files.origin.to_string()),
            ("ro_paths", list(paths), self.ro_paths.origin.to_string()),
            ("slots", self.slots().to_string(), self.slots.origin.to_string()),
            ("state_dir", self.state_dir.value.display().to_string(), self.state_dir.origin.to_string()),
            (
                "packages_quota",
                self.packages_quota.value.unwrap_or(Bytes(caisson_gateway::settings::DEFAULT_QUOTA)).to_string(),
                self.packages_quota.origin.to_string(),
            ),
            ("packages_offline", self.packages_offline.value.to_string(), self.packages_offline.origin.to_string()),
            ("wheelhouse", self.wheelhouse.value.as_deref().map_or_else(none, shown), self.wheelhouse.origin.to_string()),
            (
                "mirror",
                list(self.mirror.value.iter().map(|(kind, path)| format!("{kind}={}", path.display())).collect()),
                self.mirror.origin.to_string(),
            ),
            ("controller", self.controller.value.clone().unwrap_or_else(none), self.controller.origin.to_string()),
            ("ca", self.ca.value.as_deref().map_or_else(none, shown), self.ca.origin.to_string()),
            ("token_file", self.token_file.value.as_deref().map_or_else(none, shown), self.token_file.origin.to_string()),
        ]
    }
}

fn from_flags(flags: Flags) -> Layer {
    let Machine { allow_missing, memory, cpus, pids, disk, inodes, open_files } = flags.machine;
    Layer {
        allow_missing: (!allow_missing.is_empty()).then(|| allow_missing.into_iter().collect()),
        memory,
        cpus,
        pids: pids.and_then(std::num::NonZeroU32::new),
        disk,
        inodes: inodes.and_then(std::num::NonZeroU32::new),
        open_files: open_files.and_then(std::num::NonZeroU32::new),
        ro_paths: None,
        slots: flags.slots.and_then(std::num::NonZeroU32::new),
        state_dir: flags.state_dir,
        // Flags of `run` and `exec` are read where they count.
        packages_quota: None,
        packages_offline: None,
        wheelhouse: None,
        mirror: None,
        controller: flags.reach.controller,
        ca: flags.reach.ca,
        token_file: flags.reach.token_file,
    }
}

fn from_environment(environment: &Environment) -> Result<Layer, ConfigError> {
    for name in environment.keys() {
        let name = name.to_string_lossy();
        if name.starts_with("CAISSON_") && !VARIABLES.contains(&name.as_ref()) {
            return Err(ConfigError::UnknownVariable { name: name.into_owned() });
        }
    }
    // An empty variable counts as not set: that is how scripts and CI systems switch one off.
    let text = |name: &'static str| match environment.get(std::ffi::OsStr::new(name)) {
        Some(value) if !value.is_empty() => {
            value.to_str().map(Some).ok_or_else(|| ConfigError::Variable { name, reason: "it is not UTF-8 text".to_owned() })
        }
        _ => Ok(None),
    };
    fn read<T>(name: &'static str, text: Option<&str>, parse: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, ConfigError> {
        text.map(parse).transpose().map_err(|reason| ConfigError::Variable { name, reason })
    }
    let positive = |text: &str| quantity::count(text).map(|n| std::num::NonZeroU32::new(n).unwrap_or(std::num::NonZeroU32::MIN));
    let names = |text: &str| {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        names.map(|name| name.parse().map_err(|error| format!("{error}"))).collect()
    };
    let paths = |text: &str| {
        let paths: Vec<PathBuf> = text.split(':').filter(|path| !path.is_empty()).map(PathBuf::from).collect();
        match paths.iter().find(|path| !path.is_absolute()) {
            Some(path) => Err(format!("{} is not an absolute path", path.display())),
            None => Ok(paths),
        }
    };
    Ok(Layer {
        allow_missing: read("CAISSON_ALLOW_MISSING", text("CAISSON_ALLOW_MISSING")?, names)?,
        memory: read("CAISSON_MEMORY", text("CAISSON_MEMORY")?, |text| text.parse::<Bytes>().map_err(|error| error.to_string()))?,
        cpus: read("CAISSON_CPUS", text("CAISSON_CPUS")?, quantity::cores)?,
        pids: read("CAISSON_PIDS", text("CAISSON_PIDS")?, positive)?,
        disk: read("CAISSON_DISK", text("CAISSON_DISK")?, quantity::size)?,
        inodes: read("CAISSON_INODES", text("CAISSON_INODES")?, positive)?,
        open_files: read("CAISSON_OPEN_FILES", text("CAISSON_OPEN_FILES")?, positive)?,
        ro_paths: read("CAISSON_RO_PATHS", text("CAISSON_RO_PATHS")?, paths)?,
        slots: read("CAISSON_SLOTS", text("CAISSON_SLOTS")?, positive)?,
        state_dir: text("CAISSON_STATE_DIR")?.map(PathBuf::from),
        packages_quota: read("CAISSON_PACKAGES_QUOTA", text("CAISSON_PACKAGES_QUOTA")?, |text| {
            text.parse::<Bytes>().map_err(|error| error.to_string())
        })?,
        packages_offline: read("CAISSON_PACKAGES_OFFLINE", text("CAISSON_PACKAGES_OFFLINE")?, |text| match text {
            "1" | "true" => Ok(true),
            "0" | "false" => Ok(false),
            other => Err(format!("{other:?} is neither true nor false")),
        })?,
        wheelhouse: text("CAISSON_WHEELHOUSE")?.map(PathBuf::from),
        mirror: read("CAISSON_MIRROR", text("CAISSON_MIRROR")?, |text| text.split(',').map(mirror).collect())?,
        controller: text("CAISSON_CONTROLLER")?.map(str::to_owned),
        ca: text("CAISSON_CA")?.map(PathBuf::from),
        token_file: text("CAISSON_TOKEN_FILE")?.map(PathBuf::from),
    })
}

fn read(path: &Path) -> Result<Option<Layer>, ConfigError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ConfigError::Read { path: path.to_owned(), source }),
    };
    toml::from_str(&text).map(Some).map_err(|error| ConfigError::Parse { path: path.to_owned(), message: error.to_string() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        pairs.iter().map(|(key, value)| (OsString::from(key), OsString::from(value))).collect()
    }

    fn with_file(text: &str, pairs: &[(&str, &str)], flags: Flags) -> Result<Config, ConfigError> {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(home.path().join(".config/caisson")).unwrap();
        std::fs::write(home.path().join(".config/caisson/config.toml"), text).unwrap();
        let mut environment = environment(pairs);
        environment.insert("HOME".into(), home.path().into());
        Config::settle(&environment, false, flags)
    }

    #[test]
    fn a_flag_beats_the_environment_beats_the_file_beats_the_default() {
        let flags = |pids| Flags { machine: Machine { pids, ..Machine::default() }, ..Flags::default() };
        let pids = |config: Config| (config.pids.value, config.pids.origin);
        let both = [("CAISSON_PIDS", "30")];
        assert_eq!(pids(with_file("pids = 20", &both, flags(Some(40))).unwrap()), (Some(40), Origin::Flag("--pids")));
        assert_eq!(pids(with_file("pids = 20", &both, flags(None)).unwrap()), (Some(30), Origin::Environment("CAISSON_PIDS")));
        let (value, origin) = pids(with_file("pids = 20", &[("CAISSON_PIDS", "")], flags(None)).unwrap());
        assert!(value == Some(20) && matches!(origin, Origin::File(_)));
        assert_eq!(pids(with_file("", &[], flags(None)).unwrap()), (None, Origin::Default));
    }

    #[test]
    fn every_key_is_read() {
        let text = "allow_missing = ['memory-limit']\nmemory = '2GiB'\ncpus = 1.5\npids = 9\ndisk = '1GiB'\ninodes = 7\nopen_files = 8\nro_paths = ['/opt/x']\nslots = 3\nstate_dir = '/s'\npackages_quota = '3GiB'\npackages_offline = true\nwheelhouse = '/w'\nmirror = { npm = '/n', debian = '/d' }\ncontroller = 'https://c:7'\nca = '/ca.pem'\ntoken_file = '/t'";
        let config = with_file(text, &[], Flags::default()).unwrap();
        let values: Vec<_> = config.rows().into_iter().map(|(key, value, _)| format!("{key}={value}")).collect();
        assert_eq!(
            values,
            [
                "allow_missing=memory-limit",
                "memory=2 GiB",
                "cpus=1.5",
                "pids=9",
                "disk=1 GiB",
                "inodes=7",
                "open_files=8",
                "ro_paths=/opt/x",
                "slots=3",
                "state_dir=/s",
                "packages_quota=3 GiB",
                "packages_offline=true",
                "wheelhouse=/w",
                "mirror=npm=/n, debian=/d",
                "controller=https://c:7",
                "ca=/ca.pem",
                "token_file=/t"
            ]
        );
    }

    #[test]
    fn what_is_not_understood_is_refused_with_its_place() {
        for (text, place) in [
            ("pods = 3", "line 1"),
            ("allow_missing = ['memory']", "memory-limit"),
            ("\nmemory = '3 apples'", "line 2"),
            ("ro_paths = ['x']", "absolute"),
            ("pids = 0", "line 1"),
            ("cpus = -1", "cores"),
            ("mirror = { cargo = '/c' }", "npm"),
        ] {
            let error = with_file(text, &[], Flags::default()).unwrap_err();
            assert!(error.to_string().contains(place) && error.to_string().contains("config.toml"), "{error}");
        }
        for (name, value) in [
            ("CAISSON_MEMORY", "lots"),
            ("CAISSON_ALOW_MISSING", "seccomp"),
            ("CAISSON_SLOTS", "0"),
            ("CAISSON_ALLOW_MISSING", "luck"),
            ("CAISSON_MIRROR", "npm"),
        ] {
            let error = with_file("", &[(name, value)], Flags::default()).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn a_home_is_needed_unless_one_is_root() {
        assert!(Places::of(&environment(&[]), false).is_err());
        assert!(Places::of(&environment(&[("HOME", "relative")]), false).is_err());
        assert_eq!(Places::of(&environment(&[]), true).unwrap().state, PathBuf::from("/var/lib/caisson"));
        let xdg = Places::of(&environment(&[("XDG_CONFIG_HOME", "/c"), ("XDG_STATE_HOME", "/s")]), false).unwrap();
        assert_eq!((xdg.config, xdg.state), ("/c/caisson".into(), "/s/caisson".into()));
    }
}
