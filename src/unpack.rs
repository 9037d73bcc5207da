//! An archive that steps wrote, taken apart on this machine: regular files only, below one directory, and no link is followed.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

/// An archive cannot be taken apart. What came out of it before stays.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    /// A directory or file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no archive, or one that leads elsewhere; the reason.
    #[error("{0}")]
    Unusable(String),
}

/// Takes the regular files of a tar archive out into `base`, which is there. What is executable stays so; other rights, owners,
/// links and devices are left behind. A file that is there already is overwritten.
///
/// # Errors
/// [`UnpackError`]: also for a path that climbs, and for one that would go through a link. Blocks on the disk.
pub(crate) fn unpack(archive: impl Read, base: &Path) -> Result<(), UnpackError> {
    let written = |path: &Path| {
        let path = path.to_owned();
        move |source| UnpackError::Write { path, source }
    };
    let unusable = |error: io::Error| UnpackError::Unusable(error.to_string());
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries().map_err(unusable)? {
        let mut entry = entry.map_err(unusable)?;
        let inside = entry.path().map_err(unusable)?.into_owned();
        let mut parts: Vec<&std::ffi::OsStr> = Vec::new();
        for component in inside.components() {
            match component {
                Component::Normal(part) => parts.push(part),
                Component::CurDir => {}
                _ => return Err(UnpackError::Unusable(format!("{} leads out of it", inside.display()))),
            }
        }
        let kind = entry.header().entry_type();
        let Some((last, parents)) = parts.split_last().filter(|_| kind.is_file()) else {
            // Directories are made for the files in them; links and devices have no place here.
            continue;
        };
        let mut directory = base.to_owned();
        for part in parents {
            directory.push(part);
            match DirBuilder::new().mode(0o755).create(&directory) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    // A link could lead anywhere; what was here before may hold one.
                    if !directory.symlink_metadata().map_err(written(&directory))?.is_dir() {
                        return Err(written(&directory)(io::ErrorKind::NotADirectory.into()));
                    }
                }
                Err(error) => return Err(written(&directory)(error)),
            }
        }
        let path = directory.join(last);
        let executable = entry.header().mode().is_ok_and(|mode| mode & 0o111 != 0);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).custom_flags(nix::libc::O_NOFOLLOW).mode(if executable { 0o755 } else { 0o644 });
        let mut file: File = options.open(&path).map_err(written(&path))?;
        io::copy(&mut entry, &mut file).map_err(written(&path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn archive(entries: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o4777);
            header.set_size(content.len() as u64);
            if kind.is_symlink() || kind.is_hard_link() {
                header.set_link_name(std::str::from_utf8(content).unwrap()).unwrap();
                header.set_size(0);
            }
            // By hand: the library itself refuses to write a path that climbs.
            let bytes = path.as_bytes();
            header.as_gnu_mut().unwrap().name[..bytes.len()].copy_from_slice(bytes);
            header.set_cksum();
            builder.append(&header, if kind.is_file() { *content } else { &[] }).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn only_files_come_out_and_they_stay_below() {
        use tar::EntryType as Kind;
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("a");
        std::fs::create_dir(&base).unwrap();
        let good = archive(&[
            ("d/", Kind::Directory, b""),
            ("./d/x", Kind::Regular, b"1"),
            ("l", Kind::Symlink, b"/etc/passwd"),
            ("h", Kind::Link, b"/etc/passwd"),
        ]);
        unpack(&good[..], &base).unwrap();
        assert_eq!(std::fs::read(base.join("d/x")).unwrap(), b"1");
        assert!(base.join("l").symlink_metadata().is_err() && base.join("h").symlink_metadata().is_err());
        for path in ["../out", "d/../../out", "/out"] {
            let bad = archive(&[(path, Kind::Regular, b"x")]);
            assert!(unpack(&bad[..], &base).is_err(), "{path}");
        }
        assert!(!dir.path().join("out").exists());
        // What lies in the user's directory already may be a link of somebody's.
        std::os::unix::fs::symlink(dir.path(), base.join("link")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("victim"), base.join("file")).unwrap();
        assert!(unpack(&archive(&[("link/out", Kind::Regular, b"x")])[..], &base).is_err());
        assert!(unpack(&archive(&[("file", Kind::Regular, b"x")])[..], &base).is_err());
        assert!(!dir.path().join("out").exists() && !dir.path().join("victim").exists());
    }
}
