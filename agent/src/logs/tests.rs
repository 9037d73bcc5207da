#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Mutex;
use std::time::{Duration, Instant};

use caisson_model::agent::Hello;
use caisson_model::artifact::{Artifact, Clash, Kept as KeptArtifact};
use caisson_model::cache::{CacheEntry, CacheQuery, Saved};
use caisson_model::id::{AttemptId, Fence, JobId, RunId};
use caisson_model::job::JobSpec;
use caisson_model::lease::{AgentMessage, Completion, ControllerMessage, Recorded, StepReport};
use caisson_model::log::{LogAck, LogPush};
use caisson_model::secret::OpenedSecrets;
use caisson_model::time::Timestamp;
use caisson_proto::api::{Answers, BlobApi, Messages};
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::*;

/// What the far side does at a certain chunk, counted over all connections.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Act {
    /// Keeps it, and the connection breaks before the answer.
    BreakAfter,
    /// The connection breaks before it is kept.
    BreakBefore,
    /// Forgets it and asks for it again.
    Resync,
    /// Answers that the attempt is fenced.
    Fence,
    /// Claims to have more than there is.
    Lie,
}

#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    times: Vec<Timestamp>,
    seal: Option<LogSeal>,
    chunks: usize,
    connections: usize,
    unreachable: usize,
    acts: Vec<(usize, Act)>,
    largest: usize,
    most_unanswered: u64,
}

/// The far side of the contract for one log, with faults by plan: it keeps bytes by the rules of offsets and acknowledgement.
struct Far {
    kept: Arc<Mutex<Kept>>,
    /// Answers are given while this holds.
    answering: watch::Sender<bool>,
}

impl Far {
    fn new(acts: &[(usize, Act)]) -> Arc<Far> {
        let kept = Kept { acts: acts.to_vec(), ..Kept::default() };
        Arc::new(Far { kept: Arc::new(Mutex::new(kept)), answering: watch::Sender::new(true) })
    }
}

fn not_asked<T>() -> Result<T, ApiError> {
    Err(ApiError::Broken("a log asks for nothing else".to_owned()))
}

impl BlobApi for Far {
    async fn find_missing_blobs(&self, _: Vec<Digest>) -> Result<Vec<Digest>, ApiError> {
        not_asked()
    }
    async fn put_blob(&self, _: Digest, _: Messages<Vec<u8>>) -> Result<(), ApiError> {
        not_asked()
    }
    async fn get_blob(&self, _: Digest, _: u64) -> Result<Answers<Vec<u8>>, ApiError> {
        not_asked()
    }
}

impl AgentApi for Far {
    async fn session(&self, _: Hello, _: Messages<AgentMessage>) -> Result<Answers<ControllerMessage>, ApiError> {
        not_asked()
    }
    async fn fetch_spec(&self, _: Hold) -> Result<JobSpec, ApiError> {
        not_asked()
    }
    async fn open_secrets(&self, _: Hold, _: StepIndex) -> Result<OpenedSecrets, ApiError> {
        not_asked()
    }
    async fn report_step(&self, _: StepReport) -> Result<(), ApiError> {
        not_asked()
    }
    async fn complete_attempt(&self, _: Completion) -> Result<Recorded, ApiError> {
        not_asked()
    }
    async fn return_attempt(&self, _: Hold, _: String) -> Result<(), ApiError> {
        not_asked()
    }
    async fn keep_artifact(&self, _: Hold, _: Artifact, _: Clash) -> Result<KeptArtifact, ApiError> {
        not_asked()
    }
    async fn list_artifacts(&self, _: Hold) -> Result<Vec<Artifact>, ApiError> {
        not_asked()
    }
    async fn drop_artifact(&self, _: Hold, _: String) -> Result<(), ApiError> {
        not_asked()
    }
    async fn find_cache(&self, _: Hold, _: CacheQuery) -> Result<Option<CacheEntry>, ApiError> {
        not_asked()
    }
    async fn save_cache(&self, _: Hold, _: CacheEntry) -> Result<Saved, ApiError> {
        not_asked()
    }

    async fn push_log(&self, mut chunks: Messages<LogPush>) -> Result<Answers<LogAck>, ApiError> {
        {
            let mut kept = self.kept.lock().unwrap();
            kept.connections += 1;
            if kept.unreachable > 0 {
                kept.unreachable -= 1;
                return Err(ApiError::Unavailable("by plan".to_owned()));
            }
        }
        let (send, receive) = mpsc::channel(64);
        let (kept, mut answering) = (Arc::clone(&self.kept), self.answering.subscribe());
        tokio::spawn(async move {
            while let Some(LogPush { chunk, .. }) = chunks.next().await {
                let answer = {
                    let mut kept = kept.lock().unwrap();
                    let number = kept.chunks;
                    kept.chunks += 1;
                    kept.largest = kept.largest.max(chunk.bytes.len());
                    let act = kept.acts.iter().find(|(at, _)| *at == number).map(|(_, act)| *act);
                    let length = kept.bytes.len() as u64;
                    match act {
                        Some(Act::BreakBefore) => Err(ApiError::Unavailable("by plan".to_owned())),
                        Some(Act::Fence) => Err(ApiError::Fenced),
                        Some(Act::Lie) => Ok(LogAck::Kept { offset: u64::MAX }),
                        Some(Act::Resync) => Ok(LogAck::Resync { offset: length }),
                        _ if chunk.offset > length => Ok(LogAck::Resync { offset: length }),
                        _ => {
                            let new = chunk.bytes.get((length - chunk.offset) as usize..).unwrap_or_default();
                            kept.bytes.extend_from_slice(new);
                            kept.times.push(chunk.at);
                            match act {
                                Some(Act::BreakAfter) => Err(ApiError::Unavailable("by plan".to_owned())),
                                _ => Ok(LogAck::Kept { offset: kept.bytes.len() as u64 }),
                            }
                        }
                    }
                };
                // A far side that does not answer still receives, until the sender's window is full.
                let held = !*answering.borrow();
                if held {
                    let mut unanswered = chunk.bytes.len() as u64;
                    loop {
                        tokio::select! {
                            _ = answering.wait_for(|yes| *yes) => break,
                            next = chunks.next() => {
                                let Some(next) = next else { return };
                                unanswered += next.chunk.bytes.len() as u64;
                                let mut kept = kept.lock().unwrap();
                                kept.most_unanswered = kept.most_unanswered.max(unanswered);
                                kept.bytes.extend_from_slice(&next.chunk.bytes);
                            }
                        }
                    }
                    let offset = kept.lock().unwrap().bytes.len() as u64;
                    if send.send(Ok(LogAck::Kept { offset })).await.is_err() {
                        return;
                    }
                    continue;
                }
                let broken = answer.is_err();
                if send.send(answer).await.is_err() || broken {
                    return;
                }
            }
        });
        Ok(Box::pin(ReceiverStream::new(receive)))
    }

    async fn seal_log(&self, _: Hold, _: StepIndex, seal: LogSeal) -> Result<(), ApiError> {
        let mut kept = self.kept.lock().unwrap();
        if kept.unreachable > 0 {
            kept.unreachable -= 1;
            return Err(ApiError::Unavailable("by plan".to_owned()));
        }
        let digest = Digest(Sha256::digest(&kept.bytes).into());
        if (seal.total, seal.digest) != (kept.bytes.len() as u64, digest) {
            return Err(ApiError::Invalid("seal: not what was kept".to_owned()));
        }
        kept.seal = Some(seal);
        Ok(())
    }
}

fn hold() -> Hold {
    Hold { attempt: AttemptId { job: JobId { run: RunId(1), index: 1 }, number: 1 }, fence: Fence(1) }
}

async fn open(far: &Arc<Far>, dir: &Path, limit: u64) -> StepLog<Far> {
    StepLog::open(Arc::clone(far), hold(), StepIndex(3), dir, limit).await.unwrap()
}

/// Waits for a condition on what the far side has; not longer than 20 s.
async fn until(far: &Far, what: &str, holds: impl Fn(&Kept) -> bool) {
    let begun = Instant::now();
    while !holds(&far.kept.lock().unwrap()) {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn text(bytes: usize) -> Vec<u8> {
    (0..).flat_map(|line: u32| format!("line {line} of a log\n").into_bytes()).take(bytes).collect()
}

#[tokio::test]
async fn everything_arrives_whatever_breaks() {
    let table: &[&[(usize, Act)]] = &[
        &[],
        &[(0, Act::BreakBefore)],
        &[(0, Act::BreakAfter), (1, Act::BreakAfter), (2, Act::BreakBefore)],
        &[(0, Act::Resync), (3, Act::Resync)],
        &[(2, Act::Resync), (3, Act::BreakAfter), (5, Act::Resync), (6, Act::BreakBefore)],
    ];
    for acts in table {
        let dir = tempfile::tempdir().unwrap();
        let far = Far::new(acts);
        let mut log = open(&far, dir.path(), u64::MAX).await;
        let whole = text(3 << 20);
        for piece in whole.chunks(10_007) {
            log.write(piece).await.unwrap();
        }
        let seal = log.seal().await.unwrap();
        let kept = far.kept.lock().unwrap();
        assert!(kept.bytes == whole, "{acts:?}");
        assert_eq!(kept.seal.as_ref(), Some(&seal), "{acts:?}");
        assert!(seal.gaps.is_empty() && kept.largest <= CHUNK_BYTES);
        assert!(kept.chunks >= acts.len() && kept.chunks < 1000, "{acts:?}: {} chunks", kept.chunks);
        assert!(kept.times.is_sorted() && kept.times[0].0 > 0);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the spool is left");
    }
}

#[tokio::test]
async fn an_outage_stops_neither_the_step_nor_the_seal() {
    let dir = tempfile::tempdir().unwrap();
    let far = Far::new(&[]);
    far.kept.lock().unwrap().unreachable = 4;
    let mut log = open(&far, dir.path(), u64::MAX).await;
    let whole = text(3 * AHEAD as usize);
    // More than a connected writer may be ahead: without a connection it goes to disk.
    log.write(&whole).await.unwrap();
    until(&far, "delivery", |kept| kept.bytes.len() == whole.len()).await;
    far.kept.lock().unwrap().unreachable = 2;
    let seal = log.seal().await.unwrap();
    assert_eq!(seal.total, whole.len() as u64);
    assert!(far.kept.lock().unwrap().connections >= 5);
}

#[tokio::test]
async fn a_slow_controller_slows_the_writer_within_its_window() {
    let dir = tempfile::tempdir().unwrap();
    let far = Far::new(&[]);
    let mut log = open(&far, dir.path(), u64::MAX).await;
    log.write(b"begin\n").await.unwrap();
    until(&far, "the connection", |kept| kept.bytes == b"begin\n").await;
    far.answering.send_replace(false);
    let whole = text(2 * AHEAD as usize);
    let writing = async {
        for piece in whole.chunks(CHUNK_BYTES) {
            log.write(piece).await.unwrap();
        }
        log
    };
    tokio::pin!(writing);
    tokio::select! {
        _ = &mut writing => panic!("nothing held the writer back"),
        () = until(&far, "a full window", |kept| kept.bytes.len() as u64 >= delivery::WINDOW) => {}
    }
    assert!(tokio::time::timeout(Duration::from_millis(200), &mut writing).await.is_err(), "nothing held the writer back");
    far.answering.send_replace(true);
    let seal = writing.await.seal().await.unwrap();
    assert_eq!(seal.total, whole.len() as u64 + 6);
    let most = far.kept.lock().unwrap().most_unanswered;
    assert!(most > CHUNK_BYTES as u64 && most <= delivery::WINDOW, "{most} bytes were unanswered");
}

#[tokio::test]
async fn bytes_are_sent_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let far = Far::new(&[]);
    let mut log = open(&far, dir.path(), u64::MAX).await;
    for part in ["Password: ", "***", "\n"] {
        log.write(part.as_bytes()).await.unwrap();
        until(&far, "a prompt", |kept| kept.bytes.ends_with(part.as_bytes())).await;
    }
    log.seal().await.unwrap();
}

#[tokio::test]
async fn many_small_writes_travel_together() {
    let dir = tempfile::tempdir().unwrap();
    let far = Far::new(&[]);
    let mut log = open(&far, dir.path(), u64::MAX).await;
    for _ in 0..2000 {
        log.write(b"a line\n").await.unwrap();
    }
    assert_eq!(log.seal().await.unwrap().total, 14_000);
    let chunks = far.kept.lock().unwrap().chunks;
    assert!(chunks < 1000, "2000 writes made {chunks} chunks");
}

#[tokio::test]
async fn a_log_beyond_its_limit_keeps_head_and_tail_and_says_so() {
    for (size, limit) in [(0, 1000), (1000, 1000), (1001, 1000), (100_000, 1000), (100_000, 0), (300_000, 200_000)] {
        let dir = tempfile::tempdir().unwrap();
        let far = Far::new(&[]);
        let mut log = open(&far, dir.path(), limit).await;
        let whole = text(size);
        for piece in whole.chunks(333) {
            log.write(piece).await.unwrap();
        }
        let seal = log.seal().await.unwrap();
        let kept = far.kept.lock().unwrap();
        if size as u64 <= limit {
            assert!(kept.bytes == whole && seal.gaps.is_empty(), "{size} of {limit}");
            continue;
        }
        let [gap] = &seal.gaps[..] else { panic!("{size} of {limit}: {:?}", seal.gaps) };
        let (before, after) = kept.bytes.split_at(gap.offset as usize);
        let head = (limit - limit / 4) as usize;
        let line = String::from_utf8_lossy(&before[head..]);
        assert_eq!(&before[..head], &whole[..head]);
        assert!(line.starts_with("\n... the log has reached its limit of "), "{line}");
        assert!(whole.ends_with(after) && (limit == 0 || after.starts_with(b"line ")), "{size} of {limit}");
        assert_eq!(head as u64 + gap.bytes + after.len() as u64, size as u64, "{size} of {limit}");
        assert!(gap.reason.contains("limit"));
    }
}

#[tokio::test]
async fn a_fence_ends_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let far = Far::new(&[(1, Act::Fence)]);
    let mut log = open(&far, dir.path(), u64::MAX).await;
    let mut ended = None;
    for _ in 0..100_000 {
        if let Err(error) = log.write(&[b'x'; 1000]).await {
            ended = Some(error);
            break;
        }
    }
    assert!(matches!(ended, Some(LogError::Fenced)), "{ended:?}");
    assert!(matches!(log.seal().await, Err(LogError::Fenced)));
    assert!(far.kept.lock().unwrap().seal.is_none());
}

#[tokio::test]
async fn a_controller_that_lies_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let far = Far::new(&[(0, Act::Lie)]);
    let mut log = open(&far, dir.path(), u64::MAX).await;
    log.write(b"text").await.unwrap();
    assert!(matches!(log.seal().await, Err(LogError::Refused(ApiError::Broken(_)))));
}

#[tokio::test]
async fn an_empty_log_is_sealed_without_a_stream() {
    let dir = tempfile::tempdir().unwrap();
    let far = Far::new(&[]);
    let seal = open(&far, dir.path(), 10).await.seal().await.unwrap();
    assert_eq!((seal.total, far.kept.lock().unwrap().connections), (0, 0));
}

#[tokio::test]
async fn a_spool_that_cannot_be_made_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    let Err(error) = StepLog::open(Far::new(&[]), hold(), StepIndex(0), &missing, 10).await else { panic!("it was made") };
    assert!(error.to_string().contains("missing/step-0.log"), "{error}");
}
