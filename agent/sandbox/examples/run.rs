//! Runs one command in a closed sandbox with the host's programs visible: the library's shortest whole use.
//!
//! `cargo run -p caisson-sandbox --example run -- ls -l /`

use std::os::fd::AsFd;
use std::path::PathBuf;

use caisson_sandbox::launcher::{Launcher, Options, Stdio, entry};
use caisson_sandbox::spec::{Access, Mount, Spec};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // First, since the launcher is this same program started again.
    if let Some(code) = entry() {
        std::process::exit(code);
    }
    let mut words = std::env::args_os().skip(1);
    let mut spec = Spec::closed(words.next().ok_or("say which program to run")?);
    spec.args = words.collect();
    spec.env = vec![("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into())];
    let directory = |target: &str| Mount::Bind { source: target.into(), target: target.into(), access: Access::ReadOnly, owner: None };
    spec.mounts.push(directory("/usr"));
    for name in ["bin", "sbin", "lib", "lib64"] {
        let target = PathBuf::from("/").join(name);
        if let Ok(to) = std::fs::read_link(&target) {
            spec.mounts.push(Mount::Symlink { target, to });
        }
    }
    let launcher = Launcher::start(&Options::default())?;
    let stdio = Stdio {
        stdin: std::io::stdin().as_fd().try_clone_to_owned()?,
        stdout: std::io::stdout().as_fd().try_clone_to_owned()?,
        stderr: std::io::stderr().as_fd().try_clone_to_owned()?,
    };
    let outcome = launcher.launch(&spec, stdio)?.wait()?;
    drop(launcher);
    std::process::exit(outcome.code());
}
