//! Changing the tree of mounts, with the old calls and the new ones.

use caisson_sandbox::raw::Argument::{Answer, Bytes, Room, Word};
use caisson_sandbox::raw::{Call, Entry};

use super::kernel::{HERE, NONE, attack, call};
use crate::attack::{Act, Attack, Control};

const BIND: u64 = libc::MS_BIND;
const REMOUNT: u64 = libc::MS_REMOUNT | libc::MS_BIND;
/// statmount(2) and listmount(2), 6.8; open_tree_attr(2), 6.15.
const LISTMOUNT: i64 = 458;
const STATMOUNT: i64 = 457;
const OPEN_TREE_ATTR: i64 = 467;
/// `struct mnt_id_req` of the root of all mounts, version 0.
const ROOT_OF_ALL: &[u8] = &{
    let mut bytes = [0; 24];
    bytes[0] = 24;
    let mut at = 8;
    while at < 16 {
        bytes[at] = 0xff;
        at += 1;
    }
    bytes
};

pub(super) const ATTACKS: &[Attack] = &[
    attack!(
        "files.mount-tmpfs",
        "mount a file system",
        Weakened,
        [call!(libc::SYS_mount, Bytes(b"x\0"), Bytes(b"/tmp\0"), Bytes(b"tmpfs\0"), Word(0), Word(0)),]
    ),
    attack!(
        "files.mount-bind",
        "show a directory at another place",
        Weakened,
        [call!(libc::SYS_mount, Bytes(b"/usr\0"), Bytes(b"/tmp\0"), Word(0), Word(BIND), Word(0)),]
    ),
    attack!(
        "files.mount-cgroup",
        "mount the cgroup hierarchies, whose release agent runs as the host's root",
        Weakened,
        [call!(libc::SYS_mount, Bytes(b"x\0"), Bytes(b"/tmp\0"), Bytes(b"cgroup2\0"), Word(0), Word(0)),]
    ),
    attack!(
        "files.mount-overlay",
        "mount an overlay of its own making",
        Weakened,
        [
            call!(libc::SYS_mount, Bytes(b"x\0"), Bytes(b"/tmp\0"), Bytes(b"tmpfs\0"), Word(0), Word(0)),
            call!(libc::SYS_mount, Bytes(b"x\0"), Bytes(b"/tmp\0"), Bytes(b"overlay\0"), Word(0), Bytes(b"lowerdir=/tmp:/usr\0")),
        ]
    ),
    attack!(
        "files.remount-writable",
        "make a read-only mount writable",
        Weakened,
        [call!(libc::SYS_mount, Word(0), Bytes(b"/\0"), Word(0), Word(REMOUNT), Word(0)),]
    ),
    attack!("files.umount-mask", "take a mask off /proc", Weakened, [call!(libc::SYS_umount2, Bytes(b"/proc/sys\0"), Word(2)),]),
    attack!("files.umount-root", "take the root away, to see what is below", Weakened, [call!(libc::SYS_umount2, Bytes(b"/\0"), Word(2)),]),
    attack!("files.pivot-root", "change the root", Weakened, [call!(libc::SYS_pivot_root, Bytes(b".\0"), Bytes(b".\0"))]),
    attack!(
        "files.chroot",
        "change the root of this process, the classic way out of one",
        Weakened,
        [call!(libc::SYS_chroot, Bytes(b"/tmp\0")), call!(libc::SYS_chdir, Bytes(b"../../..\0")), call!(libc::SYS_chroot, Bytes(b".\0")),]
    ),
    attack!(
        "files.fsopen",
        "mount a file system by the new calls",
        Weakened,
        [
            call!(libc::SYS_fsopen, Bytes(b"tmpfs\0"), Word(0)),
            call!(libc::SYS_fsconfig, Answer(0), Word(6), Word(0), Word(0), Word(0)),
            call!(libc::SYS_fsmount, Answer(0), Word(0), Word(0)),
        ]
    ),
    attack!(
        "files.fsconfig",
        "configure a file system by the new calls",
        Weakened,
        [call!(libc::SYS_fsconfig, Word(NONE), Word(6), Word(0), Word(0), Word(0)),]
    ),
    attack!("files.fsmount", "make a mount by the new calls", Weakened, [call!(libc::SYS_fsmount, Word(NONE), Word(0), Word(0))]),
    attack!("files.fspick", "reconfigure a mounted file system", Weakened, [call!(libc::SYS_fspick, Word(HERE), Bytes(b"/\0"), Word(0)),]),
    attack!("files.open-tree", "copy the tree of mounts", Weakened, [call!(libc::SYS_open_tree, Word(HERE), Bytes(b"/\0"), Word(0x8001)),]),
    attack!(
        "files.open-tree-attr",
        "copy the tree of mounts with other attributes",
        Weakened,
        [call!(OPEN_TREE_ATTR, Word(HERE), Bytes(b"/\0"), Word(0x8001), Room(32), Word(32)),]
    ),
    attack!(
        "files.move-mount",
        "move a mount",
        Weakened,
        [call!(libc::SYS_move_mount, Word(NONE), Bytes(b"\0"), Word(NONE), Bytes(b"\0"), Word(0x44)),]
    ),
    attack!(
        "files.mount-setattr",
        "make mounts writable by the new call",
        Weakened,
        [call!(libc::SYS_mount_setattr, Word(HERE), Bytes(b"/\0"), Word(0), Bytes(&CLEAR_READ_ONLY), Word(32)),]
    ),
    attack!("files.listmount", "list mounts by number", Outside, [call!(LISTMOUNT, Bytes(ROOT_OF_ALL), Room(1024), Word(128), Word(0)),]),
    attack!(
        "files.statmount",
        "ask about a mount by number",
        Outside,
        [call!(STATMOUNT, Bytes(ROOT_OF_ALL), Room(1024), Word(1024), Word(0)),]
    ),
];

/// `struct mount_attr` that clears MOUNT_ATTR_RDONLY.
const CLEAR_READ_ONLY: [u8; 32] = {
    let mut bytes = [0; 32];
    bytes[8] = 1;
    bytes
};
