//! What every test needs: a launcher, a spec with the host's programs, a way to run and look.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use caisson_sandbox::error::LaunchError;
use caisson_sandbox::host::Mode;
use caisson_sandbox::launcher::{Launcher, Options, Running, Stdio};
use caisson_sandbox::outcome::Outcome;
use caisson_sandbox::protection::Protection;
use caisson_sandbox::spec::{Access, Mount, Spec};

pub(crate) struct Setting {
    pub(crate) launcher: Launcher,
    pub(crate) scratch: tempfile::TempDir,
    /// Whether each sandbox is prepared first, without its program.
    pub(crate) ahead: bool,
}

pub(crate) struct Ran {
    pub(crate) outcome: Outcome,
    pub(crate) out: String,
    pub(crate) err: String,
}

fn scratch() -> tempfile::TempDir {
    let scratch = tempfile::Builder::new().prefix("promises").tempdir().unwrap();
    std::fs::set_permissions(scratch.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    scratch
}

impl Setting {
    pub(crate) fn new() -> Self {
        Self { launcher: Launcher::start(&Options::default()).unwrap(), scratch: scratch(), ahead: false }
    }

    /// From here on each sandbox is prepared first.
    pub(crate) fn again_ahead(&mut self) {
        (self.scratch, self.ahead) = (scratch(), true);
    }

    pub(crate) fn root(&self) -> bool {
        self.launcher.mode() == Mode::Root
    }

    /// Whether something can be tried here; says why if not.
    pub(crate) fn enforces(&self, protection: Protection) -> bool {
        let missing = self.launcher.standing().missing.iter().find(|missing| missing.protection == protection);
        if let Some(missing) = missing {
            println!("skipped: {missing}");
        }
        missing.is_none()
    }

    /// The host's programs, nothing else of it.
    pub(crate) fn spec(&self, program: &str, args: &[&str]) -> Spec {
        let mut spec = Spec::closed(program);
        spec.args = args.iter().map(Into::into).collect();
        spec.env = vec![("PATH".into(), "/usr/bin:/bin".into())];
        spec.mounts.push(Mount::Bind { source: "/usr".into(), target: "/usr".into(), access: Access::ReadOnly, owner: None });
        for name in ["bin", "sbin", "lib", "lib64"] {
            let target = Path::new("/").join(name);
            if let Ok(to) = std::fs::read_link(&target) {
                spec.mounts.push(Mount::Symlink { target, to });
            }
        }
        spec
    }

    pub(crate) fn sh(&self, script: &str) -> Spec {
        self.spec("sh", &["-c", script])
    }

    pub(crate) fn python(&self, script: &str) -> Spec {
        self.spec("/usr/bin/python3", &["-I", "-c", script])
    }

    pub(crate) fn start(&self, spec: &Spec) -> Result<(Running, File, File), LaunchError> {
        let (out, err) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let stdio = Stdio {
            stdin: OwnedFd::from(File::open("/dev/null").unwrap()),
            stdout: out.try_clone().unwrap().into(),
            stderr: err.try_clone().unwrap().into(),
        };
        if !self.ahead {
            return Ok((self.launcher.launch(spec, stdio)?, out, err));
        }
        let prepared = self.launcher.prepare(spec)?;
        // One that cannot be built says so again when it is to run.
        let _ = prepared.is_built();
        Ok((prepared.launch(spec, stdio)?, out, err))
    }

    pub(crate) fn run(&self, spec: &Spec) -> Ran {
        let (running, out, err) = self.start(spec).unwrap();
        let outcome = running.wait().unwrap();
        Ran { outcome, out: text(out), err: text(err) }
    }

    /// What a script says; it must succeed.
    pub(crate) fn says(&self, spec: &Spec) -> String {
        let ran = self.run(spec);
        assert!(ran.outcome.success(), "{:?}\n{}\n{}", ran.outcome, ran.out, ran.err);
        ran.out.trim().to_owned()
    }

    /// After all tests: no group of a sandbox but those of warm slots, no descriptor but those and what the launcher keeps.
    pub(crate) fn nothing_is_left(&self) {
        let launcher = launcher_of(std::process::id()).unwrap();
        let descriptors = || std::fs::read_dir(format!("/proc/{launcher}/fd")).map_or(0, Iterator::count);
        until("descriptors are closed", || descriptors() < 40);
        until("cgroups are removed", || groups(std::process::id()).iter().all(|base| children(base) <= 3));
    }
}

fn text(mut file: File) -> String {
    file.rewind().unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Waits for a condition, not longer than ten seconds.
pub(crate) fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "not within ten seconds: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a process with this word in its command line exists on the host.
pub(crate) fn alive(word: &str) -> bool {
    processes(word).next().is_some()
}

pub(crate) fn processes(word: &str) -> impl Iterator<Item = i32> {
    let word = word.to_owned();
    std::fs::read_dir("/proc").unwrap().flatten().filter_map(move |entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        line.split(|byte| *byte == 0).any(|part| part == word.as_bytes()).then_some(pid)
    })
}

/// The launcher that a process has started, if it lives.
pub(crate) fn launcher_of(parent: u32) -> Option<i32> {
    processes("caisson-launcher").find(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let ppid = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse::<u32>().ok());
        ppid == Some(parent)
    })
}

/// The child of this name that a process has.
pub(crate) fn child_named(parent: i32, name: &str) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    let named = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // One that is dead keeps its name until it is reaped.
        stat.contains(&format!("({name})")) && !stat.contains(") Z ")
    };
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).find(named)
}

/// How long a process has lived.
pub(crate) fn age(pid: i32) -> Duration {
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<f64>().ok()).unwrap();
    let up = std::fs::read_to_string("/proc/uptime").unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let begun = number(stat.rsplit(") ").next().unwrap().split(' ').nth(19)) / 100.0;
    Duration::from_secs_f64((number(up.split(' ').next()) - begun).max(0.0))
}

/// The cgroups of the launcher that a process has started.
pub(crate) fn groups(parent: u32) -> Vec<PathBuf> {
    launcher_of(parent).map(groups_of).unwrap_or_default()
}

pub(crate) fn groups_of(launcher: i32) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![(PathBuf::from("/sys/fs/cgroup"), 0)];
    while let Some((directory, depth)) = todo.pop() {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if entry.file_name().to_string_lossy().starts_with(&format!("caisson-{launcher}-")) {
                found.push(entry.path());
            } else if depth < 5 {
                todo.push((entry.path(), depth + 1));
            }
        }
    }
    found
}

pub(crate) fn children(base: &Path) -> usize {
    std::fs::read_dir(base).into_iter().flatten().flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).count()
}

/// The same tests by user 1000, from a copy of this program that it may read.
pub(crate) fn again_as_ordinary_user(filter: &str) -> i32 {
    let directory = tempfile::Builder::new().prefix("promises").tempdir().unwrap();
    let copy = directory.path().join("promises");
    std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    for path in [directory.path(), &copy] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        // Its own, as a user's build of caisson is: so that writing to it is stopped by nothing but the sandbox.
        std::os::unix::fs::chown(path, Some(1000), Some(1000)).unwrap();
    }
    let status = Command::new(&copy).arg(filter).uid(1000).gid(1000).env_clear().current_dir("/").status().unwrap();
    i32::from(!status.success())
}
