//! A controller that dies in the middle of a run and is opened again has lost nothing, and wrote no secret down.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::Path;
use std::time::Duration;

use caisson_controller::core::event::Timing;
use caisson_controller::secrets::Secrets;
use caisson_controller::secrets::given::Given;
use caisson_controller::service::{OpenError, Options, Service};
use caisson_model::agent::{Hello, VersionRange};
use caisson_model::id::{AgentName, Digest, Hold, RunId, StepIndex};
use caisson_model::lease::{AgentMessage, Completion, ControllerMessage, Recorded, StepChange, StepReport, Verdict};
use caisson_model::log::{LogAck, LogChunk, LogKey, LogPush, LogRead, LogSeal};
use caisson_model::outcome::Outcome;
use caisson_model::run::{JobState, RunEvent, RunState, Submission};
use caisson_model::secret::SecretValue;
use caisson_model::time::Timestamp;
use caisson_proto::api::{AgentApi, Answers, ApiError, ClientApi};
use caisson_proto::chain::Chain;
use futures_util::StreamExt;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

const SECRET: &str = "correct horse battery staple";
const STEP: StepIndex = StepIndex(0);

async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(20), future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen"),
    }
}

async fn open(dir: &Path, timing: Timing) -> Service {
    let given = Given::new([("TOKEN".to_owned(), SecretValue::new(SECRET.into()))]);
    let secrets = Secrets::new(vec![Box::new(given)]);
    Service::open(Options { secrets, timing, ..Options::new(dir.to_owned()) }).await.unwrap()
}

struct Agent {
    messages: mpsc::Sender<AgentMessage>,
    answers: Answers<ControllerMessage>,
    verdicts: Vec<(Hold, Verdict)>,
}

async fn join(service: &Service, running: Vec<Hold>) -> Agent {
    let (messages, said) = mpsc::channel(16);
    let hello = Hello {
        agent: AgentName("a".into()),
        versions: VersionRange::SPOKEN,
        slots: 1,
        labels: vec!["*".into()],
        enforces: Vec::new(),
        memory_bytes: 0,
        cpu_milli: 0,
        running,
    };
    let mut answers = service.session(hello, Box::pin(ReceiverStream::new(said))).await.unwrap();
    match in_time("a welcome", answers.next()).await {
        Some(Ok(ControllerMessage::Welcome { verdicts, .. })) => Agent { messages, answers, verdicts },
        other => panic!("{other:?}"),
    }
}

impl Agent {
    async fn start(&mut self) -> Hold {
        let offer = in_time("an offer", self.answers.next()).await;
        let Some(Ok(ControllerMessage::Offer { hold, .. })) = offer else { panic!("{offer:?}") };
        self.messages.send(AgentMessage::Accept(hold)).await.unwrap();
        assert_eq!(in_time("the start", self.answers.next()).await, Some(Ok(ControllerMessage::Start(hold))));
        hold
    }
}

async fn submit(service: &Service) -> RunId {
    let text = "on: push\njobs:\n  a: { runs-on: x, steps: [{ run: echo, env: { T: \"${{ secrets.TOKEN }}\" } }] }\n  b: { runs-on: x, needs: a, steps: [{ run: echo }] }\n";
    let submission = Submission { file: "w.yml".into(), text: text.into(), event: "push".into(), ..Submission::default() };
    service.submit(submission).await.unwrap().run
}

async fn started(service: &Service, hold: Hold) {
    let change = StepChange::Started { step: STEP, id: None, name: "echo".into() };
    service.report_step(StepReport { hold, sequence: 1, at: Timestamp(5), change }).await.unwrap();
}

async fn push(service: &Service, hold: Hold, offset: u64, bytes: &[u8]) -> Vec<Result<LogAck, ApiError>> {
    let push = LogPush { hold, step: STEP, chunk: LogChunk { offset, at: Timestamp(6), bytes: bytes.to_vec() } };
    service.push_log(Box::pin(futures_util::stream::iter([push]))).await.unwrap().collect().await
}

async fn complete(service: &Service, hold: Hold) -> Result<Recorded, ApiError> {
    let completion = Completion { hold, outcome: Outcome::Success, cause: None, outputs: Default::default(), at: Timestamp(9) };
    service.complete_attempt(completion).await
}

/// The disk as a crash leaves it: a copy taken while the controller runs.
fn disk_after_crash(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            disk_after_crash(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn every_file(dir: &Path, see: &mut impl FnMut(&Path, &[u8])) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { every_file(&path, see) } else { see(&path, &fs::read(&path).unwrap()) }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_goes_on_after_a_crash() {
    let (before, after) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = open(before.path(), Timing::default()).await;
    let mut agent = join(&first, Vec::new()).await;
    let run = submit(&first).await;
    let hold = agent.start().await;
    started(&first, hold).await;
    assert_eq!(first.open_secrets(hold, STEP).await.unwrap().secrets[0].1.expose(), SECRET.as_bytes());
    assert_eq!(push(&first, hold, 0, b"one\n").await, [Ok(LogAck::Kept { offset: 4 })]);
    let detail = first.run(run).await.unwrap();
    let history = detail.jobs.len();
    disk_after_crash(before.path(), after.path());
    drop((agent, first));

    let second = open(after.path(), Timing::default()).await;
    let mut detail_after = second.run(run).await.unwrap();
    assert_eq!(detail_after.jobs.len(), history);
    assert_eq!(detail_after, detail, "what clients saw is there again");
    detail_after.jobs.clear();
    let mut events = second.watch_run(run, 0).await.unwrap();
    let mut agent = join(&second, vec![hold]).await;
    assert_eq!(agent.verdicts, [(hold, Verdict::Keep)]);

    // What was done is still done.
    started(&second, hold).await;
    assert!(matches!(second.open_secrets(hold, STEP).await, Err(ApiError::Spent(_))), "P5 holds over a crash");
    assert_eq!(push(&second, hold, 9, b"x").await, [Ok(LogAck::Resync { offset: 4 })]);
    assert_eq!(push(&second, hold, 0, b"one\ntwo\n").await, [Ok(LogAck::Kept { offset: 8 })]);
    let whole = b"one\ntwo\n";
    let mut chain = Chain::default();
    chain.update(whole);
    let digest = Digest(Sha256::digest(whole).into());
    let seal = LogSeal { total: 8, digest, chain: Some(chain.head()), gaps: Vec::new() };
    second.seal_log(hold, STEP, seal.clone()).await.unwrap();
    assert_eq!(complete(&second, hold).await, Ok(Recorded::Recorded));
    let dependant = agent.start().await;
    assert_eq!(complete(&second, dependant).await, Ok(Recorded::Recorded));

    let mut last = None;
    let mut expected = 1;
    while let Some(event) = in_time("the history", events.next()).await {
        let event = event.unwrap();
        assert_eq!(event.number, expected);
        expected += 1;
        last = Some(event.event);
    }
    assert!(matches!(last, Some(RunEvent::Run(view)) if view.outcome == Some(Outcome::Success)));
    let log: Vec<_> = second.tail_log(LogKey { attempt: hold.attempt, step: STEP }, 0).await.unwrap().collect().await;
    let bytes: Vec<u8> =
        log.iter().flat_map(|read| if let Ok(LogRead::Chunk(chunk)) = read { chunk.bytes.clone() } else { Vec::new() }).collect();
    assert_eq!((bytes.as_slice(), log.last()), (whole.as_slice(), Some(&Ok(LogRead::Seal(seal)))));
    second.close().await;

    // And once more: a finished run, read from the store alone.
    let third = open(after.path(), Timing::default()).await;
    assert_eq!(complete(&third, dependant).await, Ok(Recorded::AlreadyRecorded));
    assert_eq!(third.run(run).await.unwrap().run.state, RunState::Finished);
    assert_eq!(third.watch_run(run, 0).await.unwrap().count().await as u64, expected - 1);
    assert_eq!(submit(&third).await, RunId(run.0 + 1));
    third.close().await;

    let mut files = 0;
    let mut found = Vec::new();
    let mut control = false;
    every_file(after.path(), &mut |path, bytes| {
        files += 1;
        let holds = |needle: &str| bytes.windows(needle.len()).any(|window| window == needle.as_bytes());
        control |= holds("secrets.TOKEN");
        if holds(SECRET) {
            found.push(path.to_owned());
        }
    });
    assert!(files > 3 && control, "the search finds what is there");
    assert_eq!(found, Vec::<std::path::PathBuf>::new(), "a secret was written down");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_whose_agent_does_not_come_back_is_suspected_and_given_to_another() {
    let (before, after) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let timing = Timing { term: Duration::from_millis(200), grace: Duration::from_millis(200), ..Timing::default() };
    let first = open(before.path(), Timing::default()).await;
    let mut agent = join(&first, Vec::new()).await;
    let run = submit(&first).await;
    let hold = agent.start().await;
    started(&first, hold).await;
    push(&first, hold, 0, b"half").await;
    disk_after_crash(before.path(), after.path());
    drop((agent, first));

    let second = open(after.path(), timing).await;
    let events = second.watch_run(run, 0).await.unwrap();
    let mut states = events.filter_map(|event| {
        let job = if let RunEvent::Job(job) = event.unwrap().event { (job.id == hold.attempt.job).then_some(job.state) } else { None };
        std::future::ready(job)
    });
    use JobState::{Leased, Queued, Running, Suspect, Waiting};
    let mut seen = Vec::new();
    while seen.iter().filter(|state| **state == Queued).count() < 2 {
        seen.push(in_time("a change of the job", states.next()).await.unwrap());
    }
    assert_eq!(seen, [Waiting, Queued, Leased, Running, Suspect, Queued]);
    assert_eq!(complete(&second, hold).await, Err(ApiError::Fenced));
    let log: Vec<_> = in_time("the end of the log", async {
        second.tail_log(LogKey { attempt: hold.attempt, step: STEP }, 0).await.unwrap().collect::<Vec<_>>().await
    })
    .await;
    let Some(Ok(LogRead::Seal(seal))) = log.last() else { panic!("{log:?}") };
    assert_eq!((seal.total, seal.gaps.len()), (4, 1), "P2: a declared gap");
    assert!(seal.gaps[0].reason.contains("was lost"), "{seal:?}");
    second.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_folder_has_one_controller_and_torn_logs_are_cut() {
    let (dir, after) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = open(dir.path(), Timing::default()).await;
    let second = Service::open(Options::new(dir.path().to_owned())).await;
    assert!(matches!(second, Err(OpenError::InUse(_))), "{second:?}");
    let mut agent = join(&first, Vec::new()).await;
    submit(&first).await;
    let hold = agent.start().await;
    started(&first, hold).await;
    push(&first, hold, 0, b"whole").await;
    disk_after_crash(dir.path(), after.path());
    let log = after.path().join("logs/1/1.1/0");
    // Bytes without an index entry, and half an index entry: what a crash between two writes leaves.
    let append = |extension: &str, bytes: &[u8]| {
        let path = log.with_extension(extension);
        fs::write(&path, [fs::read(&path).unwrap(), bytes.to_vec()].concat()).unwrap();
    };
    append("log", b"torn");
    append("times", &[1, 2, 3]);
    drop((agent, first));
    let second = open(after.path(), Timing::default()).await;
    let _agent = join(&second, vec![hold]).await;
    assert_eq!(push(&second, hold, 9, b"x").await, [Ok(LogAck::Resync { offset: 5 })]);
    assert_eq!(push(&second, hold, 5, b"!").await, [Ok(LogAck::Kept { offset: 6 })]);
    let seal = LogSeal { total: 6, digest: Digest(Sha256::digest(b"whole!").into()), chain: None, gaps: Vec::new() };
    second.seal_log(hold, STEP, seal).await.unwrap();
    assert_eq!(fs::read(log.with_extension("log")).unwrap(), b"whole!");
    second.close().await;
}
