//! `caisson logs`: what steps wrote, of a run, a job or one step; once, or followed to the end.

use std::collections::HashSet;
use std::io::{self, Write};

use caisson_model::id::{RunId, StepIndex};
use caisson_model::log::{LogKey, LogRead};
use caisson_model::outcome::Fault;
use caisson_model::run::{JobView, NumberedEvent, RunEvent, RunState, StepState, StepView};
use caisson_proto::api::{ApiError, ClientApi, RunDetail};
use caisson_proto::chain::Chain;
use caisson_proto::client::Client;
use futures_util::StreamExt;
use sha2::{Digest as _, Sha256};

use crate::cli::fleet;
use crate::commands::{runtime, show};
use crate::embedded::CallError;
use crate::follow::patiently;
use crate::reach::Way;
use crate::report::{Exit, Explained, Failure};
use crate::view::board::Board;
use crate::view::json::Json;
use crate::view::news::News;
use crate::view::screen::View;
use crate::view::text::Splitter;

/// Logs cannot be printed.
#[derive(Debug, thiserror::Error)]
enum LogsError {
    /// The words do not say what to print.
    #[error("{0:?} does not say what to print")]
    Target(String),
    /// There is no such job or step.
    #[error("run {0} has no {1} {2:?}")]
    Missing(RunId, &'static str, String, String),
    /// What was read is not what was sealed.
    #[error("the log of step {} of attempt {} is not what was sealed: {}", .0.step.0, .0.attempt, .1)]
    Changed(LogKey, &'static str),
    /// Standard output does not take it.
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
}

impl Explained for LogsError {
    fn fault(&self) -> Fault {
        match self {
            LogsError::Output(_) | LogsError::Changed(..) => Fault::Environment,
            _ => Fault::User,
        }
    }

    fn help(&self) -> Option<String> {
        match self {
            LogsError::Target(_) => Some("write RUN, RUN/JOB or RUN/JOB/STEP, such as 12/test/3".to_owned()),
            LogsError::Missing(_, _, _, known) => Some(format!("it has {known}")),
            LogsError::Changed(..) => Some("trust nothing of it; look after the controller's store and who can write to it".to_owned()),
            LogsError::Output(_) => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    run: RunId,
    job: Option<String>,
    step: Option<String>,
}

impl Target {
    fn parse(text: &str) -> Result<Target, LogsError> {
        let wrong = || LogsError::Target(text.to_owned());
        let mut parts = text.splitn(3, '/');
        let run = parts.next().and_then(|run| run.parse().ok()).map(RunId).ok_or_else(wrong)?;
        let mut part = || parts.next().map(str::to_owned).filter(|part| !part.is_empty());
        Ok(Target { run, job: part(), step: part() })
    }

    fn covers_job(&self, job: &JobView) -> bool {
        let named = |name: &str| job.key.0 == name || job.name == name || job.id.to_string() == name || job.id.index.to_string() == name;
        self.job.as_deref().is_none_or(named)
    }

    fn covers_step(&self, step: &StepView) -> bool {
        let named = |name: &str| step.index.0.to_string() == name || step.id.as_deref() == Some(name) || step.name == name;
        self.step.as_deref().is_none_or(named)
    }
}

/// Prints them.
pub(crate) fn run(arguments: fleet::Logs) -> Result<Exit, Failure> {
    let target = Target::parse(&arguments.target)?;
    let way = Way::settle(&arguments.reach)?;
    let runtime = runtime()?;
    let result = runtime.block_on(print(&arguments, &target, &way));
    runtime.shutdown_background();
    match result {
        // As a program that is killed by SIGPIPE: whoever reads has read enough.
        Err(Stop::ReaderGone) => Ok(Exit::PASSED),
        Err(Stop::Failed(failure)) => Err(failure),
        Ok(()) => Ok(Exit::PASSED),
    }
}

enum Stop {
    ReaderGone,
    Failed(Failure),
}

impl<E: Into<Failure>> From<E> for Stop {
    fn from(error: E) -> Stop {
        Stop::Failed(error.into())
    }
}

fn written(result: io::Result<()>) -> Result<(), Stop> {
    match result {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Stop::ReaderGone),
        Err(error) => Err(Stop::Failed(LogsError::Output(error).into())),
    }
}

async fn print(arguments: &fleet::Logs, target: &Target, way: &Way) -> Result<(), Stop> {
    let client = way.connect().await?;
    let failed = |source: ApiError| CallError { act: format!("read the logs of run {}", target.run), source };
    let detail = client.run(target.run).await.map_err(failed)?;
    if !arguments.follow {
        present(target, &detail)?;
    }
    let mut printer = Printer { out: io::stdout(), board: show::board_of(&detail), shape: Shape::of(arguments), done: HashSet::new() };
    if !arguments.follow {
        for job in detail.jobs.iter().filter(|job| target.covers_job(job)) {
            for step in detail.steps.iter().filter(|step| Some(step.attempt) == job.attempt && target.covers_step(step)) {
                printer.once(&client, step, target.run).await?;
            }
        }
        return Ok(());
    }
    let mut jobs: Vec<JobView> = Vec::new();
    let mut seen = 0;
    loop {
        let mut events = patiently(|| client.watch_run(target.run, seen)).await.map_err(failed)?;
        while let Some(event) = events.next().await {
            let event: NumberedEvent = match event {
                Ok(event) => event,
                // The connection broke; what was seen is not asked for again.
                Err(error) if error.is_transient() => break,
                Err(error) => return Err(failed(error).into()),
            };
            seen = event.number;
            printer.board.take(&News::Event(target.run, event.clone()));
            match event.event {
                RunEvent::Run(run) if run.state == RunState::Finished => return Ok(()),
                RunEvent::Job(job) => {
                    jobs.retain(|known| known.id != job.id);
                    jobs.push(job);
                }
                RunEvent::Step(step) => {
                    let job = jobs.iter().find(|job| job.id == step.attempt.job);
                    if job.is_some_and(|job| target.covers_job(job)) && target.covers_step(&step) {
                        // One after the other: steps of jobs that run side by side do not mix their lines.
                        printer.follow(&client, &step, target.run).await?;
                    }
                }
                _ => {}
            }
        }
    }
}

/// That the job and the step that were named exist.
fn present(target: &Target, detail: &RunDetail) -> Result<(), LogsError> {
    let missing = |kind, name: &Option<String>, known: Vec<String>| {
        LogsError::Missing(target.run, kind, name.clone().unwrap_or_default(), known.join(", "))
    };
    let jobs: Vec<&JobView> = detail.jobs.iter().filter(|job| target.covers_job(job)).collect();
    if jobs.is_empty() {
        return Err(missing("job", &target.job, detail.jobs.iter().map(|job| job.name.clone()).collect()));
    }
    let steps = || detail.steps.iter().filter(|step| jobs.iter().any(|job| job.attempt == Some(step.attempt)));
    if target.step.is_some() && !steps().any(|step| target.covers_step(step)) {
        return Err(missing("step", &target.step, steps().map(|step| step.name.clone()).collect()));
    }
    Ok(())
}

enum Shape {
    Raw,
    Timed(Splitter),
    Json(Box<Json<io::Stdout>>),
}

impl Shape {
    fn of(arguments: &fleet::Logs) -> Shape {
        match (arguments.json, arguments.timestamps) {
            (true, _) => Shape::Json(Box::new(Json::new(io::stdout()))),
            (false, true) => Shape::Timed(Splitter::default()),
            (false, false) => Shape::Raw,
        }
    }
}

struct Printer {
    out: io::Stdout,
    board: Board,
    shape: Shape,
    done: HashSet<(caisson_model::id::AttemptId, StepIndex)>,
}

impl Printer {
    async fn once(&mut self, client: &Client, step: &StepView, run: RunId) -> Result<(), Stop> {
        self.read(client, step, run, step.state == StepState::Finished).await
    }

    async fn follow(&mut self, client: &Client, step: &StepView, run: RunId) -> Result<(), Stop> {
        if !self.done.insert((step.attempt, step.index)) {
            return Ok(());
        }
        self.read(client, step, run, true).await
    }

    /// Prints one log from its beginning; `whole` says to wait for its seal, else what is there is enough.
    async fn read(&mut self, client: &Client, step: &StepView, run: RunId, whole: bool) -> Result<(), Stop> {
        let key = LogKey { attempt: step.attempt, step: step.index };
        let failed = |source: ApiError| CallError { act: format!("read the logs of run {run}"), source };
        let mut offset = 0;
        let (mut chain, mut whole_digest) = (Chain::default(), Sha256::new());
        'open: loop {
            let mut reads = match patiently(|| client.tail_log(key, offset)).await {
                // A step that was skipped has none.
                Err(ApiError::NotFound(_)) => return Ok(()),
                reads => reads.map_err(failed)?,
            };
            loop {
                let next = match whole {
                    true => reads.next().await,
                    false => match tokio::time::timeout(std::time::Duration::from_millis(500), reads.next()).await {
                        Ok(next) => next,
                        // The step goes on; what it wrote so far was asked for.
                        Err(_elapsed) => return Ok(()),
                    },
                };
                match next {
                    None => return Ok(()),
                    // The connection broke: on from the byte that was read last.
                    Some(Err(error)) if error.is_transient() => continue 'open,
                    Some(read) => {
                        let read = read.map_err(failed)?;
                        match &read {
                            LogRead::Chunk(chunk) if chunk.offset != offset => {
                                return Err(LogsError::Changed(key, "bytes are missing").into());
                            }
                            LogRead::Chunk(chunk) => {
                                offset += chunk.bytes.len() as u64;
                                chain.update(&chunk.bytes);
                                whole_digest.update(&chunk.bytes);
                            }
                            LogRead::Seal(seal) => {
                                if seal.total != offset || <[u8; 32]>::from(whole_digest.clone().finalize()) != seal.digest.0 {
                                    return Err(LogsError::Changed(key, "its length or digest differs").into());
                                }
                                if seal.chain.is_some_and(|head| head != chain.head()) {
                                    return Err(LogsError::Changed(key, "its hash chain differs").into());
                                }
                            }
                        }
                        written(self.show(key, &read))?;
                    }
                }
            }
        }
    }

    fn show(&mut self, key: LogKey, read: &LogRead) -> io::Result<()> {
        match &mut self.shape {
            Shape::Json(json) => json.news(&self.board, &News::Log(key, read.clone())),
            Shape::Timed(splitter) => {
                let at = match read {
                    LogRead::Chunk(chunk) => crate::view::json::time(Some(chunk.at)),
                    LogRead::Seal(_) => serde_json::Value::Null,
                };
                let at = at.as_str().unwrap_or("                        ").to_owned();
                for line in splitter.take(key, read) {
                    self.out.write_all(at.as_bytes())?;
                    self.out.write_all(b" ")?;
                    self.out.write_all(&line)?;
                    self.out.write_all(b"\n")?;
                }
                self.gaps(read)
            }
            Shape::Raw => {
                if let LogRead::Chunk(chunk) = read {
                    self.out.write_all(&chunk.bytes)?;
                }
                self.gaps(read)
            }
        }
    }

    fn gaps(&mut self, read: &LogRead) -> io::Result<()> {
        if let LogRead::Seal(seal) = read {
            for gap in &seal.gaps {
                crate::report::note(&format!("{} bytes after byte {} were not kept: {}", gap.bytes, gap.offset, gap.reason));
            }
        }
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_has_one_to_three_parts() {
        let part = |text: &str| Some(text.to_owned());
        for (text, job, step) in
            [("12", None, None), ("12/test", part("test"), None), ("12/a/b/c", part("a"), part("b/c")), ("12/", None, None)]
        {
            assert_eq!(Target::parse(text).ok(), Some(Target { run: RunId(12), job, step }), "{text}");
        }
        for text in ["", "x", "/1", "-1"] {
            assert!(Target::parse(text).is_err(), "{text}");
        }
    }
}
