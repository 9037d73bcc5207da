//! Whatever the model can hold crosses the wire unchanged. Values are built from a tape of random bytes, so that every field takes part.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use caisson_model::agent::{Hello, VersionRange};
use caisson_model::diagnostic::{Diagnostic, DiagnosticKind, Severity};
use caisson_model::id::*;
use caisson_model::job::{JobSpec, Need, RunContexts, Strategy};
use caisson_model::lease::{self, AgentMessage, Completion, ControllerMessage, StepChange, StepReport};
use caisson_model::ledger::LedgerHead;
use caisson_model::log::{LogAck, LogChunk, LogGap, LogPush, LogRead, LogSeal};
use caisson_model::outcome::*;
use caisson_model::policy::{Egress, Grant, Identity, Limits, Preset};
use caisson_model::run::*;
use caisson_model::secret::{OpenedSecrets, SecretValue};
use caisson_model::step::{Action, ActionInput, ActionPlace, Composite, Condition, Hook, Location, NodeAction, StepSpec, Template};
use caisson_model::time::Timestamp;
use proptest::prelude::{any, proptest};
use prost::Message;
use serde_json::{Value, json};

use super::Cross;
use crate::api::{ApiError, RunDetail, Submitted};
use crate::wire;

struct Tape(std::vec::IntoIter<u8>);

impl Tape {
    fn byte(&mut self) -> u8 {
        self.0.next().unwrap_or(0)
    }
    fn long(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }
    fn int(&mut self) -> u32 {
        self.long() as u32
    }
    fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }
    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[usize::from(self.byte()) % of.len()].clone()
    }
    fn text(&mut self) -> String {
        let word = self.one(&["", "a", "${{ secrets.X }}", "\u{1F512}\n\0", "test (3.12, \"x\")"]);
        format!("{word}{}", self.byte())
    }
    fn maybe<T>(&mut self, make: impl Fn(&mut Tape) -> T) -> Option<T> {
        self.flag().then(|| make(self))
    }
    fn many<T>(&mut self, make: impl Fn(&mut Tape) -> T) -> Vec<T> {
        (0..self.byte() % 4).map(|_| make(self)).collect()
    }
    fn at(&mut self) -> Timestamp {
        Timestamp(self.long())
    }
    fn span(&mut self) -> std::time::Duration {
        std::time::Duration::from_nanos(self.long())
    }
    fn digest(&mut self) -> Digest {
        Digest(std::array::from_fn(|_| self.byte()))
    }
    fn run_id(&mut self) -> RunId {
        RunId(self.long())
    }
    fn job_id(&mut self) -> JobId {
        JobId { run: self.run_id(), index: self.int() }
    }
    fn attempt(&mut self) -> AttemptId {
        AttemptId { job: self.job_id(), number: self.int() }
    }
    fn hold(&mut self) -> Hold {
        Hold { attempt: self.attempt(), fence: Fence(self.long()) }
    }
    fn index(&mut self) -> StepIndex {
        StepIndex(self.int())
    }
    fn template(&mut self) -> Template {
        Template(self.text())
    }
    fn table(&mut self) -> indexmap::IndexMap<String, String> {
        self.many(|t| (t.text(), t.text())).into_iter().collect()
    }
    fn templates(&mut self) -> Vec<(String, Template)> {
        self.many(|t| (t.text(), t.template()))
    }
    fn json(&mut self) -> Value {
        let float = f64::from_bits(self.long());
        let float = if float.is_finite() { float } else { 3.12 };
        match self.byte() % 4 {
            0 => Value::Null,
            1 => json!({ "zebra": float, "ant": [self.long(), self.text(), null, true], "nested": { "b": {}, "a": [] } }),
            2 => json!(self.long() as i64),
            _ => json!(self.text()),
        }
    }
    fn outcome(&mut self) -> Outcome {
        use Outcome::*;
        self.one(&[Success, Failure, Cancelled, Skipped, TimedOut, Faulted])
    }
    fn cause(&mut self) -> Cause {
        let fault = self.one(&[Fault::User, Fault::Environment, Fault::Ours]);
        match self.byte() % 11 {
            0 => Cause::ExitCode { code: self.int() as i32 },
            1 => Cause::Signal { signal: self.int() as i32 },
            2 => Cause::OutOfMemory {
                limit: self.long(),
                peak: self.long(),
                victim: self.maybe(|t| Victim { pid: t.int(), name: t.text() }),
            },
            3 => Cause::TooManyProcesses { limit: self.int() },
            4 => Cause::TimedOut { limit: self.span() },
            5 => Cause::Cancelled,
            6 => Cause::Sandbox { message: self.text(), fault },
            8 => Cause::Disk { resource: self.one(&[DiskResource::Bytes, DiskResource::Inodes]), limit: self.long(), used: self.long() },
            9 => Cause::Output { limit: self.long() },
            7 => Cause::Invalid { message: self.text() },
            _ => Cause::Lost { message: self.text() },
        }
    }
    fn entry(&mut self) -> EgressEntry {
        EgressEntry {
            at: self.at(),
            host: self.text(),
            port: self.int() as u16,
            verdict: self.one(&[Verdict::Allowed, Verdict::Refused, Verdict::Unreachable]),
            rule: self.text(),
            address: self.maybe(Tape::text),
            sent: self.long(),
            received: self.long(),
            kind: self.one(&[EgressKind::Lookup, EgressKind::Connection, EgressKind::Package]),
            phase: self.one(&[EgressPhase::Open, EgressPhase::Ended]),
            lineage: self.many(|t| Process { pid: t.int(), name: t.text() }),
            package: self.maybe(Tape::package),
        }
    }
    fn package(&mut self) -> Package {
        Package {
            ecosystem: self.text(),
            name: self.text(),
            file: self.text(),
            digest: self.text(),
            origin: self.one(&[PackageOrigin::Disk, PackageOrigin::Upstream, PackageOrigin::Folder, PackageOrigin::Nowhere]),
        }
    }
    fn annotation(&mut self) -> Annotation {
        Annotation {
            level: self.one(&[AnnotationLevel::Notice, AnnotationLevel::Warning, AnnotationLevel::Error]),
            message: self.text(),
            title: self.maybe(Tape::text),
            file: self.maybe(Tape::text),
            line: self.maybe(Tape::int),
            column: self.maybe(Tape::int),
        }
    }
    fn result(&mut self) -> StepResult {
        StepResult {
            outcome: self.outcome(),
            conclusion: self.outcome(),
            exit_code: self.maybe(|t| t.int() as i32),
            cause: self.maybe(Tape::cause),
            usage: Usage {
                wall: self.span(),
                user: self.span(),
                system: self.span(),
                peak_memory_bytes: self.maybe(Tape::long),
                peak_pids: self.maybe(Tape::int),
                build: self.span(),
                teardown: self.span(),
                read_bytes: self.long(),
                written_bytes: self.long(),
                peak_disk_bytes: self.maybe(Tape::long),
                peak_inodes: self.maybe(Tape::long),
            },
            enforcement: Enforcement {
                enforced: self.many(Tape::text),
                missing: self.many(|t| MissingProtection { protection: t.text(), reason: t.text() }),
            },
            egress: self.many(Tape::entry),
            annotations: self.many(Tape::annotation),
            summary: self.text(),
        }
    }
    fn location(&mut self) -> Location {
        Location { file: self.text(), line: self.int(), column: self.int() }
    }
    fn diagnostic(&mut self) -> Diagnostic {
        use DiagnosticKind::*;
        Diagnostic {
            severity: self.one(&[Severity::Warning, Severity::Error]),
            kind: self.one(&[Language, Unsupported, Security, Policy, Submission]),
            location: self.location(),
            width: self.int(),
            construct: self.text(),
            message: self.text(),
            help: self.text(),
            excerpt: self.text(),
        }
    }
    fn grant(&mut self) -> Grant {
        Grant {
            egress: Egress {
                allow: self.many(|t| t.one(&["pypi.org", "*.example.com:8080", "[::1]:9", "10.0.0.1"]).parse().unwrap()),
                presets: self.many(|t| t.one(&[Preset::PythonPackages, Preset::NodePackages, Preset::DebianPackages])),
                before: self.maybe(Tape::at),
                ranges: self.many(|t| t.one(&["10.0.0.0/8", "fd00::/8", "192.168.1.1"]).parse().unwrap()),
                bytes: self.maybe(Tape::long),
                connections: self.maybe(Tape::int),
                learn: self.flag(),
                fail_on_new: self.flag(),
                stored: self.flag(),
                reason: self.text(),
            },
            secrets: self.many(Tape::text),
            limits: Limits {
                memory_bytes: self.maybe(Tape::long),
                cpu_milli: self.maybe(Tape::int),
                cpu_weight: self.maybe(Tape::int),
                pids: self.maybe(Tape::int),
                disk_bytes: self.maybe(Tape::long),
                inodes: self.maybe(Tape::long),
                open_files: self.maybe(Tape::long),
                wall: self.maybe(Tape::span),
                log_bytes: self.maybe(Tape::long),
            },
            system_calls: self.many(Tape::text),
            identity: self.one(&[Identity::User, Identity::Root]),
        }
    }
    fn step(&mut self) -> StepSpec {
        let action = match self.byte() % 5 {
            0 => Action::Run { script: self.template(), shell: self.maybe(Tape::template), working_directory: self.maybe(Tape::template) },
            1 => Action::Uses { action: self.text(), version: self.text(), with: self.templates() },
            2 => Action::NoOp { action: self.text(), version: self.text(), reason: self.text() },
            3 => Action::Node(NodeAction {
                uses: self.text(),
                place: self.place(),
                with: self.templates(),
                inputs: self.inputs(),
                main: self.text(),
                pre: self.maybe(Tape::hook),
                post: self.maybe(Tape::hook),
            }),
            _ => Action::Composite(Composite {
                uses: self.text(),
                place: self.place(),
                with: self.templates(),
                inputs: self.inputs(),
                outputs: self.templates(),
                // Half of them hold none, so that they end.
                steps: self.maybe(Tape::step).into_iter().collect(),
            }),
        };
        StepSpec {
            index: self.index(),
            id: self.maybe(Tape::text),
            name: self.maybe(Tape::template),
            condition: self.maybe(|t| Condition(t.text())),
            action,
            env: self.templates(),
            continue_on_error: self.maybe(Tape::template),
            timeout_minutes: self.maybe(Tape::template),
            location: self.location(),
            grant: self.grant(),
        }
    }
    fn hook(&mut self) -> Hook {
        Hook { program: self.text(), condition: Condition(self.text()) }
    }
    fn inputs(&mut self) -> Vec<ActionInput> {
        self.many(|t| ActionInput { name: t.text(), default: t.template() })
    }
    fn place(&mut self) -> ActionPlace {
        match self.flag() {
            true => ActionPlace::Workspace(self.text()),
            false => ActionPlace::Mirror { tree: self.digest(), name: self.text(), path: self.text() },
        }
    }
    fn spec(&mut self) -> JobSpec {
        JobSpec {
            id: self.job_id(),
            key: JobKey(self.text()),
            name: self.text(),
            workflow: self.text(),
            labels: self.many(Tape::text),
            matrix: self.json(),
            strategy: Strategy {
                fail_fast: self.flag(),
                job_index: self.int(),
                job_total: self.int(),
                max_parallel: self.maybe(Tape::int),
            },
            needs: self.many(|t| (t.text(), Need { outcome: t.outcome(), outputs: t.table() })).into_iter().collect(),
            workflow_env: self.templates(),
            env: self.templates(),
            outputs: self.templates(),
            steps: self.many(Tape::step).into(),
            timeout: self.span(),
            continue_on_error: self.flag(),
            contexts: Arc::new(RunContexts { github: self.json(), inputs: self.json(), vars: self.json(), env: self.table() }),
            source: self.maybe(Tape::digest),
        }
    }
    fn run_view(&mut self) -> RunView {
        RunView {
            id: self.run_id(),
            workflow: self.text(),
            file: self.text(),
            event: self.text(),
            state: self.one(&[RunState::Queued, RunState::Running, RunState::Finished]),
            outcome: self.maybe(Tape::outcome),
            submitted: self.at(),
            started: self.maybe(Tape::at),
            finished: self.maybe(Tape::at),
            rerun_of: self.maybe(Tape::run_id),
            ledger: self.maybe(|t| LedgerHead { entries: t.long(), head: t.digest() }),
        }
    }
    fn job_view(&mut self) -> JobView {
        use JobState::*;
        JobView {
            id: self.job_id(),
            key: JobKey(self.text()),
            name: self.text(),
            state: self.one(&[Waiting, Queued, Offered, Leased, Running, Suspect, Finished]),
            outcome: self.maybe(Tape::outcome),
            cause: self.maybe(Tape::cause),
            attempt: self.maybe(Tape::attempt),
            agent: self.maybe(|t| AgentName(t.text())),
            started: self.maybe(Tape::at),
            finished: self.maybe(Tape::at),
            outputs: self.table(),
        }
    }
    fn step_view(&mut self) -> StepView {
        StepView {
            attempt: self.attempt(),
            index: self.index(),
            id: self.maybe(Tape::text),
            name: self.text(),
            state: self.one(&[StepState::Running, StepState::Finished]),
            result: self.maybe(Tape::result),
            started: self.at(),
            finished: self.maybe(Tape::at),
        }
    }
    fn event(&mut self) -> NumberedEvent {
        let event = match self.byte() % 5 {
            0 => RunEvent::Run(self.run_view()),
            1 => RunEvent::Job(self.job_view()),
            2 => RunEvent::Step(self.step_view()),
            3 => RunEvent::Egress { attempt: self.attempt(), step: self.index(), entry: self.entry() },
            _ => RunEvent::Annotation { attempt: self.attempt(), step: self.index(), annotation: self.annotation() },
        };
        NumberedEvent { number: self.long(), at: self.at(), event }
    }
    fn chunk(&mut self) -> LogChunk {
        let mut bytes = self.many(Tape::byte);
        bytes.push(self.byte());
        LogChunk { offset: self.long(), at: self.at(), bytes }
    }
    fn seal(&mut self) -> LogSeal {
        let gap = |t: &mut Tape| LogGap { offset: t.long(), bytes: t.long(), reason: t.text() };
        LogSeal { total: self.long(), digest: self.digest(), chain: self.maybe(Tape::digest), gaps: self.many(gap) }
    }
    fn report(&mut self) -> StepReport {
        let step = self.index();
        let change = match self.byte() % 4 {
            0 => StepChange::Started { step, id: self.maybe(Tape::text), name: self.text() },
            1 => StepChange::Reached { step, entry: self.entry() },
            2 => StepChange::Annotated { step, annotation: self.annotation() },
            _ => StepChange::Finished { step, id: self.maybe(Tape::text), name: self.text(), result: Box::new(self.result()) },
        };
        StepReport { hold: self.hold(), sequence: self.long(), at: self.at(), change }
    }
    fn agent_message(&mut self) -> AgentMessage {
        match self.byte() % 6 {
            0 => AgentMessage::Accept(self.hold()),
            1 => AgentMessage::Decline { hold: self.hold(), reason: self.text() },
            2 => AgentMessage::Beat { number: self.long(), holds: self.many(Tape::hold) },
            3 => AgentMessage::CancelAck(self.hold()),
            4 => AgentMessage::Killed(self.hold()),
            _ => AgentMessage::Draining,
        }
    }
    fn controller_message(&mut self) -> ControllerMessage {
        let verdict = |t: &mut Tape| (t.hold(), t.one(&[lease::Verdict::Keep, lease::Verdict::Stop, lease::Verdict::Forget]));
        match self.byte() % 7 {
            0 => ControllerMessage::Welcome { version: self.int(), term: self.span(), grace: self.span(), verdicts: self.many(verdict) },
            1 => ControllerMessage::Offer { hold: self.hold(), spec: self.digest(), deadline: self.at() },
            2 => ControllerMessage::Start(self.hold()),
            3 => ControllerMessage::Cancel { hold: self.hold(), terminate_after: self.span(), kill_after: self.span() },
            4 => ControllerMessage::Forget(self.hold()),
            5 => ControllerMessage::Heard(self.long()),
            _ => ControllerMessage::Drain,
        }
    }
    fn hello(&mut self) -> Hello {
        Hello {
            agent: AgentName(self.text()),
            versions: VersionRange { min: self.int(), max: self.int() },
            slots: self.int(),
            labels: self.many(Tape::text),
            enforces: self.many(Tape::text),
            memory_bytes: self.long(),
            cpu_milli: self.int(),
            running: self.many(Tape::hold),
        }
    }
    fn completion(&mut self) -> Completion {
        Completion { hold: self.hold(), outcome: self.outcome(), cause: self.maybe(Tape::cause), outputs: self.table(), at: self.at() }
    }
    fn submission(&mut self) -> Submission {
        Submission {
            file: self.text(),
            text: self.text(),
            event: self.text(),
            inputs: self.table(),
            env: self.table(),
            jobs: self.many(Tape::text),
            github: self.json(),
            source: self.maybe(Tape::digest),
            files: self.table(),
            priority: self.int() as i32,
            changes: self.maybe(|tape| tape.many(Tape::text)),
            matrix: self.many(|tape| (tape.text(), tape.many(Tape::text))).into_iter().collect(),
        }
    }
    fn submit_answer(&mut self) -> Result<Submitted, ApiError> {
        match self.flag() {
            true => Ok(Submitted { run: self.run_id(), warnings: self.many(Tape::diagnostic) }),
            false => Err(ApiError::Rejected(self.many(Tape::diagnostic))),
        }
    }
    fn error(&mut self) -> ApiError {
        match self.byte() % 4 {
            0 => ApiError::Rejected(self.many(Tape::diagnostic)),
            1 => ApiError::Spent(self.text()),
            2 => ApiError::Broken(self.text()),
            _ => ApiError::Fenced,
        }
    }
    fn secrets(&mut self) -> OpenedSecrets {
        OpenedSecrets { secrets: self.many(|t| (t.text(), SecretValue::new(t.many(Tape::byte)))) }
    }
}

fn crosses<M>(value: M)
where
    M: Cross + Clone + PartialEq + std::fmt::Debug,
    M::Wire: Message + Default,
{
    let bytes = value.clone().out().encode_to_vec();
    let wire = M::Wire::decode(bytes.as_slice()).unwrap();
    assert_eq!(M::back(wire).unwrap(), value);
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 512, failure_persistence: None, ..Default::default() })]

    #[test]
    fn everything_survives_the_wire(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
        let mut tape = Tape(bytes.into_iter());
        match tape.byte() % 16 {
            0 => crosses(tape.spec()),
            1 => crosses(tape.report()),
            2 => crosses(tape.event()),
            3 => crosses(tape.agent_message()),
            4 => crosses(tape.controller_message()),
            5 => crosses(tape.completion()),
            6 => crosses(tape.submission()),
            7 => crosses(tape.submit_answer()),
            8 => crosses(tape.error()),
            9 => crosses(tape.hello()),
            10 => crosses(tape.seal()),
            11 => crosses(LogPush { hold: tape.hold(), step: tape.index(), chunk: tape.chunk() }),
            12 => crosses(if tape.flag() { LogRead::Chunk(tape.chunk()) } else { LogRead::Seal(tape.seal()) }),
            13 => crosses(RunDetail { run: tape.run_view(), jobs: tape.many(Tape::job_view), steps: tape.many(Tape::step_view) }),
            14 => crosses(tape.secrets()),
            _ => crosses(LogAck::Kept { offset: tape.long() }),
        }
    }

    /// Bytes of a stranger: an error or a value, never a panic.
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        if let Ok(wire) = wire::FetchSpecAnswer::decode(bytes.as_slice()) {
            let _either = super::required::<JobSpec>(wire.spec, "spec");
        }
        if let Ok(wire) = wire::ReportStepRequest::decode(bytes.as_slice()) {
            let _either = StepReport::back(wire);
        }
        if let Ok(wire) = wire::SessionRequest::decode(bytes.as_slice()) {
            let _either = AgentMessage::back(wire);
        }
    }
}

#[test]
fn errors_name_field_and_rule() {
    let mut tape = Tape(vec![255; 4096].into_iter());
    let mut spec = tape.spec();
    spec.steps = [tape.step()].into();
    let broken = |change: fn(&mut wire::JobSpec)| {
        let mut wire = spec.clone().out();
        change(&mut wire);
        JobSpec::back(wire).unwrap_err().to_string()
    };
    assert_eq!(broken(|w| w.id = None), "id: is required");
    assert_eq!(broken(|w| w.source = Some(vec![1])), "source: is a digest of 32 bytes");
    assert_eq!(broken(|w| w.steps[0].action = None), "steps[0].action: is required");
    assert_eq!(broken(|w| w.steps[0].grant.as_mut().unwrap().identity = 0), "steps[0].grant.identity: is not a known Identity");
    assert_eq!(broken(|w| w.matrix_json = "{".into()), "matrix_json: is JSON text");
    let twice = |key: &str| wire::Need { key: key.into(), outcome: 1, outputs: Vec::new() };
    let mut wire = spec.clone().out();
    wire.needs = vec![twice("a"), twice("a")];
    assert_eq!(JobSpec::back(wire).unwrap_err().to_string(), "needs.a: stands in the table twice");
}
