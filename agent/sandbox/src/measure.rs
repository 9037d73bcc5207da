//! Measuring what a sandbox has written to the host's disk, in a process of its own: walking a large tree takes long, and
//! the launcher must not wait. Files that are open, or mapped, but have no name any more are counted as well: they hold
//! the disk just the same.

use std::collections::HashSet;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};
use nix::sys::statfs::{FsType, TMPFS_MAGIC, fstatfs, statfs};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::handshake::{self, ReceiveError};
use crate::sys::{self, Forked, Inherit};

/// How deep one walk goes; a descriptor is open per level. What lies deeper counts as a whole file system too much.
const DEPTH: usize = 400;

/// How many entries are looked at without a process for it.
const GLANCE: usize = 32;
/// How directories are opened.
const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// hugetlbfs, which memory limits count.
const HUGETLBFS: FsType = FsType(0x9584_58f6);

/// Bytes and files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Use {
    /// Bytes that the disk gave.
    pub bytes: u64,
    /// Files, directories and everything else that has an inode.
    pub inodes: u64,
}

impl Use {
    pub(crate) fn plus(self, other: Use) -> Use {
        Use { bytes: self.bytes.saturating_add(other.bytes), inodes: self.inodes.saturating_add(other.inodes) }
    }

    pub(crate) fn minus(self, other: Use) -> Use {
        Use { bytes: self.bytes.saturating_sub(other.bytes), inodes: self.inodes.saturating_sub(other.inodes) }
    }
}

/// What one walk found.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// Per tree, in the order given.
    pub trees: Vec<Use>,
    /// Open files without a name.
    pub nameless: Use,
}

/// A walk under way.
#[derive(Debug)]
pub(crate) struct Walk {
    pid: Pid,
    socket: OwnedFd,
}

impl Walk {
    /// Starts walking the trees, and looking at the processes in the pid namespace of `init`.
    pub(crate) fn start(trees: &[BorrowedFd<'_>], init: Pid) -> Result<Self, Errno> {
        let (socket, theirs) = handshake::pair()?;
        match sys::fork()? {
            Forked::Child => {
                let code = i32::from(walk(trees, theirs.as_fd(), init).is_err());
                sys::exit_now(code)
            }
            Forked::Parent(pid) => Ok(Self { pid, socket }),
        }
    }

    /// Readable when it has an answer.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Its answer: `None` while it walks, an error when it failed. To be dropped after an answer.
    pub(crate) fn answer(&self) -> Option<Result<Measured, Errno>> {
        let answer = match handshake::receive_now::<Measured>(self.socket.as_fd()) {
            Ok((measured, _)) => Ok(measured),
            Err(ReceiveError::Call(Errno::EAGAIN)) => return None,
            Err(ReceiveError::Call(errno)) => Err(errno),
            Err(ReceiveError::Closed | ReceiveError::Malformed) => Err(Errno::EIO),
        };
        Some(answer)
    }
}

impl Drop for Walk {
    fn drop(&mut self) {
        // It holds nothing that needs an orderly end.
        let _ = nix::sys::signal::kill(self.pid, Signal::SIGKILL);
        while nix::sys::wait::waitpid(self.pid, None) == Err(Errno::EINTR) {}
    }
}

/// The child's side.
fn walk(trees: &[BorrowedFd<'_>], socket: BorrowedFd<'_>, init: Pid) -> Result<(), Errno> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    nix::sys::prctl::set_name(c"caisson-measure")?;
    // Of the launcher's descriptors only these: a socket or lock that a copy holds open would look alive.
    let kept: Vec<OwnedFd> =
        trees.iter().chain([&socket]).map(|fd| fcntl(*fd, FcntlArg::F_DUPFD_CLOEXEC(512)).map(sys::adopt)).collect::<Result<_, _>>()?;
    let count = kept.len();
    for (number, fd) in kept.iter().enumerate() {
        sys::place(fd.as_fd(), 3 + number as i32, Inherit::No)?;
    }
    std::mem::forget(kept);
    sys::close_from(3 + count as u32)?;
    let mut owned: Vec<OwnedFd> = (0..count).map(|number| sys::adopt(3 + number as i32)).collect();
    let socket = owned.pop().ok_or(Errno::EBADF)?;
    // Below everything else that wants the processor.
    let _ = sys::be_nice();
    let mut seen = HashSet::new();
    let mut measured = Measured { trees: Vec::new(), nameless: Use::default() };
    for tree in &owned {
        let mut sum = Use::default();
        let top = fstat(tree)?;
        if top.st_mode & libc::S_IFMT == libc::S_IFDIR {
            let own = nix::fcntl::openat(tree, c".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
            below(own, top.st_dev, &mut seen, &mut sum, DEPTH);
        } else {
            count_in(&top, &mut seen, &mut sum);
        }
        measured.trees.push(sum);
    }
    measured.nameless = nameless(init);
    handshake::send(socket.as_fd(), &measured, &[])
}

/// What a small tree holds, looked at here and now; `None` where a walk is needed. What another writes meanwhile may be missed, as by
/// any walk.
pub(crate) fn glance(tree: BorrowedFd<'_>) -> Option<Use> {
    let (mut sum, mut seen, mut left) = (Use::default(), HashSet::new(), GLANCE);
    let top = fstat(tree).ok()?;
    if top.st_mode & libc::S_IFMT != libc::S_IFDIR {
        count_in(&top, &mut seen, &mut sum);
        return Some(sum);
    }
    let mut next = vec![nix::fcntl::openat(tree, c".", DIRECTORY, Mode::empty()).ok()?];
    while let Some(directory) = next.pop() {
        let own = nix::unistd::dup(&directory).ok()?;
        let mut entries = Dir::from_fd(directory).ok()?;
        for entry in entries.iter().flatten() {
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            left = usize::checked_sub(left, 1)?;
            let stat = fstatat(&own, name, AtFlags::AT_SYMLINK_NOFOLLOW).ok()?;
            if stat.st_dev != top.st_dev {
                continue;
            }
            count_in(&stat, &mut seen, &mut sum);
            if stat.st_mode & libc::S_IFMT == libc::S_IFDIR {
                next.push(nix::fcntl::openat(&own, name, DIRECTORY | OFlag::O_NOFOLLOW, Mode::empty()).ok()?);
            }
        }
    }
    Some(sum)
}

/// A file with several names counts once.
fn count_in(stat: &FileStat, seen: &mut HashSet<(u64, u64)>, sum: &mut Use) {
    if stat.st_nlink > 1 && stat.st_mode & libc::S_IFMT != libc::S_IFDIR && !seen.insert((stat.st_dev, stat.st_ino)) {
        return;
    }
    *sum = sum.plus(Use { bytes: (stat.st_blocks.max(0) as u64).saturating_mul(512), inodes: 1 });
}

/// Everything below a directory, on its own file system and through no link. What vanishes or refuses meanwhile is left out.
fn below(directory: OwnedFd, device: u64, seen: &mut HashSet<(u64, u64)>, sum: &mut Use, depth: usize) {
    let Ok(mut entries) = Dir::from_fd(directory) else { return };
    let mut inner = Vec::new();
    let raw = entries.as_raw_fd();
    let Ok(own) = nix::unistd::dup(entries.as_fd()) else { return };
    debug_assert!(raw >= 0);
    for entry in entries.iter().flatten() {
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let Ok(stat) = fstatat(&own, name, AtFlags::AT_SYMLINK_NOFOLLOW) else { continue };
        if stat.st_dev != device {
            continue;
        }
        count_in(&stat, seen, sum);
        if entry.file_type().is_none_or(|kind| kind == Type::Directory) && stat.st_mode & libc::S_IFMT == libc::S_IFDIR {
            inner.push(name.to_owned());
        }
    }
    drop(entries);
    for name in inner {
        if depth == 0 {
            // Nobody needs such a tree but to hide something.
            *sum = Use { bytes: u64::MAX, inodes: u64::MAX };
            return;
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        if let Ok(next) = nix::fcntl::openat(&own, name.as_c_str(), flags, Mode::empty()) {
            below(next, device, seen, sum, depth - 1);
        }
    }
}

/// Files that the sandbox's processes hold without a name, in no memory file system.
fn nameless(init: Pid) -> Use {
    let mut sum = Use::default();
    let mut seen = HashSet::new();
    let Ok(namespace) = fs::read_link(format!("/proc/{init}/ns/pid")) else { return sum };
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let process = entry.path();
        if entry.file_name().to_str().is_none_or(|name| name.parse::<u32>().is_err()) {
            continue;
        }
        if fs::read_link(process.join("ns/pid")).ok().as_ref() != Some(&namespace) {
            continue;
        }
        for open in fs::read_dir(process.join("fd")).into_iter().flatten().flatten() {
            count_nameless(&open.path(), &mut seen, &mut sum);
        }
        // map_files can be read with root alone; without it a mapping whose descriptor is closed goes uncounted.
        let maps = fs::read_to_string(process.join("maps")).unwrap_or_default();
        for line in maps.lines().filter(|line| line.ends_with(" (deleted)")) {
            if let Some(range) = line.split(' ').next() {
                count_nameless(&process.join("map_files").join(range), &mut seen, &mut sum);
            }
        }
    }
    sum
}

fn count_nameless(path: &Path, seen: &mut HashSet<(u64, u64)>, sum: &mut Use) {
    let Ok(metadata) = fs::metadata(path) else { return };
    if !metadata.is_file() || metadata.nlink() > 0 {
        return;
    }
    match statfs(path).map(|found| found.filesystem_type()) {
        Ok(kind) if kind != TMPFS_MAGIC && kind != HUGETLBFS => {}
        _ => return,
    }
    if seen.insert((metadata.dev(), metadata.ino())) {
        *sum = sum.plus(Use { bytes: metadata.blocks().saturating_mul(512), inodes: 1 });
    }
}

/// What is free on the file system of an open file; `inodes` is `None` where the file system has no fixed number.
pub(crate) fn free(file: BorrowedFd<'_>) -> Result<(u64, Option<u64>), Errno> {
    let found = fstatfs(file)?;
    let inodes = (found.files() > 0).then(|| found.files_free());
    Ok((found.blocks_free().saturating_mul(found.block_size().max(0) as u64), inodes))
}

/// What a memory file system holds, and whether it is full.
pub(crate) fn held(tree: BorrowedFd<'_>) -> Result<(Use, bool, bool), Errno> {
    let found = fstatfs(tree)?;
    let size = found.block_size().max(0) as u64;
    let bytes = found.blocks().saturating_sub(found.blocks_free()).saturating_mul(size);
    let inodes = found.files().saturating_sub(found.files_free());
    let limited = found.blocks() > 0;
    Ok((Use { bytes, inodes }, limited && found.blocks_free() == 0, found.files() > 0 && found.files_free() == 0))
}
