//! The policed exit of one program, for the time that its sandbox lives.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use caisson_model::id::StepIndex;
use caisson_model::lease::StepChange;
use caisson_model::outcome::{EgressEntry, Fault};
use caisson_model::policy::Egress;

use crate::egress;
use crate::egress::rules::Allowed;
use crate::lower::Passage;
use crate::program::Halt;
use crate::reports::Remarks;

/// Opens the exit that a passage leads to; `None` for a closed one. What is attempted is also told at once.
///
/// # Errors
/// The listeners cannot be served.
pub(super) fn open(
    listeners: Vec<OwnedFd>,
    passage: Passage,
    egress: &Egress,
    remarks: Remarks,
    step: StepIndex,
) -> Result<Option<egress::Exit>, Halt> {
    if listeners.is_empty() {
        return Ok(None);
    }
    let allowed = Allowed {
        destinations: passage.destinations,
        preset_destinations: passage.preset_destinations,
        ranges: egress.ranges.clone(),
        reason: egress.reason.clone(),
    };
    let sink = Arc::new(move |entry: &EgressEntry| remarks.tell(StepChange::Reached { step, entry: entry.clone() }));
    egress::Exit::open(listeners, allowed, sink)
        .map(Some)
        .map_err(|error| Halt::faulted(format!("the step's exit could not be opened: {error}"), Fault::Environment))
}
