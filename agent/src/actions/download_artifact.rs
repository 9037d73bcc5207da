//! `actions/download-artifact`: what earlier jobs of the run kept. Unpacked by `tar` inside a sandbox.

use caisson_model::artifact::Artifact;
use glob::Pattern;

use crate::actions::bench::{Bench, Inputs};
use crate::actions::upload_artifact::id;
use crate::program::{Halt, Input, Program};
use crate::view;

/// Unpacks them.
///
/// # Errors
/// The [`Halt`] with which the step ends.
pub async fn run(inputs: &Inputs, bench: &mut impl Bench) -> Result<(), Halt> {
    let workspace = bench.workspace().to_owned();
    let given = inputs.text("path").unwrap_or(".");
    let base = match given.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => format!("{}{rest}", view::HOME),
        _ if given.starts_with('/') => given.to_owned(),
        _ => format!("{workspace}/{}", given.trim_start_matches("./")).trim_end_matches("/.").to_owned(),
    };
    let own = [bench.github("repository"), bench.github("run_id")];
    for (name, own) in ["repository", "run-id"].iter().zip(&own) {
        if inputs.text(name).is_some_and(|text| text != own) {
            return Err(Halt::invalid(format!("the input {name} names another run, whose artifacts cannot be read from here; remove it")));
        }
    }
    let all = bench.artifacts().await?;
    let known = || all.iter().map(|artifact| artifact.name.as_str()).collect::<Vec<_>>().join(", ");
    let merge = inputs.truth("merge-multiple", false)?;
    let ids: Vec<String> =
        inputs.text("artifact-ids").map(|ids| ids.split(',').map(|id| id.trim().to_owned()).collect()).unwrap_or_default();
    let chosen: Vec<&Artifact> = match (inputs.text("name"), inputs.text("pattern")) {
        (Some(_), _) if !ids.is_empty() => return Err(Halt::invalid("the inputs name and artifact-ids exclude each other")),
        (Some(name), _) => all.iter().filter(|artifact| artifact.name == name).collect(),
        (None, _) if !ids.is_empty() => all.iter().filter(|artifact| ids.contains(&id(&artifact.digest.to_string()))).collect(),
        (None, Some(pattern)) => {
            let (negated, pattern) = pattern.strip_prefix('!').map_or((false, pattern), |rest| (true, rest));
            let patterns: Result<Vec<Pattern>, _> = alternatives(pattern).iter().map(|pattern| Pattern::new(pattern)).collect();
            let patterns = patterns.map_err(|error| Halt::invalid(format!("the input pattern is not valid: {}", error.msg)))?;
            let fits = |name: &str| patterns.iter().any(|pattern| pattern.matches(name)) != negated;
            all.iter().filter(|artifact| fits(&artifact.name)).collect()
        }
        (None, None) => all.iter().collect(),
    };
    if chosen.is_empty() {
        if let Some(name) = inputs.text("name") {
            let known = if all.is_empty() { "none".to_owned() } else { known() };
            return Err(Halt::invalid(format!(
                "this run has no artifact named {name}; it has {known}. The job that keeps it must be in `needs:` and must have run"
            )));
        }
        if !ids.is_empty() {
            return Err(Halt::invalid(format!("this run has no artifact of the ids {}", ids.join(", "))));
        }
    }
    let flat = inputs.text("name").is_some() || merge || (ids.len() == 1 && chosen.len() == 1);
    for artifact in &chosen {
        let directory = if flat { base.clone() } else { format!("{base}/{}", artifact.name) };
        let script = "mkdir -p -- \"$1\" && exec tar -x -f - -C \"$1\" --no-same-owner --no-same-permissions";
        let mut program = Program::new("/bin/sh", &["-c", script, "download", &directory], &workspace);
        program.stdin = Input::Blob(artifact.digest, format!("the artifact {}", artifact.name));
        match bench.run(program).await?.code {
            0 => bench.say(&format!("Artifact {} unpacked to {directory}: {} files", artifact.name, artifact.files)).await,
            code => {
                return Err(Halt::invalid(format!(
                    "the artifact {} could not be unpacked to {directory} (exit code {code})",
                    artifact.name
                )));
            }
        }
    }
    if chosen.is_empty() {
        bench.say("This run has no such artifact; nothing was unpacked").await;
    }
    bench.output("download-path", &base);
    Ok(())
}

/// A pattern with braces, as those that it stands for: `a-{b,c}` is `a-b` and `a-c`. At most 256 of them; beyond that, and where braces
/// do not match, they are letters.
fn alternatives(pattern: &str) -> Vec<String> {
    let mut open = vec![pattern.to_owned()];
    let mut done = Vec::new();
    while let Some(next) = open.pop() {
        let braces = next.rfind('{').and_then(|from| Some((from, from + next[from..].find('}')?)));
        match braces {
            Some((from, to)) if open.len() + done.len() < 256 && next[from..to].contains(',') => {
                let (before, after) = (&next[..from], &next[to + 1..]);
                open.extend(next[from + 1..to].split(',').map(|part| format!("{before}{part}{after}")));
            }
            _ => done.push(next),
        }
    }
    done.sort();
    done.dedup();
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_stand_for_several_patterns() {
        assert_eq!(
            alternatives("coverage-{3.11,3.12}-{a,b}"),
            ["coverage-3.11-a", "coverage-3.11-b", "coverage-3.12-a", "coverage-3.12-b"]
        );
        assert_eq!(alternatives("{a,{b,c}}*"), ["a*", "b*", "c*"]);
        assert_eq!((alternatives("plain*"), alternatives("{x}")), (vec!["plain*".to_owned()], vec!["{x}".to_owned()]));
        assert!(alternatives(&"{a,b}".repeat(40)).len() <= 512);
    }
}
