//! Processor time of processes that will die with init, when nobody waits for them any more. Version 2 of cgroups counts it; version 1
//! does so in a hierarchy of its own only, which would be one more group for each sandbox.

use std::fs;
use std::time::Duration;

use nix::unistd::{Pid, SysconfVar, sysconf};

/// No more processes are looked at than this: a fork bomb must not hold the launcher up.
const MOST: usize = 512;

/// User and system time, also of children that were waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Spent {
    pub user: Duration,
    pub system: Duration,
}

/// What these processes of the host have spent, without `init`, whose own time comes with its end.
pub(crate) fn spent(processes: &[u32], init: Pid) -> Spent {
    let rate =
        sysconf(SysconfVar::CLK_TCK).ok().flatten().and_then(|rate| u64::try_from(rate).ok()).filter(|rate| *rate > 0).unwrap_or(100);
    let others = processes.iter().filter(|pid| i32::try_from(**pid) != Ok(init.as_raw()));
    let (mut user, mut system) = (0, 0);
    for (own, by_system) in others.take(MOST).filter_map(|pid| parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)) {
        user += own;
        system += by_system;
    }
    let time = |ticks: u64| Duration::from_millis(ticks.saturating_mul(1000) / rate);
    Spent { user: time(user), system: time(system) }
}

/// Ticks of user and system time (proc_pid_stat(5), fields 14 to 17). The name before them may hold anything.
fn parse(stat: &str) -> Option<(u64, u64)> {
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = |number: usize| fields.get(number)?.parse::<u64>().ok();
    Some((ticks(11)?.saturating_add(ticks(13)?), ticks(12)?.saturating_add(ticks(14)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_process_changes_nothing() {
        let stat = "7 (a) R 9 9) S 1 7 7 0 -1 4194304 90 0 0 0 11 12 13 14 20 0 1 0 5 6 7";
        assert_eq!(parse(stat), Some((24, 26)));
        assert_eq!(parse("7 (sh) S 1"), None);
    }
}
