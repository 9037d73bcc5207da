//! The actions that caisson has built in. Each is a sequence of programs in sandboxes of the job; none runs anything outside.

use crate::actions::bench::{Bench, Inputs};
use crate::program::Halt;

pub mod bench;
pub mod checkout;
pub mod interpreters;
pub mod python_version;
pub mod setup_python;

/// Runs the action of this name.
///
/// # Errors
/// The [`Halt`] with which the step ends; an action that caisson does not have is one.
pub async fn run(name: &str, inputs: &Inputs, bench: &mut impl Bench) -> Result<(), Halt> {
    match name {
        "actions/checkout" => checkout::run(inputs, bench).await,
        "actions/setup-python" => setup_python::run(inputs, bench).await,
        _ => Err(Halt::invalid(format!("this agent has no action '{name}'; it has actions/checkout and actions/setup-python"))),
    }
}
