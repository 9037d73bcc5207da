//! The workflow that a Django checkout without one gets: an ordinary text, shown to whoever runs it, portable to a forge.

use std::fmt::Write as _;

use crate::project::{Engine, Packages, Project, Server, Tests};

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
    out.push_str("# Written by caisson from what this checkout says of itself; change it as you like.\n");
    out.push_str("# `caisson run` runs it here, every step in a sandbox of its own; a forge runs it as it stands.\n");
    out.push_str("name: Test\n\non:\n  push:\n  pull_request:\n\n# The token needs to read the code, nothing else.\npermissions:\n  contents: read\n\n");
    out.push_str("jobs:\n  test:\n    runs-on: ubuntu-latest\n    timeout-minutes: 30\n");
    write_environment(project, out)?;
    if let Engine::Other(name) = &project.engine {
        writeln!(out, "    # The settings use the database {name}: start it in a step of its own.")?;
    }
    out.push_str("    steps:\n      - uses: actions/checkout@v4\n\n");
    out.push_str("      - uses: actions/setup-python@v5\n        with:\n");
    if project.python_from.is_empty() {
        out.push_str("          # No file of the checkout names a version: the newest there is.\n");
    } else {
        writeln!(out, "          # From {}.", project.python_from)?;
    }
    writeln!(out, "          python-version: \"{}\"\n", project.python)?;
    if let Some((packages, there)) = server_packages(&project.engine) {
        out.push_str("      # The database server, where the machine has none. It is started by the tests, for them alone.\n");
        writeln!(out, "      - name: Install the database\n        run: |\n          test -d {there} || sudo apt-get update")?;
        writeln!(out, "          test -d {there} || sudo apt-get install -y --no-install-recommends {packages}\n")?;
    }
    out.push_str("      # A step that only installs may reach the package index; the tests reach nothing.\n");
    writeln!(
        out,
        "      - name: Install{}\n        run: |\n          python -m venv .venv\n          . .venv/bin/activate",
        within(&project.root)
    )?;
    for line in install(project) {
        writeln!(out, "          {line}")?;
    }
    out.push_str("          echo \"$PWD/.venv/bin\" >> \"$GITHUB_PATH\"\n\n");
    let manage = joined(&project.root, project.manage.as_deref().unwrap_or_default());
    if project.manage.is_some() && matches!(project.tests, Tests::Manage | Tests::Absent) {
        writeln!(out, "      - name: Check{}\n        run: python manage.py check", within(&manage))?;
    }
    let command = match &project.tests {
        Tests::Absent => {
            out.push_str("      # No file looks like one of tests.\n");
            return Ok(());
        }
        Tests::Pytest => "python -m pytest".to_owned(),
        Tests::Manage => "python manage.py test --noinput".to_owned(),
        Tests::Script(path) => format!("python {path}"),
        Tests::Tox(environment) => format!("tox run --skip-pkg-install -e {environment}"),
    };
    if project.manage.is_some() && project.tests == Tests::Manage {
        out.push('\n');
    }
    if project.collects {
        out.push_str("      # The settings look static files up in a manifest, which this makes.\n");
        writeln!(out, "      - name: Static files{}\n        run: python manage.py collectstatic --noinput\n", within(&manage))?;
    }
    let folder = within(if project.tests == Tests::Manage { &manage } else { &project.root });
    let before = start(&project.engine);
    if before.is_empty() {
        return writeln!(out, "      - name: Test{folder}\n        run: {command}");
    }
    writeln!(out, "      # The server listens on this step's own loopback, and ends with it.")?;
    writeln!(out, "      - name: Test{folder}\n        run: |")?;
    for line in before.iter().chain([&command]) {
        writeln!(out, "          {line}")?;
    }
    Ok(())
}

/// The folder of a step.
fn within(folder: &str) -> String {
    if folder.is_empty() { String::new() } else { format!("\n        working-directory: {folder}") }
}

fn joined(root: &str, folder: &str) -> String {
    format!("{root}/{folder}").trim_matches('/').to_owned()
}

fn write_environment(project: &Project, out: &mut String) -> std::fmt::Result {
    let mut lines: Vec<String> = Vec::new();
    if let Some(module) = &project.settings {
        lines.push(format!("DJANGO_SETTINGS_MODULE: {module}"));
    }
    if let Some(folder) = &project.search {
        lines.push(format!("PYTHONPATH: ${{{{ github.workspace }}}}/{}", joined(&project.root, folder)));
    }
    match &project.engine {
        // Settings that name no host, or that of a container, get there too.
        Engine::Postgres(server) | Engine::Postgis(server) => {
            lines.extend([format!("PGHOST: {LOCAL}"), format!("PGHOSTADDR: {LOCAL}"), format!("PGPORT: \"{}\"", server.port)]);
        }
        Engine::Mysql(_) => lines.push(format!("MYSQL_UNIX_PORT: {MYSQL_SOCKET}")),
        Engine::Sqlite | Engine::Other(_) => {}
    }
    if !project.variables.is_empty() {
        lines.push("# The settings read these from the environment and have no default for them.".to_owned());
    }
    lines.extend(project.variables.iter().map(|(name, value)| format!("{name}: \"{value}\"")));
    if !lines.is_empty() {
        out.push_str("    env:\n");
    }
    lines.iter().try_for_each(|line| writeln!(out, "      {line}"))
}

/// Where a server of the tests listens.
const LOCAL: &str = "127.0.0.1";

/// The socket of a MySQL server.
const MYSQL_SOCKET: &str = "/tmp/mysql.sock";

/// The Debian packages of a database server, and the folder that is there when they are installed.
fn server_packages(engine: &Engine) -> Option<(&'static str, &'static str)> {
    match engine {
        Engine::Sqlite | Engine::Other(_) => None,
        Engine::Postgres(_) => Some(("postgresql", "/usr/lib/postgresql")),
        Engine::Postgis(_) => Some(("postgresql postgresql-postgis gdal-bin libproj-dev", "/usr/share/postgresql-postgis")),
        Engine::Mysql(_) => Some(("mariadb-server libmariadb-dev pkg-config gcc", "/usr/include/mariadb")),
    }
}

/// What starts the server of a database, as lines of a script.
fn start(engine: &Engine) -> Vec<String> {
    let word = |text: &str| format!("'{}'", text.replace('\'', "'\\''"));
    let name = |text: &str| text.chars().filter(|c| c.is_alphanumeric() || matches!(c, '_' | '-')).collect::<String>();
    match engine {
        Engine::Sqlite | Engine::Other(_) => Vec::new(),
        Engine::Postgres(server) | Engine::Postgis(server) => {
            let Server { user, port, .. } = server;
            let (user, port) = (word(user), word(port));
            let mut lines = vec![
                "bin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1)".to_owned(),
                format!(
                    "\"$bin/initdb\" --pgdata \"$RUNNER_TEMP/postgres\" --username {user} --auth trust --encoding UTF8 --no-sync > /dev/null"
                ),
                format!(
                    "\"$bin/pg_ctl\" --pgdata \"$RUNNER_TEMP/postgres\" --log \"$RUNNER_TEMP/postgres.log\" --wait start -o \"-h {LOCAL} -p {} -k /tmp -c fsync=off\"",
                    server.port
                ),
                format!("\"$bin/createdb\" --host {LOCAL} --port {port} --username {user} {} || true", word(&server.name)),
            ];
            if matches!(engine, Engine::Postgis(_)) {
                lines.push(format!("\"$bin/psql\" --host {LOCAL} --port {port} --username {user} --dbname template1 --command 'CREATE EXTENSION IF NOT EXISTS postgis'"));
            }
            lines
        }
        Engine::Mysql(server) => {
            let Server { user, port, password, .. } = server;
            let password = password.replace(['\'', '"', '\\'], "");
            let user = name(user);
            let grant = format!(
                "CREATE DATABASE IF NOT EXISTS `{0}`; CREATE USER IF NOT EXISTS '{user}'@'%'; CREATE USER IF NOT EXISTS '{user}'@'localhost'; SET PASSWORD FOR '{user}'@'%' = PASSWORD('{password}'); SET PASSWORD FOR '{user}'@'localhost' = PASSWORD('{password}'); GRANT ALL ON *.* TO '{user}'@'%'; GRANT ALL ON *.* TO '{user}'@'localhost'",
                name(&server.name)
            );
            vec![
                "mariadb-install-db --no-defaults --datadir=\"$RUNNER_TEMP/mysql\" --auth-root-authentication-method=normal --skip-test-db > /dev/null".to_owned(),
                format!("mariadbd --no-defaults --datadir=\"$RUNNER_TEMP/mysql\" --bind-address={LOCAL} --port={} --socket={MYSQL_SOCKET} --pid-file=\"$RUNNER_TEMP/mysql.pid\" > \"$RUNNER_TEMP/mysql.log\" 2>&1 &", name(port)),
                format!("for _ in $(seq 300); do mariadb-admin --no-defaults --socket={MYSQL_SOCKET} --user=root ping > /dev/null 2>&1 && break; sleep 0.2; done"),
                format!("mariadb --no-defaults --socket={MYSQL_SOCKET} --user=root <<'SQL'\n          {grant}\n          SQL"),
            ]
        }
    }
}

fn install(project: &Project) -> Vec<String> {
    let tool = |name: &str| vec!["python -m venv .tools".to_owned(), format!(".tools/bin/pip install {name}")];
    if let Tests::Tox(environment) = &project.tests {
        return vec!["pip install tox".to_owned(), format!("tox run --notest -e {environment}")];
    }
    let words = |option: &str, names: &[String]| names.iter().map(|name| format!(" {option} {name}")).collect::<String>();
    let lines = match &project.packages {
        Packages::Uv { groups, extras } => {
            let mut lines = tool("uv");
            lines.push(format!(".tools/bin/uv sync --frozen --active{}{}", words("--group", groups), words("--extra", extras)));
            // What uv makes has no pip of its own, and the next line needs none.
            return with_pytest(project, lines, ".tools/bin/uv pip install");
        }
        Packages::Pdm(groups) => {
            let mut lines = tool("pdm");
            lines.push(format!(".tools/bin/pdm sync{}", words("-G", groups)));
            lines
        }
        Packages::Poetry { groups, extras } => {
            let mut lines = tool("poetry");
            // Whether it is installed itself is for its own file to say.
            lines.push(format!(".tools/bin/poetry install --no-interaction{}{}", words("--with", groups), words("--extras", extras)));
            lines
        }
        Packages::Pipenv { locked } => {
            let mut lines = tool("pipenv");
            lines.push(format!(".tools/bin/pipenv {}", if *locked { "sync --dev" } else { "install --dev --skip-lock" }));
            lines
        }
        Packages::Pip { files, itself, groups, words: others } => {
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
            words.extend(others.iter().map(|word| format!("\"{}\"", word.replace(['"', '$', '`', '\\'], ""))));
            if words.is_empty() && files.is_empty() {
                words.push("django".to_owned());
            }
            if !words.is_empty() {
                lines.push(format!("pip install {}", words.join(" ")));
            }
            lines
        }
    };
    with_pytest(project, lines, "pip install")
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
            Packages::Uv { groups: vec!["test".into()], extras: vec!["test".into()] },
            Packages::Pdm(vec!["test".into()]),
            Packages::Poetry { groups: vec!["dev".into()], extras: Vec::new() },
            Packages::Pipenv { locked: true },
            Packages::Pip {
                files: vec!["requirements.txt".into()],
                itself: Some(vec!["test".into()]),
                groups: vec!["dev".into()],
                words: vec!["a>=1".into()],
            },
        ];
        for packages in tools {
            for (tests, manage) in [
                (Tests::Manage, Some("backend".to_owned())),
                (Tests::Pytest, None),
                (Tests::Script("runtests.py".into()), None),
                (Tests::Tox("py312-dj52".into()), None),
                (Tests::Absent, Some(String::new())),
            ] {
                let server = Server {
                    name: "a".into(),
                    user: "b".into(),
                    password: "c".into(),
                    host: "d".into(),
                    port: "1".into(),
                    variables: Vec::new(),
                };
                for engine in [
                    Engine::Sqlite,
                    Engine::Postgres(server.clone()),
                    Engine::Postgis(server.clone()),
                    Engine::Mysql(server),
                    Engine::Other("x.y".into()),
                ] {
                    let project = Project {
                        root: "x".into(),
                        manage: manage.clone(),
                        settings: Some("a.settings".into()),
                        search: Some("y".into()),
                        packages: packages.clone(),
                        python: "3.x".into(),
                        python_from: String::new(),
                        engine: engine.clone(),
                        variables: vec![("SECRET_KEY".into(), "x".into())],
                        collects: manage.is_some(),
                        tests: tests.clone(),
                    };
                    let text = workflow(&project);
                    let overview = caisson_workflow::events(&text, FILE).unwrap();
                    assert_eq!(overview.jobs, ["test"], "{text}");
                    let collecting = text.find("manage.py collectstatic --noinput");
                    assert_eq!(collecting.is_some(), tests == Tests::Manage, "{text}");
                    assert!(collecting.is_none_or(|at| at < text.rfind("- name: Test").unwrap()), "{text}");
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
