//! The caller's side of the launcher: start it, ask it, hold what runs. The launcher itself is a small single-threaded
//! process, started from this program's own file before any thread exists; it alone keeps privileges.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use nix::sys::socket::{Shutdown, shutdown};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

use crate::error::{AreaError, Failure, LaunchError, SignalError, Stage, StartError, WaitError};
use crate::handshake::{self, Answer, Control, ReceiveError, Request};
use crate::host::{Mode, Standing};
use crate::onlooker::Onlooker;
use crate::outcome::Outcome;
use crate::plan::Program;
use crate::sockets::Sockets;
use crate::spec::{AreaDirectory, IdRange, Spec};
use crate::start::{Begun, single_threaded};
pub use crate::start::{Image, Options};
use crate::warden;

/// The step's standard streams, handed over.
#[derive(Debug)]
pub struct Stdio {
    /// Its standard input. A terminal given here is readable, yet never becomes the step's controlling terminal.
    pub stdin: OwnedFd,
    /// Its standard output.
    pub stdout: OwnedFd,
    /// Its standard error.
    pub stderr: OwnedFd,
}

/// To be called first in `main`: when this process was started as a launcher, runs it to its end and returns the exit
/// code to leave with; otherwise returns `None` at once.
pub fn entry() -> Option<i32> {
    crate::serve::entry()
}

/// A handle on the launcher process; cheap to clone, usable from many threads. When the last handle and the last
/// [`Running`] are gone the launcher kills every sandbox, removes what it made and exits.
#[derive(Debug, Clone)]
pub struct Launcher {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    process: Process,
    standing: Standing,
}

/// The launcher process. It is over when this is dropped.
#[derive(Debug)]
struct Process(Begun);

/// A launcher process that gets ready while its caller does something else. Dropping it ends the process.
#[derive(Debug)]
pub struct Starting(Process);

impl Starting {
    /// With which ids it will work.
    pub fn mode(&self) -> Mode {
        self.0.0.mode
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// As [`Launcher::start`].
    pub fn finish(self) -> Result<Launcher, StartError> {
        let standing = self.0.0.greeting()?;
        Ok(Launcher { inner: Arc::new(Inner { process: self.0, standing }) })
    }
}

impl Launcher {
    /// Starts the launcher process and waits until it is ready. Must be called while this process has one thread, and
    /// [`entry`] must be the first thing that `main` calls.
    ///
    /// # Errors
    /// [`StartError::Threads`] when threads exist; [`StartError::Failed`] with the stage otherwise.
    pub fn start(options: &Options) -> Result<Self, StartError> {
        Self::begin(options)?.finish()
    }

    /// As [`Launcher::start`], without waiting until it is ready: for whoever has something to do meanwhile.
    ///
    /// # Errors
    /// As [`Launcher::start`]; what goes wrong in the launcher process itself shows when it is waited for.
    pub fn begin(options: &Options) -> Result<Starting, StartError> {
        single_threaded()?;
        Ok(Starting(Process(crate::start::begin(options)?)))
    }

    /// With which ids it works.
    pub fn mode(&self) -> Mode {
        self.inner.standing.mode
    }

    /// What it can enforce here and what not.
    pub fn standing(&self) -> &Standing {
        &self.inner.standing
    }

    /// Builds a sandbox and executes the program in it. Blocks until exec has happened. The descriptors of `stdio` are
    /// closed on this side in any case.
    ///
    /// # Errors
    /// [`LaunchError::Refused`] lists every needed protection that is missing; [`LaunchError::Failed`] names the stage;
    /// nothing of the sandbox is left.
    pub fn launch(&self, spec: &Spec, stdio: Stdio) -> Result<Running, LaunchError> {
        let (sandbox, program) = (handshake::store("spec", spec)?, handshake::store("program", &Program::of(spec))?);
        let files = files(spec)?;
        let mut out = vec![sandbox.as_fd(), program.as_fd(), stdio.stdin.as_fd(), stdio.stdout.as_fd(), stdio.stderr.as_fd()];
        out.extend(files.as_ref().map(AsFd::as_fd));
        let socket = self.ask(&Request::Launch, &out).map_err(lost)?;
        drop(stdio);
        let (answer, descriptors) = answer(&socket)?;
        self.started(socket, answer, descriptors)
    }

    /// Has a sandbox of this shape built ahead, up to where only the program is lacking: see [`Prepared`]. Does not wait until that
    /// is done; nothing that goes wrong in it is told before [`Prepared::launch`]. The program of `spec`, its arguments, environment,
    /// working directory, files and secrets are not handed over.
    ///
    /// # Errors
    /// [`LaunchError::LauncherGone`], or [`LaunchError::Failed`] when the spec cannot be handed over.
    pub fn prepare(&self, spec: &Spec) -> Result<Prepared, LaunchError> {
        let (shape, open) = (spec.shape(), spec.gives());
        let sandbox = handshake::store("spec", &shape)?;
        let socket = self.ask(&Request::Prepare { open }, &[sandbox.as_fd()]).map_err(lost)?;
        Ok(Prepared { socket, shape, open, spoiled: AtomicBool::new(false), launcher: self.clone() })
    }

    fn started(&self, socket: OwnedFd, answer: Answer, descriptors: Vec<OwnedFd>) -> Result<Running, LaunchError> {
        match answer {
            Answer::Started { init, sockets } => {
                let (sockets, looking) = Sockets::of(&sockets, descriptors);
                let looking = Mutex::new(looking);
                Ok(Running { socket, init, sockets, looking, ended: Mutex::new(None), launcher: Arc::clone(&self.inner) })
            }
            Answer::NotLaunched(error) => Err(error),
            _ => Err(Failure::rule(Stage::Request, "the launcher's answer is not understood").into()),
        }
    }

    /// Makes the directory `path` and directories below it, owned by ids of a sandbox: what [`crate::spec::Upper`] needs.
    /// `path` must not exist, its parent must; it is owned by the caller and has mode 0711. `ids` are the job's range as
    /// root, `None` the launcher's default ones.
    ///
    /// # Errors
    /// [`AreaError::Failed`] when a directory exists or can't be made.
    pub fn create_area(&self, path: &Path, directories: &[AreaDirectory], ids: Option<IdRange>) -> Result<(), AreaError> {
        self.area(&Request::CreateArea { path: path.to_owned(), directories: directories.to_vec(), ids })
    }

    /// Removes `path` and everything below it, whoever owns it, following no symbolic link and crossing into no other
    /// file system. A path that does not exist is success, so that it may be called twice.
    ///
    /// # Errors
    /// [`AreaError::Failed`] names what could not be removed.
    pub fn remove_area(&self, path: &Path) -> Result<(), AreaError> {
        self.area(&Request::RemoveArea { path: path.to_owned() })
    }

    fn area(&self, request: &Request) -> Result<(), AreaError> {
        let socket = self.ask(request, &[]).map_err(|failure| match failure {
            Some(failure) => AreaError::Failed(failure),
            None => AreaError::LauncherGone,
        })?;
        match handshake::receive::<Answer>(socket.as_fd()) {
            Ok((Answer::Area(result), _)) => result,
            Ok(_) | Err(ReceiveError::Malformed) => Err(Failure::rule(Stage::Request, "the launcher's answer is not understood").into()),
            Err(ReceiveError::Closed) => Err(AreaError::LauncherGone),
            Err(ReceiveError::Call(errno)) => Err(Failure::new(Stage::Request, "answer", errno).into()),
        }
    }

    /// Sends a request with a fresh socket to answer on; `Err(None)` when the launcher is gone.
    fn ask(&self, request: &Request, more: &[BorrowedFd<'_>]) -> Result<OwnedFd, Option<Failure>> {
        let failed = |errno| Some(Failure::new(Stage::Request, "request", errno));
        let (ours, theirs) = handshake::pair().map_err(failed)?;
        let mut descriptors = vec![theirs.as_fd()];
        descriptors.extend_from_slice(more);
        match handshake::send(self.inner.process.0.socket.as_fd(), request, &descriptors) {
            Ok(()) => Ok(ours),
            Err(Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN) => Err(None),
            Err(errno) => Err(failed(errno)),
        }
    }
}

/// The files of a spec on their way.
fn files(spec: &Spec) -> Result<Option<OwnedFd>, Failure> {
    if spec.files.is_empty() { Ok(None) } else { handshake::store("files", &spec.files).map(Some) }
}

fn lost(failure: Option<Failure>) -> LaunchError {
    failure.map_or(LaunchError::LauncherGone, LaunchError::Failed)
}

/// The launcher's answer to a launch.
fn answer(socket: &OwnedFd) -> Result<(Answer, Vec<OwnedFd>), LaunchError> {
    loop {
        match handshake::receive::<Answer>(socket.as_fd()) {
            // Of what was prepared; that is known by now.
            Ok((Answer::Built, _)) => {}
            Ok(answer) => return Ok(answer),
            Err(ReceiveError::Closed) => return Err(LaunchError::LauncherGone),
            Err(ReceiveError::Malformed) => return Err(Failure::rule(Stage::Request, "the launcher's answer is not understood").into()),
            Err(ReceiveError::Call(errno)) => return Err(Failure::new(Stage::Request, "answer", errno).into()),
        }
    }
}

/// A sandbox that is built, or being built, up to where its program is lacking. It runs one program or none: dropping it removes
/// it. While it waits it costs no processor time, and what it holds is what its spec named and nothing of any other sandbox.
#[derive(Debug)]
pub struct Prepared {
    socket: OwnedFd,
    shape: Spec,
    /// Whether files and secrets may come.
    open: bool,
    /// Whether it is known that it came to nothing.
    spoiled: AtomicBool,
    launcher: Launcher,
}

impl Prepared {
    /// Whether a spec differs from the one that this was prepared for in nothing but its program, arguments, environment, working
    /// directory, files, secrets and wall clock limit. One without files and secrets fits only what has none.
    pub fn fits(&self, spec: &Spec) -> bool {
        (self.open || !spec.gives()) && spec.shape() == self.shape && spec.files.iter().all(|file| self.shape.leaves(&file.target))
    }

    /// Blocks until it is built; whether it was. To be called once; [`Prepared::launch`] needs no such wait.
    pub fn is_built(&self) -> bool {
        let built = matches!(handshake::receive::<Answer>(self.socket.as_fd()), Ok((Answer::Built, _)));
        // Said once, so that it has to be remembered.
        self.spoiled.store(!built, Ordering::Relaxed);
        built
    }

    /// As [`Launcher::launch`], in what was prepared. Where the spec does not fit it, or it came to nothing, a sandbox is built
    /// anew: what differs is the time that it takes.
    ///
    /// # Errors
    /// As [`Launcher::launch`].
    pub fn launch(self, spec: &Spec, stdio: Stdio) -> Result<Running, LaunchError> {
        if self.spoiled.load(Ordering::Relaxed) || !self.fits(spec) {
            let launcher = self.launcher.clone();
            drop(self);
            return launcher.launch(spec, stdio);
        }
        let program = handshake::store("program", &Program::of(spec))?;
        let mut out = vec![program.as_fd(), stdio.stdin.as_fd(), stdio.stdout.as_fd(), stdio.stderr.as_fd()];
        let files = files(spec)?;
        let secrets = if spec.secrets.is_empty() { None } else { Some(handshake::store("secrets", &spec.secrets)?) };
        out.extend(files.iter().chain(&secrets).map(AsFd::as_fd));
        let go = Control::Go { wall_clock: spec.limits.wall_clock, files: files.is_some(), secrets: secrets.is_some() };
        // Only where it is certain that nothing has run.
        if handshake::send(self.socket.as_fd(), &go, &out).is_err() {
            return self.launcher.launch(spec, stdio);
        }
        match answer(&self.socket)? {
            (Answer::Spoiled, _) => self.launcher.launch(spec, stdio),
            (answer, descriptors) => self.launcher.started(self.socket, answer, descriptors),
        }
    }
}

/// Readable when the launcher process is dead.
impl AsFd for Launcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.process.0.process.as_fd()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The end of file is what makes the launcher clean up; waiting for it keeps the promise that nothing is left.
        let _ = shutdown(self.0.socket.as_raw_fd(), Shutdown::Both);
        let wait = || waitid(Id::PIDFd(self.0.process.as_fd()), WaitPidFlag::WEXITED);
        let ended = loop {
            match wait() {
                Err(Errno::EINTR) => {}
                ended => break ended,
            }
        };
        if let (Some(name), Ok(WaitStatus::Signaled(..))) = (&self.0.unwarded, ended) {
            warden::clear(self.0.pid, name);
        }
    }
}

/// A step that runs. Dropping it kills the step.
#[derive(Debug)]
pub struct Running {
    socket: OwnedFd,
    init: i32,
    sockets: Sockets,
    looking: Mutex<Option<OwnedFd>>,
    ended: Mutex<Option<Outcome>>,
    launcher: Arc<Inner>,
}

impl Running {
    /// The sockets inside its network namespace that [`crate::spec::Network::Exit`] asks for; none when called again.
    pub fn take_sockets(&mut self) -> Sockets {
        std::mem::take(&mut self.sockets)
    }

    /// The process id of the sandbox's init in the namespace of whoever started the launcher. It means this sandbox only until
    /// the step has ended.
    pub fn init(&self) -> i32 {
        self.init
    }

    /// Finds the processes behind connections of this sandbox, while it runs. With a capture on a kernel that can hold packets it has
    /// looked since before the step began, and the first caller gets that one; else nothing is started before the first question.
    pub fn onlooker(&self) -> Onlooker {
        if let Some(socket) = self.looking.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Onlooker::looking(socket);
        }
        let (launcher, init) = (Launcher { inner: Arc::clone(&self.launcher) }, self.init);
        Onlooker::new(Box::new(move || launcher.ask(&Request::Look { init }, &[]).ok()))
    }

    /// Sends a signal to every process of the step's own process group: what it started is in it unless it chose otherwise.
    ///
    /// # Errors
    /// [`SignalError::Ended`] when the step is over.
    pub fn signal(&self, signal: i32) -> Result<(), SignalError> {
        if !(1..=64).contains(&signal) {
            return Err(SignalError::Unknown { signal });
        }
        handshake::send(self.socket.as_fd(), &Control::Signal(signal), &[]).map_err(|_| SignalError::Ended)
    }

    /// Kills every process of the sandbox. May be called twice. [`Running::wait`] then returns soon.
    pub fn kill(&self) {
        // A launcher that is gone has killed it already.
        let _ = handshake::send(self.socket.as_fd(), &Control::Kill, &[]);
    }

    /// Blocks until everything in the sandbox is dead. May be called again: the same outcome.
    ///
    /// # Errors
    /// [`WaitError::LauncherGone`] when the launcher died, and the step with it.
    pub fn wait(&self) -> Result<Outcome, WaitError> {
        self.receive(handshake::receive::<Answer>).map(|outcome| outcome.ok_or(WaitError::LauncherGone))?
    }

    /// As [`Running::wait`], but `None` while the step runs. To wait without blocking, poll this value's descriptor.
    ///
    /// # Errors
    /// As [`Running::wait`].
    pub fn try_wait(&self) -> Result<Option<Outcome>, WaitError> {
        self.receive(handshake::receive_now::<Answer>)
    }

    fn receive(
        &self,
        receive: impl FnOnce(BorrowedFd<'_>) -> Result<(Answer, Vec<OwnedFd>), ReceiveError>,
    ) -> Result<Option<Outcome>, WaitError> {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if ended.is_none() {
            *ended = match receive(self.socket.as_fd()) {
                Ok((Answer::Done(outcome), _)) => Some(outcome),
                Ok(_) | Err(ReceiveError::Malformed) => {
                    return Err(Failure::rule(Stage::Wait, "the launcher's answer is not understood").into());
                }
                Err(ReceiveError::Call(Errno::EAGAIN)) => return Ok(None),
                Err(ReceiveError::Closed) => return Err(WaitError::LauncherGone),
                Err(ReceiveError::Call(errno)) => return Err(Failure::new(Stage::Wait, "answer", errno).into()),
            };
        }
        Ok(ended.clone())
    }
}

/// Readable when the outcome can be taken with [`Running::try_wait`].
impl AsFd for Running {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
