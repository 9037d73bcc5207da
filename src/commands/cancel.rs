//! `caisson cancel`: ends runs in stages.

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
            client.cancel(run).await.map_err(|source| CallError { act: format!("cancel run {run}"), source })?;
            let text = match arguments.json {
                true => format!("{}\n", json!({ "type": "cancelled", "run": run })),
                false => format!("run {run} cancelled\n"),
            };
            report::print(&text);
        }
        Ok(Exit::PASSED)
    })
}
