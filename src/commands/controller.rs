//! `caisson controller`: takes runs from clients and gives jobs to agents, until it is told to stop.

use caisson_controller::listen::{ListenError, Listener};
use caisson_controller::policy::Rules;
use caisson_controller::secrets::Secrets;
use caisson_controller::secrets::given::Given;
use caisson_model::outcome::Fault;
use caisson_model::secret::SecretValue;

use crate::cli;
use crate::commands::{runtime, surroundings};
use crate::config::{Config, Flags};
use crate::embedded;
use crate::follow::Interrupts;
use crate::given::{self, Case};
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
            ListenError::Bind(..) => Fault::Environment,
            ListenError::Serve(_) => Fault::Ours,
        }
    }
}

/// Serves.
pub(crate) fn run(arguments: cli::Controller) -> Result<Exit, Failure> {
    let (environment, root) = surroundings();
    let flags = Flags { state_dir: arguments.state_dir.clone(), ..Flags::default() };
    let config = Config::settle(&environment, root, flags)?;
    let policy = policy_file::choose(arguments.policy.as_deref(), None, &config.places)?;
    let secrets = given::take(&arguments.given.secrets, &environment, Case::Folded)?;
    let state = State::of_directory(&config.state_dir.value)?;
    sandboxing::give_up_privileges()?;
    let runtime = runtime()?;
    runtime.block_on(serve(arguments, &state, policy.rules, secrets))
}

async fn serve(arguments: cli::Controller, state: &State, rules: Rules, secrets: Vec<(String, SecretValue)>) -> Result<Exit, Failure> {
    let mut interrupts = Interrupts::catch()?;
    // The address first: a refused one must not have opened a journal.
    let listener = Listener::bind(arguments.listen).await.map_err(Unreachable)?;
    let service = embedded::controller(state.controller.clone(), rules, Secrets::new(vec![Box::new(Given::new(secrets))])).await?;
    // The one line on standard output, for whoever starts it from a script.
    let printed = report::print(&format!("http://{}\n", listener.address()));
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
    served.map_err(Unreachable)?;
    Ok(Exit::PASSED)
}
