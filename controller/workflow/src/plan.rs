//! A checked workflow as jobs that wait for what they need. What depends on finished jobs stays a template until
//! [`crate::expand::expand`].

use std::collections::HashSet;

use caisson_expr::Value as Expr;
use caisson_model::diagnostic::{Diagnostic, DiagnosticKind, Severity};
use caisson_model::id::{Digest, JobKey};
use caisson_model::job::RunContexts;
use caisson_model::run::Submission;
use caisson_model::step::Template;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::action_file::Actions;
use crate::called::{self, Handed};
use crate::calls;
use crate::check;
use crate::diagnostic::{Report, Source, any_error};
use crate::dispatch;
use crate::events::{self, Trigger};
use crate::filter::{self, Verdict};
use crate::library::{Library, NoLibrary};
use crate::limits::Limits;
use crate::planned::{Concurrency, PlannedCall, PlannedJob, PlannedStrategy};
use crate::steps::{self, condition, pairs, secrets_in, template};
use crate::support;
use crate::yaml::{self, Content, Node};

/// A workflow that may run: everything about it that can be known before its first job starts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The workflow's `name:`, or its file.
    pub workflow: String,
    /// The workflow's file.
    pub file: String,
    /// The event.
    pub event: String,
    /// Contexts that are the same for every job.
    pub contexts: RunContexts,
    /// The source tree of the submission.
    pub source: Option<Digest>,
    /// The jobs to run, each after all that it needs, otherwise in the order of the file.
    pub jobs: Vec<PlannedJob>,
    /// `concurrency:` of the workflow.
    pub concurrency: Option<Concurrency>,
    /// `permissions:` of the workflow, as written: a word or a mapping.
    pub permissions: Option<Value>,
    /// Why the filters of `on:` would keep the event from starting this workflow; `None` when they let it through.
    pub filtered: Option<String>,
    /// What has no effect here, to be shown before the run. No errors.
    pub warnings: Vec<Diagnostic>,
}

impl Plan {
    /// All jobs, those of called workflows after the job that calls them, each with its key from outside: `build/test`.
    pub fn all_jobs(&self) -> Vec<(JobKey, &PlannedJob)> {
        fn add<'j>(prefix: &str, jobs: &'j [PlannedJob], all: &mut Vec<(JobKey, &'j PlannedJob)>) {
            for job in jobs {
                let key = format!("{prefix}{}", job.key);
                all.push((JobKey(key.clone()), job));
                if let Some(call) = &job.call {
                    add(&format!("{key}/"), &call.jobs, all);
                }
            }
        }
        let mut all = Vec::new();
        add("", &self.jobs, &mut all);
        all
    }

    /// Shows every job to `change`, in the same order and with the same keys.
    pub fn change_jobs(&mut self, change: &mut dyn FnMut(&JobKey, &mut PlannedJob)) {
        fn go(prefix: &str, jobs: &mut [PlannedJob], change: &mut dyn FnMut(&JobKey, &mut PlannedJob)) {
            for job in jobs {
                let key = format!("{prefix}{}", job.key);
                change(&JobKey(key.clone()), job);
                if let Some(call) = &mut job.call {
                    go(&format!("{key}/"), &mut call.jobs, change);
                }
            }
        }
        go("", &mut self.jobs, change);
    }
}

/// Checks a workflow and plans the jobs that a submission asks for, with the texts of the submission for what it refers to. Pure;
/// takes milliseconds.
///
/// # Errors
/// All findings, warnings among them, when at least one is an error; sorted by place.
pub fn plan(text: &str, file: &str, submission: &Submission) -> Result<Plan, Vec<Diagnostic>> {
    plan_with(text, file, submission, &Limits::default(), &submission.files)
}

/// The same with limits and called workflows given.
///
/// # Errors
/// As [`plan`].
pub fn plan_with(text: &str, file: &str, submission: &Submission, limits: &Limits, library: &dyn Library) -> Result<Plan, Vec<Diagnostic>> {
    match outline(text, file, submission, limits, library) {
        (Some(plan), findings) if !any_error(&findings) => Ok(Plan { warnings: findings, ..plan }),
        (_, findings) => Err(findings),
    }
}

/// As much of a plan as there is, to be looked at and never to be run, with all findings, sorted by place. What caisson does
/// not support is in it; only a text that is no workflow gives nothing.
pub fn outline(text: &str, file: &str, submission: &Submission, limits: &Limits, library: &dyn Library) -> (Option<Plan>, Vec<Diagnostic>) {
    let mut report = Report::under(Source::new(file, text), limits);
    let root = calls::workflow(&mut report, limits, library);
    let Some(root) = root else { return (None, report.into_findings()) };
    support::check(&root, limits.cells, &Actions { library, limits }, &mut report);
    calls::support(&root, limits, library, &mut report);
    // A workflow that breaks the language may call itself without end.
    let broken = report.findings.iter().any(|finding| finding.kind == DiagnosticKind::Language && finding.severity == Severity::Error);
    let library: &dyn Library = if broken { &NoLibrary } else { library };
    if root.get("jobs").is_some_and(|jobs| jobs.entries().len() > limits.jobs) {
        // The report says so; planning that many would only take time.
        return (None, report.into_findings());
    }
    let plan = Planner { root: &root, submission, limits, library, actions: Actions { library, limits } }.plan(&mut report);
    let mut findings = report.into_findings();
    if let Some(plan) = &plan
        && !submission.jobs.is_empty()
    {
        findings.retain(|finding| concerns(finding, file, &root, plan));
    }
    (plan.filter(|_| !broken), findings)
}

/// Whether a finding concerns what a plan of some of the jobs would run: what a job cannot do here is no matter while it does not run.
fn concerns(finding: &Diagnostic, file: &str, root: &Node, plan: &Plan) -> bool {
    if finding.kind == DiagnosticKind::Language || finding.location.file != file {
        return true;
    }
    let job = finding.construct.strip_prefix("jobs.").and_then(|rest| rest.split(['.', '[']).next());
    let stands = |key: &str| root.get("jobs").is_some_and(|jobs| jobs.get(key).is_some());
    job.is_none_or(|key| !stands(key) || plan.jobs.iter().any(|job| job.key.0 == key))
}

#[derive(Clone, Copy)]
struct Planner<'p> {
    root: &'p Node,
    submission: &'p Submission,
    limits: &'p Limits,
    library: &'p dyn Library,
    actions: Actions<'p>,
}

impl Planner<'_> {
    fn plan(&self, report: &mut Report<'_>) -> Option<Plan> {
        let file = report.source.file.to_owned();
        let name = self.root.get("name").and_then(Node::text).filter(|name| !name.is_empty());
        let workflow = name.unwrap_or_else(|| file.clone());
        let on = self.root.get("on")?;
        let trigger = self.trigger(on, report)?;
        let inputs = dispatch::inputs(&trigger, &self.submission.inputs, report);
        let contexts = self.contexts(&workflow, inputs);
        let unanswered = filter::unanswered(&trigger);
        if !unanswered.is_empty() && self.submission.changes.is_none() {
            let message = format!("`{}` is not applied: nobody said which files changed", unanswered.join("`, `"));
            let help = "nothing to do; with `--base REF` the files that changed since REF count";
            report.warning(trigger.at.clone(), &format!("on.{}", trigger.event), message, help);
        }
        let filtered = match filter::verdict(&trigger, &contexts.github, self.submission.changes.as_deref()) {
            Verdict::Starts => None,
            Verdict::Filtered(reason) => {
                let path = format!("on.{}", trigger.event);
                let help = "the run goes on because it was asked for; a push or pull request would not have started it";
                report.warning(trigger.at.clone(), &path, format!("the filters do not match: {reason}"), help);
                Some(reason)
            }
        };
        let workflow_env = pairs(self.root.get("env"));
        let jobs: Vec<PlannedJob> = self
            .root
            .get("jobs")?
            .entries()
            .iter()
            .map(|entry| self.job(&entry.key, &entry.value, entry.key_at.start, &workflow, &workflow_env, report))
            .collect();
        let jobs = self.select(order(jobs), on, report);
        Some(Plan {
            workflow,
            file,
            event: self.submission.event.clone(),
            contexts,
            source: self.submission.source,
            jobs,
            concurrency: self.root.get("concurrency").and_then(concurrency),
            permissions: self.root.get("permissions").map(Node::to_json),
            filtered,
            warnings: Vec::new(),
        })
    }

    fn trigger<'n>(&self, on: &'n Node, report: &mut Report<'_>) -> Option<Trigger<'n>> {
        let event = &self.submission.event;
        let triggers = events::triggers(on);
        let found = triggers.iter().find(|trigger| trigger.event == *event).cloned();
        if found.is_none() {
            let names: Vec<&str> = triggers.iter().map(|trigger| trigger.event.as_str()).collect();
            let message = format!("the workflow does not run on the event '{event}'");
            let help = format!("choose one of its events ({}), or add `{event}` to `on:`", names.join(", "));
            report.error(DiagnosticKind::Submission, on.at.start..on.at.start, "on", message, help);
        }
        found
    }

    fn contexts(&self, workflow: &str, inputs: Value) -> RunContexts {
        let mut github = match &self.submission.github {
            Value::Object(known) => known.clone(),
            _ => serde_json::Map::new(),
        };
        github.insert("event_name".to_owned(), self.submission.event.clone().into());
        github.insert("workflow".to_owned(), workflow.into());
        let event = github.entry("event").or_insert_with(|| json!({}));
        if let Value::Object(event) = event
            && self.submission.event == "workflow_dispatch"
        {
            // In the event's own payload every input is text.
            let texts = inputs.as_object().into_iter().flatten();
            let texts = texts.map(|(name, value)| (name.clone(), Expr::from_json(value).to_text().into()));
            event.insert("inputs".to_owned(), Value::Object(texts.collect()));
        }
        RunContexts { github: github.into(), inputs, vars: json!({}), env: self.submission.env.clone() }
    }

    /// The jobs that were asked for, with all that they need.
    fn select(&self, jobs: Vec<PlannedJob>, on: &Node, report: &mut Report<'_>) -> Vec<PlannedJob> {
        if self.submission.jobs.is_empty() {
            return jobs;
        }
        let mut wanted: Vec<String> = Vec::new();
        for key in &self.submission.jobs {
            if jobs.iter().any(|job| job.key.0 == *key) {
                wanted.push(key.clone());
            } else {
                let keys: Vec<&str> = jobs.iter().map(|job| job.key.0.as_str()).collect();
                let help = format!("its jobs are: {}", keys.join(", "));
                let at = on.at.start..on.at.start;
                report.error(DiagnosticKind::Submission, at, "jobs", format!("the workflow has no job '{key}'"), help);
            }
        }
        // Jobs stand after what they need: one pass from the end finds everything.
        for job in jobs.iter().rev() {
            if wanted.contains(&job.key.0) {
                wanted.extend(job.needs.iter().map(|need| need.0.clone()));
            }
        }
        jobs.into_iter().filter(|job| wanted.contains(&job.key.0)).collect()
    }

    fn job(
        &self,
        key: &str,
        job: &Node,
        at: usize,
        workflow: &str,
        workflow_env: &[(String, Template)],
        report: &Report<'_>,
    ) -> PlannedJob {
        let env = pairs(job.get("env"));
        let defaults = [job.get("defaults"), self.root.get("defaults")];
        let mut shared = Vec::new();
        workflow_env.iter().chain(&env).for_each(|(_, value)| secrets_in(&value.0, &mut shared));
        let steps = job.get("steps").map(Node::items).unwrap_or_default();
        let steps =
            steps.iter().enumerate().map(|(index, step)| steps::step(index, step, &defaults, &shared, report, &self.actions, 0)).collect();
        let mut places = IndexMap::new();
        for entry in job.entries() {
            places.insert(entry.key.clone(), report.source.location(entry.value.at.start));
            if entry.key == "strategy" {
                for inner in entry.value.entries() {
                    places.insert(format!("strategy.{}", inner.key), report.source.location(inner.value.at.start));
                }
            }
        }
        let strategy = job.get("strategy").map(|strategy| {
            let part = |key: &str| strategy.get(key).map(Node::to_json).unwrap_or_default();
            PlannedStrategy {
                matrix: part("matrix"),
                fail_fast: part("fail-fast"),
                max_parallel: part("max-parallel"),
                only: self.submission.matrix.clone(),
            }
        });
        PlannedJob {
            key: JobKey(key.to_owned()),
            workflow: workflow.to_owned(),
            needs: check::needs(job).into_iter().map(|(key, _)| key).collect(),
            name: template(job.get("name")),
            condition: condition(job.get("if")),
            runs_on: job.get("runs-on").map(Node::to_json).unwrap_or_default(),
            strategy,
            timeout_minutes: template(job.get("timeout-minutes")),
            continue_on_error: template(job.get("continue-on-error")),
            workflow_env: workflow_env.to_vec(),
            env,
            outputs: pairs(job.get("outputs")),
            steps,
            concurrency: job.get("concurrency").and_then(concurrency),
            environment: job.get("environment").map(Node::to_json),
            vars: Value::Null,
            permissions: job.get("permissions").map(Node::to_json),
            location: report.source.location(at),
            places,
            max_cells: self.limits.cells,
            call: job.get("uses").and_then(Node::text).and_then(|uses| self.call(&uses, job, workflow)).map(Box::new),
            scope: None,
            collector: None,
        }
    }

    /// The workflow that a job calls; `None` for one that is not there, which has been refused.
    fn call(&self, uses: &str, job: &Node, workflow: &str) -> Option<PlannedCall> {
        let (file, text) = (calls::file_of(uses), self.library.workflow(uses)?);
        let mut report = Report::new(Source::new(file, text));
        let root = yaml::read(&mut report, self.limits)?;
        let declared = |part: &str| {
            let triggers = events::triggers(root.get("on")?);
            triggers.into_iter().find(|trigger| trigger.event == "workflow_call")?.details?.get(part)
        };
        let env = pairs(root.get("env"));
        let planner = Planner { root: &root, ..*self };
        let inner = root.get("jobs").map(Node::entries).unwrap_or_default().iter();
        let inner = inner.map(|entry| planner.job(&entry.key, &entry.value, entry.key_at.start, workflow, &env, &report));
        let outputs = declared("outputs").map(Node::entries).unwrap_or_default().iter();
        Some(PlannedCall {
            file: file.to_owned(),
            inputs: called::inputs(declared("inputs"), job.get("with")),
            outputs: outputs.filter_map(|entry| Some((entry.key.clone(), Template(entry.value.get("value")?.text()?)))).collect(),
            jobs: Handed::of(job).rename(order(inner.collect())).ok()?,
        })
    }
}

fn concurrency(node: &Node) -> Option<Concurrency> {
    match &node.content {
        Content::Scalar(_) => Some(Concurrency { group: template(Some(node))?, cancel_in_progress: None }),
        Content::Mapping(_) => {
            Some(Concurrency { group: template(node.get("group"))?, cancel_in_progress: template(node.get("cancel-in-progress")) })
        }
        Content::Sequence(_) => None,
    }
}

/// Each job after those that it needs, otherwise in the given order. Jobs on a circle keep the given order at the end;
/// the check has refused those already.
fn order(mut jobs: Vec<PlannedJob>) -> Vec<PlannedJob> {
    let mut ordered: Vec<PlannedJob> = Vec::new();
    let mut done: HashSet<JobKey> = HashSet::new();
    while let Some(at) = jobs.iter().position(|job| job.needs.iter().all(|need| done.contains(need))) {
        let job = jobs.remove(at);
        done.insert(job.key.clone());
        ordered.push(job);
    }
    ordered.append(&mut jobs);
    ordered
}
