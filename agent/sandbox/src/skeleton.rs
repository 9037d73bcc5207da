//! The directories of a tree without their files. Without root the host's system belongs to nobody inside, and nobody's
//! directories take no file, overlay or not. An upper layer that has directories of the same names, owned by the namespace's
//! root, makes each of them one that it may write to; the files still come from below.
//!
//! Two kinds of file come along, since they are opened for writing or given a second name where they lie, and the kernel
//! refuses both for nobody's: those directly at the top, where a package manager keeps its state, and empty ones that nobody but
//! their owner may read, which are locks.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, fchmod, fstat, mkdirat};

/// How deep it goes; deeper directories stay as they are.
const DEPTH: usize = 64;
/// A file at the top that is longer stays as it is.
const LONGEST: u64 = 16 << 20;
/// The files at the top that are copied.
const MOST: usize = 64;

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
    let names: Vec<(CString, Option<Type>)> = entries
        .iter()
        .flatten()
        .map(|entry| (entry.file_name().to_owned(), entry.file_type()))
        .filter(|(name, _)| !matches!(name.as_bytes(), b"." | b".."))
        .collect();
    drop(entries);
    let mut files = 0;
    for (name, kind) in names {
        if kind == Some(Type::File) {
            if file(&own, to, &name, depth == DEPTH && files < MOST)? {
                files += 1;
            }
            continue;
        }
        if kind.is_some_and(|kind| kind != Type::Directory) {
            continue;
        }
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

/// Copies one file if it is of the two kinds; whether it did.
fn file(from: &OwnedFd, to: &OwnedFd, name: &CString, top: bool) -> Result<bool, Errno> {
    let path = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let failed = |error: std::io::Error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    let Ok(found) = nix::fcntl::openat(from, name.as_c_str(), path, Mode::empty()) else { return Ok(false) };
    let facts = File::from(found).metadata().map_err(failed)?;
    let lock = facts.len() == 0 && facts.mode() & 0o004 == 0;
    if !facts.is_file() || !lock && (!top || facts.len() > LONGEST) {
        return Ok(false);
    }
    let read = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let content = match nix::fcntl::openat(from, name.as_c_str(), read, Mode::empty()) {
        Ok(content) => Some(File::from(content)),
        Err(_) if lock => None,
        Err(_) => return Ok(false),
    };
    let write = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let made = nix::fcntl::openat(to, name.as_c_str(), write, Mode::from_bits_truncate(0o600))?;
    let mut made = File::from(made);
    if let Some(mut content) = content {
        std::io::copy(&mut content, &mut made).map_err(failed)?;
    }
    fchmod(&made, Mode::from_bits_truncate(facts.mode() & 0o777))?;
    Ok(true)
}
