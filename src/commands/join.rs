//! `caisson agent join`: makes this machine an agent of a controller, with a token that counts once.

use std::io::Read;
use std::path::{Path, PathBuf};

use caisson_agent::identity::{Identity, IdentityError, Request};
use caisson_controller::identity::token::{Token, sha256};
use caisson_model::id::AgentName;
use caisson_model::outcome::Fault;
use caisson_proto::client::{Client, Credentials};
use caisson_proto::fleet::{Enrolment, FleetApi, TokenKind};
use caisson_proto::tls::Tls;

use crate::cli::fleet;
use crate::commands::{runs, runtime, surroundings};
use crate::config::{Config, Flags};
use crate::embedded::CallError;
use crate::reach::url_of;
use crate::report::{self, Exit, Explained, Failure};

/// This machine did not become an agent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JoinError {
    /// The token is none.
    #[error("the join token is not usable: {0}")]
    Token(String),
    /// Its file cannot be read.
    #[error("cannot read the join token from {from}")]
    File {
        /// From where.
        from: String,
        /// Why.
        source: std::io::Error,
    },
    /// The agent's files do not work.
    #[error("cannot keep the agent's identity")]
    Identity(#[from] IdentityError),
}

impl Explained for JoinError {
    fn fault(&self) -> Fault {
        match self {
            JoinError::Token(_) => Fault::User,
            JoinError::File { .. } | JoinError::Identity(_) => Fault::Environment,
        }
    }

    fn help(&self) -> Option<String> {
        match self {
            JoinError::Token(_) => Some("`caisson token create --agent NAME` prints one, on the controller's machine".to_owned()),
            _ => None,
        }
    }
}

/// Where agents of a state directory live.
pub(crate) fn agents(state: &Path) -> PathBuf {
    state.join("agents")
}

/// Where an agent's identity lies.
pub(crate) fn identity(state: &Path, name: &str) -> PathBuf {
    agents(state).join(name.replace('/', "_")).join("identity")
}

/// This host's name.
pub(crate) fn host() -> String {
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    host.filter(|name| !name.is_empty()).unwrap_or_else(|| "agent".to_owned())
}

fn token(given: &str) -> Result<Token, JoinError> {
    let text = match given.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(path).map_err(|source| JoinError::File { from: path.to_owned(), source })?,
        None if given == "-" => {
            let mut text = String::new();
            let read = std::io::stdin().take(4096).read_to_string(&mut text);
            read.map_err(|source| JoinError::File { from: "standard input".to_owned(), source })?;
            text
        }
        None => given.to_owned(),
    };
    let token = Token::parse(&text).map_err(|error| JoinError::Token(error.to_string()))?;
    match token.kind {
        TokenKind::Join => Ok(token),
        TokenKind::Api => Err(JoinError::Token("it is an API token, which is for clients".to_owned())),
    }
}

/// Joins.
pub(crate) fn run(arguments: fleet::AgentJoin) -> Result<Exit, Failure> {
    let (environment, root) = surroundings();
    let config = Config::settle(&environment, root, Flags { state_dir: arguments.state_dir.clone(), ..Flags::default() })?;
    let token = token(&arguments.token.0)?;
    let url = url_of(&arguments.controller);
    let name = arguments.name.clone().unwrap_or_else(host);
    let request = Request::new().map_err(JoinError::Identity)?;
    let uname = nix::sys::utsname::uname().ok();
    let fact = |name: &str, value: Option<&std::ffi::OsStr>| (name.to_owned(), value.unwrap_or_default().to_string_lossy().into_owned());
    let facts = vec![
        ("host".to_owned(), host()),
        fact("kernel", uname.as_ref().map(|uname| uname.release())),
        fact("machine", uname.as_ref().map(|uname| uname.machine())),
        ("caisson".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
    ];
    let enrolment = Enrolment { token: token.text(), agent: AgentName(name), request: request.request.clone(), facts };
    let runtime = runtime()?;
    let joined = runtime.block_on(async {
        let failed = |act: String| move |source| CallError { act, source };
        let tls = Tls::of_pin(token.pin, sha256, None).map_err(failed("set up TLS".to_owned()))?;
        let credentials = Credentials { tls: Some(tls), bearer: None };
        let client = Client::connect_with(&url, credentials).await.map_err(failed(format!("reach the controller {url}")))?;
        client.enroll(enrolment).await.map_err(failed(format!("join the controller {url}")))
    });
    runtime.shutdown_background();
    let identity = Identity::new(&url, joined?, request.key);
    let directory = self::identity(&config.state_dir.value, &identity.agent);
    identity.save(&directory).map_err(JoinError::Identity)?;
    let state = arguments.state_dir.as_ref().map(|path| format!(" --state-dir {}", path.display())).unwrap_or_default();
    Ok(report::print(&format!(
        "agent {} of pool {} joined {url}; its certificate counts until {} UTC and renews itself\n\nNext:\n  caisson agent{state} --name {}\n",
        identity.agent,
        identity.pool,
        runs::moment(identity.ends),
        identity.agent,
    )))
}
