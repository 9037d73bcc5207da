//! What the contract promises, whoever keeps it.

use caisson_model::agent::{Hello, VersionRange};
use caisson_model::diagnostic::DiagnosticKind;
use caisson_model::id::{AgentName, AttemptId, Fence, Hold, JobId, RunId, StepIndex};
use caisson_model::lease::{AgentMessage, ControllerMessage, Recorded, Verdict};
use caisson_model::log::{LogAck, LogChunk, LogKey, LogPush, LogRead};
use caisson_model::outcome::Outcome;
use caisson_model::run::{JobState, RunEvent, RunState, StepState, Submission};
use caisson_model::secret::SecretValue;
use caisson_model::time::Timestamp;
use caisson_proto::api::ApiError;
use futures_util::StreamExt;

use crate::agent::*;

pub(crate) async fn a_run_from_submission_to_its_end(api: impl Api) {
    let mut agent = Agent::join(&api, hello("a", Vec::new())).await;
    let run = submit(&api, ONE_STEP).await;
    let hold = agent.start().await;
    assert_eq!(hold.attempt, AttemptId { job: JobId { run, index: 1 }, number: 1 });
    agent.started(hold, 0).await;

    let key = LogKey { attempt: hold.attempt, step: StepIndex(0) };
    let mut tail = api.tail_log(key, 0).await.unwrap();
    assert_eq!(agent.push(hold, vec![(0, b"hel"), (3, b"lo\n")]).await.last().unwrap(), &Ok(LogAck::Kept { offset: 6 }));
    let mut seen = Vec::new();
    while seen.len() < 6 {
        let read = in_time("the log", tail.next()).await.unwrap().unwrap();
        let LogRead::Chunk(chunk) = read else { panic!("{read:?}") };
        assert_eq!((chunk.offset, chunk.at), (seen.len() as u64, Timestamp(7)));
        seen.extend(chunk.bytes);
    }
    assert_eq!(seen, b"hello\n");
    let unsealed = agent.report(hold, finished(0, Outcome::Success)).await;
    assert!(matches!(&unsealed, Err(ApiError::Invalid(text)) if text.contains("not sealed")), "{unsealed:?}");
    api.seal_log(hold, StepIndex(0), seal(b"hello\n")).await.unwrap();
    assert_eq!(in_time("the seal", tail.next()).await, Some(Ok(LogRead::Seal(seal(b"hello\n")))));
    assert_eq!(in_time("the end", tail.next()).await, None);

    agent.finished(hold, 0, Outcome::Success).await;
    assert_eq!(agent.complete(hold, Outcome::Success).await, Ok(Recorded::Recorded));

    let all = history(&api, run, 0).await;
    assert!(all.iter().zip(1..).all(|(event, number)| event.number == number), "{all:?}");
    let states: Vec<JobState> = all.iter().filter_map(|e| if let RunEvent::Job(job) = &e.event { Some(job.state) } else { None }).collect();
    assert_eq!(states, [JobState::Waiting, JobState::Queued, JobState::Leased, JobState::Running, JobState::Finished]);
    assert!(matches!(&all.last().unwrap().event, RunEvent::Run(view) if view.outcome == Some(Outcome::Success)));
    assert_eq!(history(&api, run, all.len() as u64 - 1).await, all[all.len() - 1..]);

    let detail = api.run(run).await.unwrap();
    assert_eq!((detail.run.state, detail.jobs.len(), detail.steps.len()), (RunState::Finished, 1, 1));
    assert_eq!(detail.jobs[0].agent, Some(AgentName("a".into())));
    assert_eq!((detail.steps[0].state, detail.steps[0].started), (StepState::Finished, Timestamp(1001)));
    assert_eq!(api.list_runs(10).await.unwrap(), [detail.run]);
    assert_eq!(api.explain(run).await, Ok(Vec::new()));
    let again: Vec<_> = api.tail_log(key, 4).await.unwrap().collect().await;
    let LogRead::Chunk(rest) = again[0].as_ref().unwrap() else { panic!("{again:?}") };
    assert_eq!((rest.offset, rest.bytes.as_slice()), (4, b"o\n".as_slice()));
}

pub(crate) async fn what_cannot_run_is_rejected_with_all_findings(api: impl Api) {
    let text =
        "on: push\njobs:\n  a:\n    runs-on: x\n    needs: nobody\n    steps:\n      - uses: evil/action@v1\n      - frobnicate: 1\n";
    let Err(ApiError::Rejected(findings)) = api.submit(submission(text)).await else { panic!("not rejected") };
    assert!(findings.len() >= 3, "{findings:?}");
    assert!(findings.iter().any(|finding| finding.kind == DiagnosticKind::Unsupported && finding.location.line == 7), "{findings:?}");
    assert_eq!(api.list_runs(10).await, Ok(Vec::new()));
    let lost = Submission { source: Some(digest(b"never put")), ..submission(ONE_STEP) };
    assert!(matches!(api.submit(lost).await, Err(ApiError::Invalid(text)) if text.starts_with("source:")));
}

pub(crate) async fn a_fenced_attempt_can_do_nothing(api: impl Api) {
    let mut agent = Agent::join(&api, hello("a", Vec::new())).await;
    let run = submit(&api, ONE_STEP).await;
    let old = agent.start().await;
    agent.started(old, 0).await;
    api.return_attempt(old, "the disk is full".into()).await.unwrap();
    let new = agent.start().await;
    assert_eq!(new.attempt, AttemptId { number: 2, ..old.attempt });
    assert!(new.fence > old.fence);
    let forged = Hold { fence: Fence(new.fence.0 + 1), ..new };
    let mixed = Hold { attempt: new.attempt, fence: old.fence };
    for hold in [old, forged, mixed] {
        agent.sequence = 0;
        assert_eq!(api.fetch_spec(hold).await, Err(ApiError::Fenced));
        assert_eq!(api.open_secrets(hold, StepIndex(0)).await, Err(ApiError::Fenced));
        assert_eq!(agent.report(hold, finished(0, Outcome::Failure)).await, Err(ApiError::Fenced));
        assert_eq!(api.seal_log(hold, StepIndex(0), seal(b"")).await, Err(ApiError::Fenced));
        assert_eq!(agent.complete(hold, Outcome::Failure).await, Err(ApiError::Fenced));
        assert_eq!(agent.push(hold, vec![(0, b"x")]).await, [Err(ApiError::Fenced)]);
        assert_eq!(agent.beat(vec![hold]).await, [ControllerMessage::Forget(hold)]);
    }
    assert_eq!(agent.complete(new, Outcome::Success).await, Ok(Recorded::Recorded));
    let detail = api.run(run).await.unwrap();
    assert_eq!((detail.run.outcome, detail.jobs[0].attempt), (Some(Outcome::Success), Some(new.attempt)));
}

pub(crate) async fn what_is_repeated_changes_nothing(api: impl Api) {
    let mut agent = Agent::join(&api, hello("a", Vec::new())).await;
    let run = submit(&api, ONE_STEP).await;
    let hold = agent.start().await;
    agent.messages.send(AgentMessage::Accept(hold)).await.unwrap();
    assert_eq!(agent.told().await, ControllerMessage::Start(hold));
    agent.started(hold, 0).await;
    agent.finished(hold, 0, Outcome::Failure).await;
    for sequence in [1, 2] {
        agent.sequence = sequence - 1;
        agent.finished(hold, 0, Outcome::Success).await;
    }
    // A new report of a step that has ended: terminal is sticky.
    agent.finished(hold, 0, Outcome::Success).await;
    agent.sequence = 1_000_000;
    assert!(
        matches!(agent.report(hold, finished(1, Outcome::Success)).await, Err(ApiError::Invalid(text)) if text.starts_with("sequence:"))
    );
    assert_eq!(agent.complete(hold, Outcome::Failure).await, Ok(Recorded::Recorded));
    assert_eq!(agent.complete(hold, Outcome::Success).await, Ok(Recorded::AlreadyRecorded));
    agent.sequence = 0;
    agent.finished(hold, 0, Outcome::Success).await;
    let detail = api.run(run).await.unwrap();
    assert_eq!(detail.run.outcome, Some(Outcome::Failure));
    assert_eq!(detail.steps[0].result.as_ref().unwrap().outcome, Outcome::Failure);
    api.cancel(run).await.unwrap();
    assert_eq!(api.run(run).await.unwrap(), detail);
}

pub(crate) async fn secrets_are_opened_once_by_the_steps_that_name_them(api: impl Api) {
    let text = "
on: push
jobs:
  deploy:
    runs-on: x
    steps:
      - run: deploy
        env: { A: \"${{ secrets.TOKEN }}\", B: \"${{ secrets.NOT_GIVEN }}\" }
      - run: echo
";
    let mut agent = Agent::join(&api, hello("a", Vec::new())).await;
    let submitted = api.submit(submission(text)).await.unwrap();
    assert!(submitted.warnings.iter().any(|warning| warning.message.contains("NOT_GIVEN was not given")), "{submitted:?}");
    let hold = agent.start().await;
    let early = api.open_secrets(hold, StepIndex(0)).await;
    assert!(matches!(&early, Err(ApiError::Invalid(text)) if text.contains("not reported as started")), "{early:?}");
    agent.started(hold, 0).await;
    let opened = api.open_secrets(hold, StepIndex(0)).await.unwrap();
    assert_eq!(opened.secrets, [("TOKEN".to_owned(), SecretValue::new(b"hunter2".to_vec()))]);
    assert!(matches!(api.open_secrets(hold, StepIndex(0)).await, Err(ApiError::Spent(_))));
    agent.finished(hold, 0, Outcome::Success).await;
    agent.started(hold, 1).await;
    assert_eq!(api.open_secrets(hold, StepIndex(1)).await.unwrap().secrets, []);
    agent.finished(hold, 1, Outcome::Success).await;
    assert!(matches!(api.open_secrets(hold, StepIndex(1)).await, Err(ApiError::Invalid(_))));
}

pub(crate) async fn blobs_are_what_their_digest_says(api: impl Api) {
    let content: Vec<u8> = (0..3_000_000u32).map(|i| (i * 7) as u8).collect();
    let name = digest(&content);
    let pieces = |bytes: &[u8]| -> caisson_proto::api::Messages<Vec<u8>> {
        Box::pin(futures_util::stream::iter(bytes.chunks(2_000_000).map(<[u8]>::to_vec).collect::<Vec<_>>()))
    };
    assert_eq!(api.find_missing_blobs(vec![name]).await.unwrap(), [name]);
    let wrong = api.put_blob(name, pieces(&content[1..])).await;
    assert!(matches!(&wrong, Err(ApiError::Invalid(text)) if text.starts_with("content:")), "{wrong:?}");
    assert!(matches!(api.get_blob(name, 0).await.map(drop), Err(ApiError::NotFound(_))));
    api.put_blob(name, pieces(&content)).await.unwrap();
    api.put_blob(name, pieces(&content)).await.unwrap();
    assert_eq!(api.find_missing_blobs(vec![name]).await.unwrap(), []);
    for offset in [0usize, 100_000] {
        let read: Vec<_> = api.get_blob(name, offset as u64).await.unwrap().collect().await;
        let read: Vec<Vec<u8>> = read.into_iter().map(Result::unwrap).collect();
        assert!(read.iter().all(|piece| !piece.is_empty() && piece.len() <= 64 * 1024));
        assert_eq!(digest(&read.concat()), digest(&content[offset..]));
    }
    let sourced = Submission { source: Some(name), ..submission(ONE_STEP) };
    api.submit(sourced).await.unwrap();
    let mut agent = Agent::join(&api, hello("a", Vec::new())).await;
    let hold = agent.start().await;
    assert_eq!(api.fetch_spec(hold).await.unwrap().source, Some(name));
}

pub(crate) async fn a_log_has_no_gap_and_no_repetition(api: impl Api) {
    let mut agent = Agent::join(&api, hello("a", Vec::new())).await;
    submit(&api, ONE_STEP).await;
    let hold = agent.start().await;
    agent.started(hold, 0).await;
    assert_eq!(agent.push(hold, vec![(5, b"x")]).await, [Ok(LogAck::Resync { offset: 0 })]);
    assert_eq!(agent.push(hold, vec![(0, b"abc")]).await, [Ok(LogAck::Kept { offset: 3 })]);
    assert_eq!(agent.push(hold, vec![(0, b"abc")]).await, [Ok(LogAck::Kept { offset: 3 })]);
    assert_eq!(agent.push(hold, vec![(1, b"bcde")]).await, [Ok(LogAck::Kept { offset: 5 })]);
    let short = api.seal_log(hold, StepIndex(0), seal(b"abcd")).await;
    assert!(matches!(&short, Err(ApiError::Invalid(text)) if text.starts_with("seal:")), "{short:?}");
    assert!(matches!(api.seal_log(hold, StepIndex(0), seal(b"abcdX")).await, Err(ApiError::Invalid(_))));
    api.seal_log(hold, StepIndex(0), seal(b"abcde")).await.unwrap();
    api.seal_log(hold, StepIndex(0), seal(b"abcde")).await.unwrap();
    assert!(matches!(agent.push(hold, vec![(5, b"f")]).await.as_slice(), [Err(ApiError::Invalid(_))]));

    // A step that writes much, in one stream, and a reader that came early and reads late.
    let big: Vec<u8> = (0..2_000_000u32).map(|i| (i % 251) as u8).collect();
    let key = LogKey { attempt: hold.attempt, step: StepIndex(1) };
    let tail = api.tail_log(key, 0).await.unwrap();
    let chunks = big.chunks(60_000).zip(0u64..).map(|(bytes, i)| LogPush {
        hold,
        step: key.step,
        chunk: LogChunk { offset: i * 60_000, at: Timestamp(i), bytes: bytes.to_vec() },
    });
    let acks: Vec<_> = api.push_log(Box::pin(futures_util::stream::iter(chunks.collect::<Vec<_>>()))).await.unwrap().collect().await;
    assert_eq!(acks.last().unwrap(), &Ok(LogAck::Kept { offset: 2_000_000 }));
    api.seal_log(hold, key.step, seal(&big)).await.unwrap();
    let reads: Vec<LogRead> = in_time("the whole log", tail.map(Result::unwrap).collect::<Vec<_>>()).await;
    let mut seen = Vec::new();
    for read in &reads {
        match read {
            LogRead::Chunk(chunk) => {
                assert_eq!(chunk.offset, seen.len() as u64);
                seen.extend(&chunk.bytes);
            }
            LogRead::Seal(sealed) => assert_eq!(*sealed, seal(&big)),
        }
    }
    assert_eq!(digest(&seen), digest(&big));

    // What nobody seals is sealed when the attempt ends, and says so.
    let unsealed = LogKey { attempt: hold.attempt, step: StepIndex(2) };
    let push = LogPush { hold, step: unsealed.step, chunk: LogChunk { offset: 0, at: Timestamp(1), bytes: b"half".to_vec() } };
    let _acks: Vec<_> = api.push_log(Box::pin(futures_util::stream::iter([push]))).await.unwrap().collect().await;
    let silent = api.tail_log(LogKey { attempt: hold.attempt, step: StepIndex(3) }, 0).await.unwrap();
    agent.complete(hold, Outcome::Failure).await.unwrap();
    let reads: Vec<_> = in_time("the end of a log", api.tail_log(unsealed, 0).await.unwrap().collect::<Vec<_>>()).await;
    let [Ok(LogRead::Chunk(_)), Ok(LogRead::Seal(end))] = reads.as_slice() else { panic!("{reads:?}") };
    assert_eq!((end.total, end.digest, end.gaps.len()), (4, digest(b"half"), 1));
    let silent: Vec<_> = in_time("the end of an empty log", silent.collect::<Vec<_>>()).await;
    assert_eq!(silent, [Ok(LogRead::Seal(seal(b"")))]);
}

pub(crate) async fn cancelling_is_pushed(api: impl Api) {
    let text = "
on: push
jobs:
  a: { runs-on: x, steps: [{ run: sleep 60 }] }
  b: { runs-on: x, needs: a, steps: [{ run: echo }] }
";
    let mut agent = Agent::join(&api, hello("a", Vec::new())).await;
    let run = submit(&api, text).await;
    let hold = agent.start().await;
    agent.started(hold, 0).await;
    api.cancel(run).await.unwrap();
    api.cancel(run).await.unwrap();
    let cancel = agent.told().await;
    assert!(matches!(cancel, ControllerMessage::Cancel { hold: of, .. } if of == hold), "{cancel:?}");
    agent.messages.send(AgentMessage::CancelAck(hold)).await.unwrap();
    agent.finished(hold, 0, Outcome::Cancelled).await;
    assert_eq!(agent.complete(hold, Outcome::Cancelled).await, Ok(Recorded::Recorded));
    let detail = until(&api, run, "the end", |detail| detail.run.state == RunState::Finished).await;
    assert_eq!(detail.run.outcome, Some(Outcome::Cancelled));
    assert_eq!(detail.jobs.iter().map(|job| job.outcome).collect::<Vec<_>>(), [Some(Outcome::Cancelled), Some(Outcome::Skipped)]);

    // One that nobody has begun ends at once.
    drop(agent);
    let waiting = submit(&api, ONE_STEP).await;
    api.cancel(waiting).await.unwrap();
    assert_eq!(history(&api, waiting, 0).await.len(), api.watch_run(waiting, 0).await.unwrap().count().await);
    assert_eq!(api.run(waiting).await.unwrap().run.outcome, Some(Outcome::Cancelled));
}

pub(crate) async fn jobs_wait_for_what_they_need(api: impl Api) {
    let text = "
on: push
jobs:
  list:
    runs-on: x
    outputs: { versions: \"${{ steps.v.outputs.v }}\" }
    steps: [{ id: v, run: echo }]
  test:
    runs-on: x
    needs: list
    strategy: { matrix: { v: \"${{ fromJSON(needs.list.outputs.versions) }}\" } }
    steps: [{ run: echo }]
  never:
    runs-on: x
    needs: list
    if: needs.list.outputs.versions == ''
    steps: [{ run: echo }]
";
    let mut agent = Agent::join(&api, hello("a", Vec::new())).await;
    let run = submit(&api, text).await;
    let hold = agent.start().await;
    let why = api.explain(run).await.unwrap();
    assert!(why.iter().any(|why| why.reasons == ["it needs job list, which has not ended"]), "{why:?}");
    let mut done = completion(hold, Outcome::Success);
    done.outputs.insert("versions".into(), "[\"3.12\", \"3.13\"]".into());
    assert_eq!(api.complete_attempt(done).await, Ok(Recorded::Recorded));
    let mut cells = Vec::new();
    for _ in 0..2 {
        let offer = agent.told().await;
        let ControllerMessage::Offer { hold, .. } = offer else { panic!("{offer:?}") };
        cells.push(hold);
    }
    let mut values = Vec::new();
    for hold in cells {
        agent.messages.send(AgentMessage::Accept(hold)).await.unwrap();
        assert_eq!(agent.told().await, ControllerMessage::Start(hold));
        values.push(api.fetch_spec(hold).await.unwrap().matrix["v"].clone());
        assert_eq!(agent.complete(hold, Outcome::Success).await, Ok(Recorded::Recorded));
    }
    assert_eq!(values, ["3.12", "3.13"]);
    let detail = until(&api, run, "the end", |detail| detail.run.state == RunState::Finished).await;
    let jobs: Vec<_> = detail.jobs.iter().map(|job| (job.name.as_str(), job.outcome.unwrap())).collect();
    assert_eq!(
        jobs,
        [("list", Outcome::Success), ("test (3.12)", Outcome::Success), ("test (3.13)", Outcome::Success), ("never", Outcome::Skipped)]
    );
    assert_eq!(detail.run.outcome, Some(Outcome::Success));
}

pub(crate) async fn a_broken_session_changes_nothing_by_itself(api: impl Api) {
    let mut agent = Agent::join(&api, hello("a", Vec::new())).await;
    let run = submit(&api, ONE_STEP).await;
    let hold = agent.start().await;
    agent.started(hold, 0).await;
    let sequence = agent.sequence;
    drop(agent);
    let strange = Hold { attempt: AttemptId { job: JobId { run: RunId(999), index: 1 }, number: 1 }, fence: Fence(1) };
    let mut agent = Agent::join(&api, hello("a", vec![hold, strange])).await;
    assert_eq!(agent.verdicts, [(hold, Verdict::Keep), (strange, Verdict::Forget)]);
    agent.sequence = sequence;
    assert_eq!(api.run(run).await.unwrap().jobs[0].state, JobState::Running);

    // Another session of the same agent takes over; the first is told.
    let other = Agent::join(&api, hello("a", vec![hold])).await;
    let end = in_time("the end of the first session", agent.answers.next()).await;
    assert!(matches!(end, Some(Err(ApiError::Denied(_)))), "{end:?}");

    // An agent that comes back without the attempt has lost it; the job goes to another.
    let mut second = Agent::join(&api, hello("b", Vec::new())).await;
    drop(other);
    let _came_back = Agent::join(&api, Hello { slots: 0, ..hello("a", Vec::new()) }).await;
    let again = second.start().await;
    assert_eq!(again.attempt.number, 2);
    assert_eq!(agent.complete(hold, Outcome::Success).await, Err(ApiError::Fenced));
    api.cancel(run).await.unwrap();
    assert!(matches!(second.told().await, ControllerMessage::Cancel { .. }));
    drop(second);
    let back = Agent::join(&api, hello("b", vec![again])).await;
    assert_eq!(back.verdicts, [(again, Verdict::Stop)]);
}

pub(crate) async fn strangers_are_told_what_is_wrong(api: impl Api) {
    let said = || Box::pin(futures_util::stream::pending());
    let future = Hello { versions: VersionRange { min: 7, max: 9 }, ..hello("a", Vec::new()) };
    let refused = api.session(future, said()).await.map(drop);
    assert!(matches!(&refused, Err(ApiError::Invalid(text)) if text.contains("speaks 7 to 9")), "{refused:?}");
    let nameless = api.session(hello("", Vec::new()), said()).await.map(drop);
    assert!(matches!(nameless, Err(ApiError::Invalid(_))));
    let nobody = RunId(42);
    let missing = ApiError::NotFound("run 42".into());
    assert_eq!(api.run(nobody).await, Err(missing.clone()));
    assert_eq!(api.cancel(nobody).await, Err(missing.clone()));
    assert_eq!(api.explain(nobody).await, Err(missing.clone()));
    assert_eq!(api.watch_run(nobody, 0).await.map(drop), Err(missing.clone()));
    let key = LogKey { attempt: AttemptId { job: JobId { run: nobody, index: 1 }, number: 1 }, step: StepIndex(0) };
    assert_eq!(api.tail_log(key, 0).await.map(drop), Err(missing));
}

pub(crate) async fn labels_choose_the_agent_and_explain_says_so(api: impl Api) {
    let text = "on: push\njobs:\n  a: { runs-on: [Linux, gpu], steps: [{ run: echo }] }\n";
    let run = submit(&api, text).await;
    let reasons = || async { api.explain(run).await.unwrap().remove(0).reasons };
    assert_eq!(reasons().await, ["no agent is connected"]);
    let labels = |labels: &[&str]| labels.iter().map(|label| label.to_string()).collect();
    let mut plain = Agent::join(&api, Hello { labels: labels(&["linux"]), ..hello("plain", Vec::new()) }).await;
    assert_eq!(reasons().await, ["no connected agent serves runs-on linux, gpu: plain serves linux"]);
    let mut gpu = Agent::join(&api, Hello { labels: labels(&["linux", "gpu"]), slots: 1, ..hello("gpu", Vec::new()) }).await;
    let hold = gpu.start().await;
    let second = submit(&api, text).await;
    assert_eq!(api.explain(second).await.unwrap()[0].reasons, ["all 1 slots of agent gpu are taken"]);
    gpu.complete(hold, Outcome::Success).await.unwrap();
    let offer = gpu.told().await;
    let ControllerMessage::Offer { hold, .. } = offer else { panic!("{offer:?}") };
    assert_eq!(hold.attempt.job.run, second);
    // A declined offer waits for another agent, or a while.
    gpu.messages.send(AgentMessage::Decline { hold, reason: "busy".into() }).await.unwrap();
    let again = gpu.start().await;
    assert_eq!(again.attempt, hold.attempt);
    assert!(again.fence > hold.fence);
    plain.messages.send(AgentMessage::Draining).await.unwrap();
    // Messages of a session are taken in order: the answer to the next one says that this one was taken.
    assert_eq!(plain.beat(vec![hold]).await, [ControllerMessage::Forget(hold)]);
    submit(&api, ONE_STEP.replace("ubuntu-latest", "linux").as_str()).await;
    gpu.complete(again, Outcome::Success).await.unwrap();
    assert_eq!(gpu.start().await.attempt.job.run, RunId(3));
    assert!(plain.answers.next().now_or_never_empty());
}

trait NothingYet {
    fn now_or_never_empty(self) -> bool;
}

impl<F: Future> NothingYet for F {
    fn now_or_never_empty(self) -> bool {
        use futures_util::FutureExt;
        self.now_or_never().is_none()
    }
}
