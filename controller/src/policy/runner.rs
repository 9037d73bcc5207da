//! Commands that install what a program needs and then run it, all in one: tox, nox, hatch, `uv run`, `uvx`. What they install can be
//! had without what they run.

use crate::policy::shell::{Word, is_tool, program};

/// What the installing half of a command is, as a change of its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Half {
    /// These words, put after the word of this number; what stands behind a lone `--` falls away.
    Insert(usize, &'static str),
    /// The command up to the word of this number, and these words.
    Replace(usize, String),
}

/// Options of `uv run` and `uvx` that take the word after them.
const UV_VALUES: [&str; 46] = [
    "--with",
    "-w",
    "--with-editable",
    "--with-requirements",
    "--extra",
    "--no-extra",
    "--group",
    "--no-group",
    "--only-group",
    "--env-file",
    "--python",
    "-p",
    "--index",
    "--default-index",
    "--index-url",
    "-i",
    "--extra-index-url",
    "--find-links",
    "-f",
    "--index-strategy",
    "--keyring-provider",
    "--resolution",
    "--prerelease",
    "--fork-strategy",
    "--exclude-newer",
    "--link-mode",
    "--config-setting",
    "-C",
    "--no-build-isolation-package",
    "--no-build-package",
    "--no-binary-package",
    "--refresh-package",
    "--reinstall-package",
    "--upgrade-package",
    "-P",
    "--package",
    "--directory",
    "--project",
    "--config-file",
    "--cache-dir",
    "--color",
    "--allow-insecure-host",
    "--python-preference",
    "--python-platform",
    "--from",
    "--constraints",
];

/// The installing half of a command, given from the word that names it; `None` when there is none, or it cannot be told.
pub(super) fn half(words: &[Word]) -> Option<Half> {
    let (first, arguments) = words.split_first()?;
    let name = program(&first.text).filter(|_| first.literal)?;
    if is_tool(name, "python") {
        let module = arguments.get(1).filter(|module| arguments[0].text == "-m" && module.literal)?;
        return match module.text.as_str() {
            "tox" | "nox" => behind(half(&arguments[1..])?, 2),
            _ => None,
        };
    }
    let says = |option: &str| arguments.iter().any(|word| word.text == option);
    match name {
        // What was installed ahead is what counts.
        "tox" if says("--skip-pkg-install") => None,
        "tox" => match arguments.first().map(|word| word.text.as_str()) {
            Some("run" | "r" | "run-parallel" | "p") => Some(Half::Insert(1, " --notest")),
            Some(other) if !other.starts_with('-') => None,
            _ => Some(Half::Insert(0, " --notest")),
        },
        "nox" => (!says("-l") && !says("--list") && !says("--no-install")).then_some(Half::Insert(0, " --install-only")),
        "hatch" => hatch(arguments),
        "uv" => {
            let at = uv_runs(arguments)?;
            let runs = &arguments[at..];
            match half(runs) {
                Some(inner) => behind(inner, at + 1),
                None => Some(Half::Replace(at + 1, "true".to_owned())),
            }
        }
        "uvx" => {
            let at = uvx_runs(arguments)?;
            match half(&arguments[at..]) {
                Some(inner) => behind(inner, at + 1),
                None => Some(Half::Replace(at + 2, "--version".to_owned())),
            }
        }
        _ => None,
    }
}

/// The same for a command that has this many more words before it.
fn behind(half: Half, words: usize) -> Option<Half> {
    Some(match half {
        Half::Insert(at, text) => Half::Insert(at + words, text),
        Half::Replace(at, text) => Half::Replace(at + words, text),
    })
}

/// `hatch run [ENV:]COMMAND` and `hatch test` need an environment.
fn hatch(arguments: &[Word]) -> Option<Half> {
    let plain = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    match arguments.first()?.text.as_str() {
        "run" => {
            let word = arguments.iter().skip(1).find(|word| !word.text.starts_with(['-', '+']))?;
            let environment = word.text.split_once(':').map_or("", |(environment, _)| environment);
            (environment.is_empty() || plain(environment)).then(|| Half::Replace(1, format!("env create {environment}").trim().to_owned()))
        }
        "test" => Some(Half::Replace(1, "env create hatch-test".to_owned())),
        _ => None,
    }
}

/// Which of the words after `uv` is the first that `uv run` runs; `None` for anything but `uv run`, and for a script.
pub(super) fn uv_runs(arguments: &[Word]) -> Option<usize> {
    let run = command(arguments, 0)?;
    if arguments[run].text != "run" || !arguments[run].literal {
        return None;
    }
    let at = command(arguments, run + 1)?;
    let script = arguments[run + 1..at].iter().any(|word| matches!(word.text.as_str(), "--script" | "-s" | "--gui-script"));
    (!script).then_some(at)
}

/// Which of the words after `uvx` names what it runs.
pub(super) fn uvx_runs(arguments: &[Word]) -> Option<usize> {
    command(arguments, 0)
}

/// The first word from `at` on that is neither an option nor an option's value. `-m` ends the options, as what follows is run.
fn command(arguments: &[Word], mut at: usize) -> Option<usize> {
    loop {
        let word = arguments.get(at)?;
        match word.text.as_str() {
            "-m" | "--module" => return Some(at),
            "--" => return (at + 1 < arguments.len()).then_some(at + 1),
            text if UV_VALUES.contains(&text) => at += 2,
            text if text.starts_with('-') => at += 1,
            _ => return Some(at),
        }
    }
}
