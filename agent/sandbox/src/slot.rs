//! A sandbox before it has a spec: its groups, its namespaces, its init waiting. One is made ahead whenever the launcher
//! is idle, used once, and never given to a second step.

use std::os::fd::{AsFd, OwnedFd};

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
            Ok((pid, pidfd, socket, network)) => Ok(Self { pid, pidfd, socket, group, network }),
            Err(failure) => {
                group.remove();
                Err(failure)
            }
        }
    }

    /// Kills init, and with it everything in its process tree. May be called twice.
    pub(crate) fn kill(&self) {
        self.group.kill();
        // ESRCH: it is dead already.
        let _ = sys::pidfd_kill(self.pidfd.as_fd(), libc::SIGKILL);
    }
}
