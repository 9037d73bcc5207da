//! Runs attempts: workspace, steps, secrets, masked logs, the policed exit.
//!
//! # Words
//! - **agent**: holds a session with a controller and runs **attempts** in its **slots** ([`agent`]).
//! - **attempt**: one try at a job ([`job`]); what its steps share is an [`attempt::Attempt`].
//! - **order**: cancel, leave or forget; an attempt's order only becomes more urgent ([`stop`]).
//! - **step**: one sandboxed course of **programs** ([`step`], [`program`]); a script is one, a built-in **action** several ([`actions`]).
//! - **host rules**: what the operator of this machine allows and has ([`host`]); with a grant they **lower** to a sandbox spec ([`lower`]).
//! - **view**: what a sandbox sees of the host's system ([`view`]).
//!
//! # Invariants
//! - No process is forked here: the launcher makes every one, and `step` is its only caller.
//! - No variable of the agent's environment reaches a step; no secret reaches the agent's disk.
//! - What a step wrote is read only after all its processes are dead, through descriptors, and bounded.
//! - Output goes one way: pipe, workflow commands, masks, log.
//!
//! # Entry points
//! [`agent::Agent`] serves a controller; [`host::HostRules`] and [`lower`] also serve a single command in a sandbox.

pub mod actions;
pub mod agent;
pub mod ahead;
pub mod apt;
pub mod attempt;
mod beats;
pub mod capture;
pub mod clock;
pub mod command_files;
pub mod commands;
pub mod contexts;
pub mod egress;
pub mod environment;
pub mod hash_files;
pub mod host;
pub mod id_claim;
pub mod identity;
pub mod index;
pub mod job;
pub mod kept;
pub mod logs;
pub mod lower;
pub mod mask;
pub mod options;
pub mod outbox;
pub mod output;
pub mod packages;
pub mod post;
pub mod probe;
pub mod program;
pub mod reports;
pub mod retry;
pub mod secrets;
pub mod shell;
pub mod sources;
pub mod step;
pub mod stop;
pub mod trees;
pub mod view;
pub mod way;
pub mod workspace;

#[cfg(test)]
mod hostile_bytes;
