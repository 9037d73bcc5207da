//! Which protections a spec needs, which of them this launcher can give, and the refusal where one is lacking.

use crate::error::LaunchError;
use crate::host::{Mode, Standing};
use crate::protection::{Missing, Protection};
use crate::spec::{Identity, Ids, Network, Spec};

/// What will be in force for a spec, and what not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub enforced: Vec<Protection>,
    pub missing: Vec<Missing>,
}

/// Compares need and ability.
///
/// # Errors
/// [`LaunchError::Refused`] with every needed protection that is missing and not allowed to be.
pub(crate) fn assess(spec: &Spec, standing: &Standing, pids_by_cgroup: bool) -> Result<Verdict, LaunchError> {
    let mut verdict = Verdict { enforced: Vec::new(), missing: Vec::new() };
    for protection in Protection::ALL {
        if !needed(protection, spec) {
            continue;
        }
        match lack(protection, spec, standing, pids_by_cgroup) {
            None => verdict.enforced.push(protection),
            Some(reason) => verdict.missing.push(Missing { protection, reason }),
        }
    }
    let refused: Vec<Missing> = verdict
        .missing
        .iter()
        .filter(|missing| !missing.protection.best_effort() && !spec.allow_missing.contains(&missing.protection))
        .cloned()
        .collect();
    if refused.is_empty() { Ok(verdict) } else { Err(LaunchError::Refused { missing: refused }) }
}

fn needed(protection: Protection, spec: &Spec) -> bool {
    match protection {
        Protection::MemoryLimit => spec.limits.memory.is_some(),
        Protection::CpuLimit => spec.limits.cpu_milli.is_some(),
        Protection::PidsLimit => spec.limits.pids.is_some(),
        Protection::DiskLimit => spec.limits.disk.is_some() || spec.limits.inodes.is_some(),
        Protection::WallClock => spec.limits.wall_clock.is_some(),
        Protection::SecretMemory => !spec.secrets.is_empty(),
        Protection::ExitByName => matches!(&spec.network, Network::Exit { capture: Some(_), .. }),
        _ => true,
    }
}

fn lack(protection: Protection, spec: &Spec, standing: &Standing, pids_by_cgroup: bool) -> Option<String> {
    let known = || standing.missing.iter().find(|missing| missing.protection == protection).map(|missing| missing.reason.clone());
    match protection {
        Protection::IdRange if standing.mode == Mode::Root && spec.ids == Ids::Default => {
            Some("the launcher's default ids are shared by all sandboxes that name no range".to_owned())
        }
        // A namespace root may change its id, and the kernel counts processes per id.
        Protection::PidsLimit if !pids_by_cgroup && spec.identity == Identity::NamespaceRoot => {
            Some("without a pids cgroup processes are counted per id, and a namespace root has many ids".to_owned())
        }
        _ => known(),
    }
}
