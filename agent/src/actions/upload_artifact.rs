//! `actions/upload-artifact`: files of the job under a name, for later jobs of the run and for people.

use caisson_model::artifact::{self, Clash, Kept};
use caisson_model::outcome::{AnnotationLevel, Bytes};

use crate::actions::bench::{Bench, Inputs};
use crate::actions::paths::{self, Kind, Paths};
use crate::program::{Halt, Program};

/// The most bytes of one artifact.
const LARGEST: u64 = 10 << 30;

/// Keeps the files.
///
/// # Errors
/// The [`Halt`] with which the step ends.
pub async fn run(inputs: &Inputs, bench: &mut impl Bench) -> Result<(), Halt> {
    let name = inputs.text("name").unwrap_or("artifact").to_owned();
    if let Some(reason) = artifact::refusal(&name) {
        return Err(Halt::invalid(format!("the input name '{name}' is not valid: {reason}")));
    }
    let lines = inputs.lines("path");
    let workspace = bench.workspace().to_owned();
    let paths = Paths::read(&lines, &workspace).map_err(Halt::invalid)?;
    if paths.is_empty() {
        return Err(Halt::invalid("the input path is missing"));
    }
    let hidden = inputs.truth("include-hidden-files", false)?;
    let roots = paths.roots();
    let exit = bench.run(paths::list(&roots, Kind::Files, &workspace)).await?;
    let mut files: Vec<String> = paths::listed(&exit.output)
        .filter(|path| paths.covers(path))
        .filter(|path| hidden || !is_hidden(path, &roots))
        .map(str::to_owned)
        .collect();
    files.sort_unstable();
    files.dedup();
    if files.is_empty() {
        let message = format!("no files were found at {}", lines.join(", "));
        return match inputs.text("if-no-files-found").unwrap_or("warn") {
            "error" => Err(Halt::invalid(message)),
            "ignore" => {
                bench.say(&message).await;
                Ok(())
            }
            "warn" => {
                bench.remark(AnnotationLevel::Warning, &format!("{message}; no artifact was kept")).await;
                Ok(())
            }
            other => Err(Halt::invalid(format!("the input if-no-files-found is '{other}', where warn, error or ignore is wanted"))),
        };
    }
    let root = root(&roots, &files);
    let relative: Vec<&str> =
        files.iter().filter_map(|file| file.strip_prefix(root.as_str())).map(|file| file.trim_start_matches('/')).collect();
    let mut pack =
        Program::new("tar", &["-c", "-h", "-f", "-", "-C", &root, "--null", "--no-recursion", "--verbatim-files-from", "-T", "-"], "/");
    pack.stdin = paths::as_input(relative.iter().copied());
    let Some(blob) = bench.collect(pack, LARGEST).await? else {
        return Err(Halt::invalid("the files could not be packed; the output of tar is above"));
    };
    let clash = if inputs.truth("overwrite", false)? { Clash::Replace } else { Clash::Refuse };
    let count = u32::try_from(files.len()).unwrap_or(u32::MAX);
    match bench.keep_artifact(&name, blob, count, clash).await? {
        Kept::Kept => {}
        Kept::Clashes => {
            return Err(Halt::invalid(format!(
                "an artifact named {name} was kept by this run already; choose another name (with the matrix's values in it), or set overwrite: true"
            )));
        }
    }
    let digest = blob.digest.to_string();
    bench.output("artifact-id", &id(&digest));
    bench.output("artifact-digest", digest.trim_start_matches("sha256:"));
    bench.output("artifact-url", "");
    bench.say(&format!("Artifact {name} kept: {count} files, {}", Bytes(blob.bytes))).await;
    Ok(())
}

/// A number for an artifact, as users of the language expect one: from the beginning of its digest.
pub fn id(digest: &str) -> String {
    let hex = digest.trim_start_matches("sha256:");
    u64::from_str_radix(hex.get(..12).unwrap_or_default(), 16).unwrap_or(0).to_string()
}

/// Whether a name begins with a dot, below where was looked for it: who names a hidden directory means it.
fn is_hidden(path: &str, roots: &[String]) -> bool {
    let below = roots.iter().filter_map(|root| path.strip_prefix(root.as_str())).min_by_key(|rest| rest.len()).unwrap_or(path);
    below.split('/').any(|part| part.starts_with('.'))
}

/// The directory that paths in the artifact are relative to: of one place looked at, that place, or where the file lies; of
/// several, what they have in common.
fn root(roots: &[String], files: &[String]) -> String {
    if let ([root], [file]) = (roots, files)
        && root == file
    {
        return parent(file).to_owned();
    }
    let mut common: Option<Vec<&str>> = None;
    for root in roots {
        // A file that is named itself lies in a directory.
        let directory = if files.iter().any(|file| file == root) { parent(root) } else { root.as_str() };
        let parts: Vec<&str> = directory.split('/').collect();
        common = Some(match common {
            None => parts,
            Some(known) => known.iter().zip(&parts).take_while(|(a, b)| a == b).map(|(a, _)| *a).collect(),
        });
    }
    let joined = common.unwrap_or_default().join("/");
    if joined.is_empty() { "/".to_owned() } else { joined }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("/", |(parent, _)| if parent.is_empty() { "/" } else { parent })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_in_an_artifact_are_relative_to_what_was_named() {
        let text = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let table = [
            (&["/w/dist"][..], &["/w/dist/a", "/w/dist/b/c"][..], "/w/dist"),
            (&["/w/a.txt"], &["/w/a.txt"], "/w"),
            (&["/w/a.txt", "/w/b/c.txt"], &["/w/a.txt", "/w/b/c.txt"], "/w"),
            (&["/w/dist", "/w/docs"], &["/w/dist/a", "/w/docs/b"], "/w"),
            (&["/w/x/dist", "/w/x/dist/a"], &["/w/x/dist/a"], "/w/x/dist"),
            (&["/a", "/b"], &["/a/x", "/b/x"], "/"),
        ];
        for (roots, files, expected) in table {
            assert_eq!(root(&text(roots), &text(files)), expected, "{roots:?}");
        }
    }

    #[test]
    fn hidden_is_what_nobody_named() {
        let roots = ["/w/.coverage".to_owned(), "/w/dist".to_owned()];
        assert!(!is_hidden("/w/.coverage", &roots[..1]));
        assert!(is_hidden("/w/dist/.git/config", &roots));
        assert!(!is_hidden("/w/dist/a.b", &roots));
    }
}
