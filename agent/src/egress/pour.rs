//! Bytes from one socket to another: few through a buffer, many through a pipe that they never leave the kernel for (splice(2)). A
//! connection that is silent holds neither.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::sys::socket::{Shutdown, shutdown};
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::egress::border::{Meter, Spent};

/// The most that is copied at once.
const BUFFER: usize = 16 * 1024;
/// How many bytes a direction carries before it is worth a pipe.
const WORTH: u64 = 128 * 1024;
/// How much a pipe should hold: a larger one was not seen to carry more, and takes more of the pages that a user's pipes may have. A host
/// that has many pipes gives less, and it works all the same.
const PIPE: usize = 1 << 18;

/// Carries bytes one way until the end, which is passed on, and counts them. A broken connection is an end like another.
///
/// # Errors
/// [`Spent`] when the step has carried all that it may.
pub(super) async fn pour(from: &TcpStream, to: &TcpStream, count: &AtomicU64, meter: &Meter) -> Result<(), Spent> {
    let poured = match copy(from, to, count, meter).await {
        Ok(Worth::Pipe) => match pipe() {
            Ok(ends) => through(from, to, &ends, count, meter).await,
            // No descriptors left: slowly is better than not at all.
            Err(_) => slowly(from, to, count, meter).await,
        },
        Ok(Worth::Nothing) => Ok(()),
        Err(end) => Err(end),
    };
    match poured {
        Err(End::Spent(spent)) => Err(spent),
        Ok(()) | Err(End::Broken) => {
            // Whoever is gone already needs no word of it.
            let _closed = shutdown(to.as_raw_fd(), Shutdown::Write).is_ok();
            Ok(())
        }
    }
}

/// What is worth while for the rest.
enum Worth {
    /// There is none.
    Nothing,
    Pipe,
}

enum End {
    Broken,
    Spent(Spent),
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> End {
        End::Broken
    }
}

impl From<Spent> for End {
    fn from(spent: Spent) -> End {
        End::Spent(spent)
    }
}

/// Copies until the end or until a pipe is worth it.
async fn copy(from: &TcpStream, to: &TcpStream, count: &AtomicU64, meter: &Meter) -> Result<Worth, End> {
    let mut carried = 0;
    while carried < WORTH {
        match step(from, to, count, meter).await? {
            0 => return Ok(Worth::Nothing),
            read => carried += read,
        }
    }
    Ok(Worth::Pipe)
}

async fn slowly(from: &TcpStream, to: &TcpStream, count: &AtomicU64, meter: &Meter) -> Result<(), End> {
    while step(from, to, count, meter).await? > 0 {}
    Ok(())
}

async fn step(from: &TcpStream, to: &TcpStream, count: &AtomicU64, meter: &Meter) -> Result<u64, End> {
    let (read, left) = loop {
        from.readable().await?;
        match pass(from, to) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            passed => break passed?,
        }
    };
    if !left.is_empty() {
        write(to, &left).await?;
    }
    count.fetch_add(read as u64, Ordering::Relaxed);
    meter.count(read as u64)?;
    Ok(read as u64)
}

/// Reads what is there and writes as much of it as goes; how much was read, and what did not go. The buffer is nobody's while a
/// connection waits, since very many may.
fn pass(from: &TcpStream, to: &TcpStream) -> io::Result<(usize, Vec<u8>)> {
    let mut buffer = [0; BUFFER];
    let read = from.try_read(&mut buffer)?;
    let bytes = &buffer[..read];
    match if read == 0 { Ok(0) } else { to.try_write(bytes) } {
        Ok(written) => Ok((read, bytes[written..].to_vec())),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok((read, bytes.to_vec())),
        Err(error) => Err(error),
    }
}

/// Writes all of it, through a shared reference.
pub(super) async fn write(to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        to.writable().await?;
        match to.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads something to the end of `bytes`, through a shared reference; how much, 0 at the end.
pub(super) async fn read(from: &TcpStream, bytes: &mut Vec<u8>) -> io::Result<usize> {
    let take = |bytes: &mut Vec<u8>| {
        let mut buffer = [0; BUFFER];
        let read = from.try_read(&mut buffer)?;
        bytes.extend_from_slice(&buffer[..read]);
        Ok(read)
    };
    loop {
        from.readable().await?;
        match take(bytes) {
            Err(error) if io::Error::kind(&error) == io::ErrorKind::WouldBlock => {}
            read => return read,
        }
    }
}

struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
}

fn pipe() -> Result<Pipe, Errno> {
    let (out, into) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    // More than the host's limit for one user is refused; the default is enough to work.
    let _wider = fcntl(&into, FcntlArg::F_SETPIPE_SZ(PIPE as i32)).is_ok();
    Ok(Pipe { out, into })
}

async fn through(from: &TcpStream, to: &TcpStream, pipe: &Pipe, count: &AtomicU64, meter: &Meter) -> Result<(), End> {
    let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    let broken = |errno: Errno| io::Error::from_raw_os_error(errno as i32);
    loop {
        let taken =
            from.async_io(Interest::READABLE, || splice(from.as_fd(), None, pipe.into.as_fd(), None, PIPE, flags).map_err(broken)).await?;
        if taken == 0 {
            return Ok(());
        }
        let mut left = taken;
        while left > 0 {
            left -=
                to.async_io(Interest::WRITABLE, || splice(pipe.out.as_fd(), None, to.as_fd(), None, left, flags).map_err(broken)).await?;
        }
        count.fetch_add(taken as u64, Ordering::Relaxed);
        meter.count(taken as u64)?;
    }
}
