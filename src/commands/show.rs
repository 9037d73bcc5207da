//! `caisson show`: one run with its jobs and steps.

use caisson_model::id::RunId;
use caisson_model::run::{NumberedEvent, RunEvent};
use caisson_model::time::Timestamp;
use caisson_proto::api::{ClientApi, RunDetail};
use serde_json::Value;

use crate::chain;
use crate::cli::fleet;
use crate::commands::{runs, runtime};
use crate::embedded::CallError;
use crate::reach::Way;
use crate::report::{self, Exit, Failure};
use crate::table;
use crate::view::board::Board;
use crate::view::json::{job_object, run_object, step_object};
use crate::view::news::News;

/// Shows it.
pub(crate) fn run(arguments: fleet::Show) -> Result<Exit, Failure> {
    let way = Way::settle(&arguments.reach)?;
    let run = RunId(arguments.run);
    let (detail, chain) = runtime()?.block_on(async {
        let client = way.connect().await?;
        let detail = client.run(run).await.map_err(|source| CallError { act: format!("show run {run}"), source })?;
        let chain = chain::read(&client, &detail).await?;
        Ok::<_, CallError>((detail, chain))
    })?;
    let board = board_of(&detail);
    if arguments.json {
        let mut object = object(&board, &detail);
        object["ledger"] = chain.object(None);
        return Ok(report::print(&format!("{object}\n")));
    }
    let mut text =
        format!("run {run}  {}  ({}, {})  {}\n\n", detail.run.workflow, detail.run.file, detail.run.event, runs::state(&detail.run));
    let mut rows = Vec::new();
    for job in &detail.jobs {
        let state = job.outcome.map_or_else(|| runs::word(&job.state), |outcome| runs::word(&outcome));
        let agent = job.agent.as_ref().map(ToString::to_string).unwrap_or_default();
        let cause = job.cause.as_ref().map(ToString::to_string).unwrap_or_default();
        rows.push(vec![job.id.to_string(), job.name.clone(), state, agent, cause]);
        for step in detail.steps.iter().filter(|step| Some(step.attempt) == job.attempt) {
            let state = step.result.as_ref().map_or_else(|| runs::word(&step.state), |result| runs::word(&result.outcome));
            let cause = step.result.as_ref().and_then(|result| result.cause.as_ref()).map(ToString::to_string).unwrap_or_default();
            rows.push(vec![format!("  /{}", step.index.0), format!("  {}", step.name), state, String::new(), cause]);
        }
    }
    text.push_str(&table::render(&["job", "name", "state", "agent", "cause"], &rows));
    text.push_str(&format!("\n{}\n", chain.verdict(None)));
    Ok(report::print(&text))
}

/// What the detail says, as a board of a run that is watched would know it.
pub(crate) fn board_of(detail: &RunDetail) -> Board {
    let mut board = Board::default();
    let run = detail.run.id;
    let events = std::iter::once(RunEvent::Run(detail.run.clone()))
        .chain(detail.jobs.iter().cloned().map(RunEvent::Job))
        .chain(detail.steps.iter().cloned().map(RunEvent::Step));
    for event in events {
        board.take(&News::Event(run, NumberedEvent { number: 0, at: Timestamp::default(), event }));
    }
    board
}

fn object(board: &Board, detail: &RunDetail) -> Value {
    let mut run = run_object(&detail.run, None);
    let jobs = detail.jobs.iter().map(|job| {
        let mut object = job_object(board, job);
        let steps = detail.steps.iter().filter(|step| Some(step.attempt) == job.attempt);
        object["steps"] = steps.map(|step| step_object(board, step)).collect();
        object
    });
    run["jobs"] = jobs.collect();
    run
}
