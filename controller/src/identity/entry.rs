//! What is written down: each decision about who may speak, each refusal.

use caisson_model::id::AgentName;
use caisson_model::time::Timestamp;
use serde::{Deserialize, Serialize};

/// One thing that was decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When.
    pub at: Timestamp,
    /// By whom or for whom: `agent NAME`, `token ID`, `local`, or an address.
    pub actor: String,
    /// What.
    #[serde(flatten)]
    pub act: Act,
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "act")]
pub enum Act {
    /// A token was made.
    TokenCreated {
        /// Its public part.
        id: String,
        /// SHA-256 of its secret part, in hexadecimal digits. The secret is 256 bits of chance, so no slower hash is needed.
        hash: String,
        /// For people.
        name: String,
        /// What it is for.
        purpose: Purpose,
        /// Until when it counts.
        expires: Timestamp,
    },
    /// A token was revoked.
    TokenRevoked {
        /// Its public part.
        id: String,
    },
    /// An agent joined; its token is used up.
    Joined {
        /// The token.
        token: String,
        /// The agent.
        agent: AgentName,
        /// Its pool.
        pool: String,
        /// Its certificate.
        certificate: Issued,
        /// What it told of its host.
        facts: Vec<(String, String)>,
    },
    /// An agent has a new certificate.
    Renewed {
        /// The agent.
        agent: AgentName,
        /// How many certificates it has had, this one included.
        generation: u64,
        /// The certificate.
        certificate: Issued,
    },
    /// An agent was seen with its newest certificate: from now on an older one is a sign of a copy.
    Confirmed {
        /// The agent.
        agent: AgentName,
        /// The generation.
        generation: u64,
    },
    /// An agent may speak no more.
    AgentRevoked {
        /// The agent.
        agent: AgentName,
        /// Why.
        reason: String,
    },
    /// Something was refused.
    Denied {
        /// What was tried.
        what: String,
        /// Why not.
        reason: String,
        /// How many refusals since the last entry were not written down, because there were too many.
        #[serde(default, skip_serializing_if = "is_zero")]
        unwritten: u64,
    },
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What a token is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// One agent may join.
    Join {
        /// The pool.
        pool: String,
        /// The name that it will have.
        agent: Option<AgentName>,
    },
    /// Calls of a person's command or of a program.
    Api {
        /// What it allows.
        scopes: Vec<Scope>,
    },
}

/// What an API token allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Seeing runs, logs and agents.
    Read,
    /// And submitting, cancelling and repeating runs.
    Submit,
    /// And everything else: agents, tokens.
    Admin,
}

impl Scope {
    /// All of them, the weakest first.
    pub const ALL: [(Scope, &str); 3] = [(Scope::Read, "read"), (Scope::Submit, "submit"), (Scope::Admin, "admin")];

    /// Its name.
    pub fn name(self) -> &'static str {
        Scope::ALL[self as usize].1
    }
}

/// A certificate that was issued, without its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// Its serial number in hexadecimal digits.
    pub serial: String,
    /// SHA-256 of the public key, in hexadecimal digits.
    pub key: String,
    /// From when it counts.
    pub begins: Timestamp,
    /// Until when.
    pub ends: Timestamp,
}
