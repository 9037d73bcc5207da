//! What clients ask for: runs, their histories and logs, and what people say about agents.

use std::sync::Arc;
use std::time::Duration;

use caisson_model::agent::{AgentView, Cordon};
use caisson_model::artifact::Artifact;
use caisson_model::id::{AgentName, RunId};
use caisson_model::log::{LogKey, LogRead};
use caisson_model::outcome::Outcome;
use caisson_model::run::{Explanation, JobView, NumberedEvent, RerunScope, RunState, RunView, StepView, Submission};
use caisson_proto::api::{Answers, ApiError, ClientApi, RunDetail, Submitted};
use futures_util::stream::{self, StreamExt};
use tokio::sync::watch;

use crate::core::engine::Engine;
use crate::core::event::Event;
use crate::core::explain;
use crate::core::terms::{Carried, Terms};
use crate::service::feeds::{Feed, is_last};
use crate::service::{Service, closed, keeping, log_error, refused};

/// How many events a watcher reads at once.
const EVENTS: u32 = 256;
/// How often a controller that stands by looks for news.
const LOOK_EVERY: Duration = Duration::from_millis(300);

impl ClientApi for Service {
    async fn submit(&self, submission: Submission) -> Result<Submitted, ApiError> {
        self.take_in(submission, Terms::default()).await
    }

    async fn cancel(&self, run: RunId) -> Result<(), ApiError> {
        match self.call(Event::Cancel(run)).await {
            // It may have ended so long ago that only the store knows it.
            Err(ApiError::NotFound(what)) => match self.read(move |archive| archive.run(run)).await? {
                Some(_) => Ok(()),
                None => Err(ApiError::NotFound(what)),
            },
            other => other.map(drop),
        }
    }

    async fn list_runs(&self, limit: u32) -> Result<Vec<RunView>, ApiError> {
        self.read(move |archive| archive.runs(limit)).await
    }

    async fn run(&self, run: RunId) -> Result<RunDetail, ApiError> {
        let live = match self.term() {
            Ok(_) => self.look(move |engine| engine.view(run)).await?,
            Err(_) => None,
        };
        let (view, jobs, steps) = self.folded(run).await?;
        let (view, jobs) = match (live, view) {
            (Some(live), _) => live,
            (None, Some(view)) => (view, jobs.into_values().collect()),
            (None, None) => return Err(ApiError::NotFound(format!("run {run}"))),
        };
        let mut last: Vec<StepView> = Vec::new();
        for job in &jobs {
            let of_last = steps.iter().filter(|((attempt, _), _)| Some(*attempt) == job.attempt);
            let mut of_last: Vec<_> = of_last.map(|(_, step)| step.clone()).collect();
            of_last.sort_by_key(|step| step.index);
            last.extend(of_last);
        }
        Ok(RunDetail { run: view, jobs, steps: last })
    }

    async fn watch_run(&self, run: RunId, after: u64) -> Result<Answers<NumberedEvent>, ApiError> {
        let term = self.term().ok();
        let feed = term.as_ref().and_then(|term| term.feeds.of(run));
        if feed.is_none() && self.read(move |archive| archive.run(run)).await?.is_none() {
            return Err(ApiError::NotFound(format!("run {run}")));
        }
        let news = feed.as_ref().map(|feed| feed.subscribe());
        // The feed is held weakly: it goes away with the run or the controller, which wakes whoever waits.
        let over = term.map(|term| term.over.clone());
        let watching = Watching { service: self.clone(), run, after, feed: feed.as_ref().map(Arc::downgrade), news, over };
        drop(feed);
        let batches = stream::unfold(Some(watching), |watching| async move {
            let mut watching = watching?;
            match watching.next().await {
                Ok(events) if events.last().is_none_or(is_last) => Some((Ok(events), None)),
                Ok(events) => Some((Ok(events), Some(watching))),
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(Box::pin(batches.flat_map(|batch| {
            let (events, error) = match batch {
                Ok(events) => (events, None),
                Err(error) => (Vec::new(), Some(Err(error))),
            };
            stream::iter(events.into_iter().map(Ok).chain(error))
        })))
    }

    async fn tail_log(&self, log: LogKey, offset: u64) -> Result<Answers<LogRead>, ApiError> {
        let attempt = log.attempt;
        let Ok(term) = self.term() else {
            self.open_still()?;
            return self.tail_beside(log, offset).await;
        };
        let live = match self.look(move |engine| engine.is_live(attempt)).await? {
            Some(live) => live,
            None => match self.read(move |archive| archive.run(attempt.job.run)).await? {
                Some(_) => false,
                None => return Err(ApiError::NotFound(format!("run {}", attempt.job.run))),
            },
        };
        if !live {
            return self.tail_ended(log, offset).await;
        }
        let reads = self.inner.logs.tail(log, offset, live).await.map_err(log_error)?;
        let (mut over, at_end) = (term.over.clone(), term.over.clone());
        // A sender that is gone is the end as well.
        let closing = Box::pin(async move { drop(over.wait_for(|over| *over).await) });
        let until_closed = reads.map(|read| read.map_err(log_error)).take_until(closing);
        let mut sealed = false;
        let watched = until_closed.map(move |read| {
            sealed |= matches!(read, Ok(LogRead::Seal(_)) | Err(_));
            (sealed, read)
        });
        // A reader must be able to tell a sealed log from a controller that went away.
        let goodbye = stream::once(async move { at_end.borrow().then(|| (false, Err(closed()))) });
        let all = watched.chain(goodbye.filter_map(std::future::ready));
        Ok(Box::pin(all.scan(false, |done, (last, read)| {
            let item = (!*done).then_some(read);
            *done |= last;
            std::future::ready(item)
        })))
    }

    async fn explain(&self, run: RunId) -> Result<Vec<Explanation>, ApiError> {
        match self.look(move |engine| explain::explain(engine, run)).await? {
            Ok(explanations) => Ok(explanations),
            Err(refusal) => match self.read(move |archive| archive.run(run)).await? {
                Some(_) => Ok(Vec::new()),
                None => Err(refused(refusal)),
            },
        }
    }

    async fn artifacts(&self, run: RunId) -> Result<Vec<Artifact>, ApiError> {
        keeping::artifacts(self, run).await
    }

    async fn rerun(&self, run: RunId, scope: RerunScope) -> Result<RunId, ApiError> {
        let detail = self.run(run).await?;
        if detail.run.state != RunState::Finished {
            return Err(ApiError::Invalid(format!("run: {run} has not ended; cancel it, or wait for its end")));
        }
        let Some(submission) = self.read(move |archive| archive.submission(run)).await? else {
            return Err(ApiError::Invalid(format!("run: what {run} was made of is not kept any more; submit it again")));
        };
        let mut carried = Vec::new();
        if scope == RerunScope::Failed {
            let passed = |job: &&JobView| job.outcome == Some(Outcome::Success);
            if detail.jobs.iter().all(|job| passed(&job) || job.outcome == Some(Outcome::Skipped)) {
                return Err(ApiError::Invalid(format!("run: no job of {run} failed; leave out --failed to run all of it again")));
            }
            let kept = |job: JobView| Carried { key: job.key, name: job.name, outcome: Outcome::Success, outputs: job.outputs };
            carried = detail.jobs.iter().filter(passed).cloned().map(kept).collect();
        }
        let terms = Terms { rerun_of: Some(run), carried, ..Terms::default() };
        self.take_in(submission, terms).await.map(|submitted| submitted.run)
    }

    async fn agents(&self) -> Result<Vec<AgentView>, ApiError> {
        self.look(Engine::agent_views).await
    }

    async fn cordon(&self, agent: AgentName, cordon: Cordon) -> Result<(), ApiError> {
        self.call(Event::Cordon(agent, cordon)).await.map(drop)
    }

    async fn drain(&self, agent: AgentName) -> Result<(), ApiError> {
        self.call(Event::Drain(agent)).await.map(drop)
    }

    async fn revoke_agent(&self, agent: AgentName) -> Result<(), ApiError> {
        self.call(Event::Revoke(agent)).await.map(drop)
    }
}

struct Watching {
    service: Service,
    run: RunId,
    after: u64,
    feed: Option<std::sync::Weak<Feed>>,
    news: Option<watch::Receiver<u64>>,
    /// Whether the term in which it began is over; none for a controller that stands by.
    over: Option<watch::Receiver<bool>>,
}

impl Watching {
    /// Some more events; none when the run has no more.
    async fn next(&mut self) -> Result<Vec<NumberedEvent>, ApiError> {
        loop {
            let (run, after) = (self.run, self.after);
            if let Some(news) = &mut self.news {
                news.mark_unchanged();
            }
            let feed = self.feed.as_ref().and_then(std::sync::Weak::upgrade);
            let events = match feed.and_then(|feed| feed.after(after, EVENTS as usize)) {
                Some(events) => events,
                None => self.service.read(move |archive| archive.history(run, after, EVENTS)).await?,
            };
            if let Some(newest) = events.last() {
                self.after = newest.number;
                return Ok(events);
            }
            match &mut self.news {
                Some(news) => {
                    if news.changed().await.is_err() {
                        // The feed is gone: look once more in the store, which has all of it.
                        self.news = None;
                    }
                }
                None if *self.service.inner.seat.closing.borrow() => return Err(closed()),
                None => match &self.over {
                    Some(over) if *over.borrow() => return Err(closed()),
                    Some(_) => return Ok(Vec::new()),
                    // Nobody tells a controller that stands by: it looks again, until the run has ended.
                    None => {
                        let ended = self.service.read(move |archive| archive.run(run)).await?;
                        if ended.is_none_or(|view| view.state == RunState::Finished) {
                            let rest = self.service.read(move |archive| archive.history(run, after, EVENTS)).await?;
                            self.after = rest.last().map_or(after, |event| event.number);
                            return Ok(rest);
                        }
                        tokio::time::sleep(LOOK_EVERY).await;
                    }
                },
            }
        }
    }
}
