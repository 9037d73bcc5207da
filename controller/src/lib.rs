//! Schedules jobs to agents and keeps the journal.
//!
//! # Words
//! A client submits a workflow; [`policy`] admits its plan; the engine in [`core`] queues its jobs, offers them to agents
//! and keeps their leases. What must outlive a crash goes to the journal in a [`store`] before its effects leave the
//! process. A run's **history** is the list of its events as clients see them.
//!
//! # Invariants
//! - The engine knows no clock, no file and no network; it is owned by one task.
//! - No secret's value is in the journal, in a history or in a log: only [`secrets`] has them, and only until a step opens them.
//!
//! # Entry points
//! [`service::Service::open`] is a controller; [`listen::serve`] offers it to other processes.

pub mod artifacts;
pub mod blobs;
pub mod caches;
pub mod core;
pub mod identity;
pub mod listen;
pub mod logs;
pub mod metrics;
pub mod mirror;
pub mod planning;
pub mod policy;
pub mod records;
pub mod retention;
pub mod secrets;
pub mod service;
pub mod store;
pub mod triggers;
pub mod web;

#[cfg(test)]
mod simulation;
