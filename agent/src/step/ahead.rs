//! The sandbox of the step that comes next, prepared while the present one runs. It holds what its own step will see and nothing of
//! any step before: the files through which it will speak are fresh, and its script, environment, secrets and input come when the
//! step begins. Where the step turns out to need something else, what was prepared is thrown away unused.

use std::io;
use std::path::PathBuf;

use caisson_model::id::StepIndex;
use caisson_model::step::{Action, StepSpec};
use caisson_sandbox::spec::{GivenFile, Mount, Profile, Upper};

use crate::ahead::Ahead;
use crate::apt;
use crate::attempt::Attempt;
use crate::contexts::SCRIPTS;
use crate::kept::Layer;
use crate::lower::{self, Request, Watch};
use crate::view;
use crate::workspace::StepFiles;

/// Has the sandbox of the job's first step prepared.
pub(super) fn begin<A>(attempt: &mut Attempt<A>) {
    let first = attempt.spec.steps.first().map(|step| step.index);
    if let Some(first) = first {
        prepare_from(attempt, |index| index >= first);
    }
}

/// Has the sandbox of the step after this one prepared.
pub(super) fn prepare<A>(attempt: &mut Attempt<A>, present: StepIndex) {
    prepare_from(attempt, |index| index > present);
}

/// The same, where its own program has not had that done.
pub(super) fn prepare_unless_there<A>(attempt: &mut Attempt<A>, present: StepIndex) {
    if attempt.ahead.prepared.is_none() {
        prepare(attempt, present);
    }
}

/// Files for the next step to speak through. Blocks.
///
/// # Errors
/// They cannot be made.
pub(super) fn files<A>(attempt: &mut Attempt<A>) -> io::Result<StepFiles> {
    match attempt.ahead.files.take() {
        Some(files) => Ok(files),
        None => fresh(attempt),
    }
}

fn fresh<A>(attempt: &mut Attempt<A>) -> io::Result<StepFiles> {
    let files = attempt.workspace.step_files(attempt.serial);
    attempt.serial += 1;
    files
}

fn prepare_from<A>(attempt: &mut Attempt<A>, is_later: impl Fn(StepIndex) -> bool) {
    let spec = std::sync::Arc::clone(&attempt.spec);
    // An action brings mounts and programs of its own, which are not known before it runs.
    let next = spec.steps.iter().find(|step| is_later(step.index)).filter(|step| matches!(step.action, Action::Run { .. }));
    let Some(StepSpec { grant, .. }) = next else { return };
    // What goes wrong here shows when the step itself asks for the same.
    let Ok(files) = fresh(attempt) else { return };
    let request = request(attempt, &files);
    let (spec, _) = lower::spec(grant, &attempt.host, request);
    // To mount an overlay clears its work directory, under the hands of the step that has it mounted now: that one could make no
    // file there any more. overlayfs(5) calls two mounts of one upper directory undefined.
    let shared = spec.mounts.iter().any(|mount| matches!(mount, Mount::Overlay { upper: Upper::Directory(_), .. }));
    let prepared = if shared { None } else { attempt.launcher.prepare(&spec).ok() };
    attempt.ahead = Ahead { prepared, files: Some(files) };
}

/// The sandbox of a script of this step, but for the script.
fn request<A>(attempt: &Attempt<A>, files: &StepFiles) -> Request {
    Request {
        program: "".into(),
        args: Vec::new(),
        env: Vec::new(),
        cwd: PathBuf::from("/"),
        ids: attempt.workspace.ids(),
        system: attempt.workspace.system(),
        mounts: mounts(attempt, Some(files)),
        counted: attempt.workspace.counted(),
        profile: Profile::Default,
        // Says that there will be some.
        files: vec![GivenFile { target: format!("{SCRIPTS}/event.json").into(), content: Vec::new(), mode: 0o555 }],
        secrets: Vec::new(),
        timeout: None,
        watch: Watch::Told,
    }
}

/// What every program of the job sees of it; the step's own also sees the files through which it speaks.
pub(super) fn mounts<A>(attempt: &Attempt<A>, files: Option<&StepFiles>) -> Vec<Mount> {
    let mut mounts = attempt.workspace.mounts();
    mounts.extend(attempt.shown.iter().cloned().map(view::read_only));
    mounts.extend(attempt.shown_trees.iter().map(|(target, tree)| tree.shown(target)));
    mounts.extend(attempt.layers.iter().map(Layer::mount));
    if let Some(files) = files {
        mounts.extend(files.mounts());
        mounts.extend(apt::sudo());
    }
    mounts
}
