//! `actions/checkout`: the working tree as it stands, without anybody's credentials. The archive is unpacked by `tar` inside a
//! sandbox, fed through a pipe: a hostile archive meets the sandbox.

use crate::actions::bench::{Bench, Inputs, inside};
use crate::program::{Halt, Input, Program};

/// Unpacks the run's source tree.
///
/// # Errors
/// A `path` outside the workspace, a run without source, or an archive that `tar` refuses.
pub async fn run(inputs: &Inputs, bench: &mut impl Bench) -> Result<(), Halt> {
    let path = inputs.text("path").unwrap_or(".");
    let Some(directory) = inside(bench.workspace(), path) else {
        return Err(Halt::invalid(format!("the input path '{path}' leaves the workspace")));
    };
    if !bench.has_source() {
        return Err(Halt::invalid("the run was submitted without a source tree, so there is nothing to check out"));
    }
    let (commit, reference) = (bench.github("sha"), bench.github("ref"));
    let shown = if commit.is_empty() { "no commit".to_owned() } else { commit.clone() };
    bench.say(&format!("Checking out the working tree as it stands ({shown}) into {directory}")).await;
    let keep = inputs.text("clean").is_some_and(|text| text.eq_ignore_ascii_case("false"));
    let script =
        "mkdir -p -- \"$1\" && { [ \"$2\" = keep ] || find \"$1\" -mindepth 1 -delete; } && exec tar -x -f - -C \"$1\" --no-same-owner";
    let workspace = bench.workspace().to_owned();
    let mut program = Program::new("/bin/sh", &["-c", script, "checkout", &directory, if keep { "keep" } else { "clean" }], &workspace);
    program.stdin = Input::Source;
    match bench.run(program).await?.code {
        0 => {}
        code => return Err(Halt::invalid(format!("the source tree could not be unpacked (exit code {code}); its output is above"))),
    }
    bench.output("commit", &commit);
    bench.output("ref", &reference);
    Ok(())
}
