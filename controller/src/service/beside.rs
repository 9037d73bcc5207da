//! What a controller that stands by answers by itself, and where it asks the leader.

use std::sync::PoisonError;

use caisson_model::id::AttemptId;
use caisson_model::log::{LogKey, LogRead};
use caisson_model::outcome::Outcome;
use caisson_model::run::{RunState, StepState, StepView};
use caisson_proto::api::{Answers, ApiError, ClientApi};
use futures_util::stream::{self, StreamExt};

use crate::blobs::store::BlobError;
use crate::logs::{self, LogError};
use crate::service::{Service, log_error};

/// What a reader is told of a log that no controller has.
const LOST: &str = "its controller was lost before the log was sealed";
const ELSEWHERE: &str = "its bytes lie with another controller, which shares no `blobs` with this one";

impl Service {
    /// A log as one who stands by has it: what was sealed lies with the blobs, what goes on comes from the leader.
    pub(super) async fn tail_beside(&self, log: LogKey, offset: u64) -> Result<Answers<LogRead>, ApiError> {
        let unable = self.term().err();
        let run = log.attempt.job.run;
        let Some(view) = self.read(move |archive| archive.run(run)).await? else {
            return Err(ApiError::NotFound(format!("run {run}")));
        };
        if view.state == RunState::Finished || self.inner.logs.is_known(log).await.map_err(log_error)? && self.is_over(log).await? {
            return self.tail_ended(log, offset).await;
        }
        let leader = self.inner.seat.leader.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match (leader, unable) {
            (Some(leader), Some(_)) => self.inner.way.to(&leader).await?.tail_log(log, offset).await,
            (_, Some(error)) => Err(error),
            (_, None) => Err(ApiError::Unavailable("this controller has just taken the lead".to_owned())),
        }
    }

    /// Whether a step has ended.
    async fn is_over(&self, log: LogKey) -> Result<bool, ApiError> {
        Ok(self.step(log.attempt, log).await?.is_some_and(|step| step.state == StepState::Finished))
    }

    async fn step(&self, attempt: AttemptId, log: LogKey) -> Result<Option<StepView>, ApiError> {
        let (_, _, mut steps) = self.folded(attempt.job.run).await?;
        Ok(steps.swap_remove(&(attempt, log.step)))
    }

    /// The log of a step that goes on no more.
    pub(super) async fn tail_ended(&self, log: LogKey, offset: u64) -> Result<Answers<LogRead>, ApiError> {
        let lost = |reason| -> Result<Answers<LogRead>, ApiError> {
            Ok(Box::pin(stream::once(std::future::ready(Ok(LogRead::Seal(logs::lost(reason)))))))
        };
        if self.inner.logs.is_shared() && !self.inner.logs.is_known(log).await.map_err(log_error)? {
            // A step that did not run has no log, and lacks none.
            let step = self.step(log.attempt, log).await?;
            let skipped = |step: StepView| step.result.is_some_and(|result| result.outcome == Outcome::Skipped);
            if step.is_some_and(|step| !skipped(step)) {
                return lost(LOST);
            }
        }
        match self.inner.logs.tail(log, offset, false).await {
            Ok(reads) => Ok(Box::pin(reads.map(|read| read.map_err(log_error)))),
            Err(LogError::Shared { source, .. }) if source.downcast_ref().is_some_and(|error| matches!(error, BlobError::Missing(_))) => {
                lost(ELSEWHERE)
            }
            Err(error) => Err(log_error(error)),
        }
    }
}
