//! The two mount namespaces of the launcher. In the *host view* it opens what specs name; from the *ground* it clones
//! sandboxes. The ground holds nothing of the host but one `/proc` and six device nodes: so a sandbox never has a host
//! mount to get rid of, and cloning costs the same however many mounts the host has.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag};
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::{Mode, mkdirat};

use crate::error::{Failure, Stage};
use crate::sys::{self, MountChange};

/// The device nodes of every sandbox: those that hold no state of the host.
const NODES: [(&str, &CStr); 6] = [
    ("null", c"/dev/null"),
    ("zero", c"/dev/zero"),
    ("full", c"/dev/full"),
    ("random", c"/dev/random"),
    ("urandom", c"/dev/urandom"),
    ("tty", c"/dev/tty"),
];

/// What programs expect beside the nodes.
const LINKS: [(&str, &str); 5] = [
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// Where the ground keeps an empty file and an empty directory, to hide things under.
pub(crate) const EMPTY_FILE: &CStr = c"/empty";
/// As above.
pub(crate) const EMPTY_DIRECTORY: &CStr = c"/void";
/// Where a sandbox attaches its new root.
pub(crate) const NEW_ROOT: &CStr = c"/new";
/// Where the launcher attaches overlay layers for a moment.
pub(crate) const STAGING: &CStr = c"/stage";
/// The device tree.
pub(crate) const DEV: &CStr = c"/dev";

/// Both namespaces; the launcher is in the host view except inside [`Ground::stand`].
#[derive(Debug)]
pub(crate) struct Ground {
    host: OwnedFd,
    ground: OwnedFd,
}

impl Ground {
    /// Makes the ground. The caller is in a mount namespace of its own, which becomes the host view.
    pub(crate) fn new() -> Result<Self, Failure> {
        let host = own_namespace()?;
        let failed = |subject: &'static str| move |errno| Failure::new(Stage::Start, subject, errno);
        unshare(CloneFlags::CLONE_NEWNS).map_err(failed("ground"))?;
        let nodes: Vec<OwnedFd> = NODES
            .iter()
            .map(|(name, path)| sys::open_tree(AT_FDCWD, path, sys::OPEN_TREE_CLONE).map_err(failed(name)))
            .collect::<Result<_, _>>()?;
        // With all that is mounted below: the kernel lets a user namespace mount a new /proc only where it can see a whole
        // one already, so that nobody uncovers what an administrator has hidden.
        let proc = sys::open_tree(AT_FDCWD, c"/proc", sys::OPEN_TREE_CLONE | sys::AT_RECURSIVE).map_err(failed("/proc"))?;
        sys::mount_setattr(proc.as_fd(), &MountChange { private: true, recursive: true, ..MountChange::default() })
            .map_err(failed("/proc"))?;
        let root = tmpfs(&[(c"mode", c"0755"), (c"size", c"1m")], sys::MOUNT_ATTR_NOSUID).map_err(failed("ground"))?;
        for name in ["proc", "dev", "new", "stage", "void"] {
            mkdirat(&root, name, Mode::from_bits_truncate(0o755)).map_err(failed("ground"))?;
        }
        create(&root, "empty").map_err(failed("ground"))?;
        let cover =
            nix::fcntl::open("/proc", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).map_err(failed("ground"))?;
        sys::move_mount(root.as_fd(), cover.as_fd()).map_err(failed("ground"))?;
        nix::unistd::fchdir(&root).map_err(failed("ground"))?;
        nix::unistd::pivot_root(".", ".").map_err(failed("ground"))?;
        umount2(".", MntFlags::MNT_DETACH).map_err(failed("ground"))?;
        nix::unistd::chdir("/").map_err(failed("ground"))?;
        attach(&proc, c"/proc").map_err(failed("/proc"))?;
        devices(nodes).map_err(failed("/dev"))?;
        let ground = own_namespace()?;
        setns(&host, CloneFlags::CLONE_NEWNS).map_err(failed("host view"))?;
        Ok(Self { host, ground })
    }

    /// Does something while standing on the ground, then returns to the host view.
    ///
    /// # Errors
    /// A failure to return is an error of its own stage: the launcher can't go on in the wrong namespace.
    pub(crate) fn stand<T>(&self, act: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        let failed = |errno| Failure::new(Stage::Root, "mount namespace", errno);
        setns(&self.ground, CloneFlags::CLONE_NEWNS).map_err(failed)?;
        let result = act();
        setns(&self.host, CloneFlags::CLONE_NEWNS).map_err(failed)?;
        result
    }
}

fn own_namespace() -> Result<OwnedFd, Failure> {
    nix::fcntl::open("/proc/self/ns/mnt", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|errno| Failure::new(Stage::Start, "/proc/self/ns/mnt", errno))
}

fn devices(nodes: Vec<OwnedFd>) -> Result<(), Errno> {
    let attributes = sys::MOUNT_ATTR_NOSUID | sys::MOUNT_ATTR_NOEXEC;
    let dev = tmpfs(&[(c"mode", c"0755"), (c"size", c"64k")], attributes)?;
    for name in ["pts", "shm"] {
        mkdirat(&dev, name, Mode::from_bits_truncate(0o755))?;
    }
    for (name, to) in LINKS {
        nix::unistd::symlinkat(to, &dev, name)?;
    }
    for (name, _) in NODES {
        create(&dev, name)?;
    }
    attach(&dev, DEV)?;
    for (node, (name, _)) in nodes.iter().zip(NODES) {
        // Not nodev: these six are the ones that may be opened.
        let set = sys::MOUNT_ATTR_NOSUID | sys::MOUNT_ATTR_NOEXEC;
        sys::mount_setattr(node.as_fd(), &MountChange { set, private: true, ..MountChange::default() })?;
        let target = nix::fcntl::openat(&dev, name, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
        sys::move_mount(node.as_fd(), target.as_fd())?;
    }
    let set = sys::MOUNT_ATTR_RDONLY;
    sys::mount_setattr(dev.as_fd(), &MountChange { set, ..MountChange::default() })
}

fn create(directory: &OwnedFd, name: &str) -> Result<(), Errno> {
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    nix::fcntl::openat(directory, name, flags, Mode::from_bits_truncate(0o444)).map(drop)
}

/// A new file system in memory, attached nowhere yet.
pub(crate) fn tmpfs(options: &[(&CStr, &CStr)], attributes: u64) -> Result<OwnedFd, Errno> {
    let context = sys::fsopen(c"tmpfs")?;
    for (key, value) in options {
        sys::fsconfig(context.as_fd(), key, Some(value))?;
    }
    sys::fsmount(context.as_fd(), attributes)
}

/// Attaches a detached mount at a path that only we write.
pub(crate) fn attach(tree: &OwnedFd, path: &CStr) -> Result<(), Errno> {
    let target = nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    sys::move_mount(tree.as_fd(), target.as_fd())
}
