//! The environments of `tox.ini` in which a project's own tests run: one is chosen, and tox does the rest.

use std::path::Path;

use crate::project::files::text;

/// Parts of an environment's name that speak of a database server, or of what is not released.
const ELSEWHERE: [&str; 24] = [
    "postgres",
    "postgresql",
    "psycopg",
    "psycopg2",
    "psycopg3",
    "postgis",
    "postgis3",
    "pgsql",
    "mysql",
    "mariadb",
    "mssql",
    "oracle",
    "cockroachdb",
    "main",
    "master",
    "djmain",
    "djmaster",
    "djangomain",
    "djangomaster",
    "latest",
    "dev",
    "mongo",
    "redis",
    "selenium",
];

/// Parts that speak of something other than tests.
const NO_TESTS: [&str; 14] = [
    "docs",
    "lint",
    "flake8",
    "mypy",
    "isort",
    "black",
    "ruff",
    "checkmigrations",
    "migrations",
    "packaging",
    "warnings",
    "build",
    "typing",
    "coverage",
];

/// Names of environments that could run the tests, without a version of Python.
const PLAIN: [&str; 5] = ["test", "tests", "unit", "py", "py3"];

/// An environment of tox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Its name.
    pub(super) name: String,
    /// The minor version of Python that its name says.
    pub(super) minor: Option<u32>,
    django: (u32, u32),
}

/// The environments that could run the tests here; empty without a usable `tox.ini`.
pub(super) fn candidates(folder: &Path) -> Vec<Candidate> {
    let read = |path: &str| text(&folder.join(path)).unwrap_or_default();
    let pyproject: toml::Table = read("pyproject.toml").parse().unwrap_or_default();
    let tool = pyproject.get("tool").and_then(|tool| tool.get("tox"));
    let legacy = tool.and_then(|tox| tox.get("legacy_tox_ini")).and_then(toml::Value::as_str).unwrap_or_default();
    let ini = Some(read("tox.ini")).filter(|ini| ini.contains("[tox]")).unwrap_or_else(|| legacy.to_owned());
    let list = value(&ini, "tox", "envlist").or_else(|| value(&ini, "tox", "env_list")).unwrap_or_default();
    let runs = value(&ini, "testenv", "commands").is_some_and(|commands| !commands.trim().is_empty());
    if !runs {
        return Vec::new();
    }
    let deps = value(&ini, "testenv", "deps").unwrap_or_default();
    let mut names: Vec<String> = Vec::new();
    for name in split(&list).iter().flat_map(|item| expand(item)) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.into_iter().filter_map(|name| candidate(&name)).filter(|one| files_are_there(folder, &deps, &one.name)).collect()
}

/// The best of the candidates for a version of Python: the newest Django; of several the one with the shortest name that says so first.
pub(super) fn best(candidates: &[Candidate], minor: Option<u32>) -> Option<String> {
    let fitting = candidates.iter().filter(|one| one.minor.is_none() || one.minor == minor);
    let prefers = |name: &str| name.split('-').any(|part| matches!(part, "sqlite" | "sqlite3" | "pytest" | "tests" | "test"));
    let mut best: Option<&Candidate> = None;
    for one in fitting {
        let rank = |one: &Candidate| (one.minor.is_some(), one.django, prefers(&one.name));
        if best.is_none_or(|best| rank(one) > rank(best)) {
            best = Some(one);
        }
    }
    best.map(|one| one.name.clone())
}

fn candidate(name: &str) -> Option<Candidate> {
    let parts: Vec<&str> = name.split('-').collect();
    let searches = |part: &str| part.strip_prefix("es").is_some_and(|version| version.starts_with(|c: char| c.is_ascii_digit()));
    // A build of Python without its lock is one of its own.
    let unlocked = |part: &str| part.starts_with("py3") && part.ends_with('t');
    if parts.iter().any(|part| ELSEWHERE.contains(part) || NO_TESTS.contains(part) || searches(part) || unlocked(part)) {
        return None;
    }
    let minor = parts.iter().find_map(|part| {
        let rest = part.strip_prefix("py").unwrap_or(part);
        rest.strip_prefix("3.").or_else(|| part.strip_prefix("py3"))?.parse().ok()
    });
    let django = parts.iter().filter_map(|part| django(part)).max().unwrap_or_default();
    (minor.is_some() || django != (0, 0) || PLAIN.contains(&name)).then(|| Candidate { name: name.to_owned(), minor, django })
}

/// The version of Django that a part says: `django52`, `dj5.2`, `5.2`, `django-5.2`.
fn django(part: &str) -> Option<(u32, u32)> {
    let digits = part.trim_start_matches("django").trim_start_matches("dj");
    let plain = digits.len() == part.len();
    let (major, minor) = match digits.split_once('.') {
        Some((major, minor)) => (major, minor.trim_end_matches(".x").trim_end_matches(".X").trim_end_matches(".*")),
        None if !plain && digits.len() >= 2 => digits.split_at(digits.len() - 1),
        None if !plain => (digits, "0"),
        None => return None,
    };
    let version = (major.parse().ok()?, minor.parse().unwrap_or(0));
    (version.0 > 3 || !plain || version.0 == 2).then_some(version)
}

/// Whether the files of requirements are there that an environment installs.
fn files_are_there(folder: &Path, deps: &str, name: &str) -> bool {
    let parts: Vec<&str> = name.split('-').collect();
    deps.lines().map(str::trim).all(|line| {
        let (factors, rest) = match line.split_once(": ") {
            Some((factors, rest)) if !factors.contains(' ') => (Some(factors), rest),
            _ => (None, line),
        };
        let meant = factors.is_none_or(|factors| factors.split([',', '-']).any(|factor| parts.contains(&factor)));
        let file = rest.trim().strip_prefix("-r").map(|file| file.trim().trim_start_matches("{toxinidir}/"));
        !meant || file.is_none_or(|file| file.contains('{') || folder.join(file).is_file())
    })
}

/// The value of a key of a section, continued lines with it.
fn value(ini: &str, section: &str, key: &str) -> Option<String> {
    let mut here = false;
    let mut found: Option<String> = None;
    for line in ini.lines().filter(|line| !line.trim_start().starts_with(['#', ';'])) {
        if line.starts_with('[') {
            here = line.trim() == format!("[{section}]");
        } else if here && line.starts_with([' ', '\t']) {
            if let Some(found) = &mut found {
                found.push('\n');
                found.push_str(line.trim());
            }
        } else if here && !line.trim().is_empty() {
            if found.is_some() {
                return found;
            }
            found = line.split_once('=').filter(|(name, _)| name.trim() == key).map(|(_, rest)| rest.trim().to_owned());
        }
    }
    found
}

/// Splits at commas and new lines, but not within braces.
fn split(list: &str) -> Vec<String> {
    let (mut items, mut depth) = (vec![String::new()], 0_u32);
    for c in list.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        match (c, items.last_mut()) {
            (',' | '\n', _) if depth == 0 => items.push(String::new()),
            (c, Some(item)) => item.push(c),
            _ => {}
        }
    }
    items.iter().map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect()
}

/// The most names that a list may stand for.
const MOST: usize = 2000;

/// `py{310,311}-{a,b}`, and ranges such as `py3{10-14}`.
fn expand(item: &str) -> Vec<String> {
    let Some((before, rest)) = item.split_once('{') else { return vec![item.to_owned()] };
    let Some((inside, after)) = rest.split_once('}') else { return Vec::new() };
    let mut words: Vec<String> = Vec::new();
    for word in inside.split(',').map(str::trim) {
        let range = word.split_once('-').and_then(|(from, to)| Some((from.parse::<u32>().ok()?, to.parse::<u32>().ok()?)));
        match range {
            Some((from, to)) if from <= to && to - from < 100 => words.extend((from..=to).map(|number| number.to_string())),
            _ => words.push(word.to_owned()),
        }
    }
    let mut names = Vec::new();
    for tail in expand(after) {
        for word in &words {
            if names.len() < MOST {
                names.push(format!("{before}{word}{tail}"));
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project::tests::checkout;

    #[test]
    fn the_newest_environment_that_needs_no_server_is_chosen() {
        let table = [
            ("py{310,311}-dj{42,52}, docs, lint", Some(11), Some("py311-dj52")),
            ("{py311,py312}-django52\n    {py312}-django60\n    {py312}-latest,isort", Some(12), Some("py312-django60")),
            ("py3{10-14}-dj52-{sqlite3,postgres}, py3{12-14}-dj{60,main}-{sqlite3,postgres}", Some(13), Some("py313-dj60-sqlite3")),
            ("py311-{4.2,5.1},\n    py312-{4.2,6.0,main}", Some(12), Some("py312-6.0")),
            ("{py310,py311}-4.2.X\n    {py310,py311}-5.1.X", Some(11), Some("py311-5.1.X")),
            ("py{310}-dj{42}-{unittest,pytest,checkmigrations}", Some(10), Some("py310-dj42-pytest")),
            ("dj52, dj60, djmain, ruff", Some(12), Some("dj60")),
            ("py39-django32", Some(12), None),
            ("docs, lint", Some(12), None),
        ];
        for (list, minor, expected) in table {
            let ini = format!(
                "[tox]\nisolated_build = true\nenvlist =\n    {list}\n\n[testenv]\ndeps =\n    x\n    docs: -r none.txt\ncommands = pytest\n"
            );
            let found = candidates(checkout(&[("tox.ini", &ini)]).path());
            assert_eq!(best(&found, minor).as_deref(), expected, "{list}: {found:?}");
        }
    }

    #[test]
    fn an_environment_whose_files_are_missing_is_none() {
        for (deps, there) in [
            ("-rreq.txt", true),
            ("-r{toxinidir}/req.txt", true),
            ("-r gone.txt", false),
            ("dj42: -r gone.txt", true),
            ("dj52: -r gone.txt", false),
        ] {
            let ini = format!("[tox]\nenvlist = py312-dj52\n[testenv]\ndeps =\n    {deps}\ncommands =\n    pytest\n");
            let dir = checkout(&[("tox.ini", &ini), ("req.txt", "")]);
            assert_eq!(!candidates(dir.path()).is_empty(), there, "{deps}");
        }
        assert!(candidates(checkout(&[("tox.ini", "[tox]\nenvlist = py312\n[testenv:lint]\ncommands = x\n")]).path()).is_empty());
    }
}
