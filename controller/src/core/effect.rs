//! What the shell has to do. Effects of one event are kept together: the records are durable before anything else leaves.

use caisson_model::id::{AttemptId, RunId};
use caisson_model::lease::ControllerMessage;
use caisson_model::run::RunEvent;
use caisson_model::time::Timestamp;

use crate::core::event::SessionId;
use crate::core::record::Record;

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Write this to the journal.
    Record(Box<Record>),
    /// Add this to the run's history and tell whoever watches.
    Tell {
        /// The run.
        run: RunId,
        /// When.
        at: Timestamp,
        /// What.
        event: Box<RunEvent>,
    },
    /// Say this in a session.
    Send(SessionId, ControllerMessage),
    /// End a session, for this reason.
    Close(SessionId, String),
    /// The attempt writes no more: seal the logs that it left open, for this reason.
    EndLogs(AttemptId, String),
}
