//! The end of a pipe that acts write to, read without ever blocking on them.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// What stands for output that somebody still holds open after the end.
pub const HELD: &str = "(held open)";

/// The end of a pipe that is read without blocking.
pub(crate) struct Pipe {
    file: File,
    bytes: Vec<u8>,
    open: bool,
}

impl Pipe {
    pub(crate) fn new(read: OwnedFd) -> io::Result<Pipe> {
        fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Pipe { file: File::from(read), bytes: Vec::new(), open: true })
    }

    /// Waits until something can be read here or there, and reads it.
    pub(crate) fn wait(&mut self, other: Option<std::os::fd::BorrowedFd<'_>>, longest: Duration) -> io::Result<()> {
        let mut waits = Vec::new();
        if self.open {
            waits.push(PollFd::new(self.file.as_fd(), PollFlags::POLLIN));
        }
        waits.extend(other.map(|other| PollFd::new(other, PollFlags::POLLIN)));
        match poll(&mut waits, PollTimeout::try_from(longest).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        self.drain()
    }

    /// Reads what is there.
    pub(crate) fn drain(&mut self) -> io::Result<()> {
        let mut buffer = [0; 16384];
        while self.open {
            match self.file.read(&mut buffer) {
                Ok(0) => self.open = false,
                Ok(count) => self.bytes.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(crate) fn take(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.bytes)).into_owned()
    }

    /// What still comes until everybody has closed it; [`HELD`] at the end when somebody does not.
    pub(crate) fn rest(mut self, longest: Duration) -> io::Result<String> {
        let deadline = Instant::now() + longest;
        while self.open && Instant::now() < deadline {
            self.wait(None, deadline.saturating_duration_since(Instant::now()))?;
        }
        let mut text = self.take();
        if self.open {
            text.push_str(HELD);
        }
        Ok(text)
    }
}
