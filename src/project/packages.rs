//! How a project's packages are installed: by which tool, from which files.

use std::path::Path;

use crate::project::files::text;

/// Extras and groups by which projects call what their tests need.
const FOR_TESTS: [&str; 9] = ["test", "tests", "testing", "dev", "develop", "development", "ci", "all", "local"];

/// Those of the names that say the most plainly that they are for tests. What is for development holds it all, and more.
fn most_for_tests(names: Vec<String>) -> Vec<String> {
    let tiers: [&[&str]; 3] = [&FOR_TESTS[..3], &FOR_TESTS[3..6], &FOR_TESTS[6..7]];
    let of =
        |tier: &&[&str]| -> Vec<String> { names.iter().filter(|name| tier.contains(&name.to_lowercase().as_str())).cloned().collect() };
    tiers.iter().map(of).find(|found| !found.is_empty()).unwrap_or_default()
}

/// How packages are installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Packages {
    /// `uv sync`, with what is there beside the default.
    Uv {
        /// Groups.
        groups: Vec<String>,
        /// Extras.
        extras: Vec<String>,
    },
    /// `pdm sync`, with these groups and extras.
    Pdm(Vec<String>),
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
        /// Requirements that stand elsewhere: in environments of hatch, in `tests_require` of `setup.py`.
        words: Vec<String>,
    },
}

impl Default for Packages {
    fn default() -> Packages {
        Packages::Pip { files: Vec::new(), itself: None, groups: Vec::new(), words: Vec::new() }
    }
}

/// Looks for lock files first, then for what declares.
pub(crate) fn discover(checkout: &Path) -> Packages {
    let has = |path: &str| checkout.join(path).is_file();
    let pyproject: toml::Table = text(&checkout.join("pyproject.toml")).and_then(|text| text.parse().ok()).unwrap_or_default();
    let table = |path: &[&str]| path.iter().try_fold(&pyproject, |table, key| table.get(*key)?.as_table());
    let wanted = |path: &[&str]| -> Vec<String> {
        let names: Vec<String> = table(path).into_iter().flat_map(toml::Table::keys).cloned().collect();
        most_for_tests(names)
    };
    let extras = wanted(&["project", "optional-dependencies"]);
    let groups = wanted(&["dependency-groups"]);
    if has("uv.lock") {
        return Packages::Uv { groups, extras };
    }
    if has("pdm.lock") {
        let own = wanted(&["tool", "pdm", "dev-dependencies"]);
        let mut all: Vec<String> = own.into_iter().chain(groups).chain(extras).collect();
        all.dedup();
        return Packages::Pdm(all);
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
    let has_project = pyproject.contains_key("project") && pyproject.contains_key("build-system");
    let builds =
        has_project || text(&checkout.join("setup.py")).is_some_and(|text| text.contains("setup(")) || setup_cfg_is_a_package(checkout);
    let mut extras = extras;
    extras.extend(most_for_tests(setup_extras(checkout)));
    extras.dedup();
    let mut words = hatch_requirements(&pyproject);
    words.extend(tests_require(&text(&checkout.join("setup.py")).unwrap_or_default()));
    if !builds && let Some(dependencies) = table(&["project"]).and_then(|project| project.get("dependencies")?.as_array()) {
        // What cannot be built is not installed itself; what it needs is.
        words.extend(dependencies.iter().filter_map(toml::Value::as_str).filter(|word| !word.contains(['@', '"'])).map(str::to_owned));
    }
    Packages::Pip { files, itself: builds.then_some(extras), groups, words }
}

/// What hatch's environments for tests install.
fn hatch_requirements(pyproject: &toml::Table) -> Vec<String> {
    let environments = ["tool", "hatch", "envs"].iter().try_fold(pyproject, |table, key| table.get(*key)?.as_table());
    let mut words: Vec<String> = Vec::new();
    for name in ["default", "hatch-test", "test", "tests", "testing", "dev"] {
        let Some(table) = environments.and_then(|all| all.get(name)?.as_table()) else { continue };
        let lists = ["dependencies", "extra-dependencies"].iter().filter_map(|key| table.get(*key)?.as_array());
        for word in lists.flatten().filter_map(toml::Value::as_str) {
            // What comes from elsewhere than an index, or is spelt by hatch itself, is left out.
            if !word.contains(['@', '{', '"']) && !words.iter().any(|known| known == word) {
                words.push(word.to_owned());
            }
        }
    }
    words
}

/// `tests_require=[...]` of a `setup.py` that spells it out.
fn tests_require(setup: &str) -> Vec<String> {
    list_after(setup, "tests_require").unwrap_or_default()
}

/// The texts of a list that stands behind a name and an equals sign or colon.
fn list_after(text: &str, name: &str) -> Option<Vec<String>> {
    let (_, rest) = text.split_once(name)?;
    let rest = rest.trim_start_matches(['"', '\'']).trim_start();
    let rest = rest.strip_prefix(['=', ':'])?.trim_start().strip_prefix('[')?;
    let list = rest.split(']').next().unwrap_or_default();
    let words = list.split(['"', '\'']).skip(1).step_by(2).filter(|word| !word.is_empty() && !word.contains('\n'));
    Some(words.map(str::to_owned).collect())
}

fn setup_cfg_is_a_package(checkout: &Path) -> bool {
    text(&checkout.join("setup.cfg")).is_some_and(|text| text.contains("[metadata]") && text.contains("[options]"))
}

/// The extras that `setup.cfg` or `setup.py` declares.
fn setup_extras(checkout: &Path) -> Vec<String> {
    let setup = text(&checkout.join("setup.py")).unwrap_or_default();
    if let Some((_, extras)) = setup.split_once("extras_require") {
        let named = |word: &&&str| [format!("\"{word}\":"), format!("'{word}':")].iter().any(|key| extras.contains(key.as_str()));
        return FOR_TESTS.iter().filter(named).map(|word| (*word).to_owned()).collect();
    }
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

/// The files that a file of requirements includes with `-r`.
fn included(checkout: &Path, name: &str) -> Vec<std::path::PathBuf> {
    let folder = checkout.join(name).parent().map(Path::to_path_buf).unwrap_or_default();
    let lines = text(&checkout.join(name)).filter(|_| !name.ends_with(".toml")).unwrap_or_default();
    lines.lines().filter_map(|line| line.trim().strip_prefix("-r")).map(|file| folder.join(file.trim())).collect()
}

impl Packages {
    /// Whether a folder says which packages it needs.
    pub(crate) fn are_declared(folder: &Path) -> bool {
        let pyproject: toml::Table = text(&folder.join("pyproject.toml")).and_then(|text| text.parse().ok()).unwrap_or_default();
        let tables = pyproject.contains_key("project")
            || pyproject.contains_key("dependency-groups")
            || pyproject.get("tool").and_then(|tool| tool.get("poetry")).is_some();
        let files = ["uv.lock", "poetry.lock", "pdm.lock", "Pipfile", "setup.py", "tox.ini"];
        tables || files.iter().any(|file| folder.join(file).is_file()) || setup_cfg_is_a_package(folder) || !requirements(folder).is_empty()
    }

    /// The texts in which the packages are declared.
    pub(crate) fn declared(&self, checkout: &Path) -> String {
        let mut names: Vec<String> = ["pyproject.toml", "setup.cfg", "setup.py", "Pipfile", "tox.ini"].map(str::to_owned).to_vec();
        if let Packages::Pip { files, .. } = self {
            names.extend(files.iter().cloned());
        }
        let texts = names.iter().filter_map(|name| text(&checkout.join(name)));
        // What a file of requirements includes is declared too.
        let included = names.iter().flat_map(|name| included(checkout, name)).filter_map(|path| text(&path));
        texts.chain(included).collect::<Vec<_>>().join("\n")
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
            Packages::Pip { files: owned(files), itself: itself.map(owned), groups: owned(groups), words: Vec::new() }
        };
        let table: [(&[(&str, &str)], Packages); 12] = [
            (
                &[("pyproject.toml", "[project]\nname='x'\ndependencies=['django>=5']\n[dependency-groups]\ntest=[]\n")],
                Packages::Pip { files: Vec::new(), itself: None, groups: vec!["test".into()], words: vec!["django>=5".into()] },
            ),
            (&[("pdm.lock", ""), ("pyproject.toml", "[dependency-groups]\ntest=[]\n")], Packages::Pdm(vec!["test".into()])),
            (
                &[("setup.py", "setup(tests_require=['x>=1', \"y\"], extras_require={'test': ['z'], 'docs': []})")],
                Packages::Pip {
                    files: Vec::new(),
                    itself: Some(vec!["test".into()]),
                    groups: Vec::new(),
                    words: vec!["x>=1".into(), "y".into()],
                },
            ),
            (
                &[("pyproject.toml", "[project]\nname='x'\n[build-system]\n[tool.hatch.envs.test]\ndependencies=['a','b @ git+x']\n")],
                Packages::Pip { files: Vec::new(), itself: Some(Vec::new()), groups: Vec::new(), words: vec!["a".into()] },
            ),
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
                Packages::Uv { groups: Vec::new(), extras: vec!["dev".into()] },
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
