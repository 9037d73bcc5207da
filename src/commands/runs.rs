//! `caisson runs`: the runs that a controller knows.

use caisson_model::run::RunView;
use caisson_model::time::Timestamp;
use caisson_proto::api::ClientApi;

use crate::cli::fleet;
use crate::commands::runtime;
use crate::embedded::CallError;
use crate::reach::Way;
use crate::report::{self, Exit, Failure};
use crate::view::json::{run_object, time};
use crate::{clock, quantity, table};

/// Lists them.
pub(crate) fn run(arguments: fleet::Runs) -> Result<Exit, Failure> {
    let way = Way::settle(&arguments.reach)?;
    let runs = runtime()?.block_on(async {
        let client = way.connect().await?;
        client.list_runs(arguments.limit).await.map_err(|source| CallError { act: "list the runs".to_owned(), source })
    })?;
    if arguments.json {
        let text: String = runs.iter().map(|run| format!("{}\n", run_object(run, None))).collect();
        return Ok(report::print(&text));
    }
    let rows: Vec<Vec<String>> = runs
        .iter()
        .map(|run| vec![run.id.to_string(), run.workflow.clone(), run.event.clone(), state(run), moment(run.submitted), taken(run)])
        .collect();
    Ok(report::print(&table::render(&["run", "workflow", "event", "state", "submitted", "time"], &rows)))
}

/// Where a run is, or how it ended.
pub(crate) fn state(run: &RunView) -> String {
    match run.outcome {
        Some(outcome) => word(&outcome),
        None => word(&run.state),
    }
}

/// A word of the model as it stands in JSON.
pub(crate) fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// A point in time for people.
pub(crate) fn moment(at: Timestamp) -> String {
    let text = time(Some(at));
    text.as_str().map(|text| text.get(..19).unwrap_or(text).replace('T', " ")).unwrap_or_default()
}

/// How long a run took, or has taken.
fn taken(run: &RunView) -> String {
    let from = run.started.unwrap_or(run.submitted);
    quantity::elapsed(run.finished.unwrap_or_else(clock::now).since(from))
}
