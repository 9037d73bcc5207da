//! A run's ledger as the history of a controller gives it, with its chain built anew, beside what the run's record says.

use caisson_model::id::{AttemptId, Digest, StepIndex};
use caisson_model::ledger::LedgerHead;
use caisson_model::outcome::EgressEntry;
use caisson_model::run::RunEvent;
use caisson_proto::api::{ClientApi, RunDetail};
use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::embedded::CallError;

/// One link.
pub(crate) struct Link {
    /// Whose it is.
    pub(crate) attempt: AttemptId,
    /// As above.
    pub(crate) step: StepIndex,
    /// What was tried.
    pub(crate) entry: EgressEntry,
    /// Where the chain stands after it.
    pub(crate) after: LedgerHead,
}

/// The chain as the history gives it, and as the run's record has it.
pub(crate) struct Chain {
    /// Every entry, in the order in which its step ended.
    pub(crate) links: Vec<Link>,
    recorded: Option<LedgerHead>,
    begin: LedgerHead,
}

impl Chain {
    /// Where it ends.
    fn head(&self) -> LedgerHead {
        self.links.last().map_or(self.begin, |link| link.after)
    }

    /// Whether it ends where the record says, and with `expected` where that is given.
    pub(crate) fn is_whole(&self, expected: Option<Digest>) -> bool {
        self.head() == self.recorded.unwrap_or(self.begin) && expected.is_none_or(|expected| expected == self.head().head)
    }

    /// As the last line of it, and in what `caisson show` says.
    pub(crate) fn object(&self, expected: Option<Digest>) -> Value {
        let head = self.head();
        json!({
            "type": "ledger",
            "entries": head.entries,
            "head": head.head.to_string(),
            "recorded": self.recorded,
            "whole": self.is_whole(expected),
        })
    }

    /// One line for people.
    pub(crate) fn verdict(&self, expected: Option<Digest>) -> String {
        let head = self.head();
        let (entries, plural) = (head.entries, if head.entries == 1 { "entry" } else { "entries" });
        match (self.is_whole(expected), self.recorded) {
            (true, _) => format!("ledger is whole: {entries} {plural}, head {}", head.head),
            (false, Some(recorded)) if recorded != head => format!(
                "ledger is BROKEN: {entries} {plural} end in {}, but the run's record says {} with head {}",
                head.head, recorded.entries, recorded.head
            ),
            (false, _) => format!("ledger is BROKEN: {entries} {plural} end in {}, which is not the head that was expected", head.head),
        }
    }
}

/// Reads a run's history up to where its record says that the chain stands.
pub(crate) async fn read(client: &impl ClientApi, detail: &RunDetail) -> Result<Chain, CallError> {
    let run = detail.run.id;
    let failed = |source| CallError { act: format!("read the history of run {run}"), source };
    let (begin, recorded) = (LedgerHead::begin(run), detail.run.ledger);
    let mut chain = Chain { links: Vec::new(), recorded, begin };
    // A run that goes on may add to it meanwhile, and does not end.
    let goes_on = detail.run.finished.is_none();
    let enough = |chain: &Chain| goes_on && chain.head().entries >= recorded.map_or(0, |head| head.entries);
    if enough(&chain) {
        return Ok(chain);
    }
    let mut history = client.watch_run(run, 0).await.map_err(failed)?;
    while let Some(event) = history.next().await {
        let RunEvent::Step(view) = event.map_err(failed)?.event else { continue };
        for entry in view.result.into_iter().flat_map(|result| result.egress) {
            let after = chain.head().with(view.attempt, view.index, &entry);
            chain.links.push(Link { attempt: view.attempt, step: view.index, entry, after });
        }
        if enough(&chain) {
            break;
        }
    }
    Ok(chain)
}
