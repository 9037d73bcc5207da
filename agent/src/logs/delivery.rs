//! Brings a spooled log to the controller: connects, sends, counts what is kept, connects again; until all of a closed log is kept.
//!
//! All state is one value, [`Progress`], that writer, sender and reader of answers change in small steps and wait on. The
//! stream of chunks reads it by itself, so that it does not matter whether the other side polls the stream before, while or
//! after it answers the call.

use std::sync::Arc;
use std::time::Duration;

use caisson_model::id::{Hold, StepIndex};
use caisson_model::log::{CHUNK_BYTES, LogAck, LogChunk, LogPush};
use caisson_proto::api::{AgentApi, Answers, ApiError, Messages};
use futures_util::{StreamExt, stream};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use crate::logs::spool::Spool;
use crate::retry::Backoff;

/// The most bytes on their way without an answer.
pub(super) const WINDOW: u64 = 1 << 20;

/// A chunk that is not full waits this long after the last one, so that many small writes travel together. The first one never waits.
const GATHER: Duration = Duration::from_millis(5);

/// A log that is closed within this, counted from its first byte, which comes before the step's program, is not pushed: what it
/// has goes along with its seal. Whoever follows a log waits for its first line as long.
const BRIEF: Duration = Duration::from_millis(50);

/// Without any answer for this long, although bytes are on their way, the connection counts as broken.
const STALL: Duration = Duration::from_secs(60);

/// Why nothing can be delivered any more.
#[derive(Clone, Debug)]
pub(super) enum End {
    /// The attempt is somebody else's.
    Fenced,
    /// The controller will not have it.
    Refused(ApiError),
    /// The spool cannot be read.
    Unreadable(Arc<std::io::Error>),
}

/// How far the log is. Offsets: `kept <= sent <= written`.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    /// Bytes in the spool.
    pub(super) written: u64,
    /// The next byte to send.
    sent: u64,
    /// Everything before is kept for good.
    pub(super) kept: u64,
    /// Counts connections; a stream of an earlier one ends.
    connection: u64,
    /// Whether there is a connection: without one a writer need not wait for answers.
    pub(super) connected: bool,
    /// Nothing will be written any more.
    pub(super) closed: bool,
    /// How often all of it was taken back.
    pub(super) rewinds: u32,
    /// Why nothing can be delivered any more.
    pub(super) end: Option<End>,
    /// The offset of a `Resync` that was obeyed, until something is kept: chunks that were under way by then cause the same answer again.
    resynced: Option<u64>,
}

impl Progress {
    /// A log that was closed with so many bytes, none of which is known to be delivered.
    pub(super) fn closed(total: u64) -> Progress {
        Progress { written: total, closed: true, ..Progress::default() }
    }

    /// Nothing is known to be delivered any more.
    pub(super) fn rewind(&mut self) {
        self.kept = 0;
        self.sent = 0;
        self.resynced = None;
        self.rewinds += 1;
    }

    /// Whether all of a closed log can go along with its seal.
    fn brief(&self) -> bool {
        self.closed && self.kept == 0 && self.written <= CHUNK_BYTES as u64 && self.rewinds == 0
    }

    fn complete(&self) -> bool {
        self.closed && self.kept == self.written
    }

    fn sendable(&self) -> u64 {
        (self.written - self.sent).min(CHUNK_BYTES as u64).min(WINDOW.saturating_sub(self.sent - self.kept))
    }

    /// Takes the next chunk's place: offset and length.
    fn claim(&mut self, connection: u64) -> Option<(u64, usize)> {
        let length = self.sendable();
        if self.connection != connection || length == 0 {
            return None;
        }
        let offset = self.sent;
        self.sent += length;
        Some((offset, length as usize))
    }

    fn answer(&mut self, ack: LogAck) {
        let (LogAck::Kept { offset } | LogAck::Resync { offset }) = ack;
        if offset > self.written {
            let what = format!("it claims {offset} bytes of a log that has {}", self.written);
            self.end = Some(End::Refused(ApiError::Broken(what)));
            return;
        }
        match ack {
            LogAck::Kept { .. } => {
                if offset > self.kept {
                    self.kept = offset;
                    self.resynced = None;
                }
                self.sent = self.sent.max(offset);
            }
            LogAck::Resync { .. } if self.resynced == Some(offset) => {}
            LogAck::Resync { .. } => {
                self.resynced = Some(offset);
                self.kept = offset;
                self.sent = offset;
            }
        }
    }
}

/// One log's way to the controller.
pub(super) struct Delivery<A> {
    pub(super) api: Arc<A>,
    pub(super) hold: Hold,
    pub(super) step: StepIndex,
    pub(super) spool: Arc<Spool>,
    pub(super) progress: Arc<watch::Sender<Progress>>,
}

impl<A: AgentApi> Delivery<A> {
    /// Runs until all of a closed log is kept, or is little enough to go along with the seal, or there is an [`End`].
    pub(super) async fn run(self) {
        let mut news = self.progress.subscribe();
        let mut backoff = Backoff::default();
        loop {
            let over = match news.wait_for(|p| p.end.is_some() || p.complete() || p.written > p.kept).await {
                Ok(p) => p.end.is_some() || p.complete(),
                Err(_gone) => true,
            };
            if over {
                return;
            }
            if self.progress.borrow().connection == 0 {
                let more = news.wait_for(|p| p.end.is_some() || p.closed || p.written >= CHUNK_BYTES as u64);
                let _either = timeout(BRIEF, more).await.is_ok();
                if self.progress.borrow().brief() {
                    return;
                }
            }
            let before = self.progress.borrow().kept;
            let broken = self.connect().await;
            self.progress.send_modify(|p| p.connected = false);
            match broken {
                None => continue,
                Some(error) if error.is_transient() => {
                    tracing::debug!(%error, attempt = %self.hold.attempt, step = self.step.0, "the log's stream broke");
                    if self.progress.borrow().kept > before {
                        backoff = Backoff::default();
                    }
                    tokio::time::sleep(backoff.pause()).await;
                }
                Some(ApiError::Fenced) => self.end(End::Fenced),
                Some(error) => self.end(End::Refused(error)),
            }
        }
    }

    fn end(&self, end: End) {
        self.progress.send_modify(|p| {
            p.end.get_or_insert(end);
        });
    }

    /// One connection, until it breaks (then the error) or there is nothing more to do.
    async fn connect(&self) -> Option<ApiError> {
        let mut connection = 0;
        self.progress.send_modify(|p| {
            p.connection += 1;
            p.sent = p.kept;
            p.resynced = None;
            connection = p.connection;
        });
        let late = || ApiError::Unavailable(format!("no answer about a log for {STALL:?}"));
        let answers = match timeout(STALL, self.api.push_log(self.chunks(connection))).await {
            Ok(Ok(answers)) => answers,
            Ok(Err(error)) => return Some(error),
            Err(_elapsed) => return Some(late()),
        };
        self.progress.send_modify(|p| p.connected = true);
        self.listen(answers).await.unwrap_or_else(|Stalled| Some(late()))
    }

    async fn listen(&self, mut answers: Answers<LogAck>) -> Result<Option<ApiError>, Stalled> {
        let mut news = self.progress.subscribe();
        loop {
            let kept = self.progress.borrow().kept;
            tokio::select! {
                ended = news.wait_for(|p| p.end.is_some() || p.complete()) => {
                    drop(ended);
                    return Ok(None);
                }
                answer = timeout(STALL, answers.next()) => match answer {
                    Ok(Some(Ok(ack))) => {
                        self.progress.send_modify(|p| p.answer(ack));
                        self.spool.forget(self.progress.borrow().kept);
                    }
                    Ok(Some(Err(error))) => return Ok(Some(error)),
                    Ok(None) => return Ok(Some(ApiError::Unavailable("the log's stream was ended".to_owned()))),
                    Err(_elapsed) => {
                        let p = self.progress.borrow();
                        if p.kept == kept && p.sent > p.kept {
                            return Err(Stalled);
                        }
                    }
                },
            }
        }
    }

    fn chunks(&self, connection: u64) -> Messages<LogPush> {
        let source = Source {
            hold: self.hold,
            step: self.step,
            spool: Arc::clone(&self.spool),
            progress: Arc::clone(&self.progress),
            news: self.progress.subscribe(),
            connection,
            last: None,
        };
        Box::pin(stream::unfold(source, |mut source| async move { source.next().await.map(|push| (push, source)) }))
    }
}

struct Stalled;

struct Source {
    hold: Hold,
    step: StepIndex,
    spool: Arc<Spool>,
    progress: Arc<watch::Sender<Progress>>,
    news: watch::Receiver<Progress>,
    connection: u64,
    last: Option<Instant>,
}

impl Source {
    async fn next(&mut self) -> Option<LogPush> {
        let connection = self.connection;
        let over = move |p: &Progress| p.connection != connection || p.end.is_some() || p.complete();
        let (offset, length) = loop {
            if self.news.wait_for(|p| over(p) || p.sendable() > 0).await.ok().is_none_or(|p| over(&p)) {
                return None;
            }
            if let Some(last) = self.last {
                let full = self.news.wait_for(|p| over(p) || p.closed || p.written - p.sent >= CHUNK_BYTES as u64);
                // Neither a full chunk nor the time alone matters: whichever comes first.
                let _either = timeout_at(last + GATHER, full).await.is_ok();
            }
            let mut claimed = None;
            self.progress.send_if_modified(|p| {
                claimed = p.claim(connection);
                claimed.is_some()
            });
            if let Some(claimed) = claimed {
                break claimed;
            }
        };
        self.last = Some(Instant::now());
        match self.spool.take(offset, length).await {
            Ok((bytes, at)) => Some(LogPush { hold: self.hold, step: self.step, chunk: LogChunk { offset, at, bytes } }),
            Err(error) => {
                self.progress.send_modify(|p| {
                    p.end.get_or_insert(End::Unreadable(Arc::new(error)));
                });
                None
            }
        }
    }
}
