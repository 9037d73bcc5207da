//! A place of a test's own: home, configuration, state and a checkout, gone when the test is over.

// Each test program uses a part of it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Place {
    root: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Place {
        let root = tempfile::Builder::new().prefix("caisson-test-").tempdir().unwrap();
        for name in ["home", "checkout/.github/workflows"] {
            fs::create_dir_all(root.path().join(name)).unwrap();
        }
        Place { root }
    }

    /// A place whose checkout has one workflow, `t.yml`.
    pub fn with(workflow: &str) -> Place {
        let place = Place::new();
        place.write(".github/workflows/t.yml", workflow);
        place
    }

    /// Writes a file of the checkout.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.checkout().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn path(&self) -> &Path {
        self.root.path()
    }

    pub fn checkout(&self) -> PathBuf {
        self.root.path().join("checkout")
    }

    pub fn state(&self) -> PathBuf {
        self.root.path().join("home/.local/state/caisson")
    }

    /// `caisson` with these words, in the checkout, with a closed environment and a process group of its own.
    pub fn caisson(&self, words: &[&str]) -> Command {
        self.program(env!("CARGO_BIN_EXE_caisson"), words)
    }

    pub fn program(&self, program: impl AsRef<Path>, words: &[&str]) -> Command {
        let mut command = Command::new(program.as_ref());
        command.args(words).current_dir(self.checkout()).env_clear().stdin(Stdio::null()).process_group(0);
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", self.root.path().join("home"));
        command
    }

    /// Runs `caisson run --json` with these words and gives its exit code and what it said.
    pub fn run(&self, words: &[&str]) -> Run {
        let mut all = vec!["run", "--json"];
        all.extend(words);
        Run::of(self.caisson(&all).output().unwrap())
    }

    /// Every file below the state directory that holds these bytes.
    pub fn found_in_state(&self, needle: &[u8]) -> Vec<PathBuf> {
        walkdir::WalkDir::new(self.state())
            .into_iter()
            .filter_map(Result::ok)
            .filter(|entry| entry.file_type().is_file())
            .filter(|entry| fs::read(entry.path()).unwrap().windows(needle.len()).any(|window| window == needle))
            .map(|entry| entry.path().to_owned())
            .collect()
    }
}

/// What `caisson run --json` said.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub objects: Vec<Value>,
    pub errors: String,
}

impl Run {
    pub fn of(output: Output) -> Run {
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let text = String::from_utf8(output.stdout).unwrap();
        let objects = text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect();
        Run { code: output.status.code().unwrap_or_else(|| panic!("killed: {errors}")), objects, errors }
    }

    pub fn of_type<'r>(&'r self, kind: &'r str) -> impl Iterator<Item = &'r Value> {
        self.objects.iter().filter(move |object| object["type"] == kind)
    }

    /// The finished form of a step, by the job's name and its own.
    pub fn step(&self, job: &str, step: &str) -> &Value {
        let found = self.of_type("step").find(|o| o["job_name"] == job && o["name"] == step && o["state"] == "finished");
        found.unwrap_or_else(|| panic!("no step {job}/{step} in {}", self.told()))
    }

    /// The finished form of a job.
    pub fn job(&self, name: &str) -> &Value {
        let found = self.of_type("job").find(|o| o["name"] == name && o["state"] == "finished");
        found.unwrap_or_else(|| panic!("no job {name} in {}", self.told()))
    }

    /// The output of a job as lines.
    pub fn log(&self, job: &str) -> String {
        let lines = self.of_type("log").filter(|o| o["job_name"] == job).filter_map(|o| o["text"].as_str());
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Everything, for the message of a failed test.
    pub fn told(&self) -> String {
        let objects: Vec<String> = self.objects.iter().map(ToString::to_string).collect();
        format!("exit code {}\n{}\n{}", self.code, self.errors, objects.join("\n"))
    }

    pub fn expect(&self, code: i32) -> &Run {
        assert_eq!(self.code, code, "{}", self.told());
        self
    }
}

/// Waits until a condition holds.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not come true");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// How many processes have this text in their command line.
pub fn processes_with(marker: &str) -> usize {
    let entries = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let pids = entries.filter(|entry| entry.file_name().to_string_lossy().chars().all(|c| c.is_ascii_digit()));
    // A process may end between the two looks.
    let lines = pids.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| line.windows(marker.len()).any(|window| window == marker.as_bytes())).count()
}

/// Sends a signal to a child's whole process group, as a terminal does.
pub fn signal_group(child: &Child, signal: nix::sys::signal::Signal) {
    nix::sys::signal::killpg(nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
}

/// Whether a test can be carried out; says why not.
pub fn needs(condition: bool, reason: &str) -> bool {
    if !condition {
        #[allow(clippy::print_stderr)]
        {
            eprintln!("skipped: {reason}");
        }
        assert!(std::env::var_os("CI").is_none(), "nothing is skipped on CI: {reason}");
    }
    condition
}
