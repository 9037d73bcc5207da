//! Who watches the connections of a sandbox that has made none yet: nobody but the launcher's own loop. The kernel holds the first
//! packet of a connection until somebody has seen who makes it, so whoever looks (`onlooker.rs`) need not be there before it comes:
//! most steps never connect to anything, and a process for each of them would be for nothing.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;

use crate::error::Failure;
use crate::handshake;
use crate::netns;
use crate::onlooker;

/// Held packets, and whoever may ask of them, while there are neither packets nor questions.
#[derive(Debug)]
pub(crate) struct Vigil {
    asked: OwnedFd,
    held: OwnedFd,
}

/// What has come of a vigil.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Nothing yet.
    Quiet,
    /// There is something to look at.
    Begun,
    /// Nobody will ask any more. Without it packets pass.
    Over,
}

impl Vigil {
    /// Over the socket of held packets; also the socket for whoever asks.
    pub(crate) fn new(held: OwnedFd) -> Result<(Self, OwnedFd), Errno> {
        let (ours, theirs) = handshake::pair()?;
        Ok((Self { asked: theirs, held }, ours))
    }

    /// What to wait for.
    pub(crate) fn watched(&self) -> [BorrowedFd<'_>; 2] {
        [self.asked.as_fd(), self.held.as_fd()]
    }

    /// How it stands.
    pub(crate) fn turn(&self) -> Turn {
        let mut waits = self.watched().map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        if !matches!(poll(&mut waits, PollTimeout::ZERO), Ok(1..)) {
            return Turn::Quiet;
        }
        match waits.map(|wait| wait.revents().unwrap_or(PollFlags::empty())) {
            [asked, _] if asked.intersects(PollFlags::POLLHUP | PollFlags::POLLERR) => Turn::Over,
            _ => Turn::Begun,
        }
    }

    /// Has a process of its own look from now on, in the sandbox's network namespace.
    pub(crate) fn look(self, network: &OwnedFd, init: Pid) -> Result<(Pid, OwnedFd), Failure> {
        netns::within(network, || onlooker::fork(self.asked.as_fd(), init, Some(self.held)))
    }
}
