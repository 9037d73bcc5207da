//! `actions/setup-python`: finds an installed interpreter, shows it to the job, and makes an environment of the job's own from it,
//! in which `pip install` just works. Nothing is installed on the host, and no interpreter is executed outside a sandbox.

use std::path::Path;

use serde::Deserialize;

use crate::actions::bench::{Bench, Inputs, inside};
use crate::actions::interpreters::{self, Interpreter};
use crate::actions::package_cache::{Absent, PackageCache};
use crate::actions::python_version::{self, Fit, Request, Version};
use crate::contexts::SCRIPTS;
use crate::program::{Halt, Powers, Program, Sink};
use crate::view;

/// What makes the environment; runs inside, with the standard library alone.
const SCRIPT: &str = include_str!("setup_python.py");

/// The exit code by which the script says that only the package index has pip.
const NEEDS_INDEX: i32 = 3;

/// Most bytes of a version file.
const MAX_FILE: usize = 1 << 20;

/// Sets up Python.
///
/// # Errors
/// A version that is none or not installed here, with the list of those that are; an environment that cannot be made.
pub async fn run(inputs: &Inputs, bench: &mut impl Bench) -> Result<(), Halt> {
    let roots = bench.host().interpreters.clone();
    let installed = tokio::task::spawn_blocking(move || interpreters::find(&roots)).await.unwrap_or_default();
    let several = inputs.lines("python-version");
    let mut requests = Vec::new();
    if several.len() > 1 {
        for line in several {
            requests.push(wanted(&Inputs(inputs.0.iter().cloned().chain([("python-version".to_owned(), line)]).collect()), bench).await?);
        }
    } else {
        requests.push(wanted(inputs, bench).await?);
    }
    let mut last = None;
    for wanted in requests {
        last = Some(set_up(&installed, &wanted, inputs, bench).await?);
    }
    let Some(made) = last else { return Ok(()) };
    bench.output("python-version", &made.version);
    bench.output("python-path", &format!("{}/bin/python", made.directory));
    let hit = match inputs.text("cache") {
        Some(manager) => restore(manager, inputs, &made, bench).await?,
        None => false,
    };
    bench.output("cache-hit", if hit { "true" } else { "false" });
    install(inputs, &made, bench).await
}

/// Sets up one interpreter; of several, the last comes first in the search path.
async fn set_up(installed: &[Interpreter], wanted: &Wanted, inputs: &Inputs, bench: &mut impl Bench) -> Result<Made, Halt> {
    let interpreter = choose(installed, wanted, bench).await?;
    if let Some(prefix) = &interpreter.prefix {
        bench.show(prefix.clone());
    }
    let made = make(&interpreter, bench).await?;
    bench.say(&format!("Python {} from {} in {}", made.version, interpreter.program.display(), made.directory)).await;
    if inputs.text("update-environment").is_none_or(|text| !text.eq_ignore_ascii_case("false")) {
        for name in ["pythonLocation", "Python_ROOT_DIR", "Python2_ROOT_DIR", "Python3_ROOT_DIR"] {
            bench.export(name, &made.directory);
        }
        // Deliberately set, which the original has no need for: it tells uv and poetry that this is where packages go.
        bench.export("VIRTUAL_ENV", &made.directory);
        bench.add_path(&format!("{}/bin", made.directory));
    }
    Ok(made)
}

async fn restore(manager: &str, inputs: &Inputs, made: &Made, bench: &mut impl Bench) -> Result<bool, Halt> {
    let (paths, files): (&[&str], &[&str]) = match manager {
        "pip" => (&["~/.cache/pip"], &["**/requirements.txt", "**/pyproject.toml"]),
        "pipenv" => (&["~/.local/share/virtualenvs", "~/.cache/pipenv"], &["**/Pipfile.lock"]),
        "poetry" => (&["~/.cache/pypoetry"], &["**/poetry.lock"]),
        other => return Err(Halt::invalid(format!("the input cache is '{other}', where pip, pipenv or poetry is wanted"))),
    };
    let named = inputs.lines("cache-dependency-path");
    let patterns = if named.is_empty() { files.iter().map(|file| vec![(*file).to_owned()]).collect() } else { vec![named] };
    let cache = PackageCache {
        name: format!("setup-python-Linux-{}-python-{}-{manager}", std::env::consts::ARCH, made.version),
        paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        patterns,
        suffix: String::new(),
        absent: Absent::Skipped,
    };
    cache.restore(bench).await
}

/// `pip-version` and `pip-install`.
async fn install(inputs: &Inputs, made: &Made, bench: &mut impl Bench) -> Result<(), Halt> {
    let mut wanted: Vec<Vec<String>> = Vec::new();
    if let Some(version) = inputs.text("pip-version") {
        wanted.push(vec![format!("pip=={version}")]);
    }
    if let Some(words) = inputs.text("pip-install") {
        wanted.push(words.split_whitespace().map(str::to_owned).collect());
    }
    for words in wanted {
        let workspace = bench.workspace().to_owned();
        let mut program =
            Program::new(&format!("{}/bin/python", made.directory), &["-m", "pip", "install", "--disable-pip-version-check"], &workspace);
        program.args.extend(words);
        program.powers = Powers::Network;
        match bench.run(program).await?.code {
            0 => {}
            code => return Err(Halt::invalid(format!("pip could not install what was asked for (exit code {code}); its output is above"))),
        }
    }
    Ok(())
}

/// The request with what it came from; without one, any version will do.
struct Wanted {
    request: Option<Request>,
    text: String,
}

async fn wanted(inputs: &Inputs, bench: &mut impl Bench) -> Result<Wanted, Halt> {
    let host = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => other,
    };
    if let Some(architecture) = inputs.text("architecture").filter(|text| !text.eq_ignore_ascii_case(host)) {
        return Err(Halt::invalid(format!("the input architecture is '{architecture}', but this agent's machine is {host}")));
    }
    let prereleases = inputs.text("allow-prereleases").is_some_and(|text| text.eq_ignore_ascii_case("true"));
    let threaded = inputs.text("freethreaded").is_some_and(|text| text.eq_ignore_ascii_case("true"));
    let read = |text: String, source: &str| match Request::read(&text, prereleases) {
        Ok(request) if threaded => Ok(Wanted { request: Some(request.free_threaded()), text: format!("{text}, free-threaded") }),
        Ok(request) => Ok(Wanted { request: Some(request), text }),
        Err(error) => Err(Halt::invalid(format!("{source}: {error}"))),
    };
    if let Some(text) = inputs.text("python-version") {
        return read(text.to_owned(), "the input python-version");
    }
    let named = inputs.text("python-version-file");
    let name = named.unwrap_or(".python-version");
    let Some(path) = inside(bench.workspace(), name) else {
        return Err(Halt::invalid(format!("the input python-version-file '{name}' leaves the workspace")));
    };
    let workspace = bench.workspace().to_owned();
    let script = "[ -f \"$1\" ] || exit 66; exec cat -- \"$1\"";
    let mut program = Program::new("/bin/sh", &["-c", script, "read", &path], &workspace);
    program.sink = Sink::Capture(MAX_FILE);
    let exit = bench.run(program).await?;
    match (exit.code, named) {
        (0, _) => {
            let content = String::from_utf8_lossy(&exit.output).into_owned();
            let text = python_version::of_file(name, &content).map_err(Halt::invalid)?;
            read(text, &format!("the file {name}"))
        }
        (_, Some(name)) => Err(Halt::invalid(format!("the file {name}, named by python-version-file, is not in the workspace"))),
        (_, None) => Ok(Wanted { request: None, text: String::new() }),
    }
}

async fn choose(installed: &[Interpreter], wanted: &Wanted, bench: &mut impl Bench) -> Result<Interpreter, Halt> {
    let Some(request) = &wanted.request else {
        // The system's own choice of version, in the best installation of it; else the newest.
        let default = interpreters::system_default();
        let usual = |one: &&Interpreter| {
            let same = |default: &Version| (default.major, default.minor) == (one.version.major, one.version.minor);
            !one.version.prerelease && !one.version.threaded && default.as_ref().is_none_or(same)
        };
        return installed.iter().find(usual).or(installed.first()).cloned().ok_or_else(|| none(installed, "any version"));
    };
    for interpreter in installed {
        match request.fits(&interpreter.version) {
            Fit::Yes => return Ok(interpreter.clone()),
            Fit::No => {}
            Fit::Unknown => {
                if let Some(version) = ask(interpreter, bench).await?
                    && request.fits(&version) == Fit::Yes
                {
                    return Ok(Interpreter { version, ..interpreter.clone() });
                }
            }
        }
    }
    Err(none(installed, &wanted.text))
}

fn none(installed: &[Interpreter], wanted: &str) -> Halt {
    let mut message = format!("no installed Python is '{wanted}'; this machine has ");
    if installed.is_empty() {
        message.push_str("none");
    } else {
        let list: Vec<String> = installed.iter().map(ToString::to_string).collect();
        message.push_str(&list.join(", "));
    }
    message.push_str("; install it (for example `uv python install` or `pyenv install` with the version), or ask for one of these");
    Halt::invalid(message)
}

/// Asks an interpreter for its whole version, in a sandbox.
async fn ask(interpreter: &Interpreter, bench: &mut impl Bench) -> Result<Option<Version>, Halt> {
    let path = interpreter.program.display().to_string();
    let mut program = Program::new(&path, &["-I", "-c", "import platform; print(platform.python_version())"], view::HOME);
    program.sink = Sink::Capture(1024);
    let exit = bench.run(program).await?;
    Ok(Version::read(String::from_utf8_lossy(&exit.output).trim())
        .filter(|_| exit.code == 0)
        .map(|version| Version { threaded: interpreter.version.threaded, ..version }))
}

/// What the script answers in its last line.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Made {
    pub(super) version: String,
    pub(super) directory: String,
}

/// Makes the environment of an interpreter that is shown.
pub(super) async fn make(interpreter: &Interpreter, bench: &mut impl Bench) -> Result<Made, Halt> {
    let path = interpreter.program.display().to_string();
    let script = format!("{SCRIPTS}/setup_python.py");
    let index = &bench.host().index;
    let links: Vec<String> =
        index.directories().filter(|directory| Path::new(directory).is_dir()).map(|path| path.display().to_string()).collect();
    let settings = serde_json::json!({ "parent": format!("{}/.pythons", view::HOME), "index": index.first_url(), "find_links": links });
    let mut program = Program::new(&path, &["-I", &script, &settings.to_string()], view::HOME);
    program.files = vec![(script, SCRIPT.as_bytes().to_vec())];
    program.sink = Sink::Capture(MAX_FILE);
    let mut exit = bench.run(program.clone()).await?;
    if exit.code == NEEDS_INDEX {
        if !bench.has_network() {
            return Err(Halt::invalid(format!(
                "{path} comes without pip and this step may not reach the package index; install pip for it (on Debian: python3-venv), or grant the step the preset python-packages"
            )));
        }
        bench.say("This Python comes without pip; it is fetched from the package index").await;
        program.powers = Powers::Network;
        exit = bench.run(program).await?;
    }
    let output = String::from_utf8_lossy(&exit.output).into_owned();
    let made = output.lines().next_back().filter(|_| exit.code == 0).and_then(|line| serde_json::from_str(line).ok());
    match made {
        Some(made) => Ok(made),
        None => {
            for line in output.lines() {
                bench.say(line).await;
            }
            let last = output.lines().next_back().unwrap_or("it said nothing");
            Err(Halt::invalid(format!("an environment for {path} could not be made (exit code {}): {last}", exit.code)))
        }
    }
}
