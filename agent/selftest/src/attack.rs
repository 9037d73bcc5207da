//! An attack as data.

use caisson_sandbox::outcome::Cause;
use caisson_sandbox::raw::Call;
use caisson_sandbox::spec::Spec;
use serde::{Deserialize, Serialize};

use crate::needs::Need;
use crate::scene::Scene;
use crate::verdict::Verdict;

/// One attack.
#[derive(Clone, Copy, Debug)]
pub struct Attack {
    /// Its stable name: `family.what`.
    pub id: &'static str,
    /// What it tries, as the end of the sentence "it tries to".
    pub tries: &'static str,
    /// The act.
    pub act: Act,
    /// Where its control is made.
    pub control: Control,
    /// What the host must have for the control to be able to succeed, and the attack to mean anything.
    pub needs: &'static [Need],
    /// How it is run.
    pub alone: Option<Alone>,
}

/// The kinds of what is attacked; the first part of an attack's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// Files, paths, mounts, devices.
    Files,
    /// Other processes.
    Processes,
    /// The kernel's own surface.
    Kernel,
    /// The network.
    Network,
    /// What can be learnt.
    Information,
    /// What can be used up.
    Resources,
    /// Living longer than the step.
    Survival,
    /// Faking a result.
    Forging,
}

impl Family {
    /// All, in the order of the table.
    pub const ALL: [Family; 8] =
        [Self::Files, Self::Processes, Self::Kernel, Self::Network, Self::Information, Self::Resources, Self::Survival, Self::Forging];

    /// The word for it, as in names of attacks.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Processes => "processes",
            Self::Kernel => "kernel",
            Self::Network => "network",
            Self::Information => "information",
            Self::Resources => "resources",
            Self::Survival => "survival",
            Self::Forging => "forging",
        }
    }
}

/// What is done.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// System calls, one after the other. Refused when one that is not the last fails, or the last fails for want of
    /// permission or existence, or the process is killed for it; any other answer means that the kernel went to work.
    Calls(&'static [Call<'static>]),
    /// Reading: succeeds when one of these files gives a byte.
    Read(&'static [&'static str]),
    /// Opening for writing, without writing: succeeds when one of these files is opened.
    Write(&'static [&'static str]),
    /// Anything else.
    Code(fn(&Scene) -> Verdict),
}

/// Where the same act must succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Outside, as who runs the suite.
    Outside,
    /// Outside, as the host's root.
    Root,
    /// Outside, as an ordinary user: what root may do anyway proves nothing.
    Nobody,
    /// In a sandbox that is none: new namespaces with all capabilities in them, and no filter. What would change the host
    /// outside is done there.
    Weakened,
}

/// An attack that gets a sandbox of its own.
#[derive(Clone, Copy, Debug)]
pub struct Alone {
    /// What its spec has beyond, or below, that of a step.
    pub prepare: fn(&mut Spec, &Scene),
    /// What came of it, seen from outside.
    pub judge: fn(&Scene, &After) -> Verdict,
}

/// What can be seen from outside when an act is over.
#[derive(Clone, Debug)]
pub struct After {
    /// The exit code, or 128 and the signal.
    pub code: i32,
    /// Which limit ended it. Outside of a sandbox there are none.
    pub cause: Option<Cause>,
    /// What the act said itself.
    pub said: Option<Verdict>,
    /// Everything that came out of it up to the end of its own process.
    pub output: String,
    /// What came out after that, while the pipe was held open.
    pub late: String,
    /// Processor time that it used, in seconds.
    pub processor: f64,
    /// Time that it took, in seconds.
    pub wall: f64,
}

impl Attack {
    /// Its family, by its name.
    ///
    /// The catalogue's own test holds that every name begins with one.
    pub fn family(&self) -> Family {
        let word = self.id.split('.').next().unwrap_or_default();
        Family::ALL.into_iter().find(|family| family.word() == word).unwrap_or(Family::Kernel)
    }

    /// In the step's own spec, judged by what the act itself says.
    pub const fn new(id: &'static str, tries: &'static str, act: Act, control: Control) -> Self {
        Self { id, tries, act, control, needs: &[], alone: None }
    }

    /// With what the host must have.
    pub const fn needing(mut self, needs: &'static [Need]) -> Self {
        self.needs = needs;
        self
    }

    /// In a sandbox of its own.
    pub const fn alone(mut self, prepare: fn(&mut Spec, &Scene), judge: fn(&Scene, &After) -> Verdict) -> Self {
        self.alone = Some(Alone { prepare, judge });
        self
    }
}

/// The spec as it is.
pub fn as_it_is(_: &mut Spec, _: &Scene) {}

/// What the act itself said; a limit that ended it is a refusal.
pub fn as_it_said(_: &Scene, after: &After) -> Verdict {
    match (&after.said, &after.cause) {
        (Some(said), _) => said.clone(),
        (None, Some(cause)) => Verdict::refused(match cause {
            Cause::OutOfMemory { limit, .. } => format!("out of memory at {limit} bytes"),
            other => format!("ended by {other:?}"),
        }),
        (None, None) => Verdict::unknown(format!("it ended with {} and said nothing", after.code)),
    }
}
