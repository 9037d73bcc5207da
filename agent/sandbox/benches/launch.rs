//! Start to exit of `/bin/true`: plain spawn, in a sandbox that was prepared, in a slot, with nothing made ahead, and bubblewrap,
//! interleaved in one run; and the processor time of each, with all that was made ahead counted in.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fs::File;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio as Streams};
use std::time::{Duration, Instant};

use caisson_sandbox::launcher::{Launcher, Options, Stdio, entry};
use caisson_sandbox::protection::Protection;
use caisson_sandbox::series::Series;
use caisson_sandbox::spec::{Access, Mount, Spec};

const LINKS: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

fn main() {
    if let Some(code) = entry() {
        std::process::exit(code);
    }
    let rounds = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(300);
    let prepared = Launcher::start(&Options::default()).unwrap();
    let first = children();
    let slots = Launcher::start(&Options::default()).unwrap();
    let second = children();
    let cold = Launcher::start(&Options { warm: 0, ..Options::default() }).unwrap();
    let third = children();
    let mut spec = Spec::closed("/usr/bin/true");
    let (source, target) = ("/usr".into(), "/usr".into());
    spec.mounts.push(Mount::Bind { source, target, access: Access::ReadOnly, owner: None });
    let mut wrap =
        vec!["--unshare-all", "--die-with-parent", "--ro-bind", "/usr", "/usr"].into_iter().map(str::to_owned).collect::<Vec<_>>();
    for name in LINKS {
        if let Ok(to) = std::fs::read_link(format!("/{name}")) {
            wrap.extend(["--symlink".to_owned(), to.display().to_string(), format!("/{name}")]);
            spec.mounts.push(Mount::Symlink { target: format!("/{name}").into(), to });
        }
    }
    // About what the system view of a step has.
    for number in 0..30 {
        spec.mounts.push(Mount::File { target: format!("/etc/{number}").into(), content: vec![b'x'; 600], mode: 0o644 });
    }
    wrap.extend(["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--", "/usr/bin/true"].map(str::to_owned));
    spec.limits.pids = Some(100);
    if slots.standing().enforceable.contains(&Protection::MemoryLimit) {
        spec.limits.memory = Some(1 << 30);
    }
    let mut series = Series::new(prepared);
    series.prepare(&spec);
    let mut timings = Vec::new();
    let mut plain = || {
        let status = Command::new("/usr/bin/true").stdin(Streams::null()).stdout(Streams::null()).status();
        assert!(status.unwrap().success());
    };
    let mut ahead = || {
        let running = series.launch(&spec, null()).unwrap();
        series.prepare(&spec);
        let outcome = running.wait().unwrap();
        assert!(outcome.success());
        timings.push(outcome.timing);
    };
    let run = |launcher: &Launcher| assert!(launcher.launch(&spec, null()).unwrap().wait().unwrap().success());
    let bubblewrap = Command::new("bwrap").args(&wrap).status().is_ok_and(|status| status.success());
    let wrapped = || {
        if bubblewrap {
            assert!(Command::new("bwrap").args(&wrap).stdin(Streams::null()).status().unwrap().success());
        }
    };
    let mut times: [Vec<Duration>; 5] = Default::default();
    let spent = |pids: &[i32]| pids.iter().map(|pid| ticks(&pid.to_string())).sum::<u64>();
    let launchers = [new(&[], &first), new(&first, &second), new(&second, &third)];
    let before = launchers.each_ref().map(|pids| spent(pids));
    let mut wrapping = 0;
    for _ in 0..rounds {
        let acts: [&mut dyn FnMut(); 4] = [&mut plain, &mut ahead, &mut || run(&slots), &mut || run(&cold)];
        for (number, act) in acts.into_iter().enumerate() {
            let start = Instant::now();
            act();
            times[number].push(start.elapsed());
            // Whatever is made ahead is made now, and not beside the next one.
            std::thread::sleep(Duration::from_millis(12));
        }
        let (start, ticked) = (Instant::now(), waited());
        wrapped();
        times[4].push(start.elapsed());
        wrapping += waited() - ticked;
    }
    let after = launchers.each_ref().map(|pids| spent(pids));
    let cost = |ticks: u64| ticks as f64 * 10.0 / f64::from(rounds);
    let costs = [None, Some(after[0] - before[0]), Some(after[1] - before[1]), Some(after[2] - before[2]), Some(wrapping)];
    println!("start to exit of /bin/true, {rounds} interleaved rounds, {} mode: p50 p99 (x bubblewrap), processor ms", slots.mode());
    let quantiles = times.map(quantiles);
    for ((name, (half, most)), cost_of) in
        ["plain spawn", "prepared", "slot", "nothing ahead", "bubblewrap"].into_iter().zip(quantiles).zip(costs)
    {
        let ratio = half.as_secs_f64() / quantiles[4].0.as_secs_f64();
        let spent = cost_of.map_or("-".to_owned(), |ticks| format!("{:.2}", cost(ticks)));
        println!("{name:14} {:7.2} ms {:7.2} ms  {ratio:.2}  {spent}", half.as_secs_f64() * 1e3, most.as_secs_f64() * 1e3);
    }
    let half = |of: fn(&caisson_sandbox::outcome::Timing) -> Duration| self::quantiles(timings.iter().map(of).collect()).0;
    println!("of the prepared one: build {:?}, teardown {:?}", half(|timing| timing.build), half(|timing| timing.teardown));
}

fn null() -> Stdio {
    let null = || OwnedFd::from(File::options().read(true).write(true).open("/dev/null").unwrap());
    Stdio { stdin: null(), stdout: null(), stderr: null() }
}

fn children() -> Vec<i32> {
    let text = std::fs::read_to_string(format!("/proc/self/task/{}/children", std::process::id())).unwrap();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

fn new(old: &[i32], all: &[i32]) -> Vec<i32> {
    all.iter().filter(|pid| !old.contains(pid)).copied().collect()
}

/// Processor time of a process and of its children that are dead, in ticks.
fn ticks(pid: &str) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(')').next().unwrap().split_whitespace().skip(11).take(4).map(|word| word.parse::<u64>().unwrap()).sum()
}

/// The same of this process's own dead children.
fn waited() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    stat.rsplit(')').next().unwrap().split_whitespace().skip(13).take(2).map(|word| word.parse::<u64>().unwrap()).sum()
}

fn quantiles(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}
