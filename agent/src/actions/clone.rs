//! Checking out a repository of a forge: git runs inside the sandbox of the step and reaches what the step's grant says.

use crate::actions::bench::Bench;
use crate::program::{Halt, Powers, Program};

/// Fetches one commit, by its name or else by the reference that holds it, and makes the tree what it was then. No hook, no
/// credential, no configuration of anybody, no protocol but these two.
const SCRIPT: &str = r#"
set -eu
[ "$4" = keep ] || find "$1" -mindepth 1 -delete
mkdir -p -- "$1"
cd -- "$1"
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
    program.env = [
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_CONFIG_SYSTEM", "/dev/null"),
        ("GIT_TERMINAL_PROMPT", "0"),
        ("GIT_ASKPASS", "/bin/false"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec();
    match bench.run(program).await?.code {
        0 => {
            bench.output("commit", &commit);
            bench.output("ref", &reference);
            Ok(())
        }
        code => Err(Halt::invalid(format!("{url} could not be cloned at {commit} (exit code {code}); git's words are above"))),
    }
}
