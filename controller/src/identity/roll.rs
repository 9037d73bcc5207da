//! What the entries add up to, and every decision about who may speak. Plain functions; `now` is handed in.

use std::collections::BTreeMap;
use std::time::Duration;

use caisson_model::id::AgentName;
use caisson_model::time::Timestamp;
use caisson_proto::fleet::{MemberView, TokenKind, TokenView, TokenWish};

use crate::identity::entry::{Act, Entry, Issued, Purpose, Scope};
use crate::identity::peer::Recognised;
use crate::identity::token::Token;

/// The longest that a join token lives.
pub const LONGEST_JOIN: Duration = Duration::from_secs(15 * 60);
/// The longest that an API token lives.
pub const LONGEST_API: Duration = Duration::from_secs(366 * 24 * 3600);

/// Why somebody may not do something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is not allowed.
    #[error("{0}")]
    Denied(String),
    /// It can be done once only.
    #[error("{0}")]
    Spent(String),
    /// It is not well formed.
    #[error("{0}")]
    Invalid(String),
    /// There is no such thing.
    #[error("there is no {0}")]
    Unknown(String),
    /// The same certificate, or the key of an older one, is in two places: the agent has to be revoked.
    #[error("agent {agent} was seen with an outdated certificate: {reason}")]
    Copied {
        /// The agent.
        agent: AgentName,
        /// How that showed.
        reason: String,
    },
}

#[derive(Clone, Debug)]
struct Kept {
    hash: String,
    name: String,
    purpose: Purpose,
    created: Timestamp,
    expires: Timestamp,
    used: Option<(Timestamp, AgentName)>,
    revoked: Option<Timestamp>,
}

#[derive(Clone, Debug)]
struct Member {
    pool: String,
    generation: u64,
    confirmed: u64,
    joined: Timestamp,
    newest: Issued,
    revoked: Option<(Timestamp, String)>,
}

#[derive(Clone, Debug)]
struct Certificate {
    agent: AgentName,
    generation: u64,
    ends: Timestamp,
}

/// The state.
#[derive(Clone, Debug, Default)]
pub struct Roll {
    tokens: BTreeMap<String, Kept>,
    members: BTreeMap<AgentName, Member>,
    certificates: BTreeMap<String, Certificate>,
}

/// An API token that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its public part.
    pub id: String,
    /// What it allows.
    pub scopes: Vec<Scope>,
    /// Until when it counts.
    pub expires: Timestamp,
}

/// How an agent may join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The token's public part.
    pub token: String,
    /// Its name.
    pub agent: AgentName,
    /// Its pool.
    pub pool: String,
}

fn is_name(text: &str) -> bool {
    let byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !text.is_empty() && text.len() <= 63 && text.bytes().all(byte) && !text.starts_with('.')
}

impl Roll {
    /// Takes an entry in.
    pub fn apply(&mut self, entry: &Entry) {
        let at = entry.at;
        match &entry.act {
            Act::TokenCreated { id, hash, name, purpose, expires } => {
                let kept = Kept {
                    hash: hash.clone(),
                    name: name.clone(),
                    purpose: purpose.clone(),
                    created: at,
                    expires: *expires,
                    used: None,
                    revoked: None,
                };
                self.tokens.insert(id.clone(), kept);
            }
            Act::TokenRevoked { id } => {
                if let Some(token) = self.tokens.get_mut(id) {
                    token.revoked.get_or_insert(at);
                }
            }
            Act::Joined { token, agent, pool, certificate, .. } => {
                if let Some(token) = self.tokens.get_mut(token) {
                    token.used = Some((at, agent.clone()));
                }
                // Whoever had this name before has it no more.
                self.certificates.retain(|_, known| known.agent != *agent);
                let generation = self.members.get(agent).map_or(0, |member| member.generation) + 1;
                self.certify(agent, generation, certificate);
                let member =
                    Member { pool: pool.clone(), generation, confirmed: 0, joined: at, newest: certificate.clone(), revoked: None };
                self.members.insert(agent.clone(), member);
            }
            Act::Renewed { agent, generation, certificate } => {
                self.certificates.retain(|_, known| known.ends > at);
                self.certify(agent, *generation, certificate);
                if let Some(member) = self.members.get_mut(agent) {
                    member.generation = *generation;
                    member.newest = certificate.clone();
                }
            }
            Act::Confirmed { agent, generation } => {
                if let Some(member) = self.members.get_mut(agent) {
                    member.confirmed = *generation;
                }
            }
            Act::AgentRevoked { agent, reason } => {
                if let Some(member) = self.members.get_mut(agent) {
                    member.revoked.get_or_insert((at, reason.clone()));
                }
            }
            Act::Denied { .. } => {}
        }
    }

    fn certify(&mut self, agent: &AgentName, generation: u64, issued: &Issued) {
        let certificate = Certificate { agent: agent.clone(), generation, ends: issued.ends };
        self.certificates.insert(issued.serial.clone(), certificate);
    }

    /// Whether a wish for a token may be granted, and what it will be for.
    ///
    /// # Errors
    /// [`Refusal::Invalid`].
    pub fn grant(&self, wish: &TokenWish) -> Result<Purpose, Refusal> {
        let invalid = |text: String| Err(Refusal::Invalid(text));
        let (longest, purpose) = match wish.kind {
            TokenKind::Join => {
                if !is_name(&wish.pool) {
                    return invalid(format!("pool: {:?} is not a name of letters, digits, '-', '_' and '.'", wish.pool));
                }
                if !wish.name.is_empty() && !is_name(&wish.name) {
                    return invalid(format!("agent: {:?} is not a name of letters, digits, '-', '_' and '.'", wish.name));
                }
                let agent = (!wish.name.is_empty()).then(|| AgentName(wish.name.clone()));
                (LONGEST_JOIN, Purpose::Join { pool: wish.pool.clone(), agent })
            }
            TokenKind::Api => {
                let scope = |name: &String| {
                    let known = Scope::ALL.iter().find(|(_, known)| known == name);
                    known.map(|(scope, _)| *scope).ok_or_else(|| Refusal::Invalid(format!("scope: {name:?} is not read, submit or admin")))
                };
                let scopes = wish.scopes.iter().map(scope).collect::<Result<Vec<_>, _>>()?;
                if scopes.is_empty() {
                    return invalid("scope: an API token has at least one of read, submit and admin".to_owned());
                }
                (LONGEST_API, Purpose::Api { scopes })
            }
        };
        match wish.lifetime {
            Duration::ZERO => invalid("lifetime: is longer than nothing".to_owned()),
            long if long > longest => invalid(format!("lifetime: is at most {} minutes", longest.as_secs() / 60)),
            _ => Ok(purpose),
        }
    }

    fn token(&self, token: &Token, now: Timestamp) -> Result<&Kept, Refusal> {
        // The same words whether the public or the secret part is wrong.
        let unknown = || Refusal::Denied("the token is not known here".to_owned());
        let kept = self.tokens.get(&token.id).ok_or_else(unknown)?;
        if !token.is(&kept.hash) {
            return Err(unknown());
        }
        if kept.revoked.is_some() {
            return Err(Refusal::Denied(format!("token {} was revoked", token.id)));
        }
        if kept.expires <= now {
            return Err(Refusal::Denied(format!("token {} has expired", token.id)));
        }
        Ok(kept)
    }

    /// Whether somebody may join with a token. Nothing is used up yet.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn admit(&self, token: &Token, wanted: &AgentName, now: Timestamp) -> Result<Admission, Refusal> {
        let kept = self.token(token, now)?;
        let Purpose::Join { pool, agent } = &kept.purpose else {
            return Err(Refusal::Denied(format!("token {} is not for joining", token.id)));
        };
        if let Some((_, by)) = &kept.used {
            return Err(Refusal::Spent(format!("join token {} was used by agent {by}; make another", token.id)));
        }
        let name = agent.clone().unwrap_or_else(|| wanted.clone());
        if !is_name(&name.0) {
            return Err(Refusal::Invalid(format!("agent: {:?} is not a name of letters, digits, '-', '_' and '.'", name.0)));
        }
        let taken = self.members.get(&name).is_some_and(|member| member.revoked.is_none() && member.newest.ends > now);
        if taken && agent.is_none() {
            return Err(Refusal::Denied(format!(
                "there is an agent {name} already; revoke it, or make a token for that name (--agent {name})"
            )));
        }
        Ok(Admission { token: token.id.clone(), agent: name, pool: pool.clone() })
    }

    /// Whose certificate this is, if it counts.
    ///
    /// # Errors
    /// [`Refusal::Denied`].
    pub fn recognise(&self, serial: &str, now: Timestamp) -> Result<Recognised, Refusal> {
        let denied = |text: String| Err(Refusal::Denied(text));
        let Some(certificate) = self.certificates.get(serial) else {
            return denied("the certificate is not known here".to_owned());
        };
        let agent = &certificate.agent;
        let Some(member) = self.members.get(agent) else { return denied(format!("there is no agent {agent}")) };
        if let Some((_, reason)) = &member.revoked {
            return denied(format!("agent {agent} was revoked: {reason}"));
        }
        if certificate.ends <= now {
            return denied(format!("the certificate of agent {agent} has expired"));
        }
        Ok(Recognised {
            agent: agent.clone(),
            pool: member.pool.clone(),
            generation: certificate.generation,
            fresh: certificate.generation == member.generation && member.confirmed < member.generation,
            ends: certificate.ends,
        })
    }

    /// Whether a new connection may begin with this certificate: also not with one that its agent has put away.
    ///
    /// # Errors
    /// [`Refusal::Denied`]; [`Refusal::Copied`] when somebody else must have a copy.
    pub fn greet(&self, serial: &str, now: Timestamp) -> Result<Recognised, Refusal> {
        let known = self.recognise(serial, now)?;
        let confirmed = self.members.get(&known.agent).map_or(0, |member| member.confirmed);
        if known.generation < confirmed {
            let reason = format!("generation {} was presented after generation {confirmed} was in use", known.generation);
            return Err(Refusal::Copied { agent: known.agent, reason });
        }
        Ok(known)
    }

    /// The generation of the certificate that an agent with this one gets for a key.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn renew(&self, serial: &str, key: &str, now: Timestamp) -> Result<(AgentName, String, u64), Refusal> {
        let known = self.recognise(serial, now)?;
        let Some(member) = self.members.get(&known.agent) else { return Err(Refusal::Unknown(format!("agent {}", known.agent))) };
        if known.generation == member.generation {
            return Ok((known.agent, known.pool, member.generation + 1));
        }
        // The answer to a renewal was lost and it is asked for again.
        if known.generation + 1 == member.generation && member.confirmed < member.generation && member.newest.key == key {
            return Ok((known.agent, known.pool, member.generation));
        }
        let reason = format!("generation {} was renewed a second time, with another key", known.generation);
        Err(Refusal::Copied { agent: known.agent, reason })
    }

    /// Whose API token this is, if it counts.
    ///
    /// # Errors
    /// [`Refusal::Denied`].
    pub fn holder(&self, token: &Token, now: Timestamp) -> Result<Holder, Refusal> {
        let kept = self.token(token, now)?;
        match &kept.purpose {
            Purpose::Api { scopes } => Ok(Holder { id: token.id.clone(), scopes: scopes.clone(), expires: kept.expires }),
            Purpose::Join { .. } => Err(Refusal::Denied(format!("token {} is for joining only", token.id))),
        }
    }

    /// Whether an API token still counts.
    pub fn still(&self, holder: &Holder, now: Timestamp) -> bool {
        holder.expires > now && self.tokens.get(&holder.id).is_some_and(|token| token.revoked.is_none())
    }

    /// Whether there is such a token.
    pub fn has_token(&self, id: &str) -> bool {
        self.tokens.contains_key(id)
    }

    /// Whether an agent is a member and was not revoked.
    pub fn is_member(&self, agent: &AgentName) -> bool {
        self.members.get(agent).is_some_and(|member| member.revoked.is_none())
    }

    /// Whether this is an agent's newest generation and it was not seen yet.
    pub fn unconfirmed(&self, agent: &AgentName, generation: u64) -> bool {
        self.members.get(agent).is_some_and(|member| member.generation == generation && member.confirmed < generation)
    }

    /// Whether an agent ever joined.
    pub fn knows(&self, agent: &AgentName) -> bool {
        self.members.contains_key(agent)
    }

    /// All tokens, the oldest first.
    pub fn tokens(&self) -> Vec<TokenView> {
        let view = |(id, kept): (&String, &Kept)| {
            let (kind, pool, scopes) = match &kept.purpose {
                Purpose::Join { pool, .. } => (TokenKind::Join, pool.clone(), Vec::new()),
                Purpose::Api { scopes } => (TokenKind::Api, String::new(), scopes.iter().map(|scope| scope.name().to_owned()).collect()),
            };
            TokenView {
                id: id.clone(),
                kind,
                name: kept.name.clone(),
                pool,
                scopes,
                created: kept.created,
                expires: kept.expires,
                used: kept.used.as_ref().map(|(at, _)| *at),
                used_by: kept.used.as_ref().map(|(_, by)| by.clone()),
                revoked: kept.revoked,
            }
        };
        let mut views: Vec<TokenView> = self.tokens.iter().map(view).collect();
        views.sort_by_key(|view| view.created);
        views
    }

    /// All agents, by name.
    pub fn members(&self) -> Vec<MemberView> {
        let view = |(agent, member): (&AgentName, &Member)| MemberView {
            agent: agent.clone(),
            pool: member.pool.clone(),
            generation: member.generation,
            joined: member.joined,
            expires: member.newest.ends,
            revoked: member.revoked.as_ref().map(|(at, _)| *at),
            reason: member.revoked.as_ref().map(|(_, reason)| reason.clone()),
        };
        self.members.iter().map(view).collect()
    }
}
