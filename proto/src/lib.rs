//! The contract between controller, agents and clients, and its gRPC form.
//!
//! # Entry points
//! [`api`] and [`fleet`] have the traits; [`client::Client`] is a controller over gRPC, [`server::serve`] offers any implementor over gRPC.
//!
//! # Invariants
//! Wire types never leave this crate: behind [`client`] and [`server`] there is only the model.

pub mod api;
pub mod chain;
pub mod client;
mod convert;
pub mod fleet;
pub mod server;
mod status;
pub mod tls;
mod wire;
