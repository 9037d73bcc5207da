//! The policed exit of one program, for the time that its sandbox lives.

use std::sync::{Arc, Mutex, PoisonError};

use caisson_gateway::gateway::Gateway;
use caisson_model::outcome::{EgressEntry, Fault};
use caisson_model::policy::Egress;

use caisson_sandbox::onlooker::Onlooker;
use caisson_sandbox::sockets::Sockets;

use crate::lower::Passage;
use crate::mask::Masker;
use crate::program::Halt;
use crate::way::Way;

/// Opens the exit that a passage leads to; `None` for a closed one. What is attempted is also told at once.
///
/// # Errors
/// The listeners cannot be served.
pub(super) fn open(
    sockets: Sockets,
    onlooker: Onlooker,
    passage: Passage,
    egress: &Egress,
    gateway: &Gateway,
    tell: impl Fn(EgressEntry) + Send + Sync + 'static,
    masker: Masker,
) -> Result<Option<Way>, Halt> {
    if sockets.listeners.is_empty() {
        return Ok(None);
    }
    let masker = Mutex::new(masker);
    let sink = Arc::new(move |entry: &EgressEntry| {
        tell(mask(&mut masker.lock().unwrap_or_else(PoisonError::into_inner), entry.clone()));
    });
    Way::open(sockets, onlooker, passage, egress, gateway, sink)
        .map(Some)
        .map_err(|error| Halt::faulted(format!("the step's way out could not be opened: {}", chain(&error)), Fault::Environment))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}

/// Masks for a ledger: a secret can be tried to be carried out in a host's name, which is written in lower case.
pub(super) fn masker<'v>(values: impl Iterator<Item = &'v Vec<u8>>) -> Masker {
    let mut masker = Masker::default();
    for value in values {
        // Those that are too short to be masked were named when they were learnt.
        let _ = masker.add(value);
        let _ = masker.add(&value.to_ascii_lowercase());
    }
    masker
}

/// An entry with its texts masked.
pub(super) fn mask(masker: &mut Masker, mut entry: EgressEntry) -> EgressEntry {
    let package = entry.package.iter_mut().flat_map(|package| [&mut package.name, &mut package.file]);
    for text in [&mut entry.host, &mut entry.rule].into_iter().chain(package) {
        *text = String::from_utf8_lossy(&masker.mask(text.as_bytes())).into_owned();
    }
    entry
}
