//! What to build, in kernel terms: plain data that says everything a sandbox has. What is not listed does not exist
//! inside. No policy here: who may have what is decided before a spec is made.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::protection::Protection;

/// One sandbox and the one program that runs in it. [`Spec::closed`] allows nothing; open it field by field.
///
/// Written down it says the sandbox only: the program, its arguments, environment, working directory and files go to the sandbox by
/// a way of their own, which leads past the launcher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// The program: a path inside the sandbox, or a bare name looked up in the `PATH` of [`Spec::env`].
    #[serde(skip)]
    pub program: OsString,
    /// Its arguments, without the program's own name.
    #[serde(skip)]
    pub args: Vec<OsString>,
    /// Its whole environment. Nothing of the caller's is added.
    #[serde(skip)]
    pub env: Vec<(OsString, OsString)>,
    /// Its working directory, an absolute path inside the sandbox.
    #[serde(skip)]
    pub cwd: PathBuf,
    /// Read-only files that come with the program, such as its script; made before [`Spec::mounts`].
    #[serde(skip)]
    pub files: Vec<GivenFile>,
    /// Who it is inside.
    pub identity: Identity,
    /// Which host ids stand behind the ids inside.
    pub ids: Ids,
    /// The host name it sees; at most 64 bytes.
    pub hostname: String,
    /// The file tree, walked in order on an empty root. The root itself is read-only once built.
    pub mounts: Vec<Mount>,
    /// What of the network it has.
    pub network: Network,
    /// Files under `/run/secrets`, readable by the step alone.
    pub secrets: Vec<SecretFile>,
    /// How much it may use.
    pub limits: Limits,
    /// Which system calls it may make.
    pub filter: Filter,
    /// Protections whose lack the operator accepts by name. All others that the spec needs must be in force, or the
    /// launch is refused.
    pub allow_missing: BTreeSet<Protection>,
}

impl Spec {
    /// The spec that allows nothing: an empty read-only root with `/proc`, `/dev`, `/tmp` and no file of the host, no
    /// environment, no network, the default filter, the unprivileged identity 1000.
    pub fn closed(program: impl Into<OsString>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            cwd: PathBuf::from("/"),
            files: Vec::new(),
            identity: Identity::RUNNER,
            ids: Ids::Default,
            hostname: "sandbox".to_owned(),
            mounts: Vec::new(),
            network: Network::Closed,
            secrets: Vec::new(),
            limits: Limits::default(),
            filter: Filter::default(),
            allow_missing: BTreeSet::new(),
        }
    }
}

impl Spec {
    /// The sandbox without what may come when it is built already: the program with its words, files and secrets, and the time
    /// that it has. Two specs of the same shape can be run in sandboxes built alike.
    pub(crate) fn shape(&self) -> Self {
        let mut shape = self.clone();
        shape.program.clear();
        shape.args.clear();
        shape.env.clear();
        shape.cwd.clear();
        shape.files.clear();
        shape.secrets.clear();
        shape.limits.wall_clock = None;
        shape
    }

    /// Whether a path lies directly on the sandbox's own root, and in nothing that is mounted there.
    pub(crate) fn leaves(&self, path: &Path) -> bool {
        self.mounts.iter().all(|mount| {
            !matches!(mount, Mount::Bind { .. } | Mount::Overlay { .. } | Mount::Tmpfs { .. }) || !path.starts_with(mount.target())
        }) && !["/proc", "/dev", "/tmp", "/run/secrets"].iter().any(|taken| path.starts_with(taken))
    }

    /// Whether more than a program comes into it.
    pub(crate) fn gives(&self) -> bool {
        !(self.files.is_empty() && self.secrets.is_empty())
    }
}

/// Who the step is inside its user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Identity {
    /// An ordinary user without any capability.
    User {
        /// User id inside; not 0.
        uid: u32,
        /// Group id inside; not 0.
        gid: u32,
    },
    /// Id 0 of its own user namespace with [`Identity::ROOT_CAPABILITIES`] and no more. Outside it is nobody.
    NamespaceRoot,
}

impl Identity {
    /// User and group 1000.
    pub const RUNNER: Identity = Identity::User { uid: 1000, gid: 1000 };

    /// The capabilities of [`Identity::NamespaceRoot`]: what a package manager needs to unpack files of several owners.
    pub const ROOT_CAPABILITIES: [&'static str; 6] =
        ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_SETGID", "CAP_SETUID"];

    /// User id inside.
    pub const fn uid(self) -> u32 {
        match self {
            Self::User { uid, .. } => uid,
            Self::NamespaceRoot => 0,
        }
    }

    /// Group id inside.
    pub const fn gid(self) -> u32 {
        match self {
            Self::User { gid, .. } => gid,
            Self::NamespaceRoot => 0,
        }
    }
}

/// Which host ids stand behind the ids inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ids {
    /// What the launcher's mode gives: as root the first range of its own, else the subordinate ids or the single id of
    /// the user. [`Protection::IdRange`] is then reported missing, since other sandboxes may have the same ids.
    Default,
    /// Host ids `base .. base + count` become `0 .. count` inside. Only a launcher with root can give it; without root it
    /// acts as [`Ids::Default`].
    Range(IdRange),
}

/// A run of host ids that belongs to one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct IdRange {
    /// First host id; at least 65536, so that no real user is in a range.
    pub base: u32,
    /// How many; at least 1001.
    pub count: u32,
}

/// A directory of an area.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AreaDirectory {
    /// Its name, or its path below the area where directories before it in the list lead there.
    pub name: String,
    /// Whose it is: user id inside a sandbox with these ids.
    pub uid: u32,
    /// Group id inside.
    pub gid: u32,
    /// Mode.
    pub mode: u32,
}

/// One thing in the file tree of a sandbox. Targets are absolute, name no `..` and are never followed through a symbolic
/// link. Missing parent directories are made (0755).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mount {
    /// A file or directory of the host, with everything mounted below it, always `nosuid` and `nodev`.
    Bind {
        /// Path on the host, as the launcher sees it.
        source: PathBuf,
        /// Where it appears.
        target: PathBuf,
        /// Whether it may be written.
        access: Access,
        /// As whom the files of one host user appear; `None` leaves ids as they are, so that files of host users
        /// outside the sandbox's id range appear as `nobody`.
        owner: Option<HostOwner>,
    },
    /// An overlay: `lower` is read, all writes go to `upper`. Always `nosuid` and `nodev`.
    Overlay {
        /// Host directories, topmost first; never written. At least one.
        lower: Vec<PathBuf>,
        /// Where writes go.
        upper: Upper,
        /// Where it appears.
        target: PathBuf,
        /// As whom the files of one host user in `lower` appear.
        owner: Option<HostOwner>,
    },
    /// An empty file system in memory, counted against the memory limit.
    Tmpfs {
        /// Where it appears.
        target: PathBuf,
        /// Most bytes.
        size: u64,
        /// Most files and directories.
        inodes: u64,
        /// Mode of its top directory, such as `0o1777`. It belongs to the step's identity.
        mode: u32,
    },
    /// An empty directory, owned by the step's identity.
    Directory {
        /// Where.
        target: PathBuf,
        /// Mode.
        mode: u32,
    },
    /// A read-only file with this content, owned by id 0 inside. It hides a file of that name that is there already.
    File {
        /// Where.
        target: PathBuf,
        /// The bytes.
        #[serde(with = "crate::octets")]
        content: Vec<u8>,
        /// Mode.
        mode: u32,
    },
    /// A part of the system that belongs to id 0 inside and may be changed by it. What is there already stays as it is, so
    /// that a later sandbox of the same job finds what an earlier one made of it.
    System {
        /// Where.
        target: PathBuf,
        /// What.
        what: SystemEntry,
    },
    /// A symbolic link.
    Symlink {
        /// Where the link is.
        target: PathBuf,
        /// What it says.
        to: PathBuf,
    },
}

/// What a [`Mount::System`] is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SystemEntry {
    /// A directory.
    Directory {
        /// Mode.
        mode: u32,
    },
    /// A file.
    File {
        /// The bytes.
        #[serde(with = "crate::octets")]
        content: Vec<u8>,
        /// Mode.
        mode: u32,
    },
    /// A symbolic link.
    Link {
        /// What it says.
        to: PathBuf,
    },
}

/// Whether a bind may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// Never written, at any depth.
    ReadOnly,
    /// Written as the file permissions allow.
    ReadWrite,
}

/// Where the writes of an overlay go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Upper {
    /// A host directory that belongs to the job; `upper` and `work` are made below it and persist. Make it with
    /// [`crate::launcher::Launcher::create_area`].
    Directory(PathBuf),
    /// Memory, gone with the sandbox, counted against the memory limit.
    Memory {
        /// Most bytes.
        size: u64,
        /// Most files and directories.
        inodes: u64,
    },
}

/// The files of one host user and group appear as someone inside (mount_setattr(2) `MOUNT_ATTR_IDMAP`, 5.12; as a lower
/// layer 5.19). All other owners appear as `nobody`. Only with root; without root the caller's own files appear as the
/// step's own anyhow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HostOwner {
    /// User id on the host's disk.
    pub uid: u32,
    /// Group id on the host's disk.
    pub gid: u32,
    /// As whom.
    pub seen_as: SeenAs,
}

/// As whom the files of a [`HostOwner`] appear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SeenAs {
    /// As the step's own.
    Step,
    /// As id 0 of the namespace.
    Root,
}

/// What of the network a sandbox has. Loopback is always up and the sandbox's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// Loopback only.
    Closed,
    /// Loopback only, with sockets inside before anything hostile runs, whose descriptors come out to the caller: see
    /// [`crate::launcher::Running::take_sockets`].
    Exit {
        /// Loopback addresses to listen on, in the order in which the descriptors come out.
        listeners: Vec<SocketAddr>,
        /// What else is led to the first of them.
        capture: Option<Capture>,
    },
}

/// Connections to addresses that are not the sandbox's own, led to the first listener's port of loopback, which can ask for their
/// original destination (`SO_ORIGINAL_DST`). What no lead names is refused at once, and told of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capture {
    /// Which TCP connections are led.
    pub leads: Vec<Lead>,
    /// Addresses that loopback has beside its own.
    pub addresses: Vec<IpAddr>,
    /// Where the name server of the sandbox listens, by UDP and TCP: an address of 127.0.0.0/8.
    pub resolver: SocketAddr,
}

/// TCP to these addresses and ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lead {
    /// The first address. Loopback's own are never led, not even by a lead of all addresses.
    pub address: IpAddr,
    /// How many of its leading bits count; a multiple of 8.
    pub bits: u8,
    /// Which ports.
    pub ports: Ports,
}

/// Ports of a lead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ports {
    /// Every one.
    All,
    /// These.
    Only(Vec<u16>),
}

/// A read-only file that comes with the program, owned by id 0 inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenFile {
    /// Where it is: an absolute path inside.
    pub target: PathBuf,
    /// The bytes.
    #[serde(with = "crate::octets")]
    pub content: Vec<u8>,
    /// Mode.
    pub mode: u32,
}

/// One secret, a file of mode 0400 under `/run/secrets` that belongs to the step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretFile {
    /// File name: no `/`, not empty, not `.` or `..`.
    pub name: String,
    /// Its content.
    pub value: SecretValue,
}

/// Bytes that are never shown by `Debug` and are overwritten when dropped.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretValue(#[serde(with = "crate::octets")] Vec<u8>);

impl SecretValue {
    /// Takes the bytes over.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes. Do not copy them without need.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("SecretValue(***)")
    }
}

impl Drop for SecretValue {
    fn drop(&mut self) {
        crate::sys::wipe(&mut self.0);
    }
}

/// How much a step may use. `None` asks for no limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of memory over all processes, tmpfs included.
    pub memory: Option<u64>,
    /// Bytes of swap beyond that. Only with `memory`.
    pub swap: Option<u64>,
    /// Processor time in thousandths of one processor.
    pub cpu_milli: Option<u32>,
    /// Share of the processors when others want them too, from 1 to 10000; 100 is what everybody has.
    pub cpu_weight: Option<u32>,
    /// Processes and threads, init included.
    pub pids: Option<u32>,
    /// Time from start to being killed.
    pub wall_clock: Option<Duration>,
    /// Descriptors per process. Never above what the launcher itself has.
    pub open_files: Option<u64>,
    /// Bytes of one file.
    pub file_size: Option<u64>,
    /// Bytes that it may write, over everything that it can write: host directories, overlays and memory file systems
    /// together. Counted, not reserved: who passes it is killed within moments.
    pub disk: Option<u64>,
    /// Files, directories and the like, counted the same way.
    pub inodes: Option<u64>,
    /// Host directories whose whole content counts, whoever wrote it: those of the job. Every other host directory that can
    /// be written counts by what it grew.
    pub counted: Vec<PathBuf>,
    /// Bytes of `/tmp`. With `None` half of the memory limit or 1 GiB.
    pub tmp_size: Option<u64>,
    /// Bytes of `/dev/shm`. With `None` 256 MiB.
    pub shm_size: Option<u64>,
}

impl Default for Limits {
    /// Limits nothing but what a descriptor and a core dump cost: 65536 open files, no core dump ever.
    fn default() -> Self {
        Self {
            memory: None,
            swap: Some(0),
            cpu_milli: None,
            cpu_weight: None,
            pids: None,
            wall_clock: None,
            open_files: Some(65536),
            file_size: None,
            disk: None,
            inodes: None,
            counted: Vec::new(),
            tmp_size: None,
            shm_size: None,
        }
    }
}

/// Which system calls a step may make.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
pub struct Filter {
    /// The list to begin with.
    pub profile: Profile,
    /// System calls to allow beyond it, by name (`ptrace`). A name that this machine's kernel interface does not know
    /// refuses the launch, as does one that would open the sandbox itself.
    pub additions: BTreeSet<String>,
    /// Whether the outcome lists the calls that were refused.
    pub refusals: Refusals,
}

/// What becomes of refused calls, beside being refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
pub enum Refusals {
    /// Nothing.
    #[default]
    Silent,
    /// They are listed in [`crate::outcome::Outcome::refused`]. Each then costs a switch to the launcher and back, and a step
    /// can't use a listener of its own.
    Listed,
}

/// A list of allowed system calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
pub enum Profile {
    /// What builds and tests need.
    #[default]
    Default,
    /// For scanners and for reading other people's archives: no sockets but local ones, no process tricks.
    Strict,
}

impl Mount {
    /// Where it appears.
    pub fn target(&self) -> &PathBuf {
        match self {
            Self::Bind { target, .. }
            | Self::Overlay { target, .. }
            | Self::Tmpfs { target, .. }
            | Self::Directory { target, .. }
            | Self::File { target, .. }
            | Self::System { target, .. }
            | Self::Symlink { target, .. } => target,
        }
    }
}
