//! Raw system calls, the only `unsafe` of the workspace: thin safe functions over one call each, for what neither the
//! standard library nor `nix` wraps safely. Numbers and flags that `libc` lacks, or has wrong, are declared here.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::Pid;

/// `libc` has this as a 32-bit constant on gnu, where it is 0 (clone3(2), 5.7).
pub(crate) const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// clone3(2), 5.2.
pub(crate) const CLONE_PIDFD: u64 = 0x1000;
/// time_namespaces(7), 5.6; for clone3 and unshare only, since clone takes these bits as the exit signal.
pub(crate) const CLONE_NEWTIME: u64 = 0x80;

/// open_tree(2), 5.2: a detached copy of the mount.
pub(crate) const OPEN_TREE_CLONE: u32 = 1;
/// With everything mounted below.
pub(crate) const AT_RECURSIVE: u32 = 0x8000;
const OPEN_TREE_CLOEXEC: u32 = libc::O_CLOEXEC as u32;
const AT_EMPTY_PATH: u32 = libc::AT_EMPTY_PATH as u32;
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: u32 = 0x40;

/// mount_setattr(2), 5.12.
pub(crate) const MOUNT_ATTR_RDONLY: u64 = 0x1;
/// Set-user-id bits and file capabilities count for nothing.
pub(crate) const MOUNT_ATTR_NOSUID: u64 = 0x2;
/// Device nodes can't be opened.
pub(crate) const MOUNT_ATTR_NODEV: u64 = 0x4;
/// Nothing can be executed or mapped executable.
pub(crate) const MOUNT_ATTR_NOEXEC: u64 = 0x8;
/// Owners are mapped through a user namespace.
const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;

const FSCONFIG_SET_FLAG: u32 = 0;
const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_CMD_CREATE: u32 = 6;

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// `struct clone_args` of clone3(2), in the size of Linux 5.7.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Which side of a fork this is.
pub(crate) enum Forked {
    /// The new process.
    Child,
    /// The old one.
    Parent(Pid),
}

/// Which side of a clone this is.
pub(crate) enum Cloned {
    /// The new process.
    Child,
    /// The old one, with a descriptor of the new one.
    Parent {
        /// Its id as the parent sees it.
        pid: Pid,
        /// Readable when it is dead.
        pidfd: OwnedFd,
    },
}

fn check(result: libc::c_long) -> Result<libc::c_long, Errno> {
    Errno::result(result)
}

/// Overwrites bytes in a way that the compiler can't leave out.
pub(crate) fn wipe(bytes: &mut [u8]) {
    // WHY: a word at a time, since a spec is long. SAFETY: any bytes are a u64.
    let (head, words, tail) = unsafe { bytes.align_to_mut::<u64>() };
    for byte in head.iter_mut().chain(tail) {
        // WHY: an ordinary store before a drop is dead to the optimiser. SAFETY: the pointer comes from a live reference.
        unsafe { std::ptr::write_volatile(byte, 0) };
    }
    for word in words {
        // WHY and SAFETY: as above.
        unsafe { std::ptr::write_volatile(word, 0) };
    }
    std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::SeqCst);
}

/// Takes ownership of a descriptor number that the kernel just handed to this process.
pub(crate) fn adopt(raw: RawFd) -> OwnedFd {
    // WHY: SCM_RIGHTS and inheritance give bare numbers. SAFETY: callers pass a number that nothing else owns: one that
    // recvmsg just installed, or one that exec handed over and that is taken once at start.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

/// Whether a number is an open descriptor of this process.
pub(crate) fn is_open(raw: RawFd) -> bool {
    // WHY: checked before ownership exists. SAFETY: F_GETFD has no memory argument, any number may be asked.
    raw >= 0 && unsafe { libc::fcntl(raw, libc::F_GETFD) } >= 0
}

/// Forks. Only ever called by single-threaded processes: the launcher and its children, and the caller of
/// `Launcher::start`, which has been checked.
pub(crate) fn fork() -> Result<Forked, Errno> {
    // WHY: nix's fork is unsafe since it can't know the threads. SAFETY: no other thread exists, so no lock can be held
    // by a thread that the child lacks.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Child => Ok(Forked::Child),
        nix::unistd::ForkResult::Parent { child } => Ok(Forked::Parent(child)),
    }
}

/// clone3(2) (5.3) as fork into new namespaces: no shared memory, the stack is copied. Single-threaded callers only.
pub(crate) fn clone3(namespaces: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Cloned, Errno> {
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs {
        flags: namespaces | CLONE_PIDFD,
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // WHY: nix's clone wants a stack and a closure, and knows no cgroup. SAFETY: without CLONE_VM this is fork: the child
    // has a copy of all memory; `args` outlives the call; glibc's cached thread id is not used by a process without threads.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    match check(result)? {
        0 => Ok(Cloned::Child),
        pid => Ok(Cloned::Parent { pid: Pid::from_raw(pid as i32), pidfd: adopt(pidfd) }),
    }
}

/// pidfd_open(2), 5.3.
pub(crate) fn pidfd_open(pid: Pid) -> Result<OwnedFd, Errno> {
    // WHY: not in nix. SAFETY: no memory argument; the result is a new descriptor.
    let raw = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })?;
    Ok(adopt(raw as RawFd))
}

/// pidfd_send_signal(2), 5.1: never hits a process that took over the number.
pub(crate) fn pidfd_kill(pidfd: BorrowedFd<'_>, signal: i32) -> Result<(), Errno> {
    // WHY: not in nix. SAFETY: a null siginfo is allowed and means the default one.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0) })
        .map(drop)
}

/// A reaped child.
pub(crate) struct Reaped {
    /// Which.
    pub pid: Pid,
    /// The status word of wait(2).
    pub status: i32,
    /// User time of it and its waited-for descendants.
    pub user: Duration,
    /// System time of the same.
    pub system: Duration,
    /// Largest resident set of one of them, in bytes.
    pub max_rss: u64,
    /// Bytes that the disks read and wrote for them.
    pub read: u64,
    /// As above.
    pub written: u64,
}

/// wait4(2) without blocking: `None` when nothing is dead; ECHILD when there are no children.
pub(crate) fn reap(pid: Option<Pid>) -> Result<Option<Reaped>, Errno> {
    let mut status = 0;
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    let which = pid.map_or(-1, Pid::as_raw);
    // WHY: nix has no wait with usage. SAFETY: both pointers are to live locals of the right type.
    let result = Errno::result(unsafe { libc::wait4(which, &raw mut status, libc::WNOHANG | libc::__WALL, usage.as_mut_ptr()) })?;
    if result == 0 {
        return Ok(None);
    }
    // SAFETY: zeroed is a valid rusage, and the kernel filled it.
    let usage = unsafe { usage.assume_init() };
    let time = |value: libc::timeval| Duration::new(value.tv_sec as u64, value.tv_usec as u32 * 1000);
    Ok(Some(Reaped {
        pid: Pid::from_raw(result),
        status,
        user: time(usage.ru_utime),
        system: time(usage.ru_stime),
        max_rss: usage.ru_maxrss as u64 * 1024,
        // In sectors, whatever getrusage(2) says of blocks.
        read: usage.ru_inblock as u64 * 512,
        written: usage.ru_oublock as u64 * 512,
    }))
}

/// setpriority(2): the lowest priority for this process.
pub(crate) fn be_nice() -> Result<(), Errno> {
    // WHY: not in nix. SAFETY: no memory argument.
    Errno::result(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) }).map(drop)
}

/// close_range(2), 5.9: closes everything from `first` on.
pub(crate) fn close_from(first: u32) -> Result<(), Errno> {
    // WHY: not in nix. SAFETY: closes descriptors that Rust values may own; only called right before exec or _exit, or in
    // a fresh process that owns none of them, so that no owned value is used afterwards.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) }).map(drop)
}

/// close_range(2) with CLOSE_RANGE_CLOEXEC (5.11): exec closes everything from `first` on.
pub(crate) fn close_on_exec_from(first: u32) -> Result<(), Errno> {
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    // WHY: not in nix. SAFETY: sets a flag, closes nothing now.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC) }).map(drop)
}

/// Ends this process without running destructors or exit handlers, as a forked child must.
pub(crate) fn exit_now(code: i32) -> ! {
    // WHY: std's exit runs handlers that belong to the parent's copy. SAFETY: never returns, touches no memory.
    unsafe { libc::_exit(code) }
}

/// open_tree(2), 5.2. An empty `path` means `dir` itself.
pub(crate) fn open_tree(dir: BorrowedFd<'_>, path: &CStr, flags: u32) -> Result<OwnedFd, Errno> {
    let flags = flags | OPEN_TREE_CLOEXEC | if path.is_empty() { AT_EMPTY_PATH } else { 0 };
    // WHY: not in nix. SAFETY: `path` is a C string that outlives the call.
    let raw = check(unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags) })?;
    Ok(adopt(raw as RawFd))
}

/// move_mount(2), 5.2, from a detached mount onto an opened target: no path is walked.
pub(crate) fn move_mount(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    // WHY: not in nix. SAFETY: the empty C strings are static.
    check(unsafe { libc::syscall(libc::SYS_move_mount, tree.as_raw_fd(), c"".as_ptr(), target.as_raw_fd(), c"".as_ptr(), flags) }).map(drop)
}

/// What mount_setattr changes.
#[derive(Default)]
pub(crate) struct MountChange<'a> {
    /// Attributes to set.
    pub set: u64,
    /// Whether the copies stop receiving mounts from where they came.
    pub private: bool,
    /// A user namespace to map owners through.
    pub idmap: Option<BorrowedFd<'a>>,
    /// Whether to change everything mounted below as well.
    pub recursive: bool,
}

/// mount_setattr(2), 5.12, on an opened mount.
pub(crate) fn mount_setattr(tree: BorrowedFd<'_>, change: &MountChange<'_>) -> Result<(), Errno> {
    let mut attr = MountAttr { attr_set: change.set, ..MountAttr::default() };
    if change.private {
        attr.propagation = libc::MS_PRIVATE;
    }
    if let Some(idmap) = change.idmap {
        attr.attr_set |= MOUNT_ATTR_IDMAP;
        attr.userns_fd = idmap.as_raw_fd() as u64;
    }
    let flags = AT_EMPTY_PATH | if change.recursive { AT_RECURSIVE } else { 0 };
    // WHY: not in nix. SAFETY: `attr` is of the size passed and outlives the call.
    check(unsafe { libc::syscall(libc::SYS_mount_setattr, tree.as_raw_fd(), c"".as_ptr(), flags, &raw const attr, size_of::<MountAttr>()) })
        .map(drop)
}

/// fsopen(2), 5.2.
pub(crate) fn fsopen(kind: &CStr) -> Result<OwnedFd, Errno> {
    const FSOPEN_CLOEXEC: u32 = 1;
    // WHY: not in nix. SAFETY: `kind` is a C string.
    let raw = check(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) })?;
    Ok(adopt(raw as RawFd))
}

/// fsconfig(2), 5.2: one `key=value`, or a bare flag when there is no value.
pub(crate) fn fsconfig(context: BorrowedFd<'_>, key: &CStr, value: Option<&CStr>) -> Result<(), Errno> {
    let (command, value) = match value {
        Some(value) => (FSCONFIG_SET_STRING, value.as_ptr()),
        None => (FSCONFIG_SET_FLAG, std::ptr::null()),
    };
    // WHY: not in nix. SAFETY: both are C strings or null as the command demands.
    check(unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, key.as_ptr(), value, 0) }).map(drop)
}

/// fsconfig(2) with a descriptor as the value.
pub(crate) fn fsconfig_fd(context: BorrowedFd<'_>, key: &CStr, value: BorrowedFd<'_>) -> Result<(), Errno> {
    const FSCONFIG_SET_FD: u32 = 5;
    let null = std::ptr::null::<libc::c_char>();
    // WHY: not in nix. SAFETY: the key is a C string, and this command takes its value from the last argument.
    check(unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), FSCONFIG_SET_FD, key.as_ptr(), null, value.as_raw_fd()) })
        .map(drop)
}

/// fsconfig(2) FSCONFIG_CMD_CREATE and fsmount(2), 5.2: a new, detached mount.
pub(crate) fn fsmount(context: BorrowedFd<'_>, attributes: u64) -> Result<OwnedFd, Errno> {
    const FSMOUNT_CLOEXEC: u32 = 1;
    let null = std::ptr::null::<libc::c_char>();
    // WHY: not in nix. SAFETY: CMD_CREATE takes no key and no value.
    check(unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), FSCONFIG_CMD_CREATE, null, null, 0) })?;
    // WHY: not in nix. SAFETY: no memory argument.
    let raw = check(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, attributes) })?;
    Ok(adopt(raw as RawFd))
}

/// keyctl(2) KEYCTL_JOIN_SESSION_KEYRING with no name: a new, empty session keyring.
pub(crate) fn join_new_keyring() -> Result<(), Errno> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    // WHY: not in nix. SAFETY: a null name is allowed and means an anonymous keyring.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>()) }).map(drop)
}

/// Brings one network interface up (netdevice(7) SIOCSIFFLAGS).
pub(crate) fn interface_up(socket: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let bytes = name.to_bytes();
    if bytes.len() >= libc::IFNAMSIZ {
        return Err(Errno::ENAMETOOLONG);
    }
    // WHY: nix has no ifreq. SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // WHY: as above. SAFETY: `request` is a live ifreq with a terminated name.
    Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) }).map(drop)
}

/// landlock_create_ruleset(2), 5.13: the kernel's Landlock version; an error where there is none.
pub(crate) fn landlock_version() -> Result<u32, Errno> {
    const LANDLOCK_CREATE_RULESET_VERSION: u32 = 1;
    // WHY: not in nix. SAFETY: null attributes of size 0 are what this flag demands.
    let version = check(unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0_usize, LANDLOCK_CREATE_RULESET_VERSION)
    })?;
    Ok(version as u32)
}

/// landlock_create_ruleset(2) and landlock_restrict_self(2) with scopes only (ABI 6, 6.12). Needs no_new_privs.
pub(crate) fn landlock_scope(scopes: u64) -> Result<(), Errno> {
    #[repr(C)]
    struct RulesetAttr {
        handled_access_fs: u64,
        handled_access_net: u64,
        scoped: u64,
    }
    let attr = RulesetAttr { handled_access_fs: 0, handled_access_net: 0, scoped: scopes };
    // WHY: not in nix. SAFETY: `attr` is of the size passed.
    let raw = check(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &raw const attr, size_of::<RulesetAttr>(), 0_u32) })?;
    let ruleset = adopt(raw as RawFd);
    // WHY: not in nix. SAFETY: no memory argument.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0_u32) }).map(drop)
}

/// Whether exec keeps a descriptor.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inherit {
    /// It does.
    Yes,
    /// It closes it.
    No,
}

/// Puts a copy of a descriptor at a number, closing what was there. For processes about to exec, or fresh from a fork,
/// in which no owned value has that number.
pub(crate) fn place(fd: BorrowedFd<'_>, number: RawFd, inherit: Inherit) -> Result<(), Errno> {
    let flags = if inherit == Inherit::Yes { 0 } else { libc::O_CLOEXEC };
    if fd.as_raw_fd() == number {
        let flags = if inherit == Inherit::Yes { 0 } else { libc::FD_CLOEXEC };
        // WHY: dup3 refuses equal numbers. SAFETY: sets a flag.
        return Errno::result(unsafe { libc::fcntl(number, libc::F_SETFD, flags) }).map(drop);
    }
    // WHY: nix's dup3 wants an owned target. SAFETY: callers own the whole descriptor table, as said above.
    Errno::result(unsafe { libc::dup3(fd.as_raw_fd(), number, flags) }).map(drop)
}

/// All signals to their default action and none blocked, as a new program expects.
pub(crate) fn reset_signals() -> Result<(), Errno> {
    // WHY: nix's sigaction is unsafe. SAFETY: an all-zero sigaction is SIG_DFL without flags, no handler of ours exists.
    let default: libc::sigaction = unsafe { std::mem::zeroed() };
    for signal in 1..=64 {
        if matches!(signal, libc::SIGKILL | libc::SIGSTOP | 32 | 33) {
            continue;
        }
        // WHY: as above. SAFETY: as above; the old action is not asked for.
        Errno::result(unsafe { libc::sigaction(signal, &raw const default, std::ptr::null_mut()) })?;
    }
    nix::sys::signal::SigSet::empty().thread_set_mask()
}

/// kill(2) of a process group, with any signal number. A group that is gone is no error.
pub(crate) fn kill_group(leader: Pid, signal: i32) {
    // WHY: nix knows no real-time signals. SAFETY: no memory argument.
    unsafe { libc::kill(-leader.as_raw(), signal) };
}

/// Drops every capability from the bounding set but those to keep (prctl(2) PR_CAPBSET_DROP, 2.6.25), up to the last that
/// the kernel knows.
pub(crate) fn drop_bounding(keep: impl Fn(u32) -> bool) -> Result<(), Errno> {
    for number in 0..64 {
        if keep(number) {
            continue;
        }
        // WHY: the caps crate asks for each before it drops it. SAFETY: no memory argument.
        match Errno::result(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number), 0, 0, 0) }) {
            Ok(_) => {}
            Err(Errno::EINVAL) if number > 0 => return Ok(()),
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Empties the ambient set (prctl(2) PR_CAP_AMBIENT_CLEAR_ALL, 4.3).
pub(crate) fn clear_ambient() -> Result<(), Errno> {
    // WHY: the caps crate lowers one capability after another. SAFETY: no memory argument.
    Errno::result(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) }).map(drop)
}

/// Whether capabilities stay when the effective id changes from 0 or to it (capabilities(7), SECBIT_NO_SETUID_FIXUP).
pub(crate) fn keep_capabilities(keep: bool) -> Result<(), Errno> {
    let bits = if keep { libc::SECBIT_NO_SETUID_FIXUP } else { 0 };
    // WHY: neither nix nor the caps crate has this bit. SAFETY: no memory argument.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_SECUREBITS, bits as libc::c_ulong, 0, 0, 0) }).map(drop)
}

/// A refused call that waits for an answer.
pub(crate) struct Notice {
    /// Which one.
    pub id: u64,
    /// Its number.
    pub number: u32,
    /// The interface that it came by.
    pub architecture: u32,
    /// Its arguments.
    pub arguments: [u64; 6],
}

/// seccomp(2) with SECCOMP_FILTER_FLAG_NEW_LISTENER (5.0): loads a filter and gives the descriptor of its listener, which exec
/// closes.
pub(crate) fn seccomp_listen(filter: &[(u16, u8, u8, u32)]) -> Result<OwnedFd, Errno> {
    const SECCOMP_SET_MODE_FILTER: libc::c_uint = 1;
    const SECCOMP_FILTER_FLAG_NEW_LISTENER: libc::c_ulong = 8;
    let mut program: Vec<libc::sock_filter> =
        filter.iter().map(|(code, jt, jf, k)| libc::sock_filter { code: *code, jt: *jt, jf: *jf, k: *k }).collect();
    let length = u16::try_from(program.len()).map_err(|_| Errno::EINVAL)?;
    let program = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    // WHY: seccompiler knows no listeners. SAFETY: `program` points to as many live instructions as it says.
    let raw =
        check(unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &raw const program) })?;
    Ok(adopt(raw as RawFd))
}

/// `struct seccomp_notif` of seccomp_unotify(2).
#[repr(C)]
#[derive(Default)]
struct SeccompNotif {
    id: u64,
    pid: u32,
    flags: u32,
    number: i32,
    architecture: u32,
    address: u64,
    arguments: [u64; 6],
}

/// SECCOMP_IOCTL_NOTIF_RECV: the next waiting call. Blocks when none waits; ENOENT when it died meanwhile.
pub(crate) fn notice(listener: BorrowedFd<'_>) -> Result<Notice, Errno> {
    const SECCOMP_IOCTL_NOTIF_RECV: libc::c_ulong = 0xc050_2100;
    let mut notif = SeccompNotif::default();
    // WHY: nix has no such ioctl. SAFETY: `notif` is zeroed, as demanded, and of the kernel's size of 80 bytes.
    Errno::result(unsafe { libc::ioctl(listener.as_raw_fd(), SECCOMP_IOCTL_NOTIF_RECV as _, &raw mut notif) })?;
    Ok(Notice { id: notif.id, number: notif.number as u32, architecture: notif.architecture, arguments: notif.arguments })
}

/// SECCOMP_IOCTL_NOTIF_SEND: answers with an error.
pub(crate) fn answer_notice(listener: BorrowedFd<'_>, id: u64, errno: i32) -> Result<(), Errno> {
    const SECCOMP_IOCTL_NOTIF_SEND: libc::c_ulong = 0xc018_2101;
    #[repr(C)]
    struct Response {
        id: u64,
        value: i64,
        error: i32,
        flags: u32,
    }
    let response = Response { id, value: 0, error: -errno, flags: 0 };
    // WHY: nix has no such ioctl. SAFETY: `response` is of the kernel's size of 24 bytes and outlives the call.
    Errno::result(unsafe { libc::ioctl(listener.as_raw_fd(), SECCOMP_IOCTL_NOTIF_SEND as _, &raw const response) }).map(drop)
}

/// By which of the kernel's doors a call goes in.
#[derive(Clone, Copy)]
pub(crate) enum Door {
    /// The one of this program's own architecture.
    Native,
    /// The 32-bit one of x86, `int 0x80`; elsewhere there is none, and the call answers ENOSYS.
    Compat,
}

/// Makes calls of any number one after the other and writes each answer (eight bytes) to `report`. `fill` gives the six
/// arguments of each, from the answers so far. Never returns: this process must be a fork made for nothing else.
pub(crate) fn perform<F>(calls: usize, fill: F, report: BorrowedFd<'_>) -> !
where
    F: Fn(usize, &[i64]) -> (Door, i64, [u64; 6]),
{
    let mut answers = Vec::with_capacity(calls);
    for at in 0..calls {
        let (door, number, words) = fill(at, &answers);
        let answer = match door {
            // WHY: any number, known to no wrapper. SAFETY: whatever the call does to this process's memory, no code but this
            // loop and `_exit` runs in it afterwards; other processes are the kernel's to protect.
            Door::Native => match unsafe { libc::syscall(number, words[0], words[1], words[2], words[3], words[4], words[5]) } {
                -1 => -i64::from(Errno::last_raw()),
                other => other,
            },
            Door::Compat => compat(number, words),
        };
        if answer == 0 && matches!(number, libc::SYS_clone | libc::SYS_clone3) {
            // The child of the call has nothing to do.
            exit_now(0);
        }
        answers.push(answer);
        if nix::unistd::write(report, &answer.to_ne_bytes()).is_err() {
            break;
        }
    }
    exit_now(0)
}

#[cfg(target_arch = "x86_64")]
fn compat(number: i64, words: [u64; 6]) -> i64 {
    let mut answer = number as u32;
    // WHY: no library enters there. SAFETY: as in `perform`, the only caller. The kernel keeps all registers but eax, and
    // rbx, which the compiler reserves, is put back.
    unsafe {
        std::arch::asm!("xchg rbx, {first}", "int 0x80", "xchg rbx, {first}", first = inout(reg) words[0] => _, inout("eax") answer,
            in("ecx") words[1], in("edx") words[2], in("esi") words[3], in("edi") words[4],
            out("r8") _, out("r9") _, out("r10") _, out("r11") _);
    }
    i64::from(answer as i32)
}

#[cfg(not(target_arch = "x86_64"))]
fn compat(_number: i64, _words: [u64; 6]) -> i64 {
    -i64::from(libc::ENOSYS)
}
