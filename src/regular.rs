//! Files of a checkout, which may be anything: only regular ones are read. A pipe that nobody writes to would keep its reader
//! waiting for ever, and a device would never end.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::fcntl::OFlag;

/// Opens a file for reading. Never waits for a writer.
///
/// # Errors
/// It is not there, may not be read, or is no regular file.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    // Asked of what was opened and not of the name, which somebody may have given to something else.
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Read as _;

    #[test]
    fn what_is_no_file_is_refused_at_once() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        std::fs::write(path("file"), "text").unwrap();
        nix::unistd::mkfifo(&path("pipe"), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        std::os::unix::fs::symlink("/dev/zero", path("endless")).unwrap();
        std::os::unix::fs::symlink("file", path("link")).unwrap();
        for name in ["pipe", "endless", "."] {
            assert_eq!(open(&path(name)).unwrap_err().to_string(), "it is no regular file", "{name}");
        }
        assert_eq!(open(&path("absent")).unwrap_err().kind(), io::ErrorKind::NotFound);
        for name in ["file", "link"] {
            let mut text = String::new();
            open(&path(name)).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "text");
        }
    }
}
