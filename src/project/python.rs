//! Which version of Python a project wants.

use std::path::Path;

use crate::project::files::text;

/// Minor versions that projects of today may want.
const MINORS: std::ops::RangeInclusive<u32> = 6..=14;

/// The version as `actions/setup-python` takes it, and the file that says so; `3.x` and nothing when none does.
pub(crate) fn discover(checkout: &Path) -> (String, String) {
    let read = |path: &str| text(&checkout.join(path)).unwrap_or_default();
    let plain = |text: &str| {
        let version: String = text.trim().trim_start_matches("python-").chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
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
    if let Some(newest) = wanted.as_deref().and_then(newest) {
        return (newest, "pyproject.toml".to_owned());
    }
    if let Some(version) = newest_of_tox(&read("tox.ini")) {
        return (version, "tox.ini".to_owned());
    }
    ("3.x".to_owned(), String::new())
}

/// The newest version that a bounded specifier admits; `None` when it has no upper bound, as then any new one will do.
fn newest(specifier: &str) -> Option<String> {
    let admitted = |minor: &u32| specifier.split(',').all(|clause| admits(clause.trim(), *minor));
    let versions: Vec<u32> = MINORS.filter(admitted).collect();
    let newest = versions.last()?;
    (newest != MINORS.end()).then(|| format!("3.{newest}"))
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

/// The newest of the environments, `py311` or `py{310,311}`.
fn newest_of_tox(text: &str) -> Option<String> {
    let list = text.split("envlist").nth(1).or_else(|| text.split("env_list").nth(1))?;
    let list = list.split("\n[").next().unwrap_or_default();
    let numbers =
        list.split(|c: char| !c.is_ascii_alphanumeric()).filter_map(|word| word.strip_prefix("py").unwrap_or(word).strip_prefix('3'));
    numbers.filter_map(|minor| minor.parse::<u32>().ok()).filter(|minor| MINORS.contains(minor)).max().map(|minor| format!("3.{minor}"))
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
            ("tox.ini", "[tox]\nenvlist =\n    py{39,310,311}-django{32,42}\n    docs\n[testenv]\n", "3.11"),
            ("README", "", "3.x"),
        ] {
            assert_eq!(discover(checkout(&[(file, text)]).path()).0, version, "{text}");
        }
    }
}
