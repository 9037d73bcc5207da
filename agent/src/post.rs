//! What actions put off until after the job's last step, as values.

use caisson_model::step::StepSpec;
use indexmap::IndexMap;

use crate::actions::bench::Later;
use crate::contexts::Scoped;

/// Something that is to run after the job's last step.
#[derive(Clone, Debug)]
pub struct Post {
    /// The step whose action asks for it.
    pub step: StepSpec,
    /// The name of the step that it becomes.
    pub name: String,
    /// When it runs.
    pub condition: String,
    /// The environment that the step had.
    pub env: IndexMap<String, String>,
    /// The contexts that the action's own expressions see, where it is inside of another.
    pub scope: Option<Scoped>,
    /// What it does.
    pub work: PostWork,
}

/// What a post step does.
#[derive(Clone, Debug)]
pub enum PostWork {
    /// Something that a built-in action put off.
    BuiltIn(Later),
    /// A program of a JavaScript action.
    Node(NodeProgram),
}

/// A program of an action with what it is told.
#[derive(Clone, Debug)]
pub struct NodeProgram {
    /// Its path inside.
    pub path: String,
    /// Its inputs, as variables.
    pub env: Vec<(String, String)>,
    /// Whose state it reads: the place of the step in the job.
    pub place: Vec<u32>,
}
