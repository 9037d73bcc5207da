//! What the processes say to each other: caller and launcher, launcher and init. Messages are small and go over
//! SOCK_SEQPACKET, one message a packet, with descriptors beside them; what may be large goes in a memory file.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, socketpair};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{AreaError, Failure, LaunchError, Stage};
use crate::host::{Mode, Standing};
use crate::outcome::{Outcome, Status};
use crate::sockets::Opening;
use crate::spec::{AreaDirectory, IdRange};

/// Most bytes of one message.
const MESSAGE_LIMIT: usize = 64 * 1024;
/// Bytes of a message that is taken without ado.
const SHORT: usize = 2048;
/// Most descriptors with one message (SCM_MAX_FD of unix(7)).
pub(crate) const DESCRIPTOR_LIMIT: usize = 253;
/// Most bytes of a spec or plan.
const MEMORY_FILE_LIMIT: u64 = 32 * 1024 * 1024;

/// The launcher's name as its process shows it, and how `entry` knows it.
pub(crate) const NAME: &str = "caisson-launcher";
/// Where the launcher finds its socket.
pub(crate) const SOCKET: i32 = 3;

/// The first message to the launcher process.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub mode: Mode,
    pub cgroup: String,
    pub ids: IdRange,
    pub warm: usize,
    /// Whether it has a process that clears up when it is killed, or leaves that to its caller.
    pub warden: bool,
}

/// Caller to launcher, over the one shared socket. The first descriptor is always the socket to answer on.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Descriptors: answer socket, spec, program, stdin, stdout, stderr, then the files, if there are any.
    Launch,
    /// Build all but the program, which comes by [`Control::Go`]. Descriptors: answer socket, spec.
    Prepare {
        /// Whether files or secrets may come with it.
        open: bool,
    },
    /// Descriptors: answer socket.
    CreateArea { path: PathBuf, directories: Vec<AreaDirectory>, ids: Option<IdRange> },
    /// Descriptors: answer socket.
    RemoveArea { path: PathBuf },
    /// Fork a process that finds processes of this running sandbox. Descriptors: the socket on which it is asked.
    Look { init: i32 },
}

/// Launcher to caller, over the socket of that request.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// The step runs. Descriptors: its sockets, of these kinds.
    Started {
        /// Process id of its init, as the launcher sees it.
        init: i32,
        /// One for each descriptor.
        sockets: Vec<Opening>,
    },
    /// It was not launched; nothing of it is left.
    NotLaunched(LaunchError),
    /// What was prepared is built.
    Built,
    /// What was prepared came to nothing before it had its program: launch anew.
    Spoiled,
    /// All of it is dead.
    Done(Outcome),
    /// The directories are made or removed, or not.
    Area(Result<(), AreaError>),
}

/// Caller to launcher, over the socket of one sandbox. Its end of file means: kill.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Control {
    /// Run this in what was prepared. Descriptors: program, stdin, stdout, stderr, then the files, then the secrets.
    Go {
        /// Whether there are files.
        files: bool,
        /// Whether there are secrets.
        secrets: bool,
        /// How long it may take.
        wall_clock: Option<Duration>,
    },
    /// Send this signal to the step's process group.
    Signal(i32),
    /// Kill everything now.
    Kill,
}

/// Launcher to caller, once, when the launcher is ready or gives up.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Greeting {
    /// Ready.
    Ready(Standing),
    /// Starting failed.
    Failed(Failure),
}

/// Launcher to init.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Your ids are mapped: build this. Descriptors: plan, then program, stdin, stdout, stderr where it is to run at once, then its
    /// files, then the plan's mounts.
    Build {
        /// Whether the program comes with it.
        at_once: bool,
        /// Whether there are files.
        files: bool,
    },
    /// Run this in what you built. Descriptors: program, stdin, stdout, stderr, then the files, then the secrets.
    Go {
        /// Whether there are files.
        files: bool,
        /// Whether there are secrets.
        secrets: bool,
    },
    /// Send this signal to the step's process group.
    Signal(i32),
}

/// To the process that becomes the step, over a socket of its own.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Go {
    /// Descriptors: program, stdin, stdout, stderr.
    Program,
}

/// The step's process to init, before exec closes the socket.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Prelude {
    /// The filter is loaded; descriptor: its listener.
    Listening,
    /// A stage failed.
    Failed(Failure),
}

/// Init to launcher.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// Everything that needs no spec is done.
    Warm { missing: Vec<crate::protection::Missing> },
    /// All is built. Descriptors: the socket on which the step's process waits for its program, where it has none yet, then the
    /// memory file systems that init made.
    Built { waiting: bool },
    /// The step has been executed; descriptor: where the filter has one, the listener of refused calls.
    Running { refusals: bool },
    /// A stage failed; init exits.
    Failed(Failure),
    /// The step's own process ended.
    Ended { status: Status, wall: Duration },
}

/// Why a message was not received.
#[derive(Debug)]
pub(crate) enum ReceiveError {
    /// The peer is gone.
    Closed,
    /// The call failed; EAGAIN when nothing is there.
    Call(Errno),
    /// Not a message of ours.
    Malformed,
}

/// A connected pair of packet sockets, closed on exec.
pub(crate) fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
}

/// Sends one message with descriptors. Blocks while the peer's queue is full. Never raises SIGPIPE.
pub(crate) fn send<M: Serialize>(socket: BorrowedFd<'_>, message: &M, descriptors: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    send_with(socket, message, descriptors, MsgFlags::MSG_NOSIGNAL)
}

/// As [`send`], but EAGAIN instead of blocking: for peers that must not hold the launcher up.
pub(crate) fn send_now<M: Serialize>(socket: BorrowedFd<'_>, message: &M, descriptors: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    send_with(socket, message, descriptors, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT)
}

fn send_with<M: Serialize>(socket: BorrowedFd<'_>, message: &M, descriptors: &[BorrowedFd<'_>], flags: MsgFlags) -> Result<(), Errno> {
    let bytes = postcard::to_stdvec(message).map_err(|_| Errno::EINVAL)?;
    if bytes.len() > MESSAGE_LIMIT || descriptors.len() > DESCRIPTOR_LIMIT {
        return Err(Errno::EMSGSIZE);
    }
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    loop {
        match sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&bytes)], control, flags, None) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Receives one message, blocking.
pub(crate) fn receive<M: DeserializeOwned>(socket: BorrowedFd<'_>) -> Result<(M, Vec<OwnedFd>), ReceiveError> {
    receive_with(socket, MsgFlags::empty())
}

/// Receives one message if there is one, else `Call(EAGAIN)`.
pub(crate) fn receive_now<M: DeserializeOwned>(socket: BorrowedFd<'_>) -> Result<(M, Vec<OwnedFd>), ReceiveError> {
    receive_with(socket, MsgFlags::MSG_DONTWAIT)
}

fn receive_with<M: DeserializeOwned>(socket: BorrowedFd<'_>, flags: MsgFlags) -> Result<(M, Vec<OwnedFd>), ReceiveError> {
    let whole = loop {
        match recvmsg::<()>(socket.as_raw_fd(), &mut [], None, flags | MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC) {
            Ok(message) => break message.bytes,
            Err(Errno::EINTR | Errno::ECONNRESET) => {}
            Err(errno) => return Err(ReceiveError::Call(errno)),
        }
    };
    // Nearly all are short, and every page that is touched after a fork is copied.
    let (mut short, mut long) = ([0; SHORT], Vec::new());
    let bytes: &mut [u8] = if whole <= SHORT {
        &mut short
    } else {
        long.resize(MESSAGE_LIMIT, 0);
        &mut long
    };
    let mut control = nix::cmsg_space!([RawFd; DESCRIPTOR_LIMIT]);
    let mut descriptors = Vec::new();
    let (length, cut) = loop {
        let mut parts = [IoSliceMut::new(&mut *bytes)];
        let flags = flags | MsgFlags::MSG_CMSG_CLOEXEC;
        match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags) {
            Ok(message) => {
                for part in message.cmsgs().map_err(ReceiveError::Call)? {
                    if let ControlMessageOwned::ScmRights(raw) = part {
                        descriptors.extend(raw.into_iter().map(crate::sys::adopt));
                    }
                }
                break (message.bytes, message.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC));
            }
            // The peer closed before it had read all that we sent. That is told once, and before what it has sent itself: what
            // comes next is its last message, or the end of file.
            Err(Errno::EINTR | Errno::ECONNRESET) => {}
            Err(errno) => return Err(ReceiveError::Call(errno)),
        }
    };
    if length == 0 {
        return Err(ReceiveError::Closed);
    }
    if cut {
        return Err(ReceiveError::Malformed);
    }
    let message = postcard::from_bytes(&bytes[..length]).map_err(|_| ReceiveError::Malformed)?;
    Ok((message, descriptors))
}

/// Puts a value into a memory file (memfd_create(2), 3.17).
pub(crate) fn store<V: Serialize>(name: &str, value: &V) -> Result<OwnedFd, Failure> {
    let mut bytes =
        postcard::to_stdvec(value).map_err(|error| Failure::rule(Stage::Request, format!("{name} can't be written down: {error}")))?;
    if bytes.len() as u64 > MEMORY_FILE_LIMIT {
        return Err(Failure::rule(Stage::Spec, format!("{name} is larger than {MEMORY_FILE_LIMIT} bytes")));
    }
    let file = memfd_create(name, MFdFlags::MFD_CLOEXEC).map_err(|errno| Failure::new(Stage::Request, name, errno))?;
    let mut written = 0;
    while written < bytes.len() {
        match nix::unistd::write(&file, &bytes[written..]) {
            Ok(count) => written += count,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(Failure::new(Stage::Request, name, errno)),
        }
    }
    crate::sys::wipe(&mut bytes);
    Ok(file)
}

/// Takes a value out of a memory file: read once into private memory, so that the writer can't change it under the
/// reader, then emptied, since it may have held secrets.
pub(crate) fn load<V: DeserializeOwned>(file: impl AsFd) -> Result<V, Failure> {
    let failed = |errno| Failure::new(Stage::Spec, "memory file", errno);
    let size = nix::sys::stat::fstat(&file).map_err(failed)?.st_size;
    if size < 0 || size as u64 > MEMORY_FILE_LIMIT {
        return Err(Failure::rule(Stage::Spec, "memory file is too large"));
    }
    let mut bytes = vec![0; size as usize];
    let mut read = 0;
    while read < bytes.len() {
        match nix::sys::uio::pread(&file, &mut bytes[read..], read as i64) {
            Ok(0) => break,
            Ok(count) => read += count,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
    let value =
        postcard::from_bytes(&bytes[..read]).map_err(|error| Failure::rule(Stage::Spec, format!("memory file is malformed: {error}")));
    crate::sys::wipe(&mut bytes);
    let zeros = vec![0; read];
    // A file that the caller made unwritable keeps its content until the last descriptor closes; that is the caller's.
    let _ = nix::sys::uio::pwrite(&file, &zeros, 0);
    value
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_last_answer_arrives_though_its_sender_left_a_message_unread() {
        let (ours, theirs) = pair().unwrap();
        send(theirs.as_fd(), &Answer::Area(Ok(())), &[]).unwrap();
        send(ours.as_fd(), &Control::Kill, &[]).unwrap();
        drop(theirs);
        assert!(matches!(receive::<Answer>(ours.as_fd()), Ok((Answer::Area(Ok(())), _))));
        assert!(matches!(receive::<Answer>(ours.as_fd()), Err(ReceiveError::Closed)));
    }
}
