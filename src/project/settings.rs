//! What the text of Django settings says: the database, and what it reads from the environment. The module is not imported.

use std::collections::BTreeSet;
use std::path::Path;

use crate::project::files::text;

/// The database of the settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Engine {
    /// A file, or memory.
    #[default]
    Sqlite,
    /// PostgreSQL, with PostGIS or without.
    Postgres,
    /// MySQL or MariaDB.
    Mysql,
    /// Something else.
    Other(String),
}

/// What was read.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Found {
    /// The database.
    pub(crate) engine: Engine,
    /// Variables that must be set, with values for a test.
    pub(crate) variables: Vec<(String, String)>,
}

/// How many files one settings module may be made of.
const MOST_FILES: usize = 20;

/// The settings module that `manage.py` names, or the configuration of the tests.
pub(crate) fn module(checkout: &Path, manage: Option<&str>) -> Option<String> {
    let mut texts: Vec<String> = Vec::new();
    let configured = ["pytest.ini", "pyproject.toml", "setup.cfg", "tox.ini", "conftest.py", "runtests.py", "tests/conftest.py"];
    texts.extend(configured.iter().filter_map(|path| text(&checkout.join(path))));
    texts.extend(manage.and_then(|folder| text(&checkout.join(folder).join("manage.py"))));
    texts.iter().find_map(|text| {
        let after = text.split("DJANGO_SETTINGS_MODULE").nth(1)?;
        let line = after.lines().find(|line| line.contains(|c: char| c.is_alphanumeric()))?;
        // A second text on the line is the default, as in `os.environ.get(NAME, DEFAULT)`.
        let name: String = line
            .trim_start_matches(|c: char| !(c.is_alphanumeric() || c == '_'))
            .chars()
            .take_while(|c| c.is_alphanumeric() || matches!(c, '_' | '.'))
            .collect();
        name.chars().next().is_some_and(|c| !c.is_ascii_digit()).then_some(name).filter(|name| !matches!(name.as_str(), "os" | "None"))
    })
}

/// Reads the settings below `folder` and what they import from beside themselves.
pub(crate) fn read(checkout: &Path, folder: &str, module: &str) -> Found {
    let mut source = String::new();
    let mut open = vec![module.to_owned()];
    let mut seen: BTreeSet<String> = BTreeSet::new();
    while let Some(module) = open.pop() {
        if seen.len() >= MOST_FILES || !seen.insert(module.clone()) {
            continue;
        }
        let path = module.replace('.', "/");
        let places =
            [format!("{folder}/{path}.py"), format!("{folder}/{path}/__init__.py"), format!("{path}.py"), format!("src/{path}.py")];
        let found = places.iter().find_map(|place| Some((place, text(&checkout.join(place.trim_start_matches('/')))?)));
        let Some((place, text)) = found else { continue };
        let package =
            if place.ends_with("__init__.py") { module.as_str() } else { module.rsplit_once('.').map_or("", |(package, _)| package) };
        for line in text.lines().map(str::trim).filter(|line| line.starts_with("from ") && line.contains(" import ")) {
            let name = line.trim_start_matches("from ").split(" import ").next().unwrap_or_default().trim();
            match name.strip_prefix('.') {
                Some(rest) if !rest.starts_with('.') => open.push(format!("{package}.{rest}").trim_matches('.').to_owned()),
                None if name.split('.').next() == module.split('.').next() => open.push(name.to_owned()),
                _ => {}
            }
        }
        source.push_str(&text);
        source.push('\n');
    }
    let code: String = source.lines().filter(|line| !line.trim_start().starts_with('#')).map(|line| format!("{line}\n")).collect();
    let variables = variables(&code);
    let by_url = variables.iter().any(|(name, _)| name == "DATABASE_URL") || code.contains("DATABASE_URL");
    let engine = if by_url { Engine::Sqlite } else { engine(&code) };
    Found { engine, variables }
}

fn engine(code: &str) -> Engine {
    // The settings that are read last stand first; a base that they replace comes after.
    let Some(at) = code.find("ENGINE") else { return Engine::Sqlite };
    let line = code[at..].lines().next().unwrap_or_default();
    let name = line.split(['"', '\'']).find(|part| part.contains("backends") || part.contains('.')).unwrap_or_default();
    match name.rsplit('.').next().unwrap_or_default() {
        "sqlite3" | "spatialite" | "" => Engine::Sqlite,
        "postgresql" | "postgis" | "postgresql_psycopg2" => Engine::Postgres,
        "mysql" => Engine::Mysql,
        _ => Engine::Other(name.to_owned()),
    }
}

/// Variables that are read without a default: `os.environ["X"]`, `env("X")`, `config("X")`.
fn variables(code: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for opening in [
        "os.environ[",
        "environ[",
        "os.getenv(",
        "os.environ.get(",
        "env(",
        "env.str(",
        "env.bool(",
        "env.db(",
        "env.list(",
        "config(",
        "env.db_url(",
    ] {
        for (at, _) in code.match_indices(opening) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '.') {
                continue;
            }
            let rest = code[at + opening.len()..].trim_start();
            let Some(quote) = rest.chars().next().filter(|c| matches!(c, '"' | '\'')) else { continue };
            let Some((name, after)) = rest[1..].split_once(quote) else { continue };
            let has_default = !after.trim_start().starts_with([')', ']']);
            let is_optional = matches!(opening, "os.getenv(" | "os.environ.get(") && name != "SECRET_KEY" && !name.ends_with("_SECRET_KEY");
            let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            let is_known = name.starts_with("GITHUB_") || matches!(name, "PATH" | "HOME" | "USER");
            if is_name && !is_known && !has_default && !is_optional && !found.iter().any(|(other, _)| other == name) {
                found.push((name.to_owned(), value_of(name).to_owned()));
            }
        }
    }
    // A project's own way to read its environment still names its secret key.
    for name in
        code.split(['"', '\'']).filter(|text| text.ends_with("_SECRET_KEY") && text.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
    {
        if !found.iter().any(|(other, _)| other == name) {
            found.push((name.to_owned(), value_of(name).to_owned()));
        }
    }
    if !found.iter().any(|(name, _)| name == "DATABASE_URL") && code.contains("DATABASE_URL") {
        found.push(("DATABASE_URL".to_owned(), value_of("DATABASE_URL").to_owned()));
    }
    found
}

/// A value for a test.
fn value_of(name: &str) -> &'static str {
    match name {
        "DATABASE_URL" => "sqlite:///test.sqlite3",
        name if name.contains("SECRET") || name.contains("KEY") => "for-tests-only-0123456789-abcdefghijklmnopqrstuvwxyz-ABCDEFGH",
        name if name.contains("DEBUG") => "True",
        name if name.contains("HOSTS") => "localhost,testserver",
        name if name.contains("REDIS") && name.contains("URL") => "redis://localhost:6379/0",
        name if name.contains("URL") => "http://localhost",
        name if name.contains("PORT") => "5432",
        name if name.contains("HOST") => "localhost",
        _ => "test",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project::tests::checkout;

    #[test]
    fn the_database_is_read_from_the_text_and_its_imports() {
        let postgres = "DATABASES = {'default': {\n  # 'ENGINE': 'django.db.backends.sqlite3',\n  'ENGINE': 'django.contrib.gis.db.backends.postgis'}}\n";
        for (files, engine) in [
            (vec![("s/settings.py", postgres)], Engine::Postgres),
            (
                vec![
                    ("s/settings/__init__.py", "from .base import *\n"),
                    ("s/settings/base.py", "DATABASES={'default':{\"ENGINE\": \"django.db.backends.mysql\"}}"),
                ],
                Engine::Mysql,
            ),
            (vec![("s/settings.py", "DATABASES = {'default': env.db('DATABASE_URL')}\n")], Engine::Sqlite),
            (vec![("s/settings.py", "DATABASES={'default':{'ENGINE': 'mssql.x'}}\n")], Engine::Other("mssql.x".into())),
            (vec![("other.py", "")], Engine::Sqlite),
        ] {
            assert_eq!(read(checkout(&files).path(), "", "s.settings").engine, engine, "{files:?}");
        }
    }

    #[test]
    fn variables_without_a_default_get_one() {
        let code = "SECRET_KEY = os.environ['SECRET_KEY']\nDEBUG = env.bool('DEBUG', default=False)\nA = os.environ.get('A')\nURL = env.db('DATABASE_URL')\nX = config('SITE_NAME')\n";
        let expected = [
            ("SECRET_KEY", "for-tests-only-0123456789-abcdefghijklmnopqrstuvwxyz-ABCDEFGH"),
            ("DATABASE_URL", "sqlite:///test.sqlite3"),
            ("SITE_NAME", "test"),
        ];
        assert_eq!(variables(code), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn the_module_is_the_one_of_the_tests_or_of_manage() {
        let manage = "os.environ.setdefault(\"DJANGO_SETTINGS_MODULE\", \"config.settings.local\")\n";
        for (files, module) in [
            (vec![("manage.py", manage)], "config.settings.local"),
            (
                vec![("manage.py", manage), ("pytest.ini", "[pytest]\nDJANGO_SETTINGS_MODULE = config.settings.test\n")],
                "config.settings.test",
            ),
            (vec![("tox.ini", "[testenv]\nsetenv =\n    DJANGO_SETTINGS_MODULE=tests.settings\n")], "tests.settings"),
        ] {
            assert_eq!(super::module(checkout(&files).path(), Some("")).as_deref(), Some(module), "{files:?}");
        }
    }
}
