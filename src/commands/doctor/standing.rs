//! Each protection with what becomes of steps here, and the next action where it is missing.

use caisson_agent::probe::is_needed;
use caisson_sandbox::host::Mode;
use caisson_sandbox::protection::Protection;
use serde::Serialize;

use crate::commands::doctor::around::Around;

/// What becomes of steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum State {
    /// It holds in every sandbox.
    Enforced,
    /// Every step is refused for want of it.
    RefusesSteps,
    /// Steps run without it, as the operator allowed by name.
    Allowed,
    /// Only steps that ask for it are refused.
    RefusesWhoAsks,
    /// Steps run without it, and each says so.
    BestEffort,
}

impl State {
    /// In words.
    pub(crate) const fn words(self) -> &'static str {
        match self {
            State::Enforced => "enforced",
            State::RefusesSteps => "refuses every step",
            State::Allowed => "its lack is allowed by name",
            State::RefusesWhoAsks => "refuses steps that ask for it",
            State::BestEffort => "best effort",
        }
    }
}

/// One protection here.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Standing {
    /// Which.
    pub(crate) protection: Protection,
    /// What becomes of steps.
    pub(crate) state: State,
    /// Why it is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) action: Option<String>,
}

impl Standing {
    /// One that holds.
    pub(crate) fn enforced(protection: Protection) -> Standing {
        Standing { protection, state: State::Enforced, reason: None, action: None }
    }

    /// One that is missing.
    pub(crate) fn missing(protection: Protection, reason: &str, allowed: bool, mode: Mode, around: &Around) -> Standing {
        let state = match (protection.best_effort(), allowed, is_needed(protection)) {
            (true, _, _) => State::BestEffort,
            (false, true, _) => State::Allowed,
            (false, false, true) => State::RefusesSteps,
            (false, false, false) => State::RefusesWhoAsks,
        };
        Standing { protection, state, reason: Some(reason.to_owned()), action: Some(action(protection, mode, around).to_owned()) }
    }
}

/// What gets it.
fn action(protection: Protection, mode: Mode, around: &Around) -> &'static str {
    match protection {
        Protection::MemoryLimit | Protection::CpuLimit | Protection::PidsLimit if around.container.is_some() => {
            "give the container a cgroup namespace with cgroups that it may write to (docker: `--cgroupns private --privileged`; podman: \
             `--cgroupns private --security-opt unmask=/sys/fs/cgroup`), or run caisson on the host"
        }
        Protection::MemoryLimit | Protection::CpuLimit | Protection::PidsLimit if mode == Mode::Root => {
            "enable the controller (`cgroup.subtree_control` of the group above), or run under a unit with `Delegate=yes`"
        }
        Protection::MemoryLimit | Protection::CpuLimit | Protection::PidsLimit => {
            "run under `systemd-run --user --scope -p Delegate=yes`, in a unit with `Delegate=yes`, or as root"
        }
        Protection::UserNamespace => {
            "allow user namespaces: `sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=15000`; on Ubuntu also an AppArmor \
             profile for caisson with `userns,`, or `sysctl kernel.apparmor_restrict_unprivileged_userns=0`; in a container, a seccomp \
             profile that allows them"
        }
        Protection::IdRange => "run the agent as root: then every job has ids of its own",
        Protection::TimeNamespace => "Linux 5.6 or newer with CONFIG_TIME_NS",
        Protection::Landlock => "Linux 6.12 or newer with `landlock` among the security modules (`lsm=` at boot)",
        Protection::Seccomp => "a kernel with CONFIG_SECCOMP_FILTER",
        Protection::SecretMemory => "turn swap off, or Linux 6.4 or newer and root",
        Protection::ExitByName => {
            "load nf_tables with NAT (`modprobe nft_chain_nat nft_redir`); until then only programs that know proxies get out"
        }
        Protection::Keyring => "a kernel with CONFIG_KEYS, and in a container a seccomp profile that allows keyctl",
        _ => "Linux 5.12 or newer; in a container, a seccomp profile that allows namespaces and mounts",
    }
}
