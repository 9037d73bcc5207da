//! `caisson trust`: shows a checkout's own policy and lets exactly this content count.

use std::path::PathBuf;

use caisson_model::outcome::Fault;

use crate::cli;
use crate::commands::surroundings;
use crate::config::Places;
use crate::policy_file::{IN_CHECKOUT, PolicyFile};
use crate::report::{self, Exit, Explained, Failure};
use crate::selection;
use crate::trust::{Ledger, Standing};

/// There is nothing to trust.
#[derive(Debug, thiserror::Error)]
#[error("{} has no policy of its own", .0.display())]
struct NoPolicy(PathBuf);

impl Explained for NoPolicy {
    fn fault(&self) -> Fault {
        Fault::User
    }

    fn help(&self) -> Option<String> {
        Some(format!("write {IN_CHECKOUT}; README.md shows what it may say"))
    }
}

/// Shows and records, takes back, or lists.
pub(crate) fn run(arguments: &cli::Trust) -> Result<Exit, Failure> {
    let (environment, root) = surroundings();
    let places = Places::of(&environment, root)?;
    let mut ledger = Ledger::open(&places)?;
    if arguments.list {
        let mut text = String::new();
        for (checkout, digest) in ledger.entries() {
            let state = match PolicyFile::read(&checkout.join(IN_CHECKOUT)) {
                Ok(Some(file)) if file.digest == digest => "trusted",
                Ok(Some(_)) => "changed since: does not count",
                _ => "gone",
            };
            text.push_str(&format!("{}  {digest}  {state}\n", checkout.display()));
        }
        return Ok(report::print(if text.is_empty() { "nothing is trusted\n" } else { &text }));
    }
    let checkout = selection::checkout(&arguments.directory)?;
    if arguments.revoke {
        let known = ledger.revoke(&checkout)?;
        let text = if known { "no longer trusted" } else { "was not trusted" };
        return Ok(report::print(&format!("{}: {text}\n", checkout.display())));
    }
    let Some(file) = PolicyFile::read(&checkout.join(IN_CHECKOUT))? else { return Err(NoPolicy(checkout).into()) };
    // What is not understood must not be accepted: it would count as soon as it is.
    file.rules(IN_CHECKOUT)?;
    let before = ledger.standing(&checkout, file.digest);
    ledger.trust(&checkout, file.digest)?;
    let verdict = match before {
        Standing::Trusted => "was trusted already",
        Standing::Changed => "has changed and is trusted now",
        Standing::Unknown => "is trusted now",
    };
    let shown: String = file.text.lines().map(|line| format!("  | {}\n", console::strip_ansi_codes(line))).collect();
    let take_back = format!("take it back with `caisson trust --revoke {}`", arguments.directory.display());
    Ok(report::print(&format!("{}:\n{shown}{} {verdict}; {take_back}\n", file.path.display(), file.digest)))
}
