//! The time of day for reports. Durations are measured elsewhere, on a clock that cannot be set.

use std::time::{SystemTime, UNIX_EPOCH};

use caisson_model::time::Timestamp;

/// Now, by the host's clock.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
