//! One program in one sandbox: launched, fed, listened to, waited for, and ended in stages when it must end. The only caller of
//! the launcher; all that blocks happens on threads for it, since the agent's own never fork and never wait.

use std::sync::Arc;
use std::time::Duration;

use caisson_model::outcome::{Cause, DiskResource, Fault, Outcome, Victim};
use caisson_sandbox::error::{LaunchError, Stage as Building};
use caisson_sandbox::launcher::{Launcher, Prepared, Running, Stdio};
use caisson_sandbox::outcome as ended;
use caisson_sandbox::sockets::Sockets;
use caisson_sandbox::spec::Spec;
use nix::fcntl::OFlag;
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::program::Halt;
use crate::stop::{Stages, Stop};

/// SIGINT and SIGTERM by number (signal(7)); the sandbox takes numbers.
const INTERRUPT: i32 = 2;
const TERMINATE: i32 = 15;

/// When and why a step's time is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct TimeLimit {
    /// When.
    pub at: Instant,
    /// How long that was.
    pub limit: Duration,
}

/// A program whose sandbox is built.
pub(super) struct Launched {
    /// The handle.
    pub running: Arc<Running>,
    /// The exit's sockets inside.
    pub sockets: Sockets,
    /// Its output and errors, in one pipe so that their order is kept.
    pub output: pipe::Receiver,
    /// Its input, when it was asked for.
    pub input: Option<pipe::Sender>,
}

/// Whether a program's input is a pipe or ends at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stdin {
    /// Nothing to read.
    Closed,
    /// A pipe.
    Pipe,
}

/// Builds the sandbox and executes its program; in `prepared`, where that fits.
///
/// # Errors
/// The [`Halt`] that ends the step.
pub(super) async fn launch(launcher: &Launcher, prepared: Option<Prepared>, spec: Spec, stdin: Stdin) -> Result<Launched, Halt> {
    let (program, cwd) = (spec.program.to_string_lossy().into_owned(), spec.cwd.display().to_string());
    let pipes = || -> std::io::Result<_> {
        let (output, stdout) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let (read, input) = match stdin {
            Stdin::Pipe => nix::unistd::pipe2(OFlag::O_CLOEXEC).map(|(read, write)| (read, Some(write)))?,
            Stdin::Closed => (std::fs::File::open("/dev/null")?.into(), None),
        };
        let stderr = stdout.try_clone()?;
        let output = pipe::Receiver::from_owned_fd(output)?;
        let input = input.map(pipe::Sender::from_owned_fd).transpose()?;
        Ok((Stdio { stdin: read, stdout, stderr }, output, input))
    };
    let (stdio, output, input) =
        pipes().map_err(|error| Halt::faulted(format!("the pipes of a program could not be made: {error}"), Fault::Environment))?;
    let launcher = launcher.clone();
    let launched = tokio::task::spawn_blocking(move || match prepared {
        Some(prepared) => prepared.launch(&spec, stdio),
        None => launcher.launch(&spec, stdio),
    });
    let launched = launched.await;
    let mut running = match launched {
        Ok(launched) => launched.map_err(|error| refused(&error, &program, &cwd))?,
        Err(error) => return Err(Halt::faulted(format!("launching ended early: {error}"), Fault::Ours)),
    };
    let sockets = running.take_sockets();
    Ok(Launched { running: Arc::new(running), sockets, output, input })
}

/// What a failed launch means for its step: the workflow's fault fails it, anything else is a fault of the machine or ours.
fn refused(error: &LaunchError, program: &str, cwd: &str) -> Halt {
    let fault = match error.fault() {
        caisson_sandbox::error::Fault::User => Fault::User,
        caisson_sandbox::error::Fault::Environment => Fault::Environment,
        caisson_sandbox::error::Fault::Ours => Fault::Ours,
    };
    let message = match error {
        LaunchError::Refused { missing } => {
            let names: Vec<&str> = missing.iter().map(|missing| missing.protection.name()).collect();
            format!("{error}; to run without, pass --allow-missing {}", names.join(","))
        }
        LaunchError::Failed(failure) if failure.stage == Building::Cwd => {
            format!(
                "the working directory {cwd} cannot be entered; an earlier step must make it (actions/checkout brings the project): {failure}"
            )
        }
        LaunchError::Failed(failure) if failure.stage == Building::Exec => {
            format!(
                "'{program}' cannot be executed; the sandbox shows the host's system programs and what earlier steps installed: {failure}"
            )
        }
        _ => error.to_string(),
    };
    let outcome = if fault == Fault::User { Outcome::Failure } else { Outcome::Faulted };
    Halt { outcome, cause: Cause::Sandbox { message, fault } }
}

/// How a program ended.
pub(super) struct Ended {
    /// What the sandbox reports.
    pub outcome: ended::Outcome,
    /// Why it was made to end, if it was.
    pub interruption: Option<Halt>,
}

/// Waits for the program's end; when an order or the time limit comes first, ends it in stages. `standing` is the order under
/// which it was begun, which does not end it.
///
/// # Errors
/// The [`Halt`] when its end is not known.
pub(super) async fn supervise(
    running: Arc<Running>,
    orders: watch::Receiver<Stop>,
    standing: Stop,
    limit: Option<TimeLimit>,
) -> Result<Ended, Halt> {
    let lost = |error: &dyn std::fmt::Display| Halt::faulted(format!("the end of the step is not known: {error}"), Fault::Ours);
    // A thread per running step: tokio's own way to poll a foreign descriptor would need `unsafe` here.
    let waiting = Arc::clone(&running);
    let mut waiting = tokio::task::spawn_blocking(move || waiting.wait());
    let mut orders = orders;
    let mut present = standing;
    let mut interruption: Option<Halt> = None;
    let mut stage: Option<(Instant, Stage)> = None;
    let mut open = true;
    loop {
        if *orders.borrow_and_update() != present {
            present = *orders.borrow();
            let (stages, halt) = match present {
                Stop::Run => continue,
                Stop::Cancel(stages) | Stop::Leave(stages) => (Some(stages), Halt { outcome: Outcome::Cancelled, cause: Cause::Cancelled }),
                Stop::Forget => (None, Halt { outcome: Outcome::Cancelled, cause: Cause::Cancelled }),
            };
            interruption.get_or_insert(halt);
            match stages {
                Some(stages) => stage = Some(begin(&running, stages)),
                None => running.kill(),
            }
        }
        let limit_at = limit.filter(|_| interruption.is_none()).map(|limit| limit.at);
        tokio::select! {
            waited = &mut waiting => return match waited {
                Ok(Ok(outcome)) => Ok(Ended { outcome, interruption }),
                Ok(Err(error)) => Err(lost(&error)),
                Err(error) => Err(lost(&error)),
            },
            changed = orders.changed(), if open => open = changed.is_ok(),
            () = sleep_until(limit_at) => {
                let limit = limit.map(|limit| limit.limit).unwrap_or_default();
                interruption = Some(Halt { outcome: Outcome::TimedOut, cause: Cause::TimedOut { limit } });
                stage = Some(begin(&running, Stages::default()));
            }
            () = sleep_until(stage.as_ref().map(|(at, _)| *at)) => {
                stage = stage.and_then(|(at, due)| match due {
                    Stage::Terminate { kill_after } => {
                        // An error means that it has ended by now.
                        let _ = running.signal(TERMINATE);
                        Some((at + kill_after, Stage::Kill))
                    }
                    Stage::Kill => {
                        running.kill();
                        None
                    }
                });
            }
        }
    }
}

enum Stage {
    Terminate { kill_after: Duration },
    Kill,
}

fn begin(running: &Running, stages: Stages) -> (Instant, Stage) {
    // An error means that it has ended by now.
    let _ = running.signal(INTERRUPT);
    (Instant::now() + stages.terminate_after, Stage::Terminate { kill_after: stages.kill_after })
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// What an ended program means for its step: its exit code, or the halt that it came to.
pub(super) fn verdict(ended: &Ended) -> Result<i32, Halt> {
    if let Some(halt) = &ended.interruption {
        return Err(halt.clone());
    }
    let failed = |cause| Err(Halt { outcome: Outcome::Failure, cause });
    match (&ended.outcome.cause, ended.outcome.status) {
        (Some(ended::Cause::OutOfMemory { limit, peak, victim }), _) => {
            let victim = victim.as_ref().map(|victim| Victim { pid: victim.pid, name: victim.name.clone() });
            failed(Cause::OutOfMemory { limit: *limit, peak: *peak, victim })
        }
        (Some(ended::Cause::Disk { resource, limit, used }), _) => {
            let resource = match resource {
                ended::DiskResource::Bytes => DiskResource::Bytes,
                ended::DiskResource::Inodes => DiskResource::Inodes,
            };
            failed(Cause::Disk { resource, limit: *limit, used: *used })
        }
        (Some(ended::Cause::WallClock { limit }), _) => Err(Halt { outcome: Outcome::TimedOut, cause: Cause::TimedOut { limit: *limit } }),
        (Some(ended::Cause::InitLost), _) => Err(Halt::faulted("the sandbox's first process died without a report", Fault::Ours)),
        (Some(ended::Cause::Killed), _) => {
            Err(Halt::faulted("the sandbox was killed by somebody other than its agent", Fault::Environment))
        }
        (Some(ended::Cause::Pids { limit, .. }), ended::Status::Exited(code)) if code != 0 => {
            failed(Cause::TooManyProcesses { limit: *limit })
        }
        (_, ended::Status::Exited(code)) => Ok(code),
        (_, ended::Status::Signaled(signal)) => failed(Cause::Signal { signal }),
    }
}
