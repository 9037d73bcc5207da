//! Reports of an attempt's steps, in one order and each at least once. Its own task sends them, so that a controller that is
//! slow or away holds up neither the steps nor their output. Each stands on disk before it is sent.

use std::fs::File;
use std::future::Future;
use std::io::Write;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use caisson_model::id::Hold;
use caisson_model::lease::{StepChange, StepReport};
use caisson_proto::api::{AgentApi, ApiError};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::clock;
use crate::retry;
use crate::stop::{Stop, order};

/// What is handed in.
enum Item {
    /// A report.
    Report(Box<StepReport>),
    /// Something that has to be done before what follows is told.
    First(Pin<Box<dyn Future<Output = ()> + Send>>),
    /// Somebody waits until everything before is answered.
    Mark(oneshot::Sender<()>),
    /// Nothing follows.
    End,
}

/// Numbers reports and keeps them on disk.
#[derive(Debug)]
struct Book {
    hold: Hold,
    written: Mutex<(u64, Option<File>)>,
}

impl Book {
    fn enter(&self, change: StepChange) -> Box<StepReport> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.0 += 1;
        let report = StepReport { hold: self.hold, sequence: written.0, at: clock::now(), change };
        if let Some(file) = &mut written.1 {
            let line = serde_json::to_vec(&report).map(|mut line| {
                line.push(b'\n');
                line
            });
            if let Err(error) = line.map_err(std::io::Error::from).and_then(|line| file.write_all(&line)) {
                // It is told all the same; only a crash of this agent would lose it.
                tracing::warn!(%error, attempt = %self.hold.attempt, "report was not kept on disk");
                written.1 = None;
            }
        }
        Box::new(report)
    }
}

/// Where reports go in. Ends when [`Reports::close`] is called.
#[derive(Debug)]
pub struct Reports {
    remarks: Remarks,
    task: JoinHandle<()>,
}

/// A handle for remarks that are told at once if there is room; each is told again in its step's result.
#[derive(Clone, Debug)]
pub struct Remarks {
    sender: mpsc::Sender<Item>,
    book: Arc<Book>,
}

impl std::fmt::Debug for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Item::Report(_) => "Report",
            Item::First(_) => "First",
            Item::Mark(_) => "Mark",
            Item::End => "End",
        })
    }
}

impl Remarks {
    /// Tells it now, or not at all.
    pub fn tell(&self, change: StepChange) {
        // A full queue means that nobody listens at the moment; the result will say it.
        if let Ok(room) = self.sender.try_reserve() {
            room.send(Item::Report(self.book.enter(change)));
        }
    }

    /// Does this before anything is told that is handed in later. Waits while the queue is full.
    pub async fn first(&self, work: impl Future<Output = ()> + Send + 'static) {
        // The task ends only after the last value that this one belongs to.
        let _ = self.sender.send(Item::First(Box::pin(work))).await;
    }
}

impl Reports {
    /// Begins; `kept` is where reports are kept. A report that is answered *fenced* orders the attempt to be forgotten.
    pub fn open<A: AgentApi>(api: Arc<A>, hold: Hold, stop: Arc<watch::Sender<Stop>>, kept: Option<File>) -> Reports {
        let (sender, mut receiver) = mpsc::channel::<Item>(256);
        let task = tokio::spawn(async move {
            while let Some(item) = receiver.recv().await {
                match item {
                    Item::Report(report) => tell(api.as_ref(), *report, &stop).await,
                    Item::First(work) => work.await,
                    Item::Mark(waiting) => {
                        // Whoever waited may have been cancelled meanwhile.
                        let _ = waiting.send(());
                    }
                    Item::End => break,
                }
            }
        });
        let book = Arc::new(Book { hold, written: Mutex::new((0, kept)) });
        Reports { remarks: Remarks { sender, book }, task }
    }

    /// Hands in a report that must arrive; waits while the queue is full.
    pub async fn send(&self, change: StepChange) {
        // The task ends only with this value.
        if let Ok(room) = self.remarks.sender.reserve().await {
            room.send(Item::Report(self.remarks.book.enter(change)));
        }
    }

    /// Waits until everything handed in so far is answered: secrets are opened only for a step that the controller knows to have started.
    pub async fn settled(&self) {
        let (waiting, answered) = oneshot::channel();
        if self.remarks.sender.send(Item::Mark(waiting)).await.is_ok() {
            // The task answers every mark before it ends.
            let _ = answered.await;
        }
    }

    /// A handle for remarks.
    pub fn remarks(&self) -> Remarks {
        self.remarks.clone()
    }

    /// Waits until everything before is answered. Remarks that come later are not told.
    pub async fn close(self) {
        // The task ends only with this value.
        let _ = self.remarks.sender.send(Item::End).await;
        if let Err(error) = self.task.await {
            tracing::error!(%error, "reporting ended early");
        }
    }
}

/// Tells one report until it is answered.
pub async fn tell<A: AgentApi>(api: &A, report: StepReport, stop: &watch::Sender<Stop>) {
    let orders = stop.subscribe();
    match retry::until_answered(&orders, || api.report_step(report.clone())).await {
        Ok(()) => {}
        Err(ApiError::Fenced) => order(stop, Stop::Forget),
        Err(error) => tracing::error!(%error, attempt = %report.hold.attempt, sequence = report.sequence, "report was refused"),
    }
}
