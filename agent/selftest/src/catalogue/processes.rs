//! Other processes: those of the host, of the agent, of another job, and the sandbox's own first one.

use std::fs;
use std::io::{Read, Seek, SeekFrom};

use caisson_sandbox::raw::Argument::{Answer, Foreign, Vector, Word};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::files::code;
use crate::attack::{Act, After, Attack, Control, as_it_is};
use crate::reach::{by_calls, call, named, proc, processes};
use crate::scene::Scene;
use crate::verdict::Verdict;

pub(super) const ATTACKS: &[Attack] = &[
    code!("processes.see", "see processes of the host", Outside, |scene| sees(&scene.victim.marker)),
    Attack::new("processes.see-other-job", "see processes of another job", Act::Code(see_other), Control::Outside),
    code!("processes.signal", "signal a process of the host", Outside, |scene| {
        by_calls(&[call(libc::SYS_kill, &[pid(scene), Word(libc::SIGCONT as u64)])]).or_missing()
    }),
    code!("processes.signal-thread", "signal a thread of the host", Outside, |scene| {
        by_calls(&[call(libc::SYS_tgkill, &[pid(scene), pid(scene), Word(libc::SIGCONT as u64)])]).or_missing()
    }),
    code!("processes.pidfd", "open a handle on a process of the host", Outside, |scene| {
        by_calls(&[call(libc::SYS_pidfd_open, &[pid(scene), Word(0)])]).or_missing()
    }),
    code!("processes.pidfd-signal", "signal the host by a handle of a directory in /proc", Outside, pidfd_by_proc),
    code!("processes.pidfd-descriptor", "take a descriptor of a process of the host", Outside, |scene| {
        by_calls(&[call(libc::SYS_pidfd_open, &[pid(scene), Word(0)]), call(libc::SYS_pidfd_getfd, &[Answer(0), Word(0), Word(0)])])
    }),
    code!("processes.trace", "trace a process of the host", Outside, |scene| {
        by_calls(&[call(libc::SYS_ptrace, &[Word(0x4206), pid(scene), Word(0), Word(0)])]).or_missing()
    })
    .needing(SCOPE),
    code!("processes.read-memory", "read the memory of a process of the host", Outside, |scene| {
        let there = Foreign { address: scene.victim.address, length: 8 };
        by_calls(&[call(libc::SYS_process_vm_readv, &[pid(scene), Vector(8), Word(1), there, Word(1), Word(0)])]).or_missing()
    })
    .needing(SCOPE),
    code!("processes.write-memory", "write the memory of a process of the host", Outside, |scene| {
        // The planted word lies in writable memory; zeros over its first byte harm nothing that it does.
        let there = Foreign { address: scene.victim.address, length: 1 };
        by_calls(&[call(libc::SYS_process_vm_writev, &[pid(scene), Vector(1), Word(1), there, Word(1), Word(0)])]).or_missing()
    })
    .needing(SCOPE),
    code!("processes.memory-file", "read its memory by /proc", Outside, memory_file).needing(SCOPE),
    code!("processes.environment", "read the environment of a process of the host", Outside, |scene| {
        holds(&proc(scene.victim.pid, "environ"), &scene.canary)
    }),
    code!("processes.command-line", "read the command line of a process of the host", Outside, |scene| {
        holds(&proc(scene.victim.pid, "cmdline"), &scene.victim.marker)
    }),
    code!("processes.descriptors", "open the descriptors of a process of the host", Outside, |scene| {
        Verdict::of(fs::read_dir(proc(scene.victim.pid, "fd")), "its descriptors can be listed")
    }),
    code!("processes.namespace", "join a namespace of a process of the host", Root, |scene| {
        match fs::File::open(proc(scene.victim.pid, "ns/uts")) {
            Ok(namespace) => Verdict::of(nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWUTS), "joined"),
            Err(error) => Verdict::refused(error),
        }
    }),
    code!("processes.limits", "change the limits of a process of the host", Outside, |scene| {
        by_calls(&[call(libc::SYS_prlimit64, &[pid(scene), Word(7), Word(0), caisson_sandbox::raw::Argument::Room(16)])]).or_missing()
    }),
    code!("processes.affinity", "change where a process of the host runs", Outside, |scene| {
        by_calls(&[call(libc::SYS_sched_getaffinity, &[pid(scene), Word(128), caisson_sandbox::raw::Argument::Room(128)])]).or_missing()
    }),
    code!("processes.first-memory", "read the memory of the sandbox's first process", Outside, |scene| {
        Verdict::of(fs::File::open(proc(scene.first, "mem")), "its memory can be opened")
    })
    .needing(SCOPE),
    code!("processes.first-descriptors", "list the descriptors of the sandbox's first process", Outside, |scene| {
        match fs::read_dir(proc(scene.first, "fd")).map(Iterator::count) {
            Ok(0) => Verdict::refused("none is shown"),
            other => Verdict::of(other, "its descriptors can be listed"),
        }
    }),
    code!("processes.first-environment", "read the environment of the sandbox's first process", Outside, |scene| {
        match fs::read(proc(scene.first, "environ")) {
            Ok(bytes) if bytes.is_empty() => Verdict::refused("it is empty"),
            other => Verdict::of(other, "its environment can be read"),
        }
    }),
    code!("processes.first-trace", "trace the sandbox's first process", Outside, |scene| {
        by_calls(&[call(libc::SYS_ptrace, &[Word(0x4206), Word(scene.first as u64), Word(0), Word(0)])]).or_missing()
    })
    .needing(SCOPE),
    Attack::new("processes.first-kill", "kill the sandbox's first process", Act::Code(kill_first), Control::Outside)
        .alone(as_it_is, first_lives),
    Attack::new("processes.first-stop", "stop the sandbox's first process, so that nothing ends", Act::Code(stop_first), Control::Outside)
        .alone(as_it_is, first_lives),
];

const SCOPE: &[crate::needs::Need] = &[crate::needs::Need::Setting("/proc/sys/kernel/yama/ptrace_scope", &["0"])];

fn pid(scene: &Scene) -> caisson_sandbox::raw::Argument {
    Word(scene.victim.pid as u64)
}

impl Verdict {
    /// "No such process" is a refusal here: what cannot be seen cannot be hit.
    fn or_missing(self) -> Verdict {
        if self.result == crate::verdict::Result::Succeeded && self.detail.ends_with("ESRCH") {
            return Verdict::refused("ESRCH");
        }
        self
    }
}

fn sees(marker: &str) -> Verdict {
    let seen = processes();
    for pid in &seen {
        let line = fs::read(proc(*pid, "cmdline")).unwrap_or_default();
        if line.windows(marker.len()).any(|window| window == marker.as_bytes()) {
            return Verdict::succeeded(format!("it is process {pid} here"));
        }
    }
    Verdict::refused(format!("{} processes are seen, all of this sandbox", seen.len()))
}

fn see_other(scene: &Scene) -> Verdict {
    match &scene.other {
        Some(marker) => sees(marker),
        None => Verdict::skipped("no other job runs"),
    }
}

fn pidfd_by_proc(scene: &Scene) -> Verdict {
    // Before 5.3 a descriptor of /proc/PID was the only handle; the kernel still takes it.
    let directory = match fs::File::open(proc(scene.victim.pid, "")) {
        Ok(directory) => directory,
        Err(error) => return Verdict::refused(error),
    };
    use std::os::fd::AsRawFd;
    let signal = [Word(directory.as_raw_fd() as u64), Word(libc::SIGCONT as u64), Word(0), Word(0)];
    by_calls(&[call(libc::SYS_pidfd_send_signal, &signal)])
}

fn memory_file(scene: &Scene) -> Verdict {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = fs::File::open(proc(scene.victim.pid, "mem"))?;
        file.seek(SeekFrom::Start(scene.victim.address))?;
        let mut bytes = vec![0; 16];
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) => Verdict::succeeded(format!("{} bytes", bytes.len())),
        Err(error) => Verdict::refused(error),
    }
}

fn holds(path: &std::path::Path, word: &str) -> Verdict {
    match fs::read(path) {
        Ok(bytes) if bytes.windows(word.len()).any(|window| window == word.as_bytes()) => Verdict::succeeded(path.display()),
        Ok(_) => Verdict::refused("it holds something else"),
        Err(error) => Verdict::refused(error),
    }
}

/// In a control the first process is one made for it, and is waited for a moment: a signal takes effect after the call.
fn ended(pid: i32) -> bool {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(2);
    while std::time::Instant::now() < deadline {
        let stat = fs::read_to_string(proc(pid, "stat")).unwrap_or_default();
        let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
        if matches!(state, None | Some('Z' | 'X' | 'T')) && fs::metadata("/proc/self").is_ok() && (pid != 1 || state.is_some()) {
            return true;
        }
        if pid == 1 {
            // Hidden from us or not: that we still run is the answer.
            return false;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    false
}

fn hit(pid: i32, signals: &[Signal]) -> Verdict {
    let mut answers = Vec::new();
    for signal in signals {
        match kill(Pid::from_raw(pid), *signal) {
            Ok(()) => answers.push(format!("{signal} sent")),
            Err(errno) => answers.push(named(errno)),
        }
    }
    if ended(pid) { Verdict::succeeded(answers.join(", ")) } else { Verdict::refused(format!("{}; it lives", answers.join(", "))) }
}

fn kill_first(scene: &Scene) -> Verdict {
    hit(scene.first, &[Signal::SIGTERM, Signal::SIGHUP, Signal::SIGSEGV, Signal::SIGSYS, Signal::SIGKILL])
}

fn stop_first(scene: &Scene) -> Verdict {
    hit(scene.first, &[Signal::SIGTSTP, Signal::SIGSTOP])
}

fn first_lives(_: &Scene, after: &After) -> Verdict {
    match &after.said {
        Some(said) if after.cause.is_none() => said.clone(),
        _ => Verdict::succeeded(format!("the sandbox ended with {:?}, code {}", after.cause, after.code)),
    }
}
