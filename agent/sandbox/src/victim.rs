//! Who the kernel killed when memory ran out. It tells nobody but its own log, which is not ours to read; so the launcher
//! looks at the processes of the group when memory gets short and again when the kernel says that it is out.

use std::fs;

use crate::outcome::Victim;

/// No more processes are looked at than this: a fork bomb must not hold the launcher up.
const MOST: usize = 512;
/// The pending signal 9, as /proc/PID/status writes signal sets.
const KILLED: u64 = 1 << 8;

/// One process as /proc showed it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Process {
    host: u32,
    victim: Victim,
    resident: u64,
    dying: bool,
}

/// What was seen of a group whose memory runs out.
#[derive(Debug, Default)]
pub(crate) struct Watcher {
    last: Vec<Process>,
}

impl Watcher {
    /// Looks at these processes of the host, since memory is short.
    pub(crate) fn look(&mut self, processes: &[u32]) {
        let seen = snapshot(processes);
        if !seen.is_empty() {
            self.last = seen;
        }
    }

    /// Looks once more, since something was killed; who it was.
    pub(crate) fn victim(&self, processes: &[u32]) -> Option<Victim> {
        choose(&self.last, &snapshot(processes))
    }
}

fn snapshot(processes: &[u32]) -> Vec<Process> {
    processes.iter().take(MOST).filter_map(|host| parse(*host, &fs::read_to_string(format!("/proc/{host}/status")).ok()?)).collect()
}

/// One that dies now; else one that was there before and is not any more, the largest of them; else the largest that was
/// there before, and last the largest that is there: memory is given to the killer's choice, and that goes by size.
fn choose(before: &[Process], now: &[Process]) -> Option<Victim> {
    let largest = |list: &mut dyn Iterator<Item = &Process>| list.max_by_key(|process| process.resident).cloned();
    let known = |process: &Process| before.iter().find(|earlier| earlier.host == process.host);
    // What it had before it began to die says how large it was.
    let dying = now.iter().filter(|process| process.dying).max_by_key(|process| known(process).unwrap_or(process).resident).cloned();
    let gone = || largest(&mut before.iter().filter(|process| now.iter().all(|other| other.host != process.host)));
    // Init is never the one: the kernel would have to kill everything with it.
    let candidate = dying.or_else(gone).or_else(|| largest(&mut before.iter())).or_else(|| largest(&mut now.iter()));
    candidate.map(|process| process.victim).filter(|victim| victim.pid != 1)
}

fn parse(host: u32, status: &str) -> Option<Process> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let pid = field("NSpid")?.split_whitespace().next_back()?.parse().ok()?;
    let name = field("Name")?.chars().map(|c| if c.is_ascii_graphic() { c } else { '?' }).take(15).collect();
    let resident = field("VmRSS").and_then(|text| text.split(' ').next()?.parse::<u64>().ok()).unwrap_or(0) * 1024;
    let pending = |name| field(name).and_then(|text| u64::from_str_radix(text, 16).ok()).unwrap_or(0) & KILLED != 0;
    let state = field("State").and_then(|text| text.chars().next()).unwrap_or('?');
    let dying = pending("SigPnd") || pending("ShdPnd") || matches!(state, 'Z' | 'X');
    (pid != 1).then_some(Process { host, victim: Victim { pid, name }, resident, dying })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn process(host: u32, pid: u32, resident: u64, dying: bool) -> Process {
        Process { host, victim: Victim { pid, name: "x".to_owned() }, resident, dying }
    }

    #[test]
    fn a_status_file_is_read_and_its_name_made_harmless() {
        let status =
            "Name:\tpy\u{1b}[31m\nState:\tR (running)\nNSpid:\t4711\t7\nVmRSS:\t  2048 kB\nSigPnd:\t0000000000000100\nShdPnd:\t0\n";
        let found = parse(4711, status).unwrap();
        assert_eq!((found.victim.pid, found.victim.name.as_str(), found.resident, found.dying), (7, "py?[31m", 2 << 20, true));
        assert_eq!(parse(1, "Name:\tinit\nState:\tS\nNSpid:\t10\t1\n"), None, "init is not listed");
        assert_eq!(parse(1, ""), None);
    }

    #[test]
    fn the_dying_come_first_then_the_gone_then_the_large() {
        let before = [process(10, 2, 5, false), process(11, 3, 50, false), process(12, 4, 70, false)];
        let pid = |now: &[Process]| choose(&before, now).map(|victim| victim.pid);
        assert_eq!(pid(&[process(10, 2, 5, false), process(11, 3, 1, true), process(12, 4, 70, false)]), Some(3));
        assert_eq!(pid(&[process(10, 2, 5, false), process(11, 3, 50, false)]), Some(4));
        assert_eq!(pid(&before.clone()), Some(4));
        assert_eq!(choose(&[], &[process(10, 2, 5, false), process(11, 3, 6, false)]).map(|victim| victim.pid), Some(3));
        assert_eq!(choose(&[], &[]), None);
    }
}
