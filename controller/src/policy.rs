//! Admission: what the steps of a plan may do under the operator's rules. Pure.
//!
//! A plan comes in with the secrets that each step asks for and closed grants; it leaves with the grants that its jobs
//! carry to the end. Nothing in a checkout can widen them.
//!
//! # The default
//! A step gets no network. A step whose script does nothing but install Python packages (see [`install`]) reaches the
//! package index, and loses the secrets that its job or workflow put into every step's environment: what it runs is
//! written by strangers. A step that names a secret itself gets no network by default, install step or not. A step that installs and
//! does more runs in two (`split`); where what it installs cannot be told ahead, it reaches the index if it sees no secret at all, as
//! whoever writes it could have done the same in an install step.

mod apt;
mod clones;
mod debian;
pub mod environment;
pub mod group;
pub mod install;
pub mod pattern;
pub mod permissions;
pub mod retry;
pub mod rules;
mod runner;
mod shell;
mod split;
pub mod text;
pub mod trust;

use std::collections::BTreeSet;

use caisson_model::diagnostic::{Diagnostic, DiagnosticKind, Severity};
use caisson_model::id::{JobKey, StepIndex};
use caisson_model::job::RunContexts;
use caisson_model::policy::{self as model, AddressRange, Destination, Egress, Grant, Identity, Preset};
use caisson_model::secret::CLONE_CREDENTIAL;
use caisson_model::step::{Action, Composite, Location, NodeAction, StepSpec, Template};
use caisson_workflow::{Plan, PlannedJob};
use serde_json::Map;

use crate::policy::debian::Debian;
use crate::policy::environment::Named;
use crate::policy::group::Group;
use crate::policy::install::Reading;
use crate::policy::permissions::Permissions;
pub use crate::policy::rules::Rules;
use crate::policy::rules::{StepRule, StepSubject};

/// Actions that need the package index themselves: a Python without pip gets it from there.
const INSTALLING_ACTIONS: [&str; 2] = ["actions/setup-python", "astral-sh/setup-uv"];

/// Why the step that clones a run's repository reaches it, if the operator named it.
const CLONES: &str = "the run's own repository";

/// Writes every step's grant, or refuses the plan. `known` are the names of the secrets that can be opened.
///
/// # Errors
/// All findings, warnings among them, when at least one is an error.
pub fn admit(plan: Plan, rules: &Rules, known: &BTreeSet<String>) -> Result<Plan, Vec<Diagnostic>> {
    let plan = weigh(plan, rules, known);
    match plan.warnings.iter().any(|finding| finding.severity == Severity::Error) {
        true => Err(plan.warnings),
        false => Ok(plan),
    }
}

/// Writes every step's grant and adds all findings to the plan's warnings, errors among them: to be looked at, not to be run.
pub fn weigh(mut plan: Plan, rules: &Rules, known: &BTreeSet<String>) -> Plan {
    let foreign = trust::is_foreign(&plan.contexts.github);
    let (strangers, nothing) = (rules.for_strangers(), BTreeSet::new());
    let (rules, known) = if foreign { (&strangers, &nothing) } else { (rules, known) };
    plan.contexts.vars = rules.vars.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect::<Map<_, _>>().into();
    let clone = rules.clone_of(&plan.contexts.github);
    let own = plan.contexts.github["repository"].as_str().unwrap_or_default().to_owned();
    let url = plan.contexts.github["clone_url"].as_str();
    let private = rules.private.iter().any(|(name, address)| *name == own && Some(address.as_str()) == url);
    let (around, told, findings) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    let mut admission = Admission { rules, known, clone, private, own, around, foreign, environment: None, told, findings };
    let (workflow, file, contexts) = (plan.workflow.clone(), plan.file.clone(), plan.contexts.clone());
    plan.change_jobs(&mut |key, job| {
        admission.environment = admission.environment_of(key, job, &contexts);
        let inherited = inherited(job);
        admission.around.clone_from(&inherited);
        job.steps = admission.steps([&workflow, &file], key, std::mem::take(&mut job.steps), &inherited);
    });
    if let Some(bound) = &rules.workflow.permissions {
        let place = Location { file: file.clone(), ..Location::default() };
        admission.bound("permissions", &place, &mut plan.permissions, bound);
        plan.change_jobs(&mut |key, job| {
            let place = job.places.get("permissions").unwrap_or(&job.location).clone();
            admission.bound(&format!("jobs.{key}.permissions"), &place, &mut job.permissions, bound);
        });
    }
    let (mut findings, rules) = (std::mem::take(&mut admission.findings), admission.rules);
    // The parser's word that an environment has no rules, where it has some.
    if !rules.environment.is_empty() {
        plan.warnings.retain(|finding| !finding.construct.ends_with(".environment"));
    }
    plan.warnings.append(&mut findings);
    plan
}

struct Admission<'r> {
    rules: &'r Rules,
    known: &'r BTreeSet<String>,
    clone: Option<(Destination, Vec<AddressRange>)>,
    /// Whether cloning it takes a token that the operator gave.
    private: bool,
    /// The run's repository.
    own: String,
    /// The secrets that every step of the job at hand sees, those of its actions among them.
    around: BTreeSet<String>,
    /// Whether it is about code of a fork.
    foreign: bool,
    /// The environment of the job that is looked at.
    environment: Option<String>,
    told: BTreeSet<String>,
    findings: Vec<Diagnostic>,
}

/// Secrets that the job's or the workflow's environment gives to every step.
fn inherited(job: &PlannedJob) -> BTreeSet<String> {
    secrets(job.workflow_env.iter().chain(&job.env).map(|(_, value)| value.0.as_str()))
}

/// What rules may call a step: its id and its name.
fn names_of(step: &StepSpec) -> Vec<String> {
    let label = step.name.as_ref().map_or_else(|| step.label(), |name| name.0.clone());
    vec![step.id.clone().unwrap_or_default(), label]
}

/// Secrets that the step itself names.
fn own(step: &StepSpec) -> BTreeSet<String> {
    let template = |template: &Template| template.0.clone();
    let mut texts: Vec<String> = step.env.iter().map(|(_, value)| template(value)).collect();
    texts.extend(step.name.iter().chain(&step.continue_on_error).chain(&step.timeout_minutes).map(template));
    texts.extend(step.condition.iter().map(|condition| format!("${{{{ {} }}}}", condition.0)));
    match &step.action {
        Action::Run { script, shell, working_directory } => {
            texts.extend([script].into_iter().chain(shell).chain(working_directory).map(template));
        }
        Action::Uses { with, .. } | Action::Composite(Composite { with, .. }) | Action::Node(NodeAction { with, .. }) => {
            texts.extend(with.iter().map(|(_, value)| template(value)));
        }
        Action::NoOp { .. } => {}
    }
    secrets(texts.iter().map(String::as_str))
}

fn secrets<'t>(texts: impl Iterator<Item = &'t str>) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for template in texts.filter_map(|text| caisson_expr::Template::parse(text).ok()) {
        for path in template.expressions().flat_map(|(expression, _)| expression.paths()) {
            if let (true, Some(caisson_expr::Segment::Name(name))) = (path.root.eq_ignore_ascii_case("secrets"), path.segments.first()) {
                names.insert(name.to_uppercase());
            }
        }
    }
    names
}

impl Admission<'_> {
    /// The environment that a job names, and may use; what it sees as `vars` there is written into it.
    fn environment_of(&mut self, key: &JobKey, job: &mut PlannedJob, contexts: &RunContexts) -> Option<String> {
        let rules = &self.rules.environment;
        let construct = format!("jobs.{key}.environment");
        let at = job.places.get("environment").unwrap_or(&job.location).clone();
        let origin = self.rules.origin();
        let refusal = match environment::named(job, contexts, key.0.contains('/')) {
            Named::None => return None,
            Named::Later if rules.is_empty() => return None,
            Named::Later => (
                "which environment the job uses is known only when the job starts, and the policy has rules for environments".to_owned(),
                "write its name out, or make it of `github`, `vars` and the inputs of the run".to_owned(),
            ),
            Named::Known(name) => {
                let reference = contexts.github["ref"].as_str().unwrap_or_default();
                match environment::refused(rules, &name, reference, self.foreign) {
                    Some(reason) => (
                        format!("the environment '{name}' may not be used: {reason}"),
                        format!("run it from such a ref, or change `refs` under [[environment]] in {origin}"),
                    ),
                    None => {
                        let vars = environment::of(rules, &name).flat_map(|rule| &rule.vars);
                        let vars: Map<_, _> = vars.map(|(name, value)| (name.clone(), value.as_str().into())).collect();
                        job.vars = if vars.is_empty() { serde_json::Value::Null } else { vars.into() };
                        return Some(name);
                    }
                }
            }
        };
        self.findings.push(finding(Severity::Error, &at, &construct, refusal.0, &refusal.1));
        None
    }

    /// Grants the steps of a job, and those of the actions that they use. There are more afterwards when some run in two.
    fn steps(&mut self, workflow: [&str; 2], job: &JobKey, steps: Vec<StepSpec>, inherited: &BTreeSet<String>) -> Vec<StepSpec> {
        let mut granted = Vec::with_capacity(steps.len());
        for mut step in steps {
            let construct = format!("jobs.{job}.steps[{}]", step.index.0);
            let own = own(&step);
            let names = names_of(&step);
            let mut installs = false;
            if let Action::Composite(composite) = &mut step.action {
                installs = self.inner(workflow, job, composite, &names, &own, &construct);
            }
            let ahead = self.ahead(workflow, job, &step, &names, &construct);
            step.grant = self.grant(workflow, job, &step, &names, inherited, &own, &construct, installs, ahead.as_ref());
            granted.extend(ahead);
            granted.push(step);
        }
        numbered(granted)
    }

    /// The half of a step that installs, granted, if the step does more and no rule says what it reaches.
    fn ahead(&mut self, workflow: [&str; 2], job: &JobKey, step: &StepSpec, names: &[String], construct: &str) -> Option<StepSpec> {
        let network = &self.rules.network;
        let labels: Vec<&str> = names.iter().map(String::as_str).collect();
        let rule = self.rules.for_step(&StepSubject { workflow, job: &job.0, step: &labels });
        if network.install.presets().is_empty() || network.split == Some(false) || rule.presets.is_some() {
            return None;
        }
        let mut ahead = split::before(step, |text| !secrets([text].into_iter()).is_empty())?;
        ahead.grant = Grant::default();
        let nothing = BTreeSet::new();
        ahead.grant = self.grant(workflow, job, &ahead, names, &nothing, &nothing, construct, false, None);
        (!ahead.grant.egress.presets.is_empty()).then_some(ahead)
    }

    /// Grants the steps of an action. They have no secrets of their own: what the outer step hands over is in their environment.
    /// Whether one of them reaches the package index by default.
    fn inner(
        &mut self,
        workflow: [&str; 2],
        job: &JobKey,
        composite: &mut Composite,
        outer: &[String],
        own: &BTreeSet<String>,
        construct: &str,
    ) -> bool {
        let mut installs = false;
        let mut granted = Vec::with_capacity(composite.steps.len());
        for mut step in std::mem::take(&mut composite.steps) {
            let construct = format!("{construct}.steps[{}]", step.index.0);
            let mut names = outer.to_vec();
            names.extend(names_of(&step));
            if let Action::Composite(composite) = &mut step.action {
                installs |= self.inner(workflow, job, composite, &names, own, &construct);
            }
            let ahead = self.ahead(workflow, job, &step, &names, &construct);
            let grant = self.grant(workflow, job, &step, &names, &BTreeSet::new(), own, &construct, false, ahead.as_ref());
            installs |= ahead.is_some() || grant.egress.reason.starts_with("default: ");
            step.grant = Grant { secrets: Vec::new(), ..grant };
            granted.extend(ahead);
            granted.push(step);
        }
        composite.steps = numbered(granted);
        installs
    }

    #[allow(clippy::too_many_arguments)]
    fn grant(
        &mut self,
        workflow: [&str; 2],
        job: &JobKey,
        step: &StepSpec,
        names: &[String],
        inherited: &BTreeSet<String>,
        own: &BTreeSet<String>,
        construct: &str,
        installs: bool,
        ahead: Option<&StepSpec>,
    ) -> Grant {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let rule = self.rules.for_step(&StepSubject { workflow, job: &job.0, step: &names });
        let (mut default, mut default_reason) = match ahead {
            Some(_) => (Vec::new(), String::new()),
            None => self.default_presets(step, own, construct),
        };
        let installs_debian = self.installs_debian(step, own, &rule, construct);
        if installs_debian {
            default.push(Preset::DebianPackages);
            if default_reason.is_empty() {
                default_reason = "default: installs Debian packages".to_owned();
            }
        }
        let installs = installs || !default.is_empty();

        // What strangers' code could carry away is not there when it can reach the network by default.
        let asked: BTreeSet<String> = match (&rule.secrets, installs) {
            (None, true) => own.clone(),
            _ => own.union(inherited).cloned().chain(step.grant.secrets.iter().cloned()).collect(),
        };
        let mut secrets: Vec<String> = asked.into_iter().filter(|name| self.secret(name, &rule, step, construct)).collect();
        // What is stored on the host tells nobody outside what the step asks for, whatever it knows.
        let mut egress = match ahead {
            Some(ahead) => Egress { stored: true, ..self.egress(&rule, ahead.grant.egress.presets.clone(), split::STORED.to_owned()) },
            None => self.egress(&rule, default, default_reason),
        };
        if let (Some((to, ranges)), Action::Uses { action, .. }) = (&self.clone, &step.action)
            && action == clones::CLONING_ACTION
        {
            egress.allow.push(to.clone());
            egress.ranges.extend(ranges.iter().copied());
            if self.private && clones::elsewhere(step, &self.own).is_none() {
                secrets.push(format!("{CLONE_CREDENTIAL}{}", self.own));
            }
            egress.reason = if egress.reason.is_empty() { CLONES.to_owned() } else { format!("{}, {CLONES}", egress.reason) };
        }
        if let Some((repository, at)) = clones::elsewhere(step, &self.own)
            && let Some((message, help)) = clones::unreachable(&repository, &at, &egress, self.rules.origin())
        {
            self.findings.push(finding(Severity::Error, &step.location, construct, message, &help));
        }
        Grant {
            egress,
            secrets,
            limits: self.limits(&rule),
            system_calls: self.system_calls(&rule),
            identity: if rule.root.unwrap_or(installs_debian) { Identity::Root } else { Identity::User },
        }
    }

    /// Whether the step does nothing but install packages, Debian's among them: it reaches their archives by default, and is root of
    /// its sandbox, as the package manager needs.
    fn installs_debian(&mut self, step: &StepSpec, own: &BTreeSet<String>, rule: &StepRule, construct: &str) -> bool {
        let Action::Run { script, shell, .. } = &step.action else { return false };
        if self.rules.network.install.presets().is_empty() || rule.root == Some(false) {
            return false;
        }
        let why = match debian::read(&script.0, shell.as_ref().map(|shell| shell.0.as_str())) {
            Debian::No => return false,
            Debian::Installs if own.is_empty() => return true,
            Debian::Installs => "names a secret",
            Debian::Mixed => "does more",
        };
        if rule.root.is_none() {
            self.warn(
                &step.location,
                construct,
                format!("the step installs Debian packages and {why}, so it is no root and reaches no archive"),
                "put the apt commands into a step of their own, or grant this one `root = true` and presets = [\"debian-packages\"] in the policy",
            );
        }
        false
    }

    /// What the step reaches when no rule speaks of it, and why.
    fn default_presets(&mut self, step: &StepSpec, own: &BTreeSet<String>, construct: &str) -> (Vec<Preset>, String) {
        let closed = (Vec::new(), String::new());
        let open = self.rules.network.install.presets();
        if open.is_empty() {
            return closed;
        }
        let mut wanted: Vec<Preset> = open.to_vec();
        let reason = match &step.action {
            Action::Uses { action, .. } if INSTALLING_ACTIONS.contains(&action.as_str()) => {
                wanted.retain(|preset| *preset == Preset::PythonPackages);
                format!("default: {action}")
            }
            Action::Uses { .. } | Action::NoOp { .. } | Action::Composite(_) | Action::Node(_) => return closed,
            Action::Run { script, shell, .. } => match install::read(&script.0, shell.as_ref().map(|shell| shell.0.as_str())) {
                Reading::Installs => {
                    let named = install::presets(&script.0);
                    wanted.retain(|preset| named.contains(preset));
                    if wanted.is_empty() {
                        return closed;
                    }
                    "default: installs packages".to_owned()
                }
                Reading::Other => return closed,
                Reading::Mixed { .. } if own.is_empty() && self.around.is_empty() && self.rules.network.split != Some(false) => {
                    let named = install::presets(&script.0);
                    wanted.retain(|preset| named.contains(preset));
                    if wanted.is_empty() {
                        return closed;
                    }
                    "default: installs packages and does more, and sees no secret".to_owned()
                }
                Reading::Mixed { because } => {
                    let names = own.union(&self.around).cloned().collect::<Vec<_>>().join(", ");
                    let knows = if names.is_empty() { String::new() } else { format!(" and sees secrets ({names})") };
                    self.warn(
                        &step.location,
                        construct,
                        format!("the step installs packages and does more ({because}){knows}, so it gets no network"),
                        "put the installing commands into a step of their own; that step reaches the package index by default",
                    );
                    return closed;
                }
            },
        };
        if !own.is_empty() {
            let names = own.iter().cloned().collect::<Vec<_>>().join(", ");
            self.warn(
                &step.location,
                construct,
                format!("the step installs packages and names a secret ({names}), so it gets no network"),
                "grant it both in the policy, with presets and secrets for this step, or move the secret to another step",
            );
            return closed;
        }
        (wanted, reason)
    }

    fn secret(&mut self, name: &str, rule: &StepRule, step: &StepSpec, construct: &str) -> bool {
        if !self.known.contains(name) {
            if self.told.insert(name.to_owned()) {
                let help = format!("give it with --secret {name}, or leave it out");
                self.warn(&step.location, construct, format!("secret {name} was not given: it is empty"), &help);
            }
            return false;
        }
        if !self.rules.secrets.allow.iter().any(|glob| glob.covers(name)) {
            let message = format!("the policy does not let workflows ask for secret {name}");
            let help = format!("add it to `allow` under [secrets] in {}", self.rules.origin());
            self.findings.push(finding(Severity::Error, &step.location, construct, message, &help));
            return false;
        }
        if environment::withholds(&self.rules.environment, self.environment.as_deref(), name) {
            let message = format!("the secret {name} belongs to environments that the policy names, and the job is in none of them");
            let help = format!("give the job its `environment:`, or change `secrets` under [[environment]] in {}", self.rules.origin());
            self.findings.push(finding(Severity::Error, &step.location, construct, message, &help));
            return false;
        }
        let withheld = rule.secrets.as_ref().is_some_and(|listed| !listed.iter().any(|listed| listed.eq_ignore_ascii_case(name)));
        if withheld {
            self.warn(&step.location, construct, format!("the policy withholds secret {name} from this step: it is empty there"), "");
        }
        !withheld
    }

    fn egress(&self, rule: &StepRule, default: Vec<Preset>, default_reason: String) -> Egress {
        let mut reasons: Vec<String> = Vec::new();
        let groups = rule.presets.as_deref();
        let presets = groups.map_or(default, |groups| groups.iter().filter_map(Group::packages).collect());
        if groups.is_none() && !presets.is_empty() {
            reasons.push(default_reason);
        }
        let network = &self.rules.network;
        if !network.allow.is_empty() {
            reasons.push(format!("{} [network]", self.rules.origin()));
        }
        let of_step = rule.allow.as_deref().unwrap_or_default();
        let of_groups = groups.into_iter().flatten().flat_map(Group::destinations);
        if !of_step.is_empty() || groups.is_some_and(|groups| !groups.is_empty()) {
            let number = rule.number.map(|number| format!(" {number}")).unwrap_or_default();
            reasons.push(format!("{} [[step]]{number}", self.rules.origin()));
        }
        let mut allow: Vec<Destination> = network.allow.clone();
        for destination in of_step.iter().chain(of_groups) {
            if !allow.contains(destination) {
                allow.push(destination.clone());
            }
        }
        let closed = allow.is_empty() && presets.is_empty() && !network.learning;
        let ranges = network.ranges.iter().chain(rule.ranges.iter().flatten()).copied();
        Egress {
            allow,
            presets,
            ranges: if closed { Vec::new() } else { ranges.collect() },
            before: rule.before.or(network.before).map(|moment| moment.0),
            bytes: rule.bytes.or(network.bytes).map(|size| size.0),
            connections: rule.connections.or(network.connections).and_then(|count| u32::try_from(count.0).ok()),
            stored: false,
            learn: network.learning,
            fail_on_new: network.fail_on_new_egress,
            reason: reasons.join(", "),
        }
    }

    fn system_calls(&self, rule: &StepRule) -> Vec<String> {
        let mut names = self.rules.seccomp.allow.clone();
        names.extend(rule.system_calls.iter().flatten().filter(|name| !self.rules.seccomp.allow.contains(name)).cloned());
        names
    }

    fn limits(&self, rule: &StepRule) -> model::Limits {
        let bounds = &self.rules.limits;
        model::Limits {
            memory_bytes: rule.memory.or(bounds.memory).map(|size| size.0),
            cpu_milli: rule.cpus.or(bounds.cpus).map(|cores| cores.0),
            cpu_weight: rule.cpu_weight.or(bounds.cpu_weight).map(|weight| weight.0),
            pids: rule.pids.or(bounds.pids),
            disk_bytes: rule.disk.or(bounds.disk).map(|size| size.0),
            inodes: rule.inodes.or(bounds.inodes).map(|count| count.0),
            open_files: rule.open_files.or(bounds.open_files).map(|count| count.0),
            wall: rule.timeout.or(bounds.timeout).map(|span| span.0),
            log_bytes: rule.log.or(bounds.log).map(|size| size.0),
        }
    }

    /// Lowers `permissions:` to what the policy bounds it to, and says so.
    fn bound(&mut self, construct: &str, place: &Location, asked: &mut Option<serde_json::Value>, bound: &Permissions) {
        let excess = asked.as_mut().map(|asked| bound.bound(asked)).unwrap_or_default();
        if !excess.is_empty() {
            let message = format!("the policy bounds `permissions`: {} is more than it allows, and was lowered", excess.join(", "));
            let help = format!("ask for less, or raise `permissions` under [workflow] in {}", self.rules.origin());
            self.warn(place, construct, message, &help);
        }
    }

    fn warn(&mut self, location: &Location, construct: &str, message: String, help: &str) {
        self.findings.push(finding(Severity::Warning, location, construct, message, help));
    }
}

/// The steps with their positions as numbers.
fn numbered(mut steps: Vec<StepSpec>) -> Vec<StepSpec> {
    for (step, index) in steps.iter_mut().zip(0..) {
        step.index = StepIndex(index);
    }
    steps
}

fn finding(severity: Severity, location: &Location, construct: &str, message: String, help: &str) -> Diagnostic {
    Diagnostic {
        severity,
        kind: DiagnosticKind::Policy,
        location: location.clone(),
        width: 0,
        construct: construct.to_owned(),
        message,
        help: help.to_owned(),
        excerpt: String::new(),
    }
}

#[cfg(test)]
mod tests;
