//! What the kernel counts per user and not per group: inotify instances and watches, queued signals and timers, locked memory.
//! The count of a user namespace is charged to whoever made it as well (namespaces(7), "The /proc/sys/user directory"), so that
//! without more a step could use up the share of the host's root, whose services then get no timer and no watch.
//!
//! As root each sandbox's namespace is therefore made by an id of its own that nobody else has: its share is its own. That id
//! owns the namespace; nothing runs under it where that would mean anything. An ordinary user has no other id to charge: there
//! all sandboxes together get half of its share.

use std::io::Write as _;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Uid, seteuid};

use crate::error::{Failure, Stage};
use crate::host::Mode;
use crate::spec::IdRange;
use crate::sys;

/// What a user namespace may have (4.9), and what each user of the host may: a new namespace begins without a bound of its own.
const WATCHES: [(&str, &str); 2] = [
    ("/proc/sys/user/max_inotify_instances", "/proc/sys/fs/inotify/max_user_instances"),
    ("/proc/sys/user/max_inotify_watches", "/proc/sys/fs/inotify/max_user_watches"),
];

/// Who makes the next namespace.
#[derive(Debug)]
pub(crate) struct Shares {
    /// The ids to make namespaces by; `None` where there is only one.
    ids: Option<IdRange>,
    next: u32,
}

impl Shares {
    /// For a launcher of this mode. Launchers begin at different ids, since all have the same ones.
    pub(crate) fn new(mode: Mode, ids: IdRange) -> Shares {
        if mode != Mode::Root {
            halve_watches();
        }
        let ids = (mode == Mode::Root && ids.count > 0).then_some(ids);
        Shares { ids, next: std::process::id().wrapping_mul(997) }
    }

    /// Makes a namespace, by `clone`, as the next id. Capabilities stay as they are.
    ///
    /// # Errors
    /// What `clone` says, or [`Stage::Clone`] when the id cannot be taken or given back.
    pub(crate) fn apart<T>(&mut self, clone: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        let failed = |errno| Failure::new(Stage::Clone, "an id to charge", errno);
        let Some(ids) = self.ids else { return clone() };
        self.next = self.next.wrapping_add(1);
        let owner = Uid::from_raw(ids.base + self.next % ids.count);
        if sys::keep_capabilities(true).is_err() {
            // Without CAP_SETPCAP an id cannot be left without losing everything.
            self.ids = None;
            return clone();
        }
        let result = seteuid(owner).map_err(failed).and_then(|()| clone());
        let back = seteuid(Uid::from_raw(0)).and_then(|()| sys::keep_capabilities(false));
        back.map_err(failed)?;
        result
    }
}

/// Leaves half of this user's queued signals and timers to others than the sandboxes: the limit in force when a user namespace is
/// made holds for everything in it together. To be called before that.
pub(crate) fn halve_signals() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_SIGPENDING) {
        // What cannot be lowered stays: nobody is worse off than without.
        let _ = setrlimit(Resource::RLIMIT_SIGPENDING, soft.min(hard / 2).max(1), hard);
    }
}

/// The same for inotify, from within the launcher's own user namespace.
fn halve_watches() {
    for (own, host) in WATCHES {
        let most = std::fs::read_to_string(host).ok().and_then(|text| text.trim().parse::<u64>().ok());
        if let (Some(most), Ok(mut file)) = (most, std::fs::OpenOptions::new().write(true).open(own)) {
            // A /proc that is read-only around all of this keeps it as it is.
            let _ = write!(file, "{}", (most / 2).max(1));
        }
    }
}
