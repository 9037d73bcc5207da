//! Start to exit of `/bin/true`: plain spawn, through a running launcher, and bubblewrap, interleaved in one run.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fs::File;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio as Streams};
use std::time::{Duration, Instant};

use caisson_sandbox::launcher::{Launcher, Options, Stdio, entry};
use caisson_sandbox::protection::Protection;
use caisson_sandbox::spec::{Access, Mount, Spec};

const ROUNDS: usize = 300;
const LINKS: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

fn main() {
    if let Some(code) = entry() {
        std::process::exit(code);
    }
    let launcher = Launcher::start(&Options::default()).unwrap();
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
    wrap.extend(["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--", "/usr/bin/true"].map(str::to_owned));
    spec.limits.pids = Some(100);
    if launcher.standing().enforceable.contains(&Protection::MemoryLimit) {
        spec.limits.memory = Some(1 << 30);
    }
    let null = || OwnedFd::from(File::options().read(true).write(true).open("/dev/null").unwrap());
    let (mut builds, mut teardowns) = (Vec::new(), Vec::new());
    let mut plain = || {
        let status = Command::new("/usr/bin/true").stdin(Streams::null()).stdout(Streams::null()).status();
        assert!(status.unwrap().success());
    };
    let mut ours = || {
        let stdio = Stdio { stdin: null(), stdout: null(), stderr: null() };
        let outcome = launcher.launch(&spec, stdio).unwrap().wait().unwrap();
        assert!(outcome.success());
        builds.push(outcome.timing.build);
        teardowns.push(outcome.timing.teardown);
    };
    let bubblewrap = Command::new("bwrap").args(&wrap).status().is_ok_and(|status| status.success());
    let mut wrapped = || {
        if bubblewrap {
            assert!(Command::new("bwrap").args(&wrap).stdin(Streams::null()).status().unwrap().success());
        }
    };
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (number, act) in [&mut plain as &mut dyn FnMut(), &mut ours, &mut wrapped].into_iter().enumerate() {
            let start = Instant::now();
            act();
            times[number].push(start.elapsed());
        }
    }
    let [plain, ours, wrapped] = times.map(quantiles);
    println!("start to exit of /bin/true, {ROUNDS} interleaved rounds, {} mode: p50 p99 (x bubblewrap)", launcher.mode());
    for (name, (half, most)) in [("plain spawn", plain), ("launcher", ours), ("bubblewrap", wrapped)] {
        let ratio = half.as_secs_f64() / wrapped.0.as_secs_f64();
        println!("{name:12} {:7.2} ms {:7.2} ms  {ratio:.2}", half.as_secs_f64() * 1e3, most.as_secs_f64() * 1e3);
    }
    let (build, teardown) = (quantiles(builds).0, quantiles(teardowns).0);
    println!("of which build {build:?}, teardown {teardown:?}");
}

fn quantiles(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}
