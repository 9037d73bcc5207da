//! Starting the launcher process: fork while single-threaded, take the namespaces that the mode needs, then execute our
//! own program again from a read-only mount of its file.
//!
//! Why a read-only mount and not a copy: a step can always name `/proc/self/exe` of the process that is about to become
//! it (`#!/proc/self/exe` as interpreter line), and so hold our program's file; where file permissions would let it write
//! (without root the file is the same user's) it could replace caisson on the host. Through a mount that is read-only and
//! attached nowhere the write fails with EROFS. A sealed memory file does the same, but copying the program costs
//! milliseconds on every start; it remains the way when our own path can't be found again. Where the launcher is root and the
//! file is its owner's alone to write, permissions do keep every step from it: there a caller may have the launcher run on in the
//! forked process itself.

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{Mode as FileMode, fstat};
use nix::unistd::Pid;

use crate::error::{Failure, Stage, StartError};
use crate::handshake::{self, Greeting, NAME, ReceiveError, SOCKET, Setup};
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
    /// What the launcher runs from.
    pub image: Image,
}

/// What the launcher process runs from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Image {
    /// This program, executed anew: nothing of the caller's memory is in it.
    Fresh,
    /// A copy of the calling process, which spares some milliseconds. Its environment and command line are erased in the copy;
    /// it is for the caller to have read no secret yet. When it is killed its caller clears up after it, in dropping the last
    /// handle; what both could not, the next launcher does. Where the launcher is not root, or where others than its owner may write
    /// the program's file, the image is fresh all the same.
    Copied,
}

impl Default for Options {
    fn default() -> Self {
        Self { cgroup: "caisson".to_owned(), ids: IdRange { base: 0x7000_0000, count: 65536 }, warm: 2, image: Image::Fresh }
    }
}

/// Whether forking is sound: no lock can be held by a thread that the child would lack.
pub(crate) fn single_threaded() -> Result<(), StartError> {
    let threads = std::fs::read_dir("/proc/self/task").map_err(|error| Failure::io(Stage::Start, "/proc/self/task", &error))?.count();
    if threads == 1 { Ok(()) } else { Err(StartError::Threads { threads }) }
}

/// No job's range of ids begins below this.
const LEAST_OF_RANGES: u32 = 65536;

/// A launcher process that gets ready.
#[derive(Debug)]
pub(crate) struct Begun {
    pub socket: OwnedFd,
    pub process: OwnedFd,
    pub pid: Pid,
    pub mode: Mode,
    /// The name of its groups, where it has no warden and its caller is to be that.
    pub unwarded: Option<String>,
}

/// Starts the process, without waiting for it to be ready.
pub(crate) fn begin(options: &Options) -> Result<Begun, StartError> {
    let failed = |subject: &str| {
        let subject = subject.to_owned();
        move |errno| Failure::new(Stage::Start, subject, errno)
    };
    let mode = userns::choose(options.ids);
    let image = if mode == Mode::Root && only_its_owner_writes_us() { options.image } else { Image::Fresh };
    let (ours, theirs) = handshake::pair().map_err(failed("socket"))?;
    let (gate, gate_theirs) = handshake::pair().map_err(failed("socket"))?;
    let pid = match sys::fork().map_err(failed("fork"))? {
        Forked::Child => {
            drop((ours, gate));
            let failure = become_launcher(mode, image, theirs.as_fd(), gate_theirs.as_fd());
            // The caller reads this, or sees the end of file; a child of a fork has nobody else to tell.
            let _ = handshake::send(theirs.as_fd(), &Greeting::Failed(failure), &[]);
            sys::exit_now(1);
        }
        Forked::Parent(pid) => pid,
    };
    drop((theirs, gate_theirs));
    let process = sys::pidfd_open(pid).map_err(failed("pidfd"))?;
    let unwarded = (image == Image::Copied).then(|| options.cgroup.clone());
    let warden = unwarded.is_none();
    let begun = Begun { socket: ours, process, pid, mode, unwarded };
    if mode != Mode::Root {
        // The child has its user namespace; only this side may run newuidmap for it.
        match handshake::receive::<bool>(gate.as_fd()) {
            Ok((true, _)) => userns::map_launcher(pid, mode)?,
            Err(ReceiveError::Closed) => return Err(begun.greeting().err().unwrap_or_else(ended_at_once)),
            _ => return Err(ended_at_once()),
        }
        handshake::send(gate.as_fd(), &true, &[]).map_err(failed("gate"))?;
    }
    let setup = Setup { mode, cgroup: options.cgroup.clone(), ids: options.ids, warm: options.warm, warden };
    // One that died meanwhile has left its reason, or none, where the greeting is read.
    let _ = handshake::send(begun.socket.as_fd(), &setup, &[]);
    Ok(begun)
}

impl Begun {
    /// Waits until it is ready; how it stands.
    pub(crate) fn greeting(&self) -> Result<Standing, StartError> {
        match handshake::receive::<Greeting>(self.socket.as_fd()) {
            Ok((Greeting::Ready(standing), _)) => Ok(standing),
            Ok((Greeting::Failed(failure), _)) => Err(failure.into()),
            Err(ReceiveError::Call(errno)) => Err(Failure::new(Stage::Start, "greeting", errno).into()),
            Err(ReceiveError::Closed | ReceiveError::Malformed) => Err(ended_at_once()),
        }
    }
}

fn ended_at_once() -> StartError {
    Failure::rule(Stage::Start, "the launcher process ended at once; `main` must call caisson_sandbox::launcher::entry first").into()
}

/// Whether nobody but one user of the host can write our program's file. With an access control list the bits of the group
/// are the most that the list gives anyone (acl(5)).
fn only_its_owner_writes_us() -> bool {
    std::fs::metadata("/proc/self/exe").is_ok_and(|file| file.mode() & 0o022 == 0 && file.uid() < LEAST_OF_RANGES)
}

/// The child's side; returns only on failure.
fn become_launcher(mode: Mode, image: Image, socket: BorrowedFd<'_>, gate: BorrowedFd<'_>) -> Failure {
    let run = |()| match image {
        Image::Fresh => execute(socket),
        Image::Copied => serve(socket),
    };
    match prepare(mode, gate).and_then(run) {
        Ok(never) => match never {},
        Err(failure) => failure,
    }
}

/// Goes on as the launcher in this very process. A step could hold our program's file all the same, as said above; but its
/// ids are none of the host's, and so it may not write it.
fn serve(socket: BorrowedFd<'_>) -> Result<Infallible, Failure> {
    let failed = |subject: &'static str| move |errno| Failure::new(Stage::Start, subject, errno);
    no_input()?;
    sys::place(socket, SOCKET, sys::Inherit::No).map_err(failed("socket"))?;
    // Whatever owns one of these is not used again in this process.
    sys::close_from(SOCKET as u32 + 1).map_err(failed("descriptors"))?;
    forget_who_called()?;
    sys::exit_now(crate::serve::run(sys::adopt(SOCKET)))
}

/// Erases command line and environment of this copy, where the first process of each sandbox would have them, and puts the
/// launcher's own name there (proc(5): `stat`, fields 48 to 51).
fn forget_who_called() -> Result<(), Failure> {
    let failed = |error: &io::Error| Failure::io(Stage::Start, "erase the environment", error);
    let stat = std::fs::read_to_string("/proc/self/stat").map_err(|error| failed(&error))?;
    // What follows the name begins with field 3.
    let fields: Vec<u64> =
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(45).take(4).filter_map(|word| word.parse().ok()).collect();
    let [arguments, arguments_end, environment, environment_end] = fields.as_slice() else {
        return Err(Failure::rule(Stage::Start, "/proc/self/stat is not understood"));
    };
    let memory = std::fs::File::options().write(true).open("/proc/self/mem").map_err(|error| failed(&error))?;
    for (start, end) in [(*arguments, *arguments_end), (*environment, *environment_end)] {
        if start == 0 || end < start {
            return Err(Failure::rule(Stage::Start, "command line and environment are not where they should be"));
        }
        memory.write_all_at(&vec![0; (end - start) as usize], start).map_err(|error| failed(&error))?;
    }
    let room = (arguments_end - arguments).saturating_sub(1).min(NAME.len() as u64) as usize;
    memory.write_all_at(&NAME.as_bytes()[..room], *arguments).map_err(|error| failed(&error))?;
    let name = CString::new(NAME).map_err(|_| Failure::rule(Stage::Start, "name"))?;
    nix::sys::prctl::set_name(&name).map_err(|errno| Failure::new(Stage::Start, "name", errno))
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
    if mode != Mode::Root {
        handshake::send(gate, &true, &[]).map_err(failed("gate"))?;
        match handshake::receive::<bool>(gate) {
            Ok(_) => {}
            Err(_) => return Err(Failure::rule(Stage::Start, "the caller gave up")),
        }
        // The ids are mapped: be root of the namespace, so that exec keeps its capabilities.
        userns::become_root(mode == Mode::Single).map_err(failed("namespace root"))?;
    }
    Ok(())
}

fn execute(socket: BorrowedFd<'_>) -> Result<Infallible, Failure> {
    let failed = |subject: &'static str| move |errno| Failure::new(Stage::Start, subject, errno);
    let program = read_only_program()?;
    no_input()?;
    sys::close_on_exec_from(3).map_err(failed("descriptors"))?;
    sys::place(socket, SOCKET, sys::Inherit::Yes).map_err(failed("socket"))?;
    let name = CString::new(NAME).map_err(|_| Failure::rule(Stage::Start, "name"))?;
    let nothing: [CString; 0] = [];
    // No environment: what the caller has in its own must not be in the memory of a sandbox's init.
    nix::unistd::execveat(&program, c"", &[name], &nothing, AtFlags::AT_EMPTY_PATH).map_err(failed("execute our own program"))
}

/// Standard input and output lead nowhere; errors may go where the caller's go.
fn no_input() -> Result<(), Failure> {
    let failed = |subject: &'static str| move |errno| Failure::new(Stage::Start, subject, errno);
    let null = nix::fcntl::open("/dev/null", OFlag::O_RDWR, FileMode::empty()).map_err(failed("/dev/null"))?;
    nix::unistd::dup2_stdin(&null).map_err(failed("stdin"))?;
    nix::unistd::dup2_stdout(&null).map_err(failed("stdout"))
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
