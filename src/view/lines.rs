//! Plain lines, as for a file or another program: each names its job and step.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Write};

use caisson_model::log::LogKey;
use caisson_model::outcome::{Outcome, StepResult};
use caisson_model::run::{JobState, JobView, RunEvent, StepState, StepView};
use caisson_model::time::Timestamp;
use console::{Color, Style};

use crate::learn::remedy;
use crate::quantity;
use crate::view::board::{Board, JobEntry};
use crate::view::news::News;
use crate::view::screen::View;
use crate::view::summary;
use crate::view::text::{self, Line, Splitter};

/// How much of a step's output is remembered until it is known whether the step fails.
const REMEMBERED: usize = 1 << 20;

/// Which logs are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Logs {
    /// All, at once.
    All,
    /// Those of steps that fail, when they have.
    OfFailures,
}

/// Colours by which jobs are told apart.
const COLOURS: [Color; 6] = [Color::Cyan, Color::Magenta, Color::Blue, Color::Yellow, Color::Green, Color::Red];

/// A prefix wider than this is cut: a step without a name is called by its script.
const WIDEST: usize = 48;

/// The view.
pub(crate) struct Lines<W> {
    out: W,
    logs: Logs,
    colours: bool,
    splitter: Splitter,
    remembered: HashMap<LogKey, Remembered>,
}

#[derive(Default)]
struct Remembered {
    lines: VecDeque<String>,
    bytes: usize,
    dropped: u64,
}

impl<W: Write> Lines<W> {
    /// Shows on `out`.
    pub(crate) fn new(out: W, logs: Logs, colours: bool) -> Lines<W> {
        Lines { out, logs, colours, splitter: Splitter::default(), remembered: HashMap::new() }
    }

    /// Where it shows.
    pub(crate) fn out(&mut self) -> &mut W {
        &mut self.out
    }

    fn style(&self) -> Style {
        Style::new().force_styling(self.colours)
    }

    fn prefix(&self, board: &Board, job: &JobEntry, step: &str) -> String {
        let colour = COLOURS[job.view.id.index as usize % COLOURS.len()];
        let name = text::clean(&format!("{}/{step}", board.job_name(job)), false);
        let name = console::truncate_str(&name, WIDEST, "…");
        self.style().fg(colour).apply_to(name).to_string()
    }

    fn log_line(&self, line: &Line) -> Option<String> {
        Some(match line {
            Line::Plain(text) => text.clone(),
            Line::Group(title) => self.style().bold().apply_to(format!("▾ {title}")).to_string(),
            Line::EndGroup => return None,
            Line::Remark(word, text) => {
                let style = match *word {
                    "error" => self.style().red(),
                    "warning" => self.style().yellow(),
                    _ => self.style().cyan(),
                };
                format!("{} {text}", style.apply_to(format!("{word}:")))
            }
            Line::Gap(text) => self.style().yellow().apply_to(format!("[{text}]")).to_string(),
        })
    }

    fn log(&mut self, board: &Board, key: LogKey, lines: Vec<Line>) -> io::Result<()> {
        let Some((job, step)) = board.step(key.attempt, key.step) else { return Ok(()) };
        let prefix = self.prefix(board, job, &step.view.name);
        let lines: Vec<String> = lines.iter().filter_map(|line| self.log_line(line)).map(|line| format!("{prefix} | {line}")).collect();
        match self.logs {
            Logs::All => lines.iter().try_for_each(|line| writeln!(self.out, "{line}")),
            Logs::OfFailures => {
                let remembered = self.remembered.entry(key).or_default();
                for line in lines {
                    remembered.bytes += line.len();
                    remembered.lines.push_back(line);
                    while remembered.bytes > REMEMBERED {
                        let Some(first) = remembered.lines.pop_front() else { break };
                        remembered.bytes -= first.len();
                        remembered.dropped += 1;
                    }
                }
                Ok(())
            }
        }
    }

    fn step(&mut self, board: &Board, view: &StepView) -> io::Result<()> {
        let (StepState::Finished, Some(result), Some((job, step))) = (view.state, &view.result, board.step(view.attempt, view.index))
        else {
            return Ok(());
        };
        let prefix = self.prefix(board, job, &view.name);
        if let Some(remembered) = self.remembered.remove(&LogKey { attempt: view.attempt, step: view.index })
            && !result.outcome.passed()
        {
            if remembered.dropped > 0 {
                writeln!(self.out, "{prefix} | [{} lines before these are not shown; leave out --quiet to see all]", remembered.dropped)?;
            }
            for line in &remembered.lines {
                writeln!(self.out, "{line}")?;
            }
        }
        if self.logs == Logs::All || !result.outcome.passed() {
            writeln!(self.out, "{prefix}: {}", self.ending(result, view))?;
        }
        let refusals = step.refusals();
        for (target, rule) in &refusals {
            let what = format!("step `{}` tried to reach {target}, refused", text::clean(&view.name, false));
            writeln!(self.out, "{prefix}: {}: {}", self.style().yellow().apply_to(what), text::clean(rule, false))?;
        }
        if !result.outcome.passed()
            && let Some(lines) = remedy(&job.view.key.0, view)
        {
            writeln!(self.out, "{prefix}: to allow it, add to the policy, such as {}:", crate::policy_file::IN_CHECKOUT)?;
            for line in lines.lines() {
                writeln!(self.out, "{prefix}:     {}", text::clean(line, false))?;
            }
        }
        Ok(())
    }

    fn ending(&self, result: &StepResult, view: &StepView) -> String {
        let mut words = self.outcome(result.outcome);
        if result.outcome != Outcome::Skipped
            && let Some(finished) = view.finished
        {
            words.push_str(&format!(" in {}", quantity::elapsed(finished.since(view.started))));
        }
        if let Some(cause) = result.cause.as_ref().filter(|_| result.outcome != Outcome::Skipped) {
            words.push_str(&format!(": {}", text::clean(&cause.to_string(), false)));
        }
        if result.outcome != result.conclusion {
            words.push_str(" (continue-on-error)");
        }
        words
    }

    fn outcome(&self, outcome: Outcome) -> String {
        summary::outcome_style(outcome).force_styling(self.colours).apply_to(outcome).to_string()
    }

    fn job(&mut self, board: &Board, view: &JobView) -> io::Result<()> {
        let (JobState::Finished, Some(outcome)) = (view.state, view.outcome) else { return Ok(()) };
        let Some(job) = board.runs.get(&view.id.run).and_then(|run| run.jobs.get(&view.id)) else { return Ok(()) };
        let name = self.style().bold().apply_to(text::clean(&board.job_name(job), false)).to_string();
        let time = job.time(Timestamp::default()).map(|time| format!(" in {}", quantity::elapsed(time))).unwrap_or_default();
        let cause = text::clean(&job.cause(), false);
        let cause = if cause.is_empty() { cause } else { format!(": {cause}") };
        writeln!(self.out, "{name}: {}{time}{cause}", self.outcome(outcome))
    }
}

impl<W: Write> View for Lines<W> {
    fn news(&mut self, board: &Board, news: &News) -> io::Result<()> {
        match news {
            News::Log(key, read) => {
                let mut lines: Vec<Line> = self.splitter.take(*key, read).iter().map(|line| text::read(line, self.colours)).collect();
                lines.extend(text::gaps(read));
                self.log(board, *key, lines)?;
            }
            News::Event(_, event) => match &event.event {
                RunEvent::Step(view) => self.step(board, view)?,
                RunEvent::Job(view) => self.job(board, view)?,
                RunEvent::Run(_) | RunEvent::Egress { .. } | RunEvent::Annotation { .. } => {}
            },
        }
        self.out.flush()
    }

    fn remark(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "{}", self.style().bold().apply_to(text))?;
        self.out.flush()
    }

    fn finish(&mut self, board: &Board) -> io::Result<()> {
        self.out.write_all(summary::render(board, self.colours).as_bytes())?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::view::sample;

    fn shown(logs: Logs) -> String {
        let mut view = Lines::new(Vec::new(), logs, false);
        sample::shown(&mut view, &sample::failed()).unwrap();
        let text = String::from_utf8(view.out).unwrap();
        // The summary has a test of its own.
        text.split("\n\nJOB").next().unwrap().to_owned()
    }

    #[test]
    fn each_line_names_its_job_and_step() {
        insta::assert_snapshot!(shown(Logs::All), @r#"
        lint/Install | ▾ Collecting
        lint/Install | Collecting django
        lint/Install | Done
        lint/Install: success in 2.5s
        lint: success in 14s
        test (3.12)/Run tests | error: expected 2, got 3
        test (3.12)/Run tests | FAILED (failures=1)
        test (3.12)/Run tests: failure in 2.5s: exit code 1
        test (3.12)/Run tests: step `Run tests` tried to reach evil.example.com:443, refused: no rule allows it
        test (3.12)/Run tests: to allow it, add to the policy, such as .caisson/policy.toml:
        test (3.12)/Run tests:     [[step]]
        test (3.12)/Run tests:     job = "test"
        test (3.12)/Run tests:     step = "Run tests"
        test (3.12)/Run tests:     allow = ["evil.example.com:443"]
        test (3.12)/Upload: skipped
        test (3.12): failure in 14s: Run tests: exit code 1
        package: skipped
        "#);
    }

    #[test]
    fn quiet_shows_the_output_of_what_fails() {
        insta::assert_snapshot!(shown(Logs::OfFailures), @r#"
        lint: success in 14s
        test (3.12)/Run tests | error: expected 2, got 3
        test (3.12)/Run tests | FAILED (failures=1)
        test (3.12)/Run tests: failure in 2.5s: exit code 1
        test (3.12)/Run tests: step `Run tests` tried to reach evil.example.com:443, refused: no rule allows it
        test (3.12)/Run tests: to allow it, add to the policy, such as .caisson/policy.toml:
        test (3.12)/Run tests:     [[step]]
        test (3.12)/Run tests:     job = "test"
        test (3.12)/Run tests:     step = "Run tests"
        test (3.12)/Run tests:     allow = ["evil.example.com:443"]
        test (3.12): failure in 14s: Run tests: exit code 1
        package: skipped
        "#);
    }
}
