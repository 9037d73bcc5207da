//! `caisson agent`: takes jobs from a controller and runs their steps in sandboxes, until it is told to stop.

use std::path::{Path, PathBuf};

use caisson_agent::host;
use caisson_agent::identity::{self, Identity, RenewError};
use caisson_model::outcome::{Bytes, Fault};
use caisson_proto::client::{Client, Credentials};
use caisson_proto::tls::Tls;
use caisson_sandbox::launcher::Launcher;

use crate::cli::Indexes;
use crate::cli::fleet::{self, AgentAction};
use crate::commands::join::{self, JoinError};
use crate::commands::{runtime, surroundings};
use crate::config::{Config, Flags};
use crate::embedded::{AgentSetup, CallError, RunningAgent};
use crate::follow::Interrupts;
use crate::machine;
use crate::quantity::Cores;
use crate::reach::{ReachError, url_of};
use crate::report::{self, Exit, Explained, Failure};
use crate::sandboxing;

/// Sandboxes kept ready.
const WARM: usize = 2;

/// How long after a controller could not be reached it is tried again.
const RECONNECT: std::time::Duration = std::time::Duration::from_secs(1);

/// The agent's certificate is renewed no more.
#[derive(Debug, thiserror::Error)]
#[error("the agent cannot go on")]
struct Unrenewed(#[from] RenewError);

impl Explained for Unrenewed {
    fn fault(&self) -> Fault {
        match &self.0 {
            RenewError::Refused(error) => error.fault(),
            RenewError::Identity(_) => Fault::Environment,
            RenewError::Thread => Fault::Ours,
        }
    }

    fn help(&self) -> Option<String> {
        Some("`caisson agent join` with a new token makes it an agent again".to_owned())
    }
}

/// Which controller, and who we are there.
struct Place {
    url: String,
    identity: Option<(PathBuf, Identity)>,
}

/// The identity of this name, or the only one that there is.
fn find(state: &Path, name: Option<&str>) -> Result<Option<(PathBuf, Identity)>, Failure> {
    let load = |directory: PathBuf| -> Result<Option<(PathBuf, Identity)>, Failure> {
        let identity = Identity::load(&directory).map_err(JoinError::Identity)?;
        Ok(identity.map(|identity| (directory, identity)))
    };
    if let Some(name) = name {
        return load(join::identity(state, name));
    }
    if let Some(own) = load(join::identity(state, &join::host()))? {
        return Ok(Some(own));
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(join::agents(state)).into_iter().flatten().flatten() {
        found.extend(load(entry.path().join("identity"))?);
    }
    Ok(if found.len() == 1 { found.pop() } else { None })
}

/// Serves, or joins.
pub(crate) fn run(arguments: fleet::Agent) -> Result<Exit, Failure> {
    if let Some(AgentAction::Join(join)) = arguments.action {
        return join::run(join);
    }
    let (environment, root) = surroundings();
    let reach = fleet::Reach { controller: arguments.controller.clone(), ..fleet::Reach::default() };
    let flags = Flags { machine: arguments.machine.clone(), slots: arguments.slots, state_dir: arguments.state_dir.clone(), reach };
    let config = Config::settle(&environment, root, flags)?;
    let launcher = sandboxing::launcher(WARM)?;
    let identity = find(&config.state_dir.value, arguments.name.as_deref())?;
    let place = match (&config.controller.value, identity) {
        // Without TLS there is no identity to show.
        (Some(url), _) if url.starts_with("http://") => Place { url: url.clone(), identity: None },
        (Some(url), identity) => Place { url: url_of(url), identity },
        (None, Some((directory, identity))) => Place { url: identity.controller.clone(), identity: Some((directory, identity)) },
        (None, None) => return Err(ReachError::Nowhere.into()),
    };
    let joined = place.identity.as_ref().map(|(_, identity)| identity.agent.clone());
    let name = joined.or(arguments.name.clone()).unwrap_or_else(join::host);
    let mut host = machine::rules_for_jobs(&config, &environment, &config.state_dir.value);
    machine::indexes(&mut host, &config, &Indexes::default())?;
    let setup = AgentSetup {
        // Two agents of one host have two names and two directories.
        state_dir: join::agents(&config.state_dir.value).join(name.replace('/', "_")),
        name,
        slots: config.slots(),
        capacity: capacity(arguments.total_memory, arguments.total_cpus),
        labels: arguments.labels.clone(),
        host,
    };
    sandboxing::give_up_privileges()?;
    let runtime = runtime()?;
    let result = runtime.block_on(serve(place, launcher, setup));
    runtime.shutdown_background();
    result
}

/// What jobs' limits count against: what was said, or what the machine has.
fn capacity(memory: Option<Bytes>, cores: Option<Cores>) -> (u64, u32) {
    let machine = || std::thread::available_parallelism().map_or(0, |cores| u32::try_from(cores.get()).unwrap_or(0).saturating_mul(1000));
    (memory.map_or_else(host::memory_of_this_machine, |bytes| bytes.0), cores.map_or_else(machine, |cores| cores.milli))
}

async fn serve(place: Place, launcher: Launcher, setup: AgentSetup) -> Result<Exit, Failure> {
    let mut interrupts = Interrupts::catch()?;
    let url = place.url;
    let failed = |source| CallError { act: format!("reach the controller {url}"), source };
    let mut credentials = Credentials::default();
    let mut renewing = None;
    if let Some((directory, identity)) = place.identity {
        let used = identity.certified().map_err(JoinError::Identity)?;
        let authority = identity.authority().map_err(JoinError::Identity)?;
        let pin = caisson_controller::identity::token::sha256(&authority);
        let tls = Tls::of_pin(pin, caisson_controller::identity::token::sha256, Some(used.clone())).map_err(failed)?;
        credentials.tls = Some(tls);
        renewing = Some((directory, identity, used));
    }
    let mut told = false;
    let client = loop {
        match Client::connect_with(&url, credentials.clone()).await {
            // It may be started after its agents, or away for an upgrade.
            Err(error) if error.is_transient() => {
                if !told {
                    report::note(&format!("{error}; {url} is tried again until it answers, Ctrl-C ends this"));
                }
                told = true;
                tracing::warn!(%error, "controller cannot be reached; it is tried again");
                tokio::select! {
                    () = tokio::time::sleep(RECONNECT) => {}
                    () = interrupts.next() => return Ok(Exit::CANCELLED),
                }
            }
            other => break other.map_err(failed)?,
        }
    };
    let mut renewal = std::pin::pin!({
        let client = client.clone();
        async move {
            match renewing {
                Some((directory, identity, used)) => identity::keep(client, directory, identity, used).await,
                None => std::future::pending().await,
            }
        }
    });
    report::note(&format!("agent {} with {} slots at {url}; Ctrl-C lets it leave", setup.name, setup.slots));
    let mut agent = RunningAgent::start(client, launcher, setup);
    tokio::select! {
        left = agent.left() => {
            left?;
            report::note("the agent was drained and has left; `caisson cordon --off` lets it have jobs again when it is started");
            return Ok(Exit::PASSED);
        }
        renewed = &mut renewal => {
            // Its attempts go with it: the controller takes nothing more from it.
            return match renewed {
                Ok(()) => Ok(Exit::OURS),
                Err(error) => Err(Unrenewed(error).into()),
            };
        }
        () = interrupts.next() => {}
    }
    report::note("leaving; steps have 10 seconds to end by themselves (Ctrl-C again kills)");
    tokio::select! {
        left = agent.leave() => left.map(|()| Exit::PASSED),
        () = interrupts.next() => Ok(Exit::CANCELLED),
    }
}
