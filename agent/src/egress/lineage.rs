//! Which process of a step made a connection: asked of the launcher's side, which may look, beside the connection and not before it.
//!
//! Never a reason to refuse or to allow anything. Where the kernel holds connections until who makes them has been seen, the answer is there
//! whenever it is asked for; elsewhere it is looked for at once, and a client that is gone by then has none.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use caisson_model::outcome::Process;
use caisson_sandbox::lineage::Ends;
pub(super) use caisson_sandbox::lineage::Table;
use caisson_sandbox::onlooker::Onlooker;
use tokio::sync::{mpsc, oneshot};

/// How many look-ups one step may have waiting.
const MOST_WAITING: usize = 256;

/// A question, and where its answer goes.
type Asked = (Ends, oneshot::Sender<Vec<Process>>);

/// Finds processes of one step. Clones ask the same onlooker.
#[derive(Clone, Debug)]
pub(super) struct Finder {
    onlooker: Option<Arc<Onlooker>>,
    questions: Arc<OnceLock<mpsc::Sender<Asked>>>,
}

impl Finder {
    /// For the sandbox that the onlooker looks at; without one nothing is found.
    pub(super) fn new(onlooker: Option<Onlooker>) -> Finder {
        Finder { onlooker: onlooker.map(Arc::new), questions: Arc::default() }
    }

    /// Whether who makes a connection was seen while it was made, so that there is no hurry to ask.
    pub(super) fn remembers(&self) -> bool {
        self.onlooker.as_ref().is_some_and(|onlooker| onlooker.remembers())
    }

    /// The process that holds the socket with this address, which connected to `remote`; then its ancestors up to the step's first
    /// process.
    pub(super) async fn find(&self, table: Table, local: SocketAddr, remote: SocketAddr) -> Vec<Process> {
        let Some(onlooker) = &self.onlooker else { return Vec::new() };
        let questions = self.questions.get_or_init(|| asking(Arc::clone(onlooker)));
        let (answer, answered) = oneshot::channel();
        if questions.send((Ends { table, local, remote }, answer)).await.is_err() {
            return Vec::new();
        }
        answered.await.unwrap_or_default()
    }
}

/// One thread for all questions of a step, since the onlooker answers one at a time. It ends with the last [`Finder`].
fn asking(onlooker: Arc<Onlooker>) -> mpsc::Sender<Asked> {
    let (questions, mut asked) = mpsc::channel::<Asked>(MOST_WAITING);
    // Ends when nobody asks any more; nothing waits for it.
    let _thread = tokio::task::spawn_blocking(move || {
        while let Some((ends, answer)) = asked.blocking_recv() {
            // Whoever does not wait any longer needs no answer.
            if !answer.is_closed() {
                let found = onlooker.find(&ends).into_iter().map(|process| Process { pid: process.pid, name: process.name }).collect();
                let _heard = answer.send(found).is_ok();
            }
        }
    });
    questions
}
