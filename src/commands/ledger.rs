//! `caisson ledger`: everything that a run's steps tried to reach, with its chain built anew.

use caisson_model::id::RunId;
use caisson_model::outcome::Bytes;
use caisson_proto::api::ClientApi;

use crate::chain::{self, Link};
use crate::cli::fleet;
use crate::commands::{runs, runtime, show};
use crate::embedded::CallError;
use crate::reach::Way;
use crate::report::{self, Exit, Failure};
use crate::table;
use crate::view::board::Board;
use crate::view::json::egress_object;

/// Shows it.
pub(crate) fn run(arguments: fleet::Ledger) -> Result<Exit, Failure> {
    let way = Way::settle(&arguments.reach)?;
    let run = RunId(arguments.run);
    let (detail, chain) = runtime()?.block_on(async {
        let client = way.connect().await?;
        let detail = client.run(run).await.map_err(|source| CallError { act: format!("show run {run}"), source })?;
        let chain = chain::read(&client, &detail).await?;
        Ok::<_, CallError>((detail, chain))
    })?;
    let board = show::board_of(&detail);
    let exit = if chain.is_whole(arguments.head) { Exit::PASSED } else { Exit::FAILED };
    let mut text = String::new();
    if arguments.json {
        for link in &chain.links {
            let mut object = egress_object(&board, link.attempt, link.step, &link.entry);
            object["digest"] = link.after.head.to_string().into();
            text.push_str(&format!("{object}\n"));
        }
        text.push_str(&format!("{}\n", chain.object(arguments.head)));
    } else {
        let rows: Vec<Vec<String>> = chain.links.iter().map(|link| row(&board, link)).collect();
        if !rows.is_empty() {
            let heading = ["time", "step", "process", "what", "target", "address", "bytes", "verdict", "rule", "digest"];
            text.push_str(&table::render(&heading, &rows));
        }
        text.push_str(&format!("{}\n", chain.verdict(arguments.head)));
    }
    report::print(&text);
    Ok(exit)
}

fn row(board: &Board, link: &Link) -> Vec<String> {
    let entry = &link.entry;
    let place = egress_object(board, link.attempt, link.step, entry);
    let named = |key: &str| place[key].as_str().unwrap_or_default().to_owned();
    let process = entry.lineage.iter().map(|process| format!("{}[{}]", process.name, process.pid)).collect::<Vec<_>>().join(" < ");
    let (target, digest) = match &entry.package {
        Some(package) => (format!("{}:{} {}", package.ecosystem, package.name, package.file), package.digest.clone()),
        None => (entry.target(), String::new()),
    };
    vec![
        runs::moment(entry.at),
        format!("{}/{}", named("job_name"), named("step_name")),
        process,
        runs::word(&entry.kind),
        target.trim_end().to_owned(),
        entry.address.clone().unwrap_or_default(),
        format!("{}/{}", Bytes(entry.sent), Bytes(entry.received)),
        runs::word(&entry.verdict),
        entry.rule.clone(),
        digest,
    ]
}
