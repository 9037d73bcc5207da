//! What a sandbox costs, held against others in one interleaved run: start to exit of `/bin/true` as a plain spawn, as a step
//! through the launcher of a running agent, as `caisson exec`, with bubblewrap, crun and podman; after idleness; with 300 more
//! mounts on the host; sandboxes per second; teardown; memory; and what work costs inside.
//!
//! `cargo bench --bench start`, or `just bench`. Ratios travel between machines, absolute times do not.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "start/peers.rs"]
mod peers;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio as Streams};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use caisson_agent::host::HostRules;
use caisson_agent::id_claim::IdClaim;
use caisson_agent::lower::{self, Request, Watch};
use caisson_agent::view::{self, System};
use caisson_model::policy::Grant;
use caisson_sandbox::host::Mode;
use caisson_sandbox::launcher::{Launcher, Options, Stdio, entry};
use caisson_sandbox::outcome::Outcome;
use caisson_sandbox::protection::Protection;
use caisson_sandbox::series::Series;
use caisson_sandbox::spec::{Ids, Profile, Spec};
use nix::mount::MsFlags;

const PROGRAM: &str = "/usr/bin/true";
/// Rounds of the interleaved run.
const ROUNDS: usize = 200;
/// What making the next one ahead may take between two measurements.
const SETTLE: Duration = Duration::from_millis(15);
/// Rounds with a second of nothing before each candidate.
const IDLE_ROUNDS: usize = 10;
/// Rounds on a host with more mounts.
const MOUNT_ROUNDS: usize = 60;
/// Mounts that are added there.
const MOUNTS: usize = 300;
/// Rounds of each workload.
const WORK_ROUNDS: usize = 7;
/// Says to this program, started again, that it is to be the host with more mounts.
const WITH_MOUNTS: &str = "BENCH_WITH_MOUNTS";

/// Some 300,000 calls that do next to nothing, and 30,000 that open a file.
const CALLS: &str = "import os
for _ in range(300000): os.getppid()
for _ in range(30000): os.close(os.open('/usr/bin/env', os.O_RDONLY))";

fn main() {
    if let Some(code) = entry() {
        std::process::exit(code);
    }
    // Every test binary is also asked to list its tests.
    if std::env::args().any(|argument| argument == "--list" || argument == "--test") {
        return;
    }
    let crowded = std::env::var_os(WITH_MOUNTS).is_some();
    let scratch = tempfile::tempdir().unwrap();
    if crowded {
        more_mounts(scratch.path());
    }
    let bench = Bench::new();
    if crowded {
        bench.interleaved(&format!("the same with {MOUNTS} more mounts on the host"), MOUNT_ROUNDS, Duration::ZERO, peers::all().0);
        return;
    }
    let (there, absent) = peers::all();
    let outcomes = bench.interleaved(&format!("start to exit of {PROGRAM}"), ROUNDS, Duration::ZERO, there);
    absent.iter().for_each(|reason| println!("skipped: {reason}"));
    let half = |of: fn(&Outcome) -> Duration| quantiles(outcomes.iter().map(of).collect()).0;
    println!(
        "of a step: build {:.2?}, teardown {:.2?} (p50)",
        half(|outcome| outcome.timing.build),
        half(|outcome| outcome.timing.teardown)
    );
    let memory = outcomes.iter().map(|outcome| outcome.usage.peak_memory / 1024).max().unwrap_or(0);
    println!("memory of a live sandbox with {PROGRAM} in it, kernel's included: at most {memory} KiB");
    let idle = peers::all().0.into_iter().filter(|peer| peer.name == "bubblewrap").collect();
    bench.interleaved("after a second of idleness each", IDLE_ROUNDS, Duration::from_secs(1), idle);
    bench.rate();
    bench.work("300,000 getppid and 30,000 opens in Python", CALLS);
    let again = Command::new(std::env::current_exe().unwrap()).env(WITH_MOUNTS, "1").status().unwrap();
    if !again.success() {
        println!("skipped: the run with more mounts did not end well ({again}); it needs root");
    }
}

/// Goes into a mount namespace of its own and makes mounts there.
fn more_mounts(scratch: &Path) {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    nix::mount::mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    nix::mount::mount(Some("tmpfs"), scratch, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    for number in 0..MOUNTS {
        let target = scratch.join(number.to_string());
        std::fs::create_dir(&target).unwrap();
        nix::mount::mount(Some(scratch), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    }
}

/// One launcher that keeps slots ahead, one that keeps none, and what a step of the default policy is.
struct Bench {
    ahead: Launcher,
    cold: Launcher,
    spec: Spec,
    limited: Spec,
    lacks_memory_limit: bool,
    here: tempfile::TempDir,
    _claim: (Option<IdClaim>, tempfile::TempDir),
}

impl Bench {
    fn new() -> Bench {
        let ahead = Launcher::start(&Options::default()).unwrap();
        let cold = Launcher::start(&Options { warm: 0, ..Options::default() }).unwrap();
        let host = HostRules::of_this_host(&BTreeMap::new());
        let lacks = ahead.standing().missing.iter().map(|lack| lack.protection);
        let host = HostRules { allow_missing: lacks.filter(|lack| *lack == Protection::MemoryLimit).collect(), ..host };
        let claims = tempfile::tempdir().unwrap();
        let claim = (ahead.mode() == Mode::Root).then(|| IdClaim::take(claims.path()).unwrap());
        let request = Request {
            program: PROGRAM.into(),
            args: Vec::new(),
            env: vec![("PATH".into(), view::PATH.into())],
            cwd: PathBuf::from("/"),
            ids: claim.as_ref().map_or(Ids::Default, |claim| Ids::Range(claim.range())),
            system: System::ReadOnly,
            mounts: Vec::new(),
            counted: Vec::new(),
            profile: Profile::Default,
            files: Vec::new(),
            secrets: Vec::new(),
            timeout: None,
            watch: Watch::Silent,
        };
        let (spec, _) = lower::spec(&Grant::default(), &host, request);
        let mut limited = spec.clone();
        limited.limits.memory = limited.limits.memory.map(|memory| memory.min(512 << 20));
        limited.limits.pids = Some(100);
        if ahead.standing().enforceable.contains(&Protection::CpuLimit) {
            (limited.limits.cpu_milli, limited.limits.cpu_weight) = (Some(1500), Some(100));
        }
        let lacks_memory_limit = !host.allow_missing.is_empty();
        Bench { ahead, cold, spec, limited, lacks_memory_limit, here: tempfile::tempdir().unwrap(), _claim: (claim, claims) }
    }

    fn step(launcher: &Launcher, spec: &Spec) -> Outcome {
        let outcome = launcher.launch(spec, null()).unwrap().wait().unwrap();
        assert!(outcome.success(), "{outcome:?}");
        outcome
    }

    /// As an agent runs the steps of a job: while one runs the next is prepared.
    fn next(series: &mut Series, spec: &Spec) -> Outcome {
        let running = series.launch(spec, null()).unwrap();
        series.prepare(spec);
        let outcome = running.wait().unwrap();
        assert!(outcome.success(), "{outcome:?}");
        outcome
    }

    fn exec(&self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_caisson"));
        command.arg("exec").args(self.lacks_memory_limit.then_some("--allow-missing=memory-limit")).args(["--", PROGRAM]);
        assert!(command.current_dir(self.here.path()).stdin(Streams::null()).status().unwrap().success());
    }

    /// Runs all candidates in turn and prints them against bubblewrap; the outcomes of the steps.
    fn interleaved(&self, title: &str, rounds: usize, pause: Duration, mut others: Vec<peers::Peer>) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        let mut names = vec![
            "plain spawn",
            "step, prepared",
            "step, slot made ahead",
            "step, nothing made ahead",
            "prepared, memory, pids, cpu limits",
            "caisson exec",
        ];
        let mut series = [&self.spec, &self.limited].map(|spec| {
            let mut series = Series::new(self.ahead.clone());
            series.prepare(spec);
            series
        });
        names.extend(others.iter().map(|peer| peer.name));
        let mut times = vec![Vec::new(); names.len()];
        for _ in 0..rounds {
            for (number, times) in times.iter_mut().enumerate() {
                std::thread::sleep(pause);
                let start = Instant::now();
                match number {
                    0 => assert!(Command::new(PROGRAM).stdin(Streams::null()).stdout(Streams::null()).status().unwrap().success()),
                    1 => outcomes.push(Self::next(&mut series[0], &self.spec)),
                    2 => drop(Self::step(&self.ahead, &self.spec)),
                    3 => drop(Self::step(&self.cold, &self.spec)),
                    4 => drop(Self::next(&mut series[1], &self.limited)),
                    5 => self.exec(),
                    other => others[other - 6].run(),
                }
                times.push(start.elapsed());
                // What is made ahead is made now, and not while another is measured.
                std::thread::sleep(SETTLE);
            }
        }
        let quantiles: Vec<_> = times.into_iter().map(quantiles).collect();
        let measure = names.iter().position(|name| *name == "bubblewrap").map(|at| quantiles[at].0);
        println!("\n{title}, {rounds} interleaved rounds, {} mode", self.ahead.mode());
        println!("{:<34} {:>10} {:>10}  x bubblewrap", "", "p50", "p99");
        for (name, (half, most)) in names.iter().zip(quantiles) {
            let ratio = measure.map_or("-".to_owned(), |measure| format!("{:.2}", half.as_secs_f64() / measure.as_secs_f64()));
            println!("{name:<34} {:>7.2} ms {:>7.2} ms  {ratio}", half.as_secs_f64() * 1e3, most.as_secs_f64() * 1e3);
        }
        outcomes
    }

    /// Sandboxes per second, twice as many threads as processors, in turns with bubblewrap's; and what the whole machine spent on
    /// each, kernel threads and all, if nothing else ran.
    fn rate(&self) {
        let threads = std::thread::available_parallelism().map_or(1, usize::from) * 2;
        let wrapped = peers::bubblewrap_each();
        let turns = 4;
        let mut sums = [(0, Duration::ZERO, 0.0); 2];
        for turn in 0..turns * 2 {
            let sum = &mut sums[turn % 2];
            let (start, spent) = (Instant::now(), machine_seconds());
            let done = match turn % 2 {
                0 => throng(threads, || {
                    Self::step(&self.ahead, &self.spec);
                }),
                _ => throng(threads, &wrapped),
            };
            *sum = (sum.0 + done, sum.1 + start.elapsed(), sum.2 + machine_seconds() - spent);
        }
        println!();
        for (name, (done, time, spent)) in ["caisson, one launcher", "bubblewrap"].into_iter().zip(sums) {
            let (rate, cost) = (done as f64 / time.as_secs_f64(), spent * 1e3 / done as f64);
            println!("sandboxes per second, {threads} threads: {name} {rate:.0}, {cost:.2} ms of processors each");
        }
    }

    /// The same Python inside and outside, in turn.
    fn work(&self, name: &str, script: &str) {
        let words = ["-I", "-c", script];
        let mut inside = self.spec.clone();
        inside.program = "/usr/bin/python3".into();
        inside.args = words.map(Into::into).to_vec();
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..WORK_ROUNDS {
            let start = Instant::now();
            assert!(Command::new("/usr/bin/python3").args(words).status().unwrap().success());
            times[0].push(start.elapsed());
            let start = Instant::now();
            Self::step(&self.ahead, &inside);
            times[1].push(start.elapsed());
        }
        let [outside, inside] = times.map(|times| quantiles(times).0);
        println!("{name}: {:.2} of bare ({inside:.0?} to {outside:.0?})", inside.as_secs_f64() / outside.as_secs_f64());
    }
}

/// Does something over and over in several threads for a while; how often.
fn throng(threads: usize, act: impl Fn() + Sync) -> u64 {
    let (over, done) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    act();
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        std::thread::sleep(Duration::from_millis(1500));
        over.store(true, Ordering::Relaxed);
    });
    done.load(Ordering::Relaxed)
}

/// Processor time that the machine has spent on anything, in seconds (proc(5), `/proc/stat`).
fn machine_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap();
    let ticks: Vec<f64> = stat.lines().next().unwrap().split_whitespace().skip(1).map(|word| word.parse().unwrap()).collect();
    // Not what was idle or waited.
    ticks.iter().enumerate().filter(|(at, _)| !matches!(at, 3 | 4 | 7..)).map(|(_, ticks)| ticks / 100.0).sum()
}

fn null() -> Stdio {
    let null = || OwnedFd::from(File::options().read(true).write(true).open("/dev/null").unwrap());
    Stdio { stdin: null(), stdout: null(), stderr: null() }
}

fn quantiles(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}
