//! What a checkout says of itself: where Django stands, how its packages are installed and its tests run. Files are read, and
//! nothing of the project is imported or executed.

mod files;
mod packages;
mod python;
mod settings;

use std::path::{Path, PathBuf};

use crate::project::files::text;
pub(crate) use packages::Packages;
pub(crate) use settings::Engine;

/// How deep `manage.py` is looked for.
const DEEPEST: usize = 3;

/// A Django project, or a package for Django.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Project {
    /// The directory of `manage.py`, relative to the checkout, empty for its top; `None` without one.
    pub(crate) manage: Option<String>,
    /// The settings module.
    pub(crate) settings: Option<String>,
    /// How packages are installed.
    pub(crate) packages: Packages,
    /// The version of Python, as `actions/setup-python` takes it.
    pub(crate) python: String,
    /// Where the version was found; empty when it is a default.
    pub(crate) python_from: String,
    /// The database.
    pub(crate) engine: Engine,
    /// Variables of the environment that the settings cannot do without, with values for a test.
    pub(crate) variables: Vec<(String, String)>,
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
    /// A script of the project's own, such as `runtests.py`, relative to the checkout.
    Script(String),
}

/// Looks at a checkout; `None` when it has nothing of Django.
pub(crate) fn discover(checkout: &Path) -> Option<Project> {
    let manage = manage(checkout);
    let read = |path: &str| text(&checkout.join(path)).unwrap_or_default();
    let mut packages = packages::discover(checkout);
    // A site is started from where it lies; only a package must be installed itself.
    if let Packages::Pip { files, itself, .. } = &mut packages
        && manage.as_deref() == Some("")
        && !files.is_empty()
        && itself.as_ref().is_some_and(Vec::is_empty)
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
    let tests = match (uses_pytest, script, &manage) {
        (true, ..) => Tests::Pytest,
        (false, _, Some(_)) => Tests::Manage,
        (false, Some(script), None) => Tests::Script(script.to_owned()),
        (false, None, None) => Tests::Pytest,
    };
    let module = settings::module(checkout, manage.as_deref());
    let found = module.as_deref().map(|module| settings::read(checkout, manage.as_deref().unwrap_or_default(), module)).unwrap_or_default();
    let (python, python_from) = python::discover(checkout);
    Some(Project { manage, settings: module, packages, python, python_from, engine: found.engine, variables: found.variables, tests })
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

    const MANAGE: &str = "import os\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', 'site_.settings')\n";

    #[test]
    fn a_started_project_is_found_where_it_stands() {
        let settings = "SECRET_KEY = 'x'\nDATABASES = {\n    'default': {\n        'ENGINE': 'django.db.backends.sqlite3',\n    }\n}\n";
        for folder in ["", "backend/", "src/app/"] {
            let dir = checkout(&[
                (&format!("{folder}manage.py"), MANAGE),
                (&format!("{folder}site_/settings.py"), settings),
                ("node_modules/x/manage.py", MANAGE),
            ]);
            let project = discover(dir.path()).unwrap();
            assert_eq!(project.manage.as_deref(), Some(folder.trim_end_matches('/')));
            assert_eq!((project.settings.as_deref(), project.engine.clone()), (Some("site_.settings"), Engine::Sqlite));
            assert_eq!((project.tests, project.python.as_str(), project.packages), (Tests::Manage, "3.x", Packages::default()));
        }
    }

    #[test]
    fn what_has_nothing_of_django_is_none() {
        assert_eq!(discover(checkout(&[("requirements.txt", "flask\n"), ("manage.py", "print('hello')\n")]).path()), None);
        let package = checkout(&[("setup.cfg", "[options]\ninstall_requires =\n    Django>=3.2\n"), ("setup.py", ""), ("runtests.py", "")]);
        assert_eq!(discover(package.path()).unwrap().tests, Tests::Script("runtests.py".into()));
    }

    #[test]
    fn pytest_runs_where_it_is_configured_or_required() {
        for file in [
            ("pytest.ini", "[pytest]\n"),
            ("pyproject.toml", "[tool.pytest.ini_options]\n"),
            ("requirements-dev.txt", "pytest-cov\npytest==8\n"),
            ("setup.cfg", "[tool:pytest]\n"),
        ] {
            assert_eq!(discover(checkout(&[("manage.py", MANAGE), file]).path()).unwrap().tests, Tests::Pytest, "{file:?}");
        }
    }
}
