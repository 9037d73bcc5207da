//! The directories of a tree without their files. Without root the host's system belongs to nobody inside, and nobody's
//! directories take no file, overlay or not. An upper layer that has directories of the same names, owned by the namespace's
//! root, makes each of them one that it may write to; the files still come from below.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, fstat, mkdirat};

/// How deep it goes; deeper directories stay as they are.
const DEPTH: usize = 64;

/// Copies the directories below `from` to below `name` of `to`. What can't be read is left out.
pub(crate) fn copy(from: &OwnedFd, to: &OwnedFd, name: &str) -> Result<(), Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let from = nix::fcntl::openat(from, c".", flags, Mode::empty())?;
    let to = nix::fcntl::openat(to, name, flags, Mode::empty())?;
    let device = fstat(&from)?.st_dev;
    below(from, &to, device, DEPTH)
}

fn below(from: OwnedFd, to: &OwnedFd, device: u64, depth: usize) -> Result<(), Errno> {
    if depth == 0 {
        return Ok(());
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let own = nix::unistd::dup(from.as_fd())?;
    let mut entries = Dir::from_fd(from)?;
    let names: Vec<CString> = entries
        .iter()
        .flatten()
        .filter(|entry| entry.file_type().is_none_or(|kind| kind == Type::Directory))
        .map(|entry| entry.file_name().to_owned())
        .filter(|name| !matches!(name.as_bytes(), b"." | b".."))
        .collect();
    drop(entries);
    for name in names {
        let Ok(next) = nix::fcntl::openat(&own, name.as_c_str(), flags, Mode::empty()) else { continue };
        let found = fstat(&next)?;
        if found.st_dev != device {
            continue;
        }
        match mkdirat(to, name.as_c_str(), Mode::from_bits_truncate(found.st_mode & 0o755 | 0o700)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno),
        }
        let made = nix::fcntl::openat(to, name.as_c_str(), flags, Mode::empty())?;
        below(next, &made, device, depth - 1)?;
    }
    Ok(())
}
