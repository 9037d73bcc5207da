//! `caisson plan`: what would run, in which order, what each part may reach and read, and what cannot be run.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use caisson_controller::planning::References;
use caisson_controller::policy;
use caisson_model::diagnostic::{Diagnostic, Severity};
use caisson_model::id::JobKey;
use caisson_model::policy::{Grant, Identity, Preset};
use caisson_model::step::{Action, Composite, NodeAction, StepSpec};
use caisson_workflow::{Plan, PlannedJob, Preview};
use console::style;
use serde_json::{Value, json};

use crate::cli;
use crate::commands::check::finding_json;
use crate::commands::surroundings;
use crate::config::{Config, Flags};
use crate::report::{self, Exit, Failure};
use crate::{mirror, policy_file, selection};

/// One workflow as far as it can be planned, and all that is to be said about it.
struct Outlined {
    file: String,
    event: String,
    plan: Option<Plan>,
    findings: Vec<Diagnostic>,
}

impl Outlined {
    fn is_refused(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Error)
    }
}

/// Plans and shows.
pub(crate) fn run(arguments: &cli::Plan) -> Result<Exit, Failure> {
    let (environment, root) = surroundings();
    let config = Config::settle(&environment, root, Flags::default())?;
    let mirror = mirror::read(&config)?;
    let (checkout, submissions) = selection::every(&arguments.selection, &environment)?;
    let policy = policy_file::choose(arguments.policy.as_deref(), Some(&checkout), &config.places)?;
    policy.warning.iter().for_each(|warning| report::warn(warning));
    let limits = policy.rules.workflow_limits();
    let outlined: Vec<Outlined> = submissions
        .into_iter()
        .map(|submission| {
            let references = References { files: &submission.files, mirror: &mirror, rules: &policy.rules };
            let (plan, mut findings) = caisson_workflow::outline(&submission.text, &submission.file, &submission, &limits, &references);
            let plan = plan.map(|plan| {
                let asked: BTreeSet<String> =
                    plan.all_jobs().into_iter().flat_map(|(_, job)| &job.steps).flat_map(|step| step.grant.secrets.clone()).collect();
                let mut plan = policy::weigh(plan, &policy.rules, &asked);
                findings.append(&mut plan.warnings);
                plan
            });
            Outlined { file: submission.file, event: submission.event, plan, findings }
        })
        .collect();
    let refused = outlined.iter().any(Outlined::is_refused);
    let origin = policy.rules.origin.as_deref().unwrap_or("the built-in default");
    let printed = if arguments.json {
        let workflows: Vec<Value> = outlined.iter().map(workflow_json).collect();
        report::print(&format!("{}\n", json!({"ok": !refused, "policy": origin, "workflows": workflows})))
    } else {
        for finding in outlined.iter().flat_map(|outlined| &outlined.findings) {
            report::say(&report::finding_text(finding));
        }
        let mut text = outlined.iter().map(shown).collect::<Vec<_>>().join("\n");
        // Writing to a String cannot fail.
        let _ = writeln!(text, "\nPolicy: {origin}");
        report::print(&text)
    };
    Ok(if refused { Exit::USAGE.worst(printed) } else { printed })
}

/// In which round each job can start at the earliest, by its key: 1 for those that need nothing.
fn rounds(jobs: &[PlannedJob]) -> BTreeMap<&JobKey, usize> {
    let mut rounds: BTreeMap<&JobKey, usize> = BTreeMap::new();
    // Jobs stand after what they need.
    for job in jobs {
        let round = 1 + job.needs.iter().filter_map(|need| rounds.get(need)).max().copied().unwrap_or(0);
        rounds.insert(&job.key, round);
    }
    rounds
}

fn shown(outlined: &Outlined) -> String {
    let Some(plan) = &outlined.plan else { return format!("{}  is no workflow\n", outlined.file) };
    let refused = if outlined.is_refused() { "  a run is refused" } else { "" };
    let mut text = format!("{}  {} on {}{}\n", style(&plan.workflow).bold(), plan.file, plan.event, style(refused).red());
    let whole = [
        plan.concurrency.as_ref().map(|concurrency| format!("one at a time in group {}", concurrency.group.0)),
        plan.permissions.as_ref().map(|permissions| format!("permissions {permissions}")),
    ];
    for fact in whole.into_iter().flatten() {
        let _ = writeln!(text, "  {fact}");
    }
    show_jobs(&plan.jobs, plan, 2, &mut text);
    text
}

fn show_jobs(jobs: &[PlannedJob], plan: &Plan, indent: usize, text: &mut String) {
    let (rounds, space) = (rounds(jobs), " ".repeat(indent));
    for job in jobs {
        let _ = writeln!(text, "{space}{}  ({})", style(&job.key).bold(), facts(job, rounds[&job.key]).join(", "));
        match caisson_workflow::preview(job, &plan.contexts) {
            Ok(Preview::Cells(cells)) if job.strategy.is_some() => {
                let names: Vec<&str> = cells.iter().map(|cell| cell.name.as_str()).collect();
                let _ = writeln!(text, "{space}    {}: {}", counted(names.len()), names.join(", "));
            }
            Ok(Preview::AtRunTime) => {
                let _ = writeln!(text, "{space}    cells from the outputs of {}", keys(&job.needs));
            }
            Ok(Preview::Cells(_)) => {}
            Err(finding) => {
                let _ = writeln!(text, "{space}    no cells: {}", finding.message);
            }
        }
        if let Some(call) = &job.call {
            let _ = writeln!(text, "{space}    calls {}", call.file);
            show_jobs(&call.jobs, plan, indent + 4, text);
        }
        show_steps(&job.steps, indent + 2, text);
    }
}

fn show_steps(steps: &[StepSpec], indent: usize, text: &mut String) {
    let space = " ".repeat(indent);
    for step in steps {
        let grants = granted(&step.grant);
        let label = step.name.as_ref().map_or_else(|| step.label(), |name| name.0.clone());
        let label = label.lines().next().unwrap_or_default();
        let _ = match grants.is_empty() {
            true => writeln!(text, "{space}{}", place(step, label)),
            false => writeln!(text, "{space}{}\n{space}    may: {}", place(step, label), grants.join("; ")),
        };
        if let Action::Composite(composite) = &step.action {
            show_steps(&composite.steps, indent + 2, text);
        }
    }
}

fn keys(keys: &[JobKey]) -> String {
    keys.iter().map(|key| key.0.as_str()).collect::<Vec<_>>().join(", ")
}

fn counted(cells: usize) -> String {
    if cells == 1 { "1 cell".to_owned() } else { format!("{cells} cells") }
}

fn facts(job: &PlannedJob, round: usize) -> Vec<String> {
    let mut facts = vec![format!("round {round}")];
    if !job.needs.is_empty() {
        facts.push(format!("needs {}", keys(&job.needs)));
    }
    if let Some(condition) = &job.condition {
        facts.push(format!("if {}", condition.0.trim()));
    }
    if let Some(environment) = &job.environment {
        facts.push(format!("environment {}", environment.as_str().map_or_else(|| environment.to_string(), str::to_owned)));
    }
    if let Some(permissions) = &job.permissions {
        facts.push(format!("permissions {permissions}"));
    }
    if let Some(concurrency) = &job.concurrency {
        facts.push(format!("group {}", concurrency.group.0));
    }
    if let Some(minutes) = &job.timeout_minutes {
        facts.push(format!("at most {} minutes", minutes.0));
    }
    facts
}

fn place(step: &StepSpec, label: &str) -> String {
    format!("{label}  {}", style(format!("line {}", step.location.line)).dim())
}

fn reached(grant: &Grant) -> Vec<String> {
    // What is stored is on this machine already.
    let presets = grant.egress.presets.iter().filter(|_| !grant.egress.stored).map(|preset| match preset {
        Preset::PythonPackages => "the Python package index".to_owned(),
        Preset::NodePackages => "the npm registry".to_owned(),
        Preset::DebianPackages => "the Debian archives".to_owned(),
    });
    presets.chain(grant.egress.allow.iter().map(ToString::to_string)).collect()
}

/// What a grant opens, in words.
fn granted(grant: &Grant) -> Vec<String> {
    let mut words = Vec::new();
    let reach = reached(grant);
    if !reach.is_empty() {
        let reason = if grant.egress.reason.is_empty() { String::new() } else { format!(" ({})", grant.egress.reason) };
        words.push(format!("reach {}{reason}", reach.join(", ")));
    }
    if grant.egress.stored {
        words.push("take packages that are stored, reaching nothing".to_owned());
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

fn workflow_json(outlined: &Outlined) -> Value {
    let of = |severity: Severity| -> Vec<Value> {
        outlined.findings.iter().filter(|finding| finding.severity == severity).map(finding_json).collect()
    };
    let unsupported: Vec<Value> = outlined
        .findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error && finding.kind == caisson_model::diagnostic::DiagnosticKind::Unsupported)
        .map(finding_json)
        .collect();
    let mut object = json!({
        "file": outlined.file,
        "event": outlined.event,
        "ok": !outlined.is_refused(),
        "errors": of(Severity::Error),
        "warnings": of(Severity::Warning),
        "unsupported": unsupported,
    });
    if let Some(plan) = &outlined.plan {
        object["name"] = plan.workflow.clone().into();
        object["permissions"] = plan.permissions.clone().unwrap_or_default();
        object["concurrency"] = json!(plan.concurrency);
        object["inputs"] = plan.contexts.inputs.clone();
        object["filtered"] = json!(plan.filtered);
        object["jobs"] = jobs_json(&plan.jobs, plan).into();
    }
    object
}

fn jobs_json(jobs: &[PlannedJob], plan: &Plan) -> Vec<Value> {
    let rounds = rounds(jobs);
    jobs.iter().map(|job| job_json(job, rounds[&job.key], plan)).collect()
}

fn job_json(job: &PlannedJob, round: usize, plan: &Plan) -> Value {
    let (cells, at_run_time, problem) = match caisson_workflow::preview(job, &plan.contexts) {
        Ok(Preview::Cells(cells)) => {
            let cells = cells.iter().map(|cell| json!({"name": cell.name, "matrix": cell.matrix, "labels": cell.labels})).collect();
            (Value::Array(cells), false, None)
        }
        Ok(Preview::AtRunTime) => (Value::Null, true, None),
        Err(finding) => (Value::Null, false, Some(finding_json(&finding))),
    };
    let mut reaches: BTreeSet<String> = BTreeSet::new();
    let mut secrets: BTreeSet<String> = BTreeSet::new();
    for step in &job.steps {
        reaches.extend(reached(&step.grant));
        secrets.extend(step.grant.secrets.iter().cloned());
    }
    json!({
        "key": job.key,
        "name": job.name,
        "order": round,
        "needs": job.needs,
        "if": job.condition,
        "runs_on": job.runs_on,
        "line": job.location.line,
        "matrix": job.strategy.as_ref().map(|strategy| &strategy.matrix),
        "fail_fast": job.strategy.as_ref().map(|strategy| &strategy.fail_fast),
        "max_parallel": job.strategy.as_ref().map(|strategy| &strategy.max_parallel),
        "cells": cells,
        "cells_at_run_time": at_run_time,
        "problem": problem,
        "timeout_minutes": job.timeout_minutes,
        "continue_on_error": job.continue_on_error,
        "environment": job.environment,
        "permissions": job.permissions,
        "concurrency": job.concurrency,
        "outputs": job.outputs.iter().map(|(name, _)| name).collect::<Vec<_>>(),
        "reaches": reaches,
        "secrets": secrets,
        "calls": job.call.as_ref().map(|call| json!({"file": call.file, "jobs": jobs_json(&call.jobs, plan)})),
        "steps": job.steps.iter().map(step_json).collect::<Vec<_>>(),
    })
}

fn step_json(step: &StepSpec) -> Value {
    let uses = match &step.action {
        Action::Uses { action, version, .. } | Action::NoOp { action, version, .. } => Some(format!("{action}@{version}")),
        Action::Composite(Composite { uses, .. }) | Action::Node(NodeAction { uses, .. }) => Some(uses.clone()),
        _ => None,
    };
    json!({
        "index": step.index,
        "id": step.id,
        "name": step.name.as_ref().map_or_else(|| step.label(), |name| name.0.clone()),
        "line": step.location.line,
        "uses": uses,
        "if": step.condition,
        "reaches": reached(&step.grant),
        "reason": step.grant.egress.reason,
        "stored_packages": step.grant.egress.stored,
        "secrets": step.grant.secrets,
        "root": step.grant.identity == Identity::Root,
    })
}
