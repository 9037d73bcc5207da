//! Sandboxes one after the other, of which the next is prepared while one runs.

use crate::error::LaunchError;
use crate::launcher::{Launcher, Prepared, Running, Stdio};
use crate::spec::Spec;

/// A launcher, and the sandbox that it prepares for the next program.
#[derive(Debug)]
pub struct Series {
    launcher: Launcher,
    next: Option<Prepared>,
}

impl Series {
    /// With nothing prepared.
    pub fn new(launcher: Launcher) -> Self {
        Self { launcher, next: None }
    }

    /// What makes its sandboxes.
    pub fn launcher(&self) -> &Launcher {
        &self.launcher
    }

    /// Takes what was prepared if it fits, and throws away what does not. Blocks until exec has happened.
    ///
    /// # Errors
    /// As [`Launcher::launch`].
    pub fn launch(&mut self, spec: &Spec, stdio: Stdio) -> Result<Running, LaunchError> {
        match self.next.take() {
            Some(prepared) => prepared.launch(spec, stdio),
            None => self.launcher.launch(spec, stdio),
        }
    }

    /// Has a sandbox of this shape prepared, unless one is. Never fails: without one the next launch builds its own.
    pub fn prepare(&mut self, spec: &Spec) {
        if self.next.as_ref().is_none_or(|prepared| !prepared.fits(spec)) {
            self.next = None;
            self.next = self.launcher.prepare(spec).ok();
        }
    }

    /// Takes out what is prepared, for a launch elsewhere.
    pub fn take(&mut self) -> Option<Prepared> {
        self.next.take()
    }
}
