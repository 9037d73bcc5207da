//! Directories that belong to a job's ids: made and removed on the privileged side, since the caller's own ids can
//! neither give files away nor remove what a step left. Runs in a process of its own: removing may take long.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{FchmodatFlags, Mode as FileMode, fchmodat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, unlinkat};

use crate::error::{Failure, Stage};
use crate::host::Mode;
use crate::spec::{AreaDirectory, IdRange, Identity, Ids};
use crate::userns::IdMap;

/// Deeper than any path can name; a tree that is deeper is removed all the same, level by level.
const DEPTH: usize = 512;

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
        let mut components = Path::new(&directory.name).components();
        let single = matches!((components.next(), components.next()), (Some(std::path::Component::Normal(_)), None));
        if !single {
            return Err(Failure::rule(Stage::Area, format!("{subject}: not one name")));
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
    let c_name = CString::new(std::os::unix::ffi::OsStrExt::as_bytes(name)).map_err(|_| failed(Errno::EINVAL))?;
    loop {
        match remove_at(&parent, &c_name, DEPTH) {
            // A level was cut off at the depth and hung up under the top: once more.
            Ok(Whole::No) => {}
            Ok(Whole::Yes) => return Ok(()),
            Err(errno) => return Err(failed(errno)),
        }
    }
}

#[derive(PartialEq, Eq)]
enum Whole {
    Yes,
    No,
}

/// Removes an entry with everything below, to a depth; deeper trees are moved up to `parent`'s level bit by bit.
fn remove_at(parent: &OwnedFd, name: &CStr, depth: usize) -> Result<Whole, Errno> {
    match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(Whole::Yes),
        Err(Errno::EISDIR | Errno::EPERM | Errno::EACCES) => {}
        Err(errno) => return Err(errno),
    }
    let directory = match open(parent, name) {
        Ok(directory) => directory,
        Err(Errno::ENOENT) => return Ok(Whole::Yes),
        Err(errno) => return Err(errno),
    };
    let mut entries = Dir::from_fd(nix::unistd::dup(&directory)?)?;
    let names: Vec<(CString, Option<Type>)> = entries
        .iter()
        .map(|entry| entry.map(|entry| (entry.file_name().to_owned(), entry.file_type())))
        .collect::<Result<_, _>>()?;
    for (entry, _) in names {
        if entry.as_c_str() == c"." || entry.as_c_str() == c".." {
            continue;
        }
        if depth == 0 {
            let lifted = CString::new(format!("{}.deep", name.to_string_lossy())).map_err(|_| Errno::EINVAL)?;
            match unlinkat(&directory, entry.as_c_str(), UnlinkatFlags::NoRemoveDir) {
                Ok(()) => continue,
                Err(_) => nix::fcntl::renameat(&directory, entry.as_c_str(), parent, lifted.as_c_str())?,
            }
            return Ok(Whole::No);
        }
        if remove_at(&directory, &entry, depth - 1)? == Whole::No {
            return Ok(Whole::No);
        }
    }
    unlinkat(parent, name, UnlinkatFlags::RemoveDir)?;
    Ok(Whole::Yes)
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
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let opened = openat2(AT_FDCWD, parent, how)
        .map_err(|errno| Failure::new(Stage::Area, parent.display().to_string(), errno))?;
    Ok((opened, name))
}
