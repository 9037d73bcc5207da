//! The one place of this command that looks at the clock.

use std::time::{SystemTime, UNIX_EPOCH};

use caisson_model::time::Timestamp;

/// Now.
pub(crate) fn now() -> Timestamp {
    // A clock before 1970 is shown as 1970.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
