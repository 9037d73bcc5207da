//! What acts reach with: system calls, processes of this very program, paths of `/proc`.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use caisson_sandbox::raw::{self, Argument, Call};
use nix::errno::Errno;

use crate::verdict::Verdict;

/// The name by which this program knows that it is the attacker.
pub const NAME: &str = "hostile";
/// A process of this program, as the attacker, with these words.
pub fn command(words: &[&str]) -> Command {
    // Not by path: who runs it may not be able to walk there.
    let mut command = Command::new("/proc/self/exe");
    command.arg0(NAME).args(words);
    command
}

/// What the kernel answers when it does not even look at what is asked.
const REFUSALS: [Errno; 6] =
    [Errno::EPERM, Errno::EACCES, Errno::ENOSYS, Errno::EAFNOSUPPORT, Errno::EPROTONOSUPPORT, Errno::ESOCKTNOSUPPORT];

/// Makes a list of calls: see `Act::Calls`.
pub fn by_calls(calls: &[Call<'_>]) -> Verdict {
    let came = match raw::attempt(calls) {
        Ok(came) => came,
        Err(errno) => return Verdict::unknown(format!("the calls could not be made: {errno}")),
    };
    if let Some(signal) = came.signal {
        let name = nix::sys::signal::Signal::try_from(signal).map_or_else(|_| signal.to_string(), |signal| signal.to_string());
        return Verdict::refused(format!("killed by {name}"));
    }
    for (at, answer) in came.answers.iter().enumerate() {
        match answer {
            Err(errno) if at + 1 < calls.len() || REFUSALS.contains(errno) => return Verdict::refused(named(*errno)),
            _ => {}
        }
    }
    match came.answers.last() {
        None => Verdict::unknown("no call came back"),
        Some(_) if came.answers.len() < calls.len() => Verdict::unknown("not every call came back"),
        Some(Ok(answer)) => Verdict::succeeded(format!("the call answered {answer}")),
        Some(Err(errno)) => Verdict::succeeded(format!("the kernel went to work: {}", named(*errno))),
    }
}

/// A number's name and meaning.
pub fn named(errno: Errno) -> String {
    format!("{errno:?}")
}

/// One native call with arguments that are known only at run time.
pub fn call(number: i64, arguments: &[Argument]) -> Call<'_> {
    Call { entry: raw::Entry::Native, number, arguments }
}

/// The ids of all processes that can be seen.
pub fn processes() -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// A path below `/proc/PID`.
pub fn proc(pid: i32, below: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{below}"))
}
