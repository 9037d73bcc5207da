//! What all connections of one step share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use caisson_model::outcome::Bytes;

use crate::egress::asked::Asked;
use crate::egress::dial::Pins;
use crate::egress::ledger::Ledger;
use crate::egress::lineage::Finder;
use crate::egress::names::Names;
use crate::egress::rules::Allowed;

/// A clone for each connection.
#[derive(Clone, Debug)]
pub(super) struct Border {
    pub allowed: Arc<Allowed>,
    pub names: Arc<Names>,
    pub asked: Arc<Asked>,
    pub pins: Arc<Pins>,
    pub ledger: Arc<Ledger>,
    pub finder: Finder,
    pub meter: Arc<Meter>,
}

/// How many bytes a step may still carry, both ways together.
#[derive(Debug)]
pub(super) struct Meter {
    most: Option<u64>,
    used: AtomicU64,
}

/// A step has carried all that it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spent {
    most: u64,
}

impl std::fmt::Display for Spent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the step has used up the {} that it may carry over the network", Bytes(self.most))
    }
}

impl Meter {
    pub(super) fn new(most: Option<u64>) -> Meter {
        Meter { most, used: AtomicU64::new(0) }
    }

    /// Counts bytes that were carried.
    pub(super) fn count(&self, bytes: u64) -> Result<(), Spent> {
        let used = self.used.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        self.most.filter(|most| used > *most).map_or(Ok(()), |most| Err(Spent { most }))
    }
}
