//! The file tree of a sandbox, built by init in the ground's copy and pivoted into: the closed root, then what every
//! sandbox has, then what the spec lists, secrets last. Targets are walked component by component from the new root and
//! never through a symbolic link, so that nothing an earlier step left in a layer can redirect a mount.

use std::cell::RefCell;
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::{FchmodatFlags, Mode, fchmod, fchmodat, fstat, mkdirat};
use nix::unistd::{Gid, Uid, fchownat};

use crate::error::{Failure, Stage};
use crate::ground;
use crate::plan::{Build, Plan};
use crate::spec::{GivenFile, Identity, SystemEntry};
use crate::sys::{self, MountChange};

/// Of /proc, hidden behind an empty file: what tells of the kernel or of others, or acts on the host.
const HIDDEN_FILES: [&str; 11] = [
    "kcore",
    "keys",
    "key-users",
    "kallsyms",
    "timer_list",
    "latency_stats",
    "sysrq-trigger",
    "kmsg",
    // How the kernel was started and built, and what it does for others at this moment.
    "cmdline",
    "config.gz",
    "interrupts",
];
/// Hidden behind an empty directory.
const HIDDEN_DIRECTORIES: [&str; 4] = ["acpi", "asound", "scsi", "bus"];
/// Of init, hidden from a namespace root: without root's launcher, init's entries belong to the same id as that root, and the
/// kernel lets it list the descriptors.
const HIDDEN_OF_INIT: [&str; 2] = ["1/fd", "1/fdinfo"];
/// Seen but never written. What lies directly in /proc and belongs to the host's root is kept by its permissions.
const READ_ONLY: [&str; 4] = ["sys", "irq", "fs", "driver"];

/// Where secrets lie.
const SECRETS: &str = "/run/secrets";
/// Bytes of the root and of all its `File`s.
const ROOT_SIZE: &CStr = c"64m";

/// A tree that has been built and is the root.
pub(crate) struct Inside {
    root: OwnedFd,
    /// Whether the root is our own tmpfs and not something of the spec.
    own: bool,
    /// The memory file systems that were made, for whoever counts what they hold.
    pub memory: Vec<OwnedFd>,
}

impl Inside {
    /// Adds what comes with the program, and closes the root.
    pub(crate) fn furnish(&self, plan: &Plan, files: &[GivenFile], secrets: Option<&OwnedFd>) -> Result<(), Failure> {
        let tree = Tree { root: &self.root, own: self.own, plan, near: RefCell::default() };
        for GivenFile { target, content, mode } in files {
            tree.file(target, content, *mode)?;
        }
        if let Some(secrets) = secrets {
            tree.attach(secrets, Path::new(SECRETS), true, Stage::Secrets)?;
        }
        self.close()
    }

    /// Makes the root read-only: last, since every mount point had to be made in it.
    fn close(&self) -> Result<(), Failure> {
        if !self.own {
            return Ok(());
        }
        let change = MountChange { set: sys::MOUNT_ATTR_RDONLY, ..MountChange::default() };
        sys::mount_setattr(self.root.as_fd(), &change).map_err(|errno| Failure::new(Stage::Root, "", errno))
    }
}

/// Builds the tree and makes it the root.
pub(crate) fn build(plan: &Plan, files: &[GivenFile], trees: Vec<OwnedFd>) -> Result<Inside, Failure> {
    let base = nix::fcntl::open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|errno| Failure::new(Stage::Root, "ground", errno))?;
    let mut builds = plan.builds.as_slice();
    let failed = |errno| Failure::new(Stage::Root, "", errno);
    let (root, own) = match builds.split_first() {
        Some((Build::Attach { target, tree, directory: true }, rest)) if target == Path::new("/") => {
            builds = rest;
            (open_same(tree_at(&trees, *tree)?).map_err(failed)?, false)
        }
        _ => {
            let options = [(c"mode", c"0755"), (c"size", ROOT_SIZE), (c"nr_inodes", c"16k")];
            let attributes = sys::MOUNT_ATTR_NOSUID | sys::MOUNT_ATTR_NODEV;
            (ground::tmpfs(&options, attributes).map_err(failed)?, true)
        }
    };
    ground::attach(&root, ground::NEW_ROOT).map_err(failed)?;
    let tree = Tree { root: &root, own, plan, near: RefCell::default() };
    tree.proc(&base)?;
    let mut memory = vec![tree.dev(&base)?];
    let size = CString::new(plan.tmp_size.to_string()).map_err(|_| failed(Errno::EINVAL))?;
    let inodes = CString::new(plan.tmp_inodes.to_string()).map_err(|_| failed(Errno::EINVAL))?;
    let options = [(c"mode", c"1777"), (c"size", size.as_c_str()), (c"nr_inodes", inodes.as_c_str())];
    let tmp = ground::tmpfs(&options, sys::MOUNT_ATTR_NOSUID | sys::MOUNT_ATTR_NODEV).map_err(failed)?;
    tree.attach(&tmp, Path::new("/tmp"), true, Stage::Root)?;
    memory.push(tmp);
    tree.directory(Path::new("/run"), Stage::Root)?;
    for GivenFile { target, content, mode } in files {
        tree.file(target, content, *mode)?;
    }
    for build in builds {
        memory.extend(tree.add(build, &trees)?);
    }
    if let Some(secrets) = plan.secrets {
        tree.attach(tree_at(&trees, secrets)?, Path::new(SECRETS), true, Stage::Secrets)?;
    }
    let inside = Inside { root, own, memory };
    if !plan.open {
        inside.close()?;
    }
    let root = &inside.root;
    let pivot = |errno| Failure::new(Stage::Pivot, "", errno);
    nix::unistd::fchdir(root).map_err(pivot)?;
    // Both the same directory: the old root comes to lie on top of the new one, and is taken off (pivot_root(2)).
    nix::unistd::pivot_root(".", ".").map_err(pivot)?;
    umount2(".", MntFlags::MNT_DETACH).map_err(pivot)?;
    nix::unistd::chdir("/").map_err(pivot)?;
    Ok(inside)
}

fn tree_at(trees: &[OwnedFd], at: usize) -> Result<&OwnedFd, Failure> {
    trees.get(at).ok_or_else(|| Failure::rule(Stage::Mount, "a mount is missing"))
}

fn open_same(tree: &OwnedFd) -> Result<OwnedFd, Errno> {
    nix::unistd::dup(tree).and_then(|copy| {
        nix::fcntl::fcntl(&copy, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
        Ok(copy)
    })
}

struct Tree<'a> {
    root: &'a OwnedFd,
    /// Whether the root is our own tmpfs and not something of the spec.
    own: bool,
    plan: &'a Plan,
    /// The directory of the file before, since most lie side by side; until anything is attached.
    near: RefCell<Option<Near>>,
}

/// A directory of the tree that is open.
struct Near {
    path: PathBuf,
    directory: OwnedFd,
    /// Whether it lies on the closed root.
    on_root: bool,
}

impl Tree<'_> {
    /// Opens a path below the root, through no link of any kind.
    fn open(&self, path: &Path, flags: OFlag) -> Result<OwnedFd, Errno> {
        let below = path.strip_prefix("/").unwrap_or(path);
        let below = if below.as_os_str().is_empty() { Path::new(".") } else { below };
        let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        openat2(self.root, below, OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve))
    }

    /// Makes a directory and its parents where missing, and opens it.
    fn directory(&self, path: &Path, stage: Stage) -> Result<OwnedFd, Failure> {
        let failed = |errno| Failure::new(stage, path.display().to_string(), errno);
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        match self.open(path, flags) {
            Err(Errno::ENOENT) => {}
            result => return result.map_err(failed),
        }
        let mut at = PathBuf::from("/");
        let mut parent = self.open(&at, flags).map_err(failed)?;
        for component in path.components() {
            match component {
                Component::RootDir => continue,
                Component::Normal(name) => {
                    match mkdirat(&parent, name, Mode::from_bits_truncate(0o755)) {
                        Ok(()) | Err(Errno::EEXIST) => {}
                        Err(errno) => return Err(failed(errno)),
                    }
                    at.push(name);
                    parent = self.open(&at, flags).map_err(failed)?;
                }
                _ => return Err(Failure::rule(stage, format!("{}: names more than components", path.display()))),
            }
        }
        Ok(parent)
    }

    fn parent<'p>(&self, path: &'p Path) -> Result<(OwnedFd, &'p OsStr), Failure> {
        let rule = || Failure::rule(Stage::Mount, format!("{}: no name to make", path.display()));
        let (parent, name) = (path.parent().ok_or_else(rule)?, path.file_name().ok_or_else(rule)?);
        Ok((self.directory(parent, Stage::Mount)?, name))
    }

    /// Attaches a mount, on a directory or file that is made where missing.
    fn attach(&self, mount: &OwnedFd, target: &Path, directory: bool, stage: Stage) -> Result<(), Failure> {
        let failed = |errno| Failure::new(stage, target.display().to_string(), errno);
        let point = if directory {
            self.directory(target, stage)?
        } else {
            match self.open(target, OFlag::O_PATH) {
                Ok(point) => point,
                Err(Errno::ENOENT) => {
                    let (parent, name) = self.parent(target)?;
                    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
                    nix::fcntl::openat(&parent, name, flags, Mode::from_bits_truncate(0o444)).map_err(failed)?;
                    self.open(target, OFlag::O_PATH).map_err(failed)?
                }
                Err(errno) => return Err(failed(errno)),
            }
        };
        // What was open may lie below it now.
        self.near.take();
        sys::move_mount(mount.as_fd(), point.as_fd()).map_err(failed)
    }

    fn proc(&self, base: &OwnedFd) -> Result<(), Failure> {
        let failed = |subject: &'static str| move |errno| Failure::new(Stage::Proc, subject, errno);
        let context = sys::fsopen(c"proc").map_err(failed("fsopen"))?;
        if let Identity::User { .. } = self.plan.identity {
            // Processes of other ids, init among them, are not shown (proc(5), per mount since 5.8).
            sys::fsconfig(context.as_fd(), c"hidepid", Some(c"invisible")).map_err(failed("hidepid"))?;
        }
        let attributes = sys::MOUNT_ATTR_NOSUID | sys::MOUNT_ATTR_NODEV | sys::MOUNT_ATTR_NOEXEC;
        let proc = sys::fsmount(context.as_fd(), attributes).map_err(failed(""))?;
        self.attach(&proc, Path::new("/proc"), true, Stage::Proc)?;
        let of_init = if self.plan.identity == Identity::NamespaceRoot { HIDDEN_OF_INIT.as_slice() } else { &[] };
        let hidden = [
            (HIDDEN_FILES.as_slice(), ground::EMPTY_FILE),
            (HIDDEN_DIRECTORIES.as_slice(), ground::EMPTY_DIRECTORY),
            (of_init, ground::EMPTY_DIRECTORY),
        ];
        for (names, cover) in hidden {
            for name in names {
                let Some(point) = entry(&proc, name)? else { continue };
                let cover = sys::open_tree(base.as_fd(), cover, sys::OPEN_TREE_CLONE).map_err(failed(name))?;
                let change = MountChange { set: attributes | sys::MOUNT_ATTR_RDONLY, ..MountChange::default() };
                sys::mount_setattr(cover.as_fd(), &change).map_err(failed(name))?;
                sys::move_mount(cover.as_fd(), point.as_fd()).map_err(failed(name))?;
            }
        }
        for name in READ_ONLY {
            let Some(point) = entry(&proc, name)? else { continue };
            let copy = sys::open_tree(point.as_fd(), c"", sys::OPEN_TREE_CLONE).map_err(failed(name))?;
            let change = MountChange { set: attributes | sys::MOUNT_ATTR_RDONLY, ..MountChange::default() };
            sys::mount_setattr(copy.as_fd(), &change).map_err(failed(name))?;
            sys::move_mount(copy.as_fd(), point.as_fd()).map_err(failed(name))?;
        }
        Ok(())
    }

    /// The device tree; gives its /dev/shm.
    fn dev(&self, base: &OwnedFd) -> Result<OwnedFd, Failure> {
        let failed = |subject: &'static str| move |errno| Failure::new(Stage::Dev, subject, errno);
        let tree = sys::open_tree(base.as_fd(), ground::DEV, sys::OPEN_TREE_CLONE | sys::AT_RECURSIVE).map_err(failed("nodes"))?;
        self.attach(&tree, Path::new("/dev"), true, Stage::Dev)?;
        let context = sys::fsopen(c"devpts").map_err(failed("pts"))?;
        sys::fsconfig(context.as_fd(), c"newinstance", None).map_err(failed("pts"))?;
        sys::fsconfig(context.as_fd(), c"ptmxmode", Some(c"0666")).map_err(failed("pts"))?;
        sys::fsconfig(context.as_fd(), c"mode", Some(c"0600")).map_err(failed("pts"))?;
        let attributes = sys::MOUNT_ATTR_NOSUID | sys::MOUNT_ATTR_NOEXEC;
        let pts = sys::fsmount(context.as_fd(), attributes).map_err(failed("pts"))?;
        self.attach(&pts, Path::new("/dev/pts"), true, Stage::Dev)?;
        let size = CString::new(self.plan.shm_size.to_string()).map_err(|_| failed("shm")(Errno::EINVAL))?;
        let options = [(c"mode", c"1777"), (c"size", size.as_c_str()), (c"nr_inodes", c"64k")];
        let shm = ground::tmpfs(&options, attributes | sys::MOUNT_ATTR_NODEV).map_err(failed("shm"))?;
        self.attach(&shm, Path::new("/dev/shm"), true, Stage::Dev)?;
        Ok(shm)
    }

    fn add(&self, build: &Build, trees: &[OwnedFd]) -> Result<Option<OwnedFd>, Failure> {
        if let Build::Tmpfs { target, size, inodes, mode } = build {
            return self.memory(target, *size, *inodes, *mode).map(Some);
        }
        self.place(build, trees).map(|()| None)
    }

    fn memory(&self, target: &Path, size: u64, inodes: u64, mode: u32) -> Result<OwnedFd, Failure> {
        let failed = |errno| Failure::new(Stage::Mount, target.display().to_string(), errno);
        let text = |value: String| CString::new(value).map_err(|_| failed(Errno::EINVAL));
        let (uid, gid) = (self.plan.identity.uid(), self.plan.identity.gid());
        let (size, inodes) = (text(size.to_string())?, text(inodes.to_string())?);
        let (mode, uid, gid) = (text(format!("{mode:o}"))?, text(uid.to_string())?, text(gid.to_string())?);
        let options = [(c"size", size.as_c_str()), (c"nr_inodes", &inodes), (c"mode", &mode), (c"uid", &uid), (c"gid", &gid)];
        let mount = ground::tmpfs(&options, sys::MOUNT_ATTR_NOSUID | sys::MOUNT_ATTR_NODEV).map_err(failed)?;
        self.attach(&mount, target, true, Stage::Mount)?;
        Ok(mount)
    }

    fn place(&self, build: &Build, trees: &[OwnedFd]) -> Result<(), Failure> {
        let target = build.target();
        let failed = |errno| Failure::new(Stage::Mount, target.display().to_string(), errno);
        match build {
            Build::Attach { target, tree, directory } => self.attach(tree_at(trees, *tree)?, target, *directory, Stage::Mount),
            // Made by its own function, which gives it back.
            Build::Tmpfs { .. } => Ok(()),
            Build::Directory { target, mode } => {
                let (parent, name) = self.parent(target)?;
                match mkdirat(&parent, name, Mode::from_bits_truncate(0o755)) {
                    Ok(()) => {}
                    // One that a layer brings keeps its owner and mode.
                    Err(Errno::EEXIST) => return self.directory(target, Stage::Mount).map(drop),
                    Err(errno) => return Err(failed(errno)),
                }
                let (uid, gid) = (self.plan.identity.uid(), self.plan.identity.gid());
                let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
                fchownat(&parent, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), flags).map_err(failed)?;
                let mode = Mode::from_bits_truncate(*mode & 0o7777);
                fchmodat(&parent, name, mode, FchmodatFlags::FollowSymlink).map_err(failed)
            }
            Build::File { target, content, mode } => self.file(target, content, *mode),
            Build::System { target, what } => match self.system(target, what) {
                // An earlier step of the job has made something else of it, or of what leads there; that was its right.
                Err(failure) if matches!(failure.errno, libc::EEXIST | libc::ELOOP | libc::ENOTDIR) => Ok(()),
                result => result,
            },
            Build::Symlink { target, to } => {
                let (parent, name) = self.parent(target)?;
                match nix::unistd::symlinkat(to, &parent, name) {
                    // In a layer that an earlier step had, the link is there already.
                    Err(Errno::EEXIST) if nix::fcntl::readlinkat(&parent, name).is_ok_and(|says| says == *to) => Ok(()),
                    result => result.map_err(failed),
                }
            }
        }
    }

    /// Made by init, and so owned by id 0.
    fn system(&self, target: &Path, what: &SystemEntry) -> Result<(), Failure> {
        let failed = |errno| Failure::new(Stage::Mount, target.display().to_string(), errno);
        let (parent, name) = self.parent(target)?;
        match what {
            SystemEntry::Directory { mode } => {
                mkdirat(&parent, name, Mode::from_bits_truncate(0o700)).map_err(failed)?;
                let mode = Mode::from_bits_truncate(*mode & 0o7777);
                fchmodat(&parent, name, mode, FchmodatFlags::FollowSymlink).map_err(failed)
            }
            SystemEntry::File { content, mode } => {
                let mode = Mode::from_bits_truncate(*mode & 0o777);
                // An earlier step may have left a default list of access rights here, which goes before what a file is made with.
                write_new(&parent, name, content, mode).and_then(|file| fchmod(&file, mode)).map_err(failed)
            }
            SystemEntry::Link { to } => nix::unistd::symlinkat(to, &parent, name).map_err(failed),
        }
    }

    /// On the closed root the file is simply made. Anywhere else it is mounted over the name, so that it is neither written
    /// into a layer nor changed by whoever owns that.
    fn file(&self, target: &Path, content: &[u8], mode: u32) -> Result<(), Failure> {
        let failed = |errno| Failure::new(Stage::Mount, target.display().to_string(), errno);
        let mode = Mode::from_bits_truncate(mode & 0o777);
        let mut near = self.near.borrow_mut();
        let here = match &*near {
            Some(near) if target.parent() == Some(&near.path) => near,
            _ => {
                let (directory, _) = self.parent(target)?;
                let on_root = self.own && fstat(&directory).map_err(failed)?.st_dev == fstat(self.root).map_err(failed)?.st_dev;
                near.insert(Near { path: target.parent().unwrap_or(Path::new("/")).to_owned(), directory, on_root })
            }
        };
        if here.on_root {
            let name = target.file_name().ok_or_else(|| failed(Errno::EINVAL))?;
            return write_new(&here.directory, name, content, mode).map(drop).map_err(failed);
        }
        drop(near);
        let size = CString::new((content.len() + 16384).to_string()).map_err(|_| failed(Errno::EINVAL))?;
        let options = [(c"mode", c"0755"), (c"size", size.as_c_str())];
        let stash = ground::tmpfs(&options, sys::MOUNT_ATTR_NOSUID | sys::MOUNT_ATTR_NODEV).map_err(failed)?;
        write_new(&stash, OsStr::new("file"), content, mode).map_err(failed)?;
        // A copy of a mount can be taken of attached ones only: attach, copy the file, detach.
        ground::attach(&stash, ground::STAGING).map_err(failed)?;
        let copied = sys::open_tree(AT_FDCWD, c"/stage/file", sys::OPEN_TREE_CLONE);
        umount2(ground::STAGING, MntFlags::MNT_DETACH).map_err(failed)?;
        let copied = copied.map_err(failed)?;
        let set = sys::MOUNT_ATTR_RDONLY | sys::MOUNT_ATTR_NOSUID | sys::MOUNT_ATTR_NODEV;
        sys::mount_setattr(copied.as_fd(), &MountChange { set, ..MountChange::default() }).map_err(failed)?;
        self.attach(&copied, target, false, Stage::Mount)
    }
}

/// Init has no mask, and is alone with what it makes.
fn write_new(parent: &OwnedFd, name: &OsStr, content: &[u8], mode: Mode) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = nix::fcntl::openat(parent, name, flags, mode)?;
    let mut rest = content;
    while !rest.is_empty() {
        match nix::unistd::write(&file, rest) {
            Ok(count) => rest = &rest[count..],
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(file)
}

/// An entry of the fresh /proc, if this kernel has it.
fn entry(proc: &OwnedFd, name: &str) -> Result<Option<OwnedFd>, Failure> {
    match nix::fcntl::openat(proc, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty()) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(Failure::new(Stage::Proc, name, errno)),
    }
}
