//! How things end.

use caisson_model::diagnostic::{Diagnostic, DiagnosticKind, Severity};
use caisson_model::outcome::{
    Annotation, AnnotationLevel, Cause, DiskResource, EgressEntry, EgressKind, EgressPhase, Enforcement, Fault, MissingProtection, Outcome,
    Package, PackageOrigin, Process, StepResult, Usage, Verdict, Victim,
};
use caisson_model::step::Location;

use super::{Cross, Malformed, enumeration, field, message};
use crate::api::ApiError;
use crate::wire;

enumeration!(Outcome => Outcome { Success, Failure, Cancelled, Skipped, TimedOut, Faulted });
enumeration!(Fault => Fault { User, Environment, Ours });
enumeration!(EgressKind => EgressKind { Lookup, Connection, Package });
enumeration!(EgressPhase => EgressPhase { Open, Ended });
enumeration!(DiskResource => DiskResource { Bytes, Inodes });
enumeration!(Verdict => EgressVerdict { Allowed, Refused, Unreachable });
enumeration!(AnnotationLevel => AnnotationLevel { Notice, Warning, Error });
enumeration!(Severity => Severity { Warning, Error });
enumeration!(DiagnosticKind => DiagnosticKind { Language, Unsupported, Security, Policy, Submission });

message!(MissingProtection => MissingProtection { protection, reason });
message!(Enforcement => Enforcement { enforced, missing });
enumeration!(PackageOrigin => PackageOrigin { Disk, Upstream, Folder, Nowhere });
message!(Package => Package { ecosystem, name, file, digest, origin });
message!(Process => Process { pid, name });
message!(EgressEntry => EgressEntry {
    at, host, port, verdict, rule, address, sent, received, kind, phase, lineage, package
});
message!(Annotation => Annotation { level, message, title, file, line, column });
message!(Location => Location { file, line, column });
message!(Diagnostic => Diagnostic { severity, kind, width, construct, message, help, excerpt } whole { location });

impl Cross for Usage {
    type Wire = wire::Usage;

    fn out(self) -> wire::Usage {
        wire::Usage {
            wall_ns: self.wall.out(),
            user_ns: self.user.out(),
            system_ns: self.system.out(),
            peak_memory_bytes: self.peak_memory_bytes,
            peak_pids: self.peak_pids,
            build_ns: self.build.out(),
            teardown_ns: self.teardown.out(),
            read_bytes: self.read_bytes,
            written_bytes: self.written_bytes,
            peak_disk_bytes: self.peak_disk_bytes,
            peak_inodes: self.peak_inodes,
        }
    }

    fn back(wire: wire::Usage) -> Result<Usage, Malformed> {
        Ok(Usage {
            wall: field(wire.wall_ns, "wall_ns")?,
            user: field(wire.user_ns, "user_ns")?,
            system: field(wire.system_ns, "system_ns")?,
            peak_memory_bytes: wire.peak_memory_bytes,
            peak_pids: wire.peak_pids,
            build: field(wire.build_ns, "build_ns")?,
            teardown: field(wire.teardown_ns, "teardown_ns")?,
            read_bytes: wire.read_bytes,
            written_bytes: wire.written_bytes,
            peak_disk_bytes: wire.peak_disk_bytes,
            peak_inodes: wire.peak_inodes,
        })
    }
}

message!(StepResult => StepResult { outcome, conclusion, exit_code, cause, egress, annotations, summary } whole { usage, enforcement });

impl Cross for Cause {
    type Wire = wire::Cause;

    fn out(self) -> wire::Cause {
        use wire::cause::{self as w, Kind};
        let kind = match self {
            Cause::ExitCode { code } => Kind::ExitCode(w::ExitCode { code }),
            Cause::Signal { signal } => Kind::Signal(w::Signal { signal }),
            Cause::OutOfMemory { limit, peak, victim } => {
                let (victim_pid, victim_name) = victim.map_or((None, String::new()), |victim| (Some(victim.pid), victim.name));
                Kind::OutOfMemory(w::OutOfMemory { limit, peak, victim_pid, victim_name })
            }
            Cause::Disk { resource, limit, used } => Kind::Disk(w::Disk { resource: resource.out(), limit, used }),
            Cause::Output { limit } => Kind::OutputLimit(w::OutputLimit { limit }),
            Cause::TooManyProcesses { limit } => Kind::TooManyProcesses(w::TooManyProcesses { limit }),
            Cause::TimedOut { limit } => Kind::TimedOut(w::TimedOut { limit_ns: limit.out() }),
            Cause::Cancelled => Kind::Cancelled(w::Cancelled {}),
            Cause::Sandbox { message, fault } => Kind::Sandbox(w::Sandbox { message, fault: fault.out() }),
            Cause::Invalid { message } => Kind::Invalid(w::Invalid { message }),
            Cause::Lost { message } => Kind::Lost(w::Lost { message }),
        };
        wire::Cause { kind: Some(kind) }
    }

    fn back(wire: wire::Cause) -> Result<Cause, Malformed> {
        use wire::cause::Kind;
        Ok(match wire.kind.ok_or(Malformed::new("is of no known kind"))? {
            Kind::ExitCode(w) => Cause::ExitCode { code: w.code },
            Kind::Signal(w) => Cause::Signal { signal: w.signal },
            Kind::OutOfMemory(w) => {
                let victim = w.victim_pid.map(|pid| Victim { pid, name: w.victim_name });
                Cause::OutOfMemory { limit: w.limit, peak: w.peak, victim }
            }
            Kind::Disk(w) => Cause::Disk { resource: field(w.resource, "disk.resource")?, limit: w.limit, used: w.used },
            Kind::OutputLimit(w) => Cause::Output { limit: w.limit },
            Kind::TooManyProcesses(w) => Cause::TooManyProcesses { limit: w.limit },
            Kind::TimedOut(w) => Cause::TimedOut { limit: field(w.limit_ns, "timed_out.limit_ns")? },
            Kind::Cancelled(_) => Cause::Cancelled,
            Kind::Sandbox(w) => Cause::Sandbox { message: w.message, fault: field(w.fault, "sandbox.fault")? },
            Kind::Invalid(w) => Cause::Invalid { message: w.message },
            Kind::Lost(w) => Cause::Lost { message: w.message },
        })
    }
}

impl Cross for ApiError {
    type Wire = wire::Failure;

    fn out(self) -> wire::Failure {
        use wire::failure::{Fenced, Kind, Rejected};
        wire::Failure {
            kind: Some(match self {
                ApiError::Fenced => Kind::Fenced(Fenced {}),
                ApiError::NotFound(what) => Kind::NotFound(what),
                ApiError::Invalid(what) => Kind::Invalid(what),
                ApiError::Rejected(diagnostics) => Kind::Rejected(Rejected { diagnostics: diagnostics.out() }),
                ApiError::Denied(what) => Kind::Denied(what),
                ApiError::Spent(what) => Kind::Spent(what),
                ApiError::Unavailable(what) => Kind::Unavailable(what),
                ApiError::Broken(what) => Kind::Broken(what),
            }),
        }
    }

    fn back(wire: wire::Failure) -> Result<ApiError, Malformed> {
        use wire::failure::Kind;
        Ok(match wire.kind.ok_or(Malformed::new("is of no known kind"))? {
            Kind::Fenced(_) => ApiError::Fenced,
            Kind::NotFound(what) => ApiError::NotFound(what),
            Kind::Invalid(what) => ApiError::Invalid(what),
            Kind::Rejected(rejected) => ApiError::Rejected(field(rejected.diagnostics, "rejected.diagnostics")?),
            Kind::Denied(what) => ApiError::Denied(what),
            Kind::Spent(what) => ApiError::Spent(what),
            Kind::Unavailable(what) => ApiError::Unavailable(what),
            Kind::Broken(what) => ApiError::Broken(what),
        })
    }
}
