//! The gateway as its agent holds it: cheap to make, opened when the first step needs it, shared by all.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use crate::fetch::Fetcher;
use crate::python::Python;
use crate::settings::Settings;
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
}

impl Gateway {
    /// A gateway that is set up like this. Has no effect yet.
    pub fn new(settings: Settings) -> Gateway {
        Gateway { settings: Arc::new(settings), opened: Arc::default() }
    }

    /// How it is set up.
    pub fn settings(&self) -> &Settings {
        &self.settings
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
            Ok(Arc::new(Shelves { fetcher, python }))
        };
        self.opened.get_or_init(open).clone()
    }
}
