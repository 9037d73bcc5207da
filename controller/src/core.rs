//! The scheduler as a pure state machine: events go in, effects come out, and `now` is a parameter.
//!
//! No clock, no randomness, no async, no files. What happens is decided by [`engine::Engine::handle`] alone, so that any
//! history can be played again. What must outlive a crash is an [`record::Record`]: the engine writes one for every
//! durable change, [`state::State::apply`] is the only code that performs it, and a restart applies the same records to
//! an empty state. Offers, sessions and beats are not durable: after a restart they are made anew.
//!
//! # Words
//! A **group** is a job of the workflow file; expanding it yields its **cells**, which are jobs. A **refusal** is an offer
//! that an agent declined or let lapse. A **stop** is a wish that an attempt end: pushed to the agent, and bounded.

pub mod effect;
pub mod engine;
pub mod event;
pub mod explain;
pub mod job;
pub mod matching;
pub mod record;
pub mod state;
pub mod terms;
pub mod turns;
