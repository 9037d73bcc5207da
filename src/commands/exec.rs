//! `caisson exec`: one command in the sandbox that steps run in, on the current directory.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use caisson_agent::host::HostRules;
use caisson_agent::id_claim::IdClaim;
use caisson_agent::lower::{self, Passage, Request, Watch};
use caisson_agent::view::{self, System};
use caisson_agent::way::{Way, WayError};
use caisson_gateway::gateway::Gateway;
use caisson_model::outcome::{self, Bytes, EgressEntry, Fault, Verdict};
use caisson_model::policy::{Egress, Grant, Identity, Preset};
use caisson_sandbox::error::{LaunchError, Stage, StartError, WaitError};
use caisson_sandbox::host::Mode;
use caisson_sandbox::launcher::{Running, Stdio};
use caisson_sandbox::outcome::{Cause, DiskResource, Outcome, Status};
use caisson_sandbox::spec::{Access, HostOwner, Ids, Mount, Profile, Refusals, SecretFile, SecretValue, SeenAs, Spec, Upper};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use serde_json::json;

use self::ahead::Ahead;
use self::meter::{Flow, Meter};
use crate::cli;
use crate::commands::surroundings;
use crate::config::{Config, Environment, Flags};
use crate::given::{self, Case};
use crate::machine;
use crate::opening::Opening;
use crate::report::{self, Exit, Explained, Failure};

pub(crate) mod ahead;
mod meter;
mod refusals;

/// Most bytes that the command may write to the throw-away overlay of the current directory; memory, like all of it.
const SCRATCH: u64 = 4 << 30;
/// Most files and directories of the same.
const SCRATCH_FILES: u64 = 1 << 20;
/// Most bytes and files of its home directory.
const HOME_BYTES: u64 = 1 << 30;
const HOME_FILES: u64 = 100_000;

/// The command could not be run.
#[derive(Debug, thiserror::Error)]
enum ExecError {
    /// A path of the command line is not there.
    #[error("cannot show {}", path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The whole host would be shown.
    #[error("the current directory is /, and the whole host would be visible")]
    WholeHost,
    /// Everything that the user keeps would be shown.
    #[error("the current directory is the home directory {}, or holds it, and keys and settings in it would be visible", .0.display())]
    Home(PathBuf),
    /// An act on this process failed.
    #[error("cannot {act}")]
    Host {
        /// The act.
        act: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The way to the network cannot be served.
    #[error("the way out was not opened")]
    Way(#[from] WayError),
    /// The launcher did not start.
    #[error("the sandbox's launcher did not start")]
    Start(#[from] StartError),
    /// The sandbox was not built.
    #[error("the command was not run")]
    Launch(#[source] LaunchError),
    /// Its end is not known.
    #[error("the end of the command is not known")]
    Wait(#[from] WaitError),
}

impl Explained for ExecError {
    fn fault(&self) -> Fault {
        match self {
            ExecError::Path { .. } | ExecError::WholeHost | ExecError::Home(_) => Fault::User,
            ExecError::Host { .. } | ExecError::Way(_) => Fault::Environment,
            ExecError::Start(_) => Fault::Environment,
            ExecError::Launch(error) => fault(error.fault()),
            ExecError::Wait(_) => Fault::Ours,
        }
    }

    fn help(&self) -> Option<String> {
        match self {
            ExecError::Home(_) => Some("go to the project's directory, or say that you mean it with `--ro .` or `--rw .`".to_owned()),
            ExecError::WholeHost => Some("go to the project's directory, or name what it needs with --ro and --rw".to_owned()),
            ExecError::Launch(LaunchError::Refused { missing }) => {
                let names: Vec<String> = missing.iter().map(|missing| missing.protection.to_string()).collect();
                let names = names.join(",");
                Some(format!(
                    "`caisson doctor` says how to get them; to go on without them: --allow-missing {names}, or allow_missing in config.toml"
                ))
            }
            ExecError::Start(_) => Some("`caisson doctor` shows what this host lacks".to_owned()),
            _ => None,
        }
    }
}

fn fault(fault: caisson_sandbox::error::Fault) -> Fault {
    match fault {
        caisson_sandbox::error::Fault::User => Fault::User,
        caisson_sandbox::error::Fault::Environment => Fault::Environment,
        _ => Fault::Ours,
    }
}

/// Runs the command and answers with its exit code.
pub(crate) fn run(arguments: cli::Exec, ahead: Option<Ahead>) -> Result<Exit, Failure> {
    let starting = ahead.unwrap_or_else(ahead::begin).map_err(ExecError::Start);
    let (environment, root) = surroundings();
    let flags = Flags { machine: arguments.machine.clone(), ..Flags::default() };
    let config = Config::settle(&environment, root, flags)?;
    let secrets = given::take(&arguments.given.secrets, &environment, Case::Kept)?;
    let mut host = machine::rules(&config, &environment);
    machine::indexes(&mut host, &config, &arguments.indexes)?;
    let mounts = mounts(&arguments)?;
    let starting = starting?;
    let claim = match starting.mode() {
        Mode::Root => Some(IdClaim::take(&host.id_claims).map_err(|source| ExecError::Host { act: "claim an id range", source })?),
        _ => None,
    };
    let ids = claim.as_ref().map_or(Ids::Default, |claim| Ids::Range(claim.range()));
    let (spec, passage, grant) = describe(&arguments, &environment, &host, &secrets, mounts, ids);
    let signals = Signals::take().map_err(|source| ExecError::Host { act: "take signals over", source })?;
    let (meter, stdio) = streams(arguments.output).map_err(|source| ExecError::Host { act: "hand the standard streams over", source })?;
    let launcher = starting.finish().map_err(ExecError::Start)?;
    let mut running = match launcher.launch(&spec, stdio) {
        Ok(running) => running,
        Err(error) => return not_run(&arguments, error),
    };
    let (ended, ledger) = if grant.egress.is_closed() && arguments.report.is_none() {
        (signals.wait(&running, meter)?, Vec::new())
    } else {
        through_exit(&mut running, &signals, meter, passage, &grant, &host.gateway)?
    };
    let exit = exit_of(&ended);
    tell(&ended, &ledger);
    if let (true, Some(limits)) = (arguments.root && exit != Exit::PASSED, view::limits_of_root(launcher.mode())) {
        report::note(limits);
    }
    if arguments.seccomp_log {
        refusals::lines(&ended.outcome.refused).iter().for_each(|line| report::note(line));
    }
    if let Some(path) = &arguments.report {
        write_report(path, &described(&arguments, exit, &ended, &ledger))?;
    }
    Ok(exit)
}

/// The spec: what steps see, with the current directory.
fn describe(
    arguments: &cli::Exec,
    environment: &Environment,
    host: &HostRules,
    secrets: &[(String, caisson_model::secret::SecretValue)],
    mounts: Vec<Mount>,
    ids: Ids,
) -> (Spec, Passage, Grant) {
    let grant = Grant {
        egress: egress(arguments),
        system_calls: arguments.allow_syscalls.clone(),
        identity: if arguments.root { Identity::Root } else { Identity::User },
        ..Grant::default()
    };
    let inherited = |name: &str| environment.get(std::ffi::OsStr::new(name)).and_then(|value| value.to_str()).map(str::to_owned);
    let user = if arguments.root { "root" } else { view::USER };
    let mut env: Vec<(String, String)> =
        [("PATH", view::PATH), ("HOME", view::HOME), ("USER", user), ("LOGNAME", user), ("LANG", "C.UTF-8")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec();
    env.extend(inherited("TERM").map(|term| ("TERM".to_owned(), term)));
    for (name, value) in secrets {
        env.push((name.clone(), String::from_utf8_lossy(value.expose()).into_owned()));
    }
    for (name, value) in &arguments.env {
        let Some(value) = value.clone().or_else(|| inherited(name)) else { continue };
        env.retain(|(other, _)| other != name);
        env.push((name.clone(), value));
    }
    let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let cwd = arguments.chdir.as_ref().map_or_else(|| here.clone(), |directory| here.join(directory));
    let request = Request {
        program: arguments.command[0].clone(),
        args: arguments.command[1..].iter().map(OsString::clone).collect(),
        env,
        cwd,
        ids,
        system: if arguments.root { System::Overlay(Upper::Memory { size: SCRATCH, inodes: SCRATCH_FILES }) } else { System::ReadOnly },
        mounts,
        counted: Vec::new(),
        profile: Profile::Default,
        files: Vec::new(),
        secrets: secrets.iter().map(|(name, value)| SecretFile { name: name.clone(), value: SecretValue::new(value.expose()) }).collect(),
        timeout: None,
        // Who wants no report does not wait for what could be in it.
        watch: if arguments.report.is_some() { Watch::Told } else { Watch::Silent },
    };
    let (mut spec, passage) = lower::spec(&grant, host, request);
    spec.limits.wall_clock = arguments.timeout;
    spec.limits.cpu_weight = arguments.cpu_weight;
    if arguments.seccomp_log {
        spec.filter.refusals = Refusals::Listed;
    }
    (spec, passage, grant)
}

/// What the words of the command line open.
fn egress(arguments: &cli::Exec) -> Egress {
    let mut egress = Egress { ranges: arguments.ranges.clone(), ..Egress::default() };
    for opening in &arguments.allow {
        match opening {
            Opening::Host(destination) => egress.allow.push(destination.clone()),
            Opening::Group(group) => {
                egress.allow.extend(group.destinations().iter().cloned());
                egress.presets.extend(group.packages());
            }
        }
    }
    if arguments.packages {
        egress.presets.extend([Preset::PythonPackages, Preset::NodePackages, Preset::DebianPackages]);
    }
    egress.presets.sort();
    egress.presets.dedup();
    let reason = if arguments.packages && egress.allow.is_empty() { "--packages" } else { "--allow" };
    egress.reason = reason.to_owned();
    egress
}

/// The current directory and what was asked for beside it, outer directories before inner ones.
fn mounts(arguments: &cli::Exec) -> Result<Vec<Mount>, ExecError> {
    let real = |path: &Path| path.canonicalize().map_err(|source| ExecError::Path { path: path.to_owned(), source });
    let here = real(Path::new("."))?;
    let mut bound: Vec<(PathBuf, Access)> = Vec::new();
    for (paths, access) in [(&arguments.ro, Access::ReadOnly), (&arguments.rw, Access::ReadWrite)] {
        for path in paths {
            let path = real(path)?;
            bound.retain(|(other, _)| *other != path);
            bound.push((path, access));
        }
    }
    let mut mounts = vec![Mount::Tmpfs { target: view::HOME.into(), size: HOME_BYTES, inodes: HOME_FILES, mode: 0o1777 }];
    let shown = bound.iter().any(|(path, _)| here.starts_with(path));
    if here == Path::new("/") && !shown && arguments.chdir.is_none() {
        return Err(ExecError::WholeHost);
    }
    let home = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().map(|user| user.dir);
    if let Some(home) = home.filter(|home| !shown && home != Path::new("/") && home.starts_with(&here)) {
        return Err(ExecError::Home(home));
    }
    let mut listed: Vec<(PathBuf, Mount)> = Vec::new();
    if !shown && here != Path::new("/") && !view::already_visible(&here) {
        let owner = Some(owner(&here)?);
        let upper = Upper::Memory { size: SCRATCH, inodes: SCRATCH_FILES };
        listed.push((here.clone(), Mount::Overlay { lower: vec![here.clone()], upper, target: here, owner }));
    }
    for (path, access) in bound {
        let owner = Some(owner(&path)?);
        listed.push((path.clone(), Mount::Bind { source: path.clone(), target: path, access, owner }));
    }
    listed.sort_by_key(|(path, _)| path.components().count());
    mounts.extend(listed.into_iter().map(|(_, mount)| mount));
    Ok(mounts)
}

/// The owner of a path, whose files appear as the command's own.
fn owner(path: &Path) -> Result<HostOwner, ExecError> {
    let metadata = path.metadata().map_err(|source| ExecError::Path { path: path.to_owned(), source })?;
    Ok(HostOwner { uid: metadata.uid(), gid: metadata.gid(), seen_as: SeenAs::Step })
}

fn streams(limit: Option<Bytes>) -> io::Result<(Option<Meter>, Stdio)> {
    let own = |fd: BorrowedFd<'_>| -> io::Result<OwnedFd> { fd.try_clone_to_owned() };
    let stdin = own(io::stdin().as_fd())?;
    match limit {
        None => Ok((None, Stdio { stdin, stdout: own(io::stdout().as_fd())?, stderr: own(io::stderr().as_fd())? })),
        Some(Bytes(limit)) => {
            let (meter, [stdout, stderr]) = Meter::new(limit)?;
            Ok((Some(meter), Stdio { stdin, stdout, stderr }))
        }
    }
}

/// How the command ended.
struct Ended {
    outcome: Outcome,
    /// The limit on what it may print, when it was killed for passing it.
    printed_beyond: Option<u64>,
}

/// Signals that a person or a supervisor sends to this process, passed on to the command.
struct Signals(SignalFd);

impl Signals {
    fn take() -> io::Result<Signals> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2] {
            set.add(signal);
        }
        set.thread_block()?;
        Ok(Signals(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?))
    }

    /// Waits for the end, passing signals on. A third interrupt kills.
    fn wait(&self, running: &Running, mut meter: Option<Meter>) -> Result<Ended, ExecError> {
        let mut interrupts = 0;
        let mut printed_beyond = None;
        loop {
            let mut ready = vec![PollFd::new(running.as_fd(), PollFlags::POLLIN), PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            ready.extend(meter.iter().flat_map(Meter::watched).map(|pipe| PollFd::new(pipe, PollFlags::POLLIN)));
            match poll(&mut ready, PollTimeout::NONE) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(ExecError::Host { act: "wait for the command", source: errno.into() }),
            }
            let ended = ready[0].revents().is_some_and(|events| !events.is_empty());
            while let Ok(Some(received)) = self.0.read_signal() {
                let signal = i32::try_from(received.ssi_signo).unwrap_or(0);
                interrupts += usize::from(signal == Signal::SIGINT as i32);
                if interrupts >= 3 {
                    running.kill();
                } else if let Err(error) = running.signal(signal) {
                    tracing::debug!(%error, "a signal came after the end");
                }
            }
            drop(ready);
            // After the end once more: what it printed last is still in the pipe.
            if let Some(passed) = &mut meter {
                match passed.pass() {
                    Flow::Within => {}
                    flow => {
                        printed_beyond = (flow == Flow::Beyond).then_some(passed.limit());
                        // Before its pipes are closed, of which it would die as well.
                        running.kill();
                        meter = None;
                    }
                }
            }
            if ended {
                return Ok(Ended { outcome: running.wait()?, printed_beyond });
            }
        }
    }
}

/// Waits while the policed exit serves the command. Threads exist from here on; the launcher was started before.
fn through_exit(
    running: &mut Running,
    signals: &Signals,
    meter: Option<Meter>,
    passage: Passage,
    grant: &Grant,
    gateway: &Gateway,
) -> Result<(Ended, Vec<EgressEntry>), ExecError> {
    let host = |act| move |source| ExecError::Host { act, source };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(host("start the network's threads"))?;
    let sockets = running.take_sockets();
    let onlooker = running.onlooker();
    let way = runtime.block_on(async { Way::open(sockets, onlooker, passage, &grant.egress, gateway, Arc::new(|_| {})) })?;
    let ended = signals.wait(running, meter);
    let ledger = runtime.block_on(way.close());
    Ok((ended?, ledger))
}

/// The exit code that `--help` promises.
fn exit_of(ended: &Ended) -> Exit {
    let Ended { outcome, printed_beyond } = ended;
    match &outcome.cause {
        // 128 and SIGPIPE: what happens to who writes where nobody reads.
        _ if printed_beyond.is_some() => Exit(141),
        // 128 and SIGXFSZ.
        Some(Cause::Disk { .. }) => Exit(153),
        Some(Cause::WallClock { .. }) => Exit(124),
        Some(Cause::OutOfMemory { .. }) => Exit(137),
        Some(Cause::InitLost) => Exit::OURS,
        _ => Exit(u8::try_from(outcome.code() & 0xff).unwrap_or(u8::MAX)),
    }
}

/// A command that is not there or cannot be executed has the exit codes of a shell.
fn not_run(arguments: &cli::Exec, error: LaunchError) -> Result<Exit, Failure> {
    let code = match &error {
        LaunchError::Failed(failure) if failure.stage == Stage::Exec => match nix::errno::Errno::from_raw(failure.errno) {
            nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR => Some(127),
            _ => Some(126),
        },
        _ => None,
    };
    let missing = match &error {
        LaunchError::Refused { missing } => missing.clone(),
        _ => Vec::new(),
    };
    let failure = Failure::from(ExecError::Launch(error));
    if let Some(path) = &arguments.report {
        let exit = code.unwrap_or_else(|| failure.exit().0);
        let missing: Vec<_> = missing.iter().map(|m| json!({"protection": m.protection.to_string(), "reason": m.reason})).collect();
        write_report(
            path,
            &json!({"exit_code": null, "signal": null, "caisson_exit_code": exit, "cause": {"kind": "not-run", "message": failure.chain.join(": ")},
                "enforced": [], "missing": missing, "egress": []}),
        )?;
    }
    match code {
        None => Err(failure),
        Some(code) => {
            report::say(&failure.render());
            Ok(Exit(code))
        }
    }
}

/// The kind and the text of what ended the command, as `caisson run` has them too.
fn cause_of(ended: &Ended) -> Option<(&'static str, String)> {
    if let Some(limit) = ended.printed_beyond {
        return Some(("output", outcome::Cause::Output { limit }.to_string()));
    }
    Some(match ended.outcome.cause.as_ref()? {
        Cause::OutOfMemory { limit, peak, victim } => {
            let victim = victim.as_ref().map(|victim| outcome::Victim { pid: victim.pid, name: victim.name.clone() });
            ("out-of-memory", outcome::Cause::OutOfMemory { limit: *limit, peak: *peak, victim }.to_string())
        }
        Cause::Disk { resource, limit, used } => {
            let resource = match resource {
                DiskResource::Bytes => outcome::DiskResource::Bytes,
                DiskResource::Inodes => outcome::DiskResource::Inodes,
            };
            ("disk", outcome::Cause::Disk { resource, limit: *limit, used: *used }.to_string())
        }
        Cause::WallClock { limit } => ("timed-out", outcome::Cause::TimedOut { limit: *limit }.to_string()),
        Cause::Pids { limit, .. } => ("too-many-processes", outcome::Cause::TooManyProcesses { limit: *limit }.to_string()),
        Cause::Killed => ("killed", "killed".to_owned()),
        Cause::InitLost => ("init-lost", "the sandbox's init died without a report".to_owned()),
    })
}

/// Says on standard error what the command itself cannot say.
fn tell(ended: &Ended, ledger: &[EgressEntry]) {
    if let Some((_, text)) = cause_of(ended) {
        report::note(&text);
    }
    for entry in ledger.iter().filter(|entry| entry.verdict == Verdict::Refused) {
        report::note(&format!("refused: {}: {}", entry.target(), entry.rule));
    }
    // What a package manager says of it is rarely more than that there is no such version.
    let mut missed: Vec<&str> = ledger
        .iter()
        .filter(|entry| entry.verdict == Verdict::Unreachable && entry.package.is_some())
        .map(|entry| entry.rule.as_str())
        .collect();
    missed.dedup();
    missed.iter().for_each(|rule| report::note(rule));
}

fn described(arguments: &cli::Exec, exit: Exit, ended: &Ended, ledger: &[EgressEntry]) -> serde_json::Value {
    let outcome = &ended.outcome;
    let (code, signal) = match outcome.status {
        Status::Exited(code) => (Some(code), None),
        Status::Signaled(signal) => (None, Some(signal)),
    };
    let cause = cause_of(ended).map(|(kind, message)| json!({"kind": kind, "message": message}));
    let seconds = |span: std::time::Duration| span.as_secs_f64();
    json!({
        "command": arguments.command.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>(),
        "exit_code": code,
        "signal": signal,
        "caisson_exit_code": exit.0,
        "cause": cause,
        "times": {
            "wall_seconds": seconds(outcome.usage.wall),
            "user_seconds": seconds(outcome.usage.user),
            "system_seconds": seconds(outcome.usage.system),
            "build_seconds": seconds(outcome.timing.build),
            "teardown_seconds": seconds(outcome.timing.teardown),
        },
        "peak_memory_bytes": outcome.usage.peak_memory,
        "peak_pids": outcome.usage.peak_pids,
        "io": {"read_bytes": outcome.usage.read_bytes, "written_bytes": outcome.usage.written_bytes},
        "peak_disk_bytes": outcome.usage.peak_disk,
        "peak_inodes": outcome.usage.peak_inodes,
        "enforced": outcome.enforced.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "missing": outcome.missing.iter().map(|m| json!({"protection": m.protection.to_string(), "reason": m.reason})).collect::<Vec<_>>(),
        "egress": ledger,
        "refused_calls": refusals::described(&outcome.refused),
    })
}

fn write_report(path: &Path, report: &serde_json::Value) -> Result<(), ExecError> {
    std::fs::write(path, format!("{report:#}\n")).map_err(|source| ExecError::Path { path: path.to_owned(), source })
}
