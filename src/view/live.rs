//! A terminal: output runs by above, and below it stands one line per job that runs.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use caisson_model::run::{JobState, StepState};
use caisson_model::time::Timestamp;
use console::{Style, Term};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::clock;
use crate::quantity;
use crate::view::board::{Board, JobEntry};
use crate::view::lines::{Lines, Logs};
use crate::view::news::News;
use crate::view::screen::View;
use crate::view::text;

/// How often the screen is drawn at most.
const FRAME: Duration = Duration::from_millis(80);
/// More than this is shown at once, whatever the time.
const BATCH: usize = 64 * 1024;
/// Lines below, at most: the output above is what people read.
const TALLEST: usize = 12;

const SPINNER: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];

/// The view.
pub(crate) struct Live {
    lines: Lines<Vec<u8>>,
    colours: bool,
    screen: MultiProgress,
    rows: Vec<ProgressBar>,
    drawn: Option<Instant>,
    frame: usize,
}

impl Live {
    /// Shows on standard output.
    pub(crate) fn new(logs: Logs, colours: bool) -> Live {
        Live {
            lines: Lines::new(Vec::new(), logs, colours),
            colours,
            screen: MultiProgress::with_draw_target(ProgressDrawTarget::term(Term::stdout(), 15)),
            rows: Vec::new(),
            drawn: None,
            frame: 0,
        }
    }

    /// Moves what has gathered to the terminal, above the rows.
    fn flush(&mut self) -> io::Result<()> {
        let gathered = std::mem::take(self.lines.out());
        if gathered.is_empty() {
            return Ok(());
        }
        self.screen.suspend(|| {
            let mut out = io::stdout().lock();
            out.write_all(&gathered)?;
            out.flush()
        })
    }

    fn draw(&mut self, board: &Board) -> io::Result<()> {
        self.flush()?;
        self.frame += 1;
        self.drawn = Some(Instant::now());
        let width = usize::from(Term::stdout().size().1).saturating_sub(1).max(20);
        let wanted = rows(board, clock::now(), self.frame, width, self.colours);
        while self.rows.len() > wanted.len() {
            if let Some(row) = self.rows.pop() {
                self.screen.remove(&row);
            }
        }
        while self.rows.len() < wanted.len() {
            let row = self.screen.add(ProgressBar::no_length());
            // The template has no placeholder but the message, so that it is valid for sure.
            row.set_style(ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()));
            self.rows.push(row);
        }
        for (row, text) in self.rows.iter().zip(wanted) {
            row.set_message(text);
            row.tick();
        }
        Ok(())
    }

    fn clear(&mut self) -> io::Result<()> {
        for row in self.rows.drain(..) {
            row.finish_and_clear();
            self.screen.remove(&row);
        }
        self.screen.clear()
    }
}

impl View for Live {
    fn news(&mut self, board: &Board, news: &News) -> io::Result<()> {
        self.lines.news(board, news)?;
        let due = self.drawn.is_none_or(|drawn| drawn.elapsed() >= FRAME);
        if due || self.lines.out().len() > BATCH { self.draw(board) } else { Ok(()) }
    }

    fn remark(&mut self, text: &str) -> io::Result<()> {
        self.lines.remark(text)?;
        self.flush()
    }

    fn moves(&self) -> bool {
        true
    }

    fn tick(&mut self, board: &Board) -> io::Result<()> {
        self.draw(board)
    }

    fn finish(&mut self, board: &Board) -> io::Result<()> {
        self.flush()?;
        self.clear()?;
        self.lines.finish(board)?;
        self.flush()
    }
}

/// The rows below the output: what runs, then how much waits.
fn rows(board: &Board, now: Timestamp, frame: usize, width: usize, colours: bool) -> Vec<String> {
    let mut rows: Vec<String> = Vec::new();
    let (mut waiting, mut more) = (0, 0);
    for (_, job) in board.jobs() {
        match job.view.state {
            JobState::Running | JobState::Leased | JobState::Suspect => {
                if rows.len() < TALLEST {
                    rows.push(console::truncate_str(&row(board, job, now, frame, colours), width, "…").into_owned());
                } else {
                    more += 1;
                }
            }
            JobState::Waiting | JobState::Queued | JobState::Offered => waiting += 1,
            JobState::Finished => {}
        }
    }
    let dim = Style::new().force_styling(colours).dim();
    let rest: Vec<String> =
        [(more, "more running"), (waiting, "waiting")].iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}")).collect();
    if !rest.is_empty() {
        rows.push(dim.apply_to(format!("  {}", rest.join(", "))).to_string());
    }
    rows
}

fn row(board: &Board, job: &JobEntry, now: Timestamp, frame: usize, colours: bool) -> String {
    let style = || Style::new().force_styling(colours);
    let spinner = style().cyan().apply_to(SPINNER[frame % SPINNER.len()]);
    let name = style().bold().apply_to(text::clean(&board.job_name(job), false)).to_string();
    let total = job.time(now).map(quantity::elapsed).unwrap_or_default();
    let running = job.steps.values().rev().find(|step| step.view.state == StepState::Running);
    match (job.view.state, running) {
        (JobState::Suspect, _) => format!("{spinner} {name}  {}", style().yellow().apply_to("its agent is not heard of")),
        (_, Some(step)) => {
            let time = quantity::elapsed(now.since(step.view.started));
            let step = text::clean(&step.view.name, false);
            format!("{spinner} {name}  {step} {}  {}", style().dim().apply_to(time), style().dim().apply_to(format!("({total})")))
        }
        (_, None) => format!("{spinner} {name}  {}", style().dim().apply_to("preparing")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::sample;

    #[test]
    fn rows_show_what_runs_and_how_much_waits() {
        let board = sample::board(&sample::running());
        let rows = rows(&board, Timestamp(13_000), 0, 60, false);
        insta::assert_snapshot!(rows.join("\n"), @r"
        ⠋ lint  Check style 12s  (13s)
        ⠋ test (3.12)  preparing
          1 waiting
        ");
    }
}
