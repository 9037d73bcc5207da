//! `actions/checkout`: the working tree as it stands, without anybody's credentials. The archive is unpacked by `tar` inside a
//! sandbox, fed through a pipe: a hostile archive meets the sandbox.

use crate::actions::bench::{Bench, Inputs, inside};
use crate::actions::clone::{self, Other};
use crate::program::{Halt, Input, Program, Sink};

/// Unpacks the run's source tree.
///
/// # Errors
/// A `path` outside the workspace, a run without source, or an archive that `tar` refuses.
pub async fn run(inputs: &Inputs, bench: &mut impl Bench) -> Result<(), Halt> {
    let path = inputs.text("path").unwrap_or(".");
    let Some(directory) = inside(bench.workspace(), path) else {
        return Err(Halt::invalid(format!("the input path '{path}' leaves the workspace")));
    };
    let keep = inputs.text("clean").is_some_and(|text| text.eq_ignore_ascii_case("false"));
    if let Some(other) = inputs.text("repository").filter(|name| !name.eq_ignore_ascii_case(&bench.github("repository"))) {
        let other = Other {
            repository: other,
            server: inputs.text("github-server-url").unwrap_or("https://github.com"),
            reference: inputs.text("ref").unwrap_or("HEAD"),
            depth: inputs.text("fetch-depth").unwrap_or("1"),
            submodules: inputs.text("submodules").unwrap_or("false"),
            sparse: sparse(inputs),
        };
        return clone::other(&other, &directory, keep, bench).await;
    }
    let url = bench.github("clone_url");
    if !bench.has_source() && !url.is_empty() {
        return clone::run(&url, &directory, keep, bench).await;
    }
    if !bench.has_source() {
        return Err(Halt::invalid("the run was submitted without a source tree, so there is nothing to check out"));
    }
    let (commit, reference) = (bench.github("sha"), bench.github("ref"));
    let shown = if commit.is_empty() { "no commit".to_owned() } else { commit.clone() };
    bench.say(&format!("Checking out the working tree as it stands ({shown}) into {directory}")).await;
    let script =
        "mkdir -p -- \"$1\" && { [ \"$2\" = keep ] || find \"$1\" -mindepth 1 -delete; } && exec tar -x -f - -C \"$1\" --no-same-owner";
    let workspace = bench.workspace().to_owned();
    let mut program = Program::new("/bin/sh", &["-c", script, "checkout", &directory, if keep { "keep" } else { "clean" }], &workspace);
    program.stdin = Input::Source;
    match bench.run(program).await?.code {
        0 => {}
        code => return Err(Halt::invalid(format!("the source tree could not be unpacked (exit code {code}); its output is above"))),
    }
    let present = [reference.as_str(), &bench.github("ref_name"), &bench.github("head_ref"), &commit].map(str::to_owned);
    narrow(inputs, &directory, bench).await?;
    match inputs.text("ref").filter(|wanted| !present.iter().any(|known| known == wanted)) {
        None => {
            bench.output("commit", &commit);
            bench.output("ref", &reference);
        }
        Some(wanted) => {
            let commit = switch(wanted, &directory, bench).await?;
            bench.output("commit", &commit);
            bench.output("ref", wanted);
        }
    }
    Ok(())
}

/// The folders, or patterns, that are wanted of a tree, one per line, and how git is to read them; `None` for all of it.
fn sparse(inputs: &Inputs) -> Option<(&'static str, String)> {
    let wanted = inputs.lines("sparse-checkout");
    let cone = inputs.text("sparse-checkout-cone-mode").is_none_or(|text| !text.eq_ignore_ascii_case("false"));
    (!wanted.is_empty()).then(|| (if cone { "--cone" } else { "--no-cone" }, wanted.join("\n")))
}

/// Takes away what `sparse-checkout` does not name. What is not committed stays: git throws no work away.
const NARROW: &str = r#"
cd -- "$1" || exit
[ -d .git ] || exit 65
git update-index -q --refresh
printf '%s\n' "$3" | git sparse-checkout set "$2" --stdin
"#;

async fn narrow(inputs: &Inputs, directory: &str, bench: &mut impl Bench) -> Result<(), Halt> {
    let Some((mode, wanted)) = sparse(inputs) else { return Ok(()) };
    let workspace = bench.workspace().to_owned();
    let mut program = Program::new("/bin/sh", &["-c", NARROW, "checkout", directory, mode, &wanted], &workspace);
    program.env = clone::environment();
    match bench.run(program).await?.code {
        0 => Ok(()),
        65 => Err(Halt::invalid("sparse-checkout needs the history of the tree, and it came without")),
        code => Err(Halt::invalid(format!("git could not make the tree sparse (exit code {code}); its words are above"))),
    }
}

/// Looks a revision up in the history that came with the tree, and makes the tree what it was then.
const SWITCH: &str = r#"
cd -- "$1" || exit
[ -d .git ] || exit 65
for name in "refs/heads/$2" "refs/remotes/origin/$2" "refs/tags/$2" "$2"; do
  commit=$(git rev-parse --verify --quiet --end-of-options "$name^{commit}") && break
done
[ -n "$commit" ] || exit 66
git checkout --quiet --force --detach "$commit" && git clean -ffdxq && printf '%s' "$commit"
"#;

async fn switch(wanted: &str, directory: &str, bench: &mut impl Bench) -> Result<String, Halt> {
    let workspace = bench.workspace().to_owned();
    let mut program = Program::new("/bin/sh", &["-c", SWITCH, "checkout", directory, wanted], &workspace);
    program.env = clone::environment();
    program.sink = Sink::Capture(1 << 20);
    let exit = bench.run(program).await?;
    match exit.code {
        0 => {
            let commit = String::from_utf8_lossy(&exit.output).trim().to_owned();
            bench.say(&format!("Switched to {wanted} ({commit})")).await;
            Ok(commit)
        }
        65 => Err(Halt::invalid(format!("the revision '{wanted}' cannot be checked out: the tree came without its history"))),
        66 => Err(Halt::invalid(format!(
            "the revision '{wanted}' is not in the history that came with the tree; fetch it into your checkout first (git fetch origin {wanted})"
        ))),
        code => Err(Halt::invalid(format!(
            "the revision '{wanted}' could not be checked out (exit code {code}); this needs git on the machine"
        ))),
    }
}
