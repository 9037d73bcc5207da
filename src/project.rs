//! What a checkout says of itself: where Django stands, how its packages are installed and its tests run. Files are read, and
//! nothing of the project is imported or executed.

mod database;
mod files;
mod packages;
mod python;
mod settings;
mod tox;

use std::path::{Path, PathBuf};

use crate::project::files::text;
pub(crate) use database::{Engine, Server};
pub(crate) use packages::Packages;

/// How deep `manage.py` is looked for.
const DEEPEST: usize = 3;

/// A Django project, or a package for Django.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Project {
    /// The folder in which packages are declared, relative to the checkout; empty for its top. All else is relative to it.
    pub(crate) root: String,
    /// The directory of `manage.py`, empty for the root itself; `None` without one.
    pub(crate) manage: Option<String>,
    /// The settings module that the environment must name.
    pub(crate) settings: Option<String>,
    /// The folder that must be in Python's search path for it.
    pub(crate) search: Option<String>,
    /// How packages are installed.
    pub(crate) packages: Packages,
    /// The version of Python, as `actions/setup-python` takes it.
    pub(crate) python: String,
    /// What says so; empty when it is a default.
    pub(crate) python_from: String,
    /// The database.
    pub(crate) engine: Engine,
    /// Variables of the environment that the settings cannot do without, with values for a test.
    pub(crate) variables: Vec<(String, String)>,
    /// Whether static files have to be collected before the tests.
    pub(crate) collects: bool,
    /// How tests are run.
    pub(crate) tests: Tests,
}

/// What runs the tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tests {
    /// `pytest`.
    Pytest,
    /// `manage.py test`.
    Manage,
    /// A script of the project's own, such as `runtests.py`.
    Script(String),
    /// An environment of tox.
    Tox(String),
    /// There are none: the project is checked.
    Absent,
}

/// Looks at a checkout; `None` when it has nothing of Django. `installed` are the minor versions of Python 3 that this machine has.
pub(crate) fn discover(checkout: &Path, installed: &[u32]) -> Option<Project> {
    let found = manage(checkout);
    let root = found.as_deref().map_or_else(String::new, |folder| root(checkout, folder));
    let manage = found.map(|folder| folder.strip_prefix(&root).unwrap_or(&folder).trim_start_matches('/').to_owned());
    let checkout = &checkout.join(&root);
    let read = |path: &str| text(&checkout.join(path)).unwrap_or_default();
    let mut packages = packages::discover(checkout);
    // A site is started from where it lies; only a package must be installed itself.
    if let Packages::Pip { files, itself, groups, .. } = &mut packages
        && manage.as_deref() == Some("")
        && !(files.is_empty() && groups.is_empty())
        && itself.as_ref().is_some_and(Vec::is_empty)
        && !read("pyproject.toml").contains("dependencies = [")
    {
        *itself = None;
    }
    let declared = packages.declared(checkout);
    let is_django = manage.is_some() || names_package(&declared, "django");
    if !is_django {
        return None;
    }
    let script = ["runtests.py", "tests/runtests.py", "run_tests.py", "test_project/runtests.py"]
        .into_iter()
        .find(|path| checkout.join(path).is_file());
    let uses_pytest = ["pytest", "pytest-django", "pytest-cov"].iter().any(|name| names_package(&declared, name))
        || checkout.join("pytest.ini").is_file()
        || read("pyproject.toml").contains("[tool.pytest")
        || read("setup.cfg").contains("[tool:pytest]")
        || read("tox.ini").contains("[pytest]")
        || checkout.join("conftest.py").is_file();
    let is_locked = !matches!(packages, Packages::Pip { .. });
    let environments = if is_locked { Vec::new() } else { tox::candidates(checkout) };
    let (python, python_from) = python::discover(checkout, &declared, &environments, installed);
    let minor = python.strip_prefix("3.").and_then(|minor| minor.parse().ok());
    let tests = match (tox::best(&environments, minor), uses_pytest, script, &manage) {
        (_, _, None, Some(_)) if !has_tests(checkout) => Tests::Absent,
        (Some(environment), ..) => Tests::Tox(environment),
        (_, true, ..) => Tests::Pytest,
        (_, false, _, Some(_)) => Tests::Manage,
        (_, false, Some(script), None) => Tests::Script(script.to_owned()),
        (_, false, None, None) => Tests::Pytest,
    };
    let module = settings::module(checkout, manage.as_deref());
    let found = module.as_ref().map(|module| settings::read(checkout, &module.folder, &module.name)).unwrap_or_default();
    let by_manage = matches!(tests, Tests::Manage | Tests::Absent);
    let must_be_named = module.filter(|module| !(matches!(tests, Tests::Tox(_)) || by_manage && module.is_usual));
    let beside_manage = |folder: &String| by_manage && manage.as_ref() == Some(folder);
    let search = must_be_named.as_ref().map(|module| module.folder.clone()).filter(|folder| !folder.is_empty() && !beside_manage(folder));
    let collects = found.manifest && manage.is_some() && matches!(tests, Tests::Manage | Tests::Pytest);
    // tox hands on only what its configuration names, and that has what it needs.
    let (engine, variables) = if matches!(tests, Tests::Tox(_)) { Default::default() } else { (found.engine, found.variables) };
    let settings = must_be_named.map(|module| module.name);
    Some(Project { root, manage, settings, search, packages, python, python_from, engine, variables, collects, tests })
}

/// The folder that declares the packages of the project whose `manage.py` lies in `folder`: the top if it declares any, else the nearest.
fn root(checkout: &Path, folder: &str) -> String {
    if Packages::are_declared(checkout) {
        return String::new();
    }
    let above = Path::new(folder).ancestors().find(|path| Packages::are_declared(&checkout.join(path)));
    above.and_then(Path::to_str).unwrap_or_default().to_owned()
}

/// Whether a file looks like one of tests.
fn has_tests(checkout: &Path) -> bool {
    let mut level: Vec<PathBuf> = vec![PathBuf::new()];
    for _ in 0..8 {
        let files = level.iter().flat_map(|folder| std::fs::read_dir(checkout.join(folder)).into_iter().flatten().flatten());
        let mut names = files.filter_map(|entry| Some((entry.file_name().to_str()?.to_owned(), entry.metadata().ok()?)));
        if names.any(|(name, facts)| {
            let is_test = name.starts_with("test") && name.ends_with(".py") && !name.contains("settings")
                || name.ends_with("_test.py")
                || name.ends_with("_tests.py");
            // `startapp` writes a file that has none.
            is_test && facts.is_file() && facts.len() > 80
        }) {
            return true;
        }
        level = level.iter().flat_map(|folder| below(checkout, folder)).take(2000).collect();
    }
    false
}

/// Whether a list of requirements names a package, in any spelling.
fn names_package(declared: &str, name: &str) -> bool {
    declared.lines().any(|line| {
        let line = line.split('#').next().unwrap_or_default();
        line.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))).any(|word| word.eq_ignore_ascii_case(name))
    })
}

/// The directory of the `manage.py` that lies least deep and names settings; of several the first by name.
fn manage(checkout: &Path) -> Option<String> {
    let mut level: Vec<PathBuf> = vec![PathBuf::new()];
    for _ in 0..=DEEPEST {
        level.sort();
        let found = level
            .iter()
            .find(|folder| text(&checkout.join(folder).join("manage.py")).is_some_and(|text| text.contains("DJANGO_SETTINGS_MODULE")));
        if let Some(folder) = found {
            return folder.to_str().map(str::to_owned);
        }
        level = level.iter().flat_map(|folder| below(checkout, folder)).take(2000).collect();
    }
    None
}

/// The folders in which a project may stand.
fn below(checkout: &Path, folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(checkout.join(folder)).into_iter().flatten().filter_map(Result::ok);
    let named = |name: &str| {
        !name.starts_with('.') && !matches!(name, "node_modules" | "venv" | "env" | "site-packages" | "docs" | "build" | "dist")
    };
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.filter(|entry| entry.file_name().to_str().is_some_and(named)).map(|entry| folder.join(entry.file_name())).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    pub(super) fn checkout(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        dir
    }

    const TESTS: (&str, &str) = (
        "things/tests.py",
        "from django.test import TestCase\n\nclass Things(TestCase):\n    def test_one(self):\n        self.assertTrue(True)\n",
    );
    const MANAGE: &str = "import os\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', 'site_.settings')\n";

    #[test]
    fn a_started_project_is_found_where_it_stands() {
        let settings = "SECRET_KEY = 'x'\nDATABASES = {\n    'default': {\n        'ENGINE': 'django.db.backends.sqlite3',\n    }\n}\n";
        for folder in ["", "backend/", "src/app/"] {
            let dir = checkout(&[
                (&format!("{folder}manage.py"), MANAGE),
                (&format!("{folder}site_/settings.py"), settings),
                TESTS,
                ("node_modules/x/manage.py", MANAGE),
            ]);
            let project = discover(dir.path(), &[11]).unwrap();
            assert_eq!(project.manage.as_deref(), Some(folder.trim_end_matches('/')));
            assert_eq!((project.settings.as_deref(), project.engine.clone()), (None, Engine::Sqlite));
            assert_eq!((project.tests, project.python.as_str(), project.packages), (Tests::Manage, "3.x", Packages::default()));
        }
    }

    #[test]
    fn a_project_below_the_top_has_its_packages_there() {
        let site = [("backend/manage.py", MANAGE), ("backend/requirements.txt", "django\n"), ("backend/a/tests.py", TESTS.1)];
        let project = discover(checkout(&site).path(), &[11]).unwrap();
        assert_eq!((project.root.as_str(), project.manage.as_deref()), ("backend", Some("")));
        let package = [("tests/manage.py", MANAGE), ("tests/requirements.txt", "x\n"), ("setup.py", "setup()"), TESTS];
        let project = discover(checkout(&package).path(), &[11]).unwrap();
        assert_eq!((project.root.as_str(), project.manage.as_deref()), ("", Some("tests")));
    }

    #[test]
    fn what_has_no_tests_is_checked() {
        let started = [
            ("manage.py", MANAGE),
            ("things/tests.py", "from django.test import TestCase\n\n# Create your tests here.\n"),
            ("pytest.ini", ""),
        ];
        assert_eq!(discover(checkout(&started).path(), &[11]).unwrap().tests, Tests::Absent);
    }

    #[test]
    fn what_has_nothing_of_django_is_none() {
        assert_eq!(discover(checkout(&[("requirements.txt", "flask\n"), ("manage.py", "print('hello')\n")]).path(), &[11]), None);
        let package = checkout(&[("setup.cfg", "[options]\ninstall_requires =\n    Django>=3.2\n"), ("setup.py", ""), ("runtests.py", "")]);
        assert_eq!(discover(package.path(), &[11]).unwrap().tests, Tests::Script("runtests.py".into()));
    }

    #[test]
    fn pytest_runs_where_it_is_configured_or_required() {
        for file in [
            ("pytest.ini", "[pytest]\n"),
            ("pyproject.toml", "[tool.pytest.ini_options]\n"),
            ("requirements-dev.txt", "pytest-cov\npytest==8\n"),
            ("setup.cfg", "[tool:pytest]\n"),
        ] {
            assert_eq!(discover(checkout(&[("manage.py", MANAGE), file, TESTS]).path(), &[11]).unwrap().tests, Tests::Pytest, "{file:?}");
        }
    }
}
