//! A sandbox before it has a spec: its groups, its namespaces, its init waiting. One is made ahead whenever the launcher
//! is idle, used once, and never given to a second step.

use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::unistd::Pid;

use crate::cgroup::{Cgroups, Group};
use crate::error::{Failure, Stage};
use crate::ground::Ground;
use crate::handshake;
use crate::init;
use crate::netns;
use crate::plan::Instruction;
use crate::share::Shares;
use crate::sys::{self, Cloned};

/// Every namespace but time, which older kernels lack, and the network's, which must not belong to the sandbox's user namespace.
const NAMESPACES: u64 = (libc::CLONE_NEWUSER | libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS) as u64;

/// Whether sandboxes get a time namespace of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Time {
    Own,
    Shared,
}

/// An init and what holds it.
#[derive(Debug)]
pub(crate) struct Slot {
    pub pid: Pid,
    pub pidfd: OwnedFd,
    pub socket: OwnedFd,
    pub group: Group,
    pub network: OwnedFd,
    /// Its mounts, held so that taking them down does not hold up the end of init; `None` where the launcher may not see them, or
    /// nobody would take them down in its place.
    pub mounts: Option<OwnedFd>,
}

impl Slot {
    /// Clones an init into new namespaces; it goes on by itself.
    pub(crate) fn new(
        cgroups: &mut Cgroups,
        shares: &mut Shares,
        ground: &Ground,
        time: Time,
        filter: &[Instruction],
    ) -> Result<Self, Failure> {
        let failed = |errno| Failure::new(Stage::Clone, "", errno);
        let mut group = cgroups.create()?;
        let cloned = (|| {
            let entries = group.entries()?;
            let namespaces = NAMESPACES | if time == Time::Own { sys::CLONE_NEWTIME } else { 0 };
            let (network, (pid, pidfd, socket)) = netns::found(|| {
                let (socket, theirs) = handshake::pair().map_err(failed)?;
                ground.stand(|| {
                    shares.apart(|| match sys::clone3(namespaces, group.clone_into()).map_err(failed)? {
                        Cloned::Child => init::run(&theirs, &entries, filter),
                        Cloned::Parent { pid, pidfd } => Ok((pid, pidfd, socket)),
                    })
                })
            })?;
            Ok((pid, pidfd, socket, network))
        })();
        match cloned {
            Ok((pid, pidfd, socket, network)) => Ok(Self { pid, pidfd, socket, group, network, mounts: None }),
            Err(failure) => {
                group.remove();
                Err(failure)
            }
        }
    }

    /// Holds on to its mounts.
    pub(crate) fn hold_mounts(mut self) -> Self {
        let path = format!("/proc/{}/ns/mnt", self.pid);
        self.mounts = nix::fcntl::open(path.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).ok();
        self
    }

    /// Whether init is dead.
    pub(crate) fn is_dead(&self) -> bool {
        poll(&mut [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO) != Ok(0)
    }

    /// Kills init, and with it everything in its process tree. May be called twice.
    pub(crate) fn kill(&self) {
        self.group.kill();
        // ESRCH: it is dead already.
        let _ = sys::pidfd_kill(self.pidfd.as_fd(), libc::SIGKILL);
    }
}
