//! Checking out other repositories: the checkout step clones them, where the rules let it reach their host.

use caisson_model::policy::{Destination, Egress};
use caisson_model::step::{Action, StepSpec};

/// The action that clones repositories.
pub(super) const CLONING_ACTION: &str = "actions/checkout";
/// Where repositories lie when a step does not say.
const SERVER: &str = "https://github.com";

/// Another repository than the run's own that a step checks out, with where it lies; `None` for the run's own, and for names that
/// are known only when the step runs.
pub(super) fn elsewhere(step: &StepSpec, own: &str) -> Option<(String, Destination)> {
    let Action::Uses { action, with, .. } = &step.action else { return None };
    if action != CLONING_ACTION {
        return None;
    }
    let input = |wanted: &str| with.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.0.trim());
    let repository = input("repository").filter(|name| !name.is_empty() && !name.contains("${{") && !name.eq_ignore_ascii_case(own))?;
    let server = input("github-server-url").filter(|url| !url.is_empty() && !url.contains("${{")).unwrap_or(SERVER);
    let (scheme, rest) = server.split_once("://")?;
    let authority = rest.split('/').next().unwrap_or(rest);
    let (host, port) = match authority.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?))) {
        Some((host, port)) => (host, port),
        None => (authority, if scheme == "http" { 80 } else { 443 }),
    };
    Some((repository.to_owned(), Destination { host: host.to_ascii_lowercase(), port: Some(port) }))
}

/// What is wrong with checking that out, and what to do; `None` when the step may reach it.
pub(super) fn unreachable(repository: &str, at: &Destination, egress: &Egress, origin: &str) -> Option<(String, String)> {
    let port = at.port.unwrap_or(443);
    if egress.learn || egress.allow.iter().any(|destination| destination.covers(&at.host, port)) {
        return None;
    }
    let preset = if port == 443 { at.host.clone() } else { format!("{}:{port}", at.host) };
    let message = format!("another repository, {repository}, is checked out, and the step may not reach {preset}");
    let help = format!("vendor what the step needs, or grant the step presets = [\"git:{preset}\"] under [[step]] in {origin}");
    Some((message, help))
}
