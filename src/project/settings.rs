//! What the text of Django settings says: the database, and what it reads from the environment. The module is not imported.

use std::collections::BTreeSet;
use std::path::Path;

use crate::project::database::{self, Engine};
use crate::project::files::text;

/// What was read.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Found {
    /// The database.
    pub(crate) engine: Engine,
    /// Variables that must be set, with values for a test.
    pub(crate) variables: Vec<(String, String)>,
    /// Whether static files are looked up in a manifest, which has to be made first.
    pub(crate) manifest: bool,
}

/// How many files one settings module may be made of.
const MOST_FILES: usize = 20;

/// A settings module, and where it is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Module {
    /// Its dotted name.
    pub(crate) name: String,
    /// The folder that must be in Python's search path, relative to the checkout; empty for its top.
    pub(crate) folder: String,
    /// Whether `manage.py` takes it by itself.
    pub(crate) is_usual: bool,
}

/// Names of modules beside others that hold the settings of tests.
const FOR_TESTS: [&str; 5] = ["test", "tests", "testing", "test_settings", "ci"];

/// Where packages that have no other word for it keep the settings of their tests.
const USUAL: [&str; 9] = [
    "tests.settings",
    "tests.test_settings",
    "test_settings",
    "tests.testapp.settings",
    "testapp.settings",
    "test_project.settings",
    "tests.test_app.settings",
    "tests.django_settings",
    "testproject.settings",
];

/// The settings module of the tests: what their configuration names, else a module for tests beside that of `manage.py`, else that.
pub(crate) fn module(checkout: &Path, manage: Option<&str>) -> Option<Module> {
    let mut texts: Vec<String> = Vec::new();
    let configured = [
        "pytest.ini",
        "pyproject.toml",
        "setup.cfg",
        "tox.ini",
        "conftest.py",
        "runtests.py",
        "tests/conftest.py",
        "tests/runtests.py",
        "Makefile",
    ];
    texts.extend(configured.iter().filter_map(|path| text(&checkout.join(path))));
    let places = |name: &str| place(checkout, manage.unwrap_or_default(), name);
    let found = |name: String, is_usual: bool| places(&name).map(|folder| Module { name, folder, is_usual });
    if let Some(module) = texts.iter().flat_map(|text| named(text)).find_map(|name| found(name, false)) {
        return Some(module);
    }
    let own = manage.and_then(|folder| text(&checkout.join(folder).join("manage.py")));
    let own = own.iter().flat_map(|text| named(text)).find_map(|name| found(name, true));
    if let Some(module) = own {
        let beside = module.name.rsplit_once('.').filter(|(package, _)| package.ends_with("settings") || package.contains('.'));
        let for_tests = beside.and_then(|(package, _)| FOR_TESTS.iter().find_map(|word| found(format!("{package}.{word}"), false)));
        return Some(for_tests.unwrap_or(module));
    }
    USUAL.iter().find_map(|name| found((*name).to_owned(), false))
}

/// The modules that a text gives to `DJANGO_SETTINGS_MODULE`, or to `--settings`.
fn named(text: &str) -> Vec<String> {
    let after = text.split("DJANGO_SETTINGS_MODULE").skip(1).chain(text.split("--settings").skip(1)).chain(text.split("--ds").skip(1));
    let names = after.filter_map(|after| {
        let line = after.lines().find(|line| line.contains(|c: char| c.is_alphanumeric()))?;
        // A second text on the line is the default, as in `os.environ.get(NAME, DEFAULT)`.
        let name: String = line
            .trim_start_matches(|c: char| !(c.is_alphanumeric() || c == '_'))
            .chars()
            .take_while(|c| c.is_alphanumeric() || matches!(c, '_' | '.'))
            .collect();
        name.chars().next().is_some_and(|c| !c.is_ascii_digit()).then_some(name)
    });
    names.collect()
}

/// The folder, relative to the checkout, below which a module lies.
fn place(checkout: &Path, manage: &str, module: &str) -> Option<String> {
    let path = module.replace('.', "/");
    let folders = [manage, "", "src", "tests", "test", "testing"];
    let there = |folder: &&str| {
        let base = checkout.join(folder).join(&path);
        base.with_extension("py").is_file() || base.join("__init__.py").is_file()
    };
    folders.iter().find(|folder| !module.is_empty() && there(folder)).map(|folder| (*folder).to_owned())
}

/// Reads the settings below `folder` and what they import from beside themselves.
pub(crate) fn read(checkout: &Path, folder: &str, module: &str) -> Found {
    let mut sources: Vec<String> = Vec::new();
    let mut open = vec![module.to_owned()];
    let mut seen: BTreeSet<String> = BTreeSet::new();
    while let Some(module) = open.pop() {
        if seen.len() >= MOST_FILES || !seen.insert(module.clone()) {
            continue;
        }
        let path = module.replace('.', "/");
        let places = [format!("{folder}/{path}.py"), format!("{folder}/{path}/__init__.py")];
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
        sources.push(text.lines().filter(|line| !line.trim_start().starts_with('#')).map(|line| format!("{line}\n")).collect());
    }
    let engine = database::engine(&sources);
    let mut variables = variables(&sources.join("\n"));
    if let Engine::Postgres(server) | Engine::Postgis(server) | Engine::Mysql(server) = &engine {
        let scheme = if matches!(engine, Engine::Postgis(_)) { "postgis" } else { "postgres" };
        let url = ("DATABASE_URL".to_owned(), server.url(scheme));
        for (name, value) in server.variables.iter().chain([&url]) {
            match variables.iter_mut().find(|(known, _)| known == name) {
                Some((_, known)) => known.clone_from(value),
                None if name != "DATABASE_URL" => variables.push((name.clone(), value.clone())),
                None => {}
            }
        }
    }
    let says = |word: &str| sources.iter().any(|text| text.contains(word));
    let manifest = says("ManifestStaticFilesStorage") && says("STATIC_ROOT");
    Found { engine, variables, manifest }
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
        name if name.ends_with("ENGINE") => "django.db.backends.sqlite3",
        name if name.contains("CACHE") && name.contains("URL") => "locmemcache://",
        name if name.contains("EMAIL") && name.contains("URL") => "consolemail://",
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
        let postgis = "DATABASES = {'default': {\n  # 'ENGINE': 'django.db.backends.sqlite3',\n  'ENGINE': 'django.contrib.gis.db.backends.postgis'}}\n";
        let found = |files: &[(&str, &str)]| read(checkout(files).path(), "", "s.settings");
        assert!(matches!(found(&[("s/settings.py", postgis)]).engine, Engine::Postgis(_)));
        let mysql = "DATABASES={'default':{\"ENGINE\": \"django.db.backends.mysql\", 'PORT': os.environ['DB_PORT']}}";
        let split = found(&[("s/settings/__init__.py", "from .base import *\n"), ("s/settings/base.py", mysql)]);
        assert!(matches!(split.engine, Engine::Mysql(_)));
        assert_eq!(split.variables, [("DB_PORT".to_owned(), "3306".to_owned())]);
        let by_url = found(&[("s/settings.py", "DATABASES = {'default': env.db('DATABASE_URL')}\nX = 'django.contrib.postgres'\n")]);
        assert_eq!(by_url.variables, [("DATABASE_URL".to_owned(), "postgres://test:test@127.0.0.1:5432/test".to_owned())]);
        assert_eq!(found(&[("other.py", "")]).engine, Engine::Sqlite);
        let storage = "STATIC_ROOT = BASE / 'static'\nSTORAGES = {'staticfiles': {'BACKEND': 'whitenoise.storage.CompressedManifestStaticFilesStorage'}}\n";
        assert!(found(&[("s/settings.py", storage)]).manifest && !found(&[("s/settings.py", "STATIC_ROOT = 'x'\n")]).manifest);
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
        let local = ("config/settings/local.py", "");
        for (files, module) in [
            (vec![("manage.py", manage), local], Some("config.settings.local")),
            (vec![("manage.py", manage), local, ("config/settings/test.py", "")], Some("config.settings.test")),
            (
                vec![
                    ("manage.py", manage),
                    local,
                    ("config/settings/ci.py", ""),
                    ("pytest.ini", "[pytest]\nDJANGO_SETTINGS_MODULE = config.settings.ci\n"),
                ],
                Some("config.settings.ci"),
            ),
            (
                vec![("tox.ini", "[testenv]\nsetenv =\n    DJANGO_SETTINGS_MODULE=tests.settings\n"), ("tests/settings.py", "")],
                Some("tests.settings"),
            ),
            (vec![("conftest.py", "f\"DJANGO_SETTINGS_MODULE={x}\"\n")], None),
            (vec![("tests/test_settings.py", "")], Some("tests.test_settings")),
        ] {
            assert_eq!(super::module(checkout(&files).path(), Some("")).map(|module| module.name).as_deref(), module, "{files:?}");
        }
        let below = checkout(&[("setup.py", ""), ("test/test_project/settings.py", "")]);
        assert_eq!(module(below.path(), None).map(|module| module.folder).as_deref(), Some("test"));
    }
}
