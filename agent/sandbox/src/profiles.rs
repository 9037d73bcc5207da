//! System call lists as data.

mod aarch64;
mod dangerous;
mod default;
mod entry;
mod never;
mod numbers;

pub(crate) use dangerous::DANGEROUS;
pub(crate) use default::DEFAULT;
#[cfg(test)]
pub(crate) use entry::Entry;
pub(crate) use entry::Rule;
pub(crate) use never::NEVER;
pub(crate) use numbers::{Architecture, name, number, number_on};

/// All bits of clone(2) that make a namespace, time included (which clone takes as part of the exit signal).
pub(crate) const NAMESPACE_FLAGS: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32;

/// What the strict profile takes out of the default one.
pub(crate) const NOT_STRICT: &[&str] = &[
    "mlock",
    "mlock2",
    "mlockall",
    "shmget",
    "shmat",
    "shmdt",
    "shmctl",
    "semget",
    "semop",
    "semctl",
    "semtimedop",
    "msgget",
    "msgsnd",
    "msgrcv",
    "msgctl",
    "mq_open",
    "mq_unlink",
    "mq_timedsend",
    "mq_timedreceive",
    "mq_notify",
    "mq_getsetattr",
    "io_setup",
    "io_destroy",
    "io_submit",
    "io_cancel",
    "io_getevents",
    "setuid",
    "setgid",
    "setreuid",
    "setregid",
    "setresuid",
    "setresgid",
    "setgroups",
    "setfsuid",
    "setfsgid",
    "capset",
    "mknod",
    "mknodat",
    "personality",
    "mbind",
    "set_mempolicy",
    "get_mempolicy",
    "pidfd_open",
    "pidfd_send_signal",
];

/// What init of a sandbox calls after it has started the step.
pub(crate) const INIT: &[&str] = &[
    "read",
    "write",
    "close",
    "poll",
    "ppoll",
    "recvmsg",
    "sendmsg",
    "wait4",
    "kill",
    "exit",
    "exit_group",
    "mmap",
    "munmap",
    "mremap",
    "brk",
    "madvise",
    "rt_sigreturn",
    "rt_sigprocmask",
    "rt_sigaction",
    "sigaltstack",
    "clock_gettime",
    "restart_syscall",
    "futex",
    "getrandom",
];
