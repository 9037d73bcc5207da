//! Which destinations a step may reach, and what that allows about the address behind a name.

use std::net::IpAddr;

use caisson_model::outcome::LEARNING;
use caisson_model::policy::{AddressRange, Destination};

use crate::egress::address;
use crate::egress::service::Service;

/// What one step may reach.
#[derive(Clone, Debug, Default)]
pub struct Allowed {
    /// Destinations that policy named. A private address behind a name is refused unless `ranges` has it.
    pub destinations: Vec<Destination>,
    /// Destinations that the operator of this host configured, as its package index: they may lie anywhere.
    pub preset_destinations: Vec<Destination>,
    /// Ranges that names of `destinations` may lead into although they are private.
    pub ranges: Vec<AddressRange>,
    /// Why the step has a way out at all, for the ledger.
    pub reason: String,
    /// Servers of the agent's own, asked before any rule.
    pub services: Vec<Service>,
    /// Whether everything is allowed that does not lead inside, so that it can be learnt what a step wants.
    pub learning: bool,
    /// The most bytes that the step may carry, both ways together.
    pub most_bytes: Option<u64>,
    /// The most connections that it may have open at once; `None` for [`MOST_CONNECTIONS`].
    pub most_connections: Option<u32>,
}

/// How many connections a step may have open at once when policy does not say; further ones are refused and recorded.
pub const MOST_CONNECTIONS: u32 = 512;

/// A destination that is allowed, before it is resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Permit {
    /// The rule, for the ledger.
    pub rule: String,
    /// What may be dialled.
    pub reach: Reach,
}

/// Which addresses a permit covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// This address, which the rule names itself.
    Literal(IpAddr),
    /// What the name resolves to, wherever that is.
    Anywhere,
    /// What the name resolves to, if it is public or in one of these ranges.
    Public(Vec<AddressRange>),
}

impl Allowed {
    /// The permit for `host` (lower case, no trailing dot, no brackets) and `port`, or why there is none.
    pub(super) fn permit(&self, host: &str, port: u16) -> Result<Permit, String> {
        let literal: Option<IpAddr> = host.parse().ok();
        let covers = |destination: &&Destination| match (literal, destination.host.parse::<IpAddr>()) {
            // A rule with a name never covers a literal and the other way round; two spellings of one address are equal.
            (Some(address), Ok(named)) => address == named && destination.covers(&destination.host, port),
            (None, Err(_)) => destination.covers(host, port),
            _ => false,
        };
        if let Some(destination) = self.preset_destinations.iter().find(covers) {
            return Ok(Permit { rule: self.rule(destination), reach: literal.map_or(Reach::Anywhere, Reach::Literal) });
        }
        if let Some(destination) = self.destinations.iter().find(covers) {
            let reach = match literal {
                Some(address) => Reach::Literal(address),
                None if destination.host == "localhost" => Reach::Anywhere,
                None => Reach::Public(self.ranges.clone()),
            };
            return Ok(Permit { rule: self.rule(destination), reach });
        }
        if self.learning {
            let reach = match literal {
                // A literal leads where it says, so it is judged at once.
                Some(address) => match address::inner(address) {
                    Some(what) if !self.ranges.iter().any(|range| range.contains(address)) => return Err(what.to_owned()),
                    _ => Reach::Literal(address),
                },
                None => Reach::Public(self.ranges.clone()),
            };
            return Ok(Permit { rule: LEARNING.to_owned(), reach });
        }
        let known = |destination: &&Destination| destination.host == host;
        let other_port = self.destinations.iter().chain(&self.preset_destinations).find(known);
        Err(match other_port {
            Some(destination) => format!("port {port} is not allowed, only {destination}"),
            None => "no rule allows it".to_owned(),
        })
    }

    /// The rule by which a name has an address inside, or why it has none. Its port is judged when somebody connects.
    pub(super) fn lookup(&self, name: &str) -> Result<String, String> {
        if self.services.iter().any(|service| service.host == name) {
            return Ok("a server of the agent's own".to_owned());
        }
        let covers = |destination: &&Destination| destination.host.parse::<IpAddr>().is_err() && destination.covers_host(name);
        match self.preset_destinations.iter().chain(&self.destinations).find(covers) {
            Some(destination) => Ok(self.rule(destination)),
            None if self.learning => Ok(LEARNING.to_owned()),
            None => Err("no rule allows it".to_owned()),
        }
    }

    /// The service that is meant by `host` and `port`.
    pub(super) fn service(&self, host: &str, port: u16) -> Option<&Service> {
        self.services.iter().find(|service| service.host == host && service.port == port)
    }

    fn rule(&self, destination: &Destination) -> String {
        if self.reason.is_empty() { destination.to_string() } else { format!("{destination} ({})", self.reason) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn allowed(destinations: &[&str], presets: &[&str]) -> Allowed {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        Allowed {
            destinations: parse(destinations),
            preset_destinations: parse(presets),
            ranges: vec!["10.0.0.0/8".parse().unwrap()],
            reason: "test".into(),
            ..Allowed::default()
        }
    }

    #[test]
    fn permits_say_how_far_they_reach() {
        let rules =
            allowed(&["api.example.com", "localhost:8000", "127.0.0.1:9000", "[::1]:9000", "*.wild.example:1"], &["index.internal:443"]);
        let public = Reach::Public(vec!["10.0.0.0/8".parse().unwrap()]);
        let table = [
            ("api.example.com", 443, Some(public.clone())),
            ("api.example.com", 22, None),
            ("localhost", 8000, Some(Reach::Anywhere)),
            ("localhost", 9000, None),
            ("127.0.0.1", 9000, Some(Reach::Literal("127.0.0.1".parse().unwrap()))),
            ("127.0.0.1", 8000, None),
            ("0:0:0:0:0:0:0:1", 9000, Some(Reach::Literal("::1".parse().unwrap()))),
            ("a.wild.example", 1, Some(public)),
            ("index.internal", 443, Some(Reach::Anywhere)),
            ("evil.example", 443, None),
        ];
        for (host, port, expected) in table {
            assert_eq!(rules.permit(host, port).ok().map(|permit| permit.reach), expected, "{host}:{port}");
        }
        assert_eq!(rules.permit("api.example.com", 22).unwrap_err(), "port 22 is not allowed, only api.example.com");
    }
}
