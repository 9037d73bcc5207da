//! Finding out what the kernel lets us do, by doing it in a process that then ends.

use std::fs;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag};
use nix::mount::MsFlags;
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode as FileMode, mkdirat};
use nix::unistd::{Gid, Uid};

use crate::cgroup;
use crate::error::{Failure, Stage, StartError};
use crate::ground;
use crate::handshake::{self, ReceiveError};
use crate::hierarchy::Controller;
use crate::host::{Fact, Finding, Host, Mode, Subject};
use crate::seccomp;
use crate::sources;
use crate::spec::{HostOwner, IdRange, SeenAs};
use crate::start::single_threaded;
use crate::sys::{self, Forked, MountChange};
use crate::userns;

impl Host {
    /// Finds out, by trying in short-lived processes; nothing of it lasts. Blocks for some milliseconds. Like starting a
    /// launcher it must happen while this process has one thread. `ids` are those of [`crate::start::Options::ids`].
    ///
    /// # Errors
    /// [`StartError::Threads`] when threads exist; [`StartError::Failed`] when no process could be made to try with.
    pub fn probe(ids: IdRange) -> Result<Self, StartError> {
        single_threaded()?;
        Ok(host(ids)?)
    }
}

/// A namespace, and the kernel that brought it.
const NAMESPACES: [(Subject, CloneFlags, &str); 6] = [
    (Subject::PidNamespace, CloneFlags::CLONE_NEWPID, "2.6.24"),
    (Subject::MountNamespace, CloneFlags::CLONE_NEWNS, "2.4.19"),
    (Subject::NetworkNamespace, CloneFlags::CLONE_NEWNET, "2.6.24"),
    (Subject::IpcNamespace, CloneFlags::CLONE_NEWIPC, "2.6.19"),
    (Subject::UtsNamespace, CloneFlags::CLONE_NEWUTS, "2.6.19"),
    (Subject::CgroupNamespace, CloneFlags::CLONE_NEWCGROUP, "4.6"),
];

const RESTRICTION: &str = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns";

/// Looks at everything.
pub(crate) fn host(ids: IdRange) -> Result<Host, Failure> {
    let mode = userns::choose(ids);
    let (layout, controllers) = cgroup::survey();
    let kernel = nix::sys::utsname::uname().map(|names| names.release().to_string_lossy().into_owned()).unwrap_or_default();
    let mut facts = Vec::new();
    let mut note = |subject, finding| facts.push(Fact { subject, finding });
    note(Subject::UserNamespace, users(attempt(|| unshare(CloneFlags::CLONE_NEWUSER))?));
    for (subject, flag, since) in NAMESPACES {
        let tried = attempt(|| unshare(CloneFlags::CLONE_NEWUSER | flag))?;
        note(subject, finding(tried, "its own", &format!("needs a user namespace and Linux {since}")));
    }
    note(
        Subject::TimeNamespace,
        if fs::exists("/proc/self/ns/time").unwrap_or(false) {
            present("its own")
        } else {
            lacking("not in this kernel", "Linux 5.6 has it")
        },
    );
    note(Subject::AppArmorRestriction, restriction());
    for (controller, found) in controllers {
        let subject = match controller {
            Controller::Memory => Subject::MemoryController,
            Controller::Cpu => Subject::CpuController,
            Controller::Pids => Subject::PidsController,
        };
        note(
            subject,
            match found {
                Ok(path) => present(&path.display().to_string()),
                Err(reason) => lacking(&reason, "run as root, or in a delegated cgroup: `systemd-run --user --scope -p Delegate=yes`"),
            },
        );
    }
    let filter = attempt(|| nix::sys::prctl::set_no_new_privs().and_then(|()| seccomp::load(&seccomp::init())))?;
    note(Subject::Seccomp, finding(filter, "filters load", "needs a kernel with CONFIG_SECCOMP_FILTER"));
    note(Subject::Landlock, landlock());
    note(Subject::MountCalls, finding(attempt(mount_calls)?, "open_tree, move_mount, mount_setattr", "needs Linux 5.12"));
    let unprivileged = attempt(|| user_namespace().and_then(|()| overlay(Mode::Single)))?;
    let action = "needs Linux 5.11 with the module `overlay`";
    if mode == Mode::Root {
        note(Subject::Overlay, finding(attempt(|| unshare(CloneFlags::CLONE_NEWNS).and_then(|()| overlay(mode)))?, "as root", action));
    } else {
        note(Subject::Overlay, finding(unprivileged, "in a user namespace", action));
    }
    note(Subject::OverlayUnprivileged, finding(unprivileged, "in a user namespace", action));
    note(
        Subject::IdmappedMounts,
        if mode == Mode::Root {
            owners()?
        } else {
            lacking("owners of host files are mapped by root only", "none is needed: without root your own files are the step's own")
        },
    );
    note(Subject::SubordinateIds, subordinate());
    note(Subject::IdMapTools, tools());
    let noswap = attempt(|| {
        let context = sys::fsopen(c"tmpfs")?;
        sys::fsconfig(context.as_fd(), c"noswap", None)?;
        sys::fsmount(context.as_fd(), 0).map(drop)
    })?;
    note(
        Subject::SecretMemory,
        match noswap {
            Ok(()) => present("tmpfs noswap"),
            Err(_) if sources::no_swap() => present("this host has no swap"),
            Err(errno) => lacking(errno.desc(), "Linux 6.4 and root, or a host without swap"),
        },
    );
    Ok(Host { kernel, mode, cgroup: layout, facts })
}

/// Does something in a process of its own, which ends with it.
fn attempt(act: impl FnOnce() -> Result<(), Errno>) -> Result<Result<(), Errno>, Failure> {
    let failed = |errno| Failure::new(Stage::Start, "trial", errno);
    let (ours, theirs) = handshake::pair().map_err(failed)?;
    let pid = match sys::fork().map_err(failed)? {
        Forked::Child => {
            let errno = act().err().map_or(0, |errno| errno as i32);
            let sent = handshake::send(theirs.as_fd(), &errno, &[]);
            sys::exit_now(i32::from(sent.is_err()))
        }
        Forked::Parent(pid) => pid,
    };
    drop(theirs);
    let errno = match handshake::receive::<i32>(ours.as_fd()) {
        Ok((0, _)) => Ok(()),
        Ok((errno, _)) => Err(Errno::from_raw(errno)),
        Err(ReceiveError::Call(errno)) => return Err(failed(errno)),
        // The trial itself killed the process.
        Err(_) => Err(Errno::EPERM),
    };
    while nix::sys::wait::waitpid(pid, None) == Err(Errno::EINTR) {}
    Ok(errno)
}

fn present(detail: &str) -> Finding {
    Finding::Present { detail: detail.to_owned() }
}

fn lacking(reason: &str, action: &str) -> Finding {
    Finding::Lacking { reason: reason.to_owned(), action: action.to_owned() }
}

fn finding(tried: Result<(), Errno>, detail: &str, action: &str) -> Finding {
    match tried {
        Ok(()) => present(detail),
        Err(errno) => lacking(errno.desc(), action),
    }
}

fn users(tried: Result<(), Errno>) -> Finding {
    match tried {
        Ok(()) => present("its own"),
        Err(errno) => {
            let action = match errno {
                Errno::ENOSPC => "raise sysctl user.max_user_namespaces",
                _ if restricted() => {
                    "set sysctl kernel.apparmor_restrict_unprivileged_userns=0, or give caisson an AppArmor profile with `userns,`"
                }
                _ => "set sysctl kernel.unprivileged_userns_clone=1",
            };
            lacking(errno.desc(), action)
        }
    }
}

fn restricted() -> bool {
    fs::read_to_string(RESTRICTION).is_ok_and(|text| text.trim() == "1")
}

fn restriction() -> Finding {
    if restricted() && !Uid::effective().is_root() {
        lacking(
            "AppArmor takes capabilities from unprivileged user namespaces",
            "set sysctl kernel.apparmor_restrict_unprivileged_userns=0, or give caisson an AppArmor profile with `userns,`",
        )
    } else {
        present("not in the way")
    }
}

fn landlock() -> Finding {
    match sys::landlock_version() {
        Ok(version) if version >= 6 => present(&format!("ABI {version}")),
        Ok(version) => lacking(&format!("ABI {version} has no scopes"), "Linux 6.12 has ABI 6"),
        Err(errno) => lacking(errno.desc(), "boot with `lsm=landlock,...`"),
    }
}

/// A user namespace in which this process is root.
fn user_namespace() -> Result<(), Errno> {
    let (uid, gid) = (Uid::effective(), Gid::effective());
    unshare(CloneFlags::CLONE_NEWUSER)?;
    let write =
        |file: &str, text: String| fs::write(file, text).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)));
    write("/proc/self/setgroups", "deny".to_owned())?;
    write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    unshare(CloneFlags::CLONE_NEWNS)
}

fn mount_calls() -> Result<(), Errno> {
    if !Uid::effective().is_root() {
        user_namespace()?;
    }
    let tree = sys::open_tree(AT_FDCWD, c"/proc", sys::OPEN_TREE_CLONE | sys::AT_RECURSIVE)?;
    let change = MountChange { set: sys::MOUNT_ATTR_RDONLY, private: true, recursive: true, ..MountChange::default() };
    sys::mount_setattr(tree.as_fd(), &change)
}

/// An overlay in a mount namespace of this process.
fn overlay(mode: Mode) -> Result<(), Errno> {
    nix::mount::mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    let stage = ground::tmpfs(&[(c"size", c"1m")], 0)?;
    for name in ["lower", "upper", "work"] {
        mkdirat(&stage, name, FileMode::from_bits_truncate(0o755))?;
    }
    // Over a directory that is everywhere; in this process's namespace alone.
    ground::attach(&stage, c"/proc")?;
    let context = sys::fsopen(c"overlay")?;
    let set = |key, value| sys::fsconfig(context.as_fd(), key, Some(value));
    set(c"lowerdir", c"/proc/lower")?;
    set(c"upperdir", c"/proc/upper")?;
    set(c"workdir", c"/proc/work")?;
    if mode != Mode::Root {
        sys::fsconfig(context.as_fd(), c"userxattr", None)?;
    }
    sys::fsmount(context.as_fd(), 0).map(drop)
}

fn owners() -> Result<Finding, Failure> {
    let owner = HostOwner { uid: 0, gid: 0, seen_as: SeenAs::Root };
    let (namespace, (maker, _)) = sources::owner_namespace(owner, Uid::from_raw(0), Gid::from_raw(0))?;
    // It has been killed; an error means that it is reaped already.
    let _ = nix::sys::wait::waitpid(maker, None);
    let tried = attempt(|| {
        let here = nix::fcntl::open(".", OFlag::O_PATH | OFlag::O_CLOEXEC, FileMode::empty())?;
        let tree = sys::open_tree(here.as_fd(), c"", sys::OPEN_TREE_CLONE)?;
        sys::mount_setattr(tree.as_fd(), &MountChange { idmap: Some(namespace.as_fd()), ..MountChange::default() })
    })?;
    Ok(finding(
        tried,
        "on the file system of the working directory",
        "needs Linux 5.12 and a file system that supports it (ext4, xfs, btrfs)",
    ))
}

fn subordinate() -> Finding {
    let user = Uid::effective();
    match (userns::subordinate("/etc/subuid", user), userns::subordinate("/etc/subgid", user)) {
        (Some(users), Some(groups)) => present(&format!("{} user ids, {} group ids", users.count, groups.count)),
        _ => lacking(
            "/etc/subuid and /etc/subgid give this user none",
            "`usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER`; root needs none",
        ),
    }
}

fn tools() -> Finding {
    match (userns::tool("newuidmap"), userns::tool("newgidmap")) {
        (Some(path), Some(_)) => present(&path.display().to_string()),
        _ => lacking("newuidmap or newgidmap is not installed", "install the package `uidmap`; root needs none"),
    }
}
