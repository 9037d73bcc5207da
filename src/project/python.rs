//! Which version of Python a project wants.

use std::path::Path;

use crate::project::files::text;
use crate::project::tox::Candidate;

/// Minor versions that projects of today may want.
const MINORS: std::ops::RangeInclusive<u32> = 6..=14;

/// The version as `actions/setup-python` takes it, and what says so; `3.x` and nothing when nothing does. Of several that the project
/// supports it is the newest that is installed here, of which `installed` names the minor versions.
pub(crate) fn discover(checkout: &Path, declared: &str, environments: &[Candidate], installed: &[u32]) -> (String, String) {
    let read = |path: &str| text(&checkout.join(path)).unwrap_or_default();
    let plain = |text: &str| {
        let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#')).unwrap_or_default();
        let version: String = line.trim_start_matches("python-").chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
        let minor: Vec<&str> = version.split('.').take(2).collect();
        (minor.len() == 2 && minor[0] == "3" && !minor[1].is_empty()).then(|| minor.join("."))
    };
    for file in [".python-version", "runtime.txt"] {
        if let Some(version) = plain(&read(file)) {
            return (version, file.to_owned());
        }
    }
    let pyproject: toml::Table = read("pyproject.toml").parse().unwrap_or_default();
    let pipfile: toml::Table = read("Pipfile").parse().unwrap_or_default();
    let at = |table: &toml::Table, path: &[&str]| -> Option<String> {
        let (last, folders) = path.split_last()?;
        folders.iter().try_fold(table, |table, key| table.get(*key)?.as_table())?.get(*last)?.as_str().map(str::to_owned)
    };
    if let Some(version) = at(&pipfile, &["requires", "python_version"]).as_deref().and_then(plain) {
        return (version, "Pipfile".to_owned());
    }
    let wanted = at(&pyproject, &["project", "requires-python"]).or_else(|| at(&pyproject, &["tool", "poetry", "dependencies", "python"]));
    let bounds = wanted.unwrap_or_default();
    let mut minors: Vec<u32> = MINORS.filter(|minor| bounds.split(',').all(|clause| admits(clause.trim(), *minor))).collect();
    let bounded = minors.len() == 1 || minors.last().is_some_and(|newest| *newest != *MINORS.end());
    let mut source = if bounded { "pyproject.toml".to_owned() } else { String::new() };
    let mut narrow = |to: Vec<u32>, from: &str| {
        let both: Vec<u32> = minors.iter().copied().filter(|minor| to.contains(minor)).collect();
        // A list that narrows nothing has been written for the newest all the same.
        if !both.is_empty() && (both != minors || source.is_empty()) {
            minors = both;
            from.clone_into(&mut source);
        }
    };
    narrow(environments.iter().filter_map(|one| one.minor).collect(), "tox.ini");
    narrow(classified(declared), "the classifiers of the package");
    if let Some((django, file)) = pinned_django(checkout) {
        let newest = newest_for(django);
        if newest < *MINORS.end() {
            narrow(MINORS.filter(|minor| *minor <= newest).collect(), &format!("the version of Django in {file}"));
        }
    }
    if source.is_empty() {
        return ("3.x".to_owned(), String::new());
    }
    let newest = minors.iter().rev().find(|minor| installed.contains(minor)).or(minors.last());
    newest.map_or(("3.x".to_owned(), String::new()), |newest| (format!("3.{newest}"), source))
}

/// The versions that the trove classifiers name.
fn classified(declared: &str) -> Vec<u32> {
    let names = declared.split("Programming Language :: Python :: 3.").skip(1);
    names.filter_map(|rest| rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()).collect()
}

/// The version of Django that a file of requirements or a lock pins, and the file.
fn pinned_django(checkout: &Path) -> Option<((u32, u32), &'static str)> {
    let version = |text: &str| {
        let mut numbers = text
            .trim_start_matches(['=', '~', ' ', '"', '\''])
            .split('.')
            .map(|part| part.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u32>().ok());
        Some((numbers.next()??, numbers.next().flatten().unwrap_or(0)))
    };
    for file in ["uv.lock", "poetry.lock", "pdm.lock"] {
        let lock = text(&checkout.join(file)).unwrap_or_default();
        if let Some(found) = lock.split("name = \"django\"\nversion = ").nth(1).and_then(version) {
            return Some((found, file));
        }
    }
    let lock = text(&checkout.join("Pipfile.lock")).unwrap_or_default();
    if let Some((_, rest)) = lock.split_once("\"django\": {")
        && let Some((_, rest)) = rest.split_once("\"version\": \"")
        && let Some(found) = version(rest)
    {
        return Some((found, "Pipfile.lock"));
    }
    for file in ["requirements.txt", "requirements/base.txt", "requirements/requirements.txt"] {
        let requirements = text(&checkout.join(file)).unwrap_or_default();
        let pin = requirements.lines().find_map(|line| {
            let line = line.trim().to_lowercase();
            let rest = line.strip_prefix("django")?.trim_start();
            let exact = rest.strip_prefix("==").or_else(|| rest.strip_prefix("~="));
            exact.and_then(version)
        });
        if let Some(found) = pin {
            return Some((found, file));
        }
    }
    None
}

/// The newest Python, as a minor version, for which a version of Django was made.
fn newest_for(django: (u32, u32)) -> u32 {
    match django {
        (..=2, _) => 9,
        (3, _) | (4, 0) => 10,
        (4, 1) => 11,
        (4, 2) | (5, 0) => 12,
        (5, 1) => 13,
        _ => 14,
    }
}

fn admits(clause: &str, minor: u32) -> bool {
    let digits = clause.trim_start_matches(|c: char| !c.is_ascii_digit());
    let operator = clause[..clause.len() - digits.len()].trim();
    let parts: Vec<&str> = digits.trim_end_matches(".*").split('.').collect();
    let number = |at: usize| parts.get(at).and_then(|part| part.trim().parse::<u32>().ok());
    let (Some(major), wanted) = (number(0), number(1)) else { return true };
    if major != 3 {
        // `<4`, `>=2.7`: every version three.
        return !matches!(operator, "==" | "~=");
    }
    match (operator, wanted) {
        ("<", Some(wanted)) if number(2).is_some_and(|patch| patch > 0) => minor <= wanted,
        ("<", Some(wanted)) => minor < wanted,
        ("<=", Some(wanted)) => minor <= wanted,
        (">", Some(wanted)) => minor > wanted || (minor == wanted && number(2).is_some()),
        (">=", Some(wanted)) => minor >= wanted,
        ("==" | "", Some(wanted)) => minor == wanted,
        ("~=", Some(wanted)) if parts.len() > 2 => minor == wanted,
        ("~=" | "^", Some(wanted)) => minor >= wanted,
        ("~", Some(wanted)) => minor == wanted,
        ("!=", Some(wanted)) => parts.len() > 2 || minor != wanted,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project::tests::checkout;

    #[test]
    fn the_version_is_the_one_that_the_project_names() {
        for (file, text, version) in [
            (".python-version", "3.11.4\n", "3.11"),
            ("runtime.txt", "python-3.10.13\n", "3.10"),
            ("Pipfile", "[requires]\npython_version = \"3.9\"\n", "3.9"),
            ("pyproject.toml", "[project]\nrequires-python = \">=3.8\"\n", "3.x"),
            ("pyproject.toml", "[project]\nrequires-python = \">=3.8,<3.12\"\n", "3.11"),
            ("pyproject.toml", "[project]\nrequires-python = \"==3.11.*\"\n", "3.11"),
            ("pyproject.toml", "[tool.poetry.dependencies]\npython = \"^3.10\"\n", "3.x"),
            ("pyproject.toml", "[tool.poetry.dependencies]\npython = \"~3.10\"\n", "3.10"),
            ("pyproject.toml", "[tool.poetry.dependencies]\npython = \">=3.9,<4.0\"\n", "3.x"),
            ("tox.ini", "[tox]\nenvlist =\n    py{39,310,311}-django{32,42}\n    docs\n[testenv]\ncommands = pytest\n", "3.11"),
            (
                "pyproject.toml",
                "[project]\nclassifiers = [\"Programming Language :: Python :: 3.12\", \"Programming Language :: Python :: 3.14\"]\n",
                "3.12",
            ),
            ("pyproject.toml", "[project]\nrequires-python = \">=3.14,<3.15\"\n", "3.14"),
            ("requirements.txt", "Django==3.2.25\n", "3.10"),
            ("requirements.txt", "django~=4.2.1 # old\n", "3.12"),
            ("requirements.txt", "Django==5.2\n", "3.x"),
            ("uv.lock", "[[package]]\nname = \"django\"\nversion = \"4.1.2\"\n", "3.11"),
            ("Pipfile.lock", "{\"default\": {\"django\": {\"hashes\": [], \"version\": \"==4.2.3\"}}}", "3.12"),
            ("README", "", "3.x"),
        ] {
            let dir = checkout(&[(file, text)]);
            let environments = crate::project::tox::candidates(dir.path());
            assert_eq!(discover(dir.path(), text, &environments, &[9, 10, 11, 12, 13]).0, version, "{text}");
        }
    }
}
