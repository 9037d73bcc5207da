//! The step's process between fork and exec: it gives up everything, in an order in which each stage needs what a later
//! one takes away.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use caps::{CapSet, Capability, CapsHashSet};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid};

use crate::error::{Failure, Stage};
use crate::handshake::{self, Go, Prelude, ReceiveError};
use crate::plan::{Plan, Program, Rlimit};
use crate::seccomp;
use crate::spec::Identity;
use crate::sys;

/// Landlock scopes (landlock(7), ABI 6): abstract sockets and signals stay within.
const SCOPES: u64 = 0b11;

/// Where the step's process has its program from. Descriptors: program, stdin, stdout, stderr.
pub(crate) enum Source {
    /// It is there.
    Here([OwnedFd; 4]),
    /// It comes when all else is done.
    Comes(OwnedFd),
}

/// Becomes the program; returns only on failure. One that has to wait for its program has given up everything before.
pub(crate) fn run(plan: &Plan, source: Source, report: BorrowedFd<'_>) -> Result<Infallible, Failure> {
    let failed = |stage, subject: &'static str| move |errno| Failure::new(stage, subject, errno);
    // Its own session: no controlling terminal, and none can be pushed on it since it opens none of the host.
    nix::unistd::setsid().map_err(failed(Stage::Identity, "session"))?;
    rlimits(&plan.rlimits)?;
    let keep: CapsHashSet = match plan.identity {
        Identity::User { .. } => CapsHashSet::new(),
        Identity::NamespaceRoot => Identity::ROOT_CAPABILITIES.iter().filter_map(|name| name.parse::<Capability>().ok()).collect(),
    };
    // The bounding set first: dropping from it needs a capability that the change of ids takes.
    sys::drop_bounding(|number| keep.iter().any(|cap| u32::from(cap.index()) == number))
        .map_err(failed(Stage::Capabilities, "bounding"))?;
    let (uid, gid) = (Uid::from_raw(plan.identity.uid()), Gid::from_raw(plan.identity.gid()));
    if !plan.groups_denied {
        nix::unistd::setgroups(&[gid]).map_err(failed(Stage::Identity, "groups"))?;
    }
    nix::unistd::setresgid(gid, gid, gid).map_err(failed(Stage::Identity, "gid"))?;
    nix::unistd::setresuid(uid, uid, uid).map_err(failed(Stage::Identity, "uid"))?;
    let none = CapsHashSet::new();
    sys::clear_ambient().map_err(failed(Stage::Capabilities, "ambient"))?;
    for (set, value) in [(CapSet::Ambient, &none), (CapSet::Inheritable, &none), (CapSet::Effective, &keep), (CapSet::Permitted, &keep)] {
        caps::set(None, set, value).map_err(|_| Failure::new(Stage::Capabilities, format!("{set:?}"), Errno::EPERM))?;
    }
    // The change of ids cleared it.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(failed(Stage::Identity, "death signal"))?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    nix::sys::prctl::set_no_new_privs().map_err(failed(Stage::NoNewPrivs, ""))?;
    match sys::landlock_version() {
        Ok(version) if version >= 6 => sys::landlock_scope(SCOPES).map_err(failed(Stage::Landlock, "scope"))?,
        // Reported by the launcher as missing.
        _ => {}
    }
    sys::reset_signals().map_err(failed(Stage::Exec, "signals"))?;
    let [program, streams @ ..] = match source {
        Source::Here(given) => given,
        Source::Comes(line) => come(&line)?,
    };
    let program: Program = handshake::load(program)?;
    let arguments = arguments(&program)?;
    let environment = program
        .env
        .iter()
        .map(|(name, value)| {
            let (name, value) = (name.as_bytes(), value.as_bytes());
            string([name, b"=", value].concat(), "environment")
        })
        .collect::<Result<Vec<_>, _>>()?;
    let programs = candidates(&program)?;
    for (number, stream) in streams.iter().enumerate() {
        sys::place(stream.as_fd(), number as i32, sys::Inherit::Yes).map_err(failed(Stage::Descriptors, "stream"))?;
    }
    enter(&program.cwd)?;
    sys::close_on_exec_from(3).map_err(failed(Stage::Descriptors, ""))?;
    if let Some(filter) = &plan.filter {
        if plan.listening {
            let listener = seccomp::load_listening(filter).map_err(failed(Stage::Seccomp, "listener"))?;
            // From here on only calls that the filter allows: nobody answers yet.
            handshake::send(report, &Prelude::Listening, &[listener.as_fd()]).map_err(failed(Stage::Seccomp, "listener"))?;
        } else {
            seccomp::load(filter).map_err(failed(Stage::Seccomp, ""))?;
        }
    }
    let mut error = Errno::ENOENT;
    for program in &programs {
        match nix::unistd::execve(program, &arguments, &environment) {
            Ok(never) => match never {},
            // As execvp does: a later directory of PATH may have it.
            Err(errno @ (Errno::ENOENT | Errno::ENOTDIR)) if error == Errno::ENOENT => error = errno,
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            Err(Errno::EACCES) => error = Errno::EACCES,
            Err(errno) => {
                error = errno;
                break;
            }
        }
    }
    Err(Failure::new(Stage::Exec, program.program.to_string_lossy(), error))
}

/// Waits for the program. Who has nothing to say any more wants none: then there is nobody to tell either.
fn come(line: &OwnedFd) -> Result<[OwnedFd; 4], Failure> {
    match handshake::receive::<Go>(line.as_fd()) {
        Ok((Go::Program, descriptors)) => {
            descriptors.try_into().map_err(|_| Failure::rule(Stage::Release, "a program needs four descriptors"))
        }
        Err(ReceiveError::Call(errno)) => Err(Failure::new(Stage::Release, "program", errno)),
        Err(_) => Err(Failure::rule(Stage::Release, "no program came")),
    }
}

/// Through no magic link: `/proc/self/cwd` and the like would lead back to where this process comes from.
fn enter(cwd: &Path) -> Result<(), Failure> {
    let failed = |errno| Failure::new(Stage::Cwd, cwd.display().to_string(), errno);
    if !cwd.is_absolute() {
        return Err(Failure::rule(Stage::Cwd, format!("{}: not an absolute path", cwd.display())));
    }
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let directory = openat2(AT_FDCWD, cwd, how).map_err(failed)?;
    nix::unistd::fchdir(&directory).map_err(failed)
}

fn rlimits(limits: &[Rlimit]) -> Result<(), Failure> {
    for limit in limits {
        let (resource, value) = match *limit {
            Rlimit::Core(value) => (Resource::RLIMIT_CORE, value),
            Rlimit::OpenFiles(value) => (Resource::RLIMIT_NOFILE, value),
            Rlimit::FileSize(value) => (Resource::RLIMIT_FSIZE, value),
            Rlimit::Processes(value) => (Resource::RLIMIT_NPROC, value),
        };
        let failed = |errno| Failure::new(Stage::Rlimit, format!("{resource:?}"), errno);
        // Hard limits can be lowered by anyone, raised only with a capability of the host: never above ours.
        let (_, hard) = getrlimit(resource).map_err(failed)?;
        let value = value.min(hard);
        setrlimit(resource, value, value).map_err(failed)?;
    }
    Ok(())
}

fn string(bytes: Vec<u8>, what: &str) -> Result<CString, Failure> {
    CString::new(bytes).map_err(|_| Failure::rule(Stage::Exec, format!("{what} has a zero byte")))
}

fn arguments(program: &Program) -> Result<Vec<CString>, Failure> {
    std::iter::once(&program.program).chain(&program.args).map(|word| string(word.as_bytes().to_vec(), "argument")).collect()
}

/// Where the program may lie: as named, or in each directory of the sandbox's own PATH.
fn candidates(program: &Program) -> Result<Vec<CString>, Failure> {
    let (program, env) = (program.program.as_bytes(), &program.env);
    if program.contains(&b'/') {
        return Ok(vec![string(program.to_vec(), "program")?]);
    }
    let path = env.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.as_bytes()).unwrap_or_default();
    path.split(|byte| *byte == b':')
        .filter(|directory| directory.first() == Some(&b'/'))
        .map(|directory| string([directory, b"/", program].concat(), "program"))
        .collect()
}
