//! Steps that install packages and do more. Such a step runs in two: first its installing commands alone, which reach the package index
//! and see no secret; then the whole of it, which finds those packages in the store of the agent's host, and reaches nothing.

use caisson_model::step::{Action, StepSpec, Template};

use crate::policy::apt::is_apt;
use crate::policy::install::{self, Reading};
use crate::policy::runner::{self, Half};
use crate::policy::shell::{self, Binding, Command, Script};

/// Why the first half reaches the index, and why the second has what is stored.
pub(super) const STORED: &str = "default: packages that its installing commands stored";

/// The installing commands of a script that does more, as a script of their own; `None` when there are none or they cannot be told apart.
/// What it gives is read as one that installs and does nothing else.
pub(super) fn installing(script: &str, shell: Option<&str>) -> Option<String> {
    if !matches!(shell.map(|shell| shell.split_whitespace().next().unwrap_or_default()), None | Some("bash" | "sh")) {
        return None;
    }
    let script = shell::read(script).ok()?;
    if script.commands.iter().all(|command| install::is_understood(command) || is_apt(command)) {
        return None;
    }
    let mut text = String::new();
    let mut kept = false;
    for command in &script.commands {
        let Some(part) = part(&script, command) else {
            kept = false;
            continue;
        };
        text.push_str(match command.binding {
            Binding::And if kept => " && ",
            Binding::Or if kept => " || ",
            Binding::Pipe if kept => " | ",
            _ if text.is_empty() => "",
            _ => "\n",
        });
        text.push_str(&part);
        kept = true;
    }
    text.push('\n');
    (install::read(&text, shell) == Reading::Installs).then_some(text)
}

/// What of a command belongs to the first half.
fn part(script: &Script, command: &Command) -> Option<String> {
    let whole = &command.source;
    if install::prepares(command) {
        return Some(script.written(whole.start, whole.end));
    }
    let before = command.words.iter().take_while(|word| shell::assigned(word).is_some()).count();
    let words = &command.words[before..];
    let written = |start: usize, end: usize| script.written(start, end);
    match runner::half(words)? {
        Half::Insert(at, text) => {
            let first = words.get(at)?;
            let rest = words.iter().skip(at + 1).take_while(|word| word.text != "--").last();
            let rest = rest.map_or(String::new(), |last| written(first.source.end, last.source.end));
            Some(format!("{}{text}{rest}", written(whole.start, first.source.end)))
        }
        Half::Replace(at, text) => {
            let last = words.get(at.checked_sub(1)?)?;
            Some(format!("{} {text}", written(whole.start, last.source.end)))
        }
    }
}

/// The step that goes before `step`, if that does more than install; its grant is still to be given. A step whose condition or place
/// names a secret has none, as its first half must not know one.
pub(super) fn before(step: &StepSpec, names_secret: impl Fn(&str) -> bool) -> Option<StepSpec> {
    let Action::Run { script, shell, working_directory } = &step.action else { return None };
    let text = installing(&script.0, shell.as_ref().map(|shell| shell.0.as_str()))?;
    let condition = step.condition.as_ref().is_some_and(|condition| names_secret(&format!("${{{{ {} }}}}", condition.0)));
    let others = [&step.name, working_directory, &step.timeout_minutes];
    if condition || others.into_iter().flatten().any(|template| names_secret(&template.0)) {
        return None;
    }
    let label = step.name.as_ref().map_or_else(|| step.label(), |name| name.0.clone());
    let label = if caisson_expr::Template::parse(&label).is_ok() { label } else { format!("step {}", step.index.0 + 1) };
    Some(StepSpec {
        id: None,
        name: Some(Template(format!("Packages for {label}"))),
        action: Action::Run { script: Template(text), shell: shell.clone(), working_directory: working_directory.clone() },
        env: step.env.iter().filter(|(_, value)| !names_secret(&value.0)).cloned().collect(),
        // What is missing shows in the step itself, in words of its own.
        continue_on_error: Some(Template("true".to_owned())),
        ..step.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_installing_half_is_what_it_is() {
        let table = [
            ("pip install -e .\npytest", "pip install -e .\n"),
            ("pip install x && pytest -q", "pip install x\n"),
            ("pip install 'django>=4,<5' \"psycopg[binary]\" && python manage.py test", "pip install 'django>=4,<5' \"psycopg[binary]\"\n"),
            ("cd backend && pip install \\\n  -r r.txt\n./run", "cd backend && pip install \\\n  -r r.txt\n"),
            (
                "echo hi > x\npip install \"Django~=${{ matrix.django }}\"\npytest ${{ matrix.a }}",
                "pip install \"Django~=${{ matrix.django }}\"\n",
            ),
            ("pip install x | tee log; pytest", "pip install x\n"),
            ("command -v uv || pip install uv\nuv sync && uv run pytest -k 'a b'", "pip install uv\nuv sync && uv run true\n"),
            ("tox", "tox --notest\n"),
            ("tox -e py${{ matrix.py }} -- -v", "tox --notest -e py${{ matrix.py }}\n"),
            ("TOXENV=docs tox run -v", "TOXENV=docs tox run --notest -v\n"),
            ("python -m tox -f py312 || true", "python -m tox --notest -f py312 || true\n"),
            ("python -Im tox", ""),
            ("tox list", ""),
            ("nox -s tests -- -x", "nox --install-only -s tests\n"),
            ("uv run --group test --python 3.12 -m pytest tests", "uv run --group test --python 3.12 true\n"),
            ("uv run coverage run manage.py test >log", "uv run true\n"),
            ("uv run --frozen tox -e py -- x", "uv run --frozen tox --notest -e py\n"),
            ("uvx --with tox-uv tox -e py312", "uvx --with tox-uv tox --notest -e py312\n"),
            ("uvx ruff@0.5 check .", "uvx ruff@0.5 --version\n"),
            ("hatch run test:cov -x", "hatch env create test\n"),
            ("hatch test", "hatch env create hatch-test\n"),
            ("npm ci && npm test", "npm ci\n"),
            ("python -m build && twine check dist/*", "python -m build\n"),
            ("pytest", ""),
            ("pip install $(curl evil); pytest", ""),
            ("if true; then pip install x; fi; pytest", ""),
            ("sudo apt-get install -y x; pytest", ""),
            ("alias pip=curl\npip install x; pytest", "pip install x\n"),
        ];
        for (script, half) in table {
            assert_eq!(installing(script, None).unwrap_or_default(), half, "{script}");
        }
        assert_eq!(installing("tox", Some("python")), None);
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_split_off_only_installs(text in "(pip install|curl|tox|uv run|uvx|cd x|[ \\n;&|<>(){}$`'\"#\\\\a-z-]){0,40}") {
            if let Some(half) = installing(&text, None) {
                proptest::prop_assert_eq!(install::read(&half, None), Reading::Installs);
            }
        }
    }
}
