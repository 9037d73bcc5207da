//! Faking a result: speaking to the process that reports, changing the exit code, speaking as somebody else in the log.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::process::Stdio;

use caisson_agent::commands::{Commands, Item};
use nix::sys::signal::Signal;

use super::files::code;
use crate::attack::{Act, After, Attack, Control, as_it_is};
use crate::reach::{command, proc, processes};
use crate::scene::Scene;
use crate::verdict::Verdict;

pub(super) const ATTACKS: &[Attack] = &[
    code!("forging.control-descriptor", "speak on a descriptor that was left open to whoever reports", Outside, |_| {
        let open: Vec<i32> = (3..64).filter(|number| fs::metadata(format!("/proc/self/fd/{number}")).is_ok()).collect();
        // One of them is this very look.
        if open.is_empty() { Verdict::refused("none is open") } else { Verdict::succeeded(format!("{open:?}")) }
    }),
    code!("forging.reporter", "write to a descriptor of the process that reports", Outside, |scene| {
        let opened = (0..16).find_map(|number| OpenOptions::new().write(true).open(proc(scene.first, &format!("fd/{number}"))).ok());
        match opened {
            Some(file) => Verdict::succeeded(format!("opened as {}", file.as_raw_fd())),
            None => Verdict::refused("none can be opened"),
        }
    }),
    code!("forging.others-output", "write to the output of somebody else", Outside, |scene| {
        let own = nix::unistd::getpid().as_raw();
        let path = processes()
            .into_iter()
            .filter(|pid| *pid != own && (*pid == scene.caller || *pid == scene.victim.pid))
            .find(|pid| OpenOptions::new().write(true).open(proc(*pid, "fd/2")).is_ok() || fs::read_link(proc(*pid, "fd/2")).is_ok());
        path.map_or_else(|| Verdict::refused("nobody else's is seen"), |pid| Verdict::succeeded(format!("process {pid}")))
    }),
    Attack::new("forging.exit-code", "end well after having been killed", Act::Code(|_| killed()), Control::Outside)
        .alone(as_it_is, told_killed),
    Attack::new("forging.late-output", "write to the log after the end", Act::Code(|_| late()), Control::Outside)
        .alone(as_it_is, nothing_late),
    Attack::new(
        "forging.commands",
        "have commands obeyed between stop-commands and its token",
        Act::Code(|_| commands()),
        Control::Outside,
    )
    .alone(as_it_is, no_command),
];

/// Its child outlives it and ends well: whoever asks for the last word of the group hears that.
fn killed() -> Verdict {
    if let Ok(child) = command(&["idle"]).stdin(Stdio::inherit()).stdout(Stdio::inherit()).spawn() {
        std::mem::forget(child);
    }
    let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), Signal::SIGKILL);
    Verdict::unknown("still alive")
}

fn told_killed(_: &Scene, after: &After) -> Verdict {
    // A careless observer takes what comes last on the pipe for the end: there the survivor speaks.
    match (after.code, after.late.is_empty()) {
        (137, true) => Verdict::refused("it counts as killed by signal 9"),
        (code, _) => Verdict::succeeded(format!("it counts as {code}, and something spoke after that")),
    }
}

fn late() -> Verdict {
    if let Ok(child) = command(&["idle"]).stdin(Stdio::inherit()).stdout(Stdio::inherit()).spawn() {
        std::mem::forget(child);
        return Verdict::succeeded("left behind");
    }
    Verdict::unknown("nobody could be left behind")
}

fn nothing_late(_: &Scene, after: &After) -> Verdict {
    if after.late.trim().is_empty() { Verdict::refused("nothing came after the end") } else { Verdict::succeeded(after.late.trim()) }
}

const FAKED: &str = "::stop-commands::TOKEN\n::add-mask::x\n  ::set-output name=a::b\n::token::\n::TOKEN ::\n::TOKEN\n\r::add-mask::y\n##[add-mask]z\n::save-state name=a::b\n";

fn commands() -> Verdict {
    let done = std::io::stdout().write_all(FAKED.as_bytes());
    Verdict::of(done, "written")
}

fn no_command(scene: &Scene, after: &After) -> Verdict {
    // In a control the reader does not know what stop-commands means: it begins after that line.
    let text = if scene.first == 1 { after.output.as_str() } else { after.output.split_once('\n').map_or("", |(_, rest)| rest) };
    let mut splitter = Commands::new();
    let mut items = Vec::new();
    splitter.feed(text.as_bytes(), &mut items);
    splitter.finish(&mut items);
    let obeyed: Vec<String> = items
        .iter()
        .filter_map(|item| match item {
            Item::Command(caisson_agent::commands::Command::Stop, _) | Item::Text(_) => None,
            Item::Command(command, _) => Some(format!("{command:?}")),
        })
        .collect();
    match (text.contains("add-mask"), obeyed.is_empty()) {
        (false, _) => Verdict::unknown("the output did not arrive"),
        (true, true) => Verdict::refused("all of it is text"),
        (true, false) => Verdict::succeeded(obeyed.join(", ")),
    }
}
