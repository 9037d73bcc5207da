//! `caisson submit`: hands the workflows of a checkout to a controller, and watches them if asked.

use std::sync::Arc;

use caisson_controller::mirror::Mirror;
use caisson_controller::policy::Rules;
use caisson_model::run::Submission;

use crate::artifacts::Destination;
use crate::cells;
use crate::cli;
use crate::commands::{runtime, surroundings};
use crate::config::Places;
use crate::embedded;
use crate::follow::{self, Followed, Interrupts};
use crate::reach::Way;
use crate::report::{self, Exit, Failure};
use crate::selection::{self, Chosen};
use crate::source::{self, Snapshot};
use crate::state::State;
use crate::view;

/// Submits.
pub(crate) fn run(arguments: cli::Submit) -> Result<Exit, Failure> {
    let (environment, root) = surroundings();
    let places = Places::of(&environment, root)?;
    let way = Way::settle(&arguments.reach)?;
    let chosen = selection::choose(&arguments.selection, &environment)?;
    chosen.notes.iter().for_each(|note| report::note(note));
    if chosen.submissions.is_empty() {
        report::note("nothing runs: the filters of `on:` keep every workflow back");
        return Ok(Exit::PASSED);
    }
    cells::check(&chosen.submissions, &Rules::default(), &Mirror::default())?;
    let state = State::of_checkout(&places.state.join("submit"), &chosen.checkout)?;
    let snapshot = source::pack(&chosen.checkout, chosen.repository.as_ref(), &state.scratch)?;
    snapshot.notes.iter().for_each(|note| report::note(note));
    let runtime = runtime()?;
    let result = runtime.block_on(hand_in(&arguments, &way, chosen, snapshot));
    runtime.shutdown_background();
    result
}

async fn hand_in(arguments: &cli::Submit, way: &Way, chosen: Chosen, snapshot: Snapshot) -> Result<Exit, Failure> {
    let mut interrupts = Interrupts::catch()?;
    let client = way.connect().await?;
    let digest = snapshot.digest;
    embedded::put(&client, snapshot).await?;
    let mut runs = Vec::new();
    let mut refused: Option<Failure> = chosen.refused.map(Failure::from);
    refused.iter().for_each(|refused| report::say(&refused.render()));
    for submission in chosen.submissions {
        let file = submission.file.clone();
        let submitted = embedded::submit(&client, Submission { source: Some(digest), priority: arguments.priority, ..submission }).await;
        let submitted = match submitted.map_err(Failure::from) {
            Ok(submitted) => submitted,
            // The others are as good as they were: one that was not named does not stop them.
            Err(failure) if !failure.findings.is_empty() && !chosen.named => {
                report::say(&failure.render());
                refused = Some(failure);
                continue;
            }
            Err(failure) => return Err(failure),
        };
        submitted.warnings.iter().for_each(|finding| report::say(report::finding_text(finding).trim_end()));
        runs.push((submitted.run, file));
    }
    let exit = refused.as_ref().map_or(Exit::PASSED, Failure::exit);
    if runs.is_empty() {
        return Ok(exit);
    }
    if !arguments.follow {
        if arguments.output.json {
            let object =
                |(run, file): &(_, _)| format!("{}\n", serde_json::json!({ "type": "run", "id": run, "file": file, "state": "queued" }));
            return Ok(report::print(&runs.iter().map(object).collect::<String>()).worst(exit));
        }
        let text: String = runs.iter().map(|(run, file)| format!("run {run}  {file}\n")).collect();
        return Ok(report::print(&text).worst(exit));
    }
    let runs: Vec<_> = runs.into_iter().map(|(run, _)| run).collect();
    let mut view = view::of(&arguments.output);
    let broken = std::future::pending();
    let artifacts = arguments.artifacts.clone().map_or(Destination::Nowhere, Destination::Named);
    match follow::follow(Arc::new(client), &runs, view.as_mut(), &mut interrupts, broken, &artifacts).await? {
        Followed::Ended(ended) => Ok(if ended == Exit::PASSED { exit } else { ended }),
        Followed::Killed => Ok(Exit::CANCELLED),
    }
}
