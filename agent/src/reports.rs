//! Reports of an attempt's steps, in one order and each at least once. Its own task sends them, so that a slow controller
//! slows the steps' ends and never their output.

use std::sync::Arc;

use caisson_model::id::Hold;
use caisson_model::lease::{StepChange, StepReport};
use caisson_model::time::Timestamp;
use caisson_proto::api::{AgentApi, ApiError};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::clock;
use crate::retry;
use crate::stop::{Stop, order};

/// What is handed in.
#[derive(Debug)]
enum Item {
    /// A report and when it happened.
    Report(Timestamp, Box<StepChange>),
    /// Somebody waits until everything before is answered.
    Mark(oneshot::Sender<()>),
    /// Nothing follows.
    End,
}

/// Where reports go in. Ends when [`Reports::close`] is called.
#[derive(Debug)]
pub struct Reports {
    sender: mpsc::Sender<Item>,
    task: JoinHandle<()>,
}

/// A handle for remarks that are told at once if there is room; each is told again in its step's result.
#[derive(Clone, Debug)]
pub struct Remarks {
    sender: mpsc::Sender<Item>,
}

impl Remarks {
    /// Tells it now, or not at all.
    pub fn tell(&self, change: StepChange) {
        // A full queue means that nobody listens at the moment; the result will say it.
        let _ = self.sender.try_send(Item::Report(clock::now(), Box::new(change)));
    }
}

impl Reports {
    /// Begins. A report that is answered *fenced* orders the attempt to be forgotten.
    pub fn open<A: AgentApi>(api: Arc<A>, hold: Hold, stop: Arc<watch::Sender<Stop>>) -> Reports {
        let (sender, mut receiver) = mpsc::channel::<Item>(256);
        let task = tokio::spawn(async move {
            let orders = stop.subscribe();
            let mut sequence = 0;
            while let Some(item) = receiver.recv().await {
                let (at, change) = match item {
                    Item::Report(at, change) => (at, *change),
                    Item::Mark(waiting) => {
                        // Whoever waited may have been cancelled meanwhile.
                        let _ = waiting.send(());
                        continue;
                    }
                    Item::End => break,
                };
                sequence += 1;
                let report = StepReport { hold, sequence, at, change };
                match retry::until_answered(&orders, || api.report_step(report.clone())).await {
                    Ok(()) => {}
                    Err(ApiError::Fenced) => order(&stop, Stop::Forget),
                    Err(error) => tracing::error!(%error, attempt = %hold.attempt, sequence, "report was refused"),
                }
            }
        });
        Reports { sender, task }
    }

    /// Hands in a report that must arrive; waits while the queue is full.
    pub async fn send(&self, change: StepChange) {
        // The task ends only with this value.
        let _ = self.sender.send(Item::Report(clock::now(), Box::new(change))).await;
    }

    /// Waits until everything handed in so far is answered: secrets are opened only for a step that the controller knows to have started.
    pub async fn settled(&self) {
        let (waiting, answered) = oneshot::channel();
        if self.sender.send(Item::Mark(waiting)).await.is_ok() {
            // The task answers every mark before it ends.
            let _ = answered.await;
        }
    }

    /// A handle for remarks.
    pub fn remarks(&self) -> Remarks {
        Remarks { sender: self.sender.clone() }
    }

    /// Waits until everything before is answered. Remarks that come later are not told.
    pub async fn close(self) {
        // The task ends only with this value.
        let _ = self.sender.send(Item::End).await;
        if let Err(error) = self.task.await {
            tracing::error!(%error, "reporting ended early");
        }
    }
}
