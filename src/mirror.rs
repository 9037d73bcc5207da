//! Where this machine's mirror of actions is.

use std::path::PathBuf;

use caisson_controller::mirror::{Mirror, MirrorError};
use caisson_model::outcome::Fault;

use crate::config::Config;
use crate::report::Explained;

/// The mirror cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) struct Unusable(#[from] MirrorError);

impl Explained for Unusable {
    fn fault(&self) -> Fault {
        Fault::Environment
    }

    fn help(&self) -> Option<String> {
        Some("make the folder usable, or remove the file that is damaged and add its action again".to_owned())
    }
}

/// The folder: beside the states of all checkouts, since the actions are the operator's and no checkout's.
pub(crate) fn folder(config: &Config) -> PathBuf {
    config.state_dir.value.join("actions")
}

/// What was added so far.
pub(crate) fn read(config: &Config) -> Result<Mirror, Unusable> {
    Ok(Mirror::read(&folder(config))?)
}
