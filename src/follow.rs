//! Watches runs to their end and shows them: events and logs of all runs become one stream of news.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use caisson_model::id::RunId;
use caisson_model::log::{LogKey, LogRead};
use caisson_model::outcome::Fault;
use caisson_model::run::{RunEvent, RunState, StepState};
use caisson_proto::api::{ApiError, ClientApi};
use futures_util::StreamExt;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::MissedTickBehavior;

use crate::artifacts::{self, Destination};
use crate::report::{Exit, Explained, Failure};
use crate::view::board::Board;
use crate::view::news::News;
use crate::view::screen::View;

/// News on the way from the controller to the view.
const BACKLOG: usize = 256;
/// How often a view that moves is drawn.
const TICK: Duration = Duration::from_millis(100);
/// How long a broken connection is tried anew.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a log of a run that has ended may take to arrive.
const LAST_LOG: Duration = Duration::from_secs(10);

/// Watching ended before the runs did.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FollowError {
    /// A call failed.
    #[error("cannot watch run {0}")]
    Watch(RunId, #[source] ApiError),
    /// Signals of this process cannot be received.
    #[error("cannot receive signals")]
    Signals(#[source] std::io::Error),
}

impl Explained for FollowError {
    fn fault(&self) -> Fault {
        match self {
            FollowError::Watch(_, error) => error.fault(),
            FollowError::Signals(_) => Fault::Ours,
        }
    }

    fn help(&self) -> Option<String> {
        match self {
            FollowError::Watch(_, ApiError::Unavailable(_)) => {
                Some("the runs go on without you; see whether the controller still runs".to_owned())
            }
            _ => None,
        }
    }
}

/// A person's wish to stop: Ctrl-C, or SIGTERM from whoever supervises this process.
pub(crate) struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    /// Receives them from now on, in place of what they do by themselves.
    pub(crate) fn catch() -> Result<Interrupts, FollowError> {
        let catch = |kind| signal(kind).map_err(FollowError::Signals);
        Ok(Interrupts { interrupt: catch(SignalKind::interrupt())?, terminate: catch(SignalKind::terminate())? })
    }

    /// The next one.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// How following ended.
#[derive(Debug)]
pub(crate) enum Followed {
    /// Every run has ended; the exit code of all together.
    Ended(Exit),
    /// Somebody wanted it to end at once.
    Killed,
}

/// Shows `runs` until all have ended. The first interrupt cancels them, the second ends this at once. `broken` is ready when
/// the runs cannot go on.
pub(crate) async fn follow<C: ClientApi>(
    client: Arc<C>,
    runs: &[RunId],
    view: &mut dyn View,
    interrupts: &mut Interrupts,
    broken: impl Future<Output = Failure>,
    artifacts: &Destination,
) -> Result<Followed, Failure> {
    let (sender, mut news) = mpsc::channel(BACKLOG);
    let mut watchers = JoinSet::new();
    for run in runs {
        watchers.spawn(watch(Arc::clone(&client), *run, sender.clone()));
    }
    drop(sender);
    let mut broken = std::pin::pin!(broken);
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut board = Board::default();
    let mut cancelling = false;
    let mut reader_gone = false;
    loop {
        let shown = tokio::select! {
            next = news.recv() => match next {
                Some(next) => {
                    board.take(&next);
                    if reader_gone { Ok(()) } else { view.news(&board, &next) }
                }
                None => break,
            },
            _ = tick.tick(), if view.moves() && !reader_gone => view.tick(&board),
            () = interrupts.next() => {
                if cancelling {
                    return Ok(Followed::Killed);
                }
                cancelling = true;
                cancel(&client, runs, &mut watchers);
                view.remark("cancelling; steps have 10 seconds to end by themselves (Ctrl-C again kills)")
            }
            failure = &mut broken => return Err(failure),
        };
        if shown.is_err() && !reader_gone {
            // As a program that is killed by SIGPIPE: what nobody reads need not be made.
            reader_gone = true;
            cancel(&client, runs, &mut watchers);
        }
    }
    while let Some(watched) = watchers.join_next().await {
        watched.map_err(|_| FollowError::Watch(runs[0], ApiError::Broken("a watcher ended early".to_owned())))??;
    }
    let fetched = artifacts::fetch(&*client, runs, artifacts).await;
    if let Ok(fetched) = &fetched {
        board.artifacts.clone_from(fetched);
    }
    if !reader_gone {
        // An error means that nobody reads the end.
        let _ = view.finish(&board);
    }
    fetched?;
    debug_assert!(board.finished(runs.len()));
    Ok(Followed::Ended(board.exit()))
}

fn cancel<C: ClientApi>(client: &Arc<C>, runs: &[RunId], tasks: &mut JoinSet<Result<(), FollowError>>) {
    for run in runs.iter().copied() {
        let client = Arc::clone(client);
        tasks.spawn(async move { patiently(|| client.cancel(run)).await.map_err(|error| FollowError::Watch(run, error)) });
    }
}

/// Repeats a call while the other side cannot be reached, for a while.
pub(crate) async fn patiently<T, F: Future<Output = Result<T, ApiError>>>(mut call: impl FnMut() -> F) -> Result<T, ApiError> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(50);
    loop {
        match call().await {
            Err(error) if error.is_transient() && tokio::time::Instant::now() + pause < deadline => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(5));
            }
            result => return result,
        }
    }
}

/// Sends the news of one run, its logs included, until it has ended.
async fn watch<C: ClientApi>(client: Arc<C>, run: RunId, news: mpsc::Sender<News>) -> Result<(), FollowError> {
    let failed = |error| FollowError::Watch(run, error);
    let mut tails: HashMap<LogKey, JoinHandle<Result<(), ApiError>>> = HashMap::new();
    let mut seen = 0;
    loop {
        let mut events = patiently(|| client.watch_run(run, seen)).await.map_err(failed)?;
        while let Some(event) = events.next().await {
            let event = match event {
                Ok(event) => event,
                Err(error) if error.is_transient() => break,
                Err(error) => return Err(failed(error)),
            };
            seen = event.number;
            let mut ended = false;
            match &event.event {
                RunEvent::Step(step) => {
                    let key = LogKey { attempt: step.attempt, step: step.index };
                    match step.state {
                        StepState::Finished => {
                            // Its output first: a step's log is sealed before its end is told.
                            if let Some(tail) = tails.remove(&key) {
                                settle(tail).await.map_err(failed)?;
                            }
                        }
                        StepState::Running => {
                            // Known to the view before its first line is.
                            if news.send(News::Event(run, event.clone())).await.is_err() {
                                return Ok(());
                            }
                            tails.entry(key).or_insert_with(|| tokio::spawn(tail(Arc::clone(&client), key, news.clone())));
                            continue;
                        }
                    }
                }
                RunEvent::Run(view) if view.state == RunState::Finished => {
                    for (_, tail) in tails.drain() {
                        settle(tail).await.map_err(failed)?;
                    }
                    ended = true;
                }
                _ => {}
            }
            if news.send(News::Event(run, event)).await.is_err() || ended {
                return Ok(());
            }
        }
    }
}

/// Waits for a log whose step has ended. One that does not come is given up: its run has ended all the same.
async fn settle(mut tail: JoinHandle<Result<(), ApiError>>) -> Result<(), ApiError> {
    match tokio::time::timeout(LAST_LOG, &mut tail).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(ApiError::Broken("a reader of a log ended early".to_owned())),
        Err(_) => {
            tail.abort();
            tracing::warn!("the rest of a log did not arrive");
            Ok(())
        }
    }
}

/// Sends one log until it is sealed.
async fn tail<C: ClientApi>(client: Arc<C>, key: LogKey, news: mpsc::Sender<News>) -> Result<(), ApiError> {
    let mut offset = 0;
    loop {
        let mut reads = patiently(|| client.tail_log(key, offset)).await?;
        loop {
            match reads.next().await {
                Some(Ok(read)) => {
                    let sealed = matches!(read, LogRead::Seal(_));
                    if let LogRead::Chunk(chunk) = &read {
                        offset = chunk.offset + chunk.bytes.len() as u64;
                    }
                    if news.send(News::Log(key, read)).await.is_err() || sealed {
                        return Ok(());
                    }
                }
                Some(Err(error)) if error.is_transient() => break,
                Some(Err(error)) => return Err(error),
                // Nothing follows, though nobody sealed it: the attempt is over.
                None => return Ok(()),
            }
        }
    }
}
