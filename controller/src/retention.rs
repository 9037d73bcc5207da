//! How long what runs leave behind is kept.

use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// How long things are kept after their run has ended, or they were saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Logs.
    pub logs: Duration,
    /// Artifacts.
    pub artifacts: Duration,
    /// Entries of caches.
    pub caches: Duration,
    /// Source trees: as long a run can be run again.
    pub sources: Duration,
}

impl Default for Retention {
    fn default() -> Retention {
        Retention { logs: 90 * DAY, artifacts: 90 * DAY, caches: 14 * DAY, sources: 30 * DAY }
    }
}
