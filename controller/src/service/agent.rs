//! What agents ask for: sessions, specs, secrets, logs, reports and results. Blobs too, which they share with clients.

use std::sync::Arc;

use caisson_model::agent::Hello;
use caisson_model::artifact::{Artifact, Clash, Kept};
use caisson_model::cache::{CacheEntry, CacheQuery, Saved};
use caisson_model::id::{Digest, Hold, StepIndex};
use caisson_model::job::JobSpec;
use caisson_model::lease::{AgentMessage, Completion, ControllerMessage, Recorded, StepChange, StepReport};
use caisson_model::log::{LogAck, LogChunk, LogKey, LogPush, LogSeal};
use caisson_model::secret::OpenedSecrets;
use caisson_proto::api::{AgentApi, Answers, ApiError, BlobApi, Messages};
use futures_util::future::FutureExt;
use futures_util::stream::{self, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

use crate::core::event::{Answer, Event};
use crate::identity::registry::now;
use crate::service::keeping;
use crate::service::owner::{Command, SESSION_BACKLOG};
use crate::service::{Service, answered, blob_error, broken, closed, confused, log_error, refused};

/// How many log bytes may be unanswered while more arrive; half of what an agent may have on the way.
const UNANSWERED: u64 = 512 * 1024;

impl BlobApi for Service {
    async fn find_missing_blobs(&self, digests: Vec<Digest>) -> Result<Vec<Digest>, ApiError> {
        self.inner.blobs.missing(digests).await.map_err(blob_error)
    }

    async fn put_blob(&self, digest: Digest, content: Messages<Vec<u8>>) -> Result<(), ApiError> {
        self.put_blob_from(digest, 0, content).await
    }

    async fn held_of_blob(&self, digest: Digest) -> Result<u64, ApiError> {
        self.inner.blobs.held(digest).await.map_err(blob_error)
    }

    async fn put_blob_from(&self, digest: Digest, offset: u64, content: Messages<Vec<u8>>) -> Result<(), ApiError> {
        self.open_still()?;
        self.inner.blobs.put(digest, offset, content).await.map_err(blob_error)
    }

    async fn get_blob(&self, digest: Digest, offset: u64) -> Result<Answers<Vec<u8>>, ApiError> {
        let pieces = self.inner.blobs.read(digest, offset).await.map_err(blob_error)?;
        Ok(Box::pin(pieces.map(|piece| piece.map_err(blob_error))))
    }
}

impl AgentApi for Service {
    async fn session(&self, hello: Hello, mut messages: Messages<AgentMessage>) -> Result<Answers<ControllerMessage>, ApiError> {
        let (line, answers) = mpsc::channel(SESSION_BACKLOG);
        let (to, joined) = oneshot::channel();
        let term = self.term()?;
        term.commands.send(Command::Join(hello, line, to)).await.map_err(|_| closed())?;
        let (session, answer) = joined.await.map_err(|_| closed())?;
        let commands = term.commands.clone();
        if let Err(error) = answered(answer) {
            // The owner forgets the line as it forgets any other.
            let _closed = commands.send(Command::Tell(Event::Gone(session))).await;
            return Err(error);
        }
        let (listening, mut deaf) = oneshot::channel::<()>();
        let mut over = term.over.clone();
        // Ends with the session: when the agent stops speaking or listening, or the controller closes.
        drop(tokio::spawn(async move {
            loop {
                let message = tokio::select! {
                    message = messages.next() => message,
                    _ = &mut deaf => None,
                    // The owner says goodbye to every session itself.
                    _ = over.wait_for(|over| *over) => return,
                };
                let Some(message) = message else { break };
                if commands.send(Command::Tell(Event::Message(session, message))).await.is_err() {
                    return;
                }
            }
            // If the owner has gone, so has the session.
            let _closed = commands.send(Command::Tell(Event::Gone(session))).await;
        }));
        // Dropped with the stream, which the task notices.
        Ok(Box::pin(ReceiverStream::new(answers).inspect(move |_| {
            let _held = &listening;
        })))
    }

    async fn fetch_spec(&self, hold: Hold) -> Result<JobSpec, ApiError> {
        let spec = self.look(move |engine| engine.spec(hold)).await?.map_err(refused)?;
        Ok(Arc::unwrap_or_clone(spec))
    }

    async fn open_secrets(&self, hold: Hold, step: StepIndex) -> Result<OpenedSecrets, ApiError> {
        match self.call(Event::OpenSecrets(hold, step)).await? {
            Answer::Secrets(names) => {
                // The lease may have ended while it was written down that they are opened.
                self.holds(hold)?;
                self.inner.secrets.open(&names).await.map_err(|error| broken(&error))
            }
            answer => Err(confused(&answer)),
        }
    }

    async fn push_log(&self, chunks: Messages<LogPush>) -> Result<Answers<LogAck>, ApiError> {
        // It is looked at once more after its end, to answer what came last.
        let pushing = Pushing { service: self.clone(), chunks: Box::pin(chunks.fuse()), unanswered: None };
        Ok(Box::pin(stream::unfold(Some(pushing), |pushing| async move {
            let mut pushing = pushing?;
            match pushing.next().await {
                Ok(Some(ack)) => Some((Ok(ack), Some(pushing))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })))
    }

    async fn seal_log(&self, hold: Hold, step: StepIndex, seal: LogSeal) -> Result<(), ApiError> {
        self.end_log(hold, step, Vec::new(), seal).await
    }

    async fn end_log(&self, hold: Hold, step: StepIndex, rest: Vec<LogChunk>, seal: LogSeal) -> Result<(), ApiError> {
        self.holds(hold)?;
        for chunk in &rest {
            self.metrics().lag(now().since(chunk.at));
        }
        self.inner.logs.seal(LogKey { attempt: hold.attempt, step }, rest, seal).await.map_err(log_error)
    }

    async fn report_step(&self, report: StepReport) -> Result<(), ApiError> {
        if let StepChange::Finished { step, .. } = &report.change
            && self.term()?.holds.allow(report.hold)
        {
            let key = LogKey { attempt: report.hold.attempt, step: *step };
            if self.inner.logs.is_open(key).await.map_err(log_error)? {
                return Err(ApiError::Invalid(format!("step: the log of step {} of attempt {} is not sealed", step.0, key.attempt)));
            }
        }
        self.call(Event::Report(report)).await.map(drop)
    }

    async fn complete_attempt(&self, completion: Completion) -> Result<Recorded, ApiError> {
        match self.call(Event::Complete(completion)).await? {
            Answer::Recorded(recorded) => Ok(recorded),
            answer => Err(confused(&answer)),
        }
    }

    async fn return_attempt(&self, hold: Hold, reason: String) -> Result<(), ApiError> {
        self.call(Event::Return(hold, reason)).await.map(drop)
    }

    async fn keep_artifact(&self, hold: Hold, artifact: Artifact, clash: Clash) -> Result<Kept, ApiError> {
        keeping::keep_artifact(self, hold, artifact, clash).await
    }

    async fn list_artifacts(&self, hold: Hold) -> Result<Vec<Artifact>, ApiError> {
        self.holds(hold)?;
        keeping::artifacts(self, hold.attempt.job.run).await
    }

    async fn drop_artifact(&self, hold: Hold, name: String) -> Result<(), ApiError> {
        keeping::drop_artifact(self, hold, name).await
    }

    async fn find_cache(&self, hold: Hold, query: CacheQuery) -> Result<Option<CacheEntry>, ApiError> {
        keeping::find_cache(self, hold, query).await
    }

    async fn save_cache(&self, hold: Hold, entry: CacheEntry) -> Result<Saved, ApiError> {
        keeping::save_cache(self, hold, entry).await
    }
}

/// A log stream of an agent. An answer means that the bytes are on the disk, so it waits until no more come at once.
struct Pushing {
    service: Service,
    chunks: Messages<LogPush>,
    unanswered: Option<(LogKey, u64)>,
}

impl Pushing {
    async fn next(&mut self) -> Result<Option<LogAck>, ApiError> {
        loop {
            let push = match self.unanswered {
                None => self.chunks.next().await,
                Some((key, bytes)) => match self.chunks.next().now_or_never() {
                    Some(Some(push)) if bytes < UNANSWERED && push.step == key.step && push.hold.attempt == key.attempt => Some(push),
                    Some(Some(push)) => {
                        // The answer to what came before must not wait for this one.
                        let ack = self.synced(key).await?;
                        self.chunks = Box::pin(
                            stream::once(std::future::ready(push)).chain(std::mem::replace(&mut self.chunks, Box::pin(stream::empty()))),
                        );
                        return Ok(Some(ack));
                    }
                    Some(None) | None => return self.synced(key).await.map(Some),
                },
            };
            let Some(push) = push else { return Ok(None) };
            self.service.holds(push.hold)?;
            let key = LogKey { attempt: push.hold.attempt, step: push.step };
            let bytes = push.chunk.bytes.len() as u64;
            self.service.metrics().lag(now().since(push.chunk.at));
            match self.service.inner.logs.append(key, push.chunk).await.map_err(log_error)? {
                LogAck::Kept { .. } => self.unanswered = Some((key, bytes + self.unanswered.map_or(0, |(_, bytes)| bytes))),
                resync => return Ok(Some(resync)),
            }
        }
    }

    async fn synced(&mut self, key: LogKey) -> Result<LogAck, ApiError> {
        self.unanswered = None;
        let offset = self.service.inner.logs.sync(key).await.map_err(log_error)?;
        Ok(LogAck::Kept { offset })
    }
}
