//! Runs attempts: workspace, steps, secrets, masked logs, the policed exit.

pub mod egress;
pub mod mask;
