//! `caisson agent`: takes jobs from a controller and runs their steps in sandboxes, until it is told to stop.

use caisson_proto::client::Client;
use caisson_sandbox::launcher::Launcher;

use crate::cli;
use crate::commands::{runtime, surroundings};
use crate::config::{Config, Flags};
use crate::embedded::{AgentSetup, CallError, RunningAgent};
use crate::follow::Interrupts;
use crate::machine;
use crate::report::{self, Exit, Failure};
use crate::sandboxing;

/// Sandboxes kept ready.
const WARM: usize = 2;

/// Serves.
pub(crate) fn run(arguments: cli::Agent) -> Result<Exit, Failure> {
    let (environment, root) = surroundings();
    let flags = Flags { machine: arguments.machine.clone(), slots: arguments.slots, state_dir: arguments.state_dir.clone() };
    let config = Config::settle(&environment, root, flags)?;
    let launcher = sandboxing::launcher(WARM)?;
    let name = arguments.name.clone().unwrap_or_else(|| {
        let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        host.filter(|name| !name.is_empty()).unwrap_or_else(|| "agent".to_owned())
    });
    let setup = AgentSetup {
        // Two agents of one host have two names and two directories.
        state_dir: config.state_dir.value.join("agents").join(name.replace('/', "_")),
        name,
        slots: config.slots(),
        labels: arguments.labels.clone(),
        host: machine::rules_for_jobs(&config, &environment, &config.state_dir.value),
    };
    sandboxing::give_up_privileges()?;
    let runtime = runtime()?;
    let result = runtime.block_on(serve(&arguments.controller, launcher, setup));
    runtime.shutdown_background();
    result
}

async fn serve(url: &str, launcher: Launcher, setup: AgentSetup) -> Result<Exit, Failure> {
    let mut interrupts = Interrupts::catch()?;
    let failed = |source| CallError { act: format!("reach the controller {url}"), source };
    let client = Client::connect(url).await.map_err(failed)?;
    report::note(&format!("agent {} with {} slots at {url}; Ctrl-C lets it leave", setup.name, setup.slots));
    let mut agent = RunningAgent::start(client, launcher, setup);
    tokio::select! {
        failure = agent.ended() => return Err(failure),
        () = interrupts.next() => {}
    }
    report::note("leaving; steps have 10 seconds to end by themselves (Ctrl-C again kills)");
    tokio::select! {
        left = agent.leave() => left.map(|()| Exit::PASSED),
        () = interrupts.next() => Ok(Exit::CANCELLED),
    }
}
