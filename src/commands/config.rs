//! `caisson config`: the settings in force and where each comes from.

use crate::cli;
use crate::commands::surroundings;
use crate::config::{Config, Flags};
use crate::report::{self, Exit, Failure};

/// Prints the settings.
pub(crate) fn run(arguments: cli::Config) -> Result<Exit, Failure> {
    let (environment, root) = surroundings();
    let config = Config::settle(&environment, root, Flags { machine: arguments.machine, ..Flags::default() })?;
    let rows = config.rows();
    let width = rows.iter().map(|(_, value, _)| value.chars().count()).max().unwrap_or_default();
    let text: String = rows.iter().map(|(key, value, origin)| format!("{key:<14} {value:<width$}  ({origin})\n")).collect();
    Ok(report::print(&text))
}
