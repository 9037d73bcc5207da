//! Processes: how they start, end, and can't stay.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, IntoRawFd, OwnedFd};
use std::process::{Command, Stdio};

use caisson_sandbox::error::{Stage, StartError};
use caisson_sandbox::host::{Finding, Subject};
use caisson_sandbox::launcher::{Image, Launcher, Options};
use caisson_sandbox::outcome::{Cause, Status};
use caisson_sandbox::spec::{Network, Spec};

use crate::Test;
use crate::setting::{self, Setting, alive, until};
use crate::soak;

pub(crate) const TESTS: &[Test] = &[
    ("exit codes and signals arrive", codes),
    ("programs that can't be found or run are named", not_found),
    ("namespaces are the sandbox's own", namespaces),
    ("no descriptor but 0, 1, 2 arrives", descriptors),
    ("nothing survives the step", nothing_survives),
    ("signals reach the step, dropping kills it", signals),
    ("listeners inside come out", listeners),
    ("large environments arrive whole and alone", environments),
    ("many launches at once from many threads", many),
    ("a killed launcher leaves nothing", killed_launcher),
    ("a killed caller leaves nothing", killed_caller),
    ("a killed warden is replaced and its work done", killed_warden),
    ("the host is probed without effect", probe),
    ("the launcher refuses to start beside threads", threads),
    ("300 steps under load lose no exit and leave nothing", many_short_ones),
    ("a launcher that is a copy knows nothing of its caller", copied),
    ("a killed launcher that is a copy leaves nothing either", killed_copy),
];

fn codes(setting: &Setting) {
    assert_eq!(setting.run(&setting.sh("exit 7")).outcome.status, Status::Exited(7));
    let killed = setting.run(&setting.sh("kill -SEGV $$")).outcome;
    assert_eq!((killed.status, killed.code()), (Status::Signaled(11), 139));
    assert!(killed.cause.is_none());
}

fn not_found(setting: &Setting) {
    for program in ["/nowhere/x", "no-such-program", "/usr"] {
        let error = setting.start(&setting.spec(program, &[])).map(drop).unwrap_err();
        let caisson_sandbox::error::LaunchError::Failed(failure) = &error else { panic!("{error}") };
        assert_eq!(failure.stage, Stage::Exec);
        assert!(error.to_string().contains(program), "{error}");
    }
    let mut spec = setting.sh("true");
    spec.cwd = "/nowhere".into();
    assert!(setting.start(&spec).map(drop).unwrap_err().to_string().contains("/nowhere"));
    spec.cwd = "/proc/self/cwd".into();
    assert!(setting.start(&spec).is_err(), "magic link");
}

fn namespaces(setting: &Setting) {
    for name in ["user", "pid", "mnt", "net", "ipc", "uts", "cgroup", "time"] {
        let path = format!("/proc/self/ns/{name}");
        let outside = std::fs::read_link(&path).unwrap();
        assert_ne!(setting.says(&setting.spec("readlink", &[&path])), outside.to_string_lossy(), "{name}");
    }
    assert_eq!(setting.says(&setting.sh("cat /proc/self/cgroup | cut -d: -f3 | sort -u")), "/");
    assert_eq!(setting.says(&setting.sh("hostname; ls /proc | grep -c '^[0-9]*$'")).lines().next(), Some("sandbox"));
    let devices = setting.says(&setting.sh("tail -n +3 /proc/net/dev | cut -d: -f1"));
    assert_eq!(devices.trim(), "lo");
    // Control: outside there is a process of ours to see and a session that leads elsewhere.
    assert_eq!(setting.says(&setting.python("import os; print(os.getsid(0) == os.getpid())")), "True");
    let terminal = setting.run(&setting.sh("exec 3<> /dev/tty"));
    assert!(!terminal.outcome.success());
}

fn descriptors(setting: &Setting) {
    // Not closed on exec, in the caller's process.
    let kept = nix::unistd::dup(std::fs::File::open("/etc").unwrap()).unwrap();
    let listed = setting.says(&setting.python("import os; print(sorted(os.listdir('/proc/self/fd'))[:-1])"));
    assert_eq!(listed, "['0', '1', '2']");
    let control = Command::new("/usr/bin/python3").args(["-c", "import os; print(len(os.listdir('/proc/self/fd')))"]).output().unwrap();
    assert!(String::from_utf8_lossy(&control.stdout).trim().parse::<usize>().unwrap() > 4);
    drop(kept);
}

fn nothing_survives(setting: &Setting) {
    let marker = format!("7{:06}.25", std::process::id());
    let script = format!(
        "trap '' TERM HUP INT; (setsid sh -c 'trap \"\" TERM HUP; sleep {marker} & sleep {marker}' &) ; \
         (sleep {marker} & kill -STOP $!); echo ready; exit 0"
    );
    let (running, _, _) = setting.start(&setting.sh(&format!("{}; sleep {marker}", script.trim_end_matches("; exit 0")))).unwrap();
    until("control: the processes exist", || setting::processes(&marker).count() >= 3);
    running.kill();
    let outcome = running.wait().unwrap();
    assert!(!alive(&marker));
    assert_eq!((outcome.status, outcome.cause), (Status::Signaled(9), Some(Cause::Killed)));
    assert!(setting.run(&setting.sh(&script)).outcome.success());
    assert!(!alive(&marker));
}

fn signals(setting: &Setting) {
    let marker = format!("8{:06}.25", std::process::id());
    let script = format!("trap 'echo caught; exit 3' USR1; echo ready; while :; do sleep {marker} & wait; done");
    let (running, out, _) = setting.start(&setting.sh(&script)).unwrap();
    until("ready", || alive(&marker));
    assert_eq!(running.try_wait().unwrap(), None);
    assert!(running.signal(0).is_err() && running.signal(65).is_err());
    running.signal(libc_usr1()).unwrap();
    assert_eq!(running.wait().unwrap().status, Status::Exited(3));
    assert_eq!(running.wait().unwrap().status, Status::Exited(3), "twice");
    drop(out);
    let (running, _, _) = setting.start(&setting.spec("sleep", &[&marker])).unwrap();
    until("running", || alive(&marker));
    drop(running);
    until("dropping kills", || !alive(&marker));
}

fn libc_usr1() -> i32 {
    nix::sys::signal::Signal::SIGUSR1 as i32
}

fn listeners(setting: &Setting) {
    let address: SocketAddr = "127.0.0.1:8099".parse().unwrap();
    let six: SocketAddr = "[::1]:8098".parse().unwrap();
    let client = "import socket\ns = socket.create_connection(('127.0.0.1', 8099)); s.sendall(b'ping'); print(s.recv(9).decode())";
    let mut spec = setting.python(client);
    assert!(!setting.run(&spec).outcome.success(), "control: nobody listens in another sandbox");
    spec.network = Network::Exit { listeners: vec![address, six], capture: None };
    let (mut running, mut out, _) = setting.start(&spec).unwrap();
    let taken = running.take_sockets().listeners;
    assert_eq!(taken.len(), 2);
    let listener = TcpListener::from(taken.into_iter().next().unwrap());
    let (mut peer, _) = listener.accept().unwrap();
    let mut word = [0; 4];
    peer.read_exact(&mut word).unwrap();
    peer.write_all(&word).unwrap();
    drop(peer);
    assert!(running.wait().unwrap().success());
    let mut said = String::new();
    std::io::Seek::rewind(&mut out).unwrap();
    out.read_to_string(&mut said).unwrap();
    assert_eq!(said, "ping\n");
    spec.network = Network::Exit { listeners: vec!["0.0.0.0:80".parse().unwrap()], capture: None };
    assert!(setting.start(&spec).is_err());
    // No way out: neither an address of the host nor a name.
    let out = "import socket, sys\nfor a in (('10.0.0.1', 80), ('127.0.0.1', PORT), ('169.254.169.254', 80)):\n  try: socket.create_connection(a, 1); print('reached', a)\n  except OSError as e: print(type(e).__name__)";
    let host = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = host.local_addr().unwrap().port();
    std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    let said = setting.says(&setting.python(&out.replace("PORT", &port.to_string())));
    assert!(!said.contains("reached"), "{said}");
}

fn environments(setting: &Setting) {
    let mut spec = setting.spec("/usr/bin/env", &[]);
    assert_eq!(setting.says(&spec), "PATH=/usr/bin:/bin");
    for number in 0..4 {
        spec.env.push((format!("BIG{number}").into(), "x".repeat(100_000).into()));
    }
    assert_eq!(setting.run(&spec).out.len(), "PATH=/usr/bin:/bin\n".len() + 4 * 100_006);
}

fn many(setting: &Setting) {
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            scope.spawn(move || {
                for number in 0..25_u8 {
                    let code = i32::from(thread * 25 + number);
                    let ran = setting.run(&setting.sh(&format!("exit {code}")));
                    assert_eq!(ran.outcome.status, Status::Exited(code));
                }
            });
        }
    });
}

fn start_victim() -> (std::process::Child, i32, i32) {
    let mut child =
        Command::new(std::env::current_exe().unwrap()).arg("--victim").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let marker = line.trim().to_owned();
    until("the victim's step runs", || alive(&marker));
    let step = setting::processes(&marker).next().unwrap();
    let launcher = setting::launcher_of(child.id()).unwrap();
    (child, launcher, step)
}

/// Starts a launcher and a step, says how to find it, and waits to be killed.
pub(crate) fn victim() -> ! {
    if std::env::args().nth(2).as_deref() == Some("copied") {
        copied_victim();
    }
    let marker = format!("9{:06}.25", std::process::id());
    let setting = Setting::new();
    let (running, _, _) = setting.start(&setting.spec("sleep", &[&marker])).unwrap();
    // It will not live to do this at its end.
    std::fs::remove_dir(setting.scratch.path()).unwrap();
    println!("{marker}");
    let ended = running.wait();
    // The launcher was killed: that must be an error and not a wait for ever. Stay, so that the test sees who cleans up.
    assert!(ended.is_err());
    let mut forever = std::io::stdin();
    let _ = forever.read(&mut [0; 1]);
    std::process::exit(0)
}

/// Starts a launcher that is a copy of this process, runs a step, and waits for the end of its input.
fn copied_victim() -> ! {
    let launcher = Launcher::start(&Options { warm: 0, image: Image::Copied, ..Options::default() }).unwrap();
    let mut setting = Setting::new();
    setting.launcher = launcher;
    println!("{:?}", setting.run(&setting.sh("true")).outcome.status);
    let _ = std::io::stdin().read(&mut [0; 1]);
    drop(setting);
    std::process::exit(0)
}

fn dead(pid: i32) -> bool {
    // A zombie of a parent that lives holds nothing.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

fn killed(setting: &Setting, kill_launcher: bool) {
    let (mut child, launcher, step) = start_victim();
    let groups = setting::groups_of(launcher);
    assert!(!setting.root() || !groups.is_empty(), "control: there are groups");
    let target = if kill_launcher { launcher } else { child.id() as i32 };
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(target), nix::sys::signal::Signal::SIGKILL).unwrap();
    until("the step is dead", || dead(step));
    until("the launcher is dead", || dead(launcher));
    until("the groups are gone", || groups.iter().all(|group| !group.exists()));
    let _ = child.kill();
    child.wait().unwrap();
}

fn killed_launcher(setting: &Setting) {
    killed(setting, true);
}

fn killed_caller(setting: &Setting) {
    killed(setting, false);
}

fn killed_warden(setting: &Setting) {
    let (mut child, launcher, step) = start_victim();
    let groups = setting::groups_of(launcher);
    let below = || groups.iter().map(|base| setting::children(base)).max().unwrap_or(0);
    let warden = || setting::child_named(launcher, "caisson-warden");
    let first = warden().unwrap();
    let kill = |pid: i32| nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    // One that was only just started is not replaced.
    until("the first has lived for a while", || setting::age(first) > std::time::Duration::from_millis(1100));
    kill(first);
    until("another one is there", || warden().is_some_and(|next| next != first));
    // The step lives on in its groups.
    assert!(alive(&format!("9{:06}.25", child.id())) && !dead(step));
    assert!(!setting.root() || below() >= 1, "control: there are groups");
    // And the other one does what it is for.
    kill(launcher);
    until("the step is dead", || dead(step));
    until("the groups are gone", || groups.iter().all(|group| !group.exists()));
    let _ = child.kill();
    child.wait().unwrap();
}

fn threads(setting: &Setting) {
    let (stop, wait) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || wait.recv());
    let error = Launcher::start(&Options::default()).map(drop).unwrap_err();
    assert!(matches!(error, StartError::Threads { threads: 2 }), "{error}");
    drop(stop);
    let _ = thread.join();
    let spec = Spec::closed("/nothing");
    assert!(setting.start(&spec).is_err());
    let pollable: OwnedFd = setting.launcher.as_fd().try_clone_to_owned().unwrap();
    assert!(pollable.into_raw_fd() > 2);
}

fn probe(setting: &Setting) {
    let before = std::fs::read_link("/proc/self/ns/user").unwrap();
    let host = caisson_sandbox::host::Host::probe(Options::default().ids).unwrap();
    assert_eq!(before, std::fs::read_link("/proc/self/ns/user").unwrap());
    assert_eq!(host.mode, setting.launcher.mode());
    assert_eq!(host.cgroup, setting.launcher.standing().cgroup);
    for fact in &host.facts {
        println!("     {:?}: {:?}", fact.subject, fact.finding);
    }
    let overlay = host.facts.iter().find(|fact| fact.subject == Subject::Overlay).unwrap();
    assert!(matches!(overlay.finding, Finding::Present { .. }), "the overlay test passes here");
}

fn many_short_ones(setting: &Setting) {
    let launcher = setting::launcher_of(std::process::id()).unwrap();
    soak::soak(&setting.launcher, launcher, 300).unwrap();
}

/// A launcher that runs on in the forked process, as the victim of this test has it, and what is left of the victim's
/// environment and command line in it.
fn copied(setting: &Setting) {
    let mut caller = Command::new(std::env::current_exe().unwrap())
        .args(["--victim", "copied", "word-of-the-caller"])
        .env("OF_THE_CALLER", "word-of-the-caller")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(caller.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let launcher = setting::launcher_of(caller.id()).unwrap();
    let holds = |pid: u32| {
        let read = |file: &str| std::fs::read(format!("/proc/{pid}/{file}"));
        // Without root another one's environment is not for us to read.
        let environment = if setting.root() { read("environ").unwrap() } else { Vec::new() };
        [environment, read("cmdline").unwrap()].concat().windows(18).any(|part| part == b"word-of-the-caller")
    };
    assert_eq!(line.trim(), "Exited(0)", "its step ran");
    assert!(!holds(launcher as u32));
    // Control: the caller itself has them, and they are seen there.
    assert!(holds(caller.id()));
    drop(caller.stdin.take());
    assert!(caller.wait().unwrap().success());
    until("its launcher is gone", || !std::path::Path::new(&format!("/proc/{launcher}")).exists());
}

fn killed_copy(setting: &Setting) {
    let mut caller = Command::new(std::env::current_exe().unwrap())
        .args(["--victim", "copied", "word-of-the-caller"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(caller.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let launcher = setting::launcher_of(caller.id()).unwrap();
    let groups = setting::groups_of(launcher);
    assert!(!setting.root() || !groups.is_empty(), "control: there are groups");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(launcher), nix::sys::signal::Signal::SIGKILL).unwrap();
    drop(caller.stdin.take());
    assert!(caller.wait().unwrap().success());
    until("the groups are gone", || groups.iter().all(|group| !group.exists()));
}
