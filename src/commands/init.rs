//! `caisson controller init`: makes the authority that agents and clients will believe.

use std::net::IpAddr;

use caisson_controller::identity::authority::{Authority, AuthorityError};
use caisson_controller::identity::registry::directory;
use caisson_model::outcome::Fault;

use crate::cli::fleet;
use crate::clock;
use crate::commands::surroundings;
use crate::config::{Config, Flags};
use crate::report::{self, Exit, Explained, Failure};

/// There is no authority afterwards.
#[derive(Debug, thiserror::Error)]
#[error("cannot make the controller's authority")]
struct NotMade(#[from] AuthorityError);

impl Explained for NotMade {
    fn fault(&self) -> Fault {
        match self.0 {
            AuthorityError::Exists(_) => Fault::User,
            _ => Fault::Environment,
        }
    }

    fn help(&self) -> Option<String> {
        match &self.0 {
            AuthorityError::Exists(directory) => {
                Some(format!("start with it: `caisson controller`; to begin anew, move {} away first", directory.display()))
            }
            _ => None,
        }
    }
}

/// Makes it.
pub(crate) fn run(arguments: fleet::ControllerInit) -> Result<Exit, Failure> {
    let (environment, root) = surroundings();
    let config = Config::settle(&environment, root, Flags { state_dir: arguments.state_dir.clone(), ..Flags::default() })?;
    let records = directory(&config.state_dir.value.join("controller"));
    let names = if arguments.names.is_empty() { own_names() } else { with_loopback(arguments.names) };
    let now = clock::now();
    let authority = Authority::create(&records, now).map_err(NotMade)?;
    authority.server(&names, now).map_err(NotMade)?;
    let pin: String = authority.pin().iter().map(|byte| format!("{byte:02x}")).collect();
    let state = match &arguments.state_dir {
        Some(path) => format!(" --state-dir {}", path.display()),
        None => String::new(),
    };
    let name = names.iter().find(|name| !is_loopback(name)).or(names.first()).cloned().unwrap_or_default();
    Ok(report::print(&format!(
        "authority    {}
fingerprint  sha256:{pin}
names        {}

The key beside it is what agents and clients trust: keep {} to yourself, and back it up.

Next:
  caisson controller{state} --listen 0.0.0.0:7717     serve, with TLS
  caisson token create{state} --agent NAME           a join token, for 15 minutes and one agent
  caisson agent join --controller {name}:7717 --token TOKEN      on the agent's machine, then `caisson agent`
  caisson token create{state} --scope submit         an API token, for `caisson submit --controller https://{name}:7717 --token-file FILE`
",
        authority.file().display(),
        names.join(", "),
        records.display(),
    )))
}

fn is_loopback(name: &str) -> bool {
    caisson_proto::client::is_loopback(name)
}

fn with_loopback(names: Vec<String>) -> Vec<String> {
    let mut all = names;
    for name in ["localhost", "127.0.0.1", "::1"] {
        if !all.iter().any(|known| known == name) {
            all.push(name.to_owned());
        }
    }
    all
}

/// This host's name and addresses.
pub(crate) fn own_names() -> Vec<String> {
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).filter(|name| !name.is_empty());
    let mut names: Vec<String> = host.into_iter().collect();
    for interface in nix::ifaddrs::getifaddrs().into_iter().flatten() {
        let Some(address) = interface.address else { continue };
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
        let v6 = || address.as_sockaddr_in6().map(|address| IpAddr::from(address.ip()));
        if let Some(address) = v4.or_else(v6)
            && !names.contains(&address.to_string())
        {
            names.push(address.to_string());
        }
    }
    with_loopback(names)
}
