//! From a spec to a sandbox that is being built: what is checked, opened, limited and compiled before init has its orders.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use crate::assess::assess;
use crate::disk::{self, Watch};
use crate::error::{Failure, LaunchError, Stage};
use crate::handshake::{self, Order};
use crate::hierarchy::Controller;
use crate::netns::{self, Furnished};
use crate::notices::Notices;
use crate::plan::{Instruction, Plan, Rlimit};
use crate::protection::{Missing, Protection};
use crate::refused::Refused;
use crate::running::{Awaited, Next, Purpose};
use crate::seccomp;
use crate::serve::Server;
use crate::slot::Slot;
use crate::sockets::Opening;
use crate::sources::{self, Context, Opened};
use crate::spec::{Limits, Mount, Refusals, Spec, Upper};
use crate::userns::IdMap;
use crate::vigil::Vigil;

/// Bytes of /dev/shm where the spec says nothing.
const SHM_SIZE: u64 = 256 << 20;
/// Bytes of /tmp where neither the spec nor a memory limit says anything.
const TMP_SIZE: u64 = 1 << 30;
/// Files of /tmp.
const TMP_INODES: u64 = 1 << 20;
/// How many compiled filters are kept.
const FILTERS_KEPT: usize = 16;

impl Server {
    /// Begins to build the sandbox of a spec.
    pub(crate) fn begin(&mut self, spec: OwnedFd, purpose: Purpose, arrived: Instant) -> Result<Next, LaunchError> {
        let spec: Spec = handshake::load(spec)?;
        let limits = spec.limits.clone();
        check(&spec)?;
        let verdict = assess(&spec, &self.standing, self.cgroups.has(Controller::Pids))?;
        let filter = self.filter(&spec)?;
        let listed = spec.filter.refusals == Refusals::Listed;
        let refused = if listed { filter.clone().map(Refused::new) } else { None };
        let filter = if listed { filter.map(|filter| seccomp::notifying(&filter)) } else { filter };
        let slot = match self.live_slot() {
            Some(slot) => slot,
            None => self.new_slot()?,
        };
        let (mut enforced, mut missing) = (verdict.enforced, verdict.missing);
        let assigned = self.assign(&slot, spec, filter, purpose, &mut missing);
        self.helpers.append(&mut self.owners.leaving);
        match assigned {
            Ok(Assigned { memory, disk, sockets, vigil, awaited }) => {
                enforced.retain(|protection| missing.iter().all(|missing| missing.protection != *protection));
                Ok(Next { slot, memory, disk, refused, limits, enforced, missing, sockets, vigil, arrived, awaited })
            }
            Err(failure) => {
                slot.kill();
                self.closing.push(slot);
                Err(failure.into())
            }
        }
    }

    /// The next warm slot whose init has not died meanwhile.
    fn live_slot(&mut self) -> Option<Slot> {
        while let Some(slot) = self.warm.pop_front() {
            if !slot.is_dead() {
                return Some(slot);
            }
            self.closing.push(slot);
        }
        None
    }

    fn filter(&mut self, spec: &Spec) -> Result<Option<Vec<Instruction>>, Failure> {
        if let Some(filter) = self.filters.get(&spec.filter) {
            return Ok(Some(filter.clone()));
        }
        let filter = seccomp::compile(&spec.filter)?;
        if self.filters.len() >= FILTERS_KEPT {
            self.filters.clear();
        }
        self.filters.insert(spec.filter.clone(), filter.clone());
        Ok(Some(filter))
    }

    /// Makes a slot the sandbox of a spec.
    fn assign(
        &mut self,
        slot: &Slot,
        spec: Spec,
        filter: Option<Vec<Instruction>>,
        purpose: Purpose,
        missing: &mut Vec<Missing>,
    ) -> Result<Assigned, Failure> {
        let map = IdMap::new(self.standing.mode, self.setup.ids, spec.ids, spec.identity)?;
        map.write(slot.pid)?;
        slot.group.limit(&spec.limits)?;
        let notices = match spec.limits.memory {
            Some(_) => slot.group.notices()?,
            None => None,
        };
        // Before the order to build: nothing of the step runs until its network is as it will be.
        let Furnished { mut sockets, uncaptured, held } = netns::furnish(&slot.network, &spec.network)?;
        missing.extend(uncaptured.map(|reason| Missing { protection: Protection::ExitByName, reason }));
        let context = Context { ground: &self.ground, mode: self.standing.mode, map, identity: spec.identity };
        let written = disk::written(&spec.mounts);
        let mut disk = Watch::new(&spec.limits, &written, &self.known, Instant::now())?;
        let Opened { builds, mut trees, memory } = sources::open(bounded(spec.mounts, &spec.limits), &mut self.owners, &context)?;
        let secrets = if spec.secrets.is_empty() {
            None
        } else {
            let (tree, kept_out_of_swap) = sources::secrets(&spec.secrets, context.mode, map, spec.identity)?;
            let swappable = sources::swappable(kept_out_of_swap, missing);
            missing.extend(swappable);
            trees.push(tree);
            Some(trees.len() - 1)
        };
        let open = matches!(purpose, Purpose::Wait { open: true });
        let plan = Plan {
            open,
            rlimits: rlimits(&spec.limits, self.cgroups.has(Controller::Pids)),
            tmp_size: within(spec.limits.tmp_size.or(spec.limits.memory.map(|memory| memory / 2)).unwrap_or(TMP_SIZE), spec.limits.disk),
            tmp_inodes: within(TMP_INODES, spec.limits.inodes),
            shm_size: within(spec.limits.shm_size.unwrap_or(SHM_SIZE), spec.limits.disk),
            identity: spec.identity,
            init: map.init(),
            groups_denied: map.groups_denied,
            hostname: spec.hostname,
            builds,
            secrets,
            filter,
            listening: spec.filter.refusals == Refusals::Listed,
        };
        let plan = handshake::store("plan", &plan)?;
        let mut descriptors: Vec<BorrowedFd<'_>> = vec![plan.as_fd()];
        let (given, files, awaited) = match purpose {
            Purpose::Run { given, files } => {
                disk.add(memory);
                (Some(given), files, None)
            }
            Purpose::Wait { open } => {
                let (mode, identity) = (self.standing.mode, spec.identity);
                (None, None, Some(Awaited { open, mode, map, identity, written, memory, line: None, built: false }))
            }
        };
        descriptors.extend(given.iter().flatten().chain(&files).map(AsFd::as_fd));
        descriptors.extend(trees.iter().map(AsFd::as_fd));
        handshake::send_now(slot.socket.as_fd(), &Order::Build { at_once: given.is_some(), files: files.is_some() }, &descriptors)
            .map_err(|errno| Failure::new(Stage::Release, "", errno))?;
        // Packets are held from now on, and wait for whoever looks.
        let mut vigil = None;
        if let Some((held, asking)) = held.and_then(|held| Vigil::new(held).ok()) {
            sockets.push((Opening::Onlooker, asking));
            vigil = Some(held);
        }
        Ok(Assigned { memory: notices, disk, sockets, vigil, awaited })
    }
}

/// What a slot brings along once it has its orders.
struct Assigned {
    memory: Option<Notices>,
    disk: Watch,
    sockets: Vec<(Opening, OwnedFd)>,
    vigil: Option<Vigil>,
    awaited: Option<Awaited>,
}

/// The lower of a size and a limit.
fn within(size: u64, limit: Option<u64>) -> u64 {
    limit.map_or(size, |limit| size.min(limit))
}

/// Memory file systems no larger than the disk limit: one that reaches it alone is stopped by the kernel, with an error that
/// the program sees, and not by a kill.
fn bounded(mut mounts: Vec<Mount>, limits: &Limits) -> Vec<Mount> {
    for mount in &mut mounts {
        match mount {
            Mount::Tmpfs { size, inodes, .. } => {
                *size = within(*size, limits.disk);
                *inodes = within(*inodes, limits.inodes);
            }
            Mount::Overlay { upper: Upper::Memory { size, inodes }, .. } => {
                *size = within(*size, limits.disk);
                *inodes = within(*inodes, limits.inodes);
            }
            _ => {}
        }
    }
    mounts
}

fn check(spec: &Spec) -> Result<(), Failure> {
    for mount in &spec.mounts {
        let target = mount.target();
        let reserved = ["/proc", "/dev", "/run/secrets"].iter().any(|taken| target.starts_with(taken));
        let odd = target.components().any(|part| matches!(part, std::path::Component::ParentDir));
        if !target.is_absolute() || reserved || odd {
            return Err(Failure::rule(Stage::Spec, format!("{}: no place for a mount", target.display())));
        }
    }
    if spec.hostname.is_empty() || spec.hostname.len() > 64 {
        return Err(Failure::rule(Stage::Spec, "host name must have 1 to 64 bytes"));
    }
    let opened = spec.mounts.iter().filter(|mount| matches!(mount, Mount::Bind { .. } | Mount::Overlay { .. })).count();
    let memory = spec.mounts.iter().filter(|mount| matches!(mount, Mount::Tmpfs { .. })).count();
    if opened.max(memory) + 16 > handshake::DESCRIPTOR_LIMIT {
        return Err(Failure::rule(Stage::Spec, format!("{} mounts are too many", opened.max(memory))));
    }
    Ok(())
}

fn rlimits(limits: &Limits, pids_by_cgroup: bool) -> Vec<Rlimit> {
    let mut list = vec![Rlimit::Core(0)];
    list.extend(limits.open_files.map(Rlimit::OpenFiles));
    // No file can be larger than all of them together: this one holds at once, and for files without a name as well.
    list.extend(limits.file_size.into_iter().chain(limits.disk).min().map(Rlimit::FileSize));
    if let (Some(pids), false) = (limits.pids, pids_by_cgroup) {
        list.push(Rlimit::Processes(u64::from(pids)));
    }
    list
}
