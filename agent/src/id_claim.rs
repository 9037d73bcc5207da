//! Ranges of host ids: one per attempt, so that what breaks out of a sandbox is nobody, and other jobs' files are not its own.
//! A range is claimed by a lock on a file, which the kernel releases whatever becomes of this process.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use caisson_sandbox::spec::IdRange;

/// The first range begins here: above people, services, the usual subordinate ids (subuid(5)) and the ids that container
/// managers take by themselves, and just above the launcher's own.
const FIRST: u32 = 0x7001_0000;
/// Ids per range.
const COUNT: u32 = 65536;
/// How many ranges there are.
const RANGES: u32 = 4000;

/// A range that nobody else has while this value lives.
#[derive(Debug)]
pub struct IdClaim {
    range: IdRange,
    _lock: File,
}

impl IdClaim {
    /// Claims the first free range. Blocks on the disk only.
    ///
    /// # Errors
    /// The directory cannot be made, or every range is taken.
    pub fn take(directory: &Path) -> io::Result<IdClaim> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        for number in 0..RANGES {
            let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(directory.join(number.to_string()))?;
            match file.try_lock() {
                Ok(()) => return Ok(IdClaim { range: IdRange { base: FIRST + number * COUNT, count: COUNT }, _lock: file }),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
        Err(io::Error::other(format!("all {RANGES} id ranges are in use")))
    }

    /// The range.
    pub fn range(&self) -> IdRange {
        self.range
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_range_is_claimed_once_and_free_again_afterwards() {
        let directory = tempfile::tempdir().unwrap();
        let first = IdClaim::take(directory.path()).unwrap();
        let second = IdClaim::take(directory.path()).unwrap();
        assert!(second.range().base >= first.range().base + first.range().count);
        let base = first.range().base;
        drop(first);
        assert_eq!(IdClaim::take(directory.path()).unwrap().range().base, base);
    }
}
