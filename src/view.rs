//! What a person, a pipe or a program sees of runs: one stream of news, one board that holds the newest state, and views on both.

pub(crate) mod board;
pub(crate) mod json;
mod lines;
mod live;
pub(crate) mod news;
mod packages;
#[cfg(test)]
mod sample;
pub(crate) mod screen;
mod summary;
pub(crate) mod text;

use std::io::{self, IsTerminal};

use crate::cli::Output;
use crate::view::screen::View;

/// The view for what was asked and for what standard output is.
pub(crate) fn of(output: &Output) -> Box<dyn View> {
    let colours = console::colors_enabled();
    if output.json {
        return Box::new(json::Json::new(io::stdout()));
    }
    let logs = if output.quiet { lines::Logs::OfFailures } else { lines::Logs::All };
    let lively = io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
    if lively { Box::new(live::Live::new(logs, colours)) } else { Box::new(lines::Lines::new(io::stdout(), logs, colours)) }
}
