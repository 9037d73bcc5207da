//! The launcher of sandboxes, started while this process has one thread.

use caisson_model::outcome::Fault;
use caisson_sandbox::error::StartError;
use caisson_sandbox::launcher::{Launcher, Options};

use crate::report::Explained;

/// The launcher does not start.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the launcher of sandboxes")]
pub(crate) struct NoLauncher(#[source] StartError);

impl Explained for NoLauncher {
    fn fault(&self) -> Fault {
        fault(self.0.fault())
    }

    fn help(&self) -> Option<String> {
        Some("`caisson doctor` shows what this machine lacks".to_owned())
    }
}

/// The sandbox's word for whose doing something is, in ours.
pub(crate) fn fault(fault: caisson_sandbox::error::Fault) -> Fault {
    match fault {
        caisson_sandbox::error::Fault::User => Fault::User,
        caisson_sandbox::error::Fault::Environment => Fault::Environment,
        caisson_sandbox::error::Fault::Ours => Fault::Ours,
    }
}

/// Starts the launcher. Only while this process has one thread. `warm` is how many sandboxes are kept ready.
pub(crate) fn launcher(warm: usize) -> Result<Launcher, NoLauncher> {
    Launcher::start(&Options { warm, ..Options::default() }).map_err(NoLauncher)
}

/// Privileges cannot be given up.
#[derive(Debug, thiserror::Error)]
#[error("cannot give up privileges")]
pub(crate) struct StillPrivileged(#[source] StartError);

impl Explained for StillPrivileged {
    fn fault(&self) -> Fault {
        fault(self.0.fault())
    }
}

/// Gives up every privilege of this process: from here on it talks to the network, and the launcher has what sandboxes need.
/// Only while this process has one thread.
pub(crate) fn give_up_privileges() -> Result<(), StillPrivileged> {
    caisson_sandbox::privileges::give_up().map_err(StillPrivileged)
}
