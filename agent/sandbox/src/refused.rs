//! The list of calls that a filter refused, kept by the launcher when a spec asks for it: the filter hands each of them to
//! the launcher (seccomp_unotify(2), 5.0), which answers with the very error that the filter would have given.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::additions;
use crate::evaluate::{Call, evaluate};
use crate::outcome::RefusedCall;
use crate::plan::Instruction;
use crate::profiles;
use crate::seccomp;
use crate::sys;

/// How many answers are given before the launcher looks after others.
const AT_ONCE: usize = 256;
/// How many different calls are told apart.
const KINDS: usize = 1024;

/// Where one sandbox's refused calls arrive.
#[derive(Debug)]
pub(crate) struct Refused {
    listener: Option<OwnedFd>,
    /// The filter as it would be without a listener.
    filter: Vec<Instruction>,
    counts: BTreeMap<(u32, Option<u64>, i32), u64>,
}

impl Refused {
    /// For a sandbox whose filter would be this.
    pub(crate) fn new(filter: Vec<Instruction>) -> Self {
        Self { listener: None, filter, counts: BTreeMap::new() }
    }

    /// Takes the descriptor on which the calls arrive.
    pub(crate) fn listen(&mut self, listener: Option<OwnedFd>) {
        self.listener = listener;
    }

    /// What to wait for.
    pub(crate) fn watched(&self) -> Option<BorrowedFd<'_>> {
        self.listener.as_ref().map(AsFd::as_fd)
    }

    /// Answers what has arrived.
    pub(crate) fn answer(&mut self) {
        for _ in 0..AT_ONCE {
            let Some(listener) = &self.listener else { return };
            // Asked for only when something is there: the call itself would block.
            let mut waits = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
            if poll(&mut waits, PollTimeout::ZERO) != Ok(1) {
                return;
            }
            let events = waits[0].revents().unwrap_or(PollFlags::empty());
            if !events.contains(PollFlags::POLLIN) {
                // Nobody is left who could call.
                self.listener = None;
                return;
            }
            match sys::notice(listener.as_fd()) {
                Ok(notice) => {
                    let call = Call { number: notice.number, architecture: notice.architecture, arguments: notice.arguments };
                    let errno = seccomp::errno(evaluate(&self.filter, &call)).unwrap_or(libc::EPERM);
                    // A caller that has died meanwhile needs no answer.
                    let _ = sys::answer_notice(listener.as_fd(), notice.id, errno);
                    self.count(&call, errno);
                }
                // The caller died between the two calls.
                Err(Errno::ENOENT | Errno::EINTR) => {}
                Err(_) => {
                    self.listener = None;
                    return;
                }
            }
        }
    }

    fn count(&mut self, call: &Call, errno: i32) {
        let argument = seccomp::telling_argument(call.number).and_then(|at| call.arguments.get(at).copied());
        let key = (call.number, argument, errno);
        if self.counts.len() < KINDS || self.counts.contains_key(&key) {
            *self.counts.entry(key).or_default() += 1;
        }
    }

    /// The list, by number.
    pub(crate) fn list(&self) -> Vec<RefusedCall> {
        let named = |number: u32| profiles::name(number).map_or_else(|| format!("syscall {number}"), str::to_owned);
        self.counts
            .iter()
            .map(|((number, argument, errno), count)| {
                let name = named(*number);
                let addable = additions::check(&name).map_err(|error| error.to_string()).err();
                RefusedCall { name, number: *number, argument: *argument, errno: *errno, count: *count, not_addable: addable }
            })
            .collect()
    }
}
