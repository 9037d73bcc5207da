//! `caisson cancel`: ends runs in stages. One that had ended already stays as it ended, and the command says how.

use caisson_model::id::RunId;
use caisson_proto::api::ClientApi;
use serde_json::json;

use crate::cli::fleet;
use crate::commands::runtime;
use crate::embedded::CallError;
use crate::reach::Way;
use crate::report::{self, Exit, Failure};

/// Cancels them.
pub(crate) fn run(arguments: fleet::Cancel) -> Result<Exit, Failure> {
    let way = Way::settle(&arguments.reach)?;
    runtime()?.block_on(async {
        let client = way.connect().await?;
        for run in arguments.runs.iter().copied().map(RunId) {
            let failed = |source| CallError { act: format!("cancel run {run}"), source };
            let before = client.run(run).await.map_err(failed)?.run.outcome;
            client.cancel(run).await.map_err(failed)?;
            let text = match (before, arguments.json) {
                (None, true) => format!("{}\n", json!({ "type": "cancelled", "run": run })),
                (None, false) => format!("run {run} cancelled\n"),
                (Some(outcome), true) => format!("{}\n", json!({ "type": "ended", "run": run, "outcome": outcome })),
                (Some(outcome), false) => format!("run {run} had ended already: {outcome}\n"),
            };
            report::print(&text);
        }
        Ok(Exit::PASSED)
    })
}
