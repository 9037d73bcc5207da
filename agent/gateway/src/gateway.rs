//! The gateway as its agent holds it: cheap to make, opened when the first step needs it, shared by all.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use crate::authority::{Authority, AuthorityError};
use crate::debian::Debian;
use crate::fetch::Fetcher;
use crate::npm::{self, Npm};
use crate::python::{self, Python};
use crate::served::Ecosystem;
use crate::settings::{Settings, Source};
use crate::store::Store;
use crate::upstream::{ClientError, Upstream};

/// Why a gateway cannot be opened.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OpenError {
    /// Its directory cannot be used.
    #[error("use the store of packages {}", path.display())]
    Store {
        /// Which.
        path: PathBuf,
        /// Why.
        source: Arc<io::Error>,
    },
    /// The indexes cannot be reached from here.
    #[error("reach the package indexes")]
    Client(#[source] Arc<ClientError>),
}

/// A gateway. Clones are the same gateway.
#[derive(Clone, Debug)]
pub struct Gateway {
    settings: Arc<Settings>,
    opened: Arc<OnceLock<Result<Arc<Shelves>, OpenError>>>,
    authority: Arc<OnceLock<Result<Authority, Arc<AuthorityError>>>>,
}

// Two gateways that are set up alike serve alike.
impl PartialEq for Gateway {
    fn eq(&self, other: &Gateway) -> bool {
        self.settings == other.settings
    }
}

impl Eq for Gateway {}

/// What all doors share.
#[derive(Debug)]
pub(crate) struct Shelves {
    pub fetcher: Arc<Fetcher>,
    pub python: Python,
    pub npm: Npm,
    pub debian: Debian,
}

impl Gateway {
    /// A gateway that is set up like this. Has no effect yet.
    pub fn new(settings: Settings) -> Gateway {
        Gateway { settings: Arc::new(settings), opened: Arc::default(), authority: Arc::default() }
    }

    /// How it is set up.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The certificate of the authority under which the gateway answers in the names of indexes, in PEM.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn certificate(&self) -> Result<&str, Arc<AuthorityError>> {
        self.authority().map(Authority::pem)
    }

    pub(crate) fn authority(&self) -> Result<&Authority, Arc<AuthorityError>> {
        self.authority.get_or_init(|| Authority::new().map_err(Arc::new)).as_ref().map_err(Arc::clone)
    }

    /// Hosts and ports in whose names the gateway answers to a client that asks for packages of `ecosystem` there.
    pub fn names(&self, ecosystem: Ecosystem) -> Vec<(String, u16)> {
        let settings = &self.settings;
        let sources: Vec<&Source> = match ecosystem {
            Ecosystem::Python => settings.python.iter().chain(&settings.python_links).collect(),
            Ecosystem::Npm => settings.npm.registry.iter().chain(settings.npm.scopes.values()).collect(),
            // apt writes no addresses down, and asks none of the authorities that a variable can name.
            Ecosystem::Debian => Vec::new(),
        };
        let mut names: Vec<(String, u16)> = Vec::new();
        for url in sources.iter().map(|source| &source.url) {
            let Some(host) = url.host_str().map(|host| host.trim_matches(['[', ']']).to_owned()) else { continue };
            // What the public indexes keep under another name, and lock files have.
            let also = match host.as_str() {
                "pypi.org" => Some(python::PUBLIC_FILES),
                "registry.npmjs.org" => Some(npm::PUBLIC_ALIAS),
                _ => None,
            };
            names.push((host, url.port_or_known_default().unwrap_or(443)));
            names.extend(also.map(|also| (also.to_owned(), 443)));
        }
        names.sort();
        names.dedup();
        names
    }

    /// Opens store and clients, once. Blocks for a few reads.
    pub(crate) fn shelves(&self) -> Result<Arc<Shelves>, OpenError> {
        let open = || {
            let path = &self.settings.store;
            let store = Store::open(path, self.settings.quota)
                .map_err(|source| OpenError::Store { path: path.clone(), source: Arc::new(source) })?;
            let upstream = Upstream::open(&self.settings).map_err(|source| OpenError::Client(Arc::new(source)))?;
            let fetcher = Arc::new(Fetcher::new(store, upstream));
            let python = Python::new(Arc::clone(&fetcher), &self.settings);
            let npm = Npm::new(Arc::clone(&fetcher), &self.settings);
            let debian = Debian::new(Arc::clone(&fetcher), &self.settings);
            Ok(Arc::new(Shelves { fetcher, python, npm, debian }))
        };
        self.opened.get_or_init(open).clone()
    }
}
