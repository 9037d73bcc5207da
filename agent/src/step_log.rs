//! A step's log on its way to the controller, chunk by chunk, in one stream.

use std::sync::Arc;

use caisson_model::id::{Digest, Hold, StepIndex};
use caisson_model::log::{CHUNK_BYTES, LogChunk, LogPush, LogSeal};
use caisson_proto::api::AgentApi;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use crate::clock;

/// An open log.
pub struct StepLog<A> {
    api: Arc<A>,
    hold: Hold,
    step: StepIndex,
    sender: mpsc::Sender<LogPush>,
    sending: JoinHandle<()>,
    offset: u64,
    whole: Sha256,
}

impl<A: AgentApi> StepLog<A> {
    /// Begins a log.
    pub fn open(api: Arc<A>, hold: Hold, step: StepIndex) -> StepLog<A> {
        let (sender, receiver) = mpsc::channel(16);
        let sink = Arc::clone(&api);
        let sending = tokio::spawn(async move {
            match sink.push_log(Box::pin(ReceiverStream::new(receiver))).await {
                Ok(mut answers) => while let Some(Ok(_)) = answers.next().await {},
                Err(error) => tracing::error!(%error, attempt = %hold.attempt, "log was not taken"),
            }
        });
        StepLog { api, hold, step, sender, sending, offset: 0, whole: Sha256::new() }
    }

    /// Sends masked bytes; waits while the controller is slow.
    pub async fn write(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(CHUNK_BYTES) {
            let chunk = LogChunk { offset: self.offset, at: clock::now(), bytes: piece.to_vec() };
            self.offset += piece.len() as u64;
            self.whole.update(piece);
            if self.sender.send(LogPush { hold: self.hold, step: self.step, chunk }).await.is_err() {
                tracing::error!(attempt = %self.hold.attempt, "log is not taken any more");
            }
        }
    }

    /// Ends the log.
    pub async fn seal(self) {
        drop(self.sender);
        if let Err(error) = self.sending.await {
            tracing::error!(%error, "sending a log ended early");
        }
        let seal = LogSeal { total: self.offset, digest: Digest(self.whole.finalize().into()), gaps: Vec::new() };
        if let Err(error) = self.api.seal_log(self.hold, self.step, seal).await {
            tracing::error!(%error, attempt = %self.hold.attempt, "log was not sealed");
        }
    }
}
