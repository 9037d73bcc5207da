//! The filters of `on:`, and the patterns that they are written in.

use caisson_expr::{Object, Value};

use crate::events::Trigger;
use crate::yaml::Node;

/// Whether the filters of an event let it start the workflow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Starts,
    /// They do not, for this reason.
    Filtered(String),
}

/// Activities of a pull request that start a workflow which names none.
const USUAL: [&str; 3] = ["opened", "synchronize", "reopened"];

/// Applies the filters: branches, tags and types by what the `github` context says, paths by the files that the event changed. Where
/// nobody knows those, paths keep nothing back; see [`unanswered`].
pub(crate) fn verdict(trigger: &Trigger<'_>, github: &serde_json::Value, changes: Option<&[String]>) -> Verdict {
    match named(trigger, github) {
        Verdict::Starts => changed(trigger, github, changes),
        filtered => filtered,
    }
}

/// Applies `paths` and `paths-ignore`, which say nothing of tags.
fn changed(trigger: &Trigger<'_>, github: &serde_json::Value, changes: Option<&[String]>) -> Verdict {
    let tag = trigger.event == "push" && github["ref"].as_str().is_some_and(|reference| reference.starts_with("refs/tags/"));
    let patterns = trigger.details.and_then(|details| Patterns::of(details, "paths"));
    let (Some(changes), Some(patterns), false) = (changes, patterns, tag) else { return Verdict::Starts };
    if changes.iter().any(|path| patterns.pass(path)) {
        return Verdict::Starts;
    }
    let what = match changes {
        [] => "no file changed".to_owned(),
        [one] => format!("only {one} changed"),
        [one, ..] => format!("{} files changed, {one} among them", changes.len()),
    };
    let word = if patterns.ignore { "matches all of it" } else { "matches none of it" };
    Verdict::Filtered(format!("{what}; `{}` {word}", patterns.key("paths")))
}

fn named(trigger: &Trigger<'_>, github: &serde_json::Value) -> Verdict {
    let Value::Object(github) = Value::from_json(github) else { return Verdict::Starts };
    if trigger.event == "pull_request" && trigger.details.is_none_or(|details| details.get("types").is_none()) {
        let action = match github.get("event") {
            Some(Value::Object(event)) => event.get("action").map(Value::to_text),
            _ => None,
        };
        if let Some(action) = action.filter(|action| !USUAL.contains(&action.as_str())) {
            return Verdict::Filtered(format!("the activity '{action}' is none of those that count without `types`: {}", USUAL.join(", ")));
        }
    }
    let Some(details) = trigger.details else { return Verdict::Starts };
    let text = |name: &str| github.get(name).map(Value::to_text).filter(|text| !text.is_empty());
    match trigger.event.as_str() {
        "push" => {
            let Some(reference) = text("ref") else { return Verdict::Starts };
            let (branches, tags) = (Patterns::of(details, "branches"), Patterns::of(details, "tags"));
            if let Some(branch) = reference.strip_prefix("refs/heads/") {
                refuse(branches, tags.is_some(), "branches", "branch", branch)
            } else if let Some(tag) = reference.strip_prefix("refs/tags/") {
                refuse(tags, branches.is_some(), "tags", "tag", tag)
            } else {
                Verdict::Starts
            }
        }
        "pull_request" | "merge_group" => {
            if let Some(verdict) = unwanted_type(details, &github) {
                return verdict;
            }
            match text("base_ref") {
                Some(base) => refuse(Patterns::of(details, "branches"), false, "branches", "base branch", &base),
                None => Verdict::Starts,
            }
        }
        _ => unwanted_type(details, &github).unwrap_or(Verdict::Starts),
    }
}

/// The filters of an event that a submission without a list of changed files cannot answer.
pub(crate) fn unanswered(trigger: &Trigger<'_>) -> Vec<&'static str> {
    let has = |key: &&'static str| trigger.details.is_some_and(|details| details.get(key).is_some());
    ["paths", "paths-ignore"].into_iter().filter(has).collect()
}

fn unwanted_type(details: &Node, github: &Object) -> Option<Verdict> {
    let types: Vec<String> = details.get("types")?.one_or_many().into_iter().filter_map(Node::text).collect();
    let Value::Object(event) = github.get("event")? else { return None };
    let action = event.get("action")?.to_text();
    let wanted = types.contains(&action);
    (!wanted).then(|| Verdict::Filtered(format!("the activity '{action}' is none of `types`: {}", types.join(", "))))
}

fn refuse(patterns: Option<Patterns>, other_kind_given: bool, key: &str, word: &str, name: &str) -> Verdict {
    match patterns {
        // With filters for the other kind of reference only, this kind never starts the workflow.
        None if other_kind_given => {
            Verdict::Filtered(format!("a push of the {word} '{name}' does not match, only the other kind is listed"))
        }
        Some(patterns) if !patterns.pass(name) => Verdict::Filtered(format!("the {word} '{name}' does not match `{}`", patterns.key(key))),
        _ => Verdict::Starts,
    }
}

struct Patterns {
    list: Vec<String>,
    ignore: bool,
}

impl Patterns {
    fn of(details: &Node, key: &str) -> Option<Patterns> {
        let list = |node: &Node| node.one_or_many().into_iter().filter_map(Node::text).collect();
        match (details.get(key), details.get(&format!("{key}-ignore"))) {
            (Some(node), _) => Some(Patterns { list: list(node), ignore: false }),
            (None, Some(node)) => Some(Patterns { list: list(node), ignore: true }),
            (None, None) => None,
        }
    }

    fn key(&self, key: &str) -> String {
        if self.ignore { format!("{key}-ignore") } else { key.to_owned() }
    }

    /// The last pattern that matches decides; one with a leading `!` takes away what earlier ones gave.
    fn pass(&self, name: &str) -> bool {
        let mut matched = false;
        for pattern in &self.list {
            match pattern.strip_prefix('!') {
                Some(negated) if !self.ignore => matched &= !matches(negated, name),
                _ => matched |= matches(pattern, name),
            }
        }
        matched != self.ignore
    }
}

enum Piece {
    /// `**`: anything.
    Any,
    /// `**/` at the beginning of a part: any directories, also none.
    Directories,
    /// `*`: anything without a slash.
    Segment,
    /// One character, this often.
    One(Class, Often),
}

enum Class {
    Literal(char),
    Set(Vec<(char, char)>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Often {
    Once,
    /// `?`: at most once.
    Maybe,
    /// `+`: at least once.
    Repeated,
}

impl Class {
    fn has(&self, c: char) -> bool {
        match self {
            Class::Literal(literal) => *literal == c,
            Class::Set(ranges) => ranges.iter().any(|(from, to)| (*from..=*to).contains(&c)),
        }
    }
}

/// Whether a pattern of the documentation's filter syntax matches the whole of `text`. Takes time of pattern times text.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let pieces = pieces(pattern);
    let text: Vec<char> = text.chars().collect();
    // reached[i]: the pieces so far can match the first i characters.
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    for piece in &pieces {
        let mut next = vec![false; text.len() + 1];
        match piece {
            Piece::Any | Piece::Segment => {
                let mut open = false;
                for at in 0..=text.len() {
                    if at > 0 && matches!(piece, Piece::Segment) && text[at - 1] == '/' {
                        open = false;
                    }
                    open |= reached[at];
                    next[at] = open;
                }
            }
            Piece::Directories => {
                let mut open = false;
                for at in 0..=text.len() {
                    // Here, or behind any slash that comes later.
                    next[at] = reached[at] || (open && text[at - 1] == '/');
                    open |= reached[at];
                }
            }
            Piece::One(class, often) => {
                for at in 0..=text.len() {
                    let from_before = at > 0 && class.has(text[at - 1]);
                    let repeated = *often == Often::Repeated && at > 0 && next[at - 1];
                    next[at] = (*often == Often::Maybe && reached[at]) || (from_before && (reached[at - 1] || repeated));
                }
            }
        }
        reached = next;
    }
    reached[text.len()]
}

fn pieces(pattern: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut rest = pattern.chars().peekable();
    let mut at_start = true;
    while let Some(c) = rest.next() {
        let begins = std::mem::replace(&mut at_start, c == '/');
        let class = match c {
            '*' if rest.next_if_eq(&'*').is_some() => {
                if begins && rest.next_if_eq(&'/').is_some() {
                    pieces.push(Piece::Directories);
                    at_start = true;
                } else {
                    pieces.push(Piece::Any);
                }
                continue;
            }
            '*' => {
                pieces.push(Piece::Segment);
                continue;
            }
            '[' => {
                let mut inside: Vec<char> = Vec::new();
                while let Some(c) = rest.next_if(|c| *c != ']') {
                    inside.push(c);
                }
                rest.next();
                Class::Set(ranges(&inside))
            }
            '\\' => Class::Literal(rest.next().unwrap_or('\\')),
            c => Class::Literal(c),
        };
        let often = if rest.next_if_eq(&'?').is_some() {
            Often::Maybe
        } else if rest.next_if_eq(&'+').is_some() {
            Often::Repeated
        } else {
            Often::Once
        };
        pieces.push(Piece::One(class, often));
    }
    pieces
}

fn ranges(inside: &[char]) -> Vec<(char, char)> {
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < inside.len() {
        if at + 2 < inside.len() && inside[at + 1] == '-' {
            ranges.push((inside[at], inside[at + 2]));
            at += 3;
        } else {
            ranges.push((inside[at], inside[at]));
            at += 1;
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_documented() {
        for (pattern, name, expected) in [
            ("feature/*", "feature/my-branch", true),
            ("feature/*", "feature/beta-a/my-branch", false),
            ("feature/**", "feature/beta-a/my-branch", true),
            ("main", "main", true),
            ("main", "mainline", false),
            ("*", "main", true),
            ("*", "releases/1", false),
            ("**", "all/the/branches", true),
            ("*feature", "ver-10-feature", true),
            ("v2*", "v2.9", true),
            ("v[12].[0-9]+.[0-9]+", "v1.10.1", true),
            ("v[12].[0-9]+.[0-9]+", "v3.1.1", false),
            ("*.jsx?", "page.js", true),
            ("*.jsx?", "page.jsx", true),
            ("*.jsx?", "page.jsxx", false),
            ("docs/**/*.md", "docs/a/b/readme.md", true),
            ("\\*", "*", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    /// The documentation's table of path patterns, each with what it says that they match, and near misses.
    #[test]
    fn path_patterns_match_as_documented() {
        for (pattern, hits, misses) in [
            ("*", &["README.md", "server.rb"][..], &["docs/server.rb"][..]),
            ("*.jsx?", &["page.js", "page.jsx"], &["docs/page.js"]),
            ("**", &["all/the/files.md", "a"], &[]),
            ("*.js", &["app.js", "index.js"], &["js/app.js", "app.jsx"]),
            ("**.js", &["index.js", "js/index.js", "src/js/app.js"], &["index.jsx"]),
            ("docs/*", &["docs/README.md", "docs/file.txt"], &["docs/a/b.md", "docs"]),
            ("docs/**", &["docs/README.md", "docs/mona/octocat.txt"], &["doc/a", "docs", "a/docs/b"]),
            ("docs/**/*.md", &["docs/README.md", "docs/mona/hello-world.md", "docs/a/markdown/file.md"], &["docs/a.txt", "x/docs/a.md"]),
            ("**/docs/**", &["docs/hello.md", "dir/docs/my-file.txt", "space/docs/plan/space.doc"], &["mydocs/a", "docs"]),
            ("**/README.md", &["README.md", "js/README.md"], &["js/MYREADME.md"]),
            ("**/*src/**", &["a/src/app.js", "my-src/code/js/app.js"], &["src.js", "a/srcs/b"]),
            ("**/*-post.md", &["my-post.md", "path/their-post.md"], &["post.md"]),
            ("**/migrate-*.sql", &["migrate-10909.sql", "db/migrate-v1.0.sql", "db/sept/migrate-v1.sql"], &["db/premigrate-1.sql"]),
            ("a/**/b", &["a/b", "a/x/b", "a/x/y/b"], &["a/xb", "ab"]),
            ("a**/b", &["a/b", "ax/y/b"], &["ab"]),
        ] {
            for (names, expected) in [(hits, true), (misses, false)] {
                names.iter().for_each(|name| assert_eq!(matches(pattern, name), expected, "{pattern} {name}"));
            }
        }
    }

    #[test]
    fn paths_are_taken_back_and_given_again() {
        let patterns = |ignore, list: &[&str]| Patterns { list: list.iter().map(|p| (*p).to_owned()).collect(), ignore };
        let one = patterns(false, &["*.md", "!README.md"]);
        assert!(one.pass("hello.md") && !one.pass("README.md") && !one.pass("docs/hello.md"));
        let again = patterns(false, &["*.md", "!README.md", "README*"]);
        assert!(again.pass("hello.md") && again.pass("README.md") && again.pass("README.doc"));
        let sub = patterns(false, &["sub-project/**", "!sub-project/docs/**"]);
        assert!(sub.pass("sub-project/index.js") && sub.pass("sub-project/src/index.js") && !sub.pass("sub-project/docs/readme.md"));
    }

    #[test]
    fn the_last_matching_pattern_decides() {
        let patterns = |ignore, list: &[&str]| Patterns { list: list.iter().map(|p| (*p).to_owned()).collect(), ignore };
        let release = patterns(false, &["releases/**", "!releases/**-alpha"]);
        assert!(release.pass("releases/10"));
        assert!(!release.pass("releases/10-alpha"));
        assert!(!release.pass("main"));
        let back = patterns(false, &["releases/**", "!releases/**-alpha", "releases/1-alpha"]);
        assert!(back.pass("releases/1-alpha"));
        assert!(!patterns(true, &["main"]).pass("main"));
        assert!(patterns(true, &["main"]).pass("other"));
    }
}
