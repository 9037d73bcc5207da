//! What each subcommand does; one file each.

pub(crate) mod actions;
pub(crate) mod agent;
pub(crate) mod agents;
pub(crate) mod cancel;
pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod controller;
pub(crate) mod doctor;
pub(crate) mod eval;
pub(crate) mod exec;
pub(crate) mod explain;
pub(crate) mod generate;
pub(crate) mod init;
pub(crate) mod join;
pub(crate) mod ledger;
pub(crate) mod logs;
pub(crate) mod plan;
pub(crate) mod rerun;
pub(crate) mod run;
pub(crate) mod runs;
pub(crate) mod selftest;
pub(crate) mod show;
pub(crate) mod submit;
pub(crate) mod token;
pub(crate) mod trust;

use caisson_model::outcome::Fault;
use tokio::runtime::Runtime;

use crate::config::Environment;
use crate::report::Explained;

/// The environment of this process, and whether it is root's.
pub(crate) fn surroundings() -> (Environment, bool) {
    (std::env::vars_os().collect(), nix::unistd::geteuid().is_root())
}

/// Threads cannot be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the runtime's threads")]
pub(crate) struct NoRuntime(#[source] std::io::Error);

impl Explained for NoRuntime {
    fn fault(&self) -> Fault {
        Fault::Environment
    }
}

/// The runtime of the commands that talk and wait. Threads exist from here on.
pub(crate) fn runtime() -> Result<Runtime, NoRuntime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(NoRuntime)
}
