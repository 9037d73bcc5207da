//! `actions/setup-node`: one of the Node.js installations that this host has.

use crate::actions::bench::{Bench, Inputs, inside};
use crate::actions::nodes::{self, Node, Request, Triple};
use crate::actions::package_cache::{Absent, PackageCache};
use crate::program::{Halt, Program, Sink};
use crate::view;

/// The most bytes of a file that names a version.
const MAX_FILE: usize = 1 << 20;

/// Puts it into the search path of later steps, and restores the package manager's cache.
///
/// # Errors
/// A version that this host does not have, with those that it has; or the [`Halt`] that ends the step.
pub async fn run(inputs: &Inputs, bench: &mut impl Bench) -> Result<(), Halt> {
    let host = if std::env::consts::ARCH == "aarch64" { "arm64" } else { "x64" };
    if let Some(architecture) = inputs.text("architecture").filter(|text| !text.eq_ignore_ascii_case(host)) {
        return Err(Halt::invalid(format!("the input architecture is '{architecture}', but this agent's machine is {host}")));
    }
    let wanted = wanted(inputs, bench).await?;
    let request =
        Request::read(wanted.as_deref().unwrap_or_default()).map_err(|error| Halt::invalid(format!("the Node.js version {error}")))?;
    let node = choose(&request, wanted.as_deref(), bench).await?;
    let (major, minor, patch) = node.version.unwrap_or_default();
    if let Some(prefix) = &node.prefix {
        bench.show(prefix.clone());
    }
    if let Some(directory) = node.program.parent().filter(|_| node.prefix.is_some()) {
        bench.add_path(&directory.display().to_string());
    }
    bench.output("node-version", &format!("v{major}.{minor}.{patch}"));
    bench.say(&format!("Node.js {major}.{minor}.{patch} from {}", node.program.display())).await;
    if let Some(registry) = inputs.text("registry-url") {
        registry_file(inputs, registry, bench).await?;
    }
    match inputs.text("cache") {
        None => Ok(()),
        Some(manager) => restore(manager, inputs, &format!("{major}.{minor}.{patch}"), bench).await,
    }
}

async fn wanted(inputs: &Inputs, bench: &mut impl Bench) -> Result<Option<String>, Halt> {
    if let Some(version) = inputs.text("node-version") {
        return Ok(Some(version.to_owned()));
    }
    let Some(name) = inputs.text("node-version-file") else { return Ok(None) };
    let Some(path) = inside(bench.workspace(), name) else {
        return Err(Halt::invalid(format!("the input node-version-file '{name}' leaves the workspace")));
    };
    let workspace = bench.workspace().to_owned();
    let mut program = Program::new("/bin/sh", &["-c", "[ -f \"$1\" ] || exit 66; exec cat -- \"$1\"", "read", &path], &workspace);
    program.sink = Sink::Capture(MAX_FILE);
    let exit = bench.run(program).await?;
    if exit.code != 0 {
        return Err(Halt::invalid(format!("the file {name}, named by node-version-file, is not in the workspace")));
    }
    let content = String::from_utf8_lossy(&exit.output).into_owned();
    of_file(name, &content).map(Some).ok_or_else(|| Halt::invalid(format!("the file {name} names no version of Node.js")))
}

/// The version in `.nvmrc`, `.node-version`, `.tool-versions` or `package.json`.
fn of_file(name: &str, content: &str) -> Option<String> {
    if name.ends_with("package.json") {
        let json: serde_json::Value = serde_json::from_str(content).ok()?;
        let volta = json["volta"]["node"].as_str();
        let engine = json["devEngines"]["runtime"]["version"].as_str();
        return volta.or(engine).or(json["engines"]["node"].as_str()).map(str::to_owned);
    }
    let lines = content.lines().map(|line| line.split('#').next().unwrap_or_default().trim()).filter(|line| !line.is_empty());
    for line in lines {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("nodejs" | "node"), Some(version)) => return Some(version.to_owned()),
            (Some(version), None) => return Some(version.to_owned()),
            _ => {}
        }
    }
    None
}

async fn choose(request: &Request, wanted: Option<&str>, bench: &mut impl Bench) -> Result<Node, Halt> {
    let mut known = Vec::new();
    for node in nodes::find(&bench.host().interpreters) {
        let version = match node.version {
            Some(version) => Some(version),
            None => ask(&node, bench).await?,
        };
        if let Some(version) = version {
            known.push(Node { version: Some(version), ..node });
        }
    }
    known.sort_by_key(|node| std::cmp::Reverse(node.version));
    if wanted.is_none()
        && let Some(system) = known.iter().find(|node| node.prefix.is_none())
    {
        return Ok(system.clone());
    }
    known.iter().find(|node| node.version.is_some_and(|version| request.fits(version))).cloned().ok_or_else(|| {
        let list: Vec<String> = known.iter().map(ToString::to_string).collect();
        let has = if list.is_empty() { "none".to_owned() } else { list.join(", ") };
        Halt::invalid(format!(
            "no installed Node.js is '{}'; this machine has {has}; install it (for example with nvm or fnm, or below /opt/hostedtoolcache/node), or ask for one of these",
            wanted.unwrap_or("any version")
        ))
    })
}

async fn ask(node: &Node, bench: &mut impl Bench) -> Result<Option<Triple>, Halt> {
    let mut program = Program::new(&node.program.display().to_string(), &["--version"], view::HOME);
    program.sink = Sink::Capture(1024);
    let exit = bench.run(program).await?;
    Ok(nodes::triple(&String::from_utf8_lossy(&exit.output)).filter(|_| exit.code == 0))
}

/// What `npm publish` and private scopes read; the token itself stays a variable.
async fn registry_file(inputs: &Inputs, registry: &str, bench: &mut impl Bench) -> Result<(), Halt> {
    let url = format!("{}/", registry.trim_end_matches('/'));
    let bare = url.split_once(':').map_or(url.as_str(), |(_, rest)| rest);
    let scope = inputs.text("scope").map(|scope| format!("@{}:", scope.trim_start_matches('@'))).unwrap_or_default();
    let text = format!("{bare}:_authToken=${{NODE_AUTH_TOKEN}}\n{scope}registry={url}\n");
    let path = format!("{}/.npmrc", crate::contexts::TEMP);
    let mut program = Program::new("/bin/sh", &["-c", "cat > \"$1\"", "write", &path], view::HOME);
    program.stdin = crate::program::Input::Bytes(text.into_bytes());
    if bench.run(program).await?.code != 0 {
        return Err(Halt::invalid(format!("{path} could not be written")));
    }
    bench.export("NPM_CONFIG_USERCONFIG", &path);
    if bench.variable("NODE_AUTH_TOKEN").is_none() {
        bench.export("NODE_AUTH_TOKEN", "XXXXX-XXXXX-XXXXX-XXXXX");
    }
    Ok(())
}

async fn restore(manager: &str, inputs: &Inputs, version: &str, bench: &mut impl Bench) -> Result<(), Halt> {
    let (directory, files): (&str, &[&str]) = match manager {
        "npm" => ("~/.npm", &["package-lock.json", "npm-shrinkwrap.json", "yarn.lock"]),
        "yarn" => ("~/.cache/yarn", &["yarn.lock"]),
        "pnpm" => ("~/.local/share/pnpm/store", &["pnpm-lock.yaml"]),
        other => return Err(Halt::invalid(format!("the input cache is '{other}', where npm, yarn or pnpm is wanted"))),
    };
    let mut patterns = inputs.lines("cache-dependency-path");
    if patterns.is_empty() {
        patterns = files.iter().map(|file| format!("**/{file}")).collect();
    }
    let cache = PackageCache {
        name: format!("node-cache-Linux-{}-{manager}-{version}", std::env::consts::ARCH),
        paths: vec![directory.to_owned()],
        patterns: vec![patterns],
        suffix: String::new(),
        absent: Absent::Skipped,
    };
    let hit = cache.restore(bench).await?;
    bench.output("cache-hit", if hit { "true" } else { "false" });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_name_a_version() {
        let table = [
            (".nvmrc", "# ours\nv20.11.1\n", Some("v20.11.1")),
            (".node-version", "20\n", Some("20")),
            (".tool-versions", "python 3.12\nnodejs 20.1.0\n", Some("20.1.0")),
            ("package.json", r#"{"engines": {"node": ">=18"}}"#, Some(">=18")),
            ("sub/package.json", r#"{"volta": {"node": "20.1.0"}, "engines": {"node": ">=18"}}"#, Some("20.1.0")),
            ("package.json", "{}", None),
            (".nvmrc", "\n", None),
        ];
        for (name, content, expected) in table {
            assert_eq!(of_file(name, content).as_deref(), expected, "{name}");
        }
    }
}
