//! The whole way out of one sandbox: the policed exit, and the doors of the package gateway beside it, with one ledger.

use caisson_gateway::door::{Door, DoorError};
use caisson_gateway::gateway::Gateway;
use caisson_model::outcome::EgressEntry;
use caisson_model::policy::Egress;
use caisson_sandbox::onlooker::Onlooker;
use caisson_sandbox::sockets::Sockets;

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
    /// Serves the sockets of a sandbox that was built with this passage, and whose processes `onlooker` finds. Must be called within a tokio
    /// runtime.
    ///
    /// # Errors
    /// [`WayError`].
    pub fn open(
        mut sockets: Sockets,
        onlooker: Onlooker,
        passage: Passage,
        egress: &Egress,
        gateway: &Gateway,
        sink: Sink,
    ) -> Result<Way, WayError> {
        let allowed = Allowed {
            destinations: passage.destinations,
            preset_destinations: passage.preset_destinations,
            ranges: egress.ranges.clone(),
            reason: egress.reason.clone(),
            services: passage.services,
            learning: egress.learn,
            most_bytes: egress.bytes,
            most_connections: egress.connections,
        };
        // The exit's own, those of the doors, and the exit's for IPv6.
        let doors = 1..(1 + passage.doors.len()).min(sockets.listeners.len());
        let of_doors = sockets.listeners.drain(doors).collect();
        let exit = Exit::open(sockets, Some(onlooker), allowed, sink)?;
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
