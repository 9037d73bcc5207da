//! The contract between controller, agents and clients, and its gRPC form.
//!
//! # Entry points
//! [`api`] has the traits.

pub mod api;
