//! `caisson explain`: why the jobs of a run are not running.

use caisson_model::id::RunId;
use caisson_proto::api::ClientApi;
use serde_json::json;

use crate::cli::fleet;
use crate::commands::{runs, runtime};
use crate::embedded::CallError;
use crate::reach::Way;
use crate::report::{self, Exit, Failure};
use crate::view::text::clean;

/// Explains it.
pub(crate) fn run(arguments: fleet::Explain) -> Result<Exit, Failure> {
    let way = Way::settle(&arguments.reach)?;
    let run = RunId(arguments.run);
    let (detail, explanations) = runtime()?.block_on(async {
        let client = way.connect().await?;
        let failed = |source| CallError { act: format!("explain run {run}"), source };
        Ok::<_, Failure>((client.run(run).await.map_err(failed)?, client.explain(run).await.map_err(failed)?))
    })?;
    let mut text = String::new();
    for explanation in &explanations {
        let job = detail.jobs.iter().find(|job| job.id == explanation.job);
        let (name, state) = job.map(|job| (job.name.clone(), runs::word(&job.state))).unwrap_or_default();
        if arguments.json {
            let object = json!({
                "type": "explanation", "run": run, "job": explanation.job.to_string(), "job_name": name, "state": state, "reasons": explanation.reasons,
            });
            text.push_str(&format!("{object}\n"));
        } else {
            text.push_str(&clean(&format!("{} {name} ({state})\n", explanation.job), false));
            explanation.reasons.iter().for_each(|reason| text.push_str(&format!("  {}\n", clean(reason, false))));
        }
    }
    if explanations.is_empty() && !arguments.json {
        text = format!("run {run} is {}: no job of it waits\n", runs::state(&detail.run));
    }
    Ok(report::print(&text))
}
