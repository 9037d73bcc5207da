//! System calls of any number with any arguments, made in a process of their own: what a suite needs that attacks a filter.
//! Nothing else in this crate uses it.
//!
//! Calls are data: a list, in which a later call may use what an earlier one answered. The process that makes them is
//! forked for the list and never returns, so whatever a call does to its memory, it does to nobody else.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use crate::sys::{self, Door, Forked};

/// One system call.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// By which door.
    pub entry: Entry,
    /// Its number there.
    pub number: i64,
    /// Up to six arguments; missing ones are 0.
    pub arguments: &'a [Argument],
}

/// By which of the kernel's doors a call goes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// The ordinary one. Numbers of the x32 interface go in here as well.
    Native,
    /// The 32-bit one of x86, `int 0x80`; on other architectures the answer is ENOSYS. Takes words, no addresses.
    Compat,
}

/// One argument.
#[derive(Clone, Copy, Debug)]
pub enum Argument {
    /// A number.
    Word(u64),
    /// The address of a copy of these bytes.
    Bytes(&'static [u8]),
    /// The address of this many bytes of zero, for the kernel to write to.
    Room(usize),
    /// What an earlier call of the list answered, counted from 0.
    Answer(usize),
    /// The address of a `struct sock_fprog` with this classic BPF program, eight bytes an instruction.
    Filter(&'static [u64]),
    /// The address of a `struct iovec` over this many bytes of room.
    Vector(usize),
    /// The address of a `struct iovec` with these two words, for memory of somebody else.
    Foreign {
        /// Where.
        address: u64,
        /// How many bytes.
        length: u64,
    },
}

/// What came of a list of calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answers {
    /// One per call that came back, in order.
    pub answers: Vec<Result<i64, Errno>>,
    /// The signal that ended the process, if one did: 31 (SIGSYS) is the filter's.
    pub signal: Option<i32>,
}

/// Longest that a list may take; what still blocks then is killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes the calls in a forked process and waits for its end, at most ten seconds. Only while this process has one thread.
///
/// # Errors
/// EBUSY when there are threads; what pipe(2), fork(2) and waitpid(2) say.
pub fn attempt(calls: &[Call<'_>]) -> Result<Answers, Errno> {
    crate::start::single_threaded().map_err(|_| Errno::EBUSY)?;
    // All memory is laid out before the fork, so that the process does nothing but the calls.
    let room: Vec<Vec<Laid>> = calls.iter().map(|call| call.arguments.iter().map(Laid::of).collect()).collect();
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    let pid = match sys::fork()? {
        Forked::Child => {
            drop(read);
            let fill = |at: usize, answers: &[i64]| {
                let mut words = [0; 6];
                for (word, laid) in words.iter_mut().zip(&room[at]) {
                    *word = laid.word(answers);
                }
                let door = if calls[at].entry == Entry::Compat { Door::Compat } else { Door::Native };
                (door, calls[at].number, words)
            };
            sys::perform(calls.len(), fill, write.as_fd())
        }
        Forked::Parent(pid) => pid,
    };
    drop(write);
    let bytes = read_all(read);
    // Ended by itself, or blocked for too long, or has left a child behind that holds the pipe.
    let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
    let signal = loop {
        match nix::sys::wait::waitpid(pid, None) {
            Ok(nix::sys::wait::WaitStatus::Signaled(_, signal, _)) => break Some(signal as i32),
            Ok(_) => break None,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    };
    let answers: Vec<Result<i64, Errno>> = bytes
        .chunks_exact(8)
        .filter_map(|chunk| chunk.try_into().ok().map(i64::from_ne_bytes))
        .map(|answer| if (-4095..0).contains(&answer) { Err(Errno::from_raw((-answer) as i32)) } else { Ok(answer) })
        .collect();
    // Killed by us after it had said all is no signal of the calls.
    let signal = signal.filter(|_| answers.len() < calls.len());
    Ok(Answers { answers, signal })
}

fn read_all(pipe: OwnedFd) -> Vec<u8> {
    let deadline = Instant::now() + PATIENCE;
    let mut file = std::fs::File::from(pipe);
    let mut bytes = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => return bytes,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return bytes,
        }
        let mut buffer = [0; 512];
        match file.read(&mut buffer) {
            Ok(0) | Err(_) => return bytes,
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
        }
    }
}

/// An argument with its memory.
enum Laid {
    Word(u64),
    Answer(usize),
    Bytes(Vec<u8>),
    /// A structure whose words name the memory beside it.
    Struct(Vec<u64>, #[allow(dead_code)] Vec<u8>),
}

impl Laid {
    fn of(argument: &Argument) -> Laid {
        match argument {
            Argument::Word(word) => Laid::Word(*word),
            Argument::Answer(at) => Laid::Answer(*at),
            Argument::Bytes(bytes) => Laid::Bytes(bytes.to_vec()),
            Argument::Room(length) => Laid::Bytes(vec![0; *length]),
            Argument::Filter(program) => {
                let bytes: Vec<u8> = program.iter().flat_map(|instruction| instruction.to_ne_bytes()).collect();
                Laid::Struct(vec![program.len() as u64, bytes.as_ptr() as u64], bytes)
            }
            Argument::Vector(length) => {
                let bytes = vec![0; *length];
                Laid::Struct(vec![bytes.as_ptr() as u64, *length as u64], bytes)
            }
            Argument::Foreign { address, length } => Laid::Struct(vec![*address, *length], Vec::new()),
        }
    }

    fn word(&self, answers: &[i64]) -> u64 {
        match self {
            Laid::Word(word) => *word,
            // A call whose basis failed is made with what failed: the answer then shows it.
            Laid::Answer(at) => answers.get(*at).copied().unwrap_or(-1) as u64,
            Laid::Bytes(bytes) => bytes.as_ptr() as u64,
            Laid::Struct(words, _) => words.as_ptr() as u64,
        }
    }
}
