//! Workflow text to plan. Pure: no files, no clock, no network, no async.
//!
//! # Words
//! - **workflow**: the text of one file, with its name for messages.
//! - **finding**: a [`caisson_model::diagnostic::Diagnostic`]; its kind says whether the text breaks the language, asks
//!   for something caisson does not have, or for something it refuses for safety.
//! - **plan**: a checked workflow together with the submission that starts it ([`Plan`]); its jobs are still templates.
//! - **expansion**: a planned job whose needs have ended, as the cells of its matrix ([`expand()`]).
//!
//! # Invariants
//! - A [`Plan`] holds nothing that caisson cannot run: whatever the language allows and caisson does not support was
//!   refused with its place, its name and the next action. What has no effect is among the plan's warnings.
//! - No text makes this crate panic; size, depth, aliases, cells and findings are bounded by [`Limits`].
//! - The step templates inside are syntactically right and name only contexts that are available there.
//!
//! # Entry points
//! [`plan()`], [`expand()`], [`check()`], [`events()`], [`render()`].

mod action_file;
mod actions;
mod called;
mod calling;
mod calls;
mod check;
mod diagnostic;
mod dispatch;
mod events;
mod exclusion;
mod expand;
mod filter;
mod instead;
mod library;
mod limits;
pub mod matrix;
mod needs;
mod overview;
mod parse;
mod permissions;
mod plan;
mod planned;
mod preview;
mod references;
mod schema;
mod scope;
mod steps;
mod support;
mod taint;
mod uses;
mod yaml;

pub use calls::calls;
pub use diagnostic::{any_error, render};
pub use exclusion::exclusion;
pub use expand::expand;
pub use library::{ActionText, Library, Mirrored, NoLibrary, local_directory};
pub use limits::{DefaultPermissions, Limits, SecurityRule};
pub use needs::{Expansion, Ready};
pub use overview::{Overview, check, events, filtered, schedules, wants_changes};
pub use plan::{Plan, outline, plan, plan_with};
pub use planned::{CallScope, Collector, Concurrency, Gate, PlannedCall, PlannedInput, PlannedJob, PlannedStrategy};
pub use preview::{Preview, PreviewCell, preview};
