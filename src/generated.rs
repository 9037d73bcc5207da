//! The workflow that a Django checkout without one gets: an ordinary text, shown to whoever runs it, portable to a forge.

use std::fmt::Write as _;

use crate::project::{Engine, Packages, Project, Tests};

/// The file that the workflow is written to.
pub(crate) const FILE: &str = ".github/workflows/test.yml";

/// The text of the workflow.
pub(crate) fn workflow(project: &Project) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_workflow(project, &mut out);
    out
}

fn write_workflow(project: &Project, out: &mut String) -> std::fmt::Result {
    let root = project.manage.as_deref().unwrap_or_default();
    out.push_str("# Written by caisson from what this checkout says of itself; change it as you like.\n");
    out.push_str("# `caisson run` runs it here, every step in a sandbox of its own; a forge runs it as it stands.\n");
    out.push_str("name: Test\n\non:\n  push:\n  pull_request:\n\n# The token needs to read the code, nothing else.\npermissions:\n  contents: read\n\n");
    out.push_str("jobs:\n  test:\n    runs-on: ubuntu-latest\n    timeout-minutes: 30\n");
    let settings = project.settings.as_ref().filter(|_| project.tests != Tests::Manage);
    if !project.variables.is_empty() || settings.is_some() {
        out.push_str("    env:\n");
        if let Some(module) = settings {
            writeln!(out, "      DJANGO_SETTINGS_MODULE: {module}")?;
        }
        if !project.variables.is_empty() {
            out.push_str("      # The settings read these from the environment and have no default for them.\n");
        }
        for (name, value) in &project.variables {
            writeln!(out, "      {name}: \"{value}\"")?;
        }
    }
    write_database(&project.engine, out)?;
    out.push_str("    steps:\n      - uses: actions/checkout@v4\n\n");
    out.push_str("      - uses: actions/setup-python@v5\n        with:\n");
    if project.python_from.is_empty() {
        out.push_str("          # No file of the checkout names a version: the newest there is.\n");
    } else {
        writeln!(out, "          # From {}.", project.python_from)?;
    }
    writeln!(out, "          python-version: \"{}\"\n", project.python)?;
    out.push_str("      # A step that only installs may reach the package index; the tests reach nothing.\n");
    out.push_str("      - name: Install\n        run: |\n          python -m venv .venv\n          . .venv/bin/activate\n");
    for line in install(project) {
        writeln!(out, "          {line}")?;
    }
    out.push_str("          echo \"$PWD/.venv/bin\" >> \"$GITHUB_PATH\"\n\n");
    let folder = if root.is_empty() { String::new() } else { format!("\n        working-directory: {root}") };
    if project.manage.is_some() && project.tests == Tests::Manage {
        writeln!(out, "      - name: Check{folder}\n        run: python manage.py check\n")?;
    }
    let command = match &project.tests {
        Tests::Pytest => "python -m pytest".to_owned(),
        Tests::Manage => "python manage.py test".to_owned(),
        Tests::Script(path) => format!("python {path}"),
    };
    let folder = if project.tests == Tests::Manage { folder } else { String::new() };
    writeln!(out, "      - name: Test{folder}\n        run: {command}")
}

fn write_database(engine: &Engine, out: &mut String) -> std::fmt::Result {
    let (name, image, variable, health, port) = match engine {
        Engine::Sqlite => return Ok(()),
        Engine::Other(name) => return writeln!(out, "    # The settings use the database {name}: start it in a step of its own."),
        Engine::Postgres => ("postgres", "postgres:16", "POSTGRES_PASSWORD: postgres", "pg_isready", 5432),
        Engine::Mysql => ("mysql", "mysql:8", "MYSQL_ROOT_PASSWORD: mysql", "mysqladmin ping", 3306),
    };
    out.push_str("    # The settings name this database; give them its user, password and host where they differ.\n");
    writeln!(out, "    services:\n      {name}:\n        image: {image}\n        env:\n          {variable}")?;
    writeln!(out, "        ports: [\"{port}:{port}\"]")?;
    writeln!(out, "        options: --health-cmd \"{health}\" --health-interval 5s --health-timeout 5s --health-retries 10")
}

fn install(project: &Project) -> Vec<String> {
    let tool = |name: &str| vec!["python -m venv .tools".to_owned(), format!(".tools/bin/pip install {name}")];
    let mut lines = match &project.packages {
        Packages::Uv(extras) => {
            let extras: String = extras.iter().map(|extra| format!(" --extra {extra}")).collect();
            let mut lines = tool("uv");
            lines.push(format!(".tools/bin/uv sync --frozen --active{extras}"));
            // What uv makes has no pip of its own, and the next line needs none.
            return with_pytest(project, lines, ".tools/bin/uv pip install");
        }
        Packages::Poetry { groups, extras } => {
            let groups: String = groups.iter().map(|group| format!(" --with {group}")).collect();
            let extras: String = extras.iter().map(|extra| format!(" --extras {extra}")).collect();
            let mut lines = tool("poetry");
            lines.push(format!(".tools/bin/poetry install --no-interaction{groups}{extras}"));
            lines
        }
        Packages::Pipenv { locked } => {
            let mut lines = tool("pipenv");
            lines.push(format!(".tools/bin/pipenv {}", if *locked { "sync --dev" } else { "install --dev --skip-lock" }));
            lines
        }
        Packages::Pip { files, itself, groups } => {
            let mut lines: Vec<String> = Vec::new();
            if !groups.is_empty() {
                lines.push("pip install --upgrade pip".to_owned());
            }
            // One at a time: a file with hashes takes nothing without beside it.
            lines.extend(files.iter().map(|file| format!("pip install -r {file}")));
            let mut words: Vec<String> = groups.iter().map(|group| format!("--group {group}")).collect();
            match itself {
                Some(extras) if extras.is_empty() => words.push("-e .".to_owned()),
                Some(extras) => words.push(format!("-e \".[{}]\"", extras.join(","))),
                None => {}
            }
            if words.is_empty() && files.is_empty() {
                words.push("django".to_owned());
            }
            if !words.is_empty() {
                lines.push(format!("pip install {}", words.join(" ")));
            }
            lines
        }
    };
    lines = with_pytest(project, lines, "pip install");
    lines
}

/// Runs of pytest need it, even where only the configuration speaks of it.
fn with_pytest(project: &Project, mut lines: Vec<String>, install: &str) -> Vec<String> {
    if project.tests == Tests::Pytest {
        lines.push(format!("{install} pytest pytest-django"));
    }
    lines
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_text_is_a_sound_workflow_whose_install_step_may_reach_the_index() {
        let tools = [
            Packages::default(),
            Packages::Uv(vec!["test".into()]),
            Packages::Poetry { groups: vec!["dev".into()], extras: Vec::new() },
            Packages::Pipenv { locked: true },
            Packages::Pip { files: vec!["requirements.txt".into()], itself: Some(vec!["test".into()]), groups: vec!["dev".into()] },
        ];
        for packages in tools {
            for (tests, manage) in
                [(Tests::Manage, Some("backend".to_owned())), (Tests::Pytest, None), (Tests::Script("runtests.py".into()), None)]
            {
                for engine in [Engine::Sqlite, Engine::Postgres, Engine::Other("x.y".into())] {
                    let project = Project {
                        manage: manage.clone(),
                        settings: Some("a.settings".into()),
                        packages: packages.clone(),
                        python: "3.x".into(),
                        python_from: String::new(),
                        engine: engine.clone(),
                        variables: vec![("SECRET_KEY".into(), "x".into())],
                        tests: tests.clone(),
                    };
                    let text = workflow(&project);
                    let overview = caisson_workflow::events(&text, FILE).unwrap();
                    assert_eq!(overview.jobs, ["test"], "{text}");
                    let script = install(&project).join("\n");
                    let reading = caisson_controller::policy::install::read(
                        &format!("python -m venv .venv\n. .venv/bin/activate\n{script}\necho \"$PWD/.venv/bin\" >> \"$GITHUB_PATH\"\n"),
                        None,
                    );
                    assert_eq!(reading, caisson_controller::policy::install::Reading::Installs, "{script}");
                }
            }
        }
    }
}
