//! What a built-in action does after the job's last step.

use crate::actions::bench::Bench;
use crate::actions::cache::{self, Saving};
use crate::program::Halt;

/// Something that was put off.
#[derive(Clone, Debug)]
pub enum Later {
    /// A cache is saved.
    SaveCache(Saving),
    /// Nothing but a line in the log.
    Say(String),
}

/// Does it.
///
/// # Errors
/// The [`Halt`] with which the step ends.
pub async fn run(later: &Later, bench: &mut impl Bench) -> Result<(), Halt> {
    match later {
        Later::SaveCache(saving) => cache::save_quietly(saving, bench).await,
        Later::Say(line) => {
            bench.say(line).await;
            Ok(())
        }
    }
}
