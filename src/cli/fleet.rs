//! What may be typed about controllers, agents and tokens.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use caisson_model::outcome::Bytes;
use clap::{Args, Subcommand, ValueEnum};

use crate::cli::options::{Given, Machine, Output};
use crate::quantity::{self, Cores};

/// How to reach a controller.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Controller")]
pub(crate) struct Reach {
    /// The controller: https://HOST:PORT, or http:// and a loopback address; several, separated by commas, of which one leads [env: CAISSON_CONTROLLER]
    #[arg(long, value_name = "URL")]
    pub(crate) controller: Option<String>,
    /// Certificate of the controller's authority [env: CAISSON_CA] [default: the one that the token names]
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// File with an API token [env: CAISSON_TOKEN_FILE, or the token itself in CAISSON_TOKEN]
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
}

/// Serve as controller: takes runs from clients and gives jobs to agents.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
On one machine, in three terminals:
  caisson controller
  caisson agent --controller http://127.0.0.1:7717
  caisson submit examples/polls --controller http://127.0.0.1:7717 --follow

For several machines, once:
  caisson controller init --name ci.example.com
  caisson controller --listen 0.0.0.0:7717
  caisson token create --agent builder-1        (prints a token, and the command to join with it)

A loopback address is listened on in the clear until `init` has made an authority; any other takes TLS, always.
Settings may stand in controller.toml (see `caisson controller --print-config` and controller/README.md)."
)]
pub(crate) struct Controller {
    #[command(subcommand)]
    pub(crate) action: Option<ControllerAction>,
    /// Address to listen on [default: 127.0.0.1:7717]. Port 0 takes a free one
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<SocketAddr>,
    /// Name or address under which the controller is reached, for its certificate (repeatable)
    #[arg(long = "name", value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Listen on a loopback address in the clear although there is an authority
    #[arg(long)]
    pub(crate) plain: bool,
    /// Address for health, readiness and metrics, such as 127.0.0.1:7718 [default: none]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) ops_listen: Option<SocketAddr>,
    /// Address for webhooks of forges, such as 127.0.0.1:7719 [default: none]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) hooks_listen: Option<SocketAddr>,
    /// PostgreSQL database for the journal: postgres://USER@HOST/DATABASE. Several controllers may share one; give each a state
    /// directory of its own [default: SQLite in the state directory] [env: CAISSON_STORE]
    #[arg(long, value_name = "URL")]
    pub(crate) store: Option<String>,
    /// Folder or s3://BUCKET[/PREFIX] for source trees, artifacts, caches and sealed logs; several controllers need one that all of them see [default: in the state directory]
    #[arg(long, value_name = "PLACE")]
    pub(crate) blobs: Option<String>,
    /// Policy file [default: your own, else the built-in one]
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) given: Given,
    /// Where journal, logs, blobs and the authority are kept
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Settings file [default: controller.toml in the configuration directory]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Print the settings in force as such a file, and end
    #[arg(long)]
    pub(crate) print_config: bool,
    /// How to write what goes on to standard error
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
}

/// How a service writes what goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people
    #[default]
    Text,
    /// One JSON object per line
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ControllerAction {
    Init(ControllerInit),
}

/// Make the authority that agents and clients will believe, and the controller's certificate.
#[derive(Debug, Args)]
pub(crate) struct ControllerInit {
    /// Name or address under which agents and clients reach the controller (repeatable) [default: this host's name and addresses]
    #[arg(long = "name", value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Where the controller keeps its data
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
}

/// Serve as agent: takes jobs from a controller and runs their steps in sandboxes.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Once, with a token that `caisson token create --agent NAME` printed:
  caisson agent join --controller ci.example.com:7717 --token caisson-join....
From then on:
  caisson agent"
)]
pub(crate) struct Agent {
    #[command(subcommand)]
    pub(crate) action: Option<AgentAction>,
    /// The controller's address [env: CAISSON_CONTROLLER] [default: the one that this agent joined]
    #[arg(long, value_name = "URL")]
    pub(crate) controller: Option<String>,
    /// This agent's name, unique at its controller [default: the name that it joined with, else the host's]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Label to serve beside the usual ones of `runs-on` (repeatable)
    #[arg(long = "label", value_name = "LABEL")]
    pub(crate) labels: Vec<String>,
    /// How many jobs run at once [default: one per two cores, at least 2]
    #[arg(long, value_name = "N", value_parser = quantity::count, help_heading = "Machine")]
    pub(crate) slots: Option<u32>,
    /// Memory for all jobs together, against which their limits of memory count [default: the machine's]
    #[arg(long, value_name = "SIZE", value_parser = quantity::size, help_heading = "Machine")]
    pub(crate) total_memory: Option<Bytes>,
    /// Processors for all jobs together, against which their limits of processors count [default: the machine's]
    #[arg(long, value_name = "N", value_parser = quantity::cores, help_heading = "Machine")]
    pub(crate) total_cpus: Option<Cores>,
    /// Where workspaces are kept while their jobs run, and the agent's identity
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// How to write what goes on to standard error
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
    #[command(flatten)]
    pub(crate) machine: Machine,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AgentAction {
    Join(AgentJoin),
}

/// Become an agent of a controller: once, with a join token.
#[derive(Debug, Args)]
pub(crate) struct AgentJoin {
    /// The controller's address
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) controller: String,
    /// The join token, or @FILE to read it from a file, or - for standard input
    #[arg(long, value_name = "TOKEN")]
    pub(crate) token: Words,
    /// Name to ask for, unless the token is bound to one [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Where the agent keeps its data
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Words(pub(crate) String);

impl std::fmt::Debug for Words {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl std::str::FromStr for Words {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Words, Self::Err> {
        Ok(Words(text.to_owned()))
    }
}

/// List runs, the newest first.
#[derive(Debug, Args)]
pub(crate) struct Runs {
    /// How many at most
    #[arg(short = 'n', long, value_name = "N", default_value = "20")]
    pub(crate) limit: u32,
    /// One JSON object per line
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// Show a run with its jobs and steps.
#[derive(Debug, Args)]
pub(crate) struct Show {
    /// The run's number
    #[arg(value_name = "RUN", value_parser = quantity::run)]
    pub(crate) run: u64,
    /// As one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// Show everything that a run's steps tried to reach, and whether that record is whole.
#[derive(Debug, Args)]
#[command(after_help = "\
Each entry is chained to the one before it by a SHA-256 digest, and the newest digest stands in the run's record. The chain is built
anew from the history that the controller keeps; exit code 1 when it does not end where the record says, or where --head says.")]
pub(crate) struct Ledger {
    /// The run's number
    #[arg(value_name = "RUN", value_parser = quantity::run)]
    pub(crate) run: u64,
    /// What the chain must end with: the head that was written down elsewhere, as `sha256:...`
    #[arg(long, value_name = "DIGEST")]
    pub(crate) head: Option<caisson_model::id::Digest>,
    /// One JSON object per entry, and last one of type `ledger`
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// Print the logs of a run, a job or a step.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  caisson logs 12                 every step of run 12, in order
  caisson logs 12/test            those of its job test (key, name or number, also 12/12.1)
  caisson logs 12/test/3          one step: its position from 0, its id or its name
  caisson logs -f 12              and follow until the run has ended

The bytes of a step come as it wrote them, colours included, masked and without a gap; a stretch that was not kept is said.")]
pub(crate) struct Logs {
    /// What to print
    #[arg(value_name = "RUN[/JOB[/STEP]]")]
    pub(crate) target: String,
    /// Go on with what follows until the end
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// One JSON object per line of output
    #[arg(long, conflicts_with = "timestamps")]
    pub(crate) json: bool,
    /// The time before each line
    #[arg(short, long)]
    pub(crate) timestamps: bool,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// Cancel runs. Steps get SIGINT, then SIGTERM, then SIGKILL.
///
/// A run that had ended already stays as it is, and its result is printed in place of `cancelled`. Exit code 0 either way.
#[derive(Debug, Args)]
pub(crate) struct Cancel {
    /// Their numbers
    #[arg(value_name = "RUN", required = true, value_parser = quantity::run)]
    pub(crate) runs: Vec<u64>,
    /// One JSON object per line
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// Run an ended run again, as a new run of the same source.
#[derive(Debug, Args)]
pub(crate) struct Rerun {
    /// The run's number
    #[arg(value_name = "RUN", value_parser = quantity::run)]
    pub(crate) run: u64,
    /// Only the jobs that did not succeed, and those that need them
    #[arg(long)]
    pub(crate) failed: bool,
    /// Watch the new run to its end; Ctrl-C cancels it
    #[arg(long)]
    pub(crate) follow: bool,
    #[command(flatten)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// List agents, or revoke one.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Agents {
    #[command(subcommand)]
    pub(crate) action: Option<AgentsAction>,
    /// One JSON object per line
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AgentsAction {
    Revoke(AgentsRevoke),
}

/// Revoke an agent: within a second it is cut off, and its jobs are given to others.
#[derive(Debug, Args)]
pub(crate) struct AgentsRevoke {
    /// The agent's name
    #[arg(value_name = "AGENT")]
    pub(crate) agent: String,
    /// Why, for the record
    #[arg(long, value_name = "TEXT", default_value = "revoked by an administrator")]
    pub(crate) reason: String,
    /// As one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) office: Office,
}

/// Give an agent no new jobs; what it runs goes on.
#[derive(Debug, Args)]
pub(crate) struct Cordon {
    /// The agent's name
    #[arg(value_name = "AGENT")]
    pub(crate) agent: String,
    /// Give it jobs again
    #[arg(long)]
    pub(crate) off: bool,
    /// As one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// Let an agent finish what it runs and leave.
#[derive(Debug, Args)]
pub(crate) struct Drain {
    /// The agent's name
    #[arg(value_name = "AGENT")]
    pub(crate) agent: String,
    /// As one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// Say why the jobs of a run are not running.
#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// The run's number
    #[arg(value_name = "RUN", value_parser = quantity::run)]
    pub(crate) run: u64,
    /// One JSON object per line
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// Make, list and revoke tokens: for agents to join with, and for clients.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  caisson token create --agent builder-1              join token for one agent, bound to its name
  caisson token create --pool default                 join token for an agent that names itself
  caisson token create --scope submit --expires 90d   API token for a client
  caisson token list
  caisson token revoke 0f3a9c0d1e2b

On the controller's own machine the records beside it are written to, whether it runs or not (--state-dir); elsewhere with --controller and an API token of scope admin.")]
pub(crate) struct Token {
    #[command(subcommand)]
    pub(crate) action: TokenAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenAction {
    Create(TokenCreate),
    List(TokenList),
    Revoke(TokenRevoke),
}

/// Make a token. Its text is printed once and kept nowhere.
#[derive(Debug, Args)]
pub(crate) struct TokenCreate {
    /// Join token for the agent of this name; without NAME the agent names itself
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "", conflicts_with = "scopes")]
    pub(crate) agent: Option<String>,
    /// Pool that the agent will belong to [default: default]
    #[arg(long, value_name = "POOL", conflicts_with = "scopes")]
    pub(crate) pool: Option<String>,
    /// API token that allows this: read, submit or admin, each more than the one before (repeatable)
    #[arg(long = "scope", value_name = "SCOPE", value_delimiter = ',')]
    pub(crate) scopes: Vec<String>,
    /// What an API token is for, for people
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) name: String,
    /// How long it counts: at most 15m for a join token [default: 15m], 366d for an API token [default: 30d]
    #[arg(long, visible_alias = "ttl", value_name = "DURATION", value_parser = quantity::lifetime)]
    pub(crate) expires: Option<Duration>,
    /// As one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) office: Office,
}

/// List tokens.
#[derive(Debug, Args)]
pub(crate) struct TokenList {
    /// One JSON object per line
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) office: Office,
}

/// Revoke a token at once.
#[derive(Debug, Args)]
pub(crate) struct TokenRevoke {
    /// The token's id, as `caisson token list` shows it
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// As one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) office: Office,
}

/// Where identities are administered: beside a controller, or at one.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Office {
    /// The controller's data on this machine [default: the user's own, unless --controller is given]
    #[arg(long, value_name = "DIR", conflicts_with_all = ["controller", "ca", "token_file"])]
    pub(crate) state_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// Print what completes caisson's commands in a shell.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  caisson completions bash > /etc/bash_completion.d/caisson
  caisson completions zsh > \"${fpath[1]}/_caisson\"
  caisson completions fish > ~/.config/fish/completions/caisson.fish")]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub(crate) shell: clap_complete::Shell,
}
