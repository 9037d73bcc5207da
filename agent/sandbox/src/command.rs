//! A program in a sandbox, in the shape of [`std::process::Command`]: build it up, then `spawn`, `output` or `status`. What
//! is not given does not exist inside: no file of the host, no variable, no network.
//!
//! [`start`] comes first in `main`, before any thread: it makes the one process that builds sandboxes.
//!
//! ```standalone_crate
//! use caisson_sandbox::command::{self, Command};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     command::start()?;
//!     let output = Command::new("/bin/sh").system().args(["-c", "echo hello; id -u"]).output()?;
//!     assert!(output.outcome.success());
//!     assert_eq!(output.stdout, b"hello\n1000\n");
//!     Ok(())
//! }
//! ```

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::{LaunchError, SignalError, StartError, WaitError};
use crate::launcher::{self, Launcher, Options, Running};
use crate::outcome::Outcome;
use crate::protection::Protection;
use crate::spec::{Access, Identity, Mount, Spec};

/// The launcher of [`Command`]s that name none.
static LAUNCHER: OnceLock<Launcher> = OnceLock::new();

/// To be called first in `main`. When this process was started as a launcher, runs it to its end and exits; otherwise starts
/// the launcher that every [`Command`] of this process uses. May be called twice.
///
/// # Errors
/// [`StartError::Threads`] when threads exist already; [`StartError::Failed`] when this host can make no sandbox.
pub fn start() -> Result<(), StartError> {
    if let Some(code) = launcher::entry() {
        std::process::exit(code);
    }
    if LAUNCHER.get().is_none() {
        let launcher = Launcher::start(&Options::default())?;
        // Nobody else can have set it: there is one thread.
        let _ = LAUNCHER.set(launcher);
    }
    Ok(())
}

/// Why a program did not run to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// [`start`] was not called.
    #[error("caisson_sandbox::command::start was not called first in `main`")]
    NotStarted,
    /// The sandbox was not built, or the program not found.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// Its end is not known.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// A standard stream could not be made or read.
    #[error("a standard stream of the program")]
    Stream(#[from] io::Error),
}

/// What one standard stream of a program is.
#[derive(Debug, Default)]
pub enum Stdio {
    /// This process's own.
    Inherit,
    /// Nothing: ends at once, or takes everything.
    Null,
    /// A pipe, whose other end is in [`Child`].
    Piped,
    /// This file, pipe or socket.
    File(OwnedFd),
    /// As each verb of [`Command`] says.
    #[default]
    Default,
}

impl From<File> for Stdio {
    fn from(file: File) -> Self {
        Self::File(file.into())
    }
}

impl From<OwnedFd> for Stdio {
    fn from(file: OwnedFd) -> Self {
        Self::File(file)
    }
}

/// A program to run in a sandbox of its own.
///
/// ```standalone_crate
/// use std::time::Duration;
/// use caisson_sandbox::command::{self, Command};
/// use caisson_sandbox::outcome::Cause;
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     command::start()?;
///     // A directory of this machine, read-only at the same place; whoever writes there is refused.
///     let script = "ls /etc/ssl >/dev/null && ! touch /etc/ssl/x 2>/dev/null";
///     let outcome = Command::new("sh").system().bind("/etc/ssl").args(["-c", script]).status()?;
///     assert!(outcome.success());
///     // A limit that ends it has a cause.
///     let outcome = Command::new("sleep").system().arg("60").timeout(Duration::from_millis(50)).status()?;
///     assert!(matches!(outcome.cause, Some(Cause::WallClock { .. })));
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct Command {
    spec: Spec,
    streams: [Stdio; 3],
    launcher: Option<Launcher>,
}

impl Command {
    /// A program: a path inside the sandbox, or a name looked up in the `PATH` inside. Its sandbox is closed.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut spec = Spec::closed(program.as_ref());
        spec.env = vec![("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into())];
        Self { spec, streams: Default::default(), launcher: None }
    }

    /// Uses this launcher in place of the one that [`start`] made.
    pub fn launcher(&mut self, launcher: &Launcher) -> &mut Self {
        self.launcher = Some(launcher.clone());
        self
    }

    /// One more argument.
    pub fn arg(&mut self, argument: impl AsRef<OsStr>) -> &mut Self {
        self.spec.args.push(argument.as_ref().to_owned());
        self
    }

    /// More arguments.
    pub fn args<A: AsRef<OsStr>>(&mut self, arguments: impl IntoIterator<Item = A>) -> &mut Self {
        self.spec.args.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Sets a variable. Nothing of this process's environment is inherited; only `PATH` is there from the beginning.
    pub fn env(&mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Self {
        let name: OsString = name.as_ref().to_owned();
        self.spec.env.retain(|(other, _)| *other != name);
        self.spec.env.push((name, value.as_ref().to_owned()));
        self
    }

    /// Sets several variables.
    pub fn envs<N: AsRef<OsStr>, V: AsRef<OsStr>>(&mut self, variables: impl IntoIterator<Item = (N, V)>) -> &mut Self {
        for (name, value) in variables {
            self.env(name, value);
        }
        self
    }

    /// Takes every variable out, `PATH` as well.
    pub fn env_clear(&mut self) -> &mut Self {
        self.spec.env.clear();
        self
    }

    /// The directory that it starts in, an absolute path inside.
    pub fn current_dir(&mut self, directory: impl AsRef<Path>) -> &mut Self {
        directory.as_ref().clone_into(&mut self.spec.cwd);
        self
    }

    /// Shows the host's programs and libraries: `/usr`, and `/bin`, `/lib` and the like as the host has them. Read-only.
    pub fn system(&mut self) -> &mut Self {
        self.bind("/usr");
        for name in ["bin", "sbin", "lib", "lib32", "lib64", "libx32"] {
            let path = Path::new("/").join(name);
            match std::fs::read_link(&path) {
                Ok(to) => self.spec.mounts.push(Mount::Symlink { target: path, to }),
                Err(_) if path.is_dir() => {
                    self.bind(path);
                }
                Err(_) => {}
            }
        }
        self
    }

    /// Shows a file or directory of the host at its own place, read-only.
    pub fn bind(&mut self, path: impl AsRef<Path>) -> &mut Self {
        self.bind_at(path.as_ref(), path.as_ref(), Access::ReadOnly)
    }

    /// Shows a file or directory of the host at its own place, to be written as its permissions allow.
    pub fn bind_writable(&mut self, path: impl AsRef<Path>) -> &mut Self {
        self.bind_at(path.as_ref(), path.as_ref(), Access::ReadWrite)
    }

    /// Shows a file or directory of the host at another place.
    pub fn bind_at(&mut self, source: impl AsRef<Path>, target: impl AsRef<Path>, access: Access) -> &mut Self {
        let (source, target): (PathBuf, PathBuf) = (source.as_ref().to_owned(), target.as_ref().to_owned());
        self.spec.mounts.push(Mount::Bind { source, target, access, owner: None });
        self
    }

    /// An empty file system in memory, of at most `size` bytes, that belongs to the program.
    pub fn tmpfs(&mut self, target: impl AsRef<Path>, size: u64) -> &mut Self {
        self.spec.mounts.push(Mount::Tmpfs { target: target.as_ref().to_owned(), size, inodes: 100_000, mode: 0o755 });
        self
    }

    /// Most bytes of memory, over all its processes and its files in memory.
    pub fn memory(&mut self, bytes: u64) -> &mut Self {
        self.spec.limits.memory = Some(bytes);
        self
    }

    /// Most processes and threads, the sandbox's own init among them.
    pub fn pids(&mut self, count: u32) -> &mut Self {
        self.spec.limits.pids = Some(count);
        self
    }

    /// Most bytes on everything that it can write.
    pub fn disk(&mut self, bytes: u64) -> &mut Self {
        self.spec.limits.disk = Some(bytes);
        self
    }

    /// Kills it when this time is over.
    pub fn timeout(&mut self, span: Duration) -> &mut Self {
        self.spec.limits.wall_clock = Some(span);
        self
    }

    /// Makes it id 0 of its own user namespace, with [`Identity::ROOT_CAPABILITIES`]. Outside it is nobody.
    pub fn namespace_root(&mut self) -> &mut Self {
        self.spec.identity = Identity::NamespaceRoot;
        self
    }

    /// Goes on without a protection that this host cannot enforce; without this its lack refuses the launch.
    pub fn allow_missing(&mut self, protection: Protection) -> &mut Self {
        self.spec.allow_missing.insert(protection);
        self
    }

    /// Everything else: the spec itself.
    pub fn spec_mut(&mut self) -> &mut Spec {
        &mut self.spec
    }

    /// Its standard input; by default this process's for [`Command::spawn`] and [`Command::status`], nothing for
    /// [`Command::output`].
    pub fn stdin(&mut self, stream: impl Into<Stdio>) -> &mut Self {
        self.streams[0] = stream.into();
        self
    }

    /// Its standard output; by default this process's, a pipe for [`Command::output`].
    pub fn stdout(&mut self, stream: impl Into<Stdio>) -> &mut Self {
        self.streams[1] = stream.into();
        self
    }

    /// Its standard error; likewise.
    pub fn stderr(&mut self, stream: impl Into<Stdio>) -> &mut Self {
        self.streams[2] = stream.into();
        self
    }

    /// Starts it. Blocks until it has been executed.
    ///
    /// # Errors
    /// [`CommandError::Launch`] when it was not executed; nothing of it is left then.
    ///
    /// ```standalone_crate
    /// use std::io::Write;
    /// use caisson_sandbox::command::{self, Command, Stdio};
    ///
    /// fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     command::start()?;
    ///     let mut child = Command::new("tr").system().args(["a-z", "A-Z"]).stdin(Stdio::Piped).stdout(Stdio::Piped).spawn()?;
    ///     child.stdin.take().expect("it is piped").write_all(b"quiet")?;
    ///     assert_eq!(child.wait_with_output()?.stdout, b"QUIET");
    ///     Ok(())
    /// }
    /// ```
    pub fn spawn(&mut self) -> Result<Child, CommandError> {
        self.spawn_with(|| Stdio::Inherit, || Stdio::Inherit)
    }

    /// Runs it to its end and takes what it printed. Blocks.
    ///
    /// # Errors
    /// As [`Command::spawn`] and [`Child::wait_with_output`].
    pub fn output(&mut self) -> Result<Output, CommandError> {
        self.spawn_with(|| Stdio::Null, || Stdio::Piped)?.wait_with_output()
    }

    /// Runs it to its end. Blocks.
    ///
    /// # Errors
    /// As [`Command::spawn`] and [`Child::wait`].
    pub fn status(&mut self) -> Result<Outcome, CommandError> {
        self.spawn()?.wait()
    }

    fn spawn_with(&mut self, input: impl Fn() -> Stdio, output: impl Fn() -> Stdio) -> Result<Child, CommandError> {
        let launcher = self.launcher.as_ref().or_else(|| LAUNCHER.get()).ok_or(CommandError::NotStarted)?;
        let [stdin, stdout, stderr] = &self.streams;
        let or = |stream: &Stdio, default: &dyn Fn() -> Stdio| match stream {
            Stdio::Default => Ok(default()),
            Stdio::Inherit => Ok(Stdio::Inherit),
            Stdio::Null => Ok(Stdio::Null),
            Stdio::Piped => Ok(Stdio::Piped),
            // A command may be spawned again, so that it keeps its own.
            Stdio::File(file) => file.try_clone().map(Stdio::File),
        };
        let (stdin, own_in) = stream(or(stdin, &input)?, io::stdin(), Direction::In)?;
        let (stdout, own_out) = stream(or(stdout, &output)?, io::stdout(), Direction::Out)?;
        let (stderr, own_err) = stream(or(stderr, &output)?, io::stderr(), Direction::Out)?;
        let running = launcher.launch(&self.spec, launcher::Stdio { stdin, stdout, stderr })?;
        Ok(Child { stdin: own_in, stdout: own_out, stderr: own_err, running })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    In,
    Out,
}

/// The program's end of a stream, and ours where it is a pipe.
fn stream(kind: Stdio, own: impl AsFd, direction: Direction) -> io::Result<(OwnedFd, Option<File>)> {
    Ok(match kind {
        Stdio::Inherit | Stdio::Default => (own.as_fd().try_clone_to_owned()?, None),
        Stdio::Null => (File::options().read(true).write(true).open("/dev/null")?.into(), None),
        Stdio::File(file) => (file, None),
        Stdio::Piped => {
            let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
            match direction {
                Direction::In => (read, Some(write.into())),
                Direction::Out => (write, Some(read.into())),
            }
        }
    })
}

/// A program that runs. Dropping it kills everything in its sandbox.
#[derive(Debug)]
pub struct Child {
    /// Where its input is written, when it is piped. Dropping this is the end of its input.
    pub stdin: Option<File>,
    /// Where its output is read, when it is piped.
    pub stdout: Option<File>,
    /// Where its errors are read, when they are piped.
    pub stderr: Option<File>,
    running: Running,
}

impl Child {
    /// Closes its input and blocks until everything in the sandbox is dead. May be called again: the same outcome. Whoever
    /// piped the output has to read it, or the program waits for that: see [`Child::wait_with_output`].
    ///
    /// # Errors
    /// [`CommandError::Wait`] when its end is not known.
    pub fn wait(&mut self) -> Result<Outcome, CommandError> {
        self.stdin = None;
        Ok(self.running.wait()?)
    }

    /// Its outcome, or `None` while it runs.
    ///
    /// # Errors
    /// As [`Child::wait`].
    pub fn try_wait(&self) -> Result<Option<Outcome>, CommandError> {
        Ok(self.running.try_wait()?)
    }

    /// Kills everything in the sandbox. May be called twice.
    pub fn kill(&self) {
        self.running.kill();
    }

    /// Sends a signal to the program's process group.
    ///
    /// # Errors
    /// [`SignalError::Ended`] when it is over.
    pub fn signal(&self, signal: i32) -> Result<(), SignalError> {
        self.running.signal(signal)
    }

    /// Closes its input, reads what it prints on piped streams, both at once, and waits for its end. Blocks.
    ///
    /// # Errors
    /// [`CommandError::Stream`] when a pipe can't be read, and as [`Child::wait`].
    pub fn wait_with_output(mut self) -> Result<Output, CommandError> {
        self.stdin = None;
        let mut sources = [self.stdout.take(), self.stderr.take()];
        let mut taken = [Vec::new(), Vec::new()];
        for source in sources.iter().flatten() {
            fcntl(source, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(io::Error::from)?;
        }
        while sources.iter().any(Option::is_some) {
            let mut waits: Vec<PollFd<'_>> =
                sources.iter().flatten().map(|source| PollFd::new(source.as_fd(), PollFlags::POLLIN)).collect();
            match poll(&mut waits, PollTimeout::NONE) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(io::Error::from(errno).into()),
            }
            drop(waits);
            for (source, taken) in sources.iter_mut().zip(&mut taken) {
                if let Some(file) = source {
                    match file.read_to_end(taken) {
                        Ok(_) => *source = None,
                        // What was there has been taken.
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(error) => return Err(error.into()),
                    }
                }
            }
        }
        let [stdout, stderr] = taken;
        Ok(Output { outcome: self.running.wait()?, stdout, stderr })
    }
}

/// How a program ended and what it printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its end.
    pub outcome: Outcome,
    /// What it printed; empty when that was not piped.
    pub stdout: Vec<u8>,
    /// Its errors; likewise.
    pub stderr: Vec<u8>,
}
