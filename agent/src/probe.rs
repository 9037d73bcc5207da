//! Whether this host can do what the default policy needs: a judgement over what the launcher found, as a value, so that tests
//! can make one up. Looking is the sandbox's; saying what a lack means is here.

use std::collections::BTreeSet;

use caisson_sandbox::host::Standing;
use caisson_sandbox::protection::Protection;

/// What a host can enforce, held against what steps need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// What every sandbox here enforces.
    pub enforced: Vec<Protection>,
    /// What none does.
    pub lacks: Vec<Lack>,
}

/// A protection that this host cannot enforce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    /// Which.
    pub protection: Protection,
    /// Why, and what would change that.
    pub reason: String,
    /// What follows from it.
    pub consequence: Consequence,
}

/// What follows from a lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consequence {
    /// Every step is refused, until the host is changed or the lack is allowed by name.
    Refused,
    /// Steps run without it, since the operator allowed that by name.
    Allowed,
    /// Only steps whose policy asks for it are refused.
    RefusedWhenAsked,
    /// Steps run without it, and each says so: it narrows what is closed anyway.
    Reported,
}

/// Whether every step needs this: all but what is best effort by nature, and a limit on processor time, which nobody has asked
/// for by default.
pub fn is_needed(protection: Protection) -> bool {
    !protection.best_effort() && protection != Protection::CpuLimit
}

impl Readiness {
    /// Judges. `allowed` are the lacks that the operator accepts.
    pub fn of(standing: &Standing, allowed: &BTreeSet<Protection>) -> Readiness {
        let lacks = standing.missing.iter().map(|missing| {
            let protection = missing.protection;
            let consequence = if protection.best_effort() {
                Consequence::Reported
            } else if allowed.contains(&protection) {
                Consequence::Allowed
            } else if is_needed(protection) {
                Consequence::Refused
            } else {
                Consequence::RefusedWhenAsked
            };
            Lack { protection, reason: missing.reason.clone(), consequence }
        });
        Readiness { enforced: standing.enforceable.clone(), lacks: lacks.collect() }
    }

    /// The protections whose lack refuses every step.
    pub fn refusing(&self) -> impl Iterator<Item = &Lack> {
        self.lacks.iter().filter(|lack| lack.consequence == Consequence::Refused)
    }

    /// The names of what is enforced, as an agent tells its controller.
    pub fn names(&self) -> Vec<String> {
        self.enforced.iter().map(ToString::to_string).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use caisson_sandbox::host::{CgroupLayout, Mode};
    use caisson_sandbox::protection::Missing;

    #[test]
    fn a_lack_means_what_the_policy_makes_of_it() {
        let missing = |protection| Missing { protection, reason: "made up".to_owned() };
        let standing = Standing {
            mode: Mode::Single,
            cgroup: CgroupLayout::Absent,
            enforceable: vec![Protection::Seccomp],
            missing: [Protection::MemoryLimit, Protection::CpuLimit, Protection::Landlock, Protection::PidsLimit].map(missing).to_vec(),
        };
        let readiness = Readiness::of(&standing, &[Protection::PidsLimit].into());
        let consequences: Vec<_> = readiness.lacks.iter().map(|lack| lack.consequence).collect();
        assert_eq!(consequences, [Consequence::Refused, Consequence::RefusedWhenAsked, Consequence::Reported, Consequence::Allowed]);
        assert_eq!(readiness.refusing().map(|lack| lack.protection).collect::<Vec<_>>(), [Protection::MemoryLimit]);
        assert_eq!(readiness.names(), ["seccomp"]);
    }
}
