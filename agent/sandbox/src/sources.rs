//! The launcher's part of the mounts: it opens what a spec names on the host, maps owners, stacks overlays and writes
//! secrets, each as a mount that is attached nowhere. Init only attaches them: a process inside never needs the right to
//! walk the host's paths.

use std::collections::VecDeque;
use std::ffi::CString;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::{FchmodatFlags, Mode as FileMode, fchmodat, fstat, mkdirat};
use nix::unistd::{Gid, Pid, Uid, fchownat};

use crate::error::{Failure, Stage};
use crate::ground::{self, Ground};
use crate::host::Mode;
use crate::plan::Build;
use crate::protection::{Missing, Protection};
use crate::skeleton;
use crate::spec::{Access, HostOwner, Identity, Mount, SecretFile, SeenAs, Upper};
use crate::sys::{self, Cloned, MountChange};
use crate::userns::{self, IdMap};

/// How many owner maps are kept for the next launch.
const OWNERS_KEPT: usize = 64;
/// Most layers of an overlay.
const LAYERS: usize = 64;

/// What the mounts of one sandbox are made with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context<'a> {
    pub ground: &'a Ground,
    pub mode: Mode,
    pub map: IdMap,
    pub identity: Identity,
}

/// User namespaces that map one host owner, kept since making one costs a clone.
#[derive(Debug, Default)]
pub(crate) struct Owners {
    kept: VecDeque<((u32, u32, Uid, Gid), OwnedFd)>,
    /// The processes that made them, killed and to be reaped.
    pub leaving: Vec<(Pid, OwnedFd)>,
}

impl Owners {
    /// The namespace that shows `owner`'s files as the one inside that it names.
    fn namespace(&mut self, owner: HostOwner, context: &Context<'_>) -> Result<&OwnedFd, Failure> {
        let inside = match owner.seen_as {
            SeenAs::Step => (context.identity.uid(), context.identity.gid()),
            SeenAs::Root => (0, 0),
        };
        let (uid, gid) = context.map.outside(inside.0, inside.1);
        let key = (owner.uid, owner.gid, uid, gid);
        if let Some(at) = self.kept.iter().position(|(kept, _)| *kept == key) {
            return Ok(&self.kept[at].1);
        }
        let (namespace, maker) = owner_namespace(owner, uid, gid)?;
        self.leaving.push(maker);
        if self.kept.len() >= OWNERS_KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back((key, namespace));
        Ok(&self.kept[self.kept.len() - 1].1)
    }
}

/// A user namespace that exists for its map alone: a process makes it, we take it, the process is killed. It has yet to be reaped:
/// nothing needs to wait for that.
pub(crate) fn owner_namespace(owner: HostOwner, uid: Uid, gid: Gid) -> Result<(OwnedFd, (Pid, OwnedFd)), Failure> {
    let failed = |errno| Failure::new(Stage::Owner, format!("host id {}:{}", owner.uid, owner.gid), errno);
    match sys::clone3(libc::CLONE_NEWUSER as u64, None).map_err(failed)? {
        Cloned::Child => loop {
            nix::unistd::pause();
        },
        Cloned::Parent { pid, pidfd } => {
            let taken = userns::write(pid, "uid_map", &format!("{} {uid} 1", owner.uid))
                .and_then(|()| userns::write(pid, "gid_map", &format!("{} {gid} 1", owner.gid)))
                .and_then(|()| {
                    let path = format!("/proc/{pid}/ns/user");
                    nix::fcntl::open(path.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, FileMode::empty()).map_err(failed)
                });
            sys::pidfd_kill(pidfd.as_fd(), libc::SIGKILL).map_err(failed)?;
            match taken {
                Ok(namespace) => Ok((namespace, (pid, pidfd))),
                Err(failure) => {
                    nix::sys::wait::waitpid(pid, None).map_err(failed)?;
                    Err(failure)
                }
            }
        }
    }
}

/// What was opened for a sandbox.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    /// What init is to do with it.
    pub builds: Vec<Build>,
    /// The mounts.
    pub trees: Vec<OwnedFd>,
    /// The memory file systems that take the writes of overlays.
    pub memory: Vec<OwnedFd>,
}

/// Opens everything that `mounts` names.
pub(crate) fn open(mounts: Vec<Mount>, owners: &mut Owners, context: &Context<'_>) -> Result<Opened, Failure> {
    let mut trees = Vec::new();
    let mut memory = Vec::new();
    let mut builds = Vec::with_capacity(mounts.len());
    for mount in mounts {
        builds.push(match mount {
            Mount::Bind { source, target, access, owner } => {
                let (tree, directory) = bind(&source, access, owner, owners, context)?;
                trees.push(tree);
                Build::Attach { target, tree: trees.len() - 1, directory }
            }
            Mount::Overlay { lower, upper, target, owner } => {
                let (tree, scratch) = overlay(&lower, &upper, owner, owners, context)?;
                trees.push(tree);
                memory.extend(scratch);
                Build::Attach { target, tree: trees.len() - 1, directory: true }
            }
            Mount::Tmpfs { target, size, inodes, mode } => Build::Tmpfs { target, size, inodes, mode },
            Mount::Directory { target, mode } => Build::Directory { target, mode },
            Mount::File { target, content, mode } => Build::File { target, content, mode },
            Mount::System { target, what } => Build::System { target, what },
            Mount::Symlink { target, to } => Build::Symlink { target, to },
        });
    }
    Ok(Opened { builds, trees, memory })
}

fn text(path: &Path) -> Result<CString, Failure> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Failure::rule(Stage::Source, format!("{}: has a zero byte", path.display())))
}

fn clone_tree(path: &Path, recursive: u32) -> Result<OwnedFd, Failure> {
    if !path.is_absolute() {
        return Err(Failure::rule(Stage::Source, format!("{}: not an absolute path", path.display())));
    }
    sys::open_tree(AT_FDCWD, &text(path)?, sys::OPEN_TREE_CLONE | recursive)
        .map_err(|errno| Failure::new(Stage::Source, path.display().to_string(), errno))
}

fn map_owner(
    tree: &OwnedFd,
    path: &Path,
    owner: Option<HostOwner>,
    recursive: bool,
    owners: &mut Owners,
    context: &Context<'_>,
) -> Result<(), Failure> {
    // Without root the kernel maps no owners of the host's file systems; the user's own files are the step's anyhow.
    let (Some(owner), Mode::Root) = (owner, context.mode) else { return Ok(()) };
    let namespace = owners.namespace(owner, context)?;
    let change = MountChange { idmap: Some(namespace.as_fd()), recursive, ..MountChange::default() };
    sys::mount_setattr(tree.as_fd(), &change).map_err(|errno| Failure::new(Stage::Owner, path.display().to_string(), errno))
}

fn bind(
    source: &Path,
    access: Access,
    owner: Option<HostOwner>,
    owners: &mut Owners,
    context: &Context<'_>,
) -> Result<(OwnedFd, bool), Failure> {
    let failed = |errno| Failure::new(Stage::Source, source.display().to_string(), errno);
    let tree = clone_tree(source, sys::AT_RECURSIVE)?;
    map_owner(&tree, source, owner, true, owners, context)?;
    let mut set = sys::MOUNT_ATTR_NOSUID | sys::MOUNT_ATTR_NODEV;
    if access == Access::ReadOnly {
        set |= sys::MOUNT_ATTR_RDONLY;
    }
    // Private, or what the host mounts later under the source would appear inside.
    let change = MountChange { set, private: true, recursive: true, ..MountChange::default() };
    sys::mount_setattr(tree.as_fd(), &change).map_err(failed)?;
    let kind = fstat(&tree).map_err(failed)?.st_mode & libc::S_IFMT;
    match kind {
        libc::S_IFDIR => Ok((tree, true)),
        libc::S_IFREG => Ok((tree, false)),
        // A socket or pipe of the host would be a way out; a device is one as well.
        _ => Err(Failure::rule(Stage::Source, format!("{}: neither file nor directory", source.display()))),
    }
}

fn overlay(
    lower: &[std::path::PathBuf],
    upper: &Upper,
    owner: Option<HostOwner>,
    owners: &mut Owners,
    context: &Context<'_>,
) -> Result<(OwnedFd, Option<OwnedFd>), Failure> {
    if lower.is_empty() || lower.len() > LAYERS {
        return Err(Failure::rule(Stage::Spec, format!("an overlay needs 1 to {LAYERS} lower directories")));
    }
    let mut layers = Vec::with_capacity(lower.len());
    for path in lower {
        let tree = clone_tree(path, 0)?;
        map_owner(&tree, path, owner, false, owners, context)?;
        let set = sys::MOUNT_ATTR_RDONLY;
        let change = MountChange { set, private: true, ..MountChange::default() };
        sys::mount_setattr(tree.as_fd(), &change).map_err(|errno| Failure::new(Stage::Source, path.display().to_string(), errno))?;
        layers.push(tree);
    }
    let (scratch, name) = match upper {
        Upper::Directory(path) => {
            let tree = clone_tree(path, 0)?;
            let change = MountChange { private: true, ..MountChange::default() };
            sys::mount_setattr(tree.as_fd(), &change).map_err(|errno| Failure::new(Stage::Source, path.display().to_string(), errno))?;
            (tree, path.display().to_string())
        }
        Upper::Memory { size, inodes } => {
            let text = |number: &u64| CString::new(number.to_string()).map_err(|_| Failure::rule(Stage::Spec, "size"));
            let (size, inodes) = (text(size)?, text(inodes)?);
            let tree = ground::tmpfs(&[(c"size", &size), (c"nr_inodes", &inodes), (c"mode", c"0711")], 0)
                .map_err(|errno| Failure::new(Stage::Overlay, "memory", errno))?;
            (tree, "memory".to_owned())
        }
    };
    let failed = |errno| Failure::new(Stage::Overlay, name.clone(), errno);
    // The top of the overlay shows the upper directory's own owner and mode: give it those of what it covers.
    let top = fstat(&layers[0]).map_err(failed)?;
    let fresh = make(&scratch, "upper", top.st_mode & 0o7777).map_err(failed)?;
    let as_root = matches!(owner, Some(HostOwner { seen_as: SeenAs::Root, .. })) && context.mode != Mode::Root;
    if fresh && !as_root {
        match fchownat(&scratch, "upper", Some(Uid::from_raw(top.st_uid)), Some(Gid::from_raw(top.st_gid)), AtFlags::AT_SYMLINK_NOFOLLOW) {
            // Without root the owner may be nobody that we know: then the top is the step's own.
            Err(Errno::EINVAL | Errno::EPERM) if context.mode != Mode::Root => {}
            result => result.map_err(failed)?,
        }
    }
    if fresh {
        let mode = FileMode::from_bits_truncate(top.st_mode & 0o7777);
        fchmodat(&scratch, "upper", mode, FchmodatFlags::FollowSymlink).map_err(failed)?;
    }
    make(&scratch, "work", 0o700).map_err(failed)?;
    if fresh && as_root {
        skeleton::copy(&layers[0], &scratch, "upper").map_err(failed)?;
    }
    let tree = match stack(&layers, &scratch, context.mode) {
        // EOPNOTSUPP: before Linux 6.5 an overlay takes no descriptors at all.
        Err(Errno::EINVAL | Errno::EBADF | Errno::EXDEV | Errno::EOPNOTSUPP) => {
            context.ground.stand(|| stack_by_name(&layers, &scratch, context.mode).map_err(failed))?
        }
        stacked => stacked.map_err(failed)?,
    };
    Ok((tree, matches!(upper, Upper::Memory { .. }).then_some(scratch)))
}

fn make(directory: &OwnedFd, name: &str, mode: libc::mode_t) -> Result<bool, Errno> {
    match mkdirat(directory, name, FileMode::from_bits_truncate(mode)) {
        Ok(()) => Ok(true),
        Err(Errno::EEXIST) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Mounts the overlay from layers that are attached nowhere (Linux 6.15).
fn stack(layers: &[OwnedFd], scratch: &OwnedFd, mode: Mode) -> Result<OwnedFd, Errno> {
    let below = |name| nix::fcntl::openat(scratch, name, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, FileMode::empty());
    let context = sys::fsopen(c"overlay")?;
    for layer in layers {
        sys::fsconfig_fd(context.as_fd(), c"lowerdir+", layer.as_fd())?;
    }
    sys::fsconfig_fd(context.as_fd(), c"upperdir", below("upper")?.as_fd())?;
    sys::fsconfig_fd(context.as_fd(), c"workdir", below("work")?.as_fd())?;
    finish(&context, mode)
}

/// The same by paths, for which the layers must be attached in our own namespace: on a tmpfs that goes away with them.
fn stack_by_name(layers: &[OwnedFd], scratch: &OwnedFd, mode: Mode) -> Result<OwnedFd, Errno> {
    let stage = ground::tmpfs(&[(c"size", c"1m"), (c"mode", c"0700")], 0)?;
    ground::attach(&stage, ground::STAGING)?;
    let result = stack_on(&stage, layers, scratch, mode);
    umount2(ground::STAGING, MntFlags::MNT_DETACH)?;
    result
}

fn stack_on(stage: &OwnedFd, layers: &[OwnedFd], scratch: &OwnedFd, mode: Mode) -> Result<OwnedFd, Errno> {
    let place = |tree: &OwnedFd, name: &str| {
        mkdirat(stage, name, FileMode::from_bits_truncate(0o700))?;
        let target = nix::fcntl::openat(stage, name, OFlag::O_PATH | OFlag::O_CLOEXEC, FileMode::empty())?;
        sys::move_mount(tree.as_fd(), target.as_fd())
    };
    let mut lower = String::new();
    for (number, layer) in layers.iter().enumerate() {
        place(layer, &number.to_string())?;
        if number > 0 {
            lower.push(':');
        }
        lower.push_str(&format!("/stage/{number}"));
    }
    place(scratch, "scratch")?;
    let lower = CString::new(lower).map_err(|_| Errno::EINVAL)?;
    let context = sys::fsopen(c"overlay")?;
    let set = |key, value| sys::fsconfig(context.as_fd(), key, Some(value));
    set(c"lowerdir", &lower)?;
    set(c"upperdir", c"/stage/scratch/upper")?;
    set(c"workdir", c"/stage/scratch/work")?;
    finish(&context, mode)
}

fn finish(context: &OwnedFd, mode: Mode) -> Result<OwnedFd, Errno> {
    let set = |key, value| sys::fsconfig(context.as_fd(), key, Some(value));
    set(c"source", c"overlay")?;
    // Renamed directories are copied, and nothing in a layer can point elsewhere: what is in `upper` came from a step.
    set(c"redirect_dir", c"nofollow")?;
    set(c"metacopy", c"off")?;
    set(c"index", c"off")?;
    if mode != Mode::Root {
        sys::fsconfig(context.as_fd(), c"userxattr", None)?;
    }
    sys::fsmount(context.as_fd(), sys::MOUNT_ATTR_NOSUID | sys::MOUNT_ATTR_NODEV)
}

/// Secrets on a file system in memory that only this sandbox will have; whether it is kept out of swap.
pub(crate) fn secrets(files: &[SecretFile], mode: Mode, map: IdMap, identity: Identity) -> Result<(OwnedFd, bool), Failure> {
    let failed = |subject: &str| {
        let subject = subject.to_owned();
        move |errno| Failure::new(Stage::Secrets, subject, errno)
    };
    let size: usize = files.iter().map(|file| file.value.expose().len().div_ceil(4096) * 4096).sum();
    let size = CString::new((size + 64 * 1024).to_string()).map_err(|_| Failure::rule(Stage::Secrets, "size"))?;
    let (uid, gid) = map.outside(identity.uid(), identity.gid());
    let attributes = sys::MOUNT_ATTR_NOSUID | sys::MOUNT_ATTR_NODEV | sys::MOUNT_ATTR_NOEXEC;
    let mut kept_out_of_swap = mode == Mode::Root;
    let tree = loop {
        let made = sys::fsopen(c"tmpfs").and_then(|tmpfs| {
            sys::fsconfig(tmpfs.as_fd(), c"size", Some(&size))?;
            sys::fsconfig(tmpfs.as_fd(), c"mode", Some(c"0755"))?;
            if kept_out_of_swap {
                // tmpfs(5), 6.4; refused to user namespaces.
                sys::fsconfig(tmpfs.as_fd(), c"noswap", None)?;
            }
            sys::fsmount(tmpfs.as_fd(), attributes)
        });
        match made {
            Ok(tree) => break tree,
            Err(Errno::EINVAL) if kept_out_of_swap => kept_out_of_swap = false,
            Err(errno) => return Err(failed("/run/secrets")(errno)),
        }
    };
    for file in files {
        let name = file.name.as_str();
        if name.is_empty() || name == "." || name == ".." || name.contains('/') || name.contains('\0') {
            return Err(Failure::rule(Stage::Spec, format!("secret name {name:?} is no file name")));
        }
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        let opened = nix::fcntl::openat(&tree, name, flags, FileMode::from_bits_truncate(0o400)).map_err(failed(name))?;
        let mut opened = File::from(opened);
        opened.write_all(file.value.expose()).map_err(|error| Failure::io(Stage::Secrets, name, &error))?;
        nix::unistd::fchown(&opened, Some(uid), Some(gid)).map_err(failed(name))?;
    }
    let change = MountChange { set: sys::MOUNT_ATTR_RDONLY, ..MountChange::default() };
    sys::mount_setattr(tree.as_fd(), &change).map_err(failed("/run/secrets"))?;
    Ok((tree, kept_out_of_swap || no_swap()))
}

/// Says that secrets may come to lie on a disk, where they may and nobody has said so yet.
pub(crate) fn swappable(kept_out_of_swap: bool, missing: &[Missing]) -> Option<Missing> {
    let said = missing.iter().any(|missing| missing.protection == Protection::SecretMemory);
    let reason = "this kernel has no tmpfs `noswap` for us (Linux 6.4, root) and the host swaps";
    (!kept_out_of_swap && !said).then(|| Missing { protection: Protection::SecretMemory, reason: reason.to_owned() })
}

pub(crate) fn no_swap() -> bool {
    std::fs::read_to_string("/proc/swaps").is_ok_and(|text| text.lines().count() <= 1)
}
