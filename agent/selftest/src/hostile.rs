//! The attacker: this program, run under another name. Inside a sandbox it makes acts and says what came of them; outside
//! it makes the same acts as controls, and is the process that is planted as a victim.

use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::sys::stat::Mode;

use crate::attack::{Act, Attack};
use crate::catalogue;
use crate::planted;
use crate::reach::{NAME, by_calls, command, named};
use crate::scene::Scene;
use crate::verdict::{Result as Came, Verdict};

/// What a line with a verdict begins with.
pub const SAYS: &str = "caisson-verdict ";
/// Longest that one act may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// To be called early in `main`: when this process was started as the attacker, does what it was told and returns the exit
/// code to leave with; otherwise returns `None` at once.
pub fn entry() -> Option<i32> {
    // Not `args`, which panics at a word that is no text.
    let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (name, words) = words.split_first()?;
    // The kernel started this program as the interpreter of a script that lies in the sandbox.
    if let (&"/proc/self/exe", [scene, "/caisson/script"]) = (name, words) {
        return Some(one(Path::new(scene), catalogue::SCRIPT, Place::Here));
    }
    if Path::new(name).file_name()? != NAME {
        return None;
    }
    Some(match words {
        ["batch", scene, ids @ ..] => batch(scene, ids),
        ["one", scene, id] => one(Path::new(scene), id, Place::Here),
        ["weakened", scene, id] => one(Path::new(scene), id, Place::Weakened),
        ["victim", directory, marker] => planted::victim(Path::new(directory), marker),
        ["hold", bytes] => catalogue::hold(bytes),
        ["wait-in-kernel", pipe] => catalogue::wait_in_kernel(pipe),
        ["idle", how @ ..] => idle(how),
        // Its child has no parent from here on.
        ["orphan"] => i32::from(command(&["idle"]).spawn().map(std::mem::forget).is_err()),
        _ => 2,
    })
}

/// Does nothing until its standard input ends, then, if it was told anything there, says that it lives.
fn idle(how: &[&str]) -> i32 {
    if how.contains(&"session") {
        let _ = nix::unistd::setsid();
    }
    let mut text = String::new();
    if std::io::stdin().read_line(&mut text).is_ok_and(|count| count > 0) {
        let _ = writeln!(std::io::stdout(), "alive after the end");
    }
    0
}

/// Each attack in a process of its own, so that what becomes of one is nothing to the next.
fn batch(scene: &str, ids: &[&str]) -> i32 {
    for id in ids {
        let ended = command(&["one", scene, id]).stdin(Stdio::null()).spawn().map(|mut child| wait(&mut child));
        match ended {
            Ok(Some(0)) => {}
            Ok(Some(code)) => say(id, &Verdict::unknown(format!("the act ended with {code}"))),
            Ok(None) => say(id, &Verdict::unknown("the act did not end")),
            Err(error) => say(id, &Verdict::unknown(format!("the act could not be begun: {error}"))),
        }
    }
    0
}

/// The exit code, or 128 and the signal; `None` when it had to be killed.
fn wait(child: &mut Child) -> Option<i32> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => {
                use std::os::unix::process::ExitStatusExt;
                return Some(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)));
            }
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    }
}

/// Where an act is made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Here,
    /// In namespaces of its own with all capabilities in them, and no filter.
    Weakened,
}

fn one(scene: &Path, id: &str, place: Place) -> i32 {
    let Some(attack) = catalogue::all().find(|attack| attack.id == id) else { return 2 };
    let verdict = match Scene::read(scene) {
        Ok(scene) => perform(attack, &scene, place),
        Err(error) => Verdict::unknown(format!("the scene cannot be read: {error}")),
    };
    say(id, &verdict);
    0
}

/// Says a verdict on standard output.
pub fn say(id: &str, verdict: &Verdict) {
    let line = serde_json::json!({"id": id, "result": verdict.result, "detail": verdict.detail});
    // Nobody is left to tell when it fails; no verdict counts as not refused.
    let _ = writeln!(std::io::stdout(), "{SAYS}{line}");
}

/// The verdicts in some output, by name, and what else it holds.
pub fn heard(output: &str) -> (Vec<(String, Verdict)>, String) {
    #[derive(serde::Deserialize)]
    struct Line {
        id: String,
        result: Came,
        detail: String,
    }
    let mut verdicts = Vec::new();
    let mut rest = String::new();
    for line in output.lines() {
        match line.strip_prefix(SAYS).and_then(|text| serde_json::from_str::<Line>(text).ok()) {
            Some(Line { id, result, detail }) => verdicts.push((id, Verdict { result, detail })),
            None => {
                rest.push_str(line);
                rest.push('\n');
            }
        }
    }
    (verdicts, rest)
}

fn namespaces() -> CloneFlags {
    CloneFlags::CLONE_NEWUSER
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWCGROUP
}

fn perform(attack: &Attack, scene: &Scene, place: Place) -> Verdict {
    if place == Place::Weakened {
        let ids = (nix::unistd::geteuid(), nix::unistd::getegid());
        if let Err(errno) = nix::sched::unshare(namespaces()) {
            return Verdict::skipped(format!("no weakened sandbox can be made here: unshare: {errno}"));
        }
        // Best effort: an id that is not mapped still has the capabilities.
        let _ = std::fs::write("/proc/self/setgroups", "deny");
        let _ = std::fs::write("/proc/self/uid_map", format!("0 {} 1", ids.0));
        let _ = std::fs::write("/proc/self/gid_map", format!("0 {} 1", ids.1));
    }
    match attack.act {
        Act::Calls(calls) => by_calls(calls),
        Act::Read(paths) => by_reading(paths),
        Act::Write(paths) => by_opening(paths),
        Act::Code(code) => code(scene),
    }
}

fn by_reading(paths: &[&str]) -> Verdict {
    let mut refused = Vec::new();
    for path in paths {
        match first_bytes(Path::new(path)) {
            Ok(0) => refused.push(format!("{path}: empty")),
            Ok(count) => return Verdict::succeeded(format!("{path}: {count} bytes")),
            Err(errno) => refused.push(format!("{path}: {}", named(errno))),
        }
    }
    Verdict::refused(refused.join(", "))
}

/// How many bytes a file gives at once, without waiting for more.
fn first_bytes(path: &Path) -> Result<usize, Errno> {
    let file = nix::fcntl::open(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut bytes = [0; 4096];
    match nix::unistd::read(&file, &mut bytes) {
        // Opened, and nothing there yet.
        Err(Errno::EAGAIN) => Ok(0),
        other => other,
    }
}

fn by_opening(paths: &[&str]) -> Verdict {
    let mut refused = Vec::new();
    for path in paths {
        match nix::fcntl::open(*path, OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC, Mode::empty()) {
            Ok(_) => return Verdict::succeeded(format!("{path} opened for writing")),
            Err(errno) => refused.push(format!("{path}: {}", named(errno))),
        }
    }
    Verdict::refused(refused.join(", "))
}
