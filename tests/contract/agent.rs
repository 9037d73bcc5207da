//! An agent that does what a test says, and what tests wait with.

use std::time::Duration;

use caisson_model::agent::{Hello, VersionRange};
use caisson_model::id::{AgentName, Digest, Hold, RunId, StepIndex};
use caisson_model::lease::{AgentMessage, Completion, ControllerMessage, Recorded, StepChange, StepReport, Verdict};
use caisson_model::log::{LogAck, LogChunk, LogPush, LogSeal};
use caisson_model::outcome::{Enforcement, Outcome, StepResult, Usage};
use caisson_model::run::{NumberedEvent, Submission};
use caisson_model::time::Timestamp;
use caisson_proto::api::{AgentApi, Answers, ApiError, ClientApi, RunDetail};
use futures_util::StreamExt;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) const ONE_STEP: &str = "
on: push
jobs:
  test:
    runs-on: ubuntu-latest
    steps:
      - run: echo hello
";

pub(crate) trait Api: AgentApi + ClientApi + Clone {}
impl<T: AgentApi + ClientApi + Clone> Api for T {}

pub(crate) async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen within {DEADLINE:?}"),
    }
}

pub(crate) fn submission(text: &str) -> Submission {
    Submission { file: ".github/workflows/test.yml".into(), text: text.into(), event: "push".into(), ..Default::default() }
}

pub(crate) fn digest(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

pub(crate) async fn submit(api: &impl Api, text: &str) -> RunId {
    api.submit(submission(text)).await.unwrap().run
}

/// An agent that does what a test says.
pub(crate) struct Agent<A> {
    pub(crate) api: A,
    pub(crate) messages: mpsc::Sender<AgentMessage>,
    pub(crate) answers: Answers<ControllerMessage>,
    pub(crate) verdicts: Vec<(Hold, Verdict)>,
    pub(crate) sequence: u64,
}

pub(crate) fn hello(name: &str, running: Vec<Hold>) -> Hello {
    Hello {
        agent: AgentName(name.into()),
        versions: VersionRange::SPOKEN,
        slots: 2,
        labels: vec!["*".into()],
        enforces: Vec::new(),
        memory_bytes: 0,
        cpu_milli: 0,
        running,
    }
}

impl<A: Api> Agent<A> {
    pub(crate) async fn join(api: &A, hello: Hello) -> Agent<A> {
        Agent::meet(api, hello).await
    }

    /// The same, whatever version is agreed.
    pub(crate) async fn meet(api: &A, hello: Hello) -> Agent<A> {
        let agreed = VersionRange::SPOKEN.agreed(hello.versions).unwrap();
        let (messages, said) = mpsc::channel(16);
        let mut answers = api.session(hello, Box::pin(ReceiverStream::new(said))).await.unwrap();
        let welcome = in_time("a welcome", answers.next()).await.unwrap().unwrap();
        let ControllerMessage::Welcome { version, verdicts, .. } = welcome else { panic!("{welcome:?}") };
        assert_eq!(version, agreed);
        Agent { api: api.clone(), messages, answers, verdicts, sequence: 0 }
    }

    pub(crate) async fn told(&mut self) -> ControllerMessage {
        in_time("a message", self.answers.next()).await.unwrap().unwrap()
    }

    /// Beats, and returns what was said before the answer.
    pub(crate) async fn beat(&mut self, holds: Vec<Hold>) -> Vec<ControllerMessage> {
        // Every beat waits for its answer, so that one number does for all.
        let (number, mut said) = (7, Vec::new());
        self.messages.send(AgentMessage::Beat { number, holds }).await.unwrap();
        loop {
            match self.told().await {
                ControllerMessage::Heard(of) if of == number => return said,
                other => said.push(other),
            }
        }
    }

    /// Takes the next offer and waits for the start.
    pub(crate) async fn start(&mut self) -> Hold {
        let offer = self.told().await;
        let ControllerMessage::Offer { hold, spec, .. } = offer else { panic!("{offer:?}") };
        self.messages.send(AgentMessage::Accept(hold)).await.unwrap();
        assert_eq!(self.told().await, ControllerMessage::Start(hold));
        let fetched = self.api.fetch_spec(hold).await.unwrap();
        assert_eq!(digest(&serde_json::to_vec(&fetched).unwrap()), spec, "the spec that was offered");
        assert_eq!(fetched.id, hold.attempt.job);
        hold
    }

    pub(crate) async fn report(&mut self, hold: Hold, change: StepChange) -> Result<(), ApiError> {
        self.sequence += 1;
        self.api.report_step(StepReport { hold, sequence: self.sequence, at: Timestamp(1000 + self.sequence), change }).await
    }

    pub(crate) async fn started(&mut self, hold: Hold, step: u32) {
        self.report(hold, StepChange::Started { step: StepIndex(step), id: None, name: format!("step {step}") }).await.unwrap();
    }

    pub(crate) async fn finished(&mut self, hold: Hold, step: u32, outcome: Outcome) {
        self.report(hold, finished(step, outcome)).await.unwrap();
    }

    pub(crate) async fn complete(&mut self, hold: Hold, outcome: Outcome) -> Result<Recorded, ApiError> {
        self.api.complete_attempt(completion(hold, outcome)).await
    }

    pub(crate) async fn push(&self, hold: Hold, chunks: Vec<(u64, &[u8])>) -> Vec<Result<LogAck, ApiError>> {
        let push = |(offset, bytes): (u64, &[u8])| LogPush {
            hold,
            step: StepIndex(0),
            chunk: LogChunk { offset, at: Timestamp(7), bytes: bytes.to_vec() },
        };
        let chunks: Vec<LogPush> = chunks.into_iter().map(push).collect();
        self.api.push_log(Box::pin(futures_util::stream::iter(chunks))).await.unwrap().collect().await
    }
}

pub(crate) fn finished(step: u32, outcome: Outcome) -> StepChange {
    let result = StepResult {
        outcome,
        conclusion: outcome,
        exit_code: Some(0),
        cause: None,
        usage: Usage::default(),
        enforcement: Enforcement::default(),
        egress: Vec::new(),
        annotations: Vec::new(),
        summary: String::new(),
    };
    StepChange::Finished { step: StepIndex(step), id: None, name: format!("step {step}"), result: Box::new(result) }
}

pub(crate) fn completion(hold: Hold, outcome: Outcome) -> Completion {
    Completion { hold, outcome, cause: None, outputs: Default::default(), at: Timestamp(9) }
}

pub(crate) fn seal(bytes: &[u8]) -> LogSeal {
    let mut chain = caisson_proto::chain::Chain::default();
    chain.update(bytes);
    LogSeal { total: bytes.len() as u64, digest: digest(bytes), chain: Some(chain.head()), gaps: Vec::new() }
}

pub(crate) async fn until(api: &impl Api, run: RunId, what: &str, holds: impl Fn(&RunDetail) -> bool) -> RunDetail {
    in_time(what, async {
        // Every change of a run is an event: looking again after each is waiting for the condition itself.
        let mut events = api.watch_run(run, 0).await.unwrap();
        loop {
            let detail = api.run(run).await.unwrap();
            if holds(&detail) {
                return detail;
            }
            match events.next().await {
                Some(event) => drop(event.unwrap()),
                None => {
                    let detail = api.run(run).await.unwrap();
                    assert!(holds(&detail), "{what} never came: {detail:?}");
                    return detail;
                }
            }
        }
    })
    .await
}

pub(crate) async fn history(api: &impl Api, run: RunId, after: u64) -> Vec<NumberedEvent> {
    let events: Vec<_> = in_time("the end of the history", api.watch_run(run, after).await.unwrap().collect::<Vec<_>>()).await;
    events.into_iter().map(Result::unwrap).collect()
}
