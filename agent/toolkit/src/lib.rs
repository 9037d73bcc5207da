//! The protocols by which JavaScript actions keep caches and artifacts, served to one step.
//!
//! The clients are those of the language's own toolkit: they speak to services by JSON over HTTP and move bytes to and from a blob
//! store by signed addresses. Both are answered here, on a listener inside the step's network namespace that the agent serves from
//! outside; what a step keeps so is what the built-in actions keep, in their form, and the other way round.
//!
//! # Words
//! - *desk*: what serves one step: a [`desk::Desk`]. It closes with the step.
//! - *keeper*: who keeps things for the run: the agent, on the controller's behalf ([`keeper::Keeper`]).
//! - *token*: what a client shows, [`token::Token`]. It counts at one desk.
//! - *parcel*: bytes on their way to the keeper or from it, under an address of its own with a signature.
//! - *form*: how bytes are packed. Artifacts are zip archives for clients and tar for the keeper; caches are compressed tar archives
//!   with paths from the workspace for clients, and plain tar with paths from `/` for the keeper ([`forms`]).
//!
//! # Invariants
//! - Whoever does not show the token, or an address's signature, is answered nothing but a refusal.
//! - What comes from a step is data: its archives are read entry by entry, never unpacked; no entry leads out of the directories that
//!   a job keeps, and all is bounded in bytes and in number.
//! - What scope a run's caches have is the keeper's to decide; a client cannot name another.
//!
//! # Entry points
//! [`desk::Desk::open`], [`keeper::Keeper`].

mod answer;
mod artifacts;
mod blobs;
mod caches;
pub mod desk;
pub mod forms;
pub mod keeper;
mod legacy;
mod parcels;
mod room;
pub mod token;
