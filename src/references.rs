//! The texts of a checkout that a workflow refers to: local actions and called workflows, and what these refer to in turn.
//! They go with the submission, since what every step may do is decided before anything runs.

use std::io::Read;
use std::path::Path;

use caisson_workflow::local_directory;
use indexmap::IndexMap;

/// A text longer than this is not taken; nobody writes such an action, and its absence is said when it is planned.
const LONGEST: u64 = 1 << 20;
/// How many texts one workflow may refer to.
const MOST: usize = 500;

/// The texts that `text` refers to, by their path in the checkout.
pub(crate) fn texts(checkout: &Path, text: &str) -> IndexMap<String, String> {
    let mut found: IndexMap<String, String> = IndexMap::new();
    let mut open: Vec<String> = local_uses(text);
    while let Some(uses) = open.pop() {
        let Some(path) = local_directory(&uses) else { continue };
        let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
        for candidate in [path.clone(), below("action.yml"), below("action.yaml")] {
            if found.len() >= MOST || found.contains_key(&candidate) {
                continue;
            }
            if let Some(text) = read(checkout, &candidate) {
                open.extend(local_uses(&text));
                found.insert(candidate, text);
            }
        }
    }
    found
}

/// What follows `uses:` in a text and begins with `./`. Read by eye and not by YAML: what is no reference after all is only a
/// text too many, which nothing asks for.
fn local_uses(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("uses") {
        let rest = text[at + 4..].trim_start_matches(['"', '\'']).trim_start();
        let Some(value) = rest.strip_prefix(':') else { continue };
        let value = value.trim_start();
        // An anchor may stand before the value.
        let value = value.strip_prefix('&').map_or(value, |rest| rest.split_once(char::is_whitespace).map_or("", |(_, value)| value));
        let value = value.trim_start_matches(['"', '\'']);
        let end = value.find(['"', '\'', '\n', '\r', ',', '}', ' ', '\t']).unwrap_or(value.len());
        if value.starts_with("./") {
            found.push(value[..end].to_owned());
        }
    }
    found
}

/// A text of the checkout. Links are followed only where they stay inside.
fn read(checkout: &Path, path: &str) -> Option<String> {
    let full = checkout.join(path).canonicalize().ok()?;
    if !full.starts_with(checkout) || !full.is_file() {
        return None;
    }
    let mut text = String::new();
    let length = crate::regular::open(&full).ok()?.take(LONGEST + 1).read_to_string(&mut text).ok()?;
    (length as u64 <= LONGEST).then_some(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn references_are_followed_and_stay_in_the_checkout() {
        let dir = tempfile::tempdir().unwrap();
        let checkout = dir.path().canonicalize().unwrap().join("c");
        let write = |path: &str, text: &str| {
            let path = checkout.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("a/action.yml", "runs:\n  steps:\n    - uses: './b/'\n    - uses: ./a\n");
        write("b/action.yaml", "runs: {using: composite}");
        write(".github/workflows/called.yml", "on: workflow_call");
        write("action.yml", "top");
        std::fs::write(dir.path().join("outside.yml"), "secret").unwrap();
        std::os::unix::fs::symlink(dir.path().join("outside.yml"), checkout.join("b/action.yml")).unwrap();
        let text =
            "x:\n  - {uses: ./a, with: {}}\n  - \"uses\": ./\n  - uses: &x ./.github/workflows/called.yml\n  - uses: ./../outside.yml\n";
        let mut found: Vec<String> = texts(&checkout, text).into_keys().collect();
        found.sort();
        assert_eq!(found, [".github/workflows/called.yml", "a/action.yml", "action.yml", "b/action.yaml"]);
    }
}
