//! Who may speak to a controller: the private authority, the agents that joined, tokens, and a record of every such decision.
//!
//! Everything that was decided is an [`entry::Entry`] of one append-only, hash-chained list ([`chain`]); the [`roll`] is what
//! the list adds up to. A decision is made on the roll and counts once its entry is in the list, so two controllers over one
//! list cannot both use up one token.

pub mod authority;
pub mod chain;
pub mod door;
pub mod entry;
pub mod peer;
pub mod registry;
pub mod roll;
pub mod token;
