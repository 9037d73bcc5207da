//! What the command prints, passed on and counted, for who asked for a limit on it. Without one the streams are the
//! caller's own, and nothing stands in between.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// How much is passed on at once.
const PIECE: usize = 64 << 10;

/// Two pipes, and how much may still come through.
#[derive(Debug)]
pub(super) struct Meter {
    limit: u64,
    left: u64,
    /// Standard output and error; `None` once it has ended.
    pipes: [Option<std::fs::File>; 2],
}

/// What passing on came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    /// All within the limit.
    Within,
    /// More came than may.
    Beyond,
    /// Whoever reads our own output is gone.
    Unread,
}

impl Meter {
    /// The meter, and the ends for the command.
    pub(super) fn new(limit: u64) -> io::Result<(Meter, [OwnedFd; 2])> {
        let pipe = || -> io::Result<(std::fs::File, OwnedFd)> {
            let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
            fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
            Ok((read.into(), write))
        };
        let ((out, out_write), (err, err_write)) = (pipe()?, pipe()?);
        Ok((Meter { limit, left: limit, pipes: [Some(out), Some(err)] }, [out_write, err_write]))
    }

    /// The limit in bytes.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// What becomes readable.
    pub(super) fn watched(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.pipes.iter().flatten().map(AsFd::as_fd)
    }

    /// Passes on what is there. Blocks while our own output does.
    pub(super) fn pass(&mut self) -> Flow {
        let mut flow = Flow::Within;
        for (number, slot) in self.pipes.iter_mut().enumerate() {
            let mut piece = [0; PIECE];
            while let Some(pipe) = slot {
                let count = match pipe.read(&mut piece) {
                    Ok(0) => {
                        *slot = None;
                        break;
                    }
                    Ok(count) => count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(_) => {
                        *slot = None;
                        break;
                    }
                };
                let within = usize::try_from(self.left).unwrap_or(usize::MAX).min(count);
                self.left -= within as u64;
                let written = match number {
                    0 => io::stdout().write_all(&piece[..within]).and_then(|()| io::stdout().flush()),
                    _ => io::stderr().write_all(&piece[..within]),
                };
                if within < count {
                    flow = Flow::Beyond;
                } else if written.is_err() && flow == Flow::Within {
                    flow = Flow::Unread;
                }
                if flow != Flow::Within {
                    break;
                }
            }
        }
        flow
    }
}
