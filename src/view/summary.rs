//! The end of a run for a person: a table of jobs, then everything that should not scroll by unseen.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use caisson_model::outcome::{AnnotationLevel, Bytes, Outcome, Verdict};
use caisson_model::run::JobState;
use console::{Alignment, Style};

use crate::artifacts::Fetched;
use crate::clock;
use crate::quantity;
use crate::view::board::{Board, JobEntry, StepEntry};
use crate::view::packages::Packages;
use crate::view::text;

/// How many lines of one kind are shown before the rest is counted.
const MOST: usize = 40;

/// A longer cause is cut in the table; it stands whole above, where the job ended.
const WIDEST: usize = 72;

/// The colour of an outcome.
pub(crate) fn outcome_style(outcome: Outcome) -> Style {
    match outcome {
        Outcome::Success => Style::new().green(),
        Outcome::Skipped => Style::new().dim(),
        Outcome::Cancelled => Style::new().yellow(),
        Outcome::Failure | Outcome::TimedOut | Outcome::Faulted => Style::new().red(),
    }
}

/// The whole summary; begins with an empty line and ends with the verdict.
pub(crate) fn render(board: &Board, colours: bool) -> String {
    let painter = Painter { board, colours };
    let mut out = String::from("\n");
    painter.table(&mut out);
    painter.usage(&mut out);
    painter.network(&mut out);
    painter.annotations(&mut out);
    painter.protections(&mut out);
    painter.notes_of_steps(&mut out);
    painter.artifacts(&mut out);
    painter.verdict(&mut out);
    out
}

/// What makes two attempts to reach something one line: whether it was let out, the step, the verdict, the target and the rule.
type Attempt<'e> = (bool, String, &'static str, String, &'e str);

struct Painter<'b> {
    board: &'b Board,
    colours: bool,
}

// Writing to a String cannot fail, so the results of `write!` below say nothing.
impl Painter<'_> {
    fn style(&self, style: Style) -> Style {
        style.force_styling(self.colours)
    }

    fn heading(&self, out: &mut String, title: &str) {
        let _ = writeln!(out, "\n{}", self.style(Style::new().bold()).apply_to(title));
    }

    fn steps(&self) -> impl Iterator<Item = (&JobEntry, &StepEntry)> {
        self.board.jobs().flat_map(|(_, job)| job.steps.values().map(move |step| (job, step)))
    }

    fn place(&self, job: &JobEntry, step: &StepEntry) -> String {
        text::clean(&format!("{}/{}", self.board.job_name(job), step.view.name), false)
    }

    fn table(&self, out: &mut String) {
        let mut rows: Vec<[String; 6]> = vec![["JOB", "STEPS", "RESULT", "TIME", "PEAK", "CAUSE"].map(str::to_owned)];
        for (_, job) in self.board.jobs() {
            let outcome = match (job.view.outcome, job.view.state) {
                (Some(outcome), _) => self.style(outcome_style(outcome)).apply_to(outcome).to_string(),
                (None, JobState::Waiting | JobState::Queued | JobState::Offered) => "not started".to_owned(),
                (None, _) => "not finished".to_owned(),
            };
            rows.push([
                text::clean(&self.board.job_name(job), false),
                job.steps.len().to_string(),
                outcome,
                job.time(clock::now()).map(quantity::elapsed).unwrap_or_default(),
                job.peak().map(|peak| Bytes(peak).to_string()).unwrap_or_default(),
                console::truncate_str(&text::clean(&job.cause(), false), WIDEST, "…").into_owned(),
            ]);
        }
        self.rows(out, "", &rows, [false, true, false, true, true, false]);
    }

    /// What each step cost: its own time, the processors', memory, the disks, processes, and what its sandbox took.
    fn usage(&self, out: &mut String) {
        let mut rows: Vec<[String; 9]> =
            vec![["STEP", "WALL", "USER", "SYSTEM", "MEMORY", "READ", "WRITTEN", "PIDS", "SANDBOX"].map(str::to_owned)];
        let ran = self.steps().filter_map(|(job, step)| Some((job, step, step.view.result.as_ref()?)));
        for (job, step, result) in ran.filter(|(_, _, result)| result.outcome != Outcome::Skipped) {
            let usage = &result.usage;
            let seconds = |span: std::time::Duration| format!("{:.1}s", span.as_secs_f64());
            rows.push([
                self.place(job, step),
                seconds(usage.wall),
                seconds(usage.user),
                seconds(usage.system),
                usage.peak_memory_bytes.map(|peak| Bytes(peak).to_string()).unwrap_or_default(),
                Bytes(usage.read_bytes).to_string(),
                Bytes(usage.written_bytes).to_string(),
                usage.peak_pids.map(|pids| pids.to_string()).unwrap_or_default(),
                format!("{:.0} ms", (usage.build + usage.teardown).as_secs_f64() * 1e3),
            ]);
        }
        if rows.len() > 1 {
            self.heading(out, "Cost of each step");
            let all = rows.len() - 1;
            rows.truncate(MOST + 1);
            self.rows(out, "  ", &rows, [false, true, true, true, true, true, true, true, true]);
            self.rest(out, all);
        }
    }

    /// A table with its heads; `right` are the columns of numbers.
    fn rows<const N: usize>(&self, out: &mut String, indent: &str, rows: &[[String; N]], right: [bool; N]) {
        let widths: [usize; N] =
            std::array::from_fn(|column| rows.iter().map(|row| console::measure_text_width(&row[column])).max().unwrap_or(0));
        for (number, row) in rows.iter().enumerate() {
            let cells = row.iter().enumerate().map(|(column, cell)| {
                let alignment = if right[column] { Alignment::Right } else { Alignment::Left };
                console::pad_str(cell, widths[column], alignment, None).into_owned()
            });
            let line = cells.collect::<Vec<_>>().join("  ");
            let line = line.trim_end();
            let line = if number == 0 { self.style(Style::new().dim()).apply_to(line).to_string() } else { line.to_owned() };
            let _ = writeln!(out, "{indent}{line}");
        }
    }

    fn artifacts(&self, out: &mut String) {
        if self.board.artifacts.is_empty() {
            return;
        }
        self.heading(out, "Artifacts");
        for Fetched { artifact, path, .. } in &self.board.artifacts {
            let place = path
                .as_ref()
                .map_or_else(|| "kept by the controller; --artifacts DIR brings it here".to_owned(), |path| path.display().to_string());
            let files = if artifact.files == 1 { "1 file".to_owned() } else { format!("{} files", artifact.files) };
            let name = text::clean(&artifact.name, false);
            let _ = writeln!(out, "  {name}  {files}, {}  {}", Bytes(artifact.bytes), text::clean(&place, false));
        }
    }

    fn network(&self, out: &mut String) {
        // What one step did to one place is one line, with a count; refusals first.
        let mut seen: BTreeMap<Attempt<'_>, (u32, u64)> = BTreeMap::new();
        let mut packages = Packages::default();
        for (job, step) in self.steps() {
            for entry in step.view.result.iter().flat_map(|result| &result.egress) {
                if packages.take(&self.place(job, step), entry) {
                    continue;
                }
                let word = match entry.verdict {
                    Verdict::Allowed => "allowed",
                    Verdict::Refused => "refused",
                    Verdict::Unreachable => "unreachable",
                };
                let key = (entry.verdict != Verdict::Refused, self.place(job, step), word, entry.target(), entry.rule.as_str());
                let (count, bytes) = seen.entry(key).or_default();
                *count += 1;
                *bytes += entry.sent + entry.received;
            }
        }
        if seen.is_empty() && packages.is_empty() {
            return;
        }
        self.heading(out, "Network");
        for (place, sum) in packages.lines().take(MOST) {
            let _ = writeln!(out, "  {} {sum}  {place}", self.style(Style::new().green()).apply_to(format!("{:<11}", "packages")));
        }
        for ((_, place, word, host, rule), (count, bytes)) in seen.iter().take(MOST) {
            let style = if *word == "allowed" { Style::new().green() } else { Style::new().red() };
            let times = if *count > 1 { format!(" x{count}") } else { String::new() };
            let size = if *bytes > 0 { format!(", {}", Bytes(*bytes)) } else { String::new() };
            let (host, rule) = (text::clean(host, false), text::clean(rule, false));
            let _ = writeln!(out, "  {} {host}{times}{size}  {place}  ({rule})", self.style(style).apply_to(format!("{word:<11}")));
        }
        self.rest(out, seen.len());
    }

    fn annotations(&self, out: &mut String) {
        let mut lines = Vec::new();
        for (job, step) in self.steps() {
            let told = step.view.result.as_ref().map_or(&step.annotations, |result| &result.annotations);
            for annotation in told {
                let (word, style) = match annotation.level {
                    AnnotationLevel::Error => ("error", Style::new().red()),
                    AnnotationLevel::Warning => ("warning", Style::new().yellow()),
                    AnnotationLevel::Notice => ("notice", Style::new().cyan()),
                };
                let place = match (&annotation.file, annotation.line, annotation.column) {
                    (Some(file), Some(line), Some(column)) => format!("{file}:{line}:{column}: "),
                    (Some(file), Some(line), None) => format!("{file}:{line}: "),
                    (Some(file), None, _) => format!("{file}: "),
                    (None, ..) => String::new(),
                };
                let title = annotation.title.as_ref().map(|title| format!("{title}: ")).unwrap_or_default();
                let message = text::clean(&format!("{place}{title}{}", annotation.message.lines().collect::<Vec<_>>().join(" ")), false);
                lines.push(format!("  {} {message}  ({})", self.style(style).apply_to(format!("{word:<7}")), self.place(job, step)));
            }
        }
        if !lines.is_empty() {
            self.heading(out, "Annotations");
            for line in lines.iter().take(MOST) {
                let _ = writeln!(out, "{line}");
            }
            self.rest(out, lines.len());
        }
    }

    fn protections(&self, out: &mut String) {
        let mut missing: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for (_, step) in self.steps() {
            for lack in step.view.result.iter().flat_map(|result| &result.enforcement.missing) {
                *missing.entry((&lack.protection, &lack.reason)).or_default() += 1;
            }
        }
        if !missing.is_empty() {
            self.heading(out, "Protections that did not hold");
            for ((protection, reason), steps) in missing {
                let word = self.style(Style::new().yellow()).apply_to(protection);
                let _ = writeln!(out, "  {word}: {} ({steps} steps)", text::clean(reason, false));
            }
        }
    }

    fn notes_of_steps(&self, out: &mut String) {
        for (job, step) in self.steps() {
            let Some(result) = step.view.result.as_ref().filter(|result| !result.summary.trim().is_empty()) else { continue };
            self.heading(out, &format!("Summary of {}", self.place(job, step)));
            let lines: Vec<&str> = result.summary.trim_end().lines().collect();
            for line in lines.iter().take(MOST) {
                let _ = writeln!(out, "  {}", text::clean(line, false));
            }
            self.rest(out, lines.len());
        }
    }

    fn rest(&self, out: &mut String, all: usize) {
        if all > MOST {
            let _ = writeln!(out, "  ... and {} more", all - MOST);
        }
    }

    fn verdict(&self, out: &mut String) {
        out.push('\n');
        for run in self.board.runs.values() {
            let Some(outcome) = run.view.outcome else {
                let _ = writeln!(out, "{}: not finished", text::clean(&run.view.workflow, false));
                continue;
            };
            let failed = run.jobs.values().filter(|job| job.view.outcome.is_some_and(|outcome| !outcome.passed())).count();
            let jobs = match (failed, run.jobs.len()) {
                (0, 1) => "1 job".to_owned(),
                (0, all) => format!("{all} jobs"),
                (failed, all) => format!("{failed} of {all} jobs did not pass"),
            };
            let time = run
                .view
                .finished
                .map(|finished| format!(" in {}", quantity::elapsed(finished.since(run.view.submitted))))
                .unwrap_or_default();
            let word = self.style(outcome_style(outcome).bold()).apply_to(outcome);
            let _ = writeln!(out, "{}: {word}{time}, {jobs}", text::clean(&run.view.workflow, false));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::sample;

    #[test]
    fn a_failed_run_says_what_failed_and_why() {
        let board = sample::board(&sample::failed());
        insta::assert_snapshot!(render(&board, false), @r"
        JOB          STEPS  RESULT   TIME    PEAK  CAUSE
        lint             1  success   14s  96 MiB
        test (3.12)      2  failure   14s  96 MiB  Run tests: exit code 1
        package          0  skipped

        Cost of each step
          STEP                   WALL  USER  SYSTEM  MEMORY  READ  WRITTEN  PIDS  SANDBOX
          lint/Install           2.4s  0.0s    0.0s  96 MiB   0 B      0 B           0 ms
          test (3.12)/Run tests  2.4s  0.0s    0.0s  96 MiB   0 B      0 B           0 ms

        Network
          refused     evil.example.com:443  test (3.12)/Run tests  (no rule allows it)
          allowed     pypi.org:443 x3, 12 KiB  lint/Install  (default: installs packages)

        Annotations
          error   polls/tests.py:12: expected 2, got 3  (test (3.12)/Run tests)

        Protections that did not hold
          landlock: this kernel has none (3 steps)

        Summary of test (3.12)/Run tests
          ## 41 of 42 tests passed

        Tests: failure in 15s, 1 of 3 jobs did not pass
        ");
    }
}
