//! What is there for a job's next step before it begins.

use caisson_sandbox::launcher::Prepared;

use crate::workspace::StepFiles;

/// What is there for the next step.
#[derive(Debug, Default)]
pub struct Ahead {
    /// Its sandbox.
    pub prepared: Option<Prepared>,
    /// The command files that it shows.
    pub files: Option<StepFiles>,
}
