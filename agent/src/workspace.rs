//! The directories of one attempt on the host, and how they appear in its sandboxes. Those that hostile steps write to are made
//! and removed by the launcher and never entered by the agent; the agent's own hold command files and the spool.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use caisson_model::policy::Identity;
use caisson_sandbox::host::Mode;
use caisson_sandbox::launcher::Launcher;
use caisson_sandbox::spec::{Access, AreaDirectory, Ids, Mount, Upper};

use crate::apt;
use crate::command_files::MAX_FILE;
use crate::contexts::{STEP_FILES, TOOL_CACHE};
use crate::host::HostRules;
use crate::id_claim::IdClaim;
use crate::packages::inside;
use crate::program::Program;
use crate::view::{self, System};

/// The directories could not be made.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The agent's own directory.
    #[error("make the directory {}", path.display())]
    Own {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No range of ids is to be had.
    #[error("claim a range of ids in {}", path.display())]
    Ids {
        /// Where ranges are claimed.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The job's directories.
    #[error("make the job's directories in {}", path.display())]
    Area {
        /// Where.
        path: PathBuf,
        /// What the launcher said.
        source: caisson_sandbox::error::AreaError,
    },
}

/// An attempt's directories. [`Workspace::close`] removes them; dropping does so too, without waiting.
#[derive(Debug)]
pub struct Workspace {
    launcher: Launcher,
    base: PathBuf,
    claim: Option<IdClaim>,
    identity: Identity,
    closed: bool,
}

const HOME: &str = "home";
const TOOLS: &str = "tools";
const LAYERS: &str = "layers";
const STEPS: &str = "steps";

impl Workspace {
    /// Makes `base`, which must not exist, and everything in it. `identity` is the strongest that a step of the job is granted;
    /// `checkout` is where the checkout is to be, inside. Blocks.
    ///
    /// # Errors
    /// [`OpenError`]; nothing is left then.
    pub fn open(launcher: &Launcher, host: &HostRules, base: PathBuf, identity: Identity, checkout: &str) -> Result<Workspace, OpenError> {
        let root = launcher.mode() == Mode::Root;
        let claim = root
            .then(|| IdClaim::take(&host.id_claims))
            .transpose()
            .map_err(|source| OpenError::Ids { path: host.id_claims.clone(), source })?;
        let own =
            |path: PathBuf, mode| std::fs::DirBuilder::new().mode(mode).create(&path).map_err(|source| OpenError::Own { path, source });
        own(base.clone(), 0o700)?;
        let workspace = Workspace { launcher: launcher.clone(), base, claim, identity, closed: false };
        own(workspace.base.join(STEPS), 0o700)?;
        let directory = |name: &str, id| AreaDirectory { name: name.to_owned(), uid: id, gid: id, mode: 0o755 };
        let area = workspace.area();
        let ids = workspace.claim.as_ref().map(IdClaim::range);
        let mut directories = vec![directory(HOME, 1000), directory(TOOLS, 1000)];
        // What every step expects in the job's home; no step has been there yet.
        for inside in [checkout, STEP_FILES] {
            let below = Path::new(inside).strip_prefix(view::HOME).unwrap_or(Path::new(""));
            let mut path = PathBuf::from(HOME);
            for part in below.components() {
                path.push(part);
                let name = path.display().to_string();
                if directories.iter().all(|made| made.name != name) {
                    directories.push(directory(&name, 1000));
                }
            }
        }
        if identity == Identity::Root {
            directories.extend(view::DIRECTORIES.iter().map(|name| directory(&view::upper_name(name), 0)));
            directories.extend(apt::AREAS.iter().map(|name| directory(name, 0)));
        }
        launcher.create_area(&area, &directories, ids).map_err(|source| OpenError::Area { path: area, source })?;
        Ok(workspace)
    }

    /// Where blobs are kept on their way, in files without a name.
    pub fn spool(&self) -> PathBuf {
        self.base.clone()
    }

    /// The host ids of the attempt's sandboxes.
    pub fn ids(&self) -> Ids {
        self.claim.as_ref().map_or(Ids::Default, |claim| Ids::Range(claim.range()))
    }

    /// How the system directories appear in this job: writable to one whose policy lets a step be root, else not.
    pub fn system(&self) -> System {
        match self.identity {
            Identity::Root => System::Overlay(Upper::Directory(self.area())),
            Identity::User => System::ReadOnly,
        }
    }

    /// Whose ids the job's sandboxes have.
    pub fn mode(&self) -> Mode {
        self.launcher.mode()
    }

    /// What counts against the job's disk limit as a whole, whichever step wrote it.
    pub fn counted(&self) -> Vec<PathBuf> {
        let mut counted = vec![self.area(), self.base.join(STEPS)];
        // Most jobs have none.
        counted.extend(Some(self.base.join(LAYERS)).filter(|layers| layers.exists()));
        counted
    }

    /// The job's directories, as every step sees them: its home (in which the checkout and `RUNNER_TEMP` lie) and the tool cache.
    pub fn mounts(&self) -> Vec<Mount> {
        let bind = |name: &str, target: &str| Mount::Bind {
            source: self.area().join(name),
            target: target.into(),
            access: Access::ReadWrite,
            owner: None,
        };
        vec![bind(HOME, view::HOME), bind(TOOLS, TOOL_CACHE)]
    }

    /// Makes the files through which step `number` speaks. Blocks.
    ///
    /// # Errors
    /// The files cannot be made.
    pub fn step_files(&self, number: u32) -> io::Result<StepFiles> {
        let directory = self.base.join(STEPS);
        let make = |name: &str| {
            let path = directory.join(format!("{number}-{name}"));
            let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
            // The step's user owns nothing outside; the directory around is closed to all but the agent.
            file.set_permissions(std::fs::Permissions::from_mode(0o666))?;
            Ok::<_, io::Error>(CommandFile { path, file })
        };
        Ok(StepFiles {
            env: make("env")?,
            output: make("output")?,
            path: make("path")?,
            state: make("state")?,
            summary: make("step_summary")?,
        })
    }

    /// Removes everything. Blocks. May be called again after an error.
    ///
    /// # Errors
    /// What could not be removed.
    pub fn close(&mut self) -> Result<(), CloseError> {
        if self.closed {
            return Ok(());
        }
        remove(&self.launcher, &self.base)?;
        self.closed = true;
        Ok(())
    }

    /// Where the changes of a layer go: a directory that the launcher makes and removes.
    ///
    /// # Errors
    /// The directory around it cannot be made.
    pub fn layer(&self, number: usize) -> io::Result<PathBuf> {
        let layers = self.base.join(LAYERS);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&layers)?;
        Ok(layers.join(number.to_string()))
    }

    /// What fills the job's own system directories, if it has any.
    pub fn fill(&self, host: &HostRules) -> Option<Program> {
        matches!(self.system(), System::Overlay(_)).then(|| apt::fill(&self.area(), inside::debian_files(host)))
    }

    fn area(&self) -> PathBuf {
        self.base.join("area")
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, path = %self.base.display(), "workspace was not removed");
        }
    }
}

/// An attempt's directories could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum CloseError {
    /// The job's.
    #[error("remove the job's directories: {0}")]
    Area(#[from] caisson_sandbox::error::AreaError),
    /// The agent's own.
    #[error("remove the attempt's directory: {0}")]
    Own(#[from] io::Error),
}

/// Removes an attempt's directories, one of an earlier agent included. Blocks.
///
/// # Errors
/// [`CloseError`].
pub fn remove(launcher: &Launcher, base: &Path) -> Result<(), CloseError> {
    launcher.remove_area(&base.join("area"))?;
    for layer in std::fs::read_dir(base.join(LAYERS)).into_iter().flatten().flatten() {
        launcher.remove_area(&layer.path())?;
    }
    match std::fs::remove_dir_all(base) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// The files through which one step speaks. The agent keeps their descriptors: whatever the step does to paths, these are read.
#[derive(Debug)]
pub struct StepFiles {
    /// `GITHUB_ENV`
    pub env: CommandFile,
    /// `GITHUB_OUTPUT`
    pub output: CommandFile,
    /// `GITHUB_PATH`
    pub path: CommandFile,
    /// `GITHUB_STATE`
    pub state: CommandFile,
    /// `GITHUB_STEP_SUMMARY`
    pub summary: CommandFile,
}

impl StepFiles {
    /// The mounts that show them, on a directory of their own that is fresh for each step.
    pub fn mounts(&self) -> Vec<Mount> {
        let mut mounts = vec![Mount::Tmpfs { target: STEP_FILES.into(), size: 1 << 20, inodes: 64, mode: 0o755 }];
        for (name, file) in
            [("env", &self.env), ("output", &self.output), ("path", &self.path), ("state", &self.state), ("step_summary", &self.summary)]
        {
            mounts.push(Mount::Bind {
                source: file.path.clone(),
                target: Path::new(STEP_FILES).join(name),
                access: Access::ReadWrite,
                owner: None,
            });
        }
        mounts
    }
}

/// One command file.
#[derive(Debug)]
pub struct CommandFile {
    path: PathBuf,
    file: File,
}

/// A command file is longer than it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

impl CommandFile {
    /// Its content, at most [`MAX_FILE`] bytes, and whether that is all. To be called when every process of the step is dead. Blocks.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub fn read(&self) -> io::Result<(Vec<u8>, Result<(), TooLong>)> {
        // Seldom more than a few lines; nobody writes to it any more.
        let length = usize::try_from(self.file.metadata()?.len()).unwrap_or(usize::MAX);
        let mut bytes = vec![0; length.min(MAX_FILE + 1)];
        let mut filled = 0;
        while filled < bytes.len() {
            match self.file.read_at(&mut bytes[filled..], filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(filled.min(MAX_FILE));
        Ok((bytes, if filled > MAX_FILE { Err(TooLong) } else { Ok(()) }))
    }
}
