//! `hashFiles(...)`: one digest over the files of the workspace that patterns match. The files belong to the job, so they are
//! listed and read by programs inside a sandbox; here are the patterns and the arithmetic.

use glob::{MatchOptions, Pattern};
use sha2::{Digest as _, Sha256};

use crate::program::{Input, Program, Sink};

/// The most bytes that the list of a workspace's files may take.
const MAX_LIST: usize = 32 << 20;

/// The patterns of one call, in order.
#[derive(Debug)]
pub struct Patterns {
    patterns: Vec<(Meaning, Pattern)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Meaning {
    Include,
    Exclude,
}

impl Patterns {
    /// Reads the arguments of a call: one pattern a line, `!` excludes, `#` is a comment; relative to `workspace`.
    ///
    /// # Errors
    /// A pattern that is none, with the reason.
    pub fn of(arguments: &[String], workspace: &str) -> Result<Patterns, String> {
        let mut patterns = Vec::new();
        for line in arguments.iter().flat_map(|argument| argument.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (meaning, text) = match line.strip_prefix('!') {
                Some(rest) => (Meaning::Exclude, rest.trim()),
                None => (Meaning::Include, line),
            };
            let text = text.strip_prefix(workspace).map_or(text, |rest| rest.trim_start_matches('/'));
            if text.starts_with('/') || text.split('/').any(|part| part == "..") {
                return Err(format!("the pattern '{line}' leaves the workspace; only files of the workspace can be hashed"));
            }
            let text = text.trim_start_matches("./").trim_end_matches('/');
            let whole = if text.is_empty() || text == "." { "**/*" } else { text };
            // A directory stands for everything below it.
            for text in [whole.to_owned(), format!("{whole}/**/*")] {
                if text.contains("**/**") {
                    continue;
                }
                let pattern = Pattern::new(&text).map_err(|error| format!("the pattern '{line}' is not valid: {}", error.msg))?;
                patterns.push((meaning, pattern));
            }
        }
        Ok(Patterns { patterns })
    }

    /// Whether a path, relative to the workspace, is meant: the last pattern that matches decides.
    pub fn matches(&self, path: &str) -> bool {
        let options = MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: false };
        let last = self.patterns.iter().rev().find(|(_, pattern)| pattern.matches_with(path, options));
        last.is_some_and(|(meaning, _)| *meaning == Meaning::Include)
    }
}

/// The program that lists the workspace's files. No symbolic link is followed.
pub fn list(workspace: &str) -> Program {
    let mut program = Program::new("find", &[".", "-type", "f", "-print0"], workspace);
    program.sink = Sink::Capture(MAX_LIST);
    program
}

/// The paths of that program's output that `patterns` mean, sorted. Names that are no UTF-8 match nothing.
pub fn select<'o>(output: &'o [u8], patterns: &Patterns) -> Vec<&'o str> {
    let mut paths: Vec<&str> = output
        .split(|byte| *byte == 0)
        .filter_map(|path| std::str::from_utf8(path).ok()?.strip_prefix("./"))
        .filter(|path| patterns.matches(path))
        .collect();
    paths.sort_unstable();
    paths
}

/// The program that digests these files, each by itself.
pub fn digest(paths: &[&str], workspace: &str) -> Program {
    let mut program = Program::new("xargs", &["-0", "sha256sum", "-z", "--"], workspace);
    let mut names = Vec::new();
    for path in paths {
        names.extend_from_slice(b"./");
        names.extend_from_slice(path.as_bytes());
        names.push(0);
    }
    // A digest, two separators, the name and its end.
    program.sink = Sink::Capture(names.len() + paths.len() * 80 + 1024);
    program.stdin = Input::Bytes(names);
    program
}

/// The digest over all, from that program's output; it must hold one line per file.
///
/// # Errors
/// The output is not what was asked for.
pub fn combine(output: &[u8], files: usize) -> Result<String, String> {
    let mut whole = Sha256::new();
    let mut seen = 0;
    for line in output.split(|byte| *byte == 0).filter(|line| !line.is_empty()) {
        let hex = line.get(..64).and_then(|hex| std::str::from_utf8(hex).ok()).ok_or("a file could not be read")?;
        let bytes: Option<Vec<u8>> = (0..32).map(|at| u8::from_str_radix(hex.get(at * 2..at * 2 + 2)?, 16).ok()).collect();
        whole.update(bytes.ok_or("a file could not be read")?);
        seen += 1;
    }
    if seen != files {
        return Err(format!("{files} files were found, but {seen} could be read"));
    }
    Ok(whole.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn patterns_mean_what_the_language_says() {
        let table: [(&[&str], &[&str], &[&str]); 9] = [
            (&["**/requirements*.txt"], &["requirements.txt", "a/b/requirements-dev.txt"], &["requirements.in"]),
            (&["*.lock"], &["uv.lock"], &["a/uv.lock"]),
            (&["a/*"], &["a/x", "a/b/x"], &["x"]),
            (&["docs"], &["docs/x", "docs/a/b"], &["docs2/x"]),
            (&["**"], &["x", "a/b"], &[]),
            (&["**/*.py", "!tests/**"], &["a.py", "b/c.py"], &["tests/a.py", "tests/b/c.py"]),
            (&["**/*.py\n!**/b.py\nx/b.py"], &["a.py", "x/b.py"], &["b.py", "y/b.py"]),
            (&["/w/p/a.txt"], &["a.txt"], &["b.txt"]),
            (&["./.github/*.yml"], &[".github/a.yml"], &["a.yml"]),
        ];
        for (lines, included, excluded) in table {
            let arguments: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
            let patterns = Patterns::of(&arguments, "/w/p").unwrap();
            included.iter().for_each(|path| assert!(patterns.matches(path), "{lines:?} {path}"));
            excluded.iter().for_each(|path| assert!(!patterns.matches(path), "{lines:?} {path}"));
        }
    }

    #[test]
    fn patterns_stay_in_the_workspace() {
        for text in ["/etc/passwd", "../x", "a/../../x", "[", "a**b"] {
            assert!(Patterns::of(&[text.to_owned()], "/w/p").is_err(), "{text}");
        }
    }

    #[test]
    fn unreadable_files_are_no_digest() {
        let line = |c: char| format!("{}  ./x\0", c.to_string().repeat(64)).into_bytes();
        assert!(combine(&line('a'), 2).is_err());
        assert!(combine(b"nonsense\0", 1).is_err());
        assert_ne!(combine(&line('a'), 1).unwrap(), combine(&line('b'), 1).unwrap());
    }
}
