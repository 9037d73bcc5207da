//! The whole way out of one sandbox: the policed exit, and the doors of the package gateway beside it, with one ledger.

use std::os::fd::OwnedFd;

use caisson_gateway::door::{Door, DoorError};
use caisson_gateway::gateway::Gateway;
use caisson_model::outcome::EgressEntry;
use caisson_model::policy::Egress;

use crate::egress::Exit;
use crate::egress::ledger::Sink;
use crate::egress::rules::Allowed;
use crate::lower::Passage;
use crate::packages;

/// Why a way out cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum WayError {
    /// A listener is none.
    #[error("serve the exit's listeners")]
    Exit(#[from] std::io::Error),
    /// The gateway is not usable.
    #[error("open the package gateway")]
    Gateway(#[from] DoorError),
}

/// An open way out. Dropping it ends its connections, but nobody hears of their last bytes.
#[derive(Debug)]
pub struct Way {
    exit: Exit,
    doors: Vec<Door>,
}

impl Way {
    /// Serves `listeners`, which are those of the passage. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`WayError`].
    pub fn open(mut listeners: Vec<OwnedFd>, passage: Passage, egress: &Egress, gateway: &Gateway, sink: Sink) -> Result<Way, WayError> {
        let allowed = Allowed {
            destinations: passage.destinations,
            preset_destinations: passage.preset_destinations,
            ranges: egress.ranges.clone(),
            reason: egress.reason.clone(),
            services: passage.services,
        };
        let of_doors = listeners.split_off(listeners.len().saturating_sub(passage.doors.len()));
        let exit = Exit::open(listeners, allowed, sink)?;
        let doors = packages::open(gateway, &passage.doors, of_doors, egress, &exit.scribe())?;
        Ok(Way { exit, doors })
    }

    /// Ends every connection and answers with everything that was attempted.
    pub async fn close(self) -> Vec<EgressEntry> {
        for door in self.doors {
            door.close().await;
        }
        self.exit.close().await
    }
}
