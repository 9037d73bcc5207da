//! The contract between controller, agents and clients, and its gRPC form.
