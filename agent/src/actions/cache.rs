//! `actions/cache` with its halves `restore` and `save`. What is saved is a tree by its digest: later jobs of this agent see it
//! below an overlay of their own, without unpacking anything.

use caisson_model::cache::{self, CacheEntry, CacheQuery, MOST_KEYS, Saved};
use caisson_model::outcome::{AnnotationLevel, Bytes};
use sha2::{Digest as _, Sha256};

use crate::actions::bench::{Bench, Inputs, Later, Saving};
use crate::actions::paths::{self, Kind, Paths};
use crate::contexts::TOOL_CACHE;
use crate::kept::TREE;
use crate::program::{Halt, Program, Sink};
use crate::trees::Tree;
use crate::view;

/// The most bytes of one entry.
const LARGEST: u64 = 10 << 30;

/// How a restore ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restored {
    /// Nothing fits.
    Nothing,
    /// An entry of exactly this key.
    Exactly,
    /// One that stands in for it, of this key.
    Instead(String),
}

/// `actions/cache`: restores now, and saves after the job's last step unless there was an entry of exactly this key.
///
/// # Errors
/// The [`Halt`] with which the step ends.
pub async fn run(inputs: &Inputs, bench: &mut impl Bench) -> Result<(), Halt> {
    let saving = saving(inputs)?;
    let restored = restore_step(inputs, &saving, bench).await?;
    if restored == Restored::Exactly {
        bench.later("success()", Later::Say(format!("Nothing to save: there was an entry of the key {}", saving.key)));
    } else {
        let condition = if inputs.truth("save-always", false)? { "always()" } else { "success()" };
        bench.later(condition, Later::SaveCache(saving));
    }
    Ok(())
}

/// `actions/cache/restore`.
///
/// # Errors
/// The [`Halt`] with which the step ends.
pub async fn run_restore(inputs: &Inputs, bench: &mut impl Bench) -> Result<(), Halt> {
    let saving = saving(inputs)?;
    let restored = restore_step(inputs, &saving, bench).await?;
    bench.output("cache-primary-key", &saving.key);
    match restored {
        Restored::Nothing => {}
        Restored::Exactly => bench.output("cache-matched-key", &saving.key),
        Restored::Instead(key) => bench.output("cache-matched-key", &key),
    }
    Ok(())
}

/// `actions/cache/save`.
///
/// # Errors
/// The [`Halt`] with which the step ends.
pub async fn run_save(inputs: &Inputs, bench: &mut impl Bench) -> Result<(), Halt> {
    save_quietly(&saving(inputs)?, bench).await
}

fn saving(inputs: &Inputs) -> Result<Saving, Halt> {
    let key = inputs.text("key").ok_or_else(|| Halt::invalid("the input key is missing"))?.to_owned();
    if let Some(reason) = cache::refusal(&key) {
        return Err(Halt::invalid(format!("the input key is not valid: {reason}")));
    }
    let paths = inputs.lines("path");
    if paths.is_empty() {
        return Err(Halt::invalid("the input path is missing"));
    }
    Ok(Saving { paths, key })
}

async fn restore_step(inputs: &Inputs, saving: &Saving, bench: &mut impl Bench) -> Result<Restored, Halt> {
    let others = inputs.lines("restore-keys");
    let look_only = inputs.truth("lookup-only", false)?;
    let restored = restore(saving, &others, look_only, bench).await?;
    match &restored {
        Restored::Nothing if inputs.truth("fail-on-cache-miss", false)? => {
            return Err(Halt::invalid(format!("there is no cache entry of the key {} (fail-on-cache-miss)", saving.key)));
        }
        Restored::Nothing => {}
        Restored::Exactly => bench.output("cache-hit", "true"),
        Restored::Instead(_) => bench.output("cache-hit", "false"),
    }
    Ok(restored)
}

/// What tells entries of one key apart: the paths that they hold. Made as clients of the language's toolkit make theirs, for each of
/// the ways in which they pack, so that they find what is saved here, and what they save is found.
fn versions(paths: &[String]) -> [String; 2] {
    [("zstd-without-long", false), ("gzip", true)].map(|(packing, gzip)| {
        let digest = Sha256::digest(format!("{}|{packing}|1.0", paths.join("|")));
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        cache::version_of_clients(&hex, gzip)
    })
}

async fn find(keys: &[String], paths: &[String], bench: &mut impl Bench) -> Result<Option<CacheEntry>, Halt> {
    let mut found = None;
    for version in versions(paths) {
        let other = bench.find_cache(CacheQuery { keys: keys.to_vec(), version }).await?;
        found = match (found, other) {
            (Some(one), Some(other)) => Some(cache::better(one, other, keys)),
            (one, other) => one.or(other),
        };
    }
    Ok(found)
}

/// Looks for an entry of the key or, failing that, of `others` in their order, and restores it unless it is only to be looked for.
///
/// # Errors
/// The [`Halt`] with which the step ends.
pub async fn restore(saving: &Saving, others: &[String], look_only: bool, bench: &mut impl Bench) -> Result<Restored, Halt> {
    let keys: Vec<String> = [&saving.key].into_iter().chain(others).cloned().collect();
    if keys.len() > MOST_KEYS {
        return Err(Halt::invalid(format!("the inputs key and restore-keys are {} together, where {MOST_KEYS} are allowed", keys.len())));
    }
    let paths = read(saving, bench.workspace())?;
    let found = find(&keys, &saving.paths, bench).await?;
    let Some(entry) = found else {
        bench
            .say(&format!("No cache entry of the key {}", [&saving.key].into_iter().chain(others).cloned().collect::<Vec<_>>().join(", ")))
            .await;
        return Ok(Restored::Nothing);
    };
    if look_only {
        bench.say(&format!("There is a cache entry of the key {} ({}); it was only looked for", entry.key, Bytes(entry.bytes))).await;
    } else {
        put_back(&entry, &paths, bench).await?;
        bench.say(&format!("Cache restored from the key {} ({})", entry.key, Bytes(entry.bytes))).await;
    }
    Ok(if entry.key == saving.key { Restored::Exactly } else { Restored::Instead(entry.key) })
}

fn read(saving: &Saving, workspace: &str) -> Result<Paths, Halt> {
    let paths = Paths::read(&saving.paths, workspace).map_err(Halt::invalid)?;
    if paths.is_empty() {
        return Err(Halt::invalid("the input path only excludes"));
    }
    for root in paths.roots() {
        let kept = [view::HOME, TOOL_CACHE]
            .iter()
            .any(|kept| root.strip_prefix(kept).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')));
        if !kept {
            return Err(Halt::invalid(format!(
                "the path {root} lies outside of what a job keeps from step to step: {} and {TOOL_CACHE}",
                view::HOME
            )));
        }
    }
    Ok(paths)
}

/// For each path: shown by a layer where the job has nothing there yet, else copied over what there is. The first letter of an
/// answer tells which, the rest is the path.
const PUT_BACK: &str = r#"
for p; do
  t="$TREE$p"
  [ -e "$t" ] || [ -L "$t" ] || continue
  if [ -d "$t" ] && [ ! -L "$t" ] && [ ! -L "$p" ] && { [ ! -e "$p" ] || { [ -d "$p" ] && [ -z "$(ls -A -- "$p")" ]; }; } &&
     [ "$(realpath -m -- "$p")" = "$p" ]; then
    mkdir -p -- "$p" || exit
    printf 'layer %s\0' "$p"
  else
    printf 'copy %s\0' "$p"
  fi
done
"#;

/// Copies paths of the tree over what there is.
const COPY: &str = r#"
for p; do shift; set -- "$@" ".$p"; done
tar -C "$TREE" -c -f - -- "$@" | tar -C / -x -f - --no-same-owner --no-overwrite-dir
"#;

/// Copies what is there of the paths to the tree; code 66 when nothing is. By tar on both sides, which asks for no attribute
/// that the sandbox refuses; the file tells that the first one failed, since a pipe only tells of the last.
const SAVE: &str = r#"
n=0
for p; do
  shift
  if [ -e "$p" ] || [ -L "$p" ]; then set -- "$@" ".$p"; n=1; fi
done
[ $n = 1 ] || exit 66
{ tar -C / -c -f - -- "$@" || : > "$TREE/.not-whole"; } | tar -C "$TREE" -x -f - --no-same-owner || exit 1
[ ! -e "$TREE/.not-whole" ]
"#;

async fn put_back(entry: &CacheEntry, paths: &Paths, bench: &mut impl Bench) -> Result<(), Halt> {
    let tree = bench.tree(entry.digest, &format!("the cache {}", entry.key)).await?;
    let tops = tops(&tree, paths, bench).await?;
    let mut args = vec!["-c", PUT_BACK, "restore"];
    args.extend(tops.iter().map(String::as_str));
    let workspace = bench.workspace().to_owned();
    let mut program = Program::new("/bin/sh", &args, &workspace);
    program.env = vec![("TREE".to_owned(), TREE.to_owned())];
    program.mounts = vec![tree.shown(TREE)];
    program.sink = Sink::Capture(1 << 20);
    let exit = bench.run(program).await?;
    if exit.code != 0 {
        return Err(Halt::invalid(format!("the cache {} could not be restored (exit code {})", entry.key, exit.code)));
    }
    let mut copies = Vec::new();
    for answer in paths::listed(&exit.output) {
        match answer.split_once(' ') {
            Some(("layer", path)) if path != view::HOME && bench.may_layer(path) => bench.layer(&tree, path, path).await?,
            Some((_, path)) => copies.push(path.to_owned()),
            None => {}
        }
    }
    if copies.is_empty() {
        return Ok(());
    }
    let mut program = Program::new("/bin/sh", &["-c", COPY, "restore"], &workspace);
    program.args.extend(copies);
    program.env = vec![("TREE".to_owned(), TREE.to_owned())];
    program.mounts = vec![tree.shown(TREE)];
    match bench.run(program).await?.code {
        0 => Ok(()),
        code => Err(Halt::invalid(format!("the cache {} could not be copied over what is there (exit code {code})", entry.key))),
    }
}

/// The paths of a tree that an input names: as they stand, or looked up where there are patterns.
async fn tops(tree: &Tree, paths: &Paths, bench: &mut impl Bench) -> Result<Vec<String>, Halt> {
    if paths.is_literal() {
        return Ok(paths.roots());
    }
    let mut program = paths::list(&[TREE.to_owned()], Kind::Everything, "/");
    program.mounts = vec![tree.shown(TREE)];
    let exit = bench.run(program).await?;
    let inside = paths::listed(&exit.output).filter_map(|path| path.strip_prefix(TREE)).filter(|path| !path.is_empty());
    Ok(outermost(inside.filter(|path| paths.names(path))))
}

/// Paths without those that lie below another.
fn outermost<'p>(paths: impl Iterator<Item = &'p str>) -> Vec<String> {
    let mut sorted: Vec<&str> = paths.collect();
    sorted.sort_unstable();
    let mut tops: Vec<String> = Vec::new();
    for path in sorted {
        // Anything between a directory and what lies in it begins with the same text, so all tops must be looked at.
        if !tops.iter().any(|top| path.strip_prefix(top.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))) {
            tops.push(path.to_owned());
        }
    }
    tops
}

/// Saves, unless there is an entry of this key. What cannot be saved is said and fails nothing, as users of the language expect.
///
/// # Errors
/// The [`Halt`] with which the step ends: it was interrupted, or the machine cannot go on.
pub async fn save_quietly(saving: &Saving, bench: &mut impl Bench) -> Result<(), Halt> {
    match save(saving, bench).await {
        Err(halt) if matches!(halt.cause, caisson_model::outcome::Cause::Invalid { .. }) => {
            bench.remark(AnnotationLevel::Warning, &format!("the cache was not saved: {}", halt.cause)).await;
            Ok(())
        }
        other => other,
    }
}

async fn save(saving: &Saving, bench: &mut impl Bench) -> Result<(), Halt> {
    let paths = read(saving, bench.workspace())?;
    let keys = [saving.key.clone()];
    if find(&keys, &saving.paths, bench).await?.is_some_and(|entry| entry.key == saving.key) {
        bench.say(&format!("There is a cache entry of the key {} already; it is never changed", saving.key)).await;
        return Ok(());
    }
    let roots = match paths.is_literal() && !paths.excludes() {
        true => paths.roots(),
        false => {
            let exit = bench.run(paths::list(&paths.roots(), Kind::Everything, "/")).await?;
            outermost(paths::listed(&exit.output).filter(|path| paths.names(path)))
        }
    };
    let seedling = bench.begin_tree().await?;
    // A copy first: it stands still while it is packed, and is what this agent's later jobs see.
    let mut program = Program::new("/bin/sh", &["-c", SAVE, "save"], "/");
    program.args.extend(roots.iter().cloned());
    program.env = vec![("TREE".to_owned(), TREE.to_owned())];
    program.mounts = vec![seedling.mount(TREE)];
    match bench.run(program).await?.code {
        0 => {}
        66 => return Err(Halt::invalid(format!("none of its paths is there ({})", saving.paths.join(", ")))),
        code => return Err(Halt::invalid(format!("its paths could not be copied (exit code {code}); the output is above"))),
    }
    if paths.excludes() {
        let mut list = paths::list(&[TREE.to_owned()], Kind::Everything, "/");
        list.mounts = vec![seedling.shown(TREE)];
        let exit = bench.run(list).await?;
        let inside = paths::listed(&exit.output).filter_map(|path| path.strip_prefix(TREE)).filter(|path| !path.is_empty());
        // What lies above something that is meant is not meant itself and must stay.
        let gone: Vec<&str> =
            inside.filter(|path| !paths.covers(path) && !roots.iter().any(|root| root.starts_with(&format!("{path}/")))).collect();
        let gone = outermost(gone.into_iter());
        let mut program = Program::new("xargs", &["-0", "-r", "rm", "-rf", "--"], "/");
        let full: Vec<String> = gone.iter().map(|path| format!("{TREE}{path}")).collect();
        program.stdin = paths::as_input(full.iter().map(String::as_str));
        program.mounts = vec![seedling.mount(TREE)];
        bench.run(program).await?;
    }
    let mut pack = Program::new("tar", &["-c", "-f", "-", "-C", TREE, "."], "/");
    pack.mounts = vec![seedling.shown(TREE)];
    let Some(blob) = bench.collect(pack, LARGEST).await? else {
        return Err(Halt::invalid("its paths could not be packed; the output of tar is above"));
    };
    // Kept from now on: the next job need not unpack what this one packed.
    let _tree = bench.finish_tree(seedling, blob).await?;
    let [zstd, gzip] = versions(&saving.paths);
    let saved = bench.save_cache(&saving.key, &zstd, blob).await?;
    if saved == Saved::Saved {
        bench.save_cache(&saving.key, &gzip, blob).await?;
    }
    match saved {
        Saved::Saved => bench.say(&format!("Cache saved with the key {} ({})", saving.key, Bytes(blob.bytes))).await,
        Saved::AlreadyThere => bench.say(&format!("Another job saved the key {} meanwhile; its entry stays", saving.key)).await,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_those_of_the_toolkits_clients() {
        // By `getCacheVersion` of npm @actions/cache 6.3.0.
        let [zstd, gzip] = versions(&["~/.cache/pip".to_owned(), "node_modules".to_owned()]);
        assert_eq!(zstd, "zstd:68555f35867b11ac278e3de8115166ce21d78625350370684a2a9338e433ecca");
        assert_eq!(gzip, "gzip:7dd74d1839c69ce8afae46dc2810d5aa9f53a3339289fd0e6e157e60b3feab5f");
    }

    #[test]
    fn what_lies_in_something_named_is_not_named_again() {
        let tops = outermost(["/a/b", "/a", "/a-b", "/a/b/c", "/d/e"].into_iter());
        assert_eq!(tops, ["/a", "/a-b", "/d/e"]);
    }
}
