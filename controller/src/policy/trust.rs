//! How far a run is trusted, computed from the event and never from the checkout; and what is left of the rules for code of strangers.

use std::net::IpAddr;

use caisson_model::policy::{AddressRange, Destination};
use serde_json::Value;

use crate::policy::rules::{Network, Rules, SecretRules, StepRule};

/// Whether the event is about code of a fork: a stranger's, who may not write to the repository.
pub fn is_foreign(github: &Value) -> bool {
    let head = &github["event"]["pull_request"]["head"]["repo"];
    let own = github["repository"].as_str().unwrap_or_default();
    match head["full_name"].as_str() {
        // A repository that is a fork itself has pull requests of its own.
        Some(name) => !name.eq_ignore_ascii_case(own),
        None => head["fork"] == Value::Bool(true),
    }
}

impl Rules {
    /// What is left for code of strangers: limits, and the packages that install steps get. No host, no secret, no root.
    pub fn for_strangers(&self) -> Rules {
        let step = |rule: &StepRule| StepRule {
            allow: None,
            presets: None,
            root: None,
            system_calls: None,
            secrets: Some(Vec::new()),
            ..rule.clone()
        };
        Rules {
            network: Network { allow: Vec::new(), ranges: Vec::new(), learn: Some(false), learning: false, ..self.network.clone() },
            secrets: SecretRules { allow: Vec::new() },
            private: Vec::new(),
            step: self.step.iter().map(step).collect(),
            ..self.clone()
        }
    }

    /// What the checkout of a run has to reach, when its source lies in a repository that the operator named.
    pub(super) fn clone_of(&self, github: &Value) -> Option<(Destination, Vec<AddressRange>)> {
        let url = github["clone_url"].as_str().filter(|url| self.clones.iter().any(|known| known == url))?;
        let (scheme, rest) = url.split_once("://")?;
        let authority = rest.split('/').next()?.rsplit('@').next()?;
        let port = match (scheme, authority.rsplit_once(':')) {
            (_, Some((host, port))) if !port.contains(']') && !host.is_empty() => port.parse().ok()?,
            ("https", _) => 443,
            ("http", _) => 80,
            _ => return None,
        };
        let host = authority.strip_suffix(&format!(":{port}")).unwrap_or(authority).trim_matches(['[', ']']);
        let address: Option<IpAddr> = host.parse().ok();
        Some((Destination { host: host.to_ascii_lowercase(), port: Some(port) }, address.map(AddressRange::single).into_iter().collect()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn the_event_says_whose_code_it_is() {
        let pull = |head: Value| json!({ "repository": "acme/shop", "event": { "pull_request": { "head": { "repo": head } } } });
        for (github, foreign) in [
            (json!({ "repository": "acme/shop" }), false),
            (pull(json!({ "full_name": "Acme/Shop" })), false),
            (pull(json!({ "full_name": "eve/shop" })), true),
            (pull(json!({ "full_name": "acme/shop", "fork": true })), false),
            (pull(json!({ "fork": true })), true),
        ] {
            assert_eq!(is_foreign(&github), foreign, "{github}");
        }
    }

    #[test]
    fn a_clone_reaches_the_forge_that_the_operator_named_and_no_other() {
        let rules =
            Rules { clones: vec!["https://git.example.com/a/b.git".into(), "http://127.0.0.1:8080/a.git".into()], ..Rules::default() };
        let of = |url: &str| rules.clone_of(&json!({ "clone_url": url })).map(|(to, ranges)| (to.to_string(), ranges.len()));
        assert_eq!(of("https://git.example.com/a/b.git"), Some(("git.example.com:443".to_owned(), 0)));
        assert_eq!(of("http://127.0.0.1:8080/a.git"), Some(("127.0.0.1:8080".to_owned(), 1)));
        assert_eq!(of("https://evil.example.com/a/b.git"), None);
        assert_eq!(rules.clone_of(&json!({})), None);
    }
}
