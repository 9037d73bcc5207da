//! The actions that caisson has built in. Each is a sequence of programs in sandboxes of the job; none runs anything outside.

use crate::actions::bench::{Bench, Inputs, Later};
use crate::program::Halt;

pub mod bench;
pub mod cache;
pub mod checkout;
pub mod clone;
pub mod download_artifact;
pub mod interpreters;
pub mod nodes;
pub mod package_cache;
pub mod paths;
pub mod python_version;
pub mod setup_node;
pub mod setup_python;
pub mod setup_uv;
pub mod upload_artifact;

/// Runs the action of this name.
///
/// # Errors
/// The [`Halt`] with which the step ends; an action that caisson does not have is one.
pub async fn run(name: &str, inputs: &Inputs, bench: &mut impl Bench) -> Result<(), Halt> {
    match name {
        "actions/checkout" => checkout::run(inputs, bench).await,
        "actions/setup-python" => setup_python::run(inputs, bench).await,
        "actions/setup-node" => setup_node::run(inputs, bench).await,
        "astral-sh/setup-uv" => setup_uv::run(inputs, bench).await,
        "actions/cache" => cache::run(inputs, bench).await,
        "actions/cache/restore" => cache::run_restore(inputs, bench).await,
        "actions/cache/save" => cache::run_save(inputs, bench).await,
        "actions/upload-artifact" => upload_artifact::run(inputs, bench).await,
        "actions/download-artifact" => download_artifact::run(inputs, bench).await,
        _ => Err(Halt::invalid(format!("this agent has no action '{name}'; it is older than its controller, update it"))),
    }
}

/// Does what an action put off.
///
/// # Errors
/// The [`Halt`] with which the step ends.
pub async fn run_later(later: &Later, bench: &mut impl Bench) -> Result<(), Halt> {
    match later {
        Later::SaveCache(saving) => cache::save_quietly(saving, bench).await,
        Later::Say(line) => {
            bench.say(line).await;
            Ok(())
        }
    }
}
