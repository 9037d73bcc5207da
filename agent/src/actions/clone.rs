//! Checking out a repository of a forge: git runs inside the sandbox of the step and reaches what the step's grant says.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::actions::bench::Bench;
use crate::contexts::SCRIPTS;
use crate::program::{Halt, Powers, Program, Sink};

/// Fetches one commit, by its name or else by the reference that holds it, and makes the tree what it was then. No hook, no
/// credential, no configuration of anybody, no protocol but these two.
const SCRIPT: &str = r#"
set -eu
[ "$4" = keep ] || find "$1" -mindepth 1 -delete
mkdir -p -- "$1"
cd -- "$1"
# What an earlier step left in there would be git's configuration.
rm -rf -- .git
git init --quiet --initial-branch=main .
git -c protocol.allow=never -c protocol.https.allow=always -c protocol.http.allow=always fetch --quiet --no-tags --depth=1 -- "$2" "$3" \
  || git -c protocol.allow=never -c protocol.https.allow=always -c protocol.http.allow=always fetch --quiet --no-tags --depth=100 -- "$2" "$5"
git -c advice.detachedHead=false checkout --quiet --force --detach "$3"
[ "$(git rev-parse HEAD)" = "$3" ]
"#;

/// Clones `url` at the run's commit into `directory`.
///
/// # Errors
/// No network, or git fails.
pub async fn run(url: &str, directory: &str, keep: bool, bench: &mut impl Bench) -> Result<(), Halt> {
    let (commit, reference) = (bench.github("sha"), bench.github("ref"));
    if !url.starts_with("https://") && !url.starts_with("http://") {
        return Err(Halt::invalid(format!("the repository's address '{url}' is neither https nor http")));
    }
    if !bench.has_network() {
        return Err(Halt::invalid(format!(
            "the repository {url} cannot be cloned: the step has no network; the controller grants it for repositories of its configuration"
        )));
    }
    bench.say(&format!("Cloning {url} at {commit} into {directory}")).await;
    let workspace = bench.workspace().to_owned();
    let mut program = Program::new(
        "/bin/sh",
        &["-c", SCRIPT, "checkout", directory, url, &commit, if keep { "keep" } else { "clean" }, &reference],
        &workspace,
    );
    program.powers = Powers::Network;
    program.env = environment();
    if let Some(token) = bench.clone_credential() {
        // In a file of this one sandbox: neither a command line nor an environment shows it, and nothing of it stays in the clone.
        let path = format!("{SCRIPTS}/credential");
        program.env.retain(|(name, _)| name != "GIT_CONFIG_GLOBAL");
        program.env.push(("GIT_CONFIG_GLOBAL".to_owned(), path.clone()));
        program.files.push((path, credential(url, &token)));
    }
    match bench.run(program).await?.code {
        0 => {
            bench.output("commit", &commit);
            bench.output("ref", &reference);
            Ok(())
        }
        code => Err(Halt::invalid(format!("{url} could not be cloned at {commit} (exit code {code}); git's words are above"))),
    }
}

/// A configuration of git that sends the token to this repository and to nobody else, whoever redirects.
fn credential(url: &str, token: &[u8]) -> Vec<u8> {
    let basic = BASE64.encode([b"x-access-token:", token].concat());
    let url = url.replace('\\', "\\\\").replace('"', "\\\"");
    format!("[http]\n\tfollowRedirects = false\n[http \"{url}\"]\n\textraHeader = Authorization: Basic {basic}\n").into_bytes()
}

/// What keeps git from anybody's configuration and from asking.
pub(super) fn environment() -> Vec<(String, String)> {
    [("GIT_CONFIG_GLOBAL", "/dev/null"), ("GIT_CONFIG_SYSTEM", "/dev/null"), ("GIT_TERMINAL_PROMPT", "0"), ("GIT_ASKPASS", "/bin/false")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
}

/// A repository that is not the run's own.
#[derive(Clone, Debug)]
pub struct Other<'i> {
    /// `owner/name`.
    pub repository: &'i str,
    /// Where it lies.
    pub server: &'i str,
    /// A branch, a tag or a commit; `HEAD` for its default branch.
    pub reference: &'i str,
    /// How many commits come along; `0` for all of them.
    pub depth: &'i str,
    /// `true`, `recursive` or `false`.
    pub submodules: &'i str,
    /// How git is to read the folders or patterns that are wanted, and those, one per line; `None` for the whole tree.
    pub sparse: Option<(&'static str, String)>,
}

impl Other<'_> {
    /// Its address and the number of commits.
    fn checked(&self) -> Result<(String, u32), String> {
        let name = |part: &str| {
            !part.is_empty() && !part.starts_with('.') && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        };
        if !self.repository.split_once('/').is_some_and(|(owner, own)| name(owner) && name(own)) {
            return Err(format!("the input repository '{}' is not OWNER/NAME", self.repository));
        }
        let server = self.server.trim_end_matches('/');
        if !["https://", "http://"].iter().any(|scheme| server.starts_with(scheme))
            || server.contains(|c: char| c.is_whitespace() || c == '@')
        {
            return Err(format!("the input github-server-url '{}' is no https or http address", self.server));
        }
        let reference = self.reference;
        if reference.is_empty()
            || reference.starts_with(['-', '+'])
            || reference.contains(|c: char| c.is_whitespace() || c.is_control() || c == ':')
        {
            return Err(format!("the input ref '{reference}' names no revision"));
        }
        let depth = self.depth.parse().map_err(|_| format!("the input fetch-depth '{}' is no number", self.depth))?;
        if !["true", "false", "recursive"].iter().any(|word| self.submodules.eq_ignore_ascii_case(word)) {
            return Err(format!("the input submodules is '{}', where true, false or recursive is wanted", self.submodules));
        }
        Ok((format!("{server}/{}", self.repository), depth))
    }
}

/// As [`SCRIPT`], at a branch, tag or commit of another repository.
const OTHER: &str = r#"
set -eu
[ "$6" = keep ] || [ ! -d "$1" ] || find "$1" -mindepth 1 -delete
mkdir -p -- "$1"
cd -- "$1"
git init --quiet --initial-branch=main .
over() { git -c protocol.allow=never -c protocol.https.allow=always -c protocol.http.allow=always "$@"; }
if [ "$4" = 0 ]; then over fetch --quiet --tags -- "$2" "$3"; else over fetch --quiet --no-tags --depth="$4" -- "$2" "$3"; fi
[ -z "$7" ] || printf '%s\n' "$8" | git sparse-checkout set "$7" --stdin
git -c advice.detachedHead=false checkout --quiet --force --detach FETCH_HEAD
git remote add origin "$2" 2>/dev/null || git remote set-url origin "$2"
case $5 in
  true) over submodule --quiet update --init ;;
  recursive) over submodule --quiet update --init --recursive ;;
esac
"#;

/// Clones another repository into `directory`.
///
/// # Errors
/// An input that means nothing, no network, or git fails.
pub async fn other(other: &Other<'_>, directory: &str, keep: bool, bench: &mut impl Bench) -> Result<(), Halt> {
    let (url, depth) = other.checked().map_err(Halt::invalid)?;
    if !bench.has_network() {
        return Err(Halt::invalid(format!(
            "the repository {url} cannot be cloned: the step has no network; a policy grants it with presets = [\"git:HOST\"] under [[step]]"
        )));
    }
    bench.say(&format!("Cloning {url} at {} into {directory}", other.reference)).await;
    let workspace = bench.workspace().to_owned();
    let (depth, submodules) = (depth.to_string(), other.submodules.to_ascii_lowercase());
    let keep = if keep { "keep" } else { "clean" };
    let (mode, sparse) = other.sparse.as_ref().map_or(("", ""), |(mode, wanted)| (*mode, wanted.as_str()));
    let args = ["-c", OTHER, "checkout", directory, &url, other.reference, &depth, &submodules, keep, mode, sparse];
    let mut program = Program::new("/bin/sh", &args, &workspace);
    program.powers = Powers::Network;
    program.env = environment();
    match bench.run(program).await?.code {
        0 => {}
        code => {
            return Err(Halt::invalid(format!(
                "{url} could not be cloned at {} (exit code {code}); git's words are above",
                other.reference
            )));
        }
    }
    let mut asked = Program::new("git", &["rev-parse", "HEAD"], directory);
    asked.env = environment();
    asked.sink = Sink::Capture(1 << 10);
    let commit = bench.run(asked).await?;
    bench.output("commit", String::from_utf8_lossy(&commit.output).trim());
    bench.output("ref", other.reference);
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_token_goes_to_its_repository_alone() {
        let text = String::from_utf8(credential("https://git.example.com/a.git", b"t0ken")).unwrap();
        assert_eq!(
            text,
            "[http]\n\tfollowRedirects = false\n[http \"https://git.example.com/a.git\"]\n\textraHeader = Authorization: Basic eC1hY2Nlc3MtdG9rZW46dDBrZW4=\n"
        );
        let odd = String::from_utf8(credential("https://x/\"]\n", b"")).unwrap();
        assert!(odd.contains("[http \"https://x/\\\"]"), "{odd}");
    }

    #[test]
    fn what_is_cloned_has_an_address_and_nothing_that_git_takes_for_a_flag() {
        let good = Other {
            repository: "acme/lib.py",
            server: "https://github.com/",
            reference: "v1.0",
            depth: "0",
            submodules: "Recursive",
            sparse: None,
        };
        assert_eq!(good.checked(), Ok(("https://github.com/acme/lib.py".to_owned(), 0)));
        for repository in ["acme", "acme/../x", "acme/lib/x", "-x/y z", "a/.git", ""] {
            assert!(Other { repository, ..good.clone() }.checked().is_err(), "{repository}");
        }
        for server in ["file:///", "ssh://x", "https://user@x", "ext::sh -c x"] {
            assert!(Other { server, ..good.clone() }.checked().is_err(), "{server}");
        }
        for reference in ["", "--upload-pack=x", "+main", "a b", "main:main", "a\nb"] {
            assert!(Other { reference, ..good.clone() }.checked().is_err(), "{reference}");
        }
        assert!(Other { depth: "-1", ..good.clone() }.checked().is_err() && Other { submodules: "maybe", ..good }.checked().is_err());
    }
}
