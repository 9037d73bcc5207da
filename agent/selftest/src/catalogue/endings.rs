//! Living longer than the step. A survivor waits on its standard input: once everything is over outside, a word is written
//! there, and whoever still lives answers.

use std::process::Stdio;

use nix::sys::signal::{SigSet, Signal};

use crate::attack::{Act, After, Attack, Control, as_it_is};
use crate::reach::command;
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
