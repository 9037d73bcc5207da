//! Controls: the same act where nothing should stop it. One that fails shows that its attack proves nothing.

use std::io::{self, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::sys::time::TimeValLike;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::attack::{Act, After, Attack, Control, as_it_said};
use crate::hostile;
use crate::pipe::Pipe;
use crate::reach;
use crate::scene::Scene;
use crate::verdict::{Result as Came, Verdict};

/// What a control showed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Shown {
    /// The attack.
    pub id: String,
    /// Where it was made: `outside`, `outside as root`, `outside as an ordinary user` or `weakened sandbox`.
    pub place: String,
    /// Whether it succeeded, as it must.
    pub control: Finding,
    /// What the act said, or why it was not made.
    pub detail: String,
}

/// How a control went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    /// The act succeeded: the attack sees what it should.
    Shown,
    /// The act failed here too: the attack proves nothing.
    Failed,
    /// It could not be made on this host.
    Skipped,
}

const PATIENCE: Duration = Duration::from_secs(60);
const AFTERWARDS: Duration = Duration::from_secs(1);
/// The user and group that own nothing.
const NOBODY: u32 = 65534;

/// Makes the control of one attack.
pub fn make(attack: &Attack, scene: &Scene) -> Shown {
    let place = match attack.control {
        Control::Outside => "outside",
        Control::Root => "outside as root",
        Control::Nobody => "outside as an ordinary user",
        Control::Weakened => "weakened sandbox",
    };
    let verdict = possible(attack).map_or_else(
        || try_it(attack, scene).unwrap_or_else(|error| Verdict::unknown(format!("the control could not be made: {error}"))),
        Verdict::skipped,
    );
    let files = matches!(attack.act, Act::Read(_) | Act::Write(_));
    let control = match (verdict.result, verdict.detail.as_str()) {
        (Came::Succeeded, _) => Finding::Shown,
        (Came::Skipped, _) => Finding::Skipped,
        // The kernel has no such call, family or door at all.
        (Came::Refused, "ENOSYS" | "EAFNOSUPPORT" | "EPROTONOSUPPORT" | "ESOCKTNOSUPPORT" | "killed by SIGSEGV") => Finding::Skipped,
        // A file that not even the host's root opens: the host itself keeps it closed (a device cgroup, lockdown, a masked
        // /proc around all of this), and has nothing to show with.
        (Came::Refused, _) if files && attack.control == Control::Root => Finding::Skipped,
        _ => Finding::Failed,
    };
    let detail = match (control, verdict.result) {
        (Finding::Skipped, Came::Refused) if files => format!("not even root can on this host: {}", verdict.detail),
        (Finding::Skipped, Came::Refused) => format!("this kernel does not have it: {}", verdict.detail),
        _ => verdict.detail,
    };
    Shown { id: attack.id.to_owned(), place: place.to_owned(), control, detail }
}

/// Why it cannot be made on this host.
fn possible(attack: &Attack) -> Option<String> {
    if attack.control == Control::Root
        && let Some(lack) = not_host_root()
    {
        return Some(lack);
    }
    attack.needs.iter().find_map(|need| need.lacking())
}

/// What root is asked for by the controls: by number, of capabilities(7).
const ROOT: [(u32, &str); 9] = [
    (2, "CAP_DAC_READ_SEARCH"),
    (12, "CAP_NET_ADMIN"),
    (16, "CAP_SYS_MODULE"),
    (21, "CAP_SYS_ADMIN"),
    (22, "CAP_SYS_BOOT"),
    (23, "CAP_SYS_NICE"),
    (25, "CAP_SYS_TIME"),
    (27, "CAP_MKNOD"),
    (31, "CAP_SETFCAP"),
];

/// Why this process is not the host's root with all its powers; `None` when it is.
fn not_host_root() -> Option<String> {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    if !nix::unistd::geteuid().is_root() || map.split_whitespace().nth(2) != Some("4294967295") {
        return Some("needs the host's root".to_owned());
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let held = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok()).unwrap_or_default();
    ROOT.iter().find(|(number, _)| held & (1 << number) == 0).map(|(_, name)| format!("this root has no {name}"))
}

fn try_it(attack: &Attack, scene: &Scene) -> io::Result<Verdict> {
    // Killing, stopping and looking into "the first process" hits one that is there for it.
    let mut first = reach::command(&["idle"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let result = with_first(attack, scene, &first);
    drop(first.stdin.take());
    first.kill()?;
    first.wait()?;
    result
}

fn with_first(attack: &Attack, scene: &Scene, first: &Child) -> io::Result<Verdict> {
    let scene = Scene { first: i32::try_from(first.id()).unwrap_or_default(), ..scene.clone() };
    let path = scene.directory.join("scene.json");
    std::fs::write(&path, serde_json::to_vec(&scene)?)?;
    let path = path.display().to_string();
    let how = if attack.control == Control::Weakened { "weakened" } else { "one" };
    let mut command = reach::command(&[how, &path, attack.id]);
    command.current_dir(&scene.directory).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    if attack.control == Control::Nobody && nix::unistd::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    let before = processor();
    let started = Instant::now();
    let mut child = command.spawn()?;
    let out = child.stdout.take().ok_or_else(|| io::Error::other("no output"))?;
    let mut pipe = Pipe::new(out.into())?;
    let code = loop {
        pipe.wait(None, Duration::from_millis(2))?;
        if let Some(status) = child.try_wait()? {
            break status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        }
        if started.elapsed() > PATIENCE {
            child.kill()?;
        }
        // A closed pipe is readable at once, always.
        std::thread::sleep(Duration::from_millis(1));
    };
    let wall = started.elapsed().as_secs_f64();
    let processor = processor() - before;
    pipe.drain()?;
    let output = pipe.take();
    if let Some(mut input) = child.stdin.take() {
        let _ = input.write_all(b"go\n");
    }
    let late = pipe.rest(AFTERWARDS)?;
    let (heard, output) = hostile::heard(&output);
    // Left stopped: would hold its memory for ever.
    for line in output.lines() {
        if let Some(pid) = line.strip_prefix("survivor ").and_then(|word| word.parse().ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    let said = heard.into_iter().find(|(id, _)| id == attack.id).map(|(_, verdict)| verdict);
    let after = After { code, cause: None, said, output, late, processor, wall };
    let judge = attack.alone.map_or(as_it_said as fn(&Scene, &After) -> Verdict, |alone| alone.judge);
    Ok(judge(&scene, &after))
}

/// Processor time of all children so far, in seconds.
fn processor() -> f64 {
    getrusage(UsageWho::RUSAGE_CHILDREN)
        .map(|usage| (usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64 / 1e6)
        .unwrap_or_default()
}
