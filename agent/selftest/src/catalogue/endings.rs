//! Living longer than the step. A survivor waits on its standard input: once everything is over outside, a word is written
//! there, and whoever still lives answers.

use std::ffi::CStr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, posix_spawn};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::Mode;

use crate::attack::{Act, After, Attack, Control, as_it_is};
use crate::reach::{command, proc};
use crate::scene::Scene;
use crate::verdict::Verdict;

macro_rules! survivor {
    ($id:literal, $tries:literal, $code:expr) => {
        Attack::new($id, $tries, Act::Code($code), Control::Outside).alone(as_it_is, nothing_lives)
    };
}

pub(super) const ATTACKS: &[Attack] = &[
    survivor!("survival.child", "leave a child behind", |_| leave(Detach::No)),
    survivor!("survival.double-fork", "leave a grandchild behind that has no parent", |_| leave(Detach::Orphan)),
    survivor!("survival.session", "leave a process behind in a session of its own", |_| leave(Detach::Session)),
    survivor!("survival.ignored-signals", "leave a process behind that hears no signal", |_| leave(Detach::Deaf)),
    survivor!("survival.many", "leave fifty processes behind", |_| {
        for _ in 0..50 {
            leave(Detach::Orphan);
        }
        Verdict::succeeded("left behind")
    }),
    survivor!("survival.crash", "leave a child behind and crash", |_| {
        leave(Detach::Orphan);
        // Ends this process without a verdict: what is outside judges.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), Signal::SIGKILL);
        Verdict::unknown("still alive")
    }),
    Attack::new("survival.stopped", "leave a stopped process behind", Act::Code(|_| stopped()), Control::Outside)
        .alone(as_it_is, nothing_held),
    Attack::new("survival.uninterruptible", "leave a process behind that waits in the kernel", Act::Code(waiting), Control::Outside)
        .alone(as_it_is, nothing_held),
];

#[derive(Clone, Copy)]
enum Detach {
    No,
    Orphan,
    Session,
    Deaf,
}

fn leave(how: Detach) -> Verdict {
    let words: &[&str] = match how {
        Detach::Orphan => &["orphan"],
        Detach::Session => &["idle", "session"],
        Detach::No | Detach::Deaf => &["idle"],
    };
    if let Detach::Deaf = how {
        // Blocked signals are inherited over exec.
        let _ = SigSet::all().thread_block();
    }
    match command(words).stdin(Stdio::inherit()).stdout(Stdio::inherit()).spawn() {
        Ok(mut child) => {
            if let Detach::Orphan = how {
                let _ = child.wait();
            }
            // Not waited for: that is the act.
            std::mem::forget(child);
            Verdict::succeeded("left behind")
        }
        Err(error) => Verdict::unknown(format!("nobody could be left behind: {error}")),
    }
}

fn stopped() -> Verdict {
    match command(&["idle"]).stdin(Stdio::inherit()).stdout(Stdio::inherit()).spawn() {
        Ok(child) => {
            let pid = i32::try_from(child.id()).unwrap_or_default();
            let sent = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGSTOP);
            std::mem::forget(child);
            println_survivor(pid);
            Verdict::of(sent, "stopped and left behind")
        }
        Err(error) => Verdict::unknown(error),
    }
}

fn waiting(scene: &Scene) -> Verdict {
    let pipe = scene.own.join(format!("selftest-pipe-{}", std::process::id()));
    if let Err(errno) = nix::unistd::mkfifo(&pipe, Mode::from_bits_truncate(0o600)) {
        return Verdict::unknown(errno);
    }
    let words = ["wait-in-kernel", &pipe.display().to_string()];
    match command(&words).stdin(Stdio::inherit()).stdout(Stdio::inherit()).spawn() {
        Ok(child) => {
            let pid = i32::try_from(child.id()).unwrap_or_default();
            // State D of proc_pid_stat(5).
            let waits = || {
                let text = std::fs::read_to_string(proc(pid, "stat")).unwrap_or_default();
                text.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('D'))
            };
            let deadline = Instant::now() + Duration::from_secs(5);
            while !waits() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
            let verdict = if waits() { Verdict::succeeded("left behind in the kernel") } else { Verdict::unknown("it does not wait") };
            println_survivor(pid);
            children(child.id()).for_each(println_survivor);
            std::mem::forget(child);
            let _ = std::fs::remove_file(pipe);
            verdict
        }
        Err(error) => Verdict::unknown(error),
    }
}

/// The processes that a process of ours has started.
fn children(parent: u32) -> impl Iterator<Item = i32> {
    crate::reach::processes().into_iter().filter(move |pid| {
        let text = std::fs::read_to_string(proc(*pid, "stat")).unwrap_or_default();
        text.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse::<u32>().ok()) == Some(parent)
    })
}

/// Waits in the kernel, deaf to all but SIGKILL, until its child executes something: what the child never comes to, since it opens a
/// pipe first that nobody writes to.
pub(crate) fn wait_in_kernel(pipe: &str) -> i32 {
    let run = || -> nix::Result<()> {
        let mut before = PosixSpawnFileActions::init()?;
        before.add_open(9, pipe, OFlag::O_RDONLY, Mode::empty())?;
        let nothing: [&CStr; 0] = [];
        posix_spawn(c"/proc/self/exe", &before, &PosixSpawnAttr::init()?, &[c"nothing"], &nothing).map(drop)
    };
    i32::from(run().is_err())
}

/// Whoever makes a control ends it by this.
fn println_survivor(pid: i32) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "survivor {pid}");
}

fn nothing_lives(_: &Scene, after: &After) -> Verdict {
    if after.late.contains("alive after the end") {
        return Verdict::succeeded("it answered after the end");
    }
    if after.output.contains("alive after the end") {
        return Verdict::unknown("it answered before the end");
    }
    Verdict::refused("nobody answered after the end")
}

fn nothing_held(_: &Scene, after: &After) -> Verdict {
    if after.late.contains(crate::pipe::HELD) {
        Verdict::succeeded("its output is still held open")
    } else {
        Verdict::refused("its output was closed with the end")
    }
}
