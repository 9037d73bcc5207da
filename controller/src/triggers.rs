//! What starts runs by itself: webhooks of forges and schedules; and what forges are told of them.
//!
//! A webhook is believed for its signature, taken once, and read into the words of the `github` context. The workflows come from
//! the forge at the commit, their source is cloned by the agent inside the sandbox of the checkout step. How far a run is trusted
//! follows from the event: code of a fork gets no secret and reaches the package index only.

pub mod changes;
pub mod course;
pub mod cron;
pub mod delivery;
pub mod forge;
pub mod hooks;
pub mod schedule;
pub mod seen;
pub mod settings;
pub mod signature;
