//! A controller and an agent in this process.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::time::Duration;

use caisson_agent::agent::{self, Agent};
use caisson_agent::host::HostRules;
use caisson_controller::policy::Rules;
use caisson_controller::secrets::Secrets;
use caisson_controller::service::{self, OpenError, Service};
use caisson_model::diagnostic::Diagnostic;
use caisson_model::id::{AgentName, RunId};
use caisson_model::outcome::Fault;
use caisson_model::run::{RunState, Submission};
use caisson_proto::api::{ApiError, BlobApi, ClientApi, Messages, RunDetail, Submitted};
use caisson_sandbox::launcher::Launcher;
use futures_util::stream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::report::{Explained, Failure};
use crate::source::Snapshot;

/// Steps have 10 seconds to end when an agent leaves, and it tidies up after them.
const FAREWELL: Duration = Duration::from_secs(30);
/// What is sent at once of a source archive.
const PIECE: usize = 64 * 1024;
/// Runs of an earlier command that are looked at.
const EARLIER: u32 = 100;

/// A controller cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the controller")]
pub(crate) struct NoController(#[from] OpenError);

impl Explained for NoController {
    fn fault(&self) -> Fault {
        Fault::Environment
    }
}

/// An agent ended although it was not asked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    /// It says why.
    #[error("the agent cannot go on")]
    Ended(#[source] agent::RunError),
    /// It broke.
    #[error("the agent ended without a word")]
    Broke,
}

impl Explained for AgentError {
    fn fault(&self) -> Fault {
        match self {
            AgentError::Ended(error) => error.fault(),
            AgentError::Broke => Fault::Ours,
        }
    }
}

/// A call to a controller failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {act}")]
pub(crate) struct CallError {
    /// What was tried.
    pub(crate) act: String,
    /// Why it failed.
    pub(crate) source: ApiError,
}

impl Explained for CallError {
    fn fault(&self) -> Fault {
        match &self.source {
            // To a person it is a join token that was used up; to an agent it is its own business.
            ApiError::Spent(_) => Fault::User,
            source => source.fault(),
        }
    }

    fn help(&self) -> Option<String> {
        let help = match &self.source {
            ApiError::Unavailable(_) => "start one with `caisson controller`, or look at --controller",
            ApiError::Spent(_) => "`caisson token create --agent NAME`, at the controller, makes another join token",
            ApiError::NotFound(what) if what.starts_with("run ") => "`caisson runs` lists the runs",
            ApiError::NotFound(what) if what.starts_with("agent ") => "`caisson agents` lists the agents and says who is connected",
            ApiError::Denied(what) if what.contains("scope") => {
                "`caisson token create --scope SCOPE`, at the controller, makes a token that does; --token-file says which is used"
            }
            _ => return None,
        };
        Some(help.to_owned())
    }

    fn findings(&self) -> Vec<Diagnostic> {
        match &self.source {
            ApiError::Rejected(findings) => findings.clone(),
            _ => Vec::new(),
        }
    }
}

/// Opens a controller whose data lie in `data_dir`.
/// `mirror` is where actions were added. Its only agent is the embedded one.
pub(crate) async fn controller(data_dir: PathBuf, mirror: PathBuf, rules: Rules, secrets: Secrets) -> Result<Service, NoController> {
    let alone = Some(agent::default_labels());
    let options = service::Options { rules, secrets, alone, mirror: Some(mirror), ..service::Options::new(data_dir) };
    open(options).await
}

/// Opens a controller.
pub(crate) async fn open(options: service::Options) -> Result<Service, NoController> {
    Ok(Service::open(options).await?)
}

/// Cancels what a command that was killed has left: nobody waits for it, and it must not take this command's slots.
pub(crate) async fn forget_earlier_runs(service: &Service) -> Result<(), CallError> {
    let failed = |source| CallError { act: "look at earlier runs".to_owned(), source };
    for run in service.list_runs(EARLIER).await.map_err(failed)?.iter().filter(|run| run.state != RunState::Finished) {
        service.cancel(run.id).await.map_err(failed)?;
    }
    Ok(())
}

/// A run with everything that its steps told.
pub(crate) async fn detail(client: &impl ClientApi, run: RunId) -> Result<RunDetail, CallError> {
    client.run(run).await.map_err(|source| CallError { act: format!("look at run {run}"), source })
}

/// Stores the source tree, unless the controller has it.
pub(crate) async fn put(client: &impl BlobApi, snapshot: Snapshot) -> Result<(), CallError> {
    let failed = |source| CallError { act: "hand over the source tree".to_owned(), source };
    let Snapshot { file, digest, .. } = snapshot;
    if client.find_missing_blobs(vec![digest]).await.map_err(failed)?.is_empty() {
        return Ok(());
    }
    // An earlier try may have been cut short: what came through then is not sent again.
    let held = client.held_of_blob(digest).await.map_err(failed)?;
    let put = match client.put_blob_from(digest, held, pieces(&file, held).map_err(failed)?).await {
        // What was held was not the beginning of this, or somebody else is putting it.
        Err(ApiError::Invalid(_)) if held > 0 => client.put_blob(digest, pieces(&file, 0).map_err(failed)?).await,
        put => put,
    };
    put.map_err(failed)
}

/// A file from `offset` on. Reading from the page cache in small pieces; an error ends the stream early, and the digest then refuses the rest.
fn pieces(file: &File, offset: u64) -> Result<Messages<Vec<u8>>, ApiError> {
    let local = |error: std::io::Error| ApiError::Broken(format!("the source archive could not be read back: {error}"));
    let mut file = file.try_clone().map_err(local)?;
    file.seek(SeekFrom::Start(offset)).map_err(local)?;
    Ok(Box::pin(stream::unfold(file, |mut file| async move {
        let mut piece = vec![0; PIECE];
        match file.read(&mut piece) {
            Ok(0) => None,
            Ok(count) => {
                piece.truncate(count);
                Some((piece, file))
            }
            Err(error) => {
                tracing::error!(%error, "the source archive could not be read back");
                None
            }
        }
    })))
}

/// Submits a workflow.
pub(crate) async fn submit(client: &impl ClientApi, submission: Submission) -> Result<Submitted, CallError> {
    let act = format!("submit {}", submission.file);
    client.submit(submission).await.map_err(|source| CallError { act, source })
}

/// A running agent.
#[derive(Debug)]
pub(crate) struct RunningAgent {
    stop: watch::Sender<bool>,
    task: Option<JoinHandle<Result<(), agent::RunError>>>,
}

/// How an agent is set up beside what it talks to.
#[derive(Debug)]
pub(crate) struct AgentSetup {
    /// Its name.
    pub(crate) name: String,
    /// Jobs at once.
    pub(crate) slots: u32,
    /// Memory and thousandths of processors that it has for jobs; 0 says nothing.
    pub(crate) capacity: (u64, u32),
    /// Labels beside the usual ones.
    pub(crate) labels: Vec<String>,
    /// Its directory.
    pub(crate) state_dir: PathBuf,
    /// What its host allows.
    pub(crate) host: HostRules,
}

impl RunningAgent {
    /// Starts an agent that talks to `api`.
    pub(crate) fn start<A: caisson_proto::api::AgentApi>(api: A, launcher: Launcher, setup: AgentSetup) -> RunningAgent {
        let AgentSetup { name, slots, capacity: (memory_bytes, cpu_milli), labels, state_dir, host } = setup;
        let labels = agent::default_labels().into_iter().chain(labels.into_iter().map(|label| label.to_lowercase())).collect();
        let options = agent::Options { name: AgentName(name), slots, memory_bytes, cpu_milli, labels, state_dir, host };
        let (stop, mut stopped) = watch::channel(false);
        let shutdown = async move {
            // A sender that is gone wants it to end too.
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        let task = tokio::spawn(Agent::new(api, launcher, options).run(shutdown));
        RunningAgent { stop, task: Some(task) }
    }

    /// Ready when the agent ended by itself, with the reason. May be dropped and asked for again.
    pub(crate) async fn ended(&mut self) -> Failure {
        match self.left().await {
            Err(failure) => failure,
            Ok(()) => AgentError::Broke.into(),
        }
    }

    /// Ready when the agent left because it was drained, or with the reason for which it ended. May be dropped and asked for again.
    pub(crate) async fn left(&mut self) -> Result<(), Failure> {
        let Some(task) = &mut self.task else { return std::future::pending().await };
        let ended = task.await;
        self.task = None;
        match ended {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(AgentError::Ended(error).into()),
            Err(_) => Err(AgentError::Broke.into()),
        }
    }

    /// Asks the agent to leave and waits until it has tidied up.
    pub(crate) async fn leave(mut self) -> Result<(), Failure> {
        self.stop.send_replace(true);
        let Some(task) = self.task.take() else { return Ok(()) };
        match tokio::time::timeout(FAREWELL, task).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(error))) => Err(AgentError::Ended(error).into()),
            Ok(Err(_)) => Err(AgentError::Broke.into()),
            Err(_) => {
                tracing::warn!("the agent did not leave in time");
                Ok(())
            }
        }
    }
}
