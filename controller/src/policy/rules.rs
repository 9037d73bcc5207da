//! The operator's rules as a file says them. Unknown keys are refused; every value is checked while it is read.

use std::time::Duration;

use caisson_model::outcome::Bytes;
use caisson_model::policy::{AddressRange, Destination, Preset};
use caisson_model::time::Timestamp;
use caisson_workflow::{DefaultPermissions, Limits};
use indexmap::IndexMap;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::policy::environment::EnvironmentRule;
use crate::policy::group::Group;
use crate::policy::pattern::Glob;

use crate::core::terms::Retry;
use crate::policy::retry::{self, RetryRule};
use crate::policy::text::WorkflowRules;

/// What steps may do. The default is what holds without any policy file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rules {
    /// `[network]`: for every step.
    pub network: Network,
    /// `[limits]`: for every step.
    pub limits: Bounds,
    /// `[seccomp]`: for every step.
    pub seccomp: SystemCalls,
    /// `[secrets]`: for every workflow.
    pub secrets: SecretRules,
    /// `[[retry]]`: jobs that are tried again by themselves. The last entry that matches counts.
    pub retry: Vec<RetryRule>,
    /// `[[environment]]`: who may use an environment, and what its jobs get.
    pub environment: Vec<EnvironmentRule>,
    /// `[vars]`: what every workflow sees as `vars`.
    pub vars: IndexMap<String, String>,
    /// `[workflow]`: what the text of a workflow may say.
    pub workflow: WorkflowRules,
    /// `[actions]`: for every workflow.
    pub actions: ActionRules,
    /// `[[step]]`: for steps that match. Later entries win field by field.
    pub step: Vec<StepRule>,
    /// Repositories that the checkout step may clone; the operator names them elsewhere.
    #[serde(skip)]
    pub clones: Vec<String>,
    /// Those of them that are private and for which the operator gave a token: name and address.
    #[serde(skip)]
    pub private: Vec<(String, String)>,
    /// What people call the file that the rules come from; set by whoever read it.
    #[serde(skip)]
    pub origin: Option<String>,
}

/// `[network]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    /// What steps get that only install packages.
    pub install: Install,
    /// Whether steps that install packages and do more run in two, the installing commands ahead; `None` is yes.
    pub split: Option<bool>,
    /// What every step may reach.
    pub allow: Vec<Destination>,
    /// Private ranges that allowed names may resolve to.
    pub ranges: Vec<AddressRange>,
    /// Bytes that a step may carry, both ways together.
    pub bytes: Option<Size>,
    /// Connections that a step may have open at once.
    pub connections: Option<Count>,
    /// Whether a step fails that reaches for something which nothing allows.
    pub fail_on_new_egress: bool,
    /// Whether runs may be made to learn what they want. `None` leaves it to whoever starts one on their own machine.
    pub learn: Option<bool>,
    /// Whether this run learns; set by whoever starts it.
    #[serde(skip)]
    pub learning: bool,
    /// Package indexes answer as they stood before this day or moment.
    pub before: Option<Moment>,
}

/// What install steps get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Install {
    /// The packages that they install, of the indexes that the agent's host is configured for.
    #[default]
    Packages,
    /// Python packages only.
    PythonPackages,
    /// Nothing.
    None,
}

impl Install {
    /// The groups of destinations.
    pub fn presets(self) -> &'static [Preset] {
        match self {
            Install::Packages => &[Preset::PythonPackages, Preset::NodePackages],
            Install::PythonPackages => &[Preset::PythonPackages],
            Install::None => &[],
        }
    }
}

/// `[limits]`: upper bounds. What is absent is left to the agent.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bounds {
    /// Memory of a step.
    pub memory: Option<Size>,
    /// CPU of a step.
    pub cpus: Option<Cores>,
    /// Share of the processors when others want them too; 100 is everybody's.
    pub cpu_weight: Option<Weight>,
    /// Processes of a step.
    pub pids: Option<u32>,
    /// Bytes on everything that a step's job can write.
    pub disk: Option<Size>,
    /// Files and directories likewise.
    pub inodes: Option<Count>,
    /// Open files per process.
    pub open_files: Option<Count>,
    /// Time of a step.
    pub timeout: Option<Span>,
    /// Bytes of a step's log.
    pub log: Option<Size>,
}

/// `[seccomp]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SystemCalls {
    /// System calls beyond the profile, by name.
    pub allow: Vec<String>,
}

/// `[secrets]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SecretRules {
    /// Names that workflows may ask for.
    pub allow: Vec<Glob>,
}

impl Default for SecretRules {
    fn default() -> SecretRules {
        SecretRules { allow: vec![Glob::everything()] }
    }
}

/// `[actions]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ActionRules {
    /// Actions that do nothing here, such as those that send reports: `owner/name` in lower case.
    pub no_op: Vec<Glob>,
}

/// `[[step]]`: matchers, all of which must match, and what a step that matches gets.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StepRule {
    /// The workflow's name or file.
    pub workflow: Option<Glob>,
    /// The job's key.
    pub job: Option<Glob>,
    /// The step's id, its name, or its label without one.
    pub step: Option<Glob>,
    /// What it may reach, beside what every step may.
    pub allow: Option<Vec<Destination>>,
    /// Groups of destinations, in place of the default.
    pub presets: Option<Vec<Group>>,
    /// Package indexes answer it as they stood before this day or moment.
    pub before: Option<Moment>,
    /// Private ranges that the names may resolve to, beside those of every step.
    pub ranges: Option<Vec<AddressRange>>,
    /// Bytes that it may carry over the network, in place of `[network]`.
    pub bytes: Option<Size>,
    /// Connections that it may have open at once, likewise.
    pub connections: Option<Count>,
    /// Whether it is root of its own user namespace.
    pub root: Option<bool>,
    /// Additions to the system-call filter.
    pub system_calls: Option<Vec<String>>,
    /// The secrets that it may have of those it asks for.
    pub secrets: Option<Vec<String>>,
    /// Memory, even above `[limits]`.
    pub memory: Option<Size>,
    /// CPU, likewise.
    pub cpus: Option<Cores>,
    /// Share of the processors, likewise.
    pub cpu_weight: Option<Weight>,
    /// Processes, likewise.
    pub pids: Option<u32>,
    /// Bytes on what its job can write, likewise.
    pub disk: Option<Size>,
    /// Files and directories, likewise.
    pub inodes: Option<Count>,
    /// Open files per process, likewise.
    pub open_files: Option<Count>,
    /// Time, likewise.
    pub timeout: Option<Span>,
    /// Bytes of its log, likewise.
    pub log: Option<Size>,
    /// The number of the last entry that spoke of the network, from 1; set when entries are put together.
    #[serde(skip)]
    pub number: Option<usize>,
}

/// A step as matchers see it. Each part goes by several names, any of which may match.
#[derive(Clone, Copy, Debug)]
pub struct StepSubject<'s> {
    /// The workflow's name and file.
    pub workflow: [&'s str; 2],
    /// The job's key.
    pub job: &'s str,
    /// The step's id and name; for a step of an action also those of the steps around it.
    pub step: &'s [&'s str],
}

impl Rules {
    /// How often a job is tried again; `None` when no rule says anything.
    pub fn retry_of(&self, workflow: &str, file: &str, job: &str) -> Option<Retry> {
        retry::of(&self.retry, workflow, file, job)
    }

    /// What bounds the text of a workflow.
    pub fn workflow_limits(&self) -> Limits {
        self.workflow.limits()
    }

    /// The same where a text is only checked: what its token may do where it does not say is what the language gives new
    /// repositories, unless the rules say otherwise. In a run the token has no rights at all, so that this refuses nothing there.
    pub fn checking_limits(&self) -> Limits {
        let default_permissions = self.workflow.default_permissions.unwrap_or(DefaultPermissions::Read);
        Limits { default_permissions, ..self.workflow.limits() }
    }

    /// What people call where the rules come from.
    pub fn origin(&self) -> &str {
        self.origin.as_deref().unwrap_or("policy")
    }

    /// Every system call that the rules name, wherever they do.
    pub fn system_calls(&self) -> impl Iterator<Item = &str> {
        self.seccomp.allow.iter().chain(self.step.iter().flat_map(|rule| rule.system_calls.iter().flatten())).map(String::as_str)
    }

    /// All entries that match the step, as one.
    pub fn for_step(&self, subject: &StepSubject<'_>) -> StepRule {
        let mut sum = StepRule::default();
        for (index, rule) in self.step.iter().enumerate().filter(|(_, rule)| rule.matches(subject)) {
            if rule.allow.is_some() || rule.presets.is_some() {
                sum.number = Some(index + 1);
            }
            sum = StepRule {
                workflow: None,
                job: None,
                step: None,
                allow: rule.allow.clone().or(sum.allow),
                presets: rule.presets.clone().or(sum.presets),
                ranges: rule.ranges.clone().or(sum.ranges),
                bytes: rule.bytes.or(sum.bytes),
                connections: rule.connections.or(sum.connections),
                before: rule.before.or(sum.before),
                root: rule.root.or(sum.root),
                system_calls: rule.system_calls.clone().or(sum.system_calls),
                secrets: rule.secrets.clone().or(sum.secrets),
                memory: rule.memory.or(sum.memory),
                cpus: rule.cpus.or(sum.cpus),
                cpu_weight: rule.cpu_weight.or(sum.cpu_weight),
                pids: rule.pids.or(sum.pids),
                disk: rule.disk.or(sum.disk),
                inodes: rule.inodes.or(sum.inodes),
                open_files: rule.open_files.or(sum.open_files),
                timeout: rule.timeout.or(sum.timeout),
                log: rule.log.or(sum.log),
                number: sum.number,
            };
        }
        sum
    }
}

impl StepRule {
    fn matches(&self, subject: &StepSubject<'_>) -> bool {
        let any = |glob: &Option<Glob>, names: &[&str]| glob.as_ref().is_none_or(|glob| names.iter().any(|name| glob.covers(name)));
        any(&self.workflow, &subject.workflow) && any(&self.job, &[subject.job]) && any(&self.step, subject.step)
    }
}

/// A number of bytes, written with a unit: `4GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Size, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes: Bytes = text.parse().map_err(D::Error::custom)?;
        if bytes.0 == 0 {
            return Err(D::Error::custom("a limit is more than nothing"));
        }
        Ok(Size(bytes.0))
    }
}

/// A number of at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count(pub u64);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Count, D::Error> {
        match u64::deserialize(deserializer)? {
            0 => Err(D::Error::custom("a limit is more than nothing")),
            count => Ok(Count(count)),
        }
    }
}

/// A share of the processors, from 1 to 10000.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight(pub u32);

impl<'de> Deserialize<'de> for Weight {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Weight, D::Error> {
        match u32::deserialize(deserializer)? {
            weight @ 1..=10_000 => Ok(Weight(weight)),
            weight => Err(D::Error::custom(format_args!("{weight} is no share of the processors: write 1 to 10000, 100 is everybody's"))),
        }
    }
}

/// CPU time per wall time in thousandths of a core, written as cores: `2`, `0.5`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cores(pub u32);

impl<'de> Deserialize<'de> for Cores {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Cores, D::Error> {
        let milli = f64::deserialize(deserializer)? * 1000.0;
        if !(10.0..=4_096_000.0).contains(&milli) {
            return Err(D::Error::custom("a number of cores is from 0.01 to 4096"));
        }
        Ok(Cores(milli.round() as u32))
    }
}

/// A day, which means its first moment in UTC, or a moment: `2024-05-01`, `2024-05-01T12:00:00Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment(pub Timestamp);

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Moment, D::Error> {
        let text = String::deserialize(deserializer)?;
        let day = || text.parse::<jiff::civil::Date>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok();
        let moment = text.parse::<jiff::Timestamp>().ok().or_else(|| day().map(|day| day.timestamp()));
        let millis = moment.and_then(|moment| u64::try_from(moment.as_millisecond()).ok());
        millis.map(|millis| Moment(Timestamp(millis))).ok_or_else(|| {
            D::Error::custom(format_args!("{text:?} is neither a day nor a moment: write 2024-05-01 or 2024-05-01T12:00:00Z"))
        })
    }
}

/// A length of time, written with units: `30m`, `1h 30m`, `90s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        let text = String::deserialize(deserializer)?;
        let span: jiff::SignedDuration =
            text.parse().map_err(|_| D::Error::custom(format_args!("{text:?} is not a length of time: write 30m or 1h 30m")))?;
        let span = Duration::try_from(span).ok().filter(|span| !span.is_zero());
        span.map(Span).ok_or_else(|| D::Error::custom("a limit is more than nothing"))
    }
}
