//! What a person, a pipe or a program sees of runs: one stream of news, one board that holds the newest state, and views on both.

pub(crate) mod board;
mod json;
mod lines;
mod live;
#[cfg(test)]
mod sample;
mod summary;
mod text;

use std::io::{self, IsTerminal};

use caisson_model::id::RunId;
use caisson_model::log::{LogKey, LogRead};
use caisson_model::run::NumberedEvent;

use crate::cli::Output;
use crate::view::board::Board;

/// Something happened in a run.
#[derive(Clone, Debug)]
pub(crate) enum News {
    /// A change of the run, a job or a step.
    Event(RunId, NumberedEvent),
    /// Some of a step's output, or its end. A step's output is complete before its end is told.
    Log(LogKey, LogRead),
}

/// A way to show runs. An error means that nobody reads any more.
pub(crate) trait View {
    /// Shows news that the board has taken in already.
    fn news(&mut self, board: &Board, news: &News) -> io::Result<()>;

    /// Shows a remark of this command's own.
    fn remark(&mut self, text: &str) -> io::Result<()>;

    /// Whether time alone changes what is shown.
    fn moves(&self) -> bool {
        false
    }

    /// Shows that time has passed.
    fn tick(&mut self, _board: &Board) -> io::Result<()> {
        Ok(())
    }

    /// Shows the end of everything.
    fn finish(&mut self, board: &Board) -> io::Result<()>;
}

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
