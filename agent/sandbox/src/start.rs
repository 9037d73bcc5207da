//! Starting the launcher process: fork while single-threaded, take the namespaces that the mode needs, then execute our
//! own program again from a read-only mount of its file.
//!
//! Why a read-only mount and not a copy: a step can always name `/proc/self/exe` of the process that is about to become
//! it (`#!/proc/self/exe` as interpreter line), and so hold our program's file; where file permissions would let it write
//! (without root the file is the same user's) it could replace caisson on the host. Through a mount that is read-only and
//! attached nowhere the write fails with EROFS. A sealed memory file does the same, but copying the program costs
//! milliseconds on every start; it remains the way when our own path can't be found again.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{Mode as FileMode, fstat};
use serde::{Deserialize, Serialize};

use crate::error::{Failure, Stage, StartError};
use crate::handshake::{self, Greeting, ReceiveError};
use crate::host::{Mode, Standing};
use crate::share;
use crate::spec::IdRange;
use crate::sys::{self, Forked, MountChange};
use crate::userns;

/// How to start a launcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Name of the group made for this launcher below the caller's own cgroup; one path component. The process id and
    /// start time are added, so that what a crash left can be told from what is alive.
    pub cgroup: String,
    /// The host ids that [`crate::spec::Ids::Default`] stands for as root.
    pub ids: IdRange,
    /// How many sandboxes to keep built up to the spec, ready for the next launch. One-shot: none is used twice.
    pub warm: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { cgroup: "caisson".to_owned(), ids: IdRange { base: 0x7000_0000, count: 65536 }, warm: 2 }
    }
}

/// Whether forking is sound: no lock can be held by a thread that the child would lack.
pub(crate) fn single_threaded() -> Result<(), StartError> {
    let threads = std::fs::read_dir("/proc/self/task").map_err(|error| Failure::io(Stage::Start, "/proc/self/task", &error))?.count();
    if threads == 1 { Ok(()) } else { Err(StartError::Threads { threads }) }
}

/// The launcher's name as its process shows it, and how `entry` knows it.
pub(crate) const NAME: &str = "caisson-launcher";
/// Where the launcher finds its socket.
pub(crate) const SOCKET: i32 = 3;

/// The first message to the launcher process.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub mode: Mode,
    pub cgroup: String,
    pub ids: IdRange,
    pub warm: usize,
}

/// Starts the process; the socket to ask it on, its pidfd, and how it stands.
pub(crate) fn start(options: &Options) -> Result<(OwnedFd, OwnedFd, Standing), StartError> {
    let failed = |subject: &str| {
        let subject = subject.to_owned();
        move |errno| Failure::new(Stage::Start, subject, errno)
    };
    let mode = userns::choose(options.ids);
    let (ours, theirs) = handshake::pair().map_err(failed("socket"))?;
    let (gate, gate_theirs) = handshake::pair().map_err(failed("socket"))?;
    let pid = match sys::fork().map_err(failed("fork"))? {
        Forked::Child => {
            drop((ours, gate));
            let failure = become_launcher(mode, theirs.as_fd(), gate_theirs.as_fd());
            // The caller reads this, or sees the end of file; a child of a fork has nobody else to tell.
            let _ = handshake::send(theirs.as_fd(), &Greeting::Failed(failure), &[]);
            sys::exit_now(1);
        }
        Forked::Parent(pid) => pid,
    };
    drop((theirs, gate_theirs));
    let process = sys::pidfd_open(pid).map_err(failed("pidfd"))?;
    let setup = Setup { mode, cgroup: options.cgroup.clone(), ids: options.ids, warm: options.warm };
    let greeting = match handshake::receive::<bool>(gate.as_fd()) {
        Ok((true, _)) => {
            // The child has its user namespace; only this side may run newuidmap for it.
            if mode != Mode::Root {
                userns::map_launcher(pid, mode)?;
            }
            handshake::send(gate.as_fd(), &true, &[]).map_err(failed("gate"))?;
            handshake::send(ours.as_fd(), &setup, &[]).map_err(failed("setup"))?;
            handshake::receive::<Greeting>(ours.as_fd())
        }
        Err(ReceiveError::Closed) => handshake::receive::<Greeting>(ours.as_fd()),
        _ => Err(ReceiveError::Malformed),
    };
    match greeting {
        Ok((Greeting::Ready(standing), _)) => Ok((ours, process, standing)),
        Ok((Greeting::Failed(failure), _)) => Err(failure.into()),
        Err(ReceiveError::Call(errno)) => Err(Failure::new(Stage::Start, "greeting", errno).into()),
        Err(ReceiveError::Closed | ReceiveError::Malformed) => {
            Err(Failure::rule(Stage::Start, "the launcher process ended at once; `main` must call caisson_sandbox::launcher::entry first")
                .into())
        }
    }
}

/// The child's side; returns only on failure.
fn become_launcher(mode: Mode, socket: BorrowedFd<'_>, gate: BorrowedFd<'_>) -> Failure {
    match prepare(mode, gate).and_then(|()| execute(socket)) {
        Ok(never) => match never {},
        Err(failure) => failure,
    }
}

fn prepare(mode: Mode, gate: BorrowedFd<'_>) -> Result<(), Failure> {
    let failed = |subject: &'static str| move |errno| Failure::new(Stage::Start, subject, errno);
    if mode == Mode::Root {
        nix::sched::unshare(CloneFlags::CLONE_NEWNS).map_err(failed("mount namespace"))?;
    } else {
        share::halve_signals();
        nix::sched::unshare(CloneFlags::CLONE_NEWUSER).map_err(failed("user namespace"))?;
        nix::sched::unshare(CloneFlags::CLONE_NEWNS).map_err(failed("mount namespace"))?;
    }
    // Slave and not private: what the host mounts later can be used, what it unmounts is not held on to.
    nix::mount::mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
        .map_err(failed("mount propagation"))?;
    handshake::send(gate, &true, &[]).map_err(failed("gate"))?;
    match handshake::receive::<bool>(gate) {
        Ok(_) => {}
        Err(_) => return Err(Failure::rule(Stage::Start, "the caller gave up")),
    }
    if mode != Mode::Root {
        // The ids are mapped: be root of the namespace, so that exec keeps its capabilities.
        userns::become_root(mode == Mode::Single).map_err(failed("namespace root"))?;
    }
    Ok(())
}

fn execute(socket: BorrowedFd<'_>) -> Result<std::convert::Infallible, Failure> {
    let failed = |subject: &'static str| move |errno| Failure::new(Stage::Start, subject, errno);
    let program = read_only_program()?;
    let null = nix::fcntl::open("/dev/null", OFlag::O_RDWR, FileMode::empty()).map_err(failed("/dev/null"))?;
    nix::unistd::dup2_stdin(&null).map_err(failed("stdin"))?;
    nix::unistd::dup2_stdout(&null).map_err(failed("stdout"))?;
    sys::close_on_exec_from(3).map_err(failed("descriptors"))?;
    sys::place(socket, SOCKET, sys::Inherit::Yes).map_err(failed("socket"))?;
    let name = CString::new(NAME).map_err(|_| Failure::rule(Stage::Start, "name"))?;
    let nothing: [CString; 0] = [];
    // No environment: what the caller has in its own must not be in the memory of a sandbox's init.
    nix::unistd::execveat(&program, c"", &[name], &nothing, AtFlags::AT_EMPTY_PATH).map_err(failed("execute our own program"))
}

/// Our program, through a mount that nothing can write through.
fn read_only_program() -> Result<OwnedFd, Failure> {
    let wrap = |error: io::Error| Failure::io(Stage::Start, "/proc/self/exe", &error);
    let running = std::fs::File::open("/proc/self/exe").map_err(wrap)?;
    let path = std::fs::read_link("/proc/self/exe").map_err(wrap)?;
    let mounted = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL).and_then(|path| {
        // Found again by its path, since the mount of the running file belongs to the namespace that was left.
        let tree = sys::open_tree(nix::fcntl::AT_FDCWD, &path, sys::OPEN_TREE_CLONE)?;
        let (found, ours) = (fstat(&tree)?, fstat(&running)?);
        if (found.st_dev, found.st_ino) != (ours.st_dev, ours.st_ino) {
            return Err(Errno::ESTALE);
        }
        let set = sys::MOUNT_ATTR_RDONLY | sys::MOUNT_ATTR_NOSUID | sys::MOUNT_ATTR_NODEV;
        sys::mount_setattr(tree.as_fd(), &MountChange { set, private: true, ..MountChange::default() })?;
        Ok(tree)
    });
    match mounted {
        Ok(tree) => Ok(tree),
        // Deleted or replaced since it was started: copy what runs.
        Err(_) => sealed_copy(running),
    }
}

fn sealed_copy(mut running: std::fs::File) -> Result<OwnedFd, Failure> {
    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let copy = memfd_create(NAME, flags).map_err(|errno| Failure::new(Stage::Start, "memory file", errno))?;
    let mut file = std::fs::File::from(copy);
    io::copy(&mut running, &mut file).map_err(|error| Failure::io(Stage::Start, "copy our own program", &error))?;
    let copy = OwnedFd::from(file);
    let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
    fcntl(&copy, FcntlArg::F_ADD_SEALS(seals)).map_err(|errno| Failure::new(Stage::Start, "seal", errno))?;
    Ok(copy)
}
