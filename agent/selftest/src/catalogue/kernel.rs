//! The kernel's own surface: calls that reach the host, another process, or code of the kernel that no build needs. A call
//! need not be well-formed: EINVAL, EBADF or EFAULT show that the kernel went to work on it, which is what must not happen.

use caisson_sandbox::raw::Argument::{Answer, Bytes, Filter, Room, Vector, Word};
use caisson_sandbox::raw::{Call, Entry};

use crate::attack::{Act, Attack, Control};
use crate::needs::Need;

macro_rules! call {
    ($number:expr $(, $argument:expr)* $(,)?) => {
        Call { entry: Entry::Native, number: $number, arguments: &[$($argument),*] }
    };
}
macro_rules! attack {
    ($id:literal, $tries:literal, $control:ident, [$($call:expr),* $(,)?]) => {
        Attack::new($id, $tries, Act::Calls(&[$($call),*]), Control::$control)
    };
}
pub(super) use {attack, call};

/// -1 as a descriptor, and so on.
pub(super) const NONE: u64 = u64::MAX;
/// AT_FDCWD.
pub(super) const HERE: u64 = (-100_i64) as u64;

/// quotactl_fd(2), which libc does not name everywhere (5.14).
const QUOTACTL_FD: i64 = 443;
/// One instruction of a filter that allows everything.
const ALLOW_ALL: u64 = 0x7fff_0000_0000_0006;
/// `struct clone_args` with CLONE_NEWUSER and SIGCHLD.
const CLONE_ARGS: &[u8] = &{
    let mut bytes = [0; 64];
    bytes[3] = 0x10;
    bytes[32] = 17;
    bytes
};
/// `struct __user_cap_header_struct`, version 3, of this process.
const CAPABILITY_HEADER: &[u8] = &[0x22, 0x05, 0x08, 0x20, 0, 0, 0, 0];
/// CAP_SYS_ADMIN, effective and permitted.
const CAPABILITY_DATA: &[u8] = &{
    let mut bytes = [0; 24];
    bytes[2] = 0x20;
    bytes[6] = 0x20;
    bytes
};
/// `struct file_handle`: eight bytes of type 1.
const HANDLE: &[u8] = &[8, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0];

const USER_NAMESPACES: &[Need] = &[Need::Setting("/proc/sys/kernel/unprivileged_userns_clone", &["1"])];
const IO_URING: &[Need] = &[Need::Setting("/proc/sys/kernel/io_uring_disabled", &["0"])];
const TYPING: &[Need] = &[Need::Setting("/proc/sys/dev/tty/legacy_tiocsti", &["1"]), Need::File("/dev/ptmx")];

/// A terminal of its own, as the controlling one of a session of its own: the answer 3 is its near end.
macro_rules! terminal {
    ($id:literal, $tries:literal, $request:expr) => {
        attack!(
            $id,
            $tries,
            Outside,
            [
                call!(libc::SYS_setsid),
                call!(libc::SYS_openat, Word(HERE), Bytes(b"/dev/ptmx\0"), Word((libc::O_RDWR | libc::O_NOCTTY) as u64)),
                call!(libc::SYS_ioctl, Answer(1), Word(0x4004_5431), Room(4)),
                call!(libc::SYS_ioctl, Answer(1), Word(0x5441), Word((libc::O_RDWR | libc::O_NOCTTY) as u64)),
                call!(libc::SYS_ioctl, Answer(3), Word(0x540E), Word(0)),
                call!(libc::SYS_ioctl, Answer(3), Word($request), Bytes(b"x")),
            ]
        )
    };
}

pub(super) const ATTACKS: &[Attack] = &[
    attack!(
        "kernel.io-uring-setup",
        "make a queue that the kernel serves past the filter",
        Outside,
        [call!(libc::SYS_io_uring_setup, Word(1), Room(120)),]
    )
    .needing(IO_URING),
    attack!("kernel.io-uring-enter", "enter such a queue", Outside, [call!(libc::SYS_io_uring_enter, Word(NONE), Word(0))])
        .needing(IO_URING),
    attack!("kernel.io-uring-register", "register with such a queue", Outside, [call!(libc::SYS_io_uring_register, Word(NONE), Word(0)),])
        .needing(IO_URING),
    attack!("kernel.userfaultfd", "stop the kernel in the middle of a copy", Outside, [call!(libc::SYS_userfaultfd, Word(1))]),
    attack!("kernel.bpf", "load a program into the kernel", Root, [call!(libc::SYS_bpf, Word(0), Room(128), Word(128))]),
    attack!(
        "kernel.perf-event",
        "watch the processor's counters",
        Root,
        [call!(libc::SYS_perf_event_open, Room(128), Word(0), Word(NONE), Word(NONE), Word(0)),]
    ),
    attack!(
        "kernel.keyctl",
        "read the keyrings of the host's session",
        Outside,
        [call!(libc::SYS_keyctl, Word(0), Word((-3_i64) as u64), Word(0)),]
    ),
    attack!(
        "kernel.add-key",
        "fill the host's key quota",
        Outside,
        [call!(libc::SYS_add_key, Bytes(b"user\0"), Bytes(b"caisson\0"), Bytes(b"x"), Word(1), Word((-2_i64) as u64)),]
    ),
    attack!(
        "kernel.request-key",
        "ask for a key of the host",
        Outside,
        [call!(libc::SYS_request_key, Bytes(b"user\0"), Bytes(b"caisson-none\0"), Word(0), Word((-2_i64) as u64)),]
    ),
    attack!("kernel.kexec", "load another kernel", Root, [call!(libc::SYS_kexec_load, Word(0), Word(1000), Word(0), Word(0))]),
    attack!(
        "kernel.kexec-file",
        "load another kernel from a file",
        Root,
        [call!(libc::SYS_kexec_file_load, Word(NONE), Word(NONE), Word(0), Word(0), Word(0xffff)),]
    ),
    attack!("kernel.module", "load a module", Root, [call!(libc::SYS_init_module, Room(16), Word(0), Bytes(b"\0"))]),
    attack!("kernel.module-file", "load a module from a file", Root, [call!(libc::SYS_finit_module, Word(NONE), Bytes(b"\0"), Word(0)),]),
    attack!("kernel.module-removal", "remove a module", Root, [call!(libc::SYS_delete_module, Bytes(b"caisson_none\0"), Word(0x800)),]),
    attack!("kernel.reboot", "restart the host", Root, [call!(libc::SYS_reboot, Word(0), Word(0), Word(0), Word(0))]),
    attack!("kernel.swapon", "swap to a file of its own", Root, [call!(libc::SYS_swapon, Bytes(b"/caisson-none\0"), Word(0))]),
    attack!("kernel.swapoff", "turn swap off", Root, [call!(libc::SYS_swapoff, Bytes(b"/caisson-none\0"))]),
    attack!("kernel.host-name", "rename the host", Weakened, [call!(libc::SYS_sethostname, Bytes(b"x"), Word(1))]),
    attack!("kernel.domain-name", "rename its domain", Weakened, [call!(libc::SYS_setdomainname, Bytes(b"x"), Word(1))]),
    attack!("kernel.accounting", "have the kernel write process accounting", Root, [call!(libc::SYS_acct, Bytes(b"/caisson-none\0"))]),
    attack!(
        "kernel.quota-descriptor",
        "ask for quotas by a descriptor",
        Root,
        [
            call!(libc::SYS_openat, Word(HERE), Bytes(b"/\0"), Word(0)),
            // Q_GETINFO for users, of quotactl(2).
            call!(QUOTACTL_FD, Answer(0), Word(0x8000_0500), Word(0), Room(64)),
        ]
    ),
    attack!(
        "kernel.quota",
        "change quotas",
        Outside,
        [call!(libc::SYS_quotactl, Word(0x8000_0400), Bytes(b"/dev/null\0"), Word(0), Room(128)),]
    ),
    attack!("kernel.time-of-day", "set the clock", Root, [call!(libc::SYS_settimeofday, Word(0), Word(0))]),
    attack!("kernel.clock", "set the clock by its new call", Outside, [call!(libc::SYS_clock_settime, Word(0), Word(0))]),
    attack!("kernel.adjtimex", "bend the clock", Outside, [call!(libc::SYS_adjtimex, Room(208))]),
    attack!("kernel.clock-adjtime", "bend the clock by its new call", Outside, [call!(libc::SYS_clock_adjtime, Word(0), Room(208))]),
    attack!("kernel.log", "read the kernel's log", Root, [call!(libc::SYS_syslog, Word(3), Room(4096), Word(4096))]),
    attack!("kernel.fanotify", "watch every file of a mount", Root, [call!(libc::SYS_fanotify_init, Word(0), Word(0))]),
    attack!(
        "kernel.move-pages",
        "move pages between memory nodes",
        Outside,
        [call!(libc::SYS_move_pages, Word(0), Word(0), Word(0), Word(0), Word(0), Word(0)),]
    ),
    attack!(
        "kernel.migrate-pages",
        "move a process between memory nodes",
        Outside,
        [call!(libc::SYS_migrate_pages, Word(0), Word(0), Word(0), Word(0)),]
    ),
    attack!(
        "kernel.process-madvise",
        "advise about another process's memory",
        Outside,
        [call!(libc::SYS_process_madvise, Word(NONE), Word(0), Word(0), Word(0), Word(0)),]
    ),
    attack!(
        "kernel.process-mrelease",
        "release another process's memory",
        Outside,
        [call!(libc::SYS_process_mrelease, Word(NONE), Word(0)),]
    ),
    attack!("kernel.memfd-secret", "hide memory from the kernel itself", Outside, [call!(libc::SYS_memfd_secret, Word(0))]),
    attack!(
        "kernel.kcmp",
        "compare kernel objects of processes",
        Outside,
        [call!(libc::SYS_getpid), call!(libc::SYS_kcmp, Answer(0), Answer(0), Word(0), Word(0), Word(0)),]
    ),
    attack!(
        "kernel.pidfd-getfd",
        "take a descriptor out of a process",
        Outside,
        [
            call!(libc::SYS_getpid),
            call!(libc::SYS_pidfd_open, Answer(0), Word(0)),
            call!(libc::SYS_pidfd_getfd, Answer(1), Word(0), Word(0)),
        ]
    ),
    attack!("kernel.ptrace", "use the debugging interface", Outside, [call!(libc::SYS_ptrace, Word(0), Word(0), Word(0), Word(0))]),
    attack!(
        "kernel.process-vm-read",
        "copy memory between processes",
        Outside,
        [call!(libc::SYS_getpid), call!(libc::SYS_process_vm_readv, Answer(0), Vector(8), Word(1), Vector(8), Word(1), Word(0)),]
    ),
    attack!(
        "kernel.process-vm-write",
        "write memory of processes",
        Outside,
        [call!(libc::SYS_getpid), call!(libc::SYS_process_vm_writev, Answer(0), Vector(8), Word(1), Vector(8), Word(1), Word(0)),]
    ),
    attack!(
        "kernel.name-to-handle",
        "name a file by its number on the disk",
        Outside,
        [call!(libc::SYS_name_to_handle_at, Word(HERE), Bytes(b"/\0"), Room(136), Room(4), Word(0)),]
    ),
    attack!(
        "kernel.open-by-handle",
        "open any file of the disk by its number",
        Root,
        [call!(libc::SYS_open_by_handle_at, Word(HERE), Bytes(HANDLE), Word(0)),]
    ),
    attack!("kernel.unshare-user", "make a user namespace", Outside, [call!(libc::SYS_unshare, Word(0x1000_0000))])
        .needing(USER_NAMESPACES),
    attack!("kernel.unshare-mount", "make a mount namespace", Weakened, [call!(libc::SYS_unshare, Word(0x0002_0000))]),
    attack!("kernel.unshare-network", "make a network namespace", Weakened, [call!(libc::SYS_unshare, Word(0x4000_0000))]),
    attack!("kernel.unshare-pid", "make a pid namespace", Weakened, [call!(libc::SYS_unshare, Word(0x2000_0000))]),
    attack!("kernel.unshare-cgroup", "make a cgroup namespace", Weakened, [call!(libc::SYS_unshare, Word(0x0200_0000))]),
    attack!("kernel.unshare-time", "make a time namespace", Weakened, [call!(libc::SYS_unshare, Word(0x80))]),
    attack!(
        "kernel.clone-user",
        "make a process in a user namespace",
        Outside,
        [call!(libc::SYS_clone, Word(0x1000_0011), Word(0), Word(0), Word(0), Word(0)),]
    )
    .needing(USER_NAMESPACES),
    attack!(
        "kernel.clone-high-bits",
        "do so with bits that a careless filter compares and the kernel ignores",
        Outside,
        [call!(libc::SYS_clone, Word(0xffff_ffff_1000_0011), Word(0), Word(0), Word(0), Word(0)),]
    )
    .needing(USER_NAMESPACES),
    attack!(
        "kernel.clone-network",
        "make a process in a network namespace",
        Weakened,
        [call!(libc::SYS_clone, Word(0x4000_0011), Word(0), Word(0), Word(0), Word(0)),]
    ),
    attack!(
        "kernel.clone3",
        "make a process in a user namespace by the call that no filter can look into",
        Outside,
        [call!(libc::SYS_clone3, Bytes(CLONE_ARGS), Word(64)),]
    )
    .needing(USER_NAMESPACES),
    attack!(
        "kernel.setns",
        "join a namespace",
        Weakened,
        [call!(libc::SYS_openat, Word(HERE), Bytes(b"/proc/self/ns/uts\0"), Word(0)), call!(libc::SYS_setns, Answer(0), Word(0)),]
    ),
    attack!("kernel.personality", "make all readable memory executable", Outside, [call!(libc::SYS_personality, Word(0x0040_0000))]),
    attack!("kernel.capability", "take a capability", Root, [call!(libc::SYS_capset, Bytes(CAPABILITY_HEADER), Bytes(CAPABILITY_DATA)),]),
    attack!(
        "kernel.real-time",
        "run before everything else on the host",
        Root,
        [call!(libc::SYS_sched_setscheduler, Word(0), Word(1), Bytes(&[1, 0, 0, 0])),]
    ),
    attack!("kernel.priority", "run at a higher priority", Root, [call!(libc::SYS_setpriority, Word(0), Word(0), Word((-10_i64) as u64))]),
    attack!(
        "kernel.io-priority",
        "have its disk access served first",
        Root,
        [call!(libc::SYS_ioprio_set, Word(1), Word(0), Word(1 << 13)),]
    ),
    attack!(
        "kernel.own-filter",
        "install a filter that allows everything, then make a user namespace",
        Outside,
        [
            call!(libc::SYS_prctl, Word(38), Word(1), Word(0), Word(0), Word(0)),
            call!(libc::SYS_seccomp, Word(1), Word(0), Filter(&[ALLOW_ALL])),
            call!(libc::SYS_unshare, Word(0x1000_0000)),
        ]
    )
    .needing(USER_NAMESPACES),
    terminal!("kernel.terminal-typing", "type into a terminal (TIOCSTI)", 0x5412).needing(TYPING),
    terminal!("kernel.terminal-typing-high-bits", "type with bits that a careless filter compares and the kernel ignores", 0x1_0000_5412)
        .needing(TYPING),
    terminal!("kernel.terminal-pasting", "paste into a console (TIOCLINUX)", 0x541C).needing(&[Need::File("/dev/ptmx")]),
];
