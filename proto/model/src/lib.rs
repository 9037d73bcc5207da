//! The words of caisson, shared by every other crate.
//!
//! Plain data: no files, sockets, clock, randomness, async or wire format. Everything here can be cloned, compared and
//! written as JSON.
//!
//! # Words
//! A **workflow** is a file. Submitting one makes a **run**, which holds **jobs** (the unit of scheduling), which hold
//! **steps** (the unit of execution). One try at a job on one agent is an **attempt**, guarded by a **fence**: a number
//! that only grows, so that a late message of an older attempt is recognised. An agent holds a job by a **lease** that it
//! renews. What a step may do is its **grant**, written into it by the controller's **policy** at admission. How something ended is its **outcome**.
//!
//! # Invariants
//! - No secret value is in any type here but [`secret::SecretValue`], which is neither `Serialize` nor readable through `Debug`.
//! - Text that came from a workflow and may hold `${{ }}` is a [`step::Template`], never a `String`.
//!
//! # Entry points
//! [`job::JobSpec`] is what an agent runs; [`lease`] has the session's messages; [`run`] has what a client sees.

pub mod agent;
pub mod artifact;
pub mod cache;
pub mod diagnostic;
pub mod id;
pub mod job;
pub mod lease;
pub mod ledger;
pub mod log;
pub mod outcome;
pub mod policy;
pub mod run;
pub mod secret;
pub mod step;
pub mod time;
