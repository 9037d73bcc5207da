//! The limit on what a sandbox writes: its memory file systems are looked at by one call each, host directories by the
//! free space of their file system, which says when a walk is worth its cost. Whoever is over the limit is killed.
//!
//! Why not leave it to the kernel: most file systems are mounted without project quotas, and a workspace in memory would
//! cost the memory that the step needs.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::Pid;

use crate::error::{Failure, Stage};
use crate::measure::{self, Measured, Use, Walk};
use crate::outcome::{Cause, DiskResource};
use crate::spec::{Access, Limits, Mount, Upper};

/// How often memory file systems and free space are looked at.
const TICK: Duration = Duration::from_millis(25);
/// Free space may stay the same while others free what this sandbox writes: so every tree is walked again after this.
const STALE: Duration = Duration::from_secs(5);
/// A counted directory that was not walked for this long is walked at the end of a step: free space has hidden growth that
/// others' removals made up for.
const OLD: Duration = Duration::from_secs(10);
/// How long a sandbox whose job is at its limit already has to make room.
const GRACE: Duration = Duration::from_secs(1);
/// A walk may cost one part in this many of the time.
const DUTY: u32 = 20;
/// The same when free space says that the limit may have been reached.
const DUTY_IN_DOUBT: u32 = 3;

/// What is known of counted directories from one sandbox to the next, so that each need not be walked at every start.
pub(crate) type Known = HashMap<PathBuf, Remembered>;

/// What a directory held.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Remembered {
    used: Use,
    /// When it was walked, or known to be empty.
    at: Instant,
}

impl Remembered {
    /// Of a directory that was just made.
    pub(crate) fn empty(at: Instant) -> Self {
        Self { used: Use::default(), at }
    }
}

/// One host file or directory that the sandbox writes.
#[derive(Debug)]
struct Tree {
    path: PathBuf,
    file: OwnedFd,
    /// What was there before and counts for nothing; `None` until it has been measured.
    before: Option<Use>,
    /// What was there at the last look.
    last: Use,
    /// Whether that look was at this sandbox: what an earlier one left may have been removed by now.
    looked: bool,
    /// When it was walked last, by whichever sandbox.
    at: Instant,
    /// Free bytes and inodes then.
    free: (u64, Option<u64>),
}

/// The watch over one sandbox.
#[derive(Debug)]
pub(crate) struct Watch {
    bytes: Option<u64>,
    inodes: Option<u64>,
    trees: Vec<Tree>,
    memory: Vec<OwnedFd>,
    nameless: Use,
    /// Most that was seen at once.
    peak: Use,
    /// A memory file system that was seen full, and how much it holds.
    full: Option<(DiskResource, u64)>,
    walk: Option<(Walk, Instant)>,
    /// When to look again, and when a walk is due whatever free space says.
    look: Instant,
    stale: Instant,
    /// How long the last walk took, and its end.
    cost: Duration,
    walked: Instant,
    exceeded: bool,
    /// What its processes wrote since the last look, where that is known.
    written: Use,
    /// Whether the look after the end has been taken.
    looked_last: bool,
}

impl Watch {
    /// Opens what is to be watched: of the host `written`, as [`written`] gives it.
    pub(crate) fn new(limits: &Limits, written: &[PathBuf], known: &Known, now: Instant) -> Result<Self, Failure> {
        let mut watch = Self {
            bytes: limits.disk,
            inodes: limits.inodes,
            trees: Vec::new(),
            memory: Vec::new(),
            nameless: Use::default(),
            peak: Use::default(),
            full: None,
            walk: None,
            look: now,
            stale: now + STALE,
            cost: Duration::ZERO,
            walked: now,
            exceeded: false,
            written: Use::default(),
            looked_last: false,
        };
        if !watch.limits() {
            return Ok(watch);
        }
        for path in &limits.counted {
            let last = known.get(path).copied();
            let mut tree = Tree::open(path, Some(Use::default()), last.unwrap_or(Remembered::empty(now)))?;
            if last.is_none() {
                match measure::glance(tree.file.as_fd()) {
                    Some(found) => (tree.last, tree.looked) = (found, true),
                    None => watch.stale = now,
                }
            }
            watch.trees.push(tree);
        }
        for path in written {
            if !limits.counted.iter().any(|counted| path.starts_with(counted)) && watch.trees.iter().all(|tree| tree.path != *path) {
                let mut tree = Tree::open(path, None, Remembered::empty(now))?;
                match measure::glance(tree.file.as_fd()) {
                    Some(found) => (tree.before, tree.last, tree.looked) = (Some(found), found, true),
                    None => watch.stale = now,
                }
                watch.trees.push(tree);
            }
        }
        if watch.reaches(watch.estimate()) {
            watch.look = now + GRACE;
        }
        Ok(watch)
    }

    /// Whether there is anything to limit.
    fn limits(&self) -> bool {
        self.bytes.is_some() || self.inodes.is_some()
    }

    /// Takes memory file systems of the sandbox.
    pub(crate) fn add(&mut self, memory: Vec<OwnedFd>) {
        self.memory.extend(memory);
    }

    /// When to call [`Watch::tick`] next.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.limits().then_some(self.look)
    }

    /// Readable when a walk has ended.
    pub(crate) fn walking(&self) -> Option<BorrowedFd<'_>> {
        self.walk.as_ref().map(|(walk, _)| walk.as_fd())
    }

    /// Most that was seen at once, with a last look at what costs nothing to look at.
    pub(crate) fn peak(&mut self) -> Use {
        if self.limits() {
            self.look_at_memory();
        }
        self.peak
    }

    /// Looks, walks where that is needed; the cause when the limit is passed.
    pub(crate) fn tick(&mut self, init: Pid, now: Instant) -> Option<Cause> {
        if !self.limits() {
            return None;
        }
        self.take_answer(now);
        if now < self.look {
            return self.verdict();
        }
        self.look = now + TICK;
        self.look_at_memory();
        if self.verdict().is_none() && self.walk.is_none() {
            let since = now.saturating_duration_since(self.walked);
            let doubtful = self.passes(self.estimate());
            if (doubtful && since >= self.cost * DUTY_IN_DOUBT) || (now >= self.stale && since >= self.cost * DUTY) {
                self.start(init, now);
            }
        }
        self.verdict()
    }

    /// After the end: whether another look is needed to say how the step ended. Starts it; true until it has been taken.
    ///
    /// `written` are the bytes that its processes made dirty: more than they left, seldom less, and nobody else's.
    pub(crate) fn last_look(&mut self, init: Pid, now: Instant, failed: bool, written: u64) -> bool {
        self.take_answer(now);
        if !self.limits() || self.walk.is_some() {
            return self.walk.is_some();
        }
        self.look_at_memory();
        let sum = self.sum();
        self.written = if self.looked_last { Use::default() } else { Use { bytes: written, inodes: 0 } };
        let estimate = most(self.estimate(), self.total(|tree| tree.last).plus(self.written));
        let old = self.trees.iter().any(|tree| tree.before == Some(Use::default()) && now.saturating_duration_since(tree.at) > OLD);
        let suspicious = |used| if failed { self.reaches(used) } else { self.passes(used) };
        if !self.looked_last && (old || suspicious(estimate)) && !suspicious(sum) {
            (self.looked_last, self.written) = (true, Use::default());
            self.start(init, now);
        }
        self.walk.is_some()
    }

    /// The limit that the step passed; for one that failed also the one at which it stood.
    pub(crate) fn cause(&mut self, failed: bool) -> Option<Cause> {
        if failed || self.limits() {
            self.look_at_memory();
        }
        let passed = if self.limits() { self.verdict() } else { None };
        if passed.is_some() || !failed {
            return passed;
        }
        if let (Some(limit), true) = (self.bytes, self.bytes.is_some_and(|limit| self.peak.bytes >= limit)) {
            return Some(Cause::Disk { resource: DiskResource::Bytes, limit, used: self.peak.bytes });
        }
        if let (Some(limit), true) = (self.inodes, self.inodes.is_some_and(|limit| self.peak.inodes >= limit)) {
            return Some(Cause::Disk { resource: DiskResource::Inodes, limit, used: self.peak.inodes });
        }
        self.full.map(|(resource, held)| Cause::Disk { resource, limit: held, used: held })
    }

    /// What the next sandbox need not find out again.
    pub(crate) fn remember(&self, known: &mut Known) {
        for tree in self.trees.iter().filter(|tree| tree.before == Some(Use::default())) {
            known.insert(tree.path.clone(), Remembered { used: most(tree.estimate(), tree.last.plus(self.written)), at: tree.at });
        }
    }

    fn start(&mut self, init: Pid, now: Instant) {
        let files: Vec<BorrowedFd<'_>> = self.trees.iter().map(|tree| tree.file.as_fd()).collect();
        if let Ok(walk) = Walk::start(&files, init) {
            for tree in &mut self.trees {
                tree.free = measure::free(tree.file.as_fd()).unwrap_or(tree.free);
            }
            self.walk = Some((walk, now));
        }
    }

    fn take_answer(&mut self, now: Instant) {
        let Some((answer, started)) = self.walk.as_ref().and_then(|(walk, started)| Some((walk.answer()?, *started))) else { return };
        self.walk = None;
        (self.walked, self.cost) = (now, now.saturating_duration_since(started));
        self.stale = now + STALE.max(self.cost * DUTY);
        // One that failed is tried again when it is due.
        let Ok(Measured { trees, nameless }) = answer else { return };
        self.nameless = nameless;
        for (tree, found) in self.trees.iter_mut().zip(trees) {
            tree.before.get_or_insert(found);
            (tree.last, tree.looked, tree.at) = (found, true, started);
        }
        self.peak = most(self.peak, self.sum());
    }

    fn look_at_memory(&mut self) {
        for tree in &self.memory {
            let Ok((used, no_bytes, no_inodes)) = measure::held(tree.as_fd()) else { continue };
            if no_bytes {
                self.full = Some((DiskResource::Bytes, used.bytes));
            } else if no_inodes {
                self.full = Some((DiskResource::Inodes, used.inodes));
            }
        }
        self.peak = most(self.peak, self.sum());
    }

    /// What is known to be written.
    fn sum(&self) -> Use {
        self.total(|tree| if tree.looked { tree.last } else { Use::default() })
    }

    /// What may be written, going by free space.
    fn estimate(&self) -> Use {
        self.total(Tree::estimate)
    }

    fn total(&self, of: impl Fn(&Tree) -> Use) -> Use {
        let memory = self.memory.iter().filter_map(|tree| Some(measure::held(tree.as_fd()).ok()?.0));
        // Without a measure of what was there before, nothing can be said of a tree.
        let trees = self.trees.iter().filter_map(|tree| Some(of(tree).minus(tree.before?)));
        memory.chain(trees).fold(self.nameless, Use::plus)
    }

    fn passes(&self, used: Use) -> bool {
        self.bytes.is_some_and(|limit| used.bytes > limit) || self.inodes.is_some_and(|limit| used.inodes > limit)
    }

    fn reaches(&self, used: Use) -> bool {
        self.bytes.is_some_and(|limit| used.bytes >= limit) || self.inodes.is_some_and(|limit| used.inodes >= limit)
    }

    fn verdict(&mut self) -> Option<Cause> {
        let used = self.sum();
        self.exceeded |= self.passes(used);
        if !self.exceeded {
            return None;
        }
        let used = most(self.peak, used);
        match (self.bytes, self.inodes) {
            (Some(limit), _) if used.bytes > limit => Some(Cause::Disk { resource: DiskResource::Bytes, limit, used: used.bytes }),
            (_, Some(limit)) => Some(Cause::Disk { resource: DiskResource::Inodes, limit, used: used.inodes }),
            _ => None,
        }
    }
}

/// The host's files and directories that a sandbox with these mounts can write.
pub(crate) fn written(mounts: &[Mount]) -> Vec<PathBuf> {
    let path = |mount: &Mount| match mount {
        Mount::Bind { source, access: Access::ReadWrite, .. } => Some(source.clone()),
        Mount::Overlay { upper: Upper::Directory(path), .. } => Some(path.clone()),
        _ => None,
    };
    mounts.iter().filter_map(path).collect()
}

impl Tree {
    fn open(path: &Path, before: Option<Use>, last: Remembered) -> Result<Self, Failure> {
        let failed = |errno| Failure::new(Stage::Source, path.display().to_string(), errno);
        let file = nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).map_err(failed)?;
        let free = measure::free(file.as_fd()).map_err(failed)?;
        Ok(Self { path: path.to_owned(), file, before, last: last.used, looked: false, at: last.at, free })
    }

    fn estimate(&self) -> Use {
        let Ok((bytes, inodes)) = measure::free(self.file.as_fd()) else { return self.last };
        let grown = Use {
            bytes: self.free.0.saturating_sub(bytes),
            inodes: self.free.1.zip(inodes).map_or(0, |(before, now)| before.saturating_sub(now)),
        };
        self.last.plus(grown)
    }
}

fn most(a: Use, b: Use) -> Use {
    Use { bytes: a.bytes.max(b.bytes), inodes: a.inodes.max(b.inodes) }
}
