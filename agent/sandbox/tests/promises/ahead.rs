//! Sandboxes that are built before it is known what runs in them.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio as Streams};
use std::time::Duration;

use caisson_sandbox::launcher::{Prepared, Stdio};
use caisson_sandbox::outcome::{Cause, Status};
use caisson_sandbox::protection::Protection;
use caisson_sandbox::spec::{GivenFile, Mount, SecretFile, SecretValue, Spec};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Test;
use crate::setting::{self, Setting, until};

pub(crate) const TESTS: &[Test] = &[
    ("what comes late is there, and there alone", late),
    ("what comes before the sandbox is begun runs all the same", overtaken),
    ("a prepared sandbox holds nothing of what ran beside it", apart),
    ("what does not fit is thrown away and built anew", misfits),
    ("a prepared sandbox is gone with whom it was for", dropped),
    ("a prepared sandbox whose processes are killed is built anew", killed),
    ("a killed launcher takes what it prepared along", killed_launcher),
];

const WORD: &str = "word-of-another-step";

/// Everything that a step can see of what was handed to it or to anyone else.
const LOOK: &str = "echo env; env; echo secrets; ls -A /run/secrets 2>&1; cat /run/secrets/* 2>/dev/null; echo files; ls /given 2>&1; \
                    cat /given/* 2>/dev/null; echo fds; ls /proc/self/fd; echo words; cat /proc/*/cmdline | tr '\\0' ' '; pwd";

fn given(target: &str, content: &str) -> GivenFile {
    GivenFile { target: target.into(), content: content.into(), mode: 0o555 }
}

fn full(setting: &Setting, script: &str) -> Spec {
    let mut spec = setting.sh(script);
    spec.files = vec![given("/given/script", WORD)];
    spec.secrets = vec![SecretFile { name: "token".to_owned(), value: SecretValue::new(WORD) }];
    spec.env.push(("WORD".into(), WORD.into()));
    spec
}

fn prepared(setting: &Setting, spec: &Spec) -> Prepared {
    let prepared = setting.launcher.prepare(spec).unwrap();
    assert!(prepared.is_built());
    prepared
}

/// Runs a program in what was prepared; what it said.
fn says(prepared: Prepared, spec: &Spec) -> String {
    let (mut out, stdio) = stdio();
    let outcome = prepared.launch(spec, stdio).unwrap().wait().unwrap();
    assert!(outcome.success(), "{outcome:?}");
    let mut text = String::new();
    std::io::Seek::rewind(&mut out).unwrap();
    out.read_to_string(&mut text).unwrap();
    text
}

fn stdio() -> (File, Stdio) {
    let out = tempfile::tempfile().unwrap();
    let null = OwnedFd::from(File::open("/dev/null").unwrap());
    let stdio = Stdio { stdin: null, stdout: out.try_clone().unwrap().into(), stderr: out.try_clone().unwrap().into() };
    (out, stdio)
}

/// The processes that a launcher has made for sandboxes: not its warden, which takes down what is left of them.
fn sandboxes(launcher: i32) -> Vec<i32> {
    let text = std::fs::read_to_string(format!("/proc/{launcher}/task/{launcher}/children")).unwrap_or_default();
    let warden = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "caisson-warden");
    text.split_whitespace().map(|pid| pid.parse().unwrap()).filter(|pid| !warden(pid)).collect()
}

fn late(setting: &Setting) {
    let mut spec = full(setting, &format!("{LOOK}; touch /given/more /x; test ! -w /"));
    spec.mounts.push(Mount::Directory { target: "/there".into(), mode: 0o755 });
    spec.cwd = "/there".into();
    spec.limits.wall_clock = Some(Duration::from_secs(60));
    let mut shape = full(setting, "");
    shape.mounts.clone_from(&spec.mounts);
    let first = prepared(setting, &shape);
    assert!(first.fits(&spec));
    let (mut out, stdio) = stdio();
    let outcome = first.launch(&spec, stdio).unwrap().wait().unwrap();
    let mut said = String::new();
    std::io::Seek::rewind(&mut out).unwrap();
    out.read_to_string(&mut said).unwrap();
    assert!(outcome.success(), "{outcome:?}\n{said}");
    assert_eq!(said.matches(WORD).count(), 3, "variable, secret and file: {said}");
    assert!(said.contains("/there") && said.contains("Read-only file system"), "{said}");
    // The time that it has is its own.
    spec.args[1] = "sleep 60".into();
    spec.limits.wall_clock = Some(Duration::from_millis(50));
    let (_, stdio) = self::stdio();
    let outcome = prepared(setting, &shape).launch(&spec, stdio).unwrap().wait().unwrap();
    assert_eq!(outcome.cause, Some(Cause::WallClock { limit: Duration::from_millis(50) }));
    // What cannot be executed is told as ever.
    spec.program = "/nowhere/x".into();
    let (_, stdio) = self::stdio();
    let error = prepared(setting, &shape).launch(&spec, stdio).map(drop).unwrap_err();
    assert!(error.to_string().contains("/nowhere/x"), "{error}");
}

fn overtaken(setting: &Setting) {
    let many: Vec<_> = (0..6)
        .map(|number| {
            let mut spec = setting.sh("cat /given/script; echo \" $WORD\"; cat /run/secrets/token 2>/dev/null; exec sleep $NAP");
            spec.files = vec![given("/given/script", &number.to_string())];
            spec.env.extend([("WORD".into(), WORD.into()), ("NAP".into(), if number == 3 { "60".into() } else { "0".into() })]);
            spec.limits.wall_clock = Some(if number == 3 { Duration::from_millis(50) } else { Duration::from_secs(60) });
            if number == 4 {
                spec.secrets = vec![SecretFile { name: "token".to_owned(), value: SecretValue::new("secret") }];
            }
            let mut shape = setting.sh("");
            shape.files = vec![given("/given/script", "")];
            (setting.launcher.prepare(&shape).unwrap(), spec)
        })
        .collect();
    // Most of them are not begun by now: the launcher builds one at a time.
    let running: Vec<_> = many
        .into_iter()
        .map(|(prepared, spec)| {
            assert!(prepared.fits(&spec));
            let (out, stdio) = stdio();
            (prepared.launch(&spec, stdio).unwrap(), out)
        })
        .collect();
    for (number, (running, mut out)) in running.into_iter().enumerate() {
        let outcome = running.wait().unwrap();
        let mut said = String::new();
        std::io::Seek::rewind(&mut out).unwrap();
        out.read_to_string(&mut said).unwrap();
        assert!(outcome.enforced.contains(&Protection::WallClock), "{outcome:?}");
        if number == 3 {
            assert_eq!(outcome.cause, Some(Cause::WallClock { limit: Duration::from_millis(50) }));
            continue;
        }
        assert!(outcome.success(), "{outcome:?}");
        assert_eq!(said, format!("{number} {WORD}\n{}", if number == 4 { "secret" } else { "" }));
    }
}

fn apart(setting: &Setting) {
    // While this one runs, with everything that it was given, the next is built.
    let marker = format!("6{:06}.25", std::process::id());
    let (running, _, _) = setting.start(&full(setting, &format!("{LOOK}; sleep {marker}"))).unwrap();
    until("it runs", || setting::alive(&marker));
    let mut spec = setting.sh(LOOK);
    spec.files = vec![given("/given/own", "own")];
    let next = prepared(setting, &spec);
    running.kill();
    running.wait().unwrap();
    let said = says(next, &spec);
    assert!(!said.contains(WORD) && !said.contains(&marker) && said.contains("own"), "{said}");
    let fds: Vec<&str> = said.split("fds\n").nth(1).unwrap().split("words").next().unwrap().lines().collect();
    assert_eq!(fds, ["0", "1", "2", "3"], "the fourth is what ls reads");
    // And the memory of the processes that wait in it.
    let launcher = setting::launcher_of(std::process::id()).unwrap();
    if setting.root() {
        let (running, _, _) = setting.start(&full(setting, "sleep 60")).unwrap();
        let before = sandboxes(launcher);
        let next = prepared(setting, &spec);
        let new: Vec<i32> = sandboxes(launcher).into_iter().filter(|pid| !before.contains(pid)).collect();
        let holds = |pid: &i32| holds(*pid, WORD.as_bytes());
        assert!(!new.iter().any(holds), "a variable, secret or file of another step is in the memory of init");
        // Control: a word of the launcher's own is found there.
        assert!(new.is_empty() || new.iter().any(|pid| self::holds(*pid, b"caisson-launcher")));
        drop(next);
        running.kill();
        running.wait().unwrap();
    }
}

/// Whether a process has these bytes in the memory that it can write.
fn holds(pid: i32, word: &[u8]) -> bool {
    use std::os::unix::fs::FileExt;
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let Ok(memory) = File::open(format!("/proc/{pid}/mem")) else { return false };
    maps.lines().filter(|line| line.contains(" rw")).any(|line| {
        let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let (start, end) = (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
        let mut bytes = vec![0; (end - start) as usize];
        memory.read_exact_at(&mut bytes, start).is_ok() && bytes.windows(word.len()).any(|part| part == word)
    })
}

fn misfits(setting: &Setting) {
    let shape = setting.sh("");
    let mut other = setting.sh("ulimit -n; hostname");
    other.limits.open_files = Some(77);
    let first = prepared(setting, &shape);
    assert!(!first.fits(&other), "another limit");
    assert_eq!(says(first, &other), "77\nsandbox\n");
    other.hostname = "other".to_owned();
    assert_eq!(says(prepared(setting, &shape), &other), "77\nother\n");
    // Prepared for no secrets, it takes none.
    let secret = full(setting, "cat /run/secrets/token");
    let first = prepared(setting, &shape);
    assert!(!first.fits(&secret));
    assert_eq!(says(first, &secret), WORD);
    // A file that would lie in something mounted is not left for later.
    let mut hidden = setting.sh("cat /tmp/given");
    hidden.files = vec![given("/tmp/given", WORD)];
    let first = prepared(setting, &hidden);
    assert!(!first.fits(&hidden));
    assert_eq!(says(first, &hidden), WORD);
}

fn dropped(setting: &Setting) {
    let launcher = setting::launcher_of(std::process::id()).unwrap();
    let first = prepared(setting, &setting.sh(""));
    let inits = sandboxes(launcher);
    let groups = setting::groups_of(launcher);
    let below = || groups.iter().map(|base| setting::children(base)).max().unwrap_or(0);
    let many: Vec<Prepared> = (0..5).map(|_| prepared(setting, &setting.sh(""))).collect();
    until("control: there are more processes than before", || sandboxes(launcher).len() >= inits.len());
    assert!(!setting.root() || below() >= 6, "control: there are groups");
    drop((first, many));
    until("their groups are gone", || below() <= 3);
    until("so are their processes", || sandboxes(launcher).len() <= 3);
}

fn killed(setting: &Setting) {
    if !setting.root() {
        println!("skipped: only root may kill them");
        return;
    }
    let launcher = setting::launcher_of(std::process::id()).unwrap();
    let spec = setting.sh("echo ran");
    let first = prepared(setting, &spec);
    // Slots that wait for a spec among them: they are made anew as well.
    end(&sandboxes(launcher));
    assert_eq!(says(first, &spec), "ran\n");
    // The process that waits for its program, and not init.
    let first = prepared(setting, &spec);
    let waiting = sandboxes(launcher).into_iter().flat_map(sandboxes).collect::<Vec<i32>>();
    assert!(!waiting.is_empty(), "control: it is found");
    end(&waiting);
    assert_eq!(says(first, &spec), "ran\n");
    assert_eq!(setting.run(&spec).outcome.status, Status::Exited(0));
}

/// Kills processes and waits until they are dead.
fn end(pids: &[i32]) {
    for pid in pids {
        let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
    }
    until("they are dead", || pids.iter().all(dead));
}

fn dead(pid: &i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

/// Has sandboxes prepared, says so, and waits to be ended.
pub(crate) fn victim() {
    if std::env::args().nth(2).as_deref() != Some("ahead") {
        return;
    }
    let setting = Setting::new();
    let held: Vec<Prepared> = (0..2).map(|_| prepared(&setting, &full(&setting, ""))).collect();
    std::fs::remove_dir(setting.scratch.path()).unwrap();
    println!("ready");
    let _ = std::io::stdin().read(&mut [0; 1]);
    drop(held);
    std::process::exit(0)
}

fn killed_launcher(setting: &Setting) {
    for whom in ["launcher", "caller"] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--victim", "ahead"])
            .stdin(Streams::piped())
            .stdout(Streams::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let launcher = setting::launcher_of(child.id()).unwrap();
        let inits = sandboxes(launcher);
        let steps: Vec<i32> = inits.iter().copied().flat_map(sandboxes).collect();
        let groups = setting::groups_of(launcher);
        assert!(inits.len() >= 2 && steps.len() >= 2, "control: they are there");
        assert!(!setting.root() || !groups.is_empty(), "control: there are groups");
        let target = if whom == "launcher" { launcher } else { child.id() as i32 };
        kill(Pid::from_raw(target), Signal::SIGKILL).unwrap();
        until("their processes are dead", || inits.iter().chain(&steps).all(dead));
        until("the groups are gone", || groups.iter().all(|group| !group.exists()));
        drop(child.stdin.take());
        let _ = child.kill();
        child.wait().unwrap();
    }
}
