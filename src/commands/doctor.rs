//! `caisson doctor`: what this host can enforce, and what to do about each lack.

use std::fmt::Write as _;

use caisson_agent::probe::is_needed;
use caisson_model::outcome::Fault;
use caisson_sandbox::error::StartError;
use caisson_sandbox::host::{CgroupLayout, Finding, Host};
use caisson_sandbox::launcher::{Launcher, Options};
use caisson_sandbox::protection::Protection;
use console::style;
use serde_json::json;

use crate::cli;
use crate::commands::surroundings;
use crate::config::{Config, Flags};
use crate::report::{self, Exit, Explained, Failure};

/// The host could not be looked at.
#[derive(Debug, thiserror::Error)]
#[error("this host cannot be probed")]
struct ProbeError(#[source] StartError);

impl Explained for ProbeError {
    fn fault(&self) -> Fault {
        Fault::Environment
    }
}

/// Probes, starts a launcher to see what really holds, and shows both.
pub(crate) fn run(arguments: cli::Doctor) -> Result<Exit, Failure> {
    let (environment, root) = surroundings();
    let config = Config::settle(&environment, root, Flags { machine: arguments.machine, ..Flags::default() })?;
    let options = Options { warm: 0, ..Options::default() };
    let host = Host::probe(options.ids).map_err(ProbeError)?;
    let launcher = Launcher::start(&options).map_err(|error| error.to_string());
    let mut missing: Vec<(Protection, String)> = Vec::new();
    let mut enforceable = Vec::new();
    match &launcher {
        Ok(launcher) => {
            enforceable.clone_from(&launcher.standing().enforceable);
            missing.extend(launcher.standing().missing.iter().map(|lack| (lack.protection, lack.reason.clone())));
        }
        Err(reason) => missing.extend(Protection::ALL.iter().filter(|held| is_needed(**held)).map(|held| (*held, reason.clone()))),
    }
    drop(launcher);
    let needed = |protection: &Protection| is_needed(*protection);
    let allowed = |protection: &Protection| config.allow_missing.value.contains(protection);
    let blocking = missing.iter().filter(|(protection, _)| needed(protection) && !allowed(protection)).count();
    let exit = if blocking == 0 { Exit::PASSED } else { Exit::ENVIRONMENT };
    if arguments.json {
        let lacks: Vec<_> = missing
            .iter()
            .map(|(protection, reason)| {
                json!({"protection": protection.to_string(), "reason": reason, "needed": needed(protection), "allowed": allowed(protection)})
            })
            .collect();
        let enforced: Vec<String> = enforceable.iter().map(ToString::to_string).collect();
        let object = json!({"ok": blocking == 0, "version": env!("CARGO_PKG_VERSION"), "kernel": host.kernel, "mode": host.mode,
            "cgroup": host.cgroup, "facts": host.facts, "enforceable": enforced, "missing": lacks});
        let printed = report::print(&format!("{object:#}\n"));
        return Ok(if printed == Exit::PASSED { exit } else { printed });
    }
    let mut text = String::new();
    let layout = match host.cgroup {
        CgroupLayout::V2 => "version 2",
        CgroupLayout::V1 => "version 1",
        CgroupLayout::Absent => "none mounted",
    };
    // Writing to a String cannot fail.
    let _ = writeln!(text, "Linux {}, {}, cgroups: {layout}\n", host.kernel, host.mode);
    for fact in &host.facts {
        let name = json!(fact.subject);
        let name = name.as_str().unwrap_or_default();
        let _ = match &fact.finding {
            Finding::Present { detail } => writeln!(text, "  {} {name:<22} {detail}", style("ok  ").green()),
            Finding::Lacking { reason, action } if action.is_empty() => writeln!(text, "  {} {name:<22} {reason}", style("lack").yellow()),
            Finding::Lacking { reason, action } => {
                writeln!(text, "  {} {name:<22} {reason}\n       {:<22} do: {action}", style("lack").yellow(), "")
            }
        };
    }
    let _ = writeln!(text, "\nEnforced in every sandbox: {}", enforceable.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
    for (protection, reason) in &missing {
        let verdict = match (needed(protection), allowed(protection)) {
            (true, false) => style("refuses every step").red().to_string(),
            (true, true) => "needed, its lack is allowed by name".to_owned(),
            (false, _) if protection.best_effort() => "best effort".to_owned(),
            (false, _) => "refuses a step that asks for it".to_owned(),
        };
        let _ = writeln!(text, "Not enforced: {protection} ({verdict}): {reason}");
    }
    let refused: Vec<String> = missing
        .iter()
        .filter(|(protection, _)| needed(protection) && !allowed(protection))
        .map(|(protection, _)| protection.to_string())
        .collect();
    if refused.is_empty() {
        let _ = writeln!(text, "\nThis host enforces everything that the default policy needs.");
    } else {
        let names = refused.join(",");
        let _ = writeln!(text, "\nTo go on without: --allow-missing {names}, or allow_missing in config.toml.");
    }
    let printed = report::print(&text);
    Ok(if printed == Exit::PASSED { exit } else { printed })
}
