//! What no addition may open, and why.

const NAMESPACES: &str = "it makes or enters namespaces";
const MOUNTS: &str = "it changes what is mounted";
const KERNEL: &str = "it loads code into the kernel or restarts it";
const BLIND: &str = "no filter can look at what it really does";
const RULED: &str = "it is allowed already, but for arguments that would open the sandbox";
const HANDLES: &str = "it opens files of the host by number, past the closed root";
const HARDWARE: &str = "it reaches the machine's ports";

/// Name and reason.
pub(crate) const NEVER: &[(&str, &str)] = &[
    ("clone", RULED),
    ("socket", RULED),
    ("socketpair", RULED),
    ("ioctl", RULED),
    ("clone3", BLIND),
    ("io_uring_setup", BLIND),
    ("io_uring_enter", BLIND),
    ("io_uring_register", BLIND),
    ("unshare", NAMESPACES),
    ("setns", NAMESPACES),
    ("mount", MOUNTS),
    ("umount2", MOUNTS),
    ("pivot_root", MOUNTS),
    ("chroot", MOUNTS),
    ("fsopen", MOUNTS),
    ("fsconfig", MOUNTS),
    ("fsmount", MOUNTS),
    ("fspick", MOUNTS),
    ("open_tree", MOUNTS),
    ("move_mount", MOUNTS),
    ("mount_setattr", MOUNTS),
    ("kexec_load", KERNEL),
    ("kexec_file_load", KERNEL),
    ("init_module", KERNEL),
    ("finit_module", KERNEL),
    ("delete_module", KERNEL),
    ("bpf", KERNEL),
    ("reboot", KERNEL),
    ("swapon", KERNEL),
    ("swapoff", KERNEL),
    ("open_by_handle_at", HANDLES),
    ("iopl", HARDWARE),
    ("ioperm", HARDWARE),
];
