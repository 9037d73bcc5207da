//! `caisson doctor`: what this host can enforce, and what to do about each lack.

mod around;
mod standing;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::File;
use std::os::fd::OwnedFd;

use caisson_agent::host::HostRules;
use caisson_agent::lower::{self, Request, Watch};
use caisson_agent::probe::is_needed;
use caisson_agent::view::{self, System};
use caisson_model::outcome::Fault;
use caisson_model::policy::Grant;
use caisson_sandbox::error::StartError;
use caisson_sandbox::host::{CgroupLayout, Finding, Host};
use caisson_sandbox::launcher::{Launcher, Options, Stdio};
use caisson_sandbox::protection::Protection;
use caisson_sandbox::spec::{Ids, Profile};
use console::style;
use serde_json::json;

use crate::cli;
use crate::commands::doctor::around::Around;
use crate::commands::doctor::standing::{Standing, State};
use crate::commands::surroundings;
use crate::config::{Config, Flags};
use crate::machine;
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

/// Everything that was found.
struct Found {
    host: Host,
    around: Around,
    standings: Vec<Standing>,
    /// Why not even one sandbox could be built and its program run; `None` when it could.
    sandbox: Option<String>,
}

/// Probes, starts a launcher and builds one sandbox to see what really holds, and shows it.
pub(crate) fn run(arguments: cli::Doctor) -> Result<Exit, Failure> {
    let (environment, root) = surroundings();
    let config = Config::settle(&environment, root, Flags { machine: arguments.machine, ..Flags::default() })?;
    let options = Options { warm: 0, ..Options::default() };
    let host = Host::probe(options.ids).map_err(ProbeError)?;
    let around = Around::look();
    let launcher = Launcher::start(&options).map_err(|error| error.to_string());
    let missing: Vec<(Protection, String)> = match &launcher {
        Ok(launcher) => launcher.standing().missing.iter().map(|lack| (lack.protection, lack.reason.clone())).collect(),
        Err(reason) => Protection::ALL.iter().filter(|held| is_needed(**held)).map(|held| (*held, reason.clone())).collect(),
    };
    let enforceable = launcher.as_ref().map(|launcher| launcher.standing().enforceable.clone()).unwrap_or_default();
    let sandbox = match &launcher {
        Ok(launcher) => build(launcher, &machine::rules(&config, &environment), missing.iter().map(|(lack, _)| *lack).collect()),
        Err(reason) => Some(reason.clone()),
    };
    drop(launcher);
    let standing = |protection: Protection| {
        if enforceable.contains(&protection) {
            return Some(Standing::enforced(protection));
        }
        let (_, reason) = missing.iter().find(|(lack, _)| *lack == protection)?;
        Some(Standing::missing(protection, reason, config.allow_missing.value.contains(&protection), host.mode, &around))
    };
    let standings = Protection::ALL.into_iter().filter_map(standing).collect();
    let found = Found { host, around, standings, sandbox };
    let printed = report::print(&if arguments.json { format!("{:#}\n", found.json()) } else { found.text() });
    Ok(if printed == Exit::PASSED { found.exit() } else { printed })
}

/// Builds one sandbox as a step gets it and runs a program in it; why that did not work.
fn build(launcher: &Launcher, host: &HostRules, lacking: BTreeSet<Protection>) -> Option<String> {
    let request = Request {
        program: "true".into(),
        args: Vec::new(),
        env: vec![("PATH".to_owned(), view::PATH.to_owned())],
        cwd: "/".into(),
        ids: Ids::Default,
        system: System::ReadOnly,
        mounts: Vec::new(),
        counted: Vec::new(),
        profile: Profile::Default,
        files: Vec::new(),
        secrets: Vec::new(),
        timeout: None,
        watch: Watch::Silent,
    };
    let (mut spec, _) = lower::spec(&Grant::default(), host, request);
    spec.allow_missing = lacking;
    let null = || File::options().read(true).write(true).open("/dev/null").map(OwnedFd::from);
    let stdio = match (null(), null(), null()) {
        (Ok(stdin), Ok(stdout), Ok(stderr)) => Stdio { stdin, stdout, stderr },
        _ => return Some("/dev/null cannot be opened".to_owned()),
    };
    let ended = launcher
        .launch(&spec, stdio)
        .map_err(|error| error.to_string())
        .and_then(|running| running.wait().map_err(|error| error.to_string()));
    match ended {
        Ok(outcome) if outcome.code() == 0 => None,
        Ok(outcome) => Some(format!("`true` ended with {}", outcome.code())),
        Err(reason) => Some(reason),
    }
}

impl Found {
    fn refusing(&self) -> Vec<String> {
        let refusing = self.standings.iter().filter(|standing| standing.state == State::RefusesSteps);
        refusing.map(|standing| standing.protection.to_string()).collect()
    }

    fn ok(&self) -> bool {
        self.refusing().is_empty() && self.sandbox.is_none()
    }

    fn exit(&self) -> Exit {
        if self.ok() { Exit::PASSED } else { Exit::ENVIRONMENT }
    }

    fn json(&self) -> serde_json::Value {
        let lacks = self.standings.iter().filter(|standing| standing.state != State::Enforced).map(|standing| {
            let needed = is_needed(standing.protection);
            json!({"protection": standing.protection.to_string(), "reason": standing.reason, "action": standing.action, "needed": needed,
                "allowed": standing.state == State::Allowed})
        });
        let enforced = self.standings.iter().filter(|standing| standing.state == State::Enforced);
        json!({"ok": self.ok(), "version": env!("CARGO_PKG_VERSION"), "kernel": self.host.kernel, "mode": self.host.mode,
            "cgroup": self.host.cgroup, "around": self.around, "facts": self.host.facts, "protections": self.standings,
            "enforceable": enforced.map(|standing| standing.protection.to_string()).collect::<Vec<_>>(), "missing": lacks.collect::<Vec<_>>(),
            "sandbox": {"built": self.sandbox.is_none(), "reason": self.sandbox}})
    }

    fn text(&self) -> String {
        let layout = match self.host.cgroup {
            CgroupLayout::V2 => "version 2",
            CgroupLayout::V1 => "version 1",
            CgroupLayout::Absent => "none mounted",
        };
        // Writing to a String cannot fail.
        let mut text = format!("Linux {}, {}, {}, cgroups: {layout}\n\n", self.host.kernel, self.host.mode, self.around);
        for fact in &self.host.facts {
            let name = json!(fact.subject);
            let name = name.as_str().unwrap_or_default();
            let _ = match &fact.finding {
                Finding::Present { detail } => writeln!(text, "  {} {name:<22} {detail}", style("ok  ").green()),
                Finding::Lacking { reason, action } if action.is_empty() => {
                    writeln!(text, "  {} {name:<22} {reason}", style("lack").yellow())
                }
                Finding::Lacking { reason, action } => {
                    writeln!(text, "  {} {name:<22} {reason}\n       {:<22} do: {action}", style("lack").yellow(), "")
                }
            };
        }
        text.push_str("\nEnforced in every sandbox:\n");
        for standing in &self.standings {
            let name = standing.protection.name();
            let _ = match (&standing.reason, &standing.action) {
                (Some(reason), action) => {
                    let words = standing.state.words();
                    let words = if standing.state == State::RefusesSteps { style(words).red() } else { style(words).yellow() };
                    writeln!(text, "  {} {name:<22} {words}: {reason}", style("no  ").yellow())
                        .and_then(|()| writeln!(text, "       {:<22} do: {}", "", action.as_deref().unwrap_or("nothing")))
                }
                _ => writeln!(text, "  {} {name}", style("yes ").green()),
            };
        }
        if let Some(reason) = &self.sandbox {
            let _ = writeln!(text, "\n{}: {reason}", style("No sandbox can be built here").red());
        }
        let refusing = self.refusing().join(",");
        if !refusing.is_empty() {
            let _ = writeln!(text, "\nTo go on without: --allow-missing {refusing}, or allow_missing in config.toml.");
        } else if self.ok() {
            text.push_str("\nThis host enforces everything that the default policy needs; one sandbox was built to see it.\n");
        }
        text
    }
}
