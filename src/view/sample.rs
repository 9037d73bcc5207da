//! Runs made up for tests of the views.

use std::time::Duration;

use caisson_model::id::{AttemptId, Digest, JobId, JobKey, RunId, StepIndex};
use caisson_model::log::{LogChunk, LogKey, LogRead, LogSeal};
use caisson_model::outcome::{
    Annotation, AnnotationLevel, Cause, EgressEntry, Enforcement, MissingProtection, Outcome, StepResult, Usage, Verdict,
};
use caisson_model::run::{JobState, JobView, NumberedEvent, RunEvent, RunState, RunView, StepState, StepView};
use caisson_model::time::Timestamp;

use crate::view::board::Board;
use crate::view::news::News;
use crate::view::screen::View;

const RUN: RunId = RunId(1);

fn attempt(index: u32) -> AttemptId {
    AttemptId { job: JobId { run: RUN, index }, number: 1 }
}

fn event(event: RunEvent) -> News {
    News::Event(RUN, NumberedEvent { number: 1, at: Timestamp(0), event })
}

fn run(state: RunState, outcome: Option<Outcome>) -> News {
    let finished = outcome.map(|_| Timestamp(15_000));
    event(RunEvent::Run(RunView {
        id: RUN,
        workflow: "Tests".into(),
        file: ".github/workflows/test.yml".into(),
        event: "push".into(),
        state,
        outcome,
        submitted: Timestamp(0),
        started: Some(Timestamp(500)),
        finished,
        rerun_of: None,
        ledger: None,
    }))
}

fn job(index: u32, name: &str, state: JobState, outcome: Option<Outcome>) -> News {
    let begun = !matches!(state, JobState::Waiting | JobState::Queued) && outcome != Some(Outcome::Skipped);
    event(RunEvent::Job(JobView {
        id: JobId { run: RUN, index },
        key: JobKey(name.split(' ').next().unwrap_or_default().into()),
        name: name.into(),
        state,
        outcome,
        cause: None,
        attempt: begun.then(|| attempt(index)),
        agent: None,
        started: begun.then_some(Timestamp(0)),
        finished: outcome.map(|_| Timestamp(14_000)),
        outputs: Default::default(),
    }))
}

fn step(job: u32, index: u32, name: &str, result: Option<StepResult>) -> News {
    event(RunEvent::Step(StepView {
        attempt: attempt(job),
        index: StepIndex(index),
        id: None,
        name: name.into(),
        state: if result.is_some() { StepState::Finished } else { StepState::Running },
        finished: result.is_some().then_some(Timestamp(3_500)),
        result,
        started: Timestamp(1_000),
    }))
}

fn result(outcome: Outcome, cause: Option<Cause>) -> StepResult {
    StepResult {
        outcome,
        conclusion: outcome,
        exit_code: match cause {
            Some(Cause::ExitCode { code }) => Some(code),
            _ => Some(0),
        },
        cause,
        usage: Usage { wall: Duration::from_millis(2_400), peak_memory_bytes: Some(96 << 20), ..Usage::default() },
        enforcement: Enforcement {
            enforced: vec!["seccomp".into()],
            missing: vec![MissingProtection { protection: "landlock".into(), reason: "this kernel has none".into() }],
        },
        egress: Vec::new(),
        annotations: Vec::new(),
        summary: String::new(),
    }
}

fn egress(host: &str, verdict: Verdict, rule: &str) -> EgressEntry {
    let bytes = if verdict == Verdict::Allowed { 2048 } else { 0 };
    EgressEntry { sent: bytes, received: bytes, ..EgressEntry::connection(Timestamp(2_000), host, 443, verdict, rule.into()) }
}

fn log(job: u32, step: u32, bytes: &[u8]) -> News {
    let key = LogKey { attempt: attempt(job), step: StepIndex(step) };
    News::Log(key, LogRead::Chunk(LogChunk { offset: 0, at: Timestamp(1_500), bytes: bytes.to_vec() }))
}

fn seal(job: u32, step: u32) -> News {
    let key = LogKey { attempt: attempt(job), step: StepIndex(step) };
    News::Log(key, LogRead::Seal(LogSeal { total: 0, digest: Digest([0; 32]), chain: None, gaps: Vec::new() }))
}

/// One job that runs a step, one that begins, one that waits.
pub(crate) fn running() -> Vec<News> {
    vec![
        run(RunState::Running, None),
        job(1, "lint", JobState::Running, None),
        job(2, "test (3.12)", JobState::Leased, None),
        job(3, "package", JobState::Waiting, None),
        step(1, 0, "Check style", None),
    ]
}

/// One job that passes, one that fails after trying to reach what it may not, one that is skipped for it.
pub(crate) fn failed() -> Vec<News> {
    let installed = StepResult {
        egress: vec![egress("pypi.org", Verdict::Allowed, "default: installs packages"); 3],
        ..result(Outcome::Success, None)
    };
    let remark = Annotation {
        level: AnnotationLevel::Error,
        message: "expected 2, got \u{1b}[31m3".into(),
        title: None,
        file: Some("polls/tests.py".into()),
        line: Some(12),
        column: None,
    };
    let broken = StepResult {
        egress: vec![egress("evil.example.com", Verdict::Refused, "no rule allows it")],
        annotations: vec![remark],
        summary: "## 41 of 42 tests passed\n".into(),
        ..result(Outcome::Failure, Some(Cause::ExitCode { code: 1 }))
    };
    vec![
        run(RunState::Running, None),
        job(1, "lint", JobState::Running, None),
        job(2, "test (3.12)", JobState::Running, None),
        step(1, 0, "Install", None),
        log(1, 0, b"##[group]Collecting\nCollecting django\n##[endgroup]\nDo"),
        step(2, 0, "Run tests", None),
        log(1, 0, b"ne\n"),
        seal(1, 0),
        step(1, 0, "Install", Some(installed)),
        job(1, "lint", JobState::Finished, Some(Outcome::Success)),
        log(2, 0, b"##[error]expected 2, got 3\n\x1b[31mFAILED\x1b[0m (failures=1)"),
        seal(2, 0),
        step(2, 0, "Run tests", Some(broken)),
        step(2, 1, "Upload", Some(result(Outcome::Skipped, None))),
        job(2, "test (3.12)", JobState::Finished, Some(Outcome::Failure)),
        job(3, "package", JobState::Finished, Some(Outcome::Skipped)),
        run(RunState::Finished, Some(Outcome::Failure)),
    ]
}

/// The board after these news.
pub(crate) fn board(news: &[News]) -> Board {
    let mut board = Board::default();
    news.iter().for_each(|news| board.take(news));
    board
}

/// What a view shows of these news, each taken in before it is shown.
pub(crate) fn shown(view: &mut dyn View, news: &[News]) -> std::io::Result<()> {
    let mut board = Board::default();
    for news in news {
        board.take(news);
        view.news(&board, news)?;
    }
    view.finish(&board)
}
