//! `python-version:` and what it means: versions, ranges in the notations of npm and of Python, prereleases, free-threaded builds.

use std::fmt;

/// A version of an interpreter, as far as its place on the disk tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Major.
    pub major: u32,
    /// Minor.
    pub minor: u32,
    /// Patch; `None` when only asking the interpreter would tell.
    pub patch: Option<u32>,
    /// Whether it is a prerelease or a development build.
    pub prerelease: bool,
    /// Whether it runs without the global lock (`3.13t`).
    pub threaded: bool,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        if let Some(patch) = self.patch {
            write!(f, ".{patch}")?;
        }
        f.write_str(if self.prerelease { " (prerelease)" } else { "" })?;
        f.write_str(if self.threaded { " (free-threaded)" } else { "" })
    }
}

impl Version {
    /// Reads `3.11`, `3.11.7`, `3.14.0a2`, `3.14.0-rc.1`, `3.13-dev`, `3.13t`; `None` for anything else.
    pub fn read(text: &str) -> Option<Version> {
        let (number, tail) = digits_and_dots(text);
        let parts: Vec<u32> = number.split('.').map(|part| part.parse().ok()).collect::<Option<_>>()?;
        let (tail, threaded) = match tail.strip_prefix('t').or_else(|| tail.strip_prefix("+freethreaded")) {
            Some(rest) => (rest, true),
            None => (tail, false),
        };
        let word = tail.trim_start_matches('-');
        let prerelease = match word {
            "" => false,
            _ if ["a", "b", "rc", "c", "alpha", "beta", "dev"].iter().any(|mark| word.strip_prefix(mark).is_some_and(is_number)) => true,
            _ => return None,
        };
        match parts[..] {
            [major, minor] => Some(Version { major, minor, patch: None, prerelease, threaded }),
            [major, minor, patch] => Some(Version { major, minor, patch: Some(patch), prerelease, threaded }),
            _ => None,
        }
    }
}

/// The rest of a prerelease's mark: `2`, `.1`, nothing. `python3.11-config` is no interpreter of a release candidate.
fn is_number(rest: &str) -> bool {
    rest.chars().all(|c| c.is_ascii_digit() || c == '.')
}

/// What a workflow asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// One of these, each a conjunction.
    alternatives: Vec<Vec<Bound>>,
    prereleases: bool,
    threaded: bool,
}

/// Whether an interpreter is what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// It is.
    Yes,
    /// It is not.
    No,
    /// That depends on its patch number, which is not known.
    Unknown,
}

type Triple = (u32, u32, u32);
const END: Triple = (u32::MAX, u32::MAX, u32::MAX);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    /// From the first, up to but without the second.
    Within(Triple, Triple),
    /// Not that.
    Without(Triple, Triple),
}

impl Request {
    /// Reads a request. `allow_prereleases` is the input of that name.
    ///
    /// # Errors
    /// What is wrong with it: lower case, no full stop.
    pub fn read(text: &str, allow_prereleases: bool) -> Result<Request, String> {
        let text = text.trim().trim_matches(['"', '\'']).trim();
        let lower = text.to_ascii_lowercase();
        if lower.starts_with("pypy") || lower.starts_with("graalpy") {
            return Err(format!("'{text}' is another implementation than CPython, which caisson does not set up"));
        }
        if text.lines().filter(|line| !line.trim().is_empty()).count() > 1 {
            return Err("several versions in one step are not supported; use a matrix, or one step per version".to_owned());
        }
        let mut request = Request { alternatives: Vec::new(), prereleases: allow_prereleases, threaded: false };
        for alternative in text.split("||") {
            let bounds = request.conjunction(alternative.trim()).ok_or_else(|| {
                format!("'{text}' is no version of Python; write for example 3.12, 3.x, '>=3.10 <3.13', 3.13-dev or 3.13t")
            })?;
            request.alternatives.push(bounds);
        }
        Ok(request)
    }

    /// The same of a build without the global lock.
    pub fn free_threaded(self) -> Request {
        Request { threaded: true, ..self }
    }

    /// Whether this version is meant.
    pub fn fits(&self, version: &Version) -> Fit {
        if version.threaded != self.threaded || (version.prerelease && !self.prereleases) {
            return Fit::No;
        }
        let mut best = Fit::No;
        for bounds in &self.alternatives {
            let all = bounds.iter().map(|bound| bound.fits(version)).fold(Fit::Yes, |whole, one| match (whole, one) {
                (Fit::No, _) | (_, Fit::No) => Fit::No,
                (Fit::Unknown, _) | (_, Fit::Unknown) => Fit::Unknown,
                _ => Fit::Yes,
            });
            match all {
                Fit::Yes => return Fit::Yes,
                Fit::Unknown => best = Fit::Unknown,
                Fit::No => {}
            }
        }
        best
    }

    fn conjunction(&mut self, text: &str) -> Option<Vec<Bound>> {
        if let Some((from, to)) = text.split_once(" - ") {
            let (from, to) = (self.number(from)?, self.number(to)?);
            return Some(vec![Bound::Within(from.low(), to.high())]);
        }
        let mut bounds = Vec::new();
        let mut rest = text.trim();
        if rest.is_empty() {
            return None;
        }
        while !rest.is_empty() {
            let operator: &str =
                ["===", "~=", "==", "!=", ">=", "<=", ">", "<", "=", "~", "^", ""].into_iter().find(|o| rest.starts_with(o))?;
            let after = rest[operator.len()..].trim_start();
            let end = after.find([' ', ',', '\t']).unwrap_or(after.len());
            let number = self.number(&after[..end])?;
            let (low, high) = (number.low(), number.high());
            bounds.push(match operator {
                "" | "=" | "==" | "===" => Bound::Within(low, high),
                "!=" => Bound::Without(low, high),
                ">=" => Bound::Within(low, END),
                ">" => Bound::Within(high, END),
                "<" => Bound::Within((0, 0, 0), low),
                "<=" => Bound::Within((0, 0, 0), high),
                "^" => Bound::Within(low, (number.major? + 1, 0, 0)),
                "~" => Bound::Within(low, Number { patch: None, ..number }.high()),
                // PEP 440: the last part may grow, those before it not.
                "~=" if number.patch.is_some() => Bound::Within(low, Number { patch: None, ..number }.high()),
                "~=" => Bound::Within(low, Number { minor: Some(number.minor?), patch: None, ..number }.next_major()?),
                _ => return None,
            });
            rest = after[end..].trim_start_matches([' ', ',', '\t']);
        }
        Some(bounds)
    }

    fn number(&mut self, text: &str) -> Option<Number> {
        let text = text.trim();
        let (digits, tail) =
            text.split_at(text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | 'x' | 'X' | '*'))).unwrap_or(text.len()));
        let tail = match tail.strip_prefix('t') {
            Some(rest) => {
                self.threaded = true;
                rest
            }
            None => tail,
        };
        let mark = tail.trim_start_matches('-');
        if !mark.is_empty() {
            if !["a", "b", "rc", "c", "alpha", "beta", "dev"].iter().any(|known| mark.starts_with(known)) {
                return None;
            }
            self.prereleases = true;
        }
        let mut number = Number::default();
        let mut open = false;
        for (at, part) in digits.split('.').enumerate() {
            let value = match part {
                "x" | "X" | "*" => {
                    open = true;
                    None
                }
                part if !open => Some(part.parse().ok()?),
                _ => return None,
            };
            *[&mut number.major, &mut number.minor, &mut number.patch].into_iter().nth(at)? = value;
        }
        Some(number)
    }
}

impl Bound {
    fn fits(self, version: &Version) -> Fit {
        let least = (version.major, version.minor, version.patch.unwrap_or(0));
        let most = (version.major, version.minor, version.patch.unwrap_or(u32::MAX - 1));
        let (low, high, turned) = match self {
            Bound::Within(low, high) => (low, high, false),
            Bound::Without(low, high) => (low, high, true),
        };
        let inside = low <= least && most < high;
        let outside = most < low || high <= least;
        match (inside, outside) {
            (true, _) => {
                if turned {
                    Fit::No
                } else {
                    Fit::Yes
                }
            }
            (_, true) => {
                if turned {
                    Fit::Yes
                } else {
                    Fit::No
                }
            }
            _ => Fit::Unknown,
        }
    }
}

/// A version as written: what is missing is open.
#[derive(Clone, Copy, Debug, Default)]
struct Number {
    major: Option<u32>,
    minor: Option<u32>,
    patch: Option<u32>,
}

impl Number {
    fn low(self) -> Triple {
        (self.major.unwrap_or(0), self.minor.unwrap_or(0), self.patch.unwrap_or(0))
    }

    /// The first version that is not covered any more.
    fn high(self) -> Triple {
        match (self.major, self.minor, self.patch) {
            (Some(major), Some(minor), Some(patch)) => (major, minor, patch.saturating_add(1)),
            (Some(major), Some(minor), None) => (major, minor.saturating_add(1), 0),
            (Some(major), None, _) => (major.saturating_add(1), 0, 0),
            (None, ..) => END,
        }
    }

    fn next_major(self) -> Option<Triple> {
        Some((self.major?.saturating_add(1), 0, 0))
    }
}

fn digits_and_dots(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len()))
}

/// The request that a version file makes: `.python-version`, `.tool-versions`, `Pipfile`, or the `requires-python` of a `pyproject.toml`.
///
/// # Errors
/// Why it makes none.
pub fn of_file(name: &str, content: &str) -> Result<String, String> {
    if name.ends_with("pyproject.toml") {
        let table: toml::Table = content.parse().map_err(|error: toml::de::Error| format!("{name} is no TOML: {}", error.message()))?;
        let at = |path: &[&str]| {
            let mut value = table.get(path[0])?;
            for key in &path[1..] {
                value = value.get(key)?;
            }
            value.as_str().map(str::to_owned)
        };
        return at(&["project", "requires-python"])
            .or_else(|| at(&["tool", "poetry", "dependencies", "python"]))
            .ok_or_else(|| format!("{name} has neither project.requires-python nor tool.poetry.dependencies.python"));
    }
    if name.ends_with("Pipfile") {
        let table: toml::Table = content.parse().map_err(|error: toml::de::Error| format!("{name} is no TOML: {}", error.message()))?;
        let requires = table.get("requires");
        return ["python_full_version", "python_version"]
            .iter()
            .find_map(|key| requires?.get(key)?.as_str().map(str::to_owned))
            .ok_or_else(|| format!("{name} has no python_version under [requires]"));
    }
    let mut lines = content.lines().map(|line| line.split('#').next().unwrap_or_default().trim()).filter(|line| !line.is_empty());
    if name.ends_with(".tool-versions") {
        return lines
            .find_map(|line| line.strip_prefix("python ")?.split_whitespace().next().map(str::to_owned))
            .ok_or_else(|| format!("{name} names no python"));
    }
    lines.next().map(|line| line.strip_prefix("cpython-").unwrap_or(line).to_owned()).ok_or_else(|| format!("{name} is empty"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn fits(request: &str, version: &str) -> Fit {
        Request::read(request, false).unwrap().fits(&Version::read(version).unwrap())
    }

    #[test]
    fn requests_mean_what_their_notation_says() {
        use Fit::{No, Unknown, Yes};
        let table = [
            ("3.11", "3.11.7", Yes),
            ("3.11", "3.11", Yes),
            ("3.1", "3.11", No),
            ("3.11.7", "3.11.7", Yes),
            ("3.11.7", "3.11.8", No),
            ("3.11.7", "3.11", Unknown),
            ("3.11.7", "3.12", No),
            ("3.x", "3.13.1", Yes),
            ("3", "3.13.1", Yes),
            ("x", "3.9", Yes),
            ("3.11.x", "3.11.2", Yes),
            (">=3.10 <3.13", "3.12.9", Yes),
            (">=3.10 <3.13", "3.13.0", No),
            (">=3.10,<3.13", "3.10", Yes),
            (">= 3.10, < 3.13", "3.9.19", No),
            (">=3.11.4", "3.11", Unknown),
            (">=3.11.4", "3.12", Yes),
            (">3.11", "3.11.9", No),
            ("<=3.11", "3.11.9", Yes),
            ("~3.11", "3.12.0", No),
            ("~3.11.4", "3.11.9", Yes),
            ("~=3.10", "3.13.0", Yes),
            ("~=3.10.2", "3.11.0", No),
            ("^3.10", "3.13", Yes),
            ("^3.10", "4.0", No),
            ("==3.12.*", "3.12.4", Yes),
            ("!=3.12.1,>=3.12", "3.12.1", No),
            ("!=3.12.1,>=3.12", "3.12", Unknown),
            ("3.9 - 3.11", "3.11.9", Yes),
            ("3.9 || 3.12", "3.12.1", Yes),
            ("3.9 || 3.12", "3.11.1", No),
            ("'3.12'", "3.12.1", Yes),
            ("3.14", "3.14.0a2", No),
            ("3.14-dev", "3.14.0a2", Yes),
            ("3.14.0-alpha.2", "3.14.0a2", Yes),
            ("3.13", "3.13t", No),
            ("3.13t", "3.13.1t", Yes),
            ("3.13t", "3.13.1", No),
        ];
        for (request, version, expected) in table {
            assert_eq!(fits(request, version), expected, "{request} {version}");
        }
        let threaded = Request::read("3.13", false).unwrap().free_threaded();
        assert_eq!(["3.13.1t", "3.13.1"].map(|version| threaded.fits(&Version::read(version).unwrap())), [Yes, No]);
        assert_eq!(Request::read("3.14", true).unwrap().fits(&Version::read("3.14.0rc1").unwrap()), Yes);
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for text in ["", "pypy3.10", "graalpy-24", "three", "3.11\n3.12", ">=", "3.11.7.1", "3.x.1", "3.11-foo"] {
            assert!(Request::read(text, false).is_err(), "{text:?}");
        }
    }

    #[test]
    fn versions_are_read_from_names() {
        for (text, expected) in [
            ("3.11.7", Some("3.11.7")),
            ("3.14.0a2", Some("3.14.0 (prerelease)")),
            ("3.11-config", None),
            ("3.13t-dev", Some("3.13 (prerelease) (free-threaded)")),
            ("myenv", None),
            ("3", None),
        ] {
            assert_eq!(Version::read(text).map(|version| version.to_string()).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn files_make_requests() {
        let project = "[project]\nrequires-python = '>=3.10'\n";
        let poetry = "[tool.poetry.dependencies]\npython = '^3.11'\n";
        let table = [
            ("a/pyproject.toml", project, ">=3.10"),
            ("pyproject.toml", poetry, "^3.11"),
            (".python-version", "# comment\n\n3.12.1\n3.11\n", "3.12.1"),
            (".python-version", "cpython-3.12\n", "3.12"),
            ("Pipfile", "[requires]\npython_version = \"3.11\"\n", "3.11"),
            ("app/Pipfile", "[requires]\npython_version = \"3\"\npython_full_version = \"3.11.4\"\n", "3.11.4"),
            (".tool-versions", "nodejs 20\npython 3.11.4 3.10\n", "3.11.4"),
        ];
        for (name, content, expected) in table {
            assert_eq!(of_file(name, content).as_deref(), Ok(expected), "{name}");
        }
        assert!(
            of_file("pyproject.toml", "[project]\n").is_err()
                && of_file("pyproject.toml", "[").is_err()
                && of_file("Pipfile", "[packages]\n").is_err()
                && of_file(".python-version", "#\n").is_err()
        );
    }
}
