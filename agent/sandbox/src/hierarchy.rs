//! Where control groups can be made: the hierarchies that are mounted here, our own group in each, and whether it hands its
//! controllers on (cgroups(7), kernel `cgroup-v2.rst`).

use std::fs;
use std::path::{Path, PathBuf};

use crate::host::CgroupLayout;
use crate::protection::Protection;

/// A controller that limits come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Controller {
    Memory,
    Cpu,
    Pids,
}

impl Controller {
    pub(crate) const ALL: [Controller; 3] = [Self::Memory, Self::Cpu, Self::Pids];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
        }
    }

    pub(crate) const fn protection(self) -> Protection {
        match self {
            Self::Memory => Protection::MemoryLimit,
            Self::Cpu => Protection::CpuLimit,
            Self::Pids => Protection::PidsLimit,
        }
    }
}

/// One hierarchy as mounted here.
pub(crate) struct Hierarchy {
    pub controllers: Vec<Controller>,
    pub own: PathBuf,
}

/// v2: a group that hands controllers on may hold no process itself. Moves ours into a leaf of its own, where that is
/// needed; anyone else's process there makes it impossible.
pub(crate) fn delegate(hierarchy: &Hierarchy) -> Result<(), String> {
    let control = hierarchy.own.join("cgroup.subtree_control");
    let enabled = fs::read_to_string(&control).unwrap_or_default();
    let wanted: Vec<&Controller> =
        hierarchy.controllers.iter().filter(|controller| !enabled.split_whitespace().any(|word| word == controller.name())).collect();
    let write_all = || wanted.iter().try_for_each(|controller| fs::write(&control, format!("+{}", controller.name())));
    if write_all().is_ok() {
        return Ok(());
    }
    let explain = |error: std::io::Error| {
        format!("{} does not hand its controllers on ({error}); run under a unit with Delegate=yes", hierarchy.own.display())
    };
    let leaf = hierarchy.own.join("caisson-leaf");
    match fs::create_dir(&leaf) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(explain(error)),
        _ => {}
    }
    for pid in [std::process::id(), nix::unistd::getppid().as_raw() as u32] {
        fs::write(leaf.join("cgroup.procs"), pid.to_string()).map_err(explain)?;
    }
    write_all().map_err(explain)
}

/// v2: the nearest group above ours that hands our controllers on already and lets us make one below it. A session's own
/// group holds other processes and so can't; the slice around it can, where it is ours: always for root, and for a user
/// whose systemd has it delegated. Nothing of anybody else is changed: a group is made beside theirs.
pub(crate) fn above(hierarchy: &Hierarchy, name: &str) -> Option<Hierarchy> {
    hierarchy.own.ancestors().skip(1).take_while(|path| path.join("cgroup.procs").exists()).find_map(|path| {
        let text = fs::read_to_string(path.join("cgroup.subtree_control")).ok()?;
        let handed = |controller: &&Controller| text.split_whitespace().any(|word| word == controller.name());
        let controllers: Vec<Controller> = Controller::ALL.iter().filter(handed).copied().collect();
        // Memory is what nothing else can stand in for.
        if !controllers.contains(&Controller::Memory) {
            return None;
        }
        // By doing it: permissions, quotas and read-only mounts all have a say. Cloning into it needs the right to write here.
        nix::unistd::access(&path.join("cgroup.procs"), nix::unistd::AccessFlags::W_OK).ok()?;
        let trial = path.join(format!("{name}-trial-{}", std::process::id()));
        fs::create_dir(&trial).and_then(|()| fs::remove_dir(&trial)).ok()?;
        Some(Hierarchy { controllers, own: path.to_owned() })
    })
}

/// The hierarchies with our controllers, and our own group in each.
pub(crate) fn hierarchies() -> (CgroupLayout, Vec<Hierarchy>) {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut v1 = Vec::new();
    let mut v2 = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(number), Some(names), Some(group)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let names: Vec<&str> = names.split(',').collect();
        let controllers: Vec<Controller> = Controller::ALL.into_iter().filter(|controller| names.contains(&controller.name())).collect();
        if number == "0" {
            v2 = mounted(&mounts, "cgroup2", None, group);
        } else if let Some(first) = controllers.first()
            && let Some(own) = mounted(&mounts, "cgroup", Some(first.name()), group)
        {
            v1.push(Hierarchy { controllers, own });
        }
    }
    if !v1.is_empty() {
        return (CgroupLayout::V1, v1);
    }
    let Some(own) = v2 else { return (CgroupLayout::Absent, Vec::new()) };
    let available = fs::read_to_string(own.join("cgroup.controllers")).unwrap_or_default();
    let controllers =
        Controller::ALL.into_iter().filter(|controller| available.split_whitespace().any(|word| word == controller.name())).collect();
    (CgroupLayout::V2, vec![Hierarchy { controllers, own }])
}

/// Where our group of a hierarchy is seen: mountinfo of proc(5) names root and mount point.
fn mounted(mounts: &str, kind: &str, controller: Option<&str>, group: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut after = after.split(' ');
        if after.next()? != kind {
            return None;
        }
        let options = after.nth(1)?;
        if let Some(controller) = controller
            && !options.split(',').any(|option| option == controller)
        {
            return None;
        }
        let mut before = before.split(' ').skip(3);
        let (root, point) = (before.next()?, before.next()?);
        let below = if root == "/" { group } else { group.strip_prefix(root)? };
        Some(Path::new(point).join(below.trim_start_matches('/')))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_nearest_group_that_hands_on_is_found() {
        let root = tempfile::tempdir().unwrap();
        let slice = root.path().join("user.slice");
        let session = slice.join("session-1.scope");
        fs::create_dir_all(&session).unwrap();
        for (path, handed) in [(root.path(), "cpu memory pids"), (slice.as_path(), "memory pids"), (session.as_path(), "")] {
            fs::write(path.join("cgroup.procs"), "").unwrap();
            fs::write(path.join("cgroup.subtree_control"), handed).unwrap();
        }
        let own = Hierarchy { controllers: Controller::ALL.to_vec(), own: session };
        let found = above(&own, "caisson").unwrap();
        assert_eq!((found.own.as_path(), found.controllers), (slice.as_path(), vec![Controller::Memory, Controller::Pids]));
        fs::write(slice.join("cgroup.subtree_control"), "pids").unwrap();
        assert_eq!(above(&own, "caisson").unwrap().own, root.path());
        fs::write(root.path().join("cgroup.subtree_control"), "").unwrap();
        assert!(above(&own, "caisson").is_none());
    }
}
