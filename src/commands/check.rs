//! `caisson check`: what would run and what each step would be granted, without running anything.

use std::fmt::Write as _;

use caisson_model::policy::{Grant, Identity, Preset};
use caisson_model::step::StepSpec;
use caisson_workflow::Plan;
use console::style;

use crate::cli;
use crate::commands::surroundings;
use crate::config::Places;
use crate::report::{self, Exit, Failure};
use crate::{plans, policy_file, selection};

/// Checks and shows.
pub(crate) fn run(arguments: &cli::Check) -> Result<Exit, Failure> {
    let (environment, root) = surroundings();
    let places = Places::of(&environment, root)?;
    let chosen = selection::choose(&arguments.selection, &environment)?;
    let policy = policy_file::choose(arguments.policy.as_deref(), Some(&chosen.checkout), &places)?;
    chosen.notes.iter().for_each(|note| report::note(note));
    policy.warning.iter().for_each(|warning| report::warn(warning));
    let plans = plans::admit(&chosen.submissions, &policy.rules, None)?;
    for finding in plans.iter().flat_map(|plan| &plan.warnings) {
        report::say(&report::finding_text(finding));
    }
    let origin = policy.rules.origin.as_deref().unwrap_or("the built-in default");
    let mut text = plans.iter().map(shown).collect::<Vec<_>>().join("\n");
    // Writing to a String cannot fail.
    let _ = writeln!(text, "\nPolicy: {origin}");
    Ok(report::print(&text))
}

fn shown(plan: &Plan) -> String {
    let mut text = format!("{}  {} on {}\n", style(&plan.workflow).bold(), plan.file, plan.event);
    for job in &plan.jobs {
        let mut facts = vec![format!("{} steps", job.steps.len())];
        if job.strategy.is_some() {
            facts.push("matrix".to_owned());
        }
        if !job.needs.is_empty() {
            facts.push(format!("needs {}", job.needs.iter().map(|key| key.0.as_str()).collect::<Vec<_>>().join(", ")));
        }
        let _ = writeln!(text, "  {}  ({})", style(&job.key).bold(), facts.join(", "));
        for step in &job.steps {
            let grants = granted(&step.grant);
            let label = step.name.as_ref().map_or_else(|| step.label(), |name| name.0.clone());
            let label = label.lines().next().unwrap_or_default();
            match grants.is_empty() {
                true => writeln!(text, "    {}", place(step, label)),
                false => writeln!(text, "    {}\n        may: {}", place(step, label), grants.join("; ")),
            }
            .unwrap_or_default();
        }
    }
    text
}

fn place(step: &StepSpec, label: &str) -> String {
    format!("{label}  {}", style(format!("line {}", step.location.line)).dim())
}

/// What a grant opens, in words.
fn granted(grant: &Grant) -> Vec<String> {
    let mut words = Vec::new();
    let presets = grant.egress.presets.iter().map(|preset| match preset {
        Preset::PythonPackages => "the Python package index".to_owned(),
        Preset::NodePackages => "the npm registry".to_owned(),
        Preset::DebianPackages => "the Debian archives".to_owned(),
    });
    let reach: Vec<String> = presets.chain(grant.egress.allow.iter().map(ToString::to_string)).collect();
    if !reach.is_empty() {
        let reason = if grant.egress.reason.is_empty() { String::new() } else { format!(" ({})", grant.egress.reason) };
        words.push(format!("reach {}{reason}", reach.join(", ")));
    }
    if !grant.secrets.is_empty() {
        words.push(format!("read secrets {}", grant.secrets.join(", ")));
    }
    if grant.identity == Identity::Root {
        words.push("be root of its user namespace".to_owned());
    }
    if !grant.system_calls.is_empty() {
        words.push(format!("call {}", grant.system_calls.join(", ")));
    }
    words
}
