//! How a project's packages are installed: by which tool, from which files.

use std::path::Path;

use crate::project::files::text;

/// Extras and groups by which projects call what their tests need.
const FOR_TESTS: [&str; 9] = ["test", "tests", "testing", "dev", "develop", "development", "ci", "all", "local"];

/// How packages are installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Packages {
    /// `uv sync`, with these extras.
    Uv(Vec<String>),
    /// `poetry install`, with these groups and extras beside those that are always there.
    Poetry {
        /// Optional groups.
        groups: Vec<String>,
        /// Extras.
        extras: Vec<String>,
    },
    /// `pipenv`.
    Pipenv {
        /// Whether there is a lock.
        locked: bool,
    },
    /// `pip install`, of these files of requirements, and of the project itself with these extras.
    Pip {
        /// The files, relative to the checkout.
        files: Vec<String>,
        /// The extras, when the project itself is installed.
        itself: Option<Vec<String>>,
        /// Dependency groups of `pyproject.toml`.
        groups: Vec<String>,
    },
}

impl Default for Packages {
    fn default() -> Packages {
        Packages::Pip { files: Vec::new(), itself: None, groups: Vec::new() }
    }
}

/// Looks for lock files first, then for what declares.
pub(crate) fn discover(checkout: &Path) -> Packages {
    let has = |path: &str| checkout.join(path).is_file();
    let pyproject: toml::Table = text(&checkout.join("pyproject.toml")).and_then(|text| text.parse().ok()).unwrap_or_default();
    let table = |path: &[&str]| path.iter().try_fold(&pyproject, |table, key| table.get(*key)?.as_table());
    let wanted = |path: &[&str]| -> Vec<String> {
        let names = table(path).into_iter().flat_map(toml::Table::keys);
        names.filter(|name| FOR_TESTS[..7].contains(&name.to_lowercase().as_str())).cloned().collect()
    };
    let extras = wanted(&["project", "optional-dependencies"]);
    if has("uv.lock") {
        return Packages::Uv(extras);
    }
    if table(&["tool", "poetry"]).is_some_and(|poetry| poetry.contains_key("dependencies") || has("poetry.lock")) || has("poetry.lock") {
        let optional = |name: &String| {
            let group = table(&["tool", "poetry", "group", name.as_str()]);
            group.and_then(|group| group.get("optional")).and_then(toml::Value::as_bool).unwrap_or(false)
        };
        let groups = wanted(&["tool", "poetry", "group"]).into_iter().filter(optional).collect();
        let extras = wanted(&["tool", "poetry", "extras"]).into_iter().chain(extras).collect();
        return Packages::Poetry { groups, extras };
    }
    let files = requirements(checkout);
    if has("Pipfile") && files.is_empty() {
        return Packages::Pipenv { locked: has("Pipfile.lock") };
    }
    let groups = wanted(&["dependency-groups"]);
    let has_project = pyproject.contains_key("project") && pyproject.contains_key("build-system");
    let builds =
        has_project || text(&checkout.join("setup.py")).is_some_and(|text| text.contains("setup(")) || setup_cfg_is_a_package(checkout);
    let mut extras = extras;
    extras.extend(setup_extras(checkout).into_iter().filter(|extra| FOR_TESTS[..7].contains(&extra.as_str())));
    extras.dedup();
    Packages::Pip { files, itself: builds.then_some(extras), groups }
}

fn setup_cfg_is_a_package(checkout: &Path) -> bool {
    text(&checkout.join("setup.cfg")).is_some_and(|text| text.contains("[metadata]") && text.contains("[options]"))
}

/// The extras that `setup.cfg` declares.
fn setup_extras(checkout: &Path) -> Vec<String> {
    let text = text(&checkout.join("setup.cfg")).unwrap_or_default();
    let Some((_, section)) = text.split_once("[options.extras_require]") else { return Vec::new() };
    let section = section.split("\n[").next().unwrap_or_default();
    let names = section.lines().filter(|line| !line.starts_with([' ', '\t', '#'])).filter_map(|line| line.split_once('='));
    names.map(|(name, _)| name.trim().to_lowercase()).collect()
}

/// The files of requirements: the main one, and the one that is most for tests.
fn requirements(checkout: &Path) -> Vec<String> {
    let mut files = Vec::new();
    let has = |path: &String| checkout.join(path).is_file();
    files.extend(["requirements.txt", "requirements/base.txt", "requirements/requirements.txt"].map(str::to_owned).into_iter().find(has));
    let for_tests = FOR_TESTS.iter().flat_map(|word| {
        [
            format!("requirements/{word}.txt"),
            format!("requirements-{word}.txt"),
            format!("requirements_{word}.txt"),
            format!("requirements.{word}.txt"),
            format!("{word}-requirements.txt"),
            format!("{word}_requirements.txt"),
            format!("tests/requirements-{word}.txt"),
        ]
    });
    let own = ["tests/requirements.txt", "test/requirements.txt", "tests/requirements/py3.txt"].map(str::to_owned);
    files.extend(own.into_iter().chain(for_tests).find(has));
    files
}

impl Packages {
    /// The texts in which the packages are declared.
    pub(crate) fn declared(&self, checkout: &Path) -> String {
        let mut names: Vec<String> = ["pyproject.toml", "setup.cfg", "setup.py", "Pipfile", "tox.ini"].map(str::to_owned).to_vec();
        if let Packages::Pip { files, .. } = self {
            names.extend(files.iter().cloned());
        }
        names.iter().filter_map(|name| text(&checkout.join(name))).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project::tests::checkout;

    #[test]
    fn the_tool_and_its_files_are_found() {
        let pip = |files: &[&str], itself: Option<&[&str]>, groups: &[&str]| {
            let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
            Packages::Pip { files: owned(files), itself: itself.map(owned), groups: owned(groups) }
        };
        let table: [(&[(&str, &str)], Packages); 8] = [
            (
                &[("requirements.txt", ""), ("requirements-dev.txt", ""), ("requirements-test.txt", "")],
                pip(&["requirements.txt", "requirements-test.txt"], None, &[]),
            ),
            (
                &[("requirements/base.txt", ""), ("requirements/local.txt", "")],
                pip(&["requirements/base.txt", "requirements/local.txt"], None, &[]),
            ),
            (
                &[("pyproject.toml", "[project]\nname='x'\n[project.optional-dependencies]\ntest=[]\ndocs=[]\n[build-system]\n")],
                pip(&[], Some(&["test"]), &[]),
            ),
            (&[("pyproject.toml", "[project]\nname='x'\n[dependency-groups]\ndev=[]\ndocs=[]\n")], pip(&[], None, &["dev"])),
            (
                &[("setup.cfg", "[metadata]\n[options]\n[options.extras_require]\ntests =\n    x\ndoc = y\n")],
                pip(&[], Some(&["tests"]), &[]),
            ),
            (
                &[("uv.lock", ""), ("pyproject.toml", "[project]\n[project.optional-dependencies]\ndev=[]\n")],
                Packages::Uv(vec!["dev".into()]),
            ),
            (
                &[
                    ("poetry.lock", ""),
                    ("pyproject.toml", "[tool.poetry.dependencies]\n[tool.poetry.group.test]\noptional=true\n[tool.poetry.group.dev]\n"),
                ],
                Packages::Poetry { groups: vec!["test".into()], extras: Vec::new() },
            ),
            (&[("Pipfile", ""), ("Pipfile.lock", "")], Packages::Pipenv { locked: true }),
        ];
        for (files, expected) in table {
            assert_eq!(discover(checkout(files).path()), expected, "{files:?}");
        }
    }
}
