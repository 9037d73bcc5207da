//! Who may speak: enrolment of agents, and what an administrator asks of a controller.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use caisson_model::id::AgentName;
use caisson_model::time::Timestamp;

use crate::api::ApiError;

/// What an agent without a certificate asks for.
#[derive(Clone)]
pub struct Enrolment {
    /// The join token.
    pub token: String,
    /// The name that it wants; one that the token is bound to wins.
    pub agent: AgentName,
    /// A PKCS #10 request, DER. Only its key counts.
    pub request: Vec<u8>,
    /// What it tells of its host, for people.
    pub facts: Vec<(String, String)>,
}

impl fmt::Debug for Enrolment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Enrolment").field("agent", &self.agent).field("facts", &self.facts).finish_non_exhaustive()
    }
}

/// A certificate and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certified {
    /// The agent's name.
    pub agent: AgentName,
    /// Its pool.
    pub pool: String,
    /// X.509, DER.
    pub certificate: Vec<u8>,
    /// The authority's own certificate, DER.
    pub authority: Vec<u8>,
    /// From when it counts.
    pub begins: Timestamp,
    /// Until when.
    pub ends: Timestamp,
}

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// Enrolling one agent, once.
    Join,
    /// Calls of a person's command or of a program.
    Api,
}

/// A token that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenWish {
    /// What for.
    pub kind: TokenKind,
    /// For people; of a join token the name that the agent will have, empty for the one that it asks for.
    pub name: String,
    /// Of a join token: the pool; empty otherwise.
    pub pool: String,
    /// Of an API token: what it allows; empty otherwise.
    pub scopes: Vec<String>,
    /// How long it lives.
    pub lifetime: Duration,
}

/// A token as it is told once, to whoever made it.
#[derive(Clone, PartialEq, Eq)]
pub struct NewToken {
    /// Its text.
    pub token: String,
    /// What is kept of it.
    pub view: TokenView,
}

impl fmt::Debug for NewToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewToken").field("view", &self.view).finish_non_exhaustive()
    }
}

/// A token as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenView {
    /// Its public part.
    pub id: String,
    /// What for.
    pub kind: TokenKind,
    /// For people.
    pub name: String,
    /// Its pool; empty for an API token.
    pub pool: String,
    /// What it allows; empty for a join token.
    pub scopes: Vec<String>,
    /// When it was made.
    pub created: Timestamp,
    /// Until when it counts.
    pub expires: Timestamp,
    /// When a join token was used.
    pub used: Option<Timestamp>,
    /// By which agent.
    pub used_by: Option<AgentName>,
    /// When it was revoked.
    pub revoked: Option<Timestamp>,
}

/// An enrolled agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberView {
    /// Its name.
    pub agent: AgentName,
    /// Its pool.
    pub pool: String,
    /// How many certificates it has had.
    pub generation: u64,
    /// When it joined.
    pub joined: Timestamp,
    /// When its newest certificate ends.
    pub expires: Timestamp,
    /// When it was revoked.
    pub revoked: Option<Timestamp>,
    /// Why.
    pub reason: Option<String>,
}

/// Enrolment and administration. Implemented by the controller's door and by [`crate::client::Client`].
pub trait FleetApi: Send + Sync + 'static {
    /// Makes an agent a member. Its token is used up, whatever becomes of the answer.
    fn enroll(&self, enrolment: Enrolment) -> impl Future<Output = Result<Certified, ApiError>> + Send;

    /// A new certificate for the agent that asks with its present one. Repeated with the same key it gives the same generation.
    fn renew_certificate(&self, request: Vec<u8>) -> impl Future<Output = Result<Certified, ApiError>> + Send;

    /// Makes a token.
    fn create_token(&self, wish: TokenWish) -> impl Future<Output = Result<NewToken, ApiError>> + Send;

    /// All tokens that are kept, in the order of their making.
    fn list_tokens(&self) -> impl Future<Output = Result<Vec<TokenView>, ApiError>> + Send;

    /// Revokes a token. Twice is no error.
    fn revoke_token(&self, id: String) -> impl Future<Output = Result<(), ApiError>> + Send;

    /// All agents that ever joined, by name.
    fn list_members(&self) -> impl Future<Output = Result<Vec<MemberView>, ApiError>> + Send;

    /// Revokes an agent: within a second its streams end and no handshake succeeds. Twice is no error.
    fn expel(&self, agent: AgentName, reason: String) -> impl Future<Output = Result<(), ApiError>> + Send;
}
