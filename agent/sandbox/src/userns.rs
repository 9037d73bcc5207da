//! User namespaces: which ids the launcher has to give, and the maps that give them (user_namespaces(7)).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use caps::{CapSet, Capability};
use nix::errno::Errno;
use nix::unistd::{Gid, Pid, Uid};

use crate::error::{Failure, Stage};
use crate::host::Mode;
use crate::spec::{IdRange, Identity, Ids};

/// What the launcher needs to be called root: everything it does to build sandboxes of other ids.
const ROOT_NEEDS: [Capability; 10] = [
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_SYS_CHROOT,
    Capability::CAP_SETUID,
    Capability::CAP_SETGID,
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_KILL,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_NET_BIND_SERVICE,
];

/// The mode that this process can start a launcher in.
pub(crate) fn choose(ids: IdRange) -> Mode {
    let able = Uid::effective().is_root() && ROOT_NEEDS.iter().all(|need| caps::has_cap(None, CapSet::Effective, *need).unwrap_or(false));
    if able && covers("/proc/self/uid_map", ids) && covers("/proc/self/gid_map", ids) {
        return Mode::Root;
    }
    // The tools refuse a user without a name.
    let named = nix::unistd::User::from_uid(user_id()).is_ok_and(|user| user.is_some());
    match (subordinate("/etc/subuid", user_id()), subordinate("/etc/subgid", user_id())) {
        (Some(users), Some(groups)) if named && tool("newuidmap").is_some() && tool("newgidmap").is_some() => {
            Mode::Subordinate { count: users.count.min(groups.count) }
        }
        _ => Mode::Single,
    }
}

fn user_id() -> Uid {
    Uid::effective()
}

/// Whether the ids of a range mean anything in our own user namespace.
fn covers(map: &str, ids: IdRange) -> bool {
    let Ok(text) = fs::read_to_string(map) else { return false };
    text.lines().any(|line| {
        let mut numbers = line.split_whitespace().filter_map(|word| word.parse::<u64>().ok());
        match (numbers.next(), numbers.next(), numbers.next()) {
            (Some(inside), Some(_), Some(count)) => {
                inside <= u64::from(ids.base) && u64::from(ids.base) + u64::from(ids.count) <= inside + count
            }
            _ => false,
        }
    })
}

/// The first range that subuid(5) or subgid(5) gives to a user, by name or number; at least 1001 ids long.
pub(crate) fn subordinate(file: &str, user: Uid) -> Option<IdRange> {
    let name = nix::unistd::User::from_uid(user).ok().flatten().map(|user| user.name);
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        if Some(owner) != name.as_deref() && owner != user.to_string() {
            return None;
        }
        let base = fields.next()?.parse().ok()?;
        let count: u32 = fields.next()?.parse().ok()?;
        (count >= 1001).then_some(IdRange { base, count })
    })
}

/// Where a set-user-id tool lies: only in the system's own directories, whatever PATH says.
pub(crate) fn tool(name: &str) -> Option<PathBuf> {
    ["/usr/bin", "/bin", "/usr/sbin", "/sbin", "/usr/local/bin"]
        .iter()
        .map(|directory| Path::new(directory).join(name))
        .find(|path| path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.mode() & 0o111 != 0))
}

/// Maps the ids of the launcher's own user namespace, from outside: 0 is the user, from 1 on the subordinate ids.
pub(crate) fn map_launcher(pid: Pid, mode: Mode) -> Result<(), Failure> {
    let (uid, gid) = (Uid::effective(), Gid::effective());
    let Mode::Subordinate { count } = mode else {
        deny_setgroups(pid)?;
        write(pid, "uid_map", &format!("0 {uid} 1"))?;
        return write(pid, "gid_map", &format!("0 {gid} 1"));
    };
    for (name, file, own) in [("newuidmap", "/etc/subuid", uid.as_raw()), ("newgidmap", "/etc/subgid", gid.as_raw())] {
        let failed = |reason: &str| Failure::rule(Stage::IdMap, format!("{name}: {reason}"));
        let range = subordinate(file, uid).ok_or_else(|| failed("no subordinate ids"))?;
        let program = tool(name).ok_or_else(|| failed("not found"))?;
        let pid = pid.to_string();
        let words = ["0", &own.to_string(), "1", "1", &range.base.to_string(), &count.to_string()].map(str::to_owned);
        let output = Command::new(program)
            .arg(&pid)
            .args(words)
            .env_clear()
            .stdin(Stdio::null())
            .output()
            .map_err(|error| Failure::io(Stage::IdMap, name, &error))?;
        if !output.status.success() {
            return Err(failed(String::from_utf8_lossy(&output.stderr).trim()));
        }
    }
    Ok(())
}

/// Takes id 0 of the namespace that this process has just been mapped into.
pub(crate) fn become_root(groups_denied: bool) -> Result<(), Errno> {
    if !groups_denied {
        nix::unistd::setgroups(&[])?;
    }
    nix::unistd::setresgid(Gid::from_raw(0), Gid::from_raw(0), Gid::from_raw(0))?;
    nix::unistd::setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0))
}

/// How the ids inside one sandbox stand to those of the launcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IdMap {
    users: Line,
    groups: Line,
    /// Whether setgroups must be denied first, and can't be called inside.
    pub groups_denied: bool,
}

/// One kind of id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// `0 .. count` inside are `base .. base + count` of the launcher.
    Range { base: u32, count: u32 },
    /// `own` inside is the launcher's 0; the others are the launcher's from 1 on.
    Own { own: u32, count: u32 },
    /// `own` inside is the launcher's 0, and nothing else exists.
    Single { own: u32 },
}

impl Line {
    fn text(self) -> String {
        match self {
            Self::Range { base, count } => format!("0 {base} {count}"),
            // Two lines, since one may not span two of the launcher's own.
            Self::Own { own: 0, count } => format!("0 0 1\n1 1 {count}"),
            Self::Own { own, count } => {
                let after = if count > own { format!("\n{0} {0} {1}", own + 1, count - own) } else { String::new() };
                format!("0 1 {own}\n{own} 0 1{after}")
            }
            Self::Single { own } => format!("{own} 0 1"),
        }
    }

    fn outside(self, inside: u32) -> u32 {
        match self {
            Self::Range { base, .. } => base + inside,
            Self::Own { own, .. } if inside == own => 0,
            Self::Own { own, .. } if inside < own => inside + 1,
            Self::Own { .. } => inside,
            Self::Single { .. } => 0,
        }
    }
}

impl IdMap {
    /// The map of a sandbox.
    ///
    /// # Errors
    /// A rule of [`Stage::Spec`] when the identity is not in the range.
    pub(crate) fn new(mode: Mode, default: IdRange, ids: Ids, identity: Identity) -> Result<Self, Failure> {
        let (uid, gid) = (identity.uid(), identity.gid());
        if matches!(identity, Identity::User { .. }) && (uid == 0 || gid == 0) {
            return Err(Failure::rule(Stage::Spec, "an ordinary user can't have id 0: say namespace root"));
        }
        let range = match ids {
            Ids::Range(range) => range,
            Ids::Default => default,
        };
        let map = match mode {
            Mode::Root => {
                if range.base < 65536 || range.count <= uid.max(gid) || range.base.checked_add(range.count).is_none() {
                    let text = format!("id range {} + {}", range.base, range.count);
                    return Err(Failure::rule(Stage::Spec, text));
                }
                let line = Line::Range { base: range.base, count: range.count };
                Self { users: line, groups: line, groups_denied: false }
            }
            Mode::Subordinate { count } => {
                if uid.max(gid) > count {
                    return Err(Failure::rule(Stage::Spec, format!("id {uid}:{gid} is beyond {count} subordinate ids")));
                }
                let (users, groups) = (Line::Own { own: uid, count }, Line::Own { own: gid, count });
                Self { users, groups, groups_denied: false }
            }
            Mode::Single => Self { users: Line::Single { own: uid }, groups: Line::Single { own: gid }, groups_denied: true },
        };
        Ok(map)
    }

    /// Writes it for a process in its new namespace.
    pub(crate) fn write(self, pid: Pid) -> Result<(), Failure> {
        if self.groups_denied {
            deny_setgroups(pid)?;
        }
        write(pid, "uid_map", &self.users.text())?;
        write(pid, "gid_map", &self.groups.text())
    }

    /// The launcher's ids behind ids inside.
    pub(crate) fn outside(self, uid: u32, gid: u32) -> (Uid, Gid) {
        (Uid::from_raw(self.users.outside(uid)), Gid::from_raw(self.groups.outside(gid)))
    }

    /// The ids that init takes: 0 where it is mapped, else the only ones.
    pub(crate) fn init(self) -> (u32, u32) {
        match (self.users, self.groups) {
            (Line::Single { own: uid }, Line::Single { own: gid }) => (uid, gid),
            _ => (0, 0),
        }
    }
}

/// Denies setgroups: the condition for an unprivileged group map (user_namespaces(7), 3.19).
fn deny_setgroups(pid: Pid) -> Result<(), Failure> {
    write(pid, "setgroups", "deny")
}

/// Writes one of the map files of a process.
pub(crate) fn write(pid: Pid, file: &str, text: &str) -> Result<(), Failure> {
    let path = format!("/proc/{pid}/{file}");
    fs::write(&path, text).map_err(|error| Failure::io(Stage::IdMap, file, &error))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn maps_by_mode() {
        let default = IdRange { base: 1_000_000, count: 65536 };
        let runner = Identity::RUNNER;
        let root = IdMap::new(Mode::Root, default, Ids::Default, runner).unwrap();
        assert_eq!(root.users.text(), "0 1000000 65536");
        assert_eq!(root.outside(1000, 0), (Uid::from_raw(1_001_000), Gid::from_raw(1_000_000)));
        let own = IdMap::new(Mode::Subordinate { count: 65536 }, default, Ids::Default, runner).unwrap();
        assert_eq!(own.users.text(), "0 1 1000\n1000 0 1\n1001 1001 64536");
        assert_eq!(own.outside(1000, 999), (Uid::from_raw(0), Gid::from_raw(1000)));
        let own = IdMap::new(Mode::Subordinate { count: 65536 }, default, Ids::Default, Identity::NamespaceRoot).unwrap();
        assert_eq!(own.users.text(), "0 0 1\n1 1 65536");
        let single = IdMap::new(Mode::Single, default, Ids::Default, runner).unwrap();
        assert_eq!((single.users.text().as_str(), single.init()), ("1000 0 1", (1000, 1000)));
    }

    #[test]
    fn ranges_of_real_users_are_refused() {
        let default = IdRange { base: 1_000_000, count: 65536 };
        for range in [IdRange { base: 1000, count: 65536 }, IdRange { base: 1_000_000, count: 1000 }] {
            assert!(IdMap::new(Mode::Root, default, Ids::Range(range), Identity::RUNNER).is_err());
        }
    }
}
