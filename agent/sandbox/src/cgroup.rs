//! Control groups, v1 and v2 behind one type (cgroups(7), kernel `cgroup-v2.rst`). Each launcher has a group of its own
//! below the one it was started in, and each sandbox one below that. A lock on the directory tells a living launcher's
//! group from what a crash left.
//!
//! Why not a cgroup library: limits are written by descriptor on the hot path, clone3 needs the directory's descriptor,
//! and the ones at hand draw a D-Bus client into the one privileged process.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, UnlinkatFlags};

use crate::error::{Failure, Stage};
use crate::hierarchy::{Controller, Hierarchy, above, delegate, hierarchies};
use crate::host::CgroupLayout;
use crate::notices::Notices;
use crate::protection::Missing;
use crate::spec::Limits;
use crate::ticks::{self, Spent};

/// The groups of sandboxes below a launcher's own.
pub(crate) fn sandboxes_below(directory: &Path) -> Vec<PathBuf> {
    let numbered = |name: &std::ffi::OsStr| name.to_str().is_some_and(|name| name.parse::<u64>().is_ok());
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter(|entry| numbered(&entry.file_name())).map(|entry| entry.path()).collect()
}

/// A controller and its group that is ours to write, or why there is none.
pub(crate) type Surveyed = (Controller, Result<PathBuf, String>);

/// Whether a controller is there and its group ours to write; changes nothing.
pub(crate) fn survey() -> (CgroupLayout, Vec<Surveyed>) {
    let (layout, hierarchies) = hierarchies();
    let found = Controller::ALL.map(|controller| {
        let found = match hierarchies.iter().find(|hierarchy| hierarchy.controllers.contains(&controller)) {
            None => Err(format!("no {} controller is mounted here", controller.name())),
            Some(hierarchy) => match nix::unistd::access(&hierarchy.own, nix::unistd::AccessFlags::W_OK) {
                Ok(()) => Ok(hierarchy.own.clone()),
                Err(errno) => Err(format!("{} is not ours to write: {}", hierarchy.own.display(), errno.desc())),
            },
        };
        (controller, found)
    });
    (layout, found.into())
}

/// The launcher's own groups: one per controller with v1, one for all with v2.
#[derive(Debug)]
pub(crate) struct Cgroups {
    pub layout: CgroupLayout,
    bases: Vec<Base>,
    /// Why a limit is not possible.
    pub missing: Vec<Missing>,
    next: u64,
}

#[derive(Debug)]
struct Base {
    controllers: Vec<Controller>,
    path: PathBuf,
    /// Held as long as the launcher lives, so that nobody takes its groups for a leftover.
    lock: Option<Flock<fs::File>>,
}

impl Cgroups {
    /// Finds the hierarchies, removes what dead launchers left, makes this launcher's groups. What is not possible is in
    /// [`Cgroups::missing`].
    pub(crate) fn new(name: &str) -> Self {
        let (layout, hierarchies) = hierarchies();
        let mut cgroups = Self { layout, bases: Vec::new(), missing: Vec::new(), next: 0 };
        for controller in Controller::ALL {
            if !hierarchies.iter().any(|hierarchy| hierarchy.controllers.contains(&controller)) {
                cgroups.lack(controller, format!("no {} controller is mounted here", controller.name()));
            }
        }
        for hierarchy in hierarchies {
            sweep(&hierarchy.own, name);
            let hierarchy = match if layout == CgroupLayout::V2 { delegate(&hierarchy) } else { Ok(()) } {
                Ok(()) => hierarchy,
                Err(reason) => match above(&hierarchy, name) {
                    Some(above) => {
                        sweep(&above.own, name);
                        above
                    }
                    None => {
                        for controller in &hierarchy.controllers {
                            cgroups.lack(*controller, reason.clone());
                        }
                        continue;
                    }
                },
            };
            match base(&hierarchy, name) {
                Ok(base) => cgroups.bases.push(base),
                Err(error) => {
                    let reason = format!(
                        "{} is not ours to write ({error}); run as root or in a delegated cgroup (systemd: Delegate=yes)",
                        hierarchy.own.display()
                    );
                    for controller in &hierarchy.controllers {
                        cgroups.lack(*controller, reason.clone());
                    }
                }
            }
        }
        if layout == CgroupLayout::V2 {
            cgroups.enable();
        }
        cgroups
    }

    fn lack(&mut self, controller: Controller, reason: String) {
        if !self.missing.iter().any(|missing| missing.protection == controller.protection()) {
            self.missing.push(Missing { protection: controller.protection(), reason });
        }
    }

    /// v2: hands the controllers on to the sandboxes' groups; those that the kernel does not give are lacking.
    fn enable(&mut self) {
        let mut lacking = Vec::new();
        for base in &mut self.bases {
            base.controllers.retain(|controller| {
                let written = fs::write(base.path.join("cgroup.subtree_control"), format!("+{}", controller.name()));
                if let Err(error) = &written {
                    lacking.push((*controller, format!("the {} controller can't be enabled: {error}", controller.name())));
                }
                written.is_ok()
            });
        }
        for (controller, reason) in lacking {
            self.lack(controller, reason);
        }
    }

    /// Whether a controller is at hand.
    pub(crate) fn has(&self, controller: Controller) -> bool {
        self.bases.iter().any(|base| base.controllers.contains(&controller))
    }

    /// The launcher's directories, for whoever cleans up after it.
    pub(crate) fn directories(&self) -> Vec<PathBuf> {
        self.bases.iter().map(|base| base.path.clone()).collect()
    }

    /// Makes the groups of one sandbox.
    pub(crate) fn create(&mut self) -> Result<Group, Failure> {
        self.next += 1;
        let mut group = Group { layout: self.layout, parts: Vec::new() };
        for base in &self.bases {
            let path = base.path.join(self.next.to_string());
            let failed = |errno| Failure::new(Stage::Cgroup, path.display().to_string(), errno);
            nix::unistd::mkdir(&path, Mode::from_bits_truncate(0o755)).map_err(failed)?;
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let directory = nix::fcntl::open(&path, flags, Mode::empty()).map_err(failed)?;
            group.parts.push(Part { controllers: base.controllers.clone(), directory, path });
        }
        Ok(group)
    }

    /// Removes the launcher's own groups; those of sandboxes must be gone.
    pub(crate) fn remove(&mut self) {
        for base in self.bases.drain(..) {
            drop(base.lock);
            remove_below(&base.path);
        }
    }
}

/// The groups of one sandbox. Dropping does not remove them: see [`Group::remove`].
#[derive(Debug)]
pub(crate) struct Group {
    layout: CgroupLayout,
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    controllers: Vec<Controller>,
    directory: OwnedFd,
    path: PathBuf,
}

/// What a group counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    pub user: Option<Duration>,
    pub system: Option<Duration>,
    pub peak_memory: Option<u64>,
    pub oom_kills: u64,
    pub peak_pids: Option<u64>,
    pub refused_forks: u64,
}

impl Group {
    /// v2: the directory to clone into.
    pub(crate) fn clone_into(&self) -> Option<BorrowedFd<'_>> {
        match self.layout {
            CgroupLayout::V2 => self.parts.first().map(|part| part.directory.as_fd()),
            CgroupLayout::V1 | CgroupLayout::Absent => None,
        }
    }

    /// v1: the files that a process of one thread writes `0` into to enter. Opened here, since the kernel asks who opened.
    ///
    /// `tasks` and not `cgroup.procs`: a thread that moves itself needs no lock against forks (since 5.6), and taking that lock
    /// waits for an RCU grace period, 7 to 20 ms whenever nobody moved anything just before.
    pub(crate) fn entries(&self) -> Result<Vec<OwnedFd>, Failure> {
        if self.layout == CgroupLayout::V2 {
            return Ok(Vec::new());
        }
        self.parts.iter().map(|part| part.open("tasks", OFlag::O_WRONLY)).collect()
    }

    fn part(&self, controller: Controller) -> Option<&Part> {
        self.parts.iter().find(|part| part.controllers.contains(&controller))
    }

    /// Writes every limit; one that was asked for and has no controller is skipped: the caller has refused or reported it.
    pub(crate) fn limit(&self, limits: &Limits) -> Result<(), Failure> {
        let v2 = self.layout == CgroupLayout::V2;
        if let (Some(part), Some(memory)) = (self.part(Controller::Memory), limits.memory) {
            let swap = limits.swap;
            if v2 {
                part.write("memory.max", &memory.to_string())?;
                if let Some(swap) = swap {
                    part.write_if_there("memory.swap.max", &swap.to_string())?;
                }
                part.write("memory.oom.group", "1")?;
            } else {
                part.write("memory.limit_in_bytes", &memory.to_string())?;
                if let Some(swap) = swap {
                    part.write_if_there("memory.memsw.limit_in_bytes", &memory.saturating_add(swap).to_string())?;
                }
            }
        }
        if let (Some(part), Some(milli)) = (self.part(Controller::Cpu), limits.cpu_milli) {
            let quota = u64::from(milli.max(10)) * 100;
            if v2 {
                part.write("cpu.max", &format!("{quota} 100000"))?;
            } else {
                part.write("cpu.cfs_period_us", "100000")?;
                part.write("cpu.cfs_quota_us", &quota.to_string())?;
            }
        }
        if let (Some(part), Some(weight)) = (self.part(Controller::Cpu), limits.cpu_weight) {
            let weight = weight.clamp(1, 10_000);
            if v2 {
                part.write("cpu.weight", &weight.to_string())?;
            } else {
                // 1024 shares are what a weight of 100 is (kernel `cgroup-v2.rst`).
                part.write("cpu.shares", &(u64::from(weight) * 1024 / 100).max(2).to_string())?;
            }
        }
        if let (Some(part), Some(pids)) = (self.part(Controller::Pids), limits.pids) {
            part.write("pids.max", &pids.to_string())?;
        }
        Ok(())
    }

    /// What tells when memory is out in this group; `None` where nothing counts memory.
    pub(crate) fn notices(&self) -> Result<Option<Notices>, Failure> {
        let Some(part) = self.part(Controller::Memory) else { return Ok(None) };
        Ok(Some(match self.layout {
            CgroupLayout::V2 => Notices::Events(part.open("memory.events", OFlag::O_RDONLY)?),
            CgroupLayout::V1 | CgroupLayout::Absent => Notices::eventfds(part.directory.as_fd())?,
        }))
    }

    /// Has these notices tell also when memory gets short below `limit`; the process that sees to it, where one is needed.
    pub(crate) fn warn(&self, notices: &mut Notices, limit: u64) -> Result<Option<(Pid, OwnedFd)>, Failure> {
        let Some(part) = self.part(Controller::Memory) else { return Ok(None) };
        notices.warn(part.directory.as_fd(), limit)
    }

    /// The processes in it, as the host numbers them. Where no memory is counted, none.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let text = self.part(Controller::Memory).and_then(|part| part.read("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// The processor time of those of them that nobody will wait for once `init` is killed; nothing where the group counts time itself.
    pub(crate) fn unwaited(&self, init: Pid) -> Spent {
        if self.layout == CgroupLayout::V2 { Spent::default() } else { ticks::spent(&self.processes(), init) }
    }

    /// What was counted; zeros where nothing counts.
    pub(crate) fn counts(&self) -> Counts {
        let v2 = self.layout == CgroupLayout::V2;
        let number =
            |controller, file: &str| self.part(controller).and_then(|part| part.read(file)).and_then(|text| text.trim().parse().ok());
        let field = |controller, file: &str, key: &str| -> Option<u64> {
            let text = self.part(controller)?.read(file)?;
            text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
        };
        let (peak, events) = if v2 { ("memory.peak", "memory.events") } else { ("memory.max_usage_in_bytes", "memory.oom_control") };
        // v2 counts processor time without any controller; with v1 what was waited for has to do.
        let time = |key: &str| {
            let text = self.parts.first().filter(|_| v2)?.read("cpu.stat")?;
            text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok()).map(Duration::from_micros)
        };
        Counts {
            user: time("user_usec "),
            system: time("system_usec "),
            peak_memory: number(Controller::Memory, peak),
            oom_kills: field(Controller::Memory, events, "oom_kill ").unwrap_or(0),
            peak_pids: number(Controller::Pids, "pids.peak"),
            refused_forks: field(Controller::Pids, "pids.events", "max ").unwrap_or(0),
        }
    }

    /// v2: kills everything in it (5.14). With v1 killing init does the same, since the process tree dies with it.
    pub(crate) fn kill(&self) {
        if self.layout == CgroupLayout::V2 {
            for part in &self.parts {
                // Before 5.14 there is no such file, and killing init has to do.
                let _ = part.write("cgroup.kill", "1");
            }
        }
    }

    /// Where they are.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        self.parts.iter().map(|part| part.path.clone()).collect()
    }

    /// Removes the groups; what is still busy stays for the next call. Whether all are gone.
    pub(crate) fn remove(&mut self) -> bool {
        self.parts.retain(|part| match nix::unistd::unlinkat(nix::fcntl::AT_FDCWD, &part.path, UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => false,
            Err(_) => true,
        });
        self.parts.is_empty()
    }
}

impl Part {
    fn open(&self, file: &str, flags: OFlag) -> Result<OwnedFd, Failure> {
        nix::fcntl::openat(&self.directory, file, flags | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(|errno| Failure::new(Stage::Cgroup, self.path.join(file).display().to_string(), errno))
    }

    fn write(&self, file: &str, text: &str) -> Result<(), Failure> {
        let opened = self.open(file, OFlag::O_WRONLY)?;
        nix::unistd::write(&opened, text.as_bytes())
            .map(drop)
            .map_err(|errno| Failure::new(Stage::Cgroup, format!("{} = {text}", self.path.join(file).display()), errno))
    }

    /// For files that exist only where the kernel counts swap.
    fn write_if_there(&self, file: &str, text: &str) -> Result<(), Failure> {
        match self.write(file, text) {
            Err(failure) if failure.errno == libc::ENOENT => Ok(()),
            result => result,
        }
    }

    fn read(&self, file: &str) -> Option<String> {
        let opened = self.open(file, OFlag::O_RDONLY).ok()?;
        let mut bytes = [0; 4096];
        let length = nix::unistd::read(&opened, &mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes[..length]).into_owned())
    }
}

/// The groups that a launcher made for itself: below our own, or below one above it.
pub(crate) fn directories_of(launcher: Pid, name: &str) -> Vec<PathBuf> {
    let (_, hierarchies) = hierarchies();
    let places = hierarchies.iter().flat_map(|hierarchy| hierarchy.own.ancestors().take_while(|path| path.join("cgroup.procs").exists()));
    let entries = places.flat_map(|place| fs::read_dir(place).into_iter().flatten().flatten());
    let of_it = |text: &str| maker(text, name).is_some_and(|(pid, _)| i64::from(pid) == i64::from(launcher.as_raw()));
    entries.filter(|entry| entry.file_name().to_str().is_some_and(of_it)).map(|entry| entry.path()).collect()
}

/// Removes a launcher's group and those of its sandboxes, as far as they are empty.
pub(crate) fn remove_below(base: &Path) {
    if let Ok(entries) = fs::read_dir(base) {
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                // Busy ones hold living processes; whoever holds those removes it.
                let _ = fs::remove_dir(entry.path());
            }
        }
    }
    let _ = fs::remove_dir(base);
}

/// Removes what dead launchers left: groups of our naming whose lock nobody holds.
fn sweep(own: &Path, name: &str) {
    let Ok(entries) = fs::read_dir(own) else { return };
    for entry in entries.flatten() {
        let text = entry.file_name();
        let Some((pid, start)) = text.to_str().and_then(|text| maker(text, name)) else { continue };
        // Whoever has just made it may not have locked it yet.
        if start_time(&pid.to_string()) == Some(start) {
            continue;
        }
        let Ok(directory) = fs::File::open(entry.path()) else { continue };
        if Flock::lock(directory, FlockArg::LockExclusiveNonblock).is_ok() {
            remove_below(&entry.path());
        }
    }
}

/// Process id and start time of the launcher that a group of our naming belongs to.
fn maker(text: &str, name: &str) -> Option<(u32, u64)> {
    let (pid, start) = text.strip_prefix(name)?.strip_prefix('-')?.split_once('-')?;
    Some((pid.parse().ok()?, start.parse().ok()?))
}

/// When a process started, in ticks since boot (proc(5), field 22); with its id that names it for as long as this boot lasts,
/// and groups do not outlive a boot.
fn start_time(pid: &str) -> Option<u64> {
    fs::read_to_string(format!("/proc/{pid}/stat")).ok()?.rsplit(')').next()?.split_whitespace().nth(19)?.parse().ok()
}

fn base(hierarchy: &Hierarchy, name: &str) -> std::io::Result<Base> {
    let start = start_time("self").unwrap_or_default();
    let path = hierarchy.own.join(format!("{name}-{}-{start}", std::process::id()));
    fs::create_dir(&path)?;
    let lock = Flock::lock(fs::File::open(&path)?, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno)?;
    Ok(Base { controllers: hierarchy.controllers.clone(), path, lock: Some(lock) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_group_is_the_living_launchers_by_its_process_and_start() {
        let own = start_time("self").unwrap();
        let name = format!("caisson-{}-{own}", std::process::id());
        assert_eq!(maker(&name, "caisson"), Some((std::process::id(), own)));
        for other in ["caisson-1", "caisson--1", "caisson-x-1", "docker-1-1", "caisson-1-1-1", "caisson-leaf"] {
            assert_eq!(maker(other, "caisson"), None, "{other}");
        }
        let directory = tempfile::tempdir().unwrap();
        let (mine, dead) = (directory.path().join(&name), directory.path().join("caisson-1-1"));
        let strange = directory.path().join("caisson-keep");
        for path in [&mine, &dead, &strange] {
            fs::create_dir(path).unwrap();
        }
        fs::create_dir(dead.join("7")).unwrap();
        sweep(directory.path(), "caisson");
        assert!(mine.exists() && strange.exists() && !dead.exists(), "only what a dead launcher left is removed");
        // One that is locked is somebody's, whatever its name says.
        fs::create_dir(&dead).unwrap();
        let lock = Flock::lock(fs::File::open(&dead).unwrap(), FlockArg::LockExclusiveNonblock).unwrap();
        sweep(directory.path(), "caisson");
        assert!(dead.exists());
        drop(lock);
    }
}
