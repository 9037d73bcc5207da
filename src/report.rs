//! What a person reads when something goes wrong, and the exit codes.

use std::error::Error;
use std::fmt::Write as _;
use std::io::Write as _;

use caisson_model::diagnostic::{Diagnostic, Severity};
use caisson_model::outcome::{Fault, Outcome};
use console::style;

use crate::cli::fleet::LogFormat;

/// The exit code of the whole command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit(pub(crate) u8);

impl Exit {
    /// Everything passed.
    pub(crate) const PASSED: Exit = Exit(0);
    /// A job failed.
    pub(crate) const FAILED: Exit = Exit(1);
    /// The workflow or the command line is wrong.
    pub(crate) const USAGE: Exit = Exit(2);
    /// This machine cannot do it.
    pub(crate) const ENVIRONMENT: Exit = Exit(3);
    /// caisson itself is broken.
    pub(crate) const OURS: Exit = Exit(4);
    /// A person ended it.
    pub(crate) const CANCELLED: Exit = Exit(130);

    /// The code for an error by whose doing it is.
    pub(crate) fn of_fault(fault: Fault) -> Exit {
        match fault {
            Fault::User => Exit::USAGE,
            Fault::Environment => Exit::ENVIRONMENT,
            Fault::Ours => Exit::OURS,
        }
    }

    /// The code for a run. `fault` says whose doing it is when the run could not be carried out.
    pub(crate) fn of_run(outcome: Outcome, fault: Option<Fault>) -> Exit {
        match (outcome, fault) {
            (Outcome::Success | Outcome::Skipped, _) => Exit::PASSED,
            (Outcome::Cancelled, _) => Exit::CANCELLED,
            (_, Some(fault @ (Fault::Environment | Fault::Ours))) => Exit::of_fault(fault),
            (Outcome::Failure | Outcome::TimedOut | Outcome::Faulted, _) => Exit::FAILED,
        }
    }

    /// The code of several runs together: a cancelled one counts most, then ours, the environment's, the user's, a failure.
    pub(crate) fn worst(self, other: Exit) -> Exit {
        let weight = |exit: Exit| match exit {
            Exit::PASSED => 0,
            Exit::FAILED => 1,
            Exit::CANCELLED => u8::MAX,
            Exit(code) => code,
        };
        if weight(other) > weight(self) { other } else { self }
    }
}

/// An error that knows whose doing it is and what to do next.
pub(crate) trait Explained: Error {
    /// Whose doing.
    fn fault(&self) -> Fault;

    /// The next action, when there is one to name.
    fn help(&self) -> Option<String> {
        None
    }

    /// What is wrong in which file, when that is the reason.
    fn findings(&self) -> Vec<Diagnostic> {
        Vec::new()
    }
}

/// An error at the edge: text with its chain, whose doing, next action.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The act that failed, then each cause, outermost first.
    pub(crate) chain: Vec<String>,
    /// Whose doing.
    pub(crate) fault: Fault,
    /// The next action.
    pub(crate) help: Option<String>,
    /// What is wrong in which file.
    pub(crate) findings: Vec<Diagnostic>,
}

impl<E: Explained> From<E> for Failure {
    fn from(error: E) -> Failure {
        let chain = links(&error);
        Failure { chain, fault: error.fault(), help: error.help(), findings: error.findings() }
    }
}

fn links(error: &dyn Error) -> Vec<String> {
    let mut chain = vec![error.to_string()];
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        // Some libraries repeat their source in their own text.
        if chain.last().is_none_or(|last| !last.contains(&text)) {
            chain.push(text);
        }
        source = cause.source();
    }
    chain
}

impl Failure {
    /// The failure as text of one or more lines, without a trailing newline.
    pub(crate) fn render(&self) -> String {
        let mut text: String = self.findings.iter().map(|finding| format!("{}\n", finding_text(finding))).collect();
        // Writing to a String cannot fail.
        let _ = write!(text, "{} {}", style("error:").for_stderr().red().bold(), self.chain.join(": "));
        if let Some(help) = &self.help {
            let _ = write!(text, "\n{} {help}", style(" help:").for_stderr().cyan().bold());
        }
        if self.fault == Fault::Ours {
            let _ = write!(
                text,
                "\n{} this is a fault of caisson, not of your project; please report it with the output of `caisson doctor --json` and the lines above",
                style(" note:").for_stderr().bold()
            );
        }
        text
    }

    /// The failure without what is wrong in which file: one line.
    pub(crate) fn short(&self) -> String {
        format!("{} {}", style("error:").for_stderr().red().bold(), self.chain.join(": "))
    }

    /// The exit code.
    pub(crate) fn exit(&self) -> Exit {
        Exit::of_fault(self.fault)
    }
}

/// A finding as a person reads it, the word of its severity in colour. Several lines, with a line break after the last.
pub(crate) fn finding_text(finding: &Diagnostic) -> String {
    let text = caisson_workflow::render(finding);
    let (word, coloured) = match finding.severity {
        Severity::Error => ("error:", style("error:").for_stderr().red().bold()),
        Severity::Warning => ("warning:", style("warning:").for_stderr().yellow().bold()),
    };
    text.replacen(word, &coloured.to_string(), 1)
}

/// Writes a line to standard error. A closed standard error leaves nobody to tell.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Lets what the crates trace be read on standard error: what `CAISSON_LOG` asks for (`info`, `caisson_agent=debug`). Without it
/// a service tells warnings and errors, and a command for a person nothing, since its own view says what happened. A service
/// that writes JSON is read by programs, and tells moves as well.
pub(crate) fn trace(service: Option<LogFormat>) {
    let asked = std::env::var("CAISSON_LOG").ok().filter(|text| !text.is_empty());
    let usual = match service {
        Some(LogFormat::Json) => Some("info"),
        Some(LogFormat::Text) => Some("warn"),
        None => None,
    };
    let Some(directives) = asked.or_else(|| usual.map(str::to_owned)) else { return };
    let filter = match tracing_subscriber::EnvFilter::try_new(&directives) {
        Ok(filter) => filter,
        Err(error) => {
            warn(&format!("CAISSON_LOG is not understood, and nothing is traced: {error}"));
            return;
        }
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match service {
        Some(LogFormat::Json) => builder.json().flatten_event(true).init(),
        _ => builder.with_ansi(console::colors_enabled_stderr()).init(),
    }
}

/// Writes a note to standard error.
pub(crate) fn note(text: &str) {
    say(&format!("{} {text}", style("note:").for_stderr().bold()));
}

/// Writes a warning to standard error.
pub(crate) fn warn(text: &str) {
    say(&format!("{} {text}", style("warning:").for_stderr().yellow().bold()));
}

/// Writes text to standard output. Whoever reads it may have gone: then there is nobody to write to, and that is no error.
pub(crate) fn print(text: &str) -> Exit {
    match std::io::stdout().lock().write_all(text.as_bytes()).and_then(|()| std::io::stdout().lock().flush()) {
        Ok(()) => Exit::PASSED,
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Exit::PASSED,
        Err(error) => {
            say(&format!("error: cannot write to standard output: {error}"));
            Exit::ENVIRONMENT
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_follow_whose_doing_it_is() {
        let table = [
            (Outcome::Success, None, 0),
            (Outcome::Skipped, None, 0),
            (Outcome::Failure, None, 1),
            (Outcome::Failure, Some(Fault::User), 1),
            (Outcome::TimedOut, None, 1),
            (Outcome::Failure, Some(Fault::Environment), 3),
            (Outcome::Faulted, Some(Fault::Ours), 4),
            (Outcome::Cancelled, Some(Fault::Environment), 130),
        ];
        for (outcome, fault, code) in table {
            assert_eq!(Exit::of_run(outcome, fault), Exit(code), "{outcome:?} {fault:?}");
        }
    }

    #[test]
    fn the_worst_of_several_runs_counts() {
        assert_eq!(Exit::PASSED.worst(Exit::FAILED), Exit::FAILED);
        assert_eq!(Exit::ENVIRONMENT.worst(Exit::FAILED), Exit::ENVIRONMENT);
        assert_eq!(Exit::CANCELLED.worst(Exit::OURS), Exit::CANCELLED);
    }

    #[test]
    fn a_failure_shows_its_chain_once_and_what_to_do() {
        console::set_colors_enabled_stderr(false);
        let failure = Failure {
            chain: vec!["cannot read policy.toml".into(), "permission denied".into()],
            fault: Fault::Ours,
            help: Some("look".into()),
            findings: Vec::new(),
        };
        insta::assert_snapshot!(failure.render(), @r"
        error: cannot read policy.toml: permission denied
         help: look
         note: this is a fault of caisson, not of your project; please report it with the output of `caisson doctor --json` and the lines above
        ");
    }
}
