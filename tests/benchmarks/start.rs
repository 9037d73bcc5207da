//! Start to exit of `/bin/true`, in one interleaved run: plain spawn, a step through the launcher of a running agent,
//! `caisson exec` as a whole process, and bubblewrap with all namespaces and a system-call filter of similar size.
//! `cargo bench --bench start`. Ratios travel between machines, absolute times do not.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio as Streams};
use std::time::{Duration, Instant};

use caisson_agent::host::HostRules;
use caisson_agent::id_claim::IdClaim;
use caisson_agent::lower::{self, Request, Watch};
use caisson_agent::view::{self, System};
use caisson_model::policy::Grant;
use caisson_sandbox::host::Mode;
use caisson_sandbox::launcher::{Launcher, Options, Stdio, entry};
use caisson_sandbox::protection::Protection;
use caisson_sandbox::spec::{Ids, Profile};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

const ROUNDS: usize = 200;
const PROGRAM: &str = "/usr/bin/true";

fn main() {
    if let Some(code) = entry() {
        std::process::exit(code);
    }
    // Every test binary is also asked to list its tests.
    if std::env::args().any(|argument| argument == "--list" || argument == "--test") {
        return;
    }
    let launcher = Launcher::start(&Options::default()).unwrap();
    let host = HostRules::of_this_host(&BTreeMap::new());
    let allowed = launcher.standing().missing.iter().map(|lack| lack.protection);
    let host = HostRules { allow_missing: allowed.filter(|lack| *lack == Protection::MemoryLimit).collect(), ..host };
    let claims = tempfile::tempdir().unwrap();
    let claim = (launcher.mode() == Mode::Root).then(|| IdClaim::take(claims.path()).unwrap());
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
        secrets: Vec::new(),
        timeout: None,
        watch: Watch::Silent,
    };
    let (spec, _) = lower::spec(&Grant::default(), &host, request);
    let mut filter = linear_filter();
    let wrap = bubblewrap(&filter);
    let here = tempfile::tempdir().unwrap();
    let (mut builds, mut teardowns) = (Vec::new(), Vec::new());
    let mut plain = || {
        assert!(Command::new(PROGRAM).stdin(Streams::null()).stdout(Streams::null()).status().unwrap().success());
    };
    let null = || OwnedFd::from(File::options().read(true).write(true).open("/dev/null").unwrap());
    let mut step = || {
        let outcome = launcher.launch(&spec, Stdio { stdin: null(), stdout: null(), stderr: null() }).unwrap().wait().unwrap();
        assert!(outcome.success());
        builds.push(outcome.timing.build);
        teardowns.push(outcome.timing.teardown);
    };
    let allow = if host.allow_missing.is_empty() { None } else { Some("--allow-missing=memory-limit") };
    let mut exec = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_caisson"));
        command.arg("exec").args(allow).args(["--", PROGRAM]).current_dir(here.path()).stdin(Streams::null());
        assert!(command.status().unwrap().success());
    };
    let present = Command::new("bwrap").arg("--version").stdout(Streams::null()).status().is_ok_and(|status| status.success());
    let mut wrapped = || {
        if present {
            filter.rewind().unwrap();
            assert!(Command::new("bwrap").args(&wrap).stdin(Streams::null()).status().unwrap().success());
        }
    };
    let names = ["plain spawn", "step through the launcher", "caisson exec", "bubblewrap"];
    let mut times = [const { Vec::new() }; 4];
    for _ in 0..ROUNDS {
        for (number, act) in [&mut plain as &mut dyn FnMut(), &mut step, &mut exec, &mut wrapped].into_iter().enumerate() {
            let start = Instant::now();
            act();
            times[number].push(start.elapsed());
        }
    }
    let quantiles = times.map(quantiles);
    println!("start to exit of {PROGRAM}, {ROUNDS} interleaved rounds, {} mode", launcher.mode());
    println!("{:<26} {:>10} {:>10}  x bubblewrap", "", "p50", "p99");
    for (name, (half, most)) in names.iter().zip(quantiles) {
        let ratio = half.as_secs_f64() / quantiles[3].0.as_secs_f64();
        println!("{name:<26} {:>7.2} ms {:>7.2} ms  {ratio:.2}", half.as_secs_f64() * 1e3, most.as_secs_f64() * 1e3);
    }
    println!("of a step: build {:?}, teardown {:?} (p50)", self::quantiles(builds).0, self::quantiles(teardowns).0);
    if !present {
        println!("bubblewrap is not installed: its row and the ratios mean nothing");
    }
}

/// All namespaces, the host's system directories, fresh /proc, /dev and /tmp, and the filter.
fn bubblewrap(filter: &File) -> Vec<OsString> {
    fcntl(filter, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let mut words: Vec<OsString> =
        ["--unshare-all", "--die-with-parent", "--new-session", "--ro-bind", "/usr", "/usr"].map(Into::into).to_vec();
    for name in view::DIRECTORIES.iter().filter(|name| **name != "usr") {
        let path = PathBuf::from("/").join(name);
        match (std::fs::read_link(&path), path.is_dir()) {
            (Ok(to), _) => words.extend(["--symlink".into(), to.into_os_string(), path.into_os_string()]),
            (Err(_), true) => words.extend(["--ro-bind".into(), path.clone().into_os_string(), path.into_os_string()]),
            (Err(_), false) => {}
        }
    }
    words.extend(["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--seccomp"].map(Into::into));
    words.extend([filter.as_raw_fd().to_string(), "--".to_owned(), PROGRAM.to_owned()].map(Into::into));
    words
}

/// A filter that allows the first 330 calls one by one and answers EPERM to all others: about as many entries as caisson's own.
fn linear_filter() -> File {
    const LOAD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const ALLOW: u32 = 0x7fff_0000;
    const ERRNO_EPERM: u32 = 0x0005_0001;
    let mut program: Vec<(u16, u8, u8, u32)> = vec![(LOAD, 0, 0, 0)];
    for number in 0..330 {
        program.push((JUMP_IF_EQUAL, 0, 1, number));
        program.push((RETURN, 0, 0, ALLOW));
    }
    program.push((RETURN, 0, 0, ERRNO_EPERM));
    let mut file = tempfile::tempfile().unwrap();
    for (code, yes, no, value) in program {
        file.write_all(&code.to_ne_bytes()).unwrap();
        file.write_all(&[yes, no]).unwrap();
        file.write_all(&value.to_ne_bytes()).unwrap();
    }
    file
}

fn quantiles(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}
