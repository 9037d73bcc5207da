//! A controller in this process that offers given jobs and records everything it is told. Nothing here decides anything that the
//! agent should decide.

#![allow(dead_code, clippy::print_stdout)]

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use caisson_agent::agent::{Agent, Options};
use caisson_agent::host::HostRules;
use caisson_model::agent::Hello;
use caisson_model::artifact::{Artifact, Clash, Kept};
use caisson_model::cache::{CacheEntry, CacheQuery, Saved};
use caisson_model::id::{AgentName, AttemptId, Digest, Fence, Hold, JobId, JobKey, RunId, StepIndex};
use caisson_model::job::{JobSpec, RunContexts, Strategy};
use caisson_model::lease::{AgentMessage, Completion, ControllerMessage, Recorded, StepChange, StepReport, Verdict};
use caisson_model::log::{LogAck, LogChunk, LogPush, LogSeal};
use caisson_model::outcome::StepResult;
use caisson_model::policy::Grant;
use caisson_model::secret::{OpenedSecrets, SecretValue};
use caisson_model::step::{Action, Condition, Location, StepSpec, Template};
use caisson_model::time::Timestamp;
use caisson_proto::api::{AgentApi, Answers, ApiError, BlobApi, Messages};
use caisson_sandbox::launcher::Launcher;
use sha2::{Digest as _, Sha256};
use tokio::sync::{Notify, mpsc};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

/// Everything that the agent said.
#[derive(Default)]
pub(crate) struct Record {
    pub specs: HashMap<Hold, JobSpec>,
    pub blobs: HashMap<Digest, Vec<u8>>,
    pub artifacts: Vec<Artifact>,
    pub caches: Vec<CacheEntry>,
    pub secrets: HashMap<StepIndex, Vec<(String, String)>>,
    pub opened: Vec<StepIndex>,
    pub logs: BTreeMap<(Hold, StepIndex), Vec<u8>>,
    pub seals: BTreeMap<(Hold, StepIndex), LogSeal>,
    pub reports: Vec<StepReport>,
    pub completions: Vec<Completion>,
    pub returned: Vec<(Hold, String)>,
    pub messages: Vec<AgentMessage>,
    pub hellos: Vec<Hello>,
    /// Calls that are answered *unavailable* before one is answered.
    pub refuse: u32,
    pub verdict: Option<Verdict>,
    queue: VecDeque<Hold>,
    sessions: Vec<mpsc::Sender<Result<ControllerMessage, ApiError>>>,
}

#[derive(Clone, Default)]
pub(crate) struct Controller {
    record: Arc<Mutex<Record>>,
    changed: Arc<Notify>,
}

impl Controller {
    pub(crate) fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap()
    }

    pub(crate) fn tell(&self, message: ControllerMessage) {
        let sessions = self.record().sessions.clone();
        sessions.iter().for_each(|session| drop(session.try_send(Ok(message.clone()))));
    }

    /// Ends every session, as a broken connection does.
    pub(crate) fn cut(&self) {
        for session in std::mem::take(&mut self.record().sessions) {
            drop(session.try_send(Err(ApiError::Unavailable("cut by the test".into()))));
        }
    }

    pub(crate) fn offer(&self, spec: JobSpec) -> Hold {
        let hold = Hold { attempt: AttemptId { job: spec.id, number: 1 }, fence: Fence(1) };
        let mut record = self.record();
        record.specs.insert(hold, spec);
        record.queue.push_back(hold);
        let sessions = record.sessions.clone();
        let offer = self.offered(&record, hold);
        drop(record);
        sessions.iter().for_each(|session| drop(session.try_send(Ok(offer.clone()))));
        hold
    }

    fn offered(&self, record: &Record, hold: Hold) -> ControllerMessage {
        let spec = Digest(Sha256::digest(form(&record.specs[&hold])).into());
        ControllerMessage::Offer { hold, spec, deadline: Timestamp(u64::MAX / 2) }
    }

    /// Waits until `found` finds something, at most a minute.
    pub(crate) async fn wait<T>(&self, what: &str, found: impl Fn(&Record) -> Option<T>) -> T {
        let search = async {
            loop {
                let changed = self.changed.notified();
                if let Some(value) = found(&self.record()) {
                    return value;
                }
                changed.await;
            }
        };
        match tokio::time::timeout(Duration::from_secs(60), search).await {
            Ok(value) => value,
            Err(_) => panic!("waited a minute for {what}"),
        }
    }

    pub(crate) async fn completion(&self, hold: Hold) -> Completion {
        self.wait("the completion", |record| record.completions.iter().find(|completion| completion.hold == hold).cloned()).await
    }

    pub(crate) fn results(&self, hold: Hold) -> BTreeMap<u32, StepResult> {
        let record = self.record();
        let of = record.reports.iter().filter(|report| report.hold == hold);
        of.filter_map(|report| match &report.change {
            StepChange::Finished { step, result, .. } => Some((step.0, (**result).clone())),
            _ => None,
        })
        .collect()
    }

    /// What the log holds after the head, which repeats the script.
    pub(crate) fn log(&self, hold: Hold, step: u32) -> String {
        let record = self.record();
        let log = String::from_utf8_lossy(record.logs.get(&(hold, StepIndex(step))).map_or(&[], Vec::as_slice)).into_owned();
        log.strip_prefix("##[group]Run ").and_then(|log| log.split_once("##[endgroup]\n")).map_or(log.clone(), |(_, said)| said.to_owned())
    }

    fn admit(&self) -> Result<MutexGuard<'_, Record>, ApiError> {
        self.changed.notify_waiters();
        let mut record = self.record();
        if record.refuse > 0 {
            record.refuse -= 1;
            return Err(ApiError::Unavailable("told to".into()));
        }
        Ok(record)
    }
}

/// A spec as a controller of the next version says it: with more than this agent knows, all of which its digest covers.
fn form(spec: &JobSpec) -> Vec<u8> {
    let mut value = serde_json::to_value(spec).unwrap();
    value["of_the_next_version"] = serde_json::json!({ "mode": "new" });
    value["strategy"]["of_the_next_version"] = 1.into();
    value["contexts"]["of_the_next_version"] = true.into();
    serde_json::to_vec(&value).unwrap()
}

impl BlobApi for Controller {
    async fn find_missing_blobs(&self, digests: Vec<Digest>) -> Result<Vec<Digest>, ApiError> {
        let record = self.admit()?;
        Ok(digests.into_iter().filter(|digest| !record.blobs.contains_key(digest)).collect())
    }

    async fn put_blob(&self, digest: Digest, mut content: Messages<Vec<u8>>) -> Result<(), ApiError> {
        let mut bytes = Vec::new();
        while let Some(piece) = content.next().await {
            bytes.extend(piece);
        }
        self.admit()?.blobs.insert(digest, bytes);
        Ok(())
    }

    async fn get_blob(&self, digest: Digest, offset: u64) -> Result<Answers<Vec<u8>>, ApiError> {
        let record = self.admit()?;
        let bytes = record.blobs.get(&digest).ok_or_else(|| ApiError::NotFound("blob".into()))?;
        let pieces: Vec<_> = bytes[offset as usize..].chunks(64 << 10).map(|piece| Ok(piece.to_vec())).collect();
        Ok(Box::pin(tokio_stream::iter(pieces)))
    }
}

impl AgentApi for Controller {
    async fn session(&self, hello: Hello, mut messages: Messages<AgentMessage>) -> Result<Answers<ControllerMessage>, ApiError> {
        let (sender, receiver) = mpsc::channel(64);
        let mut record = self.admit()?;
        let verdicts = hello.running.iter().map(|hold| (*hold, record.verdict.unwrap_or(Verdict::Keep))).collect();
        let (term, grace) = (Duration::from_secs(3), Duration::from_secs(6));
        sender.try_send(Ok(ControllerMessage::Welcome { version: 1, term, grace, verdicts })).unwrap();
        for hold in record.queue.clone() {
            sender.try_send(Ok(self.offered(&record, hold))).unwrap();
        }
        record.hellos.push(hello);
        record.sessions.push(sender.clone());
        drop(record);
        let controller = self.clone();
        tokio::spawn(async move {
            while let Some(message) = messages.next().await {
                if let AgentMessage::Accept(hold) = &message {
                    controller.record().queue.retain(|waiting| waiting != hold);
                    drop(sender.try_send(Ok(ControllerMessage::Start(*hold))));
                }
                controller.record().messages.push(message);
                controller.changed.notify_waiters();
            }
        });
        Ok(Box::pin(ReceiverStream::new(receiver)))
    }

    async fn fetch_spec(&self, hold: Hold) -> Result<JobSpec, ApiError> {
        self.admit()?.specs.get(&hold).cloned().ok_or(ApiError::Fenced)
    }

    async fn fetch_form(&self, hold: Hold) -> Result<Vec<u8>, ApiError> {
        self.admit()?.specs.get(&hold).map(form).ok_or(ApiError::Fenced)
    }

    async fn open_secrets(&self, _hold: Hold, step: StepIndex) -> Result<OpenedSecrets, ApiError> {
        let mut record = self.admit()?;
        // The real one refuses likewise.
        let started = |report: &StepReport| matches!(&report.change, StepChange::Started { step: reported, .. } if *reported == step);
        if !record.reports.iter().any(started) {
            return Err(ApiError::Invalid(format!("step: {} was not reported as started", step.0)));
        }
        if record.opened.contains(&step) {
            return Err(ApiError::Spent("secrets".into()));
        }
        record.opened.push(step);
        let secrets = record.secrets.get(&step).cloned().unwrap_or_default();
        Ok(OpenedSecrets { secrets: secrets.into_iter().map(|(name, value)| (name, SecretValue::new(value.into_bytes()))).collect() })
    }

    async fn push_log(&self, mut chunks: Messages<LogPush>) -> Result<Answers<LogAck>, ApiError> {
        let (sender, receiver) = mpsc::channel(64);
        let controller = self.clone();
        tokio::spawn(async move {
            while let Some(push) = chunks.next().await {
                let ack = {
                    let mut record = controller.record();
                    let log = record.logs.entry((push.hold, push.step)).or_default();
                    if log.len() as u64 == push.chunk.offset {
                        log.extend(push.chunk.bytes);
                        LogAck::Kept { offset: log.len() as u64 }
                    } else {
                        LogAck::Resync { offset: log.len() as u64 }
                    }
                };
                controller.changed.notify_waiters();
                if sender.send(Ok(ack)).await.is_err() {
                    break;
                }
            }
        });
        Ok(Box::pin(ReceiverStream::new(receiver)))
    }

    async fn seal_log(&self, hold: Hold, step: StepIndex, seal: LogSeal) -> Result<(), ApiError> {
        self.admit()?.seals.insert((hold, step), seal);
        Ok(())
    }

    async fn end_log(&self, hold: Hold, step: StepIndex, rest: Vec<LogChunk>, seal: LogSeal) -> Result<(), ApiError> {
        {
            let mut record = self.admit()?;
            let log = record.logs.entry((hold, step)).or_default();
            for chunk in rest {
                let known = log.len() - chunk.offset as usize;
                log.extend(chunk.bytes.into_iter().skip(known));
            }
        }
        self.seal_log(hold, step, seal).await
    }

    async fn report_step(&self, report: StepReport) -> Result<(), ApiError> {
        // A controller that is slower than the agent: whoever does not wait for its answer is ahead of it.
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        self.admit()?.reports.push(report);
        self.changed.notify_waiters();
        Ok(())
    }

    async fn complete_attempt(&self, completion: Completion) -> Result<Recorded, ApiError> {
        self.admit()?.completions.push(completion);
        self.changed.notify_waiters();
        Ok(Recorded::Recorded)
    }

    async fn return_attempt(&self, hold: Hold, reason: String) -> Result<(), ApiError> {
        self.admit()?.returned.push((hold, reason));
        self.changed.notify_waiters();
        Ok(())
    }

    async fn keep_artifact(&self, _hold: Hold, artifact: Artifact, _clash: Clash) -> Result<Kept, ApiError> {
        self.admit()?.artifacts.push(artifact);
        Ok(Kept::Kept)
    }

    async fn list_artifacts(&self, _hold: Hold) -> Result<Vec<Artifact>, ApiError> {
        Ok(self.admit()?.artifacts.clone())
    }

    async fn drop_artifact(&self, _hold: Hold, name: String) -> Result<(), ApiError> {
        self.admit()?.artifacts.retain(|artifact| artifact.name != name);
        Ok(())
    }

    async fn find_cache(&self, _hold: Hold, query: CacheQuery) -> Result<Option<CacheEntry>, ApiError> {
        Ok(self.admit()?.caches.iter().find(|entry| entry.version == query.version && query.keys.contains(&entry.key)).cloned())
    }

    async fn save_cache(&self, _hold: Hold, entry: CacheEntry) -> Result<Saved, ApiError> {
        self.admit()?.caches.push(entry);
        Ok(Saved::Saved)
    }
}

/// An agent at work, and its controller.
pub(crate) struct Floor {
    pub controller: Controller,
    pub state: PathBuf,
    pub host: HostRules,
    launcher: Launcher,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    agent: Option<tokio::task::JoinHandle<()>>,
    _directory: tempfile::TempDir,
}

impl Floor {
    pub(crate) fn open(launcher: &Launcher) -> Floor {
        Floor::with(launcher, |_| {})
    }

    pub(crate) fn with(launcher: &Launcher, change: impl FnOnce(&mut HostRules)) -> Floor {
        let directory = tempfile::Builder::new().prefix("caisson-agent-test-").tempdir().unwrap();
        let environment = std::env::vars().collect();
        let mut host = HostRules::of_this_host(&environment);
        host.id_claims = directory.path().join("ids");
        host.memory_bytes = host.memory_bytes.min(2 << 30);
        // What this machine cannot enforce is not what is tested here; that it refuses is.
        host.allow_missing = launcher.standing().missing.iter().map(|missing| missing.protection).collect();
        change(&mut host);
        let mut floor = Floor {
            controller: Controller::default(),
            state: directory.path().join("state"),
            host,
            launcher: launcher.clone(),
            stop: None,
            agent: None,
            _directory: directory,
        };
        floor.begin();
        floor
    }

    pub(crate) fn begin(&mut self) {
        let options = Options {
            name: AgentName("tester".into()),
            slots: 2,
            memory_bytes: 0,
            cpu_milli: 0,
            labels: vec!["ubuntu-latest".into()],
            state_dir: self.state.clone(),
            host: self.host.clone(),
        };
        let agent = Agent::new(self.controller.clone(), self.launcher.clone(), options);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        self.stop = Some(stop);
        self.agent = Some(tokio::spawn(async move {
            agent.run(async { drop(stopped.await) }).await.unwrap();
        }));
    }

    /// Shuts the agent down and holds it to leaving nothing behind.
    pub(crate) async fn close(mut self) {
        drop(self.stop.take());
        tokio::time::timeout(Duration::from_secs(60), self.agent.take().unwrap()).await.unwrap().unwrap();
        let left: Vec<_> = std::fs::read_dir(self.state.join("attempts")).unwrap().collect();
        assert!(left.is_empty(), "directories were left: {left:?}");
    }

    /// Asks the agent to leave, and waits for nothing.
    pub(crate) fn ask_to_leave(&mut self) {
        drop(self.stop.take());
    }

    /// Runs a job to its completion.
    pub(crate) async fn run(&self, spec: JobSpec) -> (Hold, Completion) {
        let hold = self.controller.offer(spec);
        let completion = self.controller.completion(hold).await;
        (hold, completion)
    }
}

pub(crate) fn job(steps: Vec<StepSpec>) -> JobSpec {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);
    let index = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let steps = steps.into_iter().zip(0..).map(|(step, index)| StepSpec { index: StepIndex(index), ..step }).collect();
    JobSpec {
        id: JobId { run: RunId(7), index },
        key: JobKey("test".into()),
        name: "test".into(),
        workflow: "CI".into(),
        labels: vec!["ubuntu-latest".into()],
        matrix: serde_json::json!({"python": "3.11"}),
        strategy: Strategy { fail_fast: true, job_index: 0, job_total: 1, max_parallel: None },
        needs: Default::default(),
        workflow_env: Vec::new(),
        env: Vec::new(),
        outputs: Vec::new(),
        steps,
        timeout: Duration::from_secs(120),
        continue_on_error: false,
        contexts: Arc::new(RunContexts {
            github: serde_json::json!({"repository": "me/polls", "ref": "refs/heads/main", "sha": "abc", "event_name": "push", "event": {"a": 1}}),
            ..RunContexts::default()
        }),
        source: None,
    }
}

pub(crate) fn step(action: Action) -> StepSpec {
    StepSpec {
        index: StepIndex(0),
        id: None,
        name: None,
        condition: None,
        action,
        env: Vec::new(),
        continue_on_error: None,
        timeout_minutes: None,
        location: Location { file: "ci.yml".into(), line: 9, column: 1 },
        grant: Grant::default(),
    }
}

pub(crate) fn run(script: &str) -> StepSpec {
    step(Action::Run { script: Template(script.into()), shell: None, working_directory: None })
}

pub(crate) fn uses(action: &str, with: &[(&str, &str)]) -> StepSpec {
    let with = with.iter().map(|(key, value)| ((*key).to_owned(), Template((*value).to_owned()))).collect();
    step(Action::Uses { action: action.into(), version: "v4".into(), with })
}

pub(crate) fn when(condition: &str, step: StepSpec) -> StepSpec {
    StepSpec { condition: Some(Condition(condition.into())), ..step }
}

pub(crate) fn called(id: &str, step: StepSpec) -> StepSpec {
    StepSpec { id: Some(id.into()), ..step }
}

pub(crate) fn env(pairs: &[(&str, &str)]) -> Vec<(String, Template)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), Template((*value).to_owned()))).collect()
}

/// A test by its name.
pub(crate) type Case = (&'static str, fn(Launcher) -> Pin<Box<dyn Future<Output = ()>>>);

/// A table of tests by name.
#[macro_export]
macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        const CASES: &[$crate::floor::Case] = &[$((stringify!($name), |launcher| Box::pin($name(launcher)))),*];
    };
}

/// Starts the launcher while there is one thread, then runs the tests that the command line names, or all.
pub(crate) fn main(cases: &[Case]) {
    if let Some(code) = caisson_sandbox::launcher::entry() {
        std::process::exit(code);
    }
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    if std::env::args().any(|argument| argument == "--list") {
        return cases.iter().for_each(|(name, _)| println!("{name}: test"));
    }
    let launcher = match Launcher::start(&caisson_sandbox::launcher::Options::default()) {
        Ok(launcher) => launcher,
        Err(error) => panic!("the launcher did not start: {error}"),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut ran = 0;
    for (name, case) in cases {
        if wanted.is_empty() || wanted.iter().any(|wanted| name.contains(wanted.as_str())) {
            let begun = std::time::Instant::now();
            runtime.block_on(case(launcher.clone()));
            println!("test {name} ... ok ({:?})", begun.elapsed());
            ran += 1;
        }
    }
    println!("\ntest result: ok. {ran} passed; 0 failed; 0 ignored; {} filtered out", cases.len() - ran);
}
