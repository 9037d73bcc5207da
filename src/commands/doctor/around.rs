//! What stands around this process: a container, a unit that was given its own part of the cgroups. It decides nothing; it makes
//! the advice fit.

use std::fmt;
use std::path::Path;

use serde::Serialize;

/// The surroundings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Around {
    /// The kind of container that this is in.
    pub(crate) container: Option<String>,
    /// The unit or scope of the service manager.
    pub(crate) unit: Option<String>,
    /// Whether that unit's part of the cgroups was handed over to it (`Delegate=yes`).
    pub(crate) delegated: bool,
}

/// The number of the kernel's first process namespace (proc_ns.h, unchanged since 3.8).
const FIRST_PIDS: &str = "pid:[4026531836]";

impl Around {
    /// Looks.
    pub(crate) fn look() -> Around {
        let text = |path: &str| std::fs::read_to_string(path).ok();
        let named = text("/run/systemd/container").map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
        let container = named
            .or_else(|| Path::new("/.dockerenv").exists().then(|| "docker".to_owned()))
            .or_else(|| Path::new("/run/.containerenv").exists().then(|| "podman".to_owned()))
            .or_else(|| Path::new("/var/run/secrets/kubernetes.io").exists().then(|| "kubernetes".to_owned()))
            .or_else(|| {
                let own = std::fs::read_link("/proc/self/ns/pid").ok()?;
                (own != Path::new(FIRST_PIDS)).then(|| "its own process namespace".to_owned())
            });
        let group = group_of(&text("/proc/self/cgroup").unwrap_or_default());
        let unit = group.as_deref().and_then(unit_of);
        let delegated = group.is_some_and(|group| {
            ["/sys/fs/cgroup", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"].iter().any(|mount| {
                let directory = format!("{mount}{group}");
                // Its own directory belongs to whoever it was handed to, who is not root.
                std::fs::metadata(&directory).is_ok_and(|facts| {
                    use std::os::unix::fs::MetadataExt;
                    facts.uid() != 0 && facts.uid() == nix::unistd::geteuid().as_raw()
                })
            })
        });
        Around { container, unit, delegated }
    }
}

/// The group that the service manager goes by: that of version 2, or of its own hierarchy.
fn group_of(text: &str) -> Option<String> {
    let of = |begin: &str| text.lines().find_map(|line| line.split_once(begin).filter(|(number, _)| number.parse::<u32>().is_ok()));
    let (_, path) = of(":name=systemd:").or_else(|| of("::"))?;
    Some(path.trim_end_matches('/').to_owned())
}

fn unit_of(group: &str) -> Option<String> {
    let is_unit = |name: &&str| name.ends_with(".service") || name.ends_with(".scope");
    group.rsplit('/').find(is_unit).map(str::to_owned)
}

impl fmt::Display for Around {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.container {
            Some(kind) => write!(out, "in a container ({kind})")?,
            None => out.write_str("on the host itself")?,
        }
        if let Some(unit) = &self.unit {
            write!(out, ", under {unit}{}", if self.delegated { ", delegated" } else { "" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn units_are_found_in_both_versions() {
        for (text, group, unit) in [
            ("0::/user.slice/user-1000.slice/session-3.scope\n", "/user.slice/user-1000.slice/session-3.scope", Some("session-3.scope")),
            ("5:memory:/x\n1:name=systemd:/system.slice/caisson.service\n0::/\n", "/system.slice/caisson.service", Some("caisson.service")),
            ("0::/system.slice/ci.service/agent\n", "/system.slice/ci.service/agent", Some("ci.service")),
            ("3:pids:/a\n0::/\n", "", None),
        ] {
            let found = group_of(text).unwrap();
            assert_eq!((found.as_str(), unit_of(&found).as_deref()), (group, unit));
        }
        assert_eq!(group_of("3:pids:/a\n"), None);
    }
}
