//! The Node.js installations of this host, told by their places and names, and what `node-version:` asks for. None is executed
//! here.

use std::cmp::Reverse;
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::host::InterpreterRoots;

/// An installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The program.
    pub program: PathBuf,
    /// The directory that has to be visible for it to run; `None` for one of the system view.
    pub prefix: Option<PathBuf>,
    /// Its version; `None` where only asking would tell.
    pub version: Option<Triple>,
}

/// Major, minor, patch.
pub type Triple = (u32, u32, u32);

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            Some((major, minor, patch)) => write!(f, "{major}.{minor}.{patch} ({})", self.program.display()),
            None => write!(f, "{}", self.program.display()),
        }
    }
}

/// All of them: those whose version is known first, the newest foremost. Blocks for a few reads of directories.
pub fn find(roots: &InterpreterRoots) -> Vec<Node> {
    let mut found = Vec::new();
    let mut add = |prefix: PathBuf, version: &str| {
        // The prefix becomes visible to steps: it must be the installation itself, no link to something else.
        let Ok(prefix) = std::fs::canonicalize(prefix) else { return };
        let program = prefix.join("bin/node");
        if let (Some(version), true) = (triple(version), executable(&program)) {
            found.push(Node { program, prefix: Some(prefix), version: Some(version) });
        }
    };
    for root in &roots.node_tool_cache {
        for version in directories(root) {
            directories(&version).into_iter().for_each(|architecture| add(architecture, &name_of(&version)));
        }
    }
    for root in &roots.node_versions {
        for directory in directories(root) {
            let name = name_of(&directory);
            // fnm keeps the installation one level deeper.
            let inner = directory.join("installation");
            add(if inner.is_dir() { inner } else { directory }, &name);
        }
    }
    for directory in ["/usr/local/bin", "/usr/bin"] {
        let program = Path::new(directory).join("node");
        if executable(&program) {
            found.push(Node { program, prefix: None, version: None });
        }
    }
    found.sort_by_key(|node| Reverse(node.version));
    found.dedup_by(|a, b| a.program == b.program);
    found
}

/// The one that actions run with: the system's, else the newest.
pub fn usual(roots: &InterpreterRoots) -> Option<Node> {
    let all = find(roots);
    all.iter().find(|node| node.prefix.is_none()).or(all.first()).cloned()
}

/// Reads `v20.11.1` or `20.11.1`.
pub fn triple(text: &str) -> Option<Triple> {
    let text = text.trim().trim_start_matches('v');
    let mut parts = text.split('.').map(|part| part.parse().ok());
    let triple = (parts.next()??, parts.next()??, parts.next()??);
    parts.next().is_none().then_some(triple)
}

/// What a workflow asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// The newest.
    Newest,
    /// The newest of a line with long-time support, or of this one.
    LongTime(Option<u32>),
    /// One of these, each a conjunction of half-open ranges.
    Ranges(Vec<Vec<(Triple, Triple)>>),
}

const END: Triple = (u32::MAX, u32::MAX, u32::MAX);

impl Request {
    /// Reads `20`, `20.x`, `^18.17 || >=20`, `lts/*`, `lts/iron`, `latest`, `node`.
    ///
    /// # Errors
    /// What is wrong with it: lower case, no full stop.
    pub fn read(text: &str) -> Result<Request, String> {
        let text = text.trim().trim_matches(['"', '\'']);
        match text {
            "" | "*" | "latest" | "current" | "node" => return Ok(Request::Newest),
            "lts/*" | "lts" => return Ok(Request::LongTime(None)),
            _ => {}
        }
        if let Some(line) = text.strip_prefix("lts/") {
            let names = [
                ("argon", 4),
                ("boron", 6),
                ("carbon", 8),
                ("dubnium", 10),
                ("erbium", 12),
                ("fermium", 14),
                ("gallium", 16),
                ("hydrogen", 18),
                ("iron", 20),
                ("jod", 22),
                ("krypton", 24),
            ];
            let major = names.iter().find(|(name, _)| line.eq_ignore_ascii_case(name)).map(|(_, major)| *major);
            return major
                .map(|major| Request::LongTime(Some(major)))
                .ok_or_else(|| format!("'{text}' is no line of Node.js with long-time support"));
        }
        let mut alternatives = Vec::new();
        for alternative in text.split("||") {
            alternatives
                .push(conjunction(alternative.trim()).ok_or_else(|| format!("'{text}' is no version of Node.js and no range of them"))?);
        }
        Ok(Request::Ranges(alternatives))
    }

    /// Whether a version is what was asked for.
    pub fn fits(&self, version: Triple) -> bool {
        match self {
            Request::Newest => true,
            Request::LongTime(None) => version.0.is_multiple_of(2),
            Request::LongTime(Some(major)) => version.0 == *major,
            Request::Ranges(alternatives) => {
                alternatives.iter().any(|bounds| bounds.iter().all(|(from, to)| *from <= version && version < *to))
            }
        }
    }
}

fn conjunction(text: &str) -> Option<Vec<(Triple, Triple)>> {
    if let Some((low, high)) = text.split_once(" - ") {
        return Some(vec![(partial(low)?.0, END), ((0, 0, 0), partial(high)?.1)]);
    }
    let mut bounds = Vec::new();
    let mut words = text.split_whitespace().peekable();
    while let Some(word) = words.next() {
        let at = word.find(|c: char| !"<>=^~".contains(c)).unwrap_or(word.len());
        let (sign, rest) = word.split_at(at);
        // A sign may stand apart from its version.
        let rest = if rest.is_empty() { words.next()? } else { rest };
        let (from, to) = partial(rest)?;
        bounds.push(match sign {
            "" | "=" | "==" => (from, to),
            ">=" => (from, END),
            ">" => (to, END),
            "<" => ((0, 0, 0), from),
            "<=" => ((0, 0, 0), to),
            "~" | "~>" => (from, if rest.contains('.') { (from.0, from.1 + 1, 0) } else { (from.0 + 1, 0, 0) }),
            "^" => (from, if from.0 > 0 { (from.0 + 1, 0, 0) } else { (0, from.1 + 1, 0) }),
            _ => return None,
        });
    }
    (!bounds.is_empty()).then_some(bounds)
}

/// The versions that begin so: `20`, `20.x`, `20.11`, `20.11.1`.
fn partial(text: &str) -> Option<(Triple, Triple)> {
    let text = text.trim().trim_start_matches('v');
    let mut parts = Vec::new();
    for part in text.split('.') {
        match part {
            "x" | "X" | "*" => break,
            part => parts.push(part.parse::<u32>().ok()?),
        }
    }
    Some(match parts[..] {
        [] => ((0, 0, 0), END),
        [major] => ((major, 0, 0), (major.checked_add(1)?, 0, 0)),
        [major, minor] => ((major, minor, 0), (major, minor.checked_add(1)?, 0)),
        [major, minor, patch] => ((major, minor, patch), (major, minor, patch.checked_add(1)?)),
        _ => return None,
    })
}

fn directories(root: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> =
        entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect();
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
    fn requests_fit_what_they_mean() {
        let table = [
            ("20", (20, 1, 0), true),
            ("20", (21, 0, 0), false),
            ("v20.11", (20, 11, 9), true),
            ("20.x", (20, 9, 0), true),
            ("20.11.1", (20, 11, 2), false),
            (">=18", (22, 0, 0), true),
            (">18", (18, 9, 9), false),
            ("<20", (20, 0, 0), false),
            ("<=20", (20, 9, 0), true),
            ("^18.17.0", (18, 20, 1), true),
            ("^18.17.0", (18, 16, 0), false),
            ("~18.17", (18, 18, 0), false),
            (">=18 <21", (20, 0, 0), true),
            (">= 18 < 21", (21, 0, 0), false),
            ("18 || 20", (20, 5, 0), true),
            ("16 - 18", (18, 20, 0), true),
            ("lts/*", (21, 0, 0), false),
            ("lts/*", (22, 0, 0), true),
            ("lts/iron", (20, 1, 1), true),
            ("lts/Iron", (22, 1, 1), false),
            ("latest", (99, 0, 0), true),
            ("'20'", (20, 0, 0), true),
        ];
        for (text, version, expected) in table {
            assert_eq!(Request::read(text).unwrap().fits(version), expected, "{text} {version:?}");
        }
        for text in ["twenty", "20.1.2.3", "lts/none", ">", "20 ||"] {
            assert!(Request::read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn installations_are_found_by_their_places() {
        let dir = tempfile::tempdir().unwrap();
        let place = |path: &str| {
            let program = dir.path().join(path).join("bin/node");
            std::fs::create_dir_all(program.parent().unwrap()).unwrap();
            std::fs::write(&program, "").unwrap();
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        };
        place("cache/98.1.0/x64");
        place("nvm/v99.0.1");
        place("nvm/v97.0.0/installation");
        place("nvm/other");
        let roots = InterpreterRoots {
            node_tool_cache: vec![dir.path().join("cache")],
            node_versions: vec![dir.path().join("nvm")],
            ..InterpreterRoots::default()
        };
        let versions: Vec<u32> =
            find(&roots).iter().filter_map(|node| node.version).map(|version| version.0).filter(|major| *major > 90).collect();
        assert_eq!(versions, [99, 98, 97]);
    }
}
