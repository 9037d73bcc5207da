//! `caisson completions`: what completes the commands in a shell.

use clap::CommandFactory;

use crate::cli::{Cli, fleet};
use crate::report::{self, Exit, Failure};

/// Prints it.
pub(crate) fn run(arguments: &fleet::Completions) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "caisson", &mut script);
    Ok(report::print(&String::from_utf8_lossy(&script)))
}
