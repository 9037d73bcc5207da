//! One program of a step, before it becomes a sandbox: what to execute, what it reads, where its output goes.

use caisson_model::id::Digest;
use caisson_model::outcome::{Cause, Outcome};
use caisson_sandbox::spec::Mount;

/// A program to run in a sandbox of the job.
#[derive(Clone, Debug)]
pub struct Program {
    /// A path inside, or a name looked up in the step's `PATH`.
    pub program: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Variables beside the step's own.
    pub env: Vec<(String, String)>,
    /// Its working directory inside.
    pub cwd: String,
    /// What it reads.
    pub stdin: Input,
    /// Read-only files beside its script: path inside and content.
    pub files: Vec<(String, Vec<u8>)>,
    /// Further mounts, after everything else.
    pub mounts: Vec<Mount>,
    /// What of the step's grant it has.
    pub powers: Powers,
    /// Where its output goes.
    pub sink: Sink,
}

impl Program {
    /// A program that reads nothing, has no power and logs its output.
    pub fn new(program: &str, args: &[&str], cwd: &str) -> Program {
        Program {
            program: program.to_owned(),
            args: args.iter().map(|argument| (*argument).to_owned()).collect(),
            env: Vec::new(),
            cwd: cwd.to_owned(),
            stdin: Input::Nothing,
            files: Vec::new(),
            mounts: Vec::new(),
            powers: Powers::None,
            sink: Sink::Log,
        }
    }
}

/// What a program reads.
#[derive(Clone, Debug)]
pub enum Input {
    /// End of file.
    Nothing,
    /// These bytes.
    Bytes(Vec<u8>),
    /// The run's source tree, a tar blob; its digest is checked while it passes.
    Source,
    /// A blob of the controller, and what it is for people; its digest is checked while it passes.
    Blob(Digest, String),
}

/// What of its step's grant a program has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Powers {
    /// No network, no secrets, no root, no environment of the workflow: for what caisson itself runs.
    None,
    /// The network of the grant, and nothing else of it.
    Network,
    /// Root of its own user namespace, and nothing else: for what caisson itself does to the job's system directories.
    Root,
    /// All of it: for the step's own script.
    Granted,
}

/// Where a program's output goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sink {
    /// To the step's log.
    Log,
    /// To the caller, at most this many bytes; what is beyond is an error.
    Capture(usize),
    /// To a file that the caller has made, at most this many bytes; what is beyond is an error.
    Collect(u64),
}

/// A program that exited by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Its code.
    pub code: i32,
    /// Its captured output.
    pub output: Vec<u8>,
}

/// A program did not come to its own end, or could not begin: the step ends with this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Halt {
    /// How the step ends.
    pub outcome: Outcome,
    /// Why.
    pub cause: Cause,
}

impl Halt {
    /// The workflow is wrong.
    pub fn invalid(message: impl Into<String>) -> Halt {
        Halt { outcome: Outcome::Failure, cause: Cause::Invalid { message: message.into() } }
    }

    /// caisson or the machine is at fault.
    pub fn faulted(message: impl Into<String>, fault: caisson_model::outcome::Fault) -> Halt {
        Halt { outcome: Outcome::Faulted, cause: Cause::Sandbox { message: message.into(), fault } }
    }
}
