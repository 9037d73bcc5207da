//! How things end: steps, jobs and runs.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How a step, job or run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Everything that ran passed.
    Success,
    /// A step failed by its own doing.
    Failure,
    /// A person or a newer run ended it.
    Cancelled,
    /// Its condition was false, or something that it needs did not succeed.
    Skipped,
    /// It ran longer than its limit.
    TimedOut,
    /// caisson or the machine could not run it; see [`Fault`].
    Faulted,
}

impl Outcome {
    /// The word that `needs.*.result`, `steps.*.outcome` and `job.status` know: success, failure, cancelled or skipped.
    pub fn result(self) -> &'static str {
        match self {
            Outcome::Success => "success",
            Outcome::Failure | Outcome::TimedOut | Outcome::Faulted => "failure",
            Outcome::Cancelled => "cancelled",
            Outcome::Skipped => "skipped",
        }
    }

    /// Whether work that depends on this may go on.
    pub fn passed(self) -> bool {
        matches!(self, Outcome::Success | Outcome::Skipped)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outcome::Success => "success",
            Outcome::Failure => "failure",
            Outcome::Cancelled => "cancelled",
            Outcome::Skipped => "skipped",
            Outcome::TimedOut => "timed out",
            Outcome::Faulted => "faulted",
        })
    }
}

/// Whose doing a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// The workflow's or the command line's: exit code 2, or 1 when a step failed.
    User,
    /// The host's: a missing kernel feature, a full disk, no interpreter: exit code 3.
    Environment,
    /// caisson's own: exit code 4.
    Ours,
}

/// Why a step did not succeed, beyond its exit code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Cause {
    /// It exited with a code other than 0.
    ExitCode {
        /// The code.
        code: i32,
    },
    /// A signal ended it that caisson did not send.
    Signal {
        /// The signal's number.
        signal: i32,
    },
    /// It used more memory than its limit; the kernel ended it.
    OutOfMemory {
        /// The limit in bytes.
        limit: u64,
        /// The most that was used, in bytes.
        peak: u64,
        /// Which process the kernel ended, where that could be seen.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        victim: Option<Victim>,
    },
    /// It wrote more than it may, or a file system that it wrote to was full and it failed.
    Disk {
        /// Of what there was no more.
        resource: DiskResource,
        /// The limit.
        limit: u64,
        /// The most that was seen in use.
        used: u64,
    },
    /// It printed more than it may.
    Output {
        /// The limit in bytes.
        limit: u64,
    },
    /// It wanted more processes than its limit. A step may fail for this and exit by itself.
    TooManyProcesses {
        /// The limit.
        limit: u32,
    },
    /// It ran longer than it may.
    TimedOut {
        /// The limit.
        limit: Duration,
    },
    /// It was cancelled.
    Cancelled,
    /// The sandbox refused to start it: a protection is missing, or a stage of the set-up failed.
    Sandbox {
        /// What failed, on what and why.
        message: String,
        /// Whose doing.
        fault: Fault,
    },
    /// An expression, a `with:` input or a file of the step is wrong.
    Invalid {
        /// What, where and why.
        message: String,
    },
    /// The agent that ran it is gone and its lease ended.
    Lost {
        /// What is known.
        message: String,
    },
}

impl Cause {
    /// Whose doing this is.
    pub fn fault(&self) -> Fault {
        match self {
            Cause::Sandbox { fault, .. } => *fault,
            Cause::Lost { .. } => Fault::Environment,
            _ => Fault::User,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::ExitCode { code } => write!(f, "exit code {code}"),
            Cause::Signal { signal } => write!(f, "killed by signal {signal}"),
            Cause::OutOfMemory { limit, peak, victim } => {
                write!(f, "out of memory: limit {}, peak {}", Bytes(*limit), Bytes(*peak))?;
                victim.as_ref().map_or(Ok(()), |victim| write!(f, ", killed pid {} {}", victim.pid, victim.name))
            }
            Cause::Disk { resource: DiskResource::Bytes, limit, used } => {
                write!(f, "out of disk: limit {}, used {}", Bytes(*limit), Bytes(*used))
            }
            Cause::Disk { resource: DiskResource::Inodes, limit, used } => write!(f, "out of disk: limit {limit} files, used {used}"),
            Cause::Output { limit } => write!(f, "too much output: limit {}", Bytes(*limit)),
            Cause::TooManyProcesses { limit } => write!(f, "too many processes: limit {limit}"),
            Cause::TimedOut { limit } => write!(f, "timed out after {limit:?}"),
            Cause::Cancelled => f.write_str("cancelled"),
            Cause::Sandbox { message, .. } | Cause::Invalid { message } | Cause::Lost { message } => f.write_str(message),
        }
    }
}

/// A process that the kernel ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Victim {
    /// Its id inside the sandbox.
    pub pid: u32,
    /// Its name, as it gave it to itself; printable.
    pub name: String,
}

/// What a limit on the disk counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskResource {
    /// Bytes.
    Bytes,
    /// Files, directories and the like.
    Inodes,
}

/// A number of bytes as people read it: `512 MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = self.0 as f64;
        let mut unit = "B";
        for next in ["KiB", "MiB", "GiB", "TiB"] {
            if value < 1024.0 {
                break;
            }
            value /= 1024.0;
            unit = next;
        }
        let decimals = usize::from(value < 10.0 && value.fract() >= 0.05);
        write!(f, "{value:.decimals$} {unit}")
    }
}

/// What a step cost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// From exec to the end of its last process.
    pub wall: Duration,
    /// CPU time in user mode, all processes together.
    pub user: Duration,
    /// CPU time in the kernel.
    pub system: Duration,
    /// The most memory used at once, in bytes; `None` when the host could not measure it.
    pub peak_memory_bytes: Option<u64>,
    /// The most processes alive at once; likewise.
    pub peak_pids: Option<u32>,
    /// Bytes that the disks read for it.
    pub read_bytes: u64,
    /// Bytes that the disks wrote for it.
    pub written_bytes: u64,
    /// The most bytes that were seen on what it can write; `None` without a limit on them.
    pub peak_disk_bytes: Option<u64>,
    /// The most files, likewise.
    pub peak_inodes: Option<u64>,
    /// Time to build the sandbox.
    pub build: Duration,
    /// Time to tear it down.
    pub teardown: Duration,
}

/// What the sandbox of a step really enforced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Enforcement {
    /// Protections by name that held.
    pub enforced: Vec<String>,
    /// Protections by name that did not, and why.
    pub missing: Vec<MissingProtection>,
}

/// A protection that did not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingProtection {
    /// Its name, as the operator's configuration spells it.
    pub protection: String,
    /// Why it could not be enforced.
    pub reason: String,
}

/// One attempt of a step to reach something, allowed or refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressEntry {
    /// When it was decided.
    pub at: crate::time::Timestamp,
    /// What was attempted.
    #[serde(default)]
    pub kind: EgressKind,
    /// Whether it is over. What stands in a step's result is.
    #[serde(default)]
    pub phase: EgressPhase,
    /// The host as the step named it.
    pub host: String,
    /// The port; 0 for a lookup.
    pub port: u16,
    /// What was decided.
    pub verdict: Verdict,
    /// The rule that allowed it, or why it was refused.
    pub rule: String,
    /// The address that was dialled.
    pub address: Option<String>,
    /// Bytes that left the sandbox.
    pub sent: u64,
    /// Bytes that came back.
    pub received: u64,
    /// The process that asked and its ancestors within the sandbox, the nearest first; empty where it could not be found.
    #[serde(default)]
    pub lineage: Vec<Process>,
    /// The package file that was served, when it came through the package gateway.
    #[serde(default)]
    pub package: Option<Package>,
}

impl EgressEntry {
    /// A connection that is over and carried nothing.
    pub fn connection(at: crate::time::Timestamp, host: &str, port: u16, verdict: Verdict, rule: String) -> EgressEntry {
        EgressEntry {
            at,
            kind: EgressKind::Connection,
            phase: EgressPhase::Ended,
            host: host.to_owned(),
            port,
            verdict,
            rule,
            address: None,
            sent: 0,
            received: 0,
            lineage: Vec::new(),
            package: None,
        }
    }
}

impl EgressEntry {
    /// Host and port, as one would write them in a policy; the host alone where no port is known.
    pub fn target(&self) -> String {
        match (self.port, self.host.contains(':')) {
            (0, _) => self.host.clone(),
            (port, true) => format!("[{}]:{port}", self.host),
            (port, false) => format!("{}:{port}", self.host),
        }
    }

    /// Whether the step reached for something that no rule names: it was refused, or only let through to learn of it.
    pub fn is_new(&self) -> bool {
        let asked = self.kind != EgressKind::Package && self.host != "?" && self.host != "...";
        asked && (self.verdict == Verdict::Refused || (self.kind == EgressKind::Connection && self.rule.starts_with(LEARNING)))
    }
}

/// The rule of what is let through only to learn that it was wanted.
pub const LEARNING: &str = "learning";

/// What a step attempted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EgressKind {
    /// To resolve a name.
    Lookup,
    /// To connect to a host.
    #[default]
    Connection,
    /// To fetch a package from the agent's gateway.
    Package,
}

/// Where an attempt is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EgressPhase {
    /// A connection stands; its bytes are not counted yet.
    Open,
    /// It is over, or never began.
    #[default]
    Ended,
}

/// A process inside a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its id inside.
    pub pid: u32,
    /// Its name, as the kernel shows it: at most 15 bytes.
    pub name: String,
}

/// A file of a package index as the gateway served it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// Whose index: `python`, `npm` or `debian`.
    pub ecosystem: String,
    /// The project, as its index spells it.
    pub name: String,
    /// The file.
    pub file: String,
    /// The digest of what was served: `sha256:` and 64 hexadecimal digits. Empty for a refusal.
    pub digest: String,
    /// Where it came from.
    pub origin: PackageOrigin,
}

/// Where a package file came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PackageOrigin {
    /// It was stored by an earlier request.
    Disk,
    /// It was fetched from the index.
    Upstream,
    /// It lies in the folder that stands in for the index.
    Folder,
    /// It was not served.
    Nowhere,
}

/// Whether a connection was let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It was dialled.
    Allowed,
    /// It was not.
    Refused,
    /// It was allowed, but the other side could not be reached.
    Unreachable,
}

/// A remark about a line of the user's code, from `::error::` and its kin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Annotation {
    /// How serious.
    pub level: AnnotationLevel,
    /// What is said.
    pub message: String,
    /// `title=`.
    pub title: Option<String>,
    /// `file=`.
    pub file: Option<String>,
    /// `line=`.
    pub line: Option<u32>,
    /// `col=`.
    pub column: Option<u32>,
}

/// How serious an annotation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AnnotationLevel {
    /// `::notice::`
    Notice,
    /// `::warning::`
    Warning,
    /// `::error::`
    Error,
}

/// What an agent reports at the end of a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepResult {
    /// How it ended, before `continue-on-error`: `steps.*.outcome`.
    pub outcome: Outcome,
    /// How it counts, after `continue-on-error`: `steps.*.conclusion`.
    pub conclusion: Outcome,
    /// The exit code, when there was one.
    pub exit_code: Option<i32>,
    /// Why it did not succeed.
    pub cause: Option<Cause>,
    /// What it cost.
    pub usage: Usage,
    /// What its sandbox enforced; empty for a step that had none, as a skipped one.
    pub enforcement: Enforcement,
    /// Everything that it tried to reach.
    pub egress: Vec<EgressEntry>,
    /// Its annotations, at most 50 of each level.
    pub annotations: Vec<Annotation>,
    /// What it wrote to `GITHUB_STEP_SUMMARY`, masked, at most 1 MiB.
    pub summary: String,
}

/// A text is not a number of bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidBytes(pub String);

impl fmt::Display for InvalidBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a size; write a number and a unit, such as 512MiB or 4GiB", self.0)
    }
}

impl std::error::Error for InvalidBytes {}

impl std::str::FromStr for Bytes {
    type Err = InvalidBytes;

    /// Reads `4GiB`, `4 GiB` or `4G` (powers of 1024), `4GB` (powers of 1000), `4096B`; a number without a unit only when it is 0.
    fn from_str(text: &str) -> Result<Bytes, InvalidBytes> {
        let wrong = || InvalidBytes(text.to_owned());
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = (&text[..split], text[split..].trim_start().to_ascii_lowercase());
        let factor = match unit.as_str() {
            "b" => 1.0,
            "k" | "kib" => 1024.0,
            "m" | "mib" => 1024.0 * 1024.0,
            "g" | "gib" => 1024.0 * 1024.0 * 1024.0,
            "t" | "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
            "kb" => 1e3,
            "mb" => 1e6,
            "gb" => 1e9,
            "tb" => 1e12,
            "" if number == "0" => 1.0,
            _ => return Err(wrong()),
        };
        let bytes = number.parse::<f64>().map_err(|_| wrong())? * factor;
        // Whole numbers up to 2^53 are exact in an f64; more than a petabyte is a slip of the keyboard.
        if bytes > 1e15 {
            return Err(wrong());
        }
        Ok(Bytes(bytes.round() as u64))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units() {
        let table = [("512MiB", 512 << 20), ("4G", 4 << 30), ("4 gib", 4 << 30), ("1.5k", 1536), ("2MB", 2_000_000), ("17B", 17), ("0", 0)];
        for (text, bytes) in table {
            assert_eq!(text.parse::<Bytes>().unwrap(), Bytes(bytes), "{text}");
        }
        for text in ["", "12", "MiB", "-1G", "1e3K", "4 apples", "1.2.3M", "9999999T", "G4"] {
            assert_eq!(text.parse::<Bytes>(), Err(InvalidBytes(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn bytes_read_well() {
        for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (512 << 20, "512 MiB"), (5 << 30, "5 GiB")]
        {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }
}
