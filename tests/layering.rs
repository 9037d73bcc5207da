//! The shape of the house, checked: who may use whom, what each floor must never know, and where dangerous things may stand.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// Package, its folder, and which of our packages it may use (build and normal dependencies, exactly).
const ARROWS: [(&str, &str, &[&str]); 11] = [
    ("caisson-model", "proto/model", &[]),
    ("caisson-expr", "proto/expr", &[]),
    ("caisson-proto", "proto", &["caisson-model"]),
    ("caisson-workflow", "controller/workflow", &["caisson-expr", "caisson-model"]),
    ("caisson-controller", "controller", &["caisson-expr", "caisson-model", "caisson-proto", "caisson-workflow"]),
    ("caisson-sandbox", "agent/sandbox", &[]),
    ("caisson-gateway", "agent/gateway", &[]),
    ("caisson-toolkit", "agent/toolkit", &["caisson-model"]),
    (
        "caisson-agent",
        "agent",
        &["caisson-expr", "caisson-gateway", "caisson-model", "caisson-proto", "caisson-sandbox", "caisson-toolkit"],
    ),
    ("caisson-selftest", "agent/selftest", &["caisson-agent", "caisson-model", "caisson-sandbox"]),
    (
        "caisson",
        ".",
        &[
            "caisson-agent",
            "caisson-controller",
            "caisson-expr",
            "caisson-gateway",
            "caisson-model",
            "caisson-proto",
            "caisson-sandbox",
            "caisson-selftest",
            "caisson-workflow",
        ],
    ),
];

/// Outside crates that belong to one floor: who may name them, tests included.
const OWNED: [(&str, &[&str]); 21] = [
    ("tonic", &["caisson-proto", "caisson-controller"]),
    ("tonic-prost", &["caisson-proto"]),
    ("tonic-prost-build", &["caisson-proto"]),
    ("prost", &["caisson-proto"]),
    ("protox", &["caisson-proto"]),
    ("rusqlite", &["caisson-controller"]),
    ("tokio-postgres", &["caisson-controller"]),
    ("rustls", &["caisson-proto", "caisson-controller", "caisson-gateway"]),
    ("tokio-rustls", &["caisson-proto", "caisson-controller", "caisson-gateway"]),
    ("tower-service", &["caisson-proto"]),
    ("rcgen", &["caisson-agent", "caisson-controller", "caisson-gateway"]),
    ("x509-parser", &["caisson-controller"]),
    ("aws-lc-rs", &["caisson-controller"]),
    ("zip", &["caisson-toolkit"]),
    ("granit-parser", &["caisson-workflow"]),
    ("seccompiler", &["caisson-sandbox"]),
    ("caps", &["caisson-sandbox"]),
    ("cgroups-rs", &["caisson-sandbox"]),
    ("clap", &["caisson"]),
    ("clap_complete", &["caisson"]),
    ("indicatif", &["caisson"]),
];

/// Folders that are pure: plain functions over plain data.
const PURE: [&str; 4] = ["proto/model/src", "proto/expr/src", "controller/workflow/src", "controller/src/core"];

/// What a pure folder never names.
const IMPURE: [&str; 12] = [
    "tokio",
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "ToSocketAddrs",
    "Instant::now",
    "SystemTime::now",
    "Timestamp::now",
];

const LONGEST_FILE: usize = 600;

const NO_NAMES: [&str; 9] = ["util", "utils", "helper", "helpers", "common", "misc", "stuff", "base", "prelude"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn metadata() -> Metadata {
    MetadataCommand::new().manifest_path(root().join("Cargo.toml")).no_deps().exec().unwrap()
}

/// A Rust file of the project.
struct Source {
    /// Its path from the root.
    path: String,
    /// Its whole text.
    text: String,
}

impl Source {
    /// Its code without comments, strings and tests, line breaks kept.
    fn code(&self) -> String {
        let text = match self.text.find("\n#[cfg(test)]\nmod tests {") {
            Some(end) => &self.text[..end],
            None => &self.text,
        };
        code_of(text)
    }
}

/// Blanks comments and the content of string literals.
fn code_of(text: &str) -> String {
    let bytes: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let starts = |prefix: &str| rest.iter().copied().take(prefix.len()).eq(prefix.chars());
        let word_before = code.chars().last().is_some_and(|c| c.is_alphanumeric() || c == '_');
        if starts("//") {
            at += rest.iter().position(|c| *c == '\n').unwrap_or(rest.len());
        } else if starts("/*") {
            let end = (2..rest.len()).find(|end| rest[*end - 1] == '*' && rest[*end] == '/').unwrap_or(rest.len() - 1);
            at += end + 1;
        } else if !word_before && (starts("r\"") || starts("r#") || starts("br\"") || starts("br#")) && raw_string(rest).is_some() {
            let length = raw_string(rest).unwrap();
            code.extend(rest[..length].iter().filter(|c| **c == '\n'));
            code.push_str("\"\"");
            at += length;
        } else if rest[0] == '"' {
            let mut end = 1;
            while end < rest.len() && rest[end] != '"' {
                if rest[end] == '\n' {
                    code.push('\n');
                }
                end += if rest[end] == '\\' { 2 } else { 1 };
            }
            code.push_str("\"\"");
            at += end + 1;
        } else if rest[0] == '\'' && (rest.get(1) == Some(&'\\') || rest.get(2) == Some(&'\'')) {
            let end = (2..rest.len())
                .find(|end| rest[*end] == '\'' && (rest[*end - 1] != '\\' || rest[*end - 2] == '\\'))
                .unwrap_or(rest.len() - 1);
            at += end + 1;
        } else {
            code.push(rest[0]);
            at += 1;
        }
    }
    code
}

/// The length of the raw string literal that begins here, if one does.
fn raw_string(text: &[char]) -> Option<usize> {
    let quote = text.iter().position(|c| *c == '"')?;
    let hashes = text[..quote].iter().filter(|c| **c == '#').count();
    if text[..quote].iter().any(|c| !matches!(c, 'b' | 'r' | '#')) {
        return None;
    }
    let mut end = quote + 1;
    while end < text.len() {
        if text[end] == '"' && text[end + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes {
            return Some(end + 1 + hashes);
        }
        end += 1;
    }
    None
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    for top in ["src", "proto", "controller", "agent", "tests", "benches", "examples"] {
        for entry in walkdir::WalkDir::new(root().join(top)).into_iter().filter_entry(|e| e.file_name() != "target") {
            let Ok(entry) = entry else { continue };
            if entry.path().extension().is_some_and(|extension| extension == "rs") {
                let path = entry.path().strip_prefix(root()).unwrap().display().to_string();
                found.push(Source { path, text: fs::read_to_string(entry.path()).unwrap() });
            }
        }
    }
    assert!(found.len() > 30, "only {} Rust files were found: the test looks in the wrong place", found.len());
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn none(what: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

#[test]
fn our_crates_use_each_other_only_along_the_arrows() {
    let metadata = metadata();
    let ours: BTreeSet<&str> = ARROWS.iter().map(|(name, ..)| *name).collect();
    let present: BTreeSet<&str> = metadata.packages.iter().map(|package| package.name.as_str()).collect();
    assert_eq!(present, ours, "the workspace's packages");
    for (name, folder, allowed) in ARROWS {
        let package = metadata.packages.iter().find(|package| package.name.as_str() == name).unwrap();
        assert_eq!(package.manifest_path.as_std_path(), root().join(folder).join("Cargo.toml"), "where {name} lies");
        let used = |kind: fn(DependencyKind) -> bool| -> BTreeSet<&str> {
            package.dependencies.iter().filter(|d| kind(d.kind) && ours.contains(d.name.as_str())).map(|d| d.name.as_str()).collect()
        };
        let allowed: BTreeSet<&str> = allowed.iter().copied().collect();
        let real = used(|kind| kind != DependencyKind::Development);
        none(&format!("{name} uses what lies above or beside it"), real.difference(&allowed).map(|d| d.to_string()).collect());
        // A test may not climb either, or the walls would only hold for half of the code.
        let tested = used(|kind| kind == DependencyKind::Development);
        none(&format!("tests of {name} use what lies above or beside it"), tested.difference(&allowed).map(|d| d.to_string()).collect());
    }
}

#[test]
fn an_outside_crate_that_belongs_to_one_floor_is_named_there_only() {
    let mut strays = Vec::new();
    for package in &metadata().packages {
        for dependency in &package.dependencies {
            if let Some((_, owners)) = OWNED.iter().find(|(name, _)| *name == dependency.name)
                && !owners.contains(&package.name.as_str())
            {
                strays.push(format!("{} names {}, which belongs to {}", package.name, dependency.name, owners.join(", ")));
            }
        }
    }
    none("strays", strays);
}

#[test]
fn versions_of_outside_crates_stand_in_one_place() {
    let mut strays = Vec::new();
    for (_, folder, _) in ARROWS {
        let manifest: toml::Table = toml::from_str(&fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap()).unwrap();
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for (name, value) in manifest.get(section).and_then(toml::Value::as_table).into_iter().flatten() {
                if value.get("workspace").and_then(toml::Value::as_bool) != Some(true) {
                    strays.push(format!("{folder}/Cargo.toml: {name}"));
                }
            }
        }
    }
    none("these do not say `workspace = true`", strays);
}

#[test]
fn pure_folders_know_no_files_sockets_clock_or_async() {
    let mut strays = Vec::new();
    for source in sources().iter().filter(|source| PURE.iter().any(|folder| source.path.starts_with(&format!("{folder}/")))) {
        for (number, line) in source.code().lines().enumerate() {
            for word in IMPURE.iter().chain(&["async fn", ".await"]).filter(|word| line.contains(**word)) {
                strays.push(format!("{}:{}: {word}", source.path, number + 1));
            }
        }
    }
    none("impure", strays);
}

#[test]
fn unsafe_code_stands_in_one_file() {
    let mut strays = Vec::new();
    for source in sources().iter().filter(|source| source.path != "agent/sandbox/src/sys.rs") {
        for (number, line) in code_of(&source.text).lines().enumerate() {
            let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            if words.any(|word| word == "unsafe") || line.contains("allow(unsafe_code)") {
                strays.push(format!("{}:{}", source.path, number + 1));
            }
        }
    }
    none("unsafe outside of agent/sandbox/src/sys.rs", strays);
}

#[test]
fn files_are_short_and_named_by_what_they_hold() {
    let mut strays = Vec::new();
    for source in sources() {
        let lines = source.text.lines().count();
        if lines > LONGEST_FILE {
            strays.push(format!("{}: {lines} lines, more than {LONGEST_FILE}", source.path));
        }
        let path = Path::new(&source.path);
        for name in path.with_extension("").components().map(|part| part.as_os_str().to_string_lossy().into_owned()) {
            if NO_NAMES.contains(&name.as_str()) {
                strays.push(format!("{}: {name} says nothing about what it holds", source.path));
            }
        }
    }
    none("strays", strays);
}

/// The modules of each crate and the edges between them, as far as the text shows them.
fn module_graph(folder: &str, sources: &[Source]) -> BTreeMap<String, BTreeSet<String>> {
    let prefix = if folder == "." { "src/".to_owned() } else { format!("{folder}/src/") };
    let files: Vec<(&Source, String)> = sources
        .iter()
        .filter_map(|source| {
            let inner = source.path.strip_prefix(&prefix)?.strip_suffix(".rs")?;
            let inner = inner.strip_suffix("/mod").unwrap_or(inner);
            Some((source, if matches!(inner, "lib" | "main") { String::new() } else { inner.replace('/', "::") }))
        })
        .collect();
    let modules: BTreeSet<&str> = files.iter().map(|(_, module)| module.as_str()).collect();
    // The deepest module that a path of names leads to; the rest of it are items.
    let resolve = |path: &str| -> Option<String> {
        let mut path = path.to_owned();
        loop {
            if modules.contains(path.as_str()) {
                return Some(path);
            }
            path.truncate(path.rfind("::")?);
        }
    };
    let mut graph = BTreeMap::new();
    for (source, module) in &files {
        let mut uses = BTreeSet::new();
        let code = source.code();
        for path in paths_of(&code) {
            let target = if let Some(rest) = path.strip_prefix("crate::") {
                resolve(rest)
            } else if let Some(rest) = path.strip_prefix("super::") {
                let parent = module.rsplit_once("::").map_or("", |(parent, _)| parent);
                resolve(&if parent.is_empty() { rest.to_owned() } else { format!("{parent}::{rest}") }).or_else(|| Some(parent.to_owned()))
            } else {
                let local = path.strip_prefix("self::").unwrap_or(&path);
                let child = if module.is_empty() { local.to_owned() } else { format!("{module}::{local}") };
                resolve(&child).filter(|found| found.len() > module.len())
            };
            if let Some(target) = target.filter(|target| target != module && !target.is_empty()) {
                uses.insert(target);
            }
        }
        // The root only hangs the modules up; nothing may come back to it, which another test holds.
        if !module.is_empty() {
            graph.insert(module.clone(), uses);
        }
    }
    graph
}

/// Every `a::b::c` of some code, with `{}` groups of `use` opened.
fn paths_of(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let chars: Vec<char> = code.chars().collect();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut at = 0;
    while at < chars.len() {
        if is_word(chars[at]) && (at == 0 || !(is_word(chars[at - 1]) || chars[at - 1] == ':')) {
            at = read_path(&chars, at, String::new(), &mut found);
        } else {
            at += 1;
        }
    }
    found
}

fn read_path(chars: &[char], mut at: usize, mut path: String, found: &mut Vec<String>) -> usize {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    loop {
        while at < chars.len() && is_word(chars[at]) {
            path.push(chars[at]);
            at += 1;
        }
        if !chars[at.min(chars.len())..].starts_with(&[':', ':']) {
            if path.contains("::") {
                found.push(path);
            }
            return at;
        }
        at += 2;
        path.push_str("::");
        if chars.get(at) == Some(&'{') {
            at += 1;
            while at < chars.len() && chars[at] != '}' {
                if is_word(chars[at]) {
                    at = read_path(chars, at, path.clone(), found);
                } else {
                    at += 1;
                }
            }
            return at + 1;
        }
    }
}

#[test]
fn no_import_runs_in_a_circle() {
    let sources = sources();
    let mut circles = Vec::new();
    for (name, folder, _) in ARROWS {
        let graph = module_graph(folder, &sources);
        for start in graph.keys() {
            // Breadth first from each module back to itself: the shortest circle through it.
            let mut came_from: BTreeMap<&String, &String> = BTreeMap::new();
            let mut queue: std::collections::VecDeque<&String> = [start].into();
            while let Some(module) = queue.pop_front() {
                for next in graph.get(module).into_iter().flatten() {
                    if next == start {
                        let mut circle = vec![module.as_str(), start.as_str()];
                        let mut back = module;
                        while back != start {
                            back = came_from[back];
                            circle.insert(0, back);
                        }
                        // Each circle is told once, from its first module in the alphabet.
                        if circle.iter().all(|other| *other >= start.as_str()) {
                            circles.push(format!("{name}: {}", circle.join(" -> ")));
                        }
                        queue.clear();
                        break;
                    }
                    if !came_from.contains_key(next) {
                        came_from.insert(next, module);
                        queue.push_back(next);
                    }
                }
            }
        }
    }
    none("circles", circles);
}

#[test]
fn nothing_is_named_through_the_root_of_its_own_crate() {
    let mut strays = Vec::new();
    for source in sources().iter().filter(|source| source.path.contains("src/")) {
        for (number, line) in source.code().lines().enumerate() {
            for (at, _) in line.match_indices("crate::") {
                let before = line[..at].chars().last();
                let names = &line[at + "crate::".len()..];
                // Items begin with a capital; modules, also several in braces, may be named.
                let item = names
                    .trim_start_matches(|c: char| c == '{' || c == '_' || c == ' ' || c == ',' || c.is_lowercase() || c.is_ascii_digit());
                let item = item.starts_with(char::is_uppercase);
                // `$crate::` in a macro and `other_crate::` are other things.
                if before.is_none_or(|c| !(c.is_alphanumeric() || c == '_' || c == '$')) && item {
                    strays.push(format!("{}:{}: {}", source.path, number + 1, line.trim()));
                }
            }
        }
    }
    none("named through the crate root", strays);
}

#[test]
fn the_scanner_sees_what_it_should() {
    let code = code_of("let a = \"unsafe // x\"; // unsafe\nlet b = r#\"std::fs \" \"#; /* tokio */ let c = '\"'; let d = '\\''; unsafe");
    assert!(code.contains("unsafe") && code.matches("unsafe").count() == 1, "{code}");
    assert!(!code.contains("std::fs") && !code.contains("tokio"), "{code}");
    let mut paths = paths_of("use crate::a::{b::C, d, e::{F, g}}; fn x() -> super::y::Z { w::v() }");
    paths.sort();
    assert_eq!(paths, ["crate::a::b::C", "crate::a::d", "crate::a::e::F", "crate::a::e::g", "super::y::Z", "w::v"]);
    let file = |path: &str, text: &str| Source { path: path.to_owned(), text: text.to_owned() };
    let graph =
        module_graph(".", &[file("src/main.rs", "mod a;"), file("src/a.rs", "use b::C; mod b;"), file("src/a/b.rs", "use crate::a::X;")]);
    assert!(graph["a"].contains("a::b") && graph["a::b"].contains("a"), "{graph:?}");
}

#[test]
fn paths_named_in_the_architecture_exist() {
    let Ok(text) = fs::read_to_string(root().join("ARCHITECTURE.md")) else {
        // Before the document is there, there is nothing that could be wrong in it.
        return;
    };
    let mut missing = Vec::new();
    for quoted in text.split('`').skip(1).step_by(2) {
        let path = quoted.split(['#', ':', ' ']).next().unwrap_or_default().trim_end_matches('/');
        let is_path = path.contains('/')
            && ["src/", "proto/", "controller/", "agent/", "tests/", "examples/", ".ci/"].iter().any(|top| path.starts_with(top));
        if is_path && !path.contains(['*', '{', '<']) && !root().join(path).exists() {
            missing.push(path.to_owned());
        }
    }
    none("ARCHITECTURE.md names what is not there", missing);
}
