//! The Python interpreters of this host, told by their places and names. None is executed here.

use std::cmp::Reverse;
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::actions::python_version::Version;
use crate::host::InterpreterRoots;

/// Who installed an interpreter; the later in this list, the rather it is taken among equals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The distribution.
    System,
    /// `/usr/local`.
    Local,
    /// pyenv.
    Pyenv,
    /// uv.
    Uv,
    /// A tool cache.
    ToolCache,
}

/// An interpreter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interpreter {
    /// The program.
    pub program: PathBuf,
    /// The directory that has to be visible for it to run; `None` for one of the system view.
    pub prefix: Option<PathBuf>,
    /// Its version.
    pub version: Version,
    /// Who installed it.
    pub origin: Origin,
}

impl fmt::Display for Interpreter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.version, self.program.display())
    }
}

/// The oldest minor version of which an environment can be made.
const OLDEST: (u32, u32) = (3, 7);

/// All of them from 3.7 on, the best first: by version, then by who installed it. Blocks for a few reads of directories.
pub fn find(roots: &InterpreterRoots) -> Vec<Interpreter> {
    let mut found: Vec<Interpreter> = Vec::new();
    for root in &roots.tool_cache {
        for version in directories(root) {
            for architecture in directories(&version) {
                let name = format!("{}{}", name_of(&version), if name_of(&architecture).contains("freethreaded") { "t" } else { "" });
                found.extend(installed(&architecture, &name, Origin::ToolCache));
            }
        }
    }
    for root in &roots.uv {
        for directory in directories(root) {
            let name = name_of(&directory);
            if let Some(version) = name.strip_prefix("cpython-").and_then(|rest| rest.split('-').next()) {
                found.extend(installed(&directory, version, Origin::Uv));
            }
        }
    }
    for root in &roots.pyenv {
        for directory in directories(root) {
            found.extend(installed(&directory, &name_of(&directory), Origin::Pyenv));
        }
    }
    for (directory, origin) in [("/usr/local/bin", Origin::Local), ("/usr/bin", Origin::System)] {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(version) = name.to_str().and_then(|name| name.strip_prefix("python")).filter(|version| version.contains('.')) else {
                continue;
            };
            let Some(version) = Version::read(version) else { continue };
            let program = entry.path();
            if executable(&program) {
                found.push(Interpreter { program, prefix: None, version, origin });
            }
        }
    }
    found.retain(|interpreter| (interpreter.version.major, interpreter.version.minor) >= OLDEST);
    found.sort_by_key(|interpreter| {
        let version = &interpreter.version;
        Reverse((version.major, version.minor, !version.prerelease, version.patch, interpreter.origin))
    });
    found.dedup_by(|a, b| a.program == b.program);
    found
}

/// The version of the system's own `python3`, as far as its link tells.
pub fn system_default() -> Option<Version> {
    let target = std::fs::canonicalize("/usr/bin/python3").ok()?;
    Version::read(target.file_name()?.to_str()?.strip_prefix("python")?)
}

fn installed(prefix: &Path, version: &str, origin: Origin) -> Option<Interpreter> {
    let version = Version::read(version)?;
    // The prefix becomes visible to steps: it must be the installation itself, no link to something else.
    let prefix = std::fs::canonicalize(prefix).ok()?;
    let program = [format!("python{}.{}", version.major, version.minor), "python3".to_owned(), "python".to_owned()]
        .into_iter()
        .map(|name| prefix.join("bin").join(name))
        .find(|program| executable(program))?;
    Some(Interpreter { program, prefix: Some(prefix), version, origin })
}

/// Directories in a directory that are no links, by name.
fn directories(root: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn interpreters_are_found_by_their_places() {
        let root = tempfile::tempdir().unwrap();
        let place = |path: &str| {
            let program = root.path().join(path);
            std::fs::create_dir_all(program.parent().unwrap()).unwrap();
            std::fs::write(&program, "").unwrap();
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        };
        place("pyenv/9.8.1/bin/python3");
        place("pyenv/some-env/bin/python3");
        place("uv/cpython-9.9.0-linux-x86_64-gnu/bin/python9.9");
        place("uv/pypy-9.9.0-linux/bin/python9.9");
        place("cache/9.9.1/x64/bin/python");
        std::os::unix::fs::symlink("cpython-9.9.0-linux-x86_64-gnu", root.path().join("uv/cpython-9.9-linux-x86_64-gnu")).unwrap();
        std::fs::create_dir_all(root.path().join("pyenv/9.7.0/bin")).unwrap();
        let roots = InterpreterRoots {
            pyenv: vec![root.path().join("pyenv")],
            uv: vec![root.path().join("uv")],
            tool_cache: vec![root.path().join("cache")],
            ..InterpreterRoots::default()
        };
        let found: Vec<_> = find(&roots)
            .into_iter()
            .filter(|found| found.version.major == 9)
            .map(|found| (found.version.to_string(), found.origin))
            .collect();
        assert_eq!(found, [("9.9.1".to_owned(), Origin::ToolCache), ("9.9.0".to_owned(), Origin::Uv), ("9.8.1".to_owned(), Origin::Pyenv)]);
    }
}
