//! What to do in place of actions that many workflows use and caisson does not have.

/// By `owner/name`, or by the owner alone with a slash at the end: what does the same here.
const INSTEAD: &[(&str, &str)] = &[
    (
        "pre-commit/action",
        "write `run: pip install pre-commit` and a step `run: pre-commit run --all-files`, which reaches the repositories of its hooks with presets = [\"git:github.com\", \"python-packages\"] under [[step]] of the policy",
    ),
    ("docker/", "images are neither built nor run in a sandbox: leave these jobs out with `-j`"),
    (
        "pypa/gh-action-pypi-publish",
        "publish with `run: twine upload dist/*`, with the token as a secret in `env:` and the host in `allow` under [[step]] of the policy",
    ),
    ("snok/install-poetry", "write `run: pip install poetry`"),
    ("abatilo/actions-poetry", "write `run: pip install poetry`"),
    ("gronke/setup-poetry", "write `run: pip install poetry`"),
    ("pdm-project/setup-pdm", "use actions/setup-python and `run: pip install pdm`"),
    ("pypa/hatch", "write `run: pip install hatch`"),
    ("astral-sh/ruff-action", "write `run: pip install ruff` and `run: ruff check`"),
    ("chartboost/ruff-action", "write `run: pip install ruff` and `run: ruff check`"),
    ("psf/black", "write `run: pip install black` and `run: black --check .`"),
    ("isort/isort-action", "write `run: pip install isort` and `run: isort --check .`"),
    ("py-actions/flake8", "write `run: pip install flake8` and `run: flake8`"),
    ("jakebailey/pyright-action", "write `run: pip install pyright` and `run: pyright`"),
    ("wntrblm/nox", "use actions/setup-python and `run: pip install nox`"),
    ("tox-dev/", "use actions/setup-python and `run: pip install tox`"),
    ("awalsh128/cache-apt-pkgs-action", "write `run: sudo apt-get update && sudo apt-get install -y PACKAGES`"),
    ("actions/github-script", "it changes things at the forge, which no step here has a token for: skip it with `if:`"),
    ("peter-evans/", "it changes things at the forge, which no step here has a token for: skip it with `if:`"),
    ("softprops/action-gh-release", "it changes things at the forge, which no step here has a token for: skip it with `if:`"),
    ("actions/labeler", "it changes things at the forge, which no step here has a token for: skip it with `if:`"),
    ("actions/stale", "it changes things at the forge, which no step here has a token for: skip it with `if:`"),
    ("actions/deploy-pages", "it changes things at the forge, which no step here has a token for: skip it with `if:`"),
    ("github/codeql-action", "the analysis belongs to the forge: leave the job out with `-j`"),
    ("harmon758/postgresql-action", "start the server in a step, on its own loopback: `caisson init` shows how"),
    ("ankane/setup-postgres", "start the server in a step, on its own loopback: `caisson init` shows how"),
    ("supercharge/redis-github-action", "install redis-server with apt and start it in the step that needs it"),
    ("supercharge/mongodb-github-action", "start the server in the step that needs it"),
];

/// What to write in place of an action; `None` for one that is not in the list.
pub(crate) fn of(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    let covers = |listed: &str| {
        let rest = name.strip_prefix(listed);
        rest.is_some_and(|rest| listed.ends_with('/') || rest.is_empty() || rest.starts_with('/'))
    };
    INSTEAD.iter().find(|(listed, _)| covers(listed)).map(|(_, help)| *help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_are_known_by_name_owner_and_folder() {
        assert!(of("Pre-Commit/action").is_some_and(|help| help.contains("pre-commit run")));
        assert!(of("docker/build-push-action").is_some() && of("github/codeql-action/init").is_some());
        assert!(of("pre-commit/actions").is_none() && of("dockers/x").is_none() && of("acme/nope").is_none());
    }
}
