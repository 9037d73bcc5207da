//! Paths as inputs of caches and artifacts name them: one a line, `!` excludes, `~` is the job's home, `*`, `?`, `[...]` and `**`
//! match. The files belong to the job, so they are listed by programs in a sandbox; here are the patterns.

use glob::{MatchOptions, Pattern};

use crate::program::{Input, Program, Sink};
use crate::view;

/// The most bytes that a list of paths may take.
const MAX_LIST: usize = 64 << 20;

/// The lines of an input.
#[derive(Clone, Debug)]
pub struct Paths {
    lines: Vec<Line>,
}

#[derive(Clone, Debug)]
struct Line {
    excludes: bool,
    /// Absolute, without `.` and empty parts.
    text: String,
    /// `None` for a path without any pattern.
    pattern: Option<Pattern>,
}

const OPTIONS: MatchOptions = MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: false };

impl Paths {
    /// Reads the lines.
    ///
    /// # Errors
    /// A line that climbs above the root or is no pattern; what is wrong, lower case, no full stop.
    pub fn read(lines: &[String], workspace: &str) -> Result<Paths, String> {
        let mut read = Vec::new();
        for line in lines.iter().map(|line| line.trim()).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (excludes, path) = line.strip_prefix('!').map_or((false, line), |rest| (true, rest.trim()));
            let whole = match path.strip_prefix('~') {
                Some(rest) if rest.is_empty() || rest.starts_with('/') => format!("{}{rest}", view::HOME),
                _ if path.starts_with('/') => path.to_owned(),
                _ => format!("{workspace}/{path}"),
            };
            let mut parts: Vec<&str> = Vec::new();
            for part in whole.split('/') {
                match part {
                    "" | "." => {}
                    ".." => {
                        parts.pop().ok_or_else(|| format!("the path '{line}' climbs above the root"))?;
                    }
                    part => parts.push(part),
                }
            }
            let text = format!("/{}", parts.join("/"));
            let pattern = match text.contains(['*', '?', '[']) {
                false => None,
                true => Some(Pattern::new(&text).map_err(|error| format!("the path '{line}' is no pattern: {}", error.msg))?),
            };
            read.push(Line { excludes, text, pattern });
        }
        Ok(Paths { lines: read })
    }

    /// Whether there is nothing to look for.
    pub fn is_empty(&self) -> bool {
        self.lines.iter().all(|line| line.excludes)
    }

    /// Whether anything is excluded.
    pub fn excludes(&self) -> bool {
        self.lines.iter().any(|line| line.excludes)
    }

    /// Whether all that is looked for is named without patterns.
    pub fn is_literal(&self) -> bool {
        self.lines.iter().all(|line| line.pattern.is_none())
    }

    /// Where to look: for each line that includes, the directory before its first pattern, or the path itself.
    pub fn roots(&self) -> Vec<String> {
        self.lines.iter().filter(|line| !line.excludes).map(Line::root).collect()
    }

    /// Whether a path is meant: a line that includes covers it or something above it, and no later line excludes it.
    pub fn covers(&self, path: &str) -> bool {
        let mut covered = false;
        for line in &self.lines {
            if covered == line.excludes && line.covers(path) {
                covered = !line.excludes;
            }
        }
        covered
    }

    /// Whether a path is meant itself, and not only as part of something.
    pub fn names(&self, path: &str) -> bool {
        let named = self.lines.iter().any(|line| !line.excludes && line.matches(path));
        named && self.covers(path)
    }
}

impl Line {
    fn root(&self) -> String {
        if self.pattern.is_none() {
            return self.text.clone();
        }
        let parts: Vec<&str> = self.text.split('/').take_while(|part| !part.contains(['*', '?', '['])).collect();
        let root = parts.join("/");
        if root.is_empty() { "/".to_owned() } else { root }
    }

    fn matches(&self, path: &str) -> bool {
        match &self.pattern {
            Some(pattern) => pattern.matches_with(path, OPTIONS),
            None => self.text == path,
        }
    }

    fn covers(&self, path: &str) -> bool {
        // Itself, or any directory above it.
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]).filter(|at| *at > 0);
        ends.map(|end| &path[..end]).any(|above| self.matches(above))
    }
}

/// The program that lists what lies below directories, entry by entry; those that are not there are passed over. With `kind`
/// `f` it lists files and what links lead to.
pub fn list(roots: &[String], kind: Kind, cwd: &str) -> Program {
    let script = match kind {
        Kind::Files => "for p; do [ ! -e \"$p\" ] || find -L \"$p\" -type f -print0 || :; done 2>/dev/null; true",
        Kind::Everything => "for p; do if [ -e \"$p\" ] || [ -L \"$p\" ]; then find \"$p\" -print0 || :; fi; done 2>/dev/null; true",
    };
    let mut args = vec!["-c", script, "list"];
    args.extend(roots.iter().map(String::as_str));
    let mut program = Program::new("/bin/sh", &args, cwd);
    program.sink = Sink::Capture(MAX_LIST);
    program
}

/// What a list holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Regular files, also through links.
    Files,
    /// Every entry.
    Everything,
}

/// The paths of such a list. Names that are no UTF-8 are passed over.
pub fn listed(output: &[u8]) -> impl Iterator<Item = &str> {
    output.split(|byte| *byte == 0).filter(|path| !path.is_empty()).filter_map(|path| std::str::from_utf8(path).ok())
}

/// Paths as the input of a program that reads them with a NUL after each.
pub fn as_input<'p>(paths: impl Iterator<Item = &'p str>) -> Input {
    let mut bytes = Vec::new();
    for path in paths {
        bytes.extend_from_slice(path.as_bytes());
        bytes.push(0);
    }
    Input::Bytes(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(lines: &[&str]) -> Paths {
        Paths::read(&lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>(), "/w").unwrap()
    }

    #[test]
    fn lines_cover_what_they_name_and_what_lies_below() {
        let table = [
            (&["dist"][..], "/w/dist", true),
            (&["dist"], "/w/dist/a/b", true),
            (&["dist"], "/w/distant", false),
            (&["~/.cache/pip"], "/home/runner/.cache/pip/x", true),
            (&["~user"], "/w/~user", true),
            (&["a/*.txt"], "/w/a/b.txt", true),
            (&["a/*.txt"], "/w/a/c/b.txt", false),
            (&["a/**/*.txt"], "/w/a/c/b.txt", true),
            (&["**/node_modules"], "/w/x/node_modules/y", true),
            (&["dist", "!dist/tmp"], "/w/dist/tmp/x", false),
            (&["dist", "!dist/**/*.tmp"], "/w/dist/a/x.tmp", false),
            (&["dist", "!dist/**/*.tmp"], "/w/dist/a/x.txt", true),
            (&["./dist/"], "/w/dist/x", true),
            (&["/opt/x", "# a remark"], "/opt/x", true),
        ];
        for (lines, path, expected) in table {
            assert_eq!(read(lines).covers(path), expected, "{lines:?} {path}");
        }
    }

    #[test]
    fn roots_end_before_the_first_pattern() {
        assert_eq!(read(&["a/b/*.txt", "!a/c", "d", "**/x"]).roots(), ["/w/a/b", "/w/d", "/w"]);
        assert!(Paths::read(&["../../x".to_owned()], "/w").is_err());
        assert!(read(&["!x"]).is_empty() && read(&["x"]).is_literal() && !read(&["x/*"]).is_literal());
    }
}
