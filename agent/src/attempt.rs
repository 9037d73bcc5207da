//! What the steps of one attempt share and pass on: the spec, the directories, the contexts, what earlier steps left behind.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use caisson_model::id::Hold;
use caisson_model::job::JobSpec;
use caisson_sandbox::launcher::Launcher;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::ahead::Ahead;
use crate::contexts::JobContexts;
use crate::environment::Inherited;
use crate::host::HostRules;
use crate::kept::Layer;
use crate::outbox::Outbox;
use crate::post::Post;
use crate::reports::Reports;
use crate::stop::Stop;
use crate::trees::{Tree, Trees};
use crate::workspace::Workspace;

/// One attempt while it runs.
#[derive(Debug)]
pub struct Attempt<A> {
    /// The controller.
    pub api: Arc<A>,
    /// What makes sandboxes.
    pub launcher: Launcher,
    /// The host's rules.
    pub host: Arc<HostRules>,
    /// The agent's name.
    pub agent: String,
    /// The attempt and its fence.
    pub hold: Hold,
    /// The job.
    pub spec: Arc<JobSpec>,
    /// Its directories.
    pub workspace: Workspace,
    /// The contexts of its expressions.
    pub contexts: JobContexts,
    /// Variables and search path that earlier steps left.
    pub inherited: Inherited,
    /// Every value that was secret in any step so far; what a step hid in a file can come back in a later one's output.
    pub masks: Vec<Vec<u8>>,
    /// Host paths that an action made visible, read-only.
    pub shown: Vec<PathBuf>,
    /// Trees that an action made visible, read-only, by their place inside.
    pub shown_trees: Vec<(String, Tree)>,
    /// Directories of the job that show a restored cache.
    pub layers: Vec<Layer>,
    /// The agent's trees.
    pub trees: Trees,
    /// What actions want to run after the last step, in the order in which they asked.
    pub posts: Vec<Post>,
    /// What actions left for their own later programs, by the place of their step.
    pub states: HashMap<Vec<u32>, Vec<(String, String)>>,
    /// The sandbox of the step that comes next.
    pub ahead: Ahead,
    /// How many sets of command files there were.
    pub serial: u32,
    /// What it still has to tell, on disk.
    pub outbox: Outbox,
    /// Where reports go.
    pub reports: Reports,
    /// The order that the attempt is under.
    pub orders: watch::Receiver<Stop>,
    /// When the job's time is over.
    pub deadline: Deadline,
}

/// The end of a job's time.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    /// When.
    pub at: Instant,
    /// How long that was.
    pub limit: Duration,
}
