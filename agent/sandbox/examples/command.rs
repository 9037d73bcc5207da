//! A test suite in a sandbox, in the shape of `std::process::Command`: the project read-only, scratch space in memory, no
//! network, limits, and what it cost.
//!
//! `cargo run -p caisson-sandbox --example command -- DIRECTORY python3 -m unittest`

use std::path::PathBuf;
use std::time::Duration;

use caisson_sandbox::command::{self, Command};
use caisson_sandbox::protection::Protection;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // First, since the launcher is this same program started again.
    command::start()?;
    let mut words = std::env::args_os().skip(1);
    let directory = PathBuf::from(words.next().ok_or("say which directory to show")?).canonicalize()?;
    let mut command = Command::new(words.next().ok_or("say which program to run")?);
    command
        .args(words)
        .system()
        .bind(&directory)
        .current_dir(&directory)
        .tmpfs("/home/me", 256 << 20)
        .env("HOME", "/home/me")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .memory(1 << 30)
        // Without root and without a delegated cgroup nobody can limit memory.
        .allow_missing(Protection::MemoryLimit)
        .pids(256)
        .timeout(Duration::from_secs(600));
    let outcome = command.status()?;
    let usage = &outcome.usage;
    let mut errors = std::io::stderr();
    use std::io::Write;
    writeln!(errors, "{:?} wall, {:?} user, {:?} system, {} KiB", usage.wall, usage.user, usage.system, usage.peak_memory / 1024)?;
    if let Some(cause) = &outcome.cause {
        writeln!(errors, "ended by {cause:?}")?;
    }
    std::process::exit(outcome.code());
}
