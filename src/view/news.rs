//! What views are told.

use caisson_model::id::RunId;
use caisson_model::log::{LogKey, LogRead};
use caisson_model::run::NumberedEvent;

/// Something happened in a run.
#[derive(Clone, Debug)]
pub(crate) enum News {
    /// A change of the run, a job or a step.
    Event(RunId, NumberedEvent),
    /// Some of a step's output, or its end. A step's output is complete before its end is told.
    Log(LogKey, LogRead),
}
