//! `caisson controller`: takes runs from clients and gives jobs to agents, until it is told to stop.

use std::path::PathBuf;

use caisson_controller::core::event::Timing;
use caisson_controller::identity::authority::Authority;
use caisson_controller::identity::registry::{Book, Registry, directory};
use caisson_controller::listen::{ListenError, Listener};
use caisson_controller::policy::Rules;
use caisson_controller::secrets::Secrets;
use caisson_controller::secrets::clones::Clones;
use caisson_controller::secrets::given::Given;
use caisson_controller::service::{Options, Service};
use caisson_controller::store::Place;
use caisson_controller::triggers::course::Course;
use caisson_controller::triggers::forge::Forges;
use caisson_controller::triggers::hooks::Hooks;
use caisson_controller::triggers::schedule;
use caisson_controller::triggers::seen::Seen;
use caisson_controller::web::ops::Ops;
use caisson_controller::web::{self, WebError};
use caisson_model::outcome::Fault;
use caisson_model::secret::SecretValue;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::cli::fleet::{self, ControllerAction};
use crate::clock;
use crate::commands::token::NoRecords;
use crate::commands::{init, runtime, surroundings};
use crate::config::{Config, Flags};
use crate::controller_config::Settled;
use crate::embedded;
use crate::follow::Interrupts;
use crate::given::{self, Case};
use crate::mirror;
use crate::policy_file;
use crate::report::{self, Exit, Explained, Failure};
use crate::sandboxing;
use crate::state::State;

/// It cannot be reached by anyone.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve")]
struct Unreachable(#[from] ListenError);

impl Explained for Unreachable {
    fn fault(&self) -> Fault {
        match self.0 {
            ListenError::Exposed(_) => Fault::User,
            ListenError::Bind(..) | ListenError::Certificate(_) => Fault::Environment,
            ListenError::Serve(_) | ListenError::Tls(_) => Fault::Ours,
        }
    }
}

/// Serves, or makes the authority.
pub(crate) fn run(arguments: fleet::Controller) -> Result<Exit, Failure> {
    if let Some(ControllerAction::Init(init)) = arguments.action {
        return init::run(init);
    }
    let (environment, root) = surroundings();
    let flags = Flags { state_dir: arguments.state_dir.clone(), ..Flags::default() };
    let config = Config::settle(&environment, root, flags)?;
    let settled = Settled::of(&arguments, &config.places)?;
    if arguments.print_config {
        return Ok(report::print(&settled.render()));
    }
    let policy = policy_file::choose(arguments.policy.as_deref(), None, &config.places)?;
    let secrets = given::take(&arguments.given.secrets, &environment, Case::Folded)?;
    let state = State::of_directory(&config.state_dir.value)?;
    sandboxing::give_up_privileges()?;
    let runtime = runtime()?;
    let mut rules = policy.rules;
    rules.clones = settled.repositories.iter().map(|repository| repository.clone.clone()).collect();
    let private = settled.repositories.iter().filter(|repository| repository.clone_token.is_some());
    rules.private = private.map(|repository| (repository.name.clone(), repository.clone.clone())).collect();
    let mirror = mirror::folder(&config);
    runtime.block_on(serve(&arguments, &settled, &state, mirror, rules, secrets))
}

/// The address first: a refused one must not have opened a journal.
async fn bind(settled: &Settled, plain: bool, records: PathBuf) -> Result<(Listener, Option<Registry>), Failure> {
    if plain || !Authority::exists(&records) {
        return Ok((Listener::bind(settled.listen).await.map_err(Unreachable)?, None));
    }
    let book = settled.store.clone().map_or(Book::Beside, Book::Database);
    let registry = Registry::open(records, settled.agent_certificates, book).await.map_err(NoRecords)?;
    let mut names = settled.names.clone();
    match settled.listen.ip() {
        ip if ip.is_unspecified() => names.extend(init::own_names()),
        ip => names.push(ip.to_string()),
    }
    let listener = Listener::bind_tls(settled.listen, registry.clone(), &names).await.map_err(Unreachable)?;
    Ok((listener, Some(registry)))
}

/// Starts what is served beside agents and clients: operations, webhooks, schedules.
async fn beside_it(settled: &Settled, state: &State, service: &Service, tasks: &mut JoinSet<()>) -> Result<(), Failure> {
    if let Some(address) = settled.ops_listen {
        let listener = web::bind("operations", address).await.map_err(NoWeb)?;
        told("operations", &listener);
        tasks.spawn(web::serve(listener, Ops(service.clone())));
    }
    if settled.repositories.is_empty() {
        return Ok(());
    }
    let directory = state.controller.join("triggers");
    let failed = |source: std::io::Error| NoTriggers { path: directory.clone(), source };
    std::fs::create_dir_all(&directory).map_err(failed)?;
    let forges = Forges::new().map_err(|error| failed(std::io::Error::other(error)))?;
    let course = Course::open(service.clone(), forges, settled.repositories.clone(), directory.join("owed.json")).map_err(failed)?;
    tasks.spawn(schedule::run(course.clone()));
    if let Some(address) = settled.hooks_listen {
        let seen = Seen::open(directory.join("seen"), clock::now()).map_err(failed)?;
        let listener = web::bind("webhooks", address).await.map_err(NoWeb)?;
        told("webhooks", &listener);
        tasks.spawn(web::serve(listener, Hooks::new(course, seen)));
    }
    Ok(())
}

fn told(what: &str, listener: &TcpListener) {
    if let Ok(address) = listener.local_addr() {
        report::note(&format!("{what} on http://{address}"));
    }
}

/// A web server cannot be reached.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve")]
struct NoWeb(#[source] WebError);

impl Explained for NoWeb {
    fn fault(&self) -> Fault {
        match self.0 {
            WebError::Exposed(..) => Fault::User,
            WebError::Bind(..) => Fault::Environment,
        }
    }
}

/// Triggers cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the folder {} for triggers", path.display())]
struct NoTriggers {
    path: PathBuf,
    source: std::io::Error,
}

impl Explained for NoTriggers {
    fn fault(&self) -> Fault {
        Fault::Environment
    }
}

async fn serve(
    arguments: &fleet::Controller,
    settled: &Settled,
    state: &State,
    mirror: PathBuf,
    rules: Rules,
    secrets: Vec<(String, SecretValue)>,
) -> Result<Exit, Failure> {
    let mut interrupts = Interrupts::catch()?;
    let (listener, registry) = bind(settled, arguments.plain, directory(&state.controller)).await?;
    let mut options = Options {
        rules,
        secrets: Secrets::new(vec![Box::new(Given::new(secrets)), Box::new(Clones::of(&settled.repositories))]),
        mirror: Some(mirror),
        address: listener.url(),
        blobs: settled.blobs.clone(),
        blobs_quota: settled.blobs_quota,
        registry,
        timing: Timing { term: settled.lease.0, grace: settled.lease.1, ..Timing::default() },
        ..Options::new(state.controller.clone())
    };
    if let Some(url) = &settled.store {
        options.store = Place::Postgres(url.clone());
        if settled.blobs.is_none() {
            report::note(
                "blobs and sealed logs lie in the state directory: another controller on this database cannot serve them; give all of them one `blobs`",
            );
        }
    }
    let service = embedded::open(options).await?;
    let mut beside = JoinSet::new();
    beside.spawn(service.clone().keep_house(settled.retention));
    beside_it(settled, state, &service, &mut beside).await?;
    // The one line on standard output, for whoever starts it from a script.
    let printed = report::print(&format!("{}\n", listener.url()));
    if printed != Exit::PASSED {
        return Ok(printed);
    }
    report::note(&format!(
        "listening on {}; data in {}; Ctrl-C ends it, runs go on when it is started again",
        listener.address(),
        state.controller.display()
    ));
    let closing = service.clone();
    let served = listener
        .serve(service.clone(), async move {
            interrupts.next().await;
            // Watchers and sessions end with the service; the listener waits for them.
            closing.close().await;
        })
        .await;
    service.close().await;
    beside.shutdown().await;
    served.map_err(Unreachable)?;
    Ok(Exit::PASSED)
}
