//! Very many short steps from several threads while the machine is busy: every exit arrives as it was, and afterwards there is
//! no more of anything than before.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use caisson_sandbox::launcher::{Launcher, Stdio};
use caisson_sandbox::outcome::Status;
use caisson_sandbox::protection::Protection;
use caisson_sandbox::spec::{Access, Mount, Spec};

/// How many threads launch at once.
const THREADS: usize = 4;
/// How long what dies may take to be gone.
const PATIENCE: Duration = Duration::from_secs(30);
/// How much the launcher's memory may grow, in KiB: what it keeps for the next launch, once.
const GROWTH: usize = 2048;

/// What there is of a launcher's doing.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    cgroups: usize,
    /// Mounts that the launcher sees and its caller doesn't.
    mounts: usize,
    /// Namespaces of its processes, and those that it holds by descriptor.
    namespaces: usize,
    processes: usize,
    zombies: usize,
    launcher_descriptors: usize,
    own_descriptors: usize,
    launcher_kilobytes: usize,
}

/// Runs so many steps and compares; how long it took, or what is wrong.
pub(crate) fn soak(launcher: &Launcher, launcher_pid: i32, steps: usize) -> Result<Duration, String> {
    let load = Load::start();
    round(launcher, THREADS * 4)?;
    let before = settled(launcher_pid, |_| true);
    let start = Instant::now();
    round(launcher, steps)?;
    let took = start.elapsed();
    drop(load);
    let after = settled(launcher_pid, |after| after.within(&before));
    if after.within(&before) { Ok(took) } else { Err(format!("something is left: before {before:?}, after {after:?}")) }
}

/// Each step ends with a code of its own, so that a lost exit and one of another step both show.
fn round(launcher: &Launcher, steps: usize) -> Result<(), String> {
    let next = AtomicUsize::new(0);
    let one = |number: usize| {
        let code = (number % 250) as i32;
        let spec = spec(launcher, &format!("exit {code}"));
        let null = || OwnedFd::from(File::options().read(true).write(true).open("/dev/null").unwrap());
        let stdio = Stdio { stdin: null(), stdout: null(), stderr: null() };
        let running = launcher.launch(&spec, stdio).map_err(|error| format!("step {number}: {error}"))?;
        let outcome = running.wait().map_err(|error| format!("step {number}: {error}"))?;
        match outcome.status {
            Status::Exited(got) if got == code && outcome.cause.is_none() => Ok(()),
            _ => Err(format!("step {number} should exit with {code}: {outcome:?}")),
        }
    };
    let work = || -> Result<(), String> {
        loop {
            match next.fetch_add(1, Ordering::Relaxed) {
                number if number < steps => one(number)?,
                _ => return Ok(()),
            }
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap())
    })
}

fn spec(launcher: &Launcher, script: &str) -> Spec {
    let mut spec = Spec::closed("/bin/sh");
    spec.args = vec!["-c".into(), script.into()];
    spec.mounts.push(Mount::Bind { source: "/usr".into(), target: "/usr".into(), access: Access::ReadOnly, owner: None });
    for name in ["bin", "lib", "lib64"] {
        let target = Path::new("/").join(name);
        if let Ok(to) = std::fs::read_link(&target) {
            spec.mounts.push(Mount::Symlink { target, to });
        }
    }
    spec.limits.pids = Some(64);
    if launcher.standing().enforceable.contains(&Protection::MemoryLimit) {
        spec.limits.memory = Some(256 << 20);
    }
    spec
}

impl Held {
    fn of(launcher: i32) -> Held {
        let entries = |path: String| std::fs::read_dir(path).map_or(0, Iterator::count);
        let lines = |path: String| std::fs::read_to_string(path).map_or(0, |text| text.lines().count());
        let processes = children(launcher);
        let state = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let zombie = |pid: &&i32| state(pid).rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'));
        let zombies = processes.iter().chain(&children(std::process::id() as i32)).filter(zombie).count();
        let mut namespaces = BTreeSet::new();
        for pid in processes.iter().chain([&launcher]) {
            namespaces.extend(links(&format!("/proc/{pid}/ns")));
        }
        namespaces.extend(links(&format!("/proc/{launcher}/fd")).into_iter().filter(|to| to.contains(":[") && !to.starts_with("socket")));
        let status = std::fs::read_to_string(format!("/proc/{launcher}/status")).unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
        Held {
            cgroups: crate::setting::groups_of(launcher).iter().map(|base| entries_of_kind_directory(base)).sum(),
            mounts: lines(format!("/proc/{launcher}/mountinfo")).saturating_sub(lines("/proc/self/mountinfo".to_owned())),
            namespaces: namespaces.len(),
            zombies,
            processes: processes.len(),
            launcher_descriptors: entries(format!("/proc/{launcher}/fd")),
            own_descriptors: entries("/proc/self/fd".to_owned()),
            launcher_kilobytes: resident.unwrap_or(0),
        }
    }

    fn within(&self, before: &Held) -> bool {
        self.cgroups <= before.cgroups
            && self.mounts <= before.mounts
            && self.namespaces <= before.namespaces
            && self.processes <= before.processes
            && self.zombies <= before.zombies
            && self.launcher_descriptors <= before.launcher_descriptors
            && self.own_descriptors <= before.own_descriptors
            && self.launcher_kilobytes <= before.launcher_kilobytes + GROWTH
    }
}

/// What is held once it stays the same and satisfies the condition, or else when patience ends.
fn settled(launcher: i32, condition: impl Fn(&Held) -> bool) -> Held {
    let deadline = Instant::now() + PATIENCE;
    let mut last = Held::of(launcher);
    let mut same = 0;
    while Instant::now() < deadline && !(same >= 5 && condition(&last)) {
        std::thread::sleep(Duration::from_millis(20));
        let now = Held::of(launcher);
        same = if now == last { same + 1 } else { 0 };
        last = now;
    }
    last
}

fn links(directory: &str) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some(std::fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned())).collect()
}

fn children(parent: i32) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_child = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse::<i32>().ok()) == Some(parent)
    };
    pids.filter(is_child).collect()
}

fn entries_of_kind_directory(path: &Path) -> usize {
    std::fs::read_dir(path).into_iter().flatten().flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).count()
}

/// Processes that do nothing but take the processors.
struct Load(Vec<Child>);

impl Load {
    fn start() -> Load {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let busy = || Command::new("/bin/sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        Load((0..processors).map(|_| busy()).collect())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for child in &mut self.0 {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}
