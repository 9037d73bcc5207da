//! `[[retry]]`: jobs that are tried again by themselves. Losses of an agent are not counted: those are never the job's doing.

use caisson_model::outcome::Outcome;
use glob::Pattern;
use serde::{Deserialize, Deserializer};

use crate::core::terms::Retry;

/// One entry.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetryRule {
    /// Workflows by name or file; all when it is absent.
    #[serde(default, deserialize_with = "pattern")]
    pub workflow: Option<Pattern>,
    /// Jobs by key; all when it is absent.
    #[serde(default, deserialize_with = "pattern")]
    pub job: Option<Pattern>,
    /// Tries beyond the first: 0 to 10.
    #[serde(deserialize_with = "times")]
    pub times: u32,
    /// After which outcomes.
    #[serde(default = "after")]
    pub on: Vec<Outcome>,
}

fn after() -> Vec<Outcome> {
    vec![Outcome::Failure, Outcome::TimedOut, Outcome::Faulted]
}

fn pattern<'de, D: Deserializer<'de>>(text: D) -> Result<Option<Pattern>, D::Error> {
    let text = String::deserialize(text)?;
    Pattern::new(&text).map(Some).map_err(|error| serde::de::Error::custom(format!("{text:?} is no pattern: {error}")))
}

fn times<'de, D: Deserializer<'de>>(number: D) -> Result<u32, D::Error> {
    match u32::deserialize(number)? {
        times @ 0..=10 => Ok(times),
        other => Err(serde::de::Error::custom(format!("times: 0 to 10 is wanted, this is {other}"))),
    }
}

impl RetryRule {
    fn matches(&self, workflow: &str, file: &str, jobs: &[&str]) -> bool {
        let of = |pattern: &Option<Pattern>, texts: &[&str]| {
            pattern.as_ref().is_none_or(|pattern| texts.iter().any(|text| pattern.matches(text)))
        };
        of(&self.workflow, &[workflow, file]) && of(&self.job, jobs)
    }
}

/// What the last matching entry says. A job of a called workflow goes by its key with those of its callers before it
/// (`build/unit`), and by its own.
pub(super) fn of(rules: &[RetryRule], workflow: &str, file: &str, job: &str) -> Option<Retry> {
    let own = job.rsplit('/').next().unwrap_or(job);
    let rule = rules.iter().rev().find(|rule| rule.matches(workflow, file, &[job, own]))?;
    Some(Retry { times: rule.times, on: rule.on.clone() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::policy::Rules;

    #[test]
    fn the_last_matching_rule_counts() {
        let rules: Rules = toml::from_str("[[retry]]\ntimes = 1\n[[retry]]\njob = \"e2e-*\"\ntimes = 2\non = [\"timed-out\"]\n").unwrap();
        assert_eq!(rules.retry_of("Tests", "t.yml", "unit").unwrap().times, 1);
        assert_eq!(rules.retry_of("Tests", "t.yml", "e2e-a").unwrap(), Retry { times: 2, on: vec![Outcome::TimedOut] });
        assert!(toml::from_str::<Rules>("[[retry]]\ntimes = 11\n").is_err());
        assert!(toml::from_str::<Rules>("[[retry]]\ntimes = 1\nalways = true\n").is_err());
    }
}
