//! `caisson run`: the workflows of a checkout, with a controller and an agent in this process.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use caisson_controller::policy::Rules;
use caisson_controller::secrets::Secrets;
use caisson_controller::secrets::given::Given;
use caisson_controller::service::Service;
use caisson_model::id::RunId;
use caisson_model::run::Submission;
use caisson_model::secret::SecretValue;
use caisson_sandbox::launcher::Launcher;

use crate::artifacts::Destination;
use crate::cli::{self, Output};
use crate::commands::{runtime, surroundings};
use crate::config::{Config, Environment, Flags};
use crate::embedded::{self, AgentSetup, RunningAgent};
use crate::follow::{self, Followed, Interrupts};
use crate::given::{self, Case};
use crate::learn::{self, LearnError};
use crate::report::{self, Exit, Failure};
use crate::source::{self, Snapshot};
use crate::state::State;
use crate::{cells, machine, mirror, plans, policy_file, sandboxing, selection, view};

/// Sandboxes kept ready: steps follow each other at once.
const WARM: usize = 2;

/// Everything that was settled before anything runs.
struct Prepared {
    submissions: Vec<Submission>,
    snapshot: Snapshot,
    mirror: PathBuf,
    state: State,
    rules: Rules,
    secrets: Vec<(String, SecretValue)>,
    setup: AgentSetup,
    launcher: Launcher,
    output: Output,
    artifacts: Destination,
    learning: Option<Learning>,
    /// Workflows that do not run while the others do.
    refused: Option<Failure>,
}

/// Where what a run wanted is to be written, and what was allowed before.
struct Learning {
    given: Option<PathBuf>,
    checkout: PathBuf,
    rules: Rules,
}

/// Runs.
pub(crate) fn run(arguments: cli::Run) -> Result<Exit, Failure> {
    let (environment, root) = surroundings();
    let flags = Flags { machine: arguments.machine.clone(), slots: arguments.slots, ..Flags::default() };
    let config = Config::settle(&environment, root, flags)?;
    // The launcher first: it can only be started while this process has one thread, and asking git takes some.
    let launcher = sandboxing::launcher(WARM)?;
    let prepared = prepare(arguments, &config, &environment, launcher)?;
    if prepared.submissions.is_empty() {
        report::note("nothing runs: the filters of `on:` keep every workflow back");
        return Ok(Exit::PASSED);
    }
    sandboxing::give_up_privileges()?;
    let runtime = runtime()?;
    let result = runtime.block_on(carry_out(prepared));
    // What still runs has been ended or given up by now; nothing waits for it.
    runtime.shutdown_background();
    result
}

fn prepare(arguments: cli::Run, config: &Config, environment: &Environment, launcher: Launcher) -> Result<Prepared, Failure> {
    let chosen = selection::choose(&arguments.selection, environment)?;
    let mut policy = policy_file::choose(arguments.policy.as_deref(), Some(&chosen.checkout), &config.places)?;
    policy.rules.network.fail_on_new_egress |= arguments.fail_on_new_egress;
    let learning = match (arguments.learn, policy.rules.network.learn) {
        (false, _) => None,
        (true, Some(false)) => return Err(LearnError::Forbidden.into()),
        (true, _) => Some(Learning { given: arguments.policy.clone(), checkout: chosen.checkout.clone(), rules: policy.rules.clone() }),
    };
    policy.rules.network.learning = learning.is_some();
    let secrets = given::take(&arguments.given.secrets, environment, Case::Folded)?;
    if !arguments.output.quiet {
        chosen.notes.iter().for_each(|note| report::note(note));
    }
    policy.warning.iter().for_each(|warning| report::warn(warning));
    // All of them before the first is submitted: a command either runs everything that it names or nothing.
    let (submissions, refused) = (chosen.submissions, chosen.refused);
    let known: BTreeSet<String> = secrets.iter().map(|(name, _)| name.clone()).collect();
    let mirrored = mirror::read(config)?;
    cells::check(&submissions, &policy.rules, &mirrored)?;
    let (submissions, refused) = plans::admit(submissions, refused, chosen.named, &policy.rules, &mirrored, &known)?;
    let refused = refused.map(Failure::from);
    refused.iter().for_each(|refused| report::say(&refused.render()));
    let state = State::of_checkout(&config.state_dir.value, &chosen.checkout)?;
    state.prune()?;
    sweep(&config.state_dir.value, &launcher);
    let snapshot = source::pack(&chosen.checkout, chosen.repository.as_ref(), &state.scratch)?;
    snapshot.notes.iter().for_each(|note| report::note(note));
    let mut host = machine::rules_for_jobs(config, environment, &state.agent);
    machine::indexes(&mut host, config, &arguments.indexes)?;
    let setup = AgentSetup {
        name: "local".to_owned(),
        slots: config.slots(),
        capacity: (0, 0),
        labels: Vec::new(),
        state_dir: state.agent.clone(),
        host,
    };
    let submissions = submissions.into_iter().map(|submission| Submission { source: Some(snapshot.digest), ..submission }).collect();
    let mirror = mirror::folder(config);
    let artifacts = match arguments.artifacts {
        Some(directory) => Destination::Named(directory),
        None => Destination::ByRun(state.artifacts.clone()),
    };
    Ok(Prepared {
        submissions,
        snapshot,
        mirror,
        state,
        rules: policy.rules,
        secrets,
        setup,
        launcher,
        output: arguments.output,
        artifacts,
        learning,
        refused,
    })
}

/// Removes the workspaces that killed commands left for other checkouts. What cannot be removed is for the next command.
fn sweep(root: &std::path::Path, launcher: &Launcher) {
    for (attempts, _lock) in State::abandoned(root) {
        for left in std::fs::read_dir(&attempts).into_iter().flatten().flatten() {
            if let Err(error) = caisson_agent::workspace::remove(launcher, &left.path()) {
                tracing::warn!(%error, path = %left.path().display(), "a killed command's directory was not removed");
            }
        }
    }
}

async fn carry_out(prepared: Prepared) -> Result<Exit, Failure> {
    let Prepared { submissions, snapshot, mirror, state, rules, secrets, setup, launcher, output, artifacts, learning, refused } = prepared;
    let mut interrupts = Interrupts::catch()?;
    let secrets = Secrets::new(vec![Box::new(Given::new(secrets))]);
    let service = embedded::controller(state.controller.clone(), mirror, rules, secrets).await?;
    embedded::forget_earlier_runs(&service).await?;
    embedded::put(&service, snapshot).await?;
    let mut runs: Vec<RunId> = Vec::new();
    for submission in submissions {
        let submitted = embedded::submit(&service, submission).await?;
        if !output.quiet {
            submitted.warnings.iter().for_each(|finding| report::say(report::finding_text(finding).trim_end()));
        }
        runs.push(submitted.run);
    }
    let mut agent = RunningAgent::start(service.clone(), launcher, setup);
    let mut view = view::of(&output);
    let followed = follow::follow(Arc::new(service.clone()), &runs, view.as_mut(), &mut interrupts, agent.ended(), &artifacts).await;
    match followed {
        Ok(Followed::Ended(exit)) => {
            let left = agent.leave().await;
            if let Some(learning) = learning {
                learnt(&service, &runs, &learning).await?;
            }
            service.close().await;
            left.map(|()| match &refused {
                // Where nothing else went wrong, this is what did.
                Some(refused) if exit == Exit::PASSED => {
                    report::say(&refused.short());
                    refused.exit()
                }
                _ => exit,
            })
        }
        // The launcher ends every sandbox when this process is gone.
        Ok(Followed::Killed) => Ok(Exit::CANCELLED),
        Err(failure) => {
            service.close().await;
            Err(failure)
        }
    }
}

/// Writes what the runs wanted, and says where.
async fn learnt(service: &Service, runs: &[RunId], learning: &Learning) -> Result<(), Failure> {
    let mut details = Vec::new();
    for run in runs {
        details.push(embedded::detail(service, *run).await?);
    }
    match learn::write(&details, &learning.rules, learning.given.as_deref(), &learning.checkout)? {
        None => report::note("the run reached for nothing that the policy does not name"),
        Some((path, patch)) => {
            report::note(&format!("the run reached for what the policy does not name; read {}, then `git apply` it", path.display()));
            report::say(patch.trim_end());
        }
    }
    Ok(())
}
