//! The launcher process: one loop over its sockets. It never waits for one sandbox while another needs it; a malformed
//! request costs its sender an error and nobody else anything.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;

use crate::area;
use crate::assess::assess;
use crate::cgroup::{Cgroups, Group};
use crate::disk::{Known, Remembered, Watch};
use crate::error::{Failure, LaunchError, Stage};
use crate::ground::Ground;
use crate::handshake::{self, Answer, Greeting, NAME, Order, ReceiveError, Request, SOCKET, Setup};
use crate::hierarchy::Controller;
use crate::host::{Mode, Standing};
use crate::netns;
use crate::notices::Notices;
use crate::onlooker;
use crate::outcome::Cause;
use crate::plan::{Instruction, Plan, Rlimit};
use crate::protection::{Missing, Protection};
use crate::refused::Refused;
use crate::running::{Next, Phase, Sandbox};
use crate::seccomp;
use crate::share::Shares;
use crate::slot::{Slot, Time};
use crate::sockets::Opening;
use crate::sources::{self, Context, Opened, Owners};
use crate::spec::{Filter, Limits, Mount, Refusals, Spec, Upper};
use crate::sys::{self, Forked};
use crate::userns::IdMap;
use crate::warden;

/// Bytes of /dev/shm where the spec says nothing.
const SHM_SIZE: u64 = 256 << 20;
/// Bytes of /tmp where neither the spec nor a memory limit says anything.
const TMP_SIZE: u64 = 1 << 30;
/// Files of /tmp.
const TMP_INODES: u64 = 1 << 20;
/// How often a busy cgroup is tried again.
const RETRY: Duration = Duration::from_millis(2);
/// How many compiled filters are kept.
const FILTERS_KEPT: usize = 16;

/// Runs the launcher if this process was started as one.
pub(crate) fn entry() -> Option<i32> {
    // The descriptor first: asking for the arguments copies all of them, and they may hold secrets.
    if !sys::is_open(SOCKET) || std::env::args_os().next()? != NAME {
        return None;
    }
    Some(run(sys::adopt(SOCKET)))
}

/// Is the launcher of whoever holds the other end; the exit code when that is over.
pub(crate) fn run(socket: OwnedFd) -> i32 {
    match Server::new(socket.as_fd()) {
        Ok(server) => server.serve(socket),
        Err(failure) => {
            // Whoever started us reads it, or is gone.
            let _ = handshake::send(socket.as_fd(), &Greeting::Failed(failure), &[]);
            1
        }
    }
}

struct Server {
    setup: Setup,
    ground: Ground,
    cgroups: Cgroups,
    shares: Shares,
    standing: Standing,
    time: Time,
    owners: Owners,
    filters: HashMap<Filter, Vec<Instruction>>,
    init_filter: Vec<Instruction>,
    warm: VecDeque<Slot>,
    running: Vec<Sandbox>,
    /// Dead or dying, answered already.
    closing: Vec<Slot>,
    emptying: Vec<Group>,
    helpers: Vec<(Pid, OwnedFd)>,
    /// What counted directories hold.
    known: Known,
    /// `None` where the caller clears up.
    warden: Option<warden::Warden>,
}

impl Server {
    fn new(socket: BorrowedFd<'_>) -> Result<Self, Failure> {
        let setup: Setup = match handshake::receive(socket) {
            Ok((setup, _)) => setup,
            Err(_) => return Err(Failure::rule(Stage::Start, "no setup came")),
        };
        // A session of its own: what a terminal sends to its foreground group is the caller's to deal with, and a launcher that
        // dies of Ctrl-C takes steps with it that have a right to end in stages.
        nix::unistd::setsid().map_err(|errno| Failure::new(Stage::Start, "session", errno))?;
        // Before any sandbox exists: none of them may be traced or read through its init, whose memory is a copy of ours.
        nix::sys::prctl::set_dumpable(false).map_err(|errno| Failure::new(Stage::Start, "dumpable", errno))?;
        sys::close_on_exec_from(3).map_err(|errno| Failure::new(Stage::Start, "descriptors", errno))?;
        let ground = Ground::new()?;
        let mut cgroups = Cgroups::new(&setup.cgroup);
        let warden = setup.warden.then(|| warden::Warden::new(cgroups.directories())).transpose()?;
        let time = if std::fs::exists("/proc/self/ns/time").unwrap_or(false) { Time::Own } else { Time::Shared };
        let standing = standing(&setup, &cgroups, time);
        let init_filter = seccomp::init();
        // The first sandbox is the proof that this host can make one at all.
        let mut shares = Shares::new(setup.mode, setup.ids);
        let first = Slot::new(&mut cgroups, &mut shares, &ground, time, &init_filter)?;
        let mut filters = HashMap::new();
        filters.insert(Filter::default(), seccomp::compile(&Filter::default())?);
        handshake::send(socket, &Greeting::Ready(standing.clone()), &[]).map_err(|errno| Failure::new(Stage::Start, "greeting", errno))?;
        Ok(Self {
            setup,
            ground,
            cgroups,
            shares,
            standing,
            time,
            owners: Owners::default(),
            filters,
            init_filter,
            warm: VecDeque::from([first]),
            running: Vec::new(),
            closing: Vec::new(),
            emptying: Vec::new(),
            helpers: Vec::new(),
            known: Known::default(),
            warden,
        })
    }

    /// Until the callers are gone and everything is dead and removed.
    fn serve(mut self, socket: OwnedFd) -> i32 {
        let mut open = true;
        loop {
            if open {
                while self.refill(&socket) {}
            } else if self.running.is_empty() && self.closing.is_empty() && self.emptying.is_empty() && self.helpers.is_empty() {
                break;
            }
            self.wait(open.then_some(&socket));
            let now = Instant::now();
            if open && !self.requests(&socket) {
                open = false;
                self.closing.extend(self.warm.drain(..));
                self.closing.iter().for_each(Slot::kill);
                for sandbox in &mut self.running {
                    sandbox.stop(Cause::Killed);
                }
            }
            self.advance(now);
            self.bury();
        }
        self.cgroups.remove();
        if let Some(warden) = self.warden {
            warden.dismiss();
        }
        0
    }

    /// Makes one slot ahead when nothing else is to be done; whether it did.
    fn refill(&mut self, socket: &OwnedFd) -> bool {
        // Not while another is being built: both would wait for the same locks of the kernel.
        let building = self.running.iter().any(|sandbox| matches!(sandbox.phase, Phase::Building { .. }));
        let now = Instant::now();
        let hurried = self.running.iter().filter_map(Sandbox::hurried_until).any(|until| until > now);
        if building || hurried || self.warm.len() >= self.setup.warm {
            return false;
        }
        let mut waits = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        if poll(&mut waits, PollTimeout::ZERO) != Ok(0) {
            return false;
        }
        // A failure here shows at the next launch, which makes its own slot and reports.
        let made = Slot::new(&mut self.cgroups, &mut self.shares, &self.ground, self.time, &self.init_filter);
        let whether = made.is_ok();
        self.warm.extend(made);
        whether
    }

    /// Blocks until something can be done.
    fn wait(&self, socket: Option<&OwnedFd>) {
        let input = |fd| (fd, PollFlags::POLLIN);
        let mut watched: Vec<(BorrowedFd<'_>, PollFlags)> = Vec::new();
        watched.extend(socket.map(AsFd::as_fd).map(input));
        for sandbox in &self.running {
            watched.extend(sandbox.watched());
        }
        watched.extend(self.closing.iter().chain(&self.warm).map(|slot| input(slot.pidfd.as_fd())));
        watched.extend(self.helpers.iter().map(|(_, pidfd)| input(pidfd.as_fd())));
        let mut waits: Vec<PollFd<'_>> = watched.into_iter().map(|(fd, flags)| PollFd::new(fd, flags)).collect();
        let now = Instant::now();
        let refill = self.running.iter().filter_map(Sandbox::hurried_until).filter(|until| *until > now).max();
        let refill = if self.warm.len() < self.setup.warm { refill } else { None };
        let mut next = self.running.iter().filter_map(Sandbox::next).chain(refill).min();
        if !self.emptying.is_empty() {
            let retry = now + RETRY;
            next = Some(next.map_or(retry, |next| next.min(retry)));
        }
        let timeout = match next {
            None => PollTimeout::NONE,
            // Rounded up, or the loop would spin through the last millisecond.
            Some(next) => {
                let left = next.saturating_duration_since(now).as_micros().div_ceil(1000).min(3_600_000);
                PollTimeout::from(u16::try_from(left).unwrap_or(u16::MAX))
            }
        };
        // EINTR and errors alike: everything is looked at again.
        let _ = poll(&mut waits, timeout);
    }

    /// Takes all requests that are there; `false` when the callers are gone.
    fn requests(&mut self, socket: &OwnedFd) -> bool {
        loop {
            match handshake::receive_now::<Request>(socket.as_fd()) {
                Ok((request, descriptors)) => self.request(request, descriptors),
                Err(ReceiveError::Call(Errno::EAGAIN)) => return true,
                // Its descriptors are closed, so that the sender sees the end of file.
                Err(ReceiveError::Malformed) => {}
                Err(ReceiveError::Closed | ReceiveError::Call(_)) => return false,
            }
        }
    }

    fn request(&mut self, request: Request, descriptors: Vec<OwnedFd>) {
        let arrived = Instant::now();
        let mut descriptors = descriptors.into_iter();
        let Some(answer) = descriptors.next() else { return };
        match request {
            Request::Launch => {
                let given: Result<[OwnedFd; 4], _> = descriptors.collect::<Vec<_>>().try_into();
                let launched = match given {
                    Ok(given) => self.launch(given, arrived),
                    Err(_) => Err(Failure::rule(Stage::Request, "a launch needs four descriptors").into()),
                };
                match launched {
                    Ok(build) => self.running.push(build.with(answer)),
                    Err(error) => {
                        // A caller that does not wait for its answer has no use for it.
                        let _ = handshake::send_now(answer.as_fd(), &Answer::NotLaunched(error), &[]);
                    }
                }
            }
            Request::CreateArea { path, directories, ids } => {
                let (mode, default) = (self.standing.mode, self.setup.ids);
                self.known.insert(path.clone(), Remembered::empty(arrived));
                self.help(&answer, || area::create(&path, &directories, mode, default, ids));
            }
            Request::RemoveArea { path } => {
                self.known.remove(&path);
                self.help(&answer, || area::remove(&path));
            }
            Request::Look { init } => {
                // Without one the asker sees the end of file, and goes without.
                let found = self.running.iter().find(|sandbox| sandbox.slot.pid.as_raw() == init && sandbox.dead.is_none());
                let looking =
                    found.map(|sandbox| netns::within(&sandbox.slot.network, || onlooker::fork(answer.as_fd(), sandbox.slot.pid, None)));
                self.helpers.extend(looking.and_then(Result::ok));
            }
        }
    }

    /// Does what may take long in a process of its own.
    fn help(&mut self, answer: &OwnedFd, act: impl FnOnce() -> Result<(), Failure>) {
        let forked = sys::fork().and_then(|forked| match forked {
            Forked::Child => {
                let result = act().map_err(Into::into);
                let sent = handshake::send(answer.as_fd(), &Answer::Area(result), &[]);
                sys::exit_now(i32::from(sent.is_err()))
            }
            Forked::Parent(pid) => Ok((pid, sys::pidfd_open(pid)?)),
        });
        match forked {
            Ok(helper) => self.helpers.push(helper),
            Err(errno) => {
                let failure = Failure::new(Stage::Area, "fork", errno);
                let _ = handshake::send_now(answer.as_fd(), &Answer::Area(Err(failure.into())), &[]);
            }
        }
    }

    fn launch(&mut self, given: [OwnedFd; 4], arrived: Instant) -> Result<Next, LaunchError> {
        let [spec, stdin, stdout, stderr] = given;
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
            None => Slot::new(&mut self.cgroups, &mut self.shares, &self.ground, self.time, &self.init_filter)?,
        };
        let (mut enforced, mut missing) = (verdict.enforced, verdict.missing);
        match self.assign(&slot, spec, filter, [stdin, stdout, stderr], &mut missing) {
            Ok(Assigned { memory, disk, sockets }) => {
                enforced.retain(|protection| missing.iter().all(|missing| missing.protection != *protection));
                Ok(Next { slot, memory, disk, refused, limits, enforced, missing, sockets, arrived })
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
            let mut waits = [PollFd::new(slot.pidfd.as_fd(), PollFlags::POLLIN)];
            if poll(&mut waits, PollTimeout::ZERO) == Ok(0) {
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
        streams: [OwnedFd; 3],
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
        let mut furnished = netns::furnish(&slot.network, &spec.network)?;
        missing.extend(furnished.uncaptured.map(|reason| Missing { protection: Protection::ExitByName, reason }));
        let context = Context { ground: &self.ground, mode: self.standing.mode, map, identity: spec.identity };
        let mut watch = Watch::new(&spec.limits, &spec.mounts, &self.known, Instant::now())?;
        let Opened { builds, mut trees, memory } = sources::open(bounded(spec.mounts, &spec.limits), &mut self.owners, &context)?;
        watch.add(memory);
        let secrets = if spec.secrets.is_empty() {
            None
        } else {
            let (tree, kept_out_of_swap) = sources::secrets(&spec.secrets, &context)?;
            if !kept_out_of_swap && !missing.iter().any(|missing| missing.protection == Protection::SecretMemory) {
                let reason = "this kernel has no tmpfs `noswap` for us (Linux 6.4, root) and the host swaps".to_owned();
                missing.push(Missing { protection: Protection::SecretMemory, reason });
            }
            trees.push(tree);
            Some(trees.len() - 1)
        };
        let plan = Plan {
            rlimits: rlimits(&spec.limits, self.cgroups.has(Controller::Pids)),
            tmp_size: within(spec.limits.tmp_size.or(spec.limits.memory.map(|memory| memory / 2)).unwrap_or(TMP_SIZE), spec.limits.disk),
            tmp_inodes: within(TMP_INODES, spec.limits.inodes),
            shm_size: within(spec.limits.shm_size.unwrap_or(SHM_SIZE), spec.limits.disk),
            program: spec.program,
            args: spec.args,
            env: spec.env,
            cwd: spec.cwd,
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
        descriptors.extend(streams.iter().map(AsFd::as_fd));
        descriptors.extend(trees.iter().map(AsFd::as_fd));
        handshake::send_now(slot.socket.as_fd(), &Order::Build, &descriptors).map_err(|errno| Failure::new(Stage::Release, "", errno))?;
        // Beside what init does: packets are held from now on, and wait for whoever looks.
        if let Some(held) = furnished.held.take()
            && let Ok((ours, theirs)) = handshake::pair()
            && let Ok(helper) = netns::within(&slot.network, || onlooker::fork(theirs.as_fd(), slot.pid, Some(held)))
        {
            self.helpers.push(helper);
            furnished.sockets.push((Opening::Onlooker, ours));
        }
        Ok(Assigned { memory: notices, disk: watch, sockets: furnished.sockets })
    }

    /// Moves every sandbox on as far as it goes.
    fn advance(&mut self, now: Instant) {
        let mut kept = Vec::with_capacity(self.running.len());
        for mut sandbox in std::mem::take(&mut self.running) {
            sandbox.advance(now, &mut self.known);
            self.helpers.extend(sandbox.be_warned(now));
            match sandbox.phase {
                Phase::Dead => self.emptying.push(sandbox.slot.group),
                _ => kept.push(sandbox),
            }
        }
        self.running = kept;
    }

    /// Reaps what is dead without an outcome, and removes emptied groups.
    fn bury(&mut self) {
        let mut kept = Vec::new();
        for slot in self.closing.drain(..) {
            match sys::reap(Some(slot.pid)) {
                Ok(None) => kept.push(slot),
                Ok(Some(_)) | Err(_) => self.emptying.push(slot.group),
            }
        }
        self.closing = kept;
        let (dead, alive): (Vec<_>, Vec<_>) = self.warm.drain(..).partition(|slot| {
            let mut waits = [PollFd::new(slot.pidfd.as_fd(), PollFlags::POLLIN)];
            poll(&mut waits, PollTimeout::ZERO) == Ok(1)
        });
        self.warm = alive.into();
        self.closing.extend(dead);
        self.helpers.retain(|(pid, _)| matches!(sys::reap(Some(*pid)), Ok(None)));
        self.emptying.retain_mut(|group| !group.remove());
    }
}

/// What a slot brings along once it has its orders.
struct Assigned {
    memory: Option<Notices>,
    disk: Watch,
    sockets: Vec<(Opening, OwnedFd)>,
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

/// What this launcher can enforce, found out once.
fn standing(setup: &Setup, cgroups: &Cgroups, time: Time) -> Standing {
    let mut missing = Vec::new();
    let mut lack = |protection, reason: &str| missing.push(Missing { protection, reason: reason.to_owned() });
    if time == Time::Shared {
        lack(Protection::TimeNamespace, "this kernel has none (Linux 5.6)");
    }
    if setup.mode != Mode::Root {
        lack(Protection::IdRange, "a range of host ids of its own per job needs root; all sandboxes of this user share ids");
    }
    match sys::landlock_version() {
        Ok(version) if version >= 6 => {}
        Ok(_) => lack(Protection::Landlock, "this kernel's Landlock has no scopes (ABI 6, Linux 6.12)"),
        Err(_) => lack(Protection::Landlock, "Landlock is not enabled (boot with `lsm=landlock,...`)"),
    }
    for lacking in &cgroups.missing {
        // Without a pids cgroup the sandbox's own user namespace counts (RLIMIT_NPROC, per namespace since 5.14).
        if lacking.protection != Protection::PidsLimit {
            lack(lacking.protection, &lacking.reason);
        }
    }
    let enforceable =
        Protection::ALL.into_iter().filter(|protection| !missing.iter().any(|missing| missing.protection == *protection)).collect();
    Standing { mode: setup.mode, cgroup: cgroups.layout, enforceable, missing }
}
