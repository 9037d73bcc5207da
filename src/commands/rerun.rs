//! `caisson rerun`: an ended run once more, whole or what failed of it.

use std::sync::Arc;

use caisson_model::id::RunId;
use caisson_model::run::RerunScope;
use caisson_proto::api::ClientApi;
use serde_json::json;

use crate::artifacts::Destination;
use crate::cli::fleet;
use crate::commands::runtime;
use crate::embedded::CallError;
use crate::follow::{self, Followed, Interrupts};
use crate::reach::Way;
use crate::report::{self, Exit, Failure};
use crate::view;

/// Runs it again.
pub(crate) fn run(arguments: fleet::Rerun) -> Result<Exit, Failure> {
    let way = Way::settle(&arguments.reach)?;
    let runtime = runtime()?;
    let result = runtime.block_on(again(&arguments, &way));
    runtime.shutdown_background();
    result
}

async fn again(arguments: &fleet::Rerun, way: &Way) -> Result<Exit, Failure> {
    let mut interrupts = Interrupts::catch()?;
    let client = way.connect().await?;
    let run = RunId(arguments.run);
    let scope = if arguments.failed { RerunScope::Failed } else { RerunScope::All };
    let new = client.rerun(run, scope).await.map_err(|source| CallError { act: format!("run {run} again"), source })?;
    if !arguments.follow {
        let text = match arguments.output.json {
            true => format!("{}\n", json!({ "type": "rerun", "run": new, "rerun_of": run })),
            false => format!("run {new}\n"),
        };
        return Ok(report::print(&text));
    }
    let mut view = view::of(&arguments.output);
    match follow::follow(Arc::new(client), &[new], view.as_mut(), &mut interrupts, std::future::pending(), &Destination::Nowhere).await? {
        Followed::Ended(exit) => Ok(exit),
        Followed::Killed => Ok(Exit::CANCELLED),
    }
}
