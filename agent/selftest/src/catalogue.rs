//! All attacks, by family.

mod endings;
mod files;
mod forging;
mod information;
mod interfaces;
mod kernel;
mod mounts;
mod network;
mod processes;
mod resources;
mod sockets;

pub(crate) use endings::wait_in_kernel;
pub(crate) use files::SCRIPT;
pub(crate) use resources::hold;

use crate::attack::Attack;

const PARTS: [&[Attack]; 11] = [
    files::ATTACKS,
    mounts::ATTACKS,
    processes::ATTACKS,
    kernel::ATTACKS,
    sockets::ATTACKS,
    interfaces::ATTACKS,
    network::ATTACKS,
    information::ATTACKS,
    resources::ATTACKS,
    endings::ATTACKS,
    forging::ATTACKS,
];

/// Every attack, in the order of the table.
pub fn all() -> impl Iterator<Item = &'static Attack> {
    PARTS.into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::attack::Family;

    #[test]
    fn names_are_unique_and_begin_with_their_family() {
        let mut seen = BTreeSet::new();
        for attack in all() {
            assert!(seen.insert(attack.id), "{} twice", attack.id);
            assert!(attack.id.starts_with(&format!("{}.", attack.family().word())), "{}", attack.id);
            assert!(!attack.tries.is_empty() && !attack.tries.ends_with('.'), "{}", attack.id);
        }
        for family in Family::ALL {
            assert!(all().any(|attack| attack.family() == family), "{family:?}");
        }
    }
}
