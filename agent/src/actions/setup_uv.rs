//! `astral-sh/setup-uv`: the uv of this host, or the one that the package index has, in a directory of the job's own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::actions::bench::{Bench, Inputs, inside};
use crate::actions::interpreters::{self, Interpreter};
use crate::actions::package_cache::{Absent, PackageCache};
use crate::actions::python_version::Request;
use crate::actions::setup_python;
use crate::contexts::TOOL_CACHE;
use crate::program::{Halt, Powers, Program, Sink};
use crate::view;

/// The most bytes of a file that names a version.
const MAX_FILE: usize = 1 << 20;

/// Puts uv into the search path of later steps, shows it the interpreters of this host, and restores its cache.
///
/// # Errors
/// A version that cannot be had; or the [`Halt`] that ends the step.
pub async fn run(inputs: &Inputs, bench: &mut impl Bench) -> Result<(), Halt> {
    let wanted = wanted(inputs, bench).await?;
    let found = match host_uv(&wanted, bench).await? {
        Some(found) => found,
        None => fetch(&wanted, bench).await?,
    };
    let directory = Path::new(&found.path).parent().map(|path| path.display().to_string()).unwrap_or_default();
    if !view::already_visible(Path::new(&found.path)) {
        bench.add_path(&directory);
    }
    bench.say(&format!("uv {} from {}", found.version, found.path)).await;
    bench.output("uv-version", &found.version);
    bench.output("uv-path", &found.path);
    let uvx = uvx(&found, &directory, bench).await?;
    bench.output("uvx-path", &uvx);
    show_interpreters(bench).await?;
    // There is no place to download interpreters from; without this uv would try for long.
    bench.export("UV_PYTHON_DOWNLOADS", "never");
    if let Some(version) = inputs.text("python-version") {
        bench.export("UV_PYTHON", version);
        bench.output("python-version", version);
    }
    if inputs.truth("activate-environment", false)? {
        activate(inputs, &found, bench).await?;
    }
    let cached = match inputs.text("enable-cache").unwrap_or("auto") {
        // As on every runner of one's own: only where it is asked for.
        "auto" | "false" => false,
        "true" => true,
        other => return Err(Halt::invalid(format!("the input enable-cache is '{other}', where true, false or auto is wanted"))),
    };
    let cache = inputs.text("cache-local-path").unwrap_or("~/.cache/uv").to_owned();
    bench.export("UV_CACHE_DIR", &cache.replacen('~', view::HOME, 1));
    let mut hit = false;
    if cached {
        hit = restore(inputs, cache, bench).await?;
        // The cache is a file system of its own, over which no hard link leads.
        bench.export("UV_LINK_MODE", "copy");
    }
    bench.output("cache-hit", if hit { "true" } else { "false" });
    Ok(())
}

/// A uv.
struct Found {
    path: String,
    version: String,
}

/// The version that is asked for, as the package index takes it: `==0.5.*`, `>=0.4,<0.6`; empty for any.
async fn wanted(inputs: &Inputs, bench: &mut impl Bench) -> Result<String, Halt> {
    if let Some(version) = inputs.text("version") {
        return specifier(version);
    }
    let Some(name) = inputs.text("version-file") else { return Ok(String::new()) };
    let Some(path) = inside(bench.workspace(), name) else {
        return Err(Halt::invalid(format!("the input version-file '{name}' leaves the workspace")));
    };
    let workspace = bench.workspace().to_owned();
    let mut program = Program::new("/bin/sh", &["-c", "[ -f \"$1\" ] || exit 66; exec cat -- \"$1\"", "read", &path], &workspace);
    program.sink = Sink::Capture(MAX_FILE);
    let exit = bench.run(program).await?;
    if exit.code != 0 {
        return Err(Halt::invalid(format!("the file {name}, named by version-file, is not in the workspace")));
    }
    let content = String::from_utf8_lossy(&exit.output).into_owned();
    let version = of_file(name, &content).ok_or_else(|| Halt::invalid(format!("the file {name} names no version of uv")))?;
    specifier(&version)
}

fn of_file(name: &str, content: &str) -> Option<String> {
    if name.ends_with(".toml") {
        let toml: toml::Table = content.parse().ok()?;
        let own = toml.get("required-version");
        let tool = toml.get("tool").and_then(|tool| tool.get("uv")?.get("required-version"));
        return own.or(tool)?.as_str().map(str::to_owned);
    }
    // A line of requirements or of .tool-versions.
    content.lines().map(|line| line.split(['#', ';']).next().unwrap_or_default().trim()).find_map(|line| {
        let rest = line.strip_prefix("uv")?.trim_start();
        (rest.is_empty() || rest.starts_with(['=', '<', '>', '~', '!']) || line.starts_with("uv ")).then(|| rest.to_owned())
    })
}

fn specifier(text: &str) -> Result<String, Halt> {
    let text = text.trim().trim_start_matches('v');
    if matches!(text, "" | "latest" | "*") {
        return Ok(String::new());
    }
    let digits = text.chars().next().is_some_and(|c| c.is_ascii_digit());
    let whole = text.split('.').count() == 3 && !text.contains(['x', '*']);
    let written = match (digits, whole) {
        (true, true) => format!("=={text}"),
        (true, false) => format!("=={}.*", text.trim_end_matches(['x', '*', '.'])),
        (false, _) => text.strip_prefix('^').map_or(text.to_owned(), |rest| format!("~={rest}")),
    };
    let legal = |c: char| c.is_ascii_alphanumeric() || "<>=!~.,*+ ".contains(c);
    if written.chars().all(legal) { Ok(written) } else { Err(Halt::invalid(format!("'{text}' is no version of uv and no range of them"))) }
}

/// Whether a version is within a specifier. Only numbers are compared.
fn fits(version: &str, specifier: &str) -> bool {
    let numbers = |text: &str| text.split('.').map_while(|part| part.parse::<u32>().ok()).collect::<Vec<_>>();
    let here = numbers(version);
    specifier.split(',').map(str::trim).filter(|part| !part.is_empty()).all(|part| {
        let at = part.find(|c: char| c.is_ascii_digit()).unwrap_or(part.len());
        let (sign, rest) = (part[..at].trim(), &part[at..]);
        let there = numbers(rest.trim_end_matches(".*"));
        let begins = here.len() >= there.len() && here[..there.len()] == there[..];
        match sign {
            "==" | "===" => {
                if rest.ends_with(".*") {
                    begins
                } else {
                    here == there
                }
            }
            "!=" => !begins,
            ">=" => here >= there,
            "<=" => here <= there || begins,
            ">" => here > there && !begins,
            "<" => here < there,
            "~=" => here >= there && there.len() > 1 && here.len() >= there.len() && here[..there.len() - 1] == there[..there.len() - 1],
            _ => false,
        }
    })
}

/// The uv of this host, if it is one that is wanted.
async fn host_uv(wanted: &str, bench: &mut impl Bench) -> Result<Option<Found>, Halt> {
    let mut candidates: Vec<PathBuf> = ["/usr/local/bin/uv", "/usr/bin/uv"].iter().map(PathBuf::from).collect();
    candidates.extend(bench.host().interpreters.uv_programs.iter().cloned());
    for path in candidates.into_iter().filter(|path| path.is_file()) {
        for program in [path.clone(), path.with_file_name("uvx")] {
            if program.is_file() {
                bench.show(program);
            }
        }
        let path = path.display().to_string();
        if let Some(version) = version_of(&path, bench).await?
            && fits(&version, wanted)
        {
            return Ok(Some(Found { path, version }));
        }
    }
    Ok(None)
}

async fn version_of(path: &str, bench: &mut impl Bench) -> Result<Option<String>, Halt> {
    let mut program = Program::new(path, &["--version"], view::HOME);
    program.sink = Sink::Capture(1024);
    let exit = bench.run(program).await?;
    let said = String::from_utf8_lossy(&exit.output).into_owned();
    Ok(said.split_whitespace().nth(1).filter(|_| exit.code == 0).map(str::to_owned))
}

/// Installs uv from the package index or a folder of wheels, into a directory of the job's own.
async fn fetch(wanted: &str, bench: &mut impl Bench) -> Result<Found, Halt> {
    let roots = bench.host().interpreters.clone();
    let installed = tokio::task::spawn_blocking(move || interpreters::find(&roots)).await.unwrap_or_default();
    let usual = installed.iter().find(|one| !one.version.prerelease && !one.version.threaded).or(installed.first());
    let missing = |why: &str| {
        Halt::invalid(format!(
            "there is no uv{wanted} on this machine, and {why}; install uv on it, or grant the step the preset python-packages"
        ))
    };
    let interpreter = usual.ok_or_else(|| missing("no Python to fetch it with"))?;
    if let Some(prefix) = &interpreter.prefix {
        bench.show(prefix.clone());
    }
    let made = setup_python::make(interpreter, bench).await?;
    let directory = format!("{TOOL_CACHE}/uv/tool");
    let python = format!("{}/bin/python", made.directory);
    let requirement = format!("uv{wanted}");
    let mut program = Program::new(
        &python,
        &["-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade", "--target", &directory, &requirement],
        view::HOME,
    );
    program.powers = Powers::Network;
    if bench.run(program).await?.code != 0 {
        return Err(missing("it could not be fetched; the output of pip is above"));
    }
    let path = format!("{directory}/bin/uv");
    match version_of(&path, bench).await? {
        Some(version) => Ok(Found { path, version }),
        None => Err(missing("what was fetched cannot be executed")),
    }
}

/// Where `uvx` is. A uv that lies alone on this machine gets one that calls it.
async fn uvx(uv: &Found, directory: &str, bench: &mut impl Bench) -> Result<String, Halt> {
    let beside = format!("{directory}/uvx");
    // What comes from the index brings its own, and lies where only the job sees it.
    if uv.path.starts_with(TOOL_CACHE) || Path::new(&beside).is_file() {
        return Ok(beside);
    }
    let own = format!("{TOOL_CACHE}/uv/bin");
    let script = "mkdir -p -- \"$1\" && printf '#!/bin/sh\\nexec %s tool run \"$@\"\\n' \"$2\" > \"$1/uvx\" && chmod 755 \"$1/uvx\"";
    let program = Program::new("/bin/sh", &["-c", script, "write", &own, &uv.path], view::HOME);
    if bench.run(program).await?.code != 0 {
        return Err(Halt::invalid("uvx could not be written"));
    }
    bench.add_path(&own);
    Ok(format!("{own}/uvx"))
}

/// Lets uv find the interpreters of this host: each by its name with the version, in a directory of the search path.
async fn show_interpreters(bench: &mut impl Bench) -> Result<(), Halt> {
    let roots = bench.host().interpreters.clone();
    let installed = tokio::task::spawn_blocking(move || interpreters::find(&roots)).await.unwrap_or_default();
    let mut best: BTreeMap<String, Interpreter> = BTreeMap::new();
    for one in installed.into_iter().filter(|one| one.prefix.is_some()) {
        let mark = if one.version.threaded { "t" } else { "" };
        best.entry(format!("python{}.{}{mark}", one.version.major, one.version.minor)).or_insert(one);
    }
    if best.is_empty() {
        return Ok(());
    }
    let directory = format!("{TOOL_CACHE}/uv/pythons");
    let mut args = vec![
        "-c".to_owned(),
        "d=$1; shift; mkdir -p -- \"$d\" && while [ $# -gt 1 ]; do ln -sf -- \"$2\" \"$d/$1\" || exit; shift 2; done".to_owned(),
        "link".to_owned(),
        directory.clone(),
    ];
    for (name, one) in best {
        args.push(name);
        args.push(one.program.display().to_string());
        bench.show(one.prefix.unwrap_or_default());
    }
    let mut program = Program::new("/bin/sh", &[], view::HOME);
    program.args = args;
    if bench.run(program).await?.code != 0 {
        return Err(Halt::invalid("the interpreters of this machine could not be linked"));
    }
    bench.add_path(&directory);
    Ok(())
}

async fn activate(inputs: &Inputs, uv: &Found, bench: &mut impl Bench) -> Result<(), Halt> {
    let name = inputs.text("venv-path").unwrap_or(".venv");
    let base =
        inputs.text("working-directory").and_then(|path| inside(bench.workspace(), path)).unwrap_or_else(|| bench.workspace().to_owned());
    let path = if name.starts_with('/') { name.to_owned() } else { format!("{base}/{name}") };
    let mut args = vec!["venv", "--clear", path.as_str()];
    if let Some(version) = inputs.text("python-version") {
        args.splice(1..1, ["--python", version]);
    }
    let mut program = Program::new(&uv.path, &args, &base);
    program.env = vec![
        ("UV_PYTHON_DOWNLOADS".to_owned(), "never".to_owned()),
        ("PATH".to_owned(), format!("{TOOL_CACHE}/uv/pythons:{}", view::PATH)),
    ];
    if bench.run(program).await?.code != 0 {
        return Err(Halt::invalid("the environment could not be made; the output of uv is above"));
    }
    bench.export("VIRTUAL_ENV", &path);
    bench.add_path(&format!("{path}/bin"));
    bench.output("venv", &path);
    Ok(())
}

async fn restore(inputs: &Inputs, directory: String, bench: &mut impl Bench) -> Result<bool, Halt> {
    if let Some(version) = inputs.text("python-version") {
        // Only what is a version at all; which one it is, uv decides.
        Request::read(version, true).map_err(|error| Halt::invalid(format!("the input python-version: {error}")))?;
    }
    let mut patterns = inputs.lines("cache-dependency-glob");
    if patterns.is_empty() {
        patterns = [
            "**/*requirements*.txt",
            "**/*requirements*.in",
            "**/*constraints*.txt",
            "**/*constraints*.in",
            "**/pyproject.toml",
            "**/uv.lock",
            "**/*.py.lock",
        ]
        .map(str::to_owned)
        .to_vec();
    }
    let python = inputs.text("python-version").unwrap_or("any");
    let cache = PackageCache {
        name: format!("setup-uv-Linux-{}-{python}", std::env::consts::ARCH),
        paths: vec![directory],
        patterns: vec![patterns],
        suffix: inputs.text("cache-suffix").map(|suffix| format!("-{suffix}")).unwrap_or_default(),
        absent: Absent::Ignored,
    };
    cache.restore(bench).await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn versions_become_specifiers() {
        for (text, expected) in [
            ("0.5.3", "==0.5.3"),
            ("0.5.x", "==0.5.*"),
            ("0.5", "==0.5.*"),
            ("latest", ""),
            (">=0.4,<0.6", ">=0.4,<0.6"),
            ("v0.5.3", "==0.5.3"),
        ] {
            assert_eq!(specifier(text).unwrap(), expected, "{text}");
        }
        assert!(specifier("--index-url=x y; z").is_err());
    }

    #[test]
    fn specifiers_fit() {
        let table = [
            ("", true),
            ("==0.5.3", true),
            ("==0.5.4", false),
            ("==0.5.*", true),
            ("==0.4.*", false),
            (">=0.4,<0.6", true),
            (">=0.4,<0.5", false),
            ("~=0.5.1", true),
            ("~=0.4.1", false),
            ("!=0.5.3", false),
            (">0.5", false),
        ];
        for (specifier, expected) in table {
            assert_eq!(fits("0.5.3", specifier), expected, "{specifier}");
        }
    }

    #[test]
    fn files_name_a_version() {
        assert_eq!(of_file("uv.toml", "required-version = '>=0.5'").as_deref(), Some(">=0.5"));
        assert_eq!(of_file("pyproject.toml", "[tool.uv]\nrequired-version = '==0.5.3'").as_deref(), Some("==0.5.3"));
        assert_eq!(of_file("requirements.txt", "django\nuv==0.5.3 # pinned\n").as_deref(), Some("==0.5.3"));
        assert_eq!(of_file(".tool-versions", "uv 0.5.3\n").as_deref(), Some("0.5.3"));
        assert_eq!(of_file("requirements.txt", "uvicorn==1\n"), None);
    }
}
