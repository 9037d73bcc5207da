//! Directories that belong to a job's ids: made and removed on the privileged side, since the caller's own ids can
//! neither give files away nor remove what a step left. Removing more than a little runs in a process of its own: it may take long.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, RenameFlags, ResolveFlag, openat2};
use nix::sys::stat::{FchmodatFlags, Mode as FileMode, fchmodat, fstatat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, unlinkat};

use crate::error::{Failure, Stage};
use crate::host::Mode;
use crate::spec::{AreaDirectory, IdRange, Identity, Ids};
use crate::userns::IdMap;

/// How deep one round goes: a descriptor is open per level.
const DEPTH: usize = 128;
/// What a small tree has at most: entries, levels, and blocks of 512 bytes of each file.
const SMALL: usize = 32;
/// As above.
const SMALL_DEPTH: usize = 8;
/// As above.
const SMALL_BLOCKS: i64 = 128;

/// Makes an area.
pub(crate) fn create(
    path: &Path,
    directories: &[AreaDirectory],
    mode: Mode,
    default: IdRange,
    ids: Option<IdRange>,
) -> Result<(), Failure> {
    let failed = |subject: String| move |errno| Failure::new(Stage::Area, subject, errno);
    let (parent, name) = parent(path)?;
    mkdirat(&parent, name, FileMode::from_bits_truncate(0o711)).map_err(failed(path.display().to_string()))?;
    let result = fill(&parent, name, path, directories, mode, default, ids);
    if result.is_err() {
        // The first error is the one to tell; an area that is not whole must not stay.
        let _ = remove(path);
    }
    result
}

fn fill(
    parent: &OwnedFd,
    name: &OsStr,
    path: &Path,
    directories: &[AreaDirectory],
    mode: Mode,
    default: IdRange,
    ids: Option<IdRange>,
) -> Result<(), Failure> {
    let failed = |subject: String| move |errno| Failure::new(Stage::Area, subject, errno);
    let area = open(parent, name).map_err(failed(path.display().to_string()))?;
    for directory in directories {
        let subject = path.join(&directory.name).display().to_string();
        // In directories that were made just now, in which nobody can have put a link.
        let mut components = Path::new(&directory.name).components();
        if directory.name.is_empty() || !components.all(|part| matches!(part, std::path::Component::Normal(_))) {
            return Err(Failure::rule(Stage::Area, format!("{subject}: names more than directories below the area")));
        }
        let identity = match (directory.uid, directory.gid) {
            (0, 0) => Identity::NamespaceRoot,
            (uid, gid) => Identity::User { uid, gid },
        };
        let map = IdMap::new(mode, default, ids.map_or(Ids::Default, Ids::Range), identity)?;
        let (uid, gid): (Uid, Gid) = map.outside(directory.uid, directory.gid);
        let name = directory.name.as_str();
        mkdirat(&area, name, FileMode::from_bits_truncate(0o700)).map_err(failed(subject.clone()))?;
        fchownat(&area, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW).map_err(failed(subject.clone()))?;
        let mode = FileMode::from_bits_truncate(directory.mode & 0o7777);
        fchmodat(&area, name, mode, FchmodatFlags::FollowSymlink).map_err(failed(subject))?;
    }
    Ok(())
}

/// Removes a tree.
pub(crate) fn remove(path: &Path) -> Result<(), Failure> {
    let failed = |errno| Failure::new(Stage::Area, path.display().to_string(), errno);
    let (parent, name) = match parent(path) {
        Err(failure) if failure.errno == libc::ENOENT => return Ok(()),
        result => result?,
    };
    match unlinkat(&parent, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(()),
        Err(Errno::EISDIR | Errno::EPERM | Errno::EACCES) => {}
        Err(errno) => return Err(failed(errno)),
    }
    let top = open(&parent, name).map_err(failed)?;
    let mut lifted = 0;
    // What lies too deep is hung up under the top and found there in the next round.
    while !empty(&top, &top, DEPTH, &mut lifted).map_err(failed)? {}
    unlinkat(&parent, name, UnlinkatFlags::RemoveDir).map_err(failed)
}

/// Removes a tree that is small, as those of most jobs are; `false` when it turns out to be larger, and then part of it is left.
/// What this does takes no longer than forking a process for it.
///
/// # Errors
/// As [`remove`].
pub(crate) fn remove_small(path: &Path) -> Result<bool, Failure> {
    let failed = |errno| Failure::new(Stage::Area, path.display().to_string(), errno);
    let (parent, name) = match parent(path) {
        Err(failure) if failure.errno == libc::ENOENT => return Ok(true),
        result => result?,
    };
    let top = match open(&parent, name) {
        Err(Errno::ENOENT) => return Ok(true),
        result => result.map_err(failed)?,
    };
    let mut left = SMALL;
    if !empty_small(&top, &mut left, SMALL_DEPTH).map_err(failed)? {
        return Ok(false);
    }
    unlinkat(&parent, name, UnlinkatFlags::RemoveDir).map_err(failed)?;
    Ok(true)
}

/// Empties a directory of at most so many entries; `false` when there are more, or one that may take long.
fn empty_small(directory: &OwnedFd, left: &mut usize, depth: usize) -> Result<bool, Errno> {
    let mut entries = Dir::openat(directory, c".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, FileMode::empty())?;
    let mut names = Vec::new();
    for entry in entries.iter() {
        let entry = entry?;
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        let Some(fewer) = left.checked_sub(1) else { return Ok(false) };
        *left = fewer;
        names.push(entry.file_name().to_owned());
    }
    for name in names {
        let stat = fstatat(directory, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        if stat.st_mode & libc::S_IFMT != libc::S_IFDIR {
            // To free much takes long.
            if stat.st_blocks > SMALL_BLOCKS {
                return Ok(false);
            }
            unlinkat(directory, name.as_c_str(), UnlinkatFlags::NoRemoveDir)?;
            continue;
        }
        if depth == 0 || !empty_small(&open(directory, name.as_c_str())?, left, depth - 1)? {
            return Ok(false);
        }
        unlinkat(directory, name.as_c_str(), UnlinkatFlags::RemoveDir)?;
    }
    Ok(true)
}

/// Empties a directory; `false` when something was lifted to `top`, which is then not empty.
fn empty(top: &OwnedFd, directory: &OwnedFd, depth: usize, lifted: &mut u64) -> Result<bool, Errno> {
    let mut whole = true;
    // A descriptor of its own, since this one's position would be shared.
    let mut entries = Dir::openat(directory, c".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, FileMode::empty())?;
    let names: Vec<CString> = entries.iter().map(|entry| entry.map(|entry| entry.file_name().to_owned())).collect::<Result<_, _>>()?;
    drop(entries);
    for name in names {
        if matches!(name.as_bytes(), b"." | b"..") {
            continue;
        }
        match unlinkat(directory, name.as_c_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => continue,
            Err(Errno::EISDIR | Errno::EPERM | Errno::EACCES) => {}
            Err(errno) => return Err(errno),
        }
        if depth == 0 {
            lift(top, directory, &name, lifted)?;
            whole = false;
            continue;
        }
        let below = open(directory, name.as_c_str())?;
        whole &= empty(top, &below, depth - 1, lifted)?;
        unlinkat(directory, name.as_c_str(), UnlinkatFlags::RemoveDir)?;
    }
    Ok(whole)
}

/// Moves an entry up under a name that nothing has yet.
fn lift(top: &OwnedFd, directory: &OwnedFd, name: &CStr, lifted: &mut u64) -> Result<(), Errno> {
    loop {
        *lifted += 1;
        let fresh = format!("lifted-{lifted}");
        match nix::fcntl::renameat2(directory, name, top, fresh.as_str(), RenameFlags::RENAME_NOREPLACE) {
            Err(Errno::EEXIST) => {}
            result => return result,
        }
    }
}

/// Opens a directory: no link is followed, no other file system entered.
fn open<P: ?Sized + nix::NixPath>(parent: &OwnedFd, name: &P) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV;
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    openat2(parent, name, OpenHow::new().flags(flags).resolve(resolve))
}

fn parent(path: &Path) -> Result<(OwnedFd, &OsStr), Failure> {
    let rule = || Failure::rule(Stage::Area, format!("{}: not an absolute path with a name", path.display()));
    let (true, Some(parent), Some(name)) = (path.is_absolute(), path.parent(), path.file_name()) else {
        return Err(rule());
    };
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let opened = openat2(AT_FDCWD, parent, how).map_err(|errno| Failure::new(Stage::Area, parent.display().to_string(), errno))?;
    Ok((opened, name))
}
