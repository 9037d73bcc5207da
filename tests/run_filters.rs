//! Filters of branches and paths, from the command line: with `--base` a run is what the event would start.

#![allow(clippy::unwrap_used, clippy::panic)]

mod place;

use std::fs;
use std::process::Command;

use place::Place;

const DOCS: &str = "on:\n  push: { paths: ['docs/**', '!docs/drafts/**'] }\n  pull_request: { paths: ['docs/**'], branches: ['main', 'release/*'] }\njobs:\n  docs:\n    runs-on: ubuntu-latest\n    steps: [{ run: 'echo docs' }]\n";
const CODE: &str =
    "on:\n  push: { paths-ignore: ['**.md', 'docs/**'] }\njobs:\n  code:\n    runs-on: ubuntu-latest\n    steps: [{ run: 'echo code' }]\n";

fn git(place: &Place, words: &[&str]) {
    let mut command = Command::new("git");
    command.current_dir(place.checkout()).args(["-c", "user.name=a", "-c", "user.email=a@example.com"]).args(words);
    let output = command.env("GIT_CONFIG_GLOBAL", "/dev/null").output().unwrap();
    assert!(output.status.success(), "git {words:?}: {output:?}");
}

fn place() -> Place {
    let place = Place::new();
    place.write(".github/workflows/docs.yml", DOCS);
    place.write(".github/workflows/code.yml", CODE);
    place.write("docs/guide.md", "guide");
    place.write("shop/views.py", "views");
    git(&place, &["init", "-q", "-b", "main"]);
    git(&place, &["add", "-A"]);
    git(&place, &["commit", "-qm", "first"]);
    git(&place, &["switch", "-qc", "topic"]);
    place
}

/// The jobs that a run with these words had.
fn jobs(place: &Place, words: &[&str]) -> Vec<String> {
    let run = place.run(words);
    run.expect(0);
    let mut names: Vec<String> = run.of_type("job").filter_map(|job| job["name"].as_str().map(str::to_owned)).collect();
    names.sort();
    names.dedup();
    names
}

#[test]
fn paths_decide_what_a_push_starts() {
    let place = place();
    // Without a base nobody knows what changed: everything runs, as ever.
    assert_eq!(jobs(&place, &[]), ["code", "docs"]);
    let base = ["--base", "main"];
    assert_eq!(jobs(&place, &base), Vec::<String>::new());
    // Whether a file is committed, staged, changed or new makes no difference.
    place.write("docs/drafts/idea.md", "new, and a draft");
    assert_eq!(jobs(&place, &base), Vec::<String>::new());
    place.write("docs/guide.md", "changed");
    assert_eq!(jobs(&place, &base), ["docs"]);
    git(&place, &["commit", "-qam", "docs"]);
    place.write("shop/models.py", "staged");
    git(&place, &["add", "shop/models.py"]);
    assert_eq!(jobs(&place, &base), ["code", "docs"]);
    git(&place, &["commit", "-qm", "models"]);
    fs::remove_file(place.checkout().join("shop/views.py")).unwrap();
    assert_eq!(jobs(&place, &["--base", "HEAD"]), ["code"]);
    let run = place.run(&["--base", "nowhere"]);
    run.expect(2);
    assert!(run.errors.contains("--base nowhere names no commit"), "{}", run.told());
}

/// A pull request is what differs since the branches parted, and its base is what `branches` speaks of.
#[test]
fn a_pull_request_counts_from_where_the_branches_parted() {
    let place = place();
    place.write("shop/models.py", "of the topic");
    git(&place, &["add", "-A"]);
    git(&place, &["commit", "-qm", "topic"]);
    git(&place, &["switch", "-q", "main"]);
    place.write("docs/guide.md", "changed on main meanwhile");
    git(&place, &["commit", "-qam", "main"]);
    git(&place, &["branch", "other"]);
    git(&place, &["switch", "-q", "topic"]);
    let pull = |base| jobs(&place, &["-e", "pull_request", "--base", base]);
    assert_eq!(pull("main"), Vec::<String>::new());
    // The control: for a push the two trees differ in that file.
    assert_eq!(jobs(&place, &["-W", "docs.yml", "--base", "main"]), ["docs"]);
    place.write("docs/new.md", "of the topic");
    assert_eq!(pull("main"), ["docs"]);
    assert_eq!(pull("other"), Vec::<String>::new());
}

/// What the checkout's own configuration would make git execute is not executed to find out what changed.
#[test]
fn finding_changes_executes_nothing_of_the_checkout() {
    let place = place();
    let mark = place.path().join("executed");
    let filter = format!("sh -c 'touch {}; cat'", mark.display());
    place.write(".gitattributes", "*.py filter=evil\n");
    git(&place, &["config", "filter.evil.clean", &filter]);
    place.write("shop/views.py", "viewz");
    // The control: git itself does.
    git(&place, &["diff", "--quiet", "--", "docs"]);
    git(&place, &["hash-object", "shop/views.py"]);
    assert!(mark.exists());
    fs::remove_file(&mark).unwrap();
    assert_eq!(jobs(&place, &["--base", "main", "-W", "code.yml"]), ["code"]);
    assert!(!mark.exists());
}

/// `--matrix` runs the cells that were asked for, of matrices known at the start and of those that come from other jobs.
#[test]
fn a_matrix_value_picks_its_cells() {
    let place = Place::with(
        r#"on: push
jobs:
  test:
    runs-on: ubuntu-latest
    strategy:
      matrix:
        python: ['3.9', '3.10', 3.11]
        db: [a, b]
    steps: [{ run: echo test }]
  list:
    runs-on: ubuntu-latest
    outputs: { items: '${{ steps.l.outputs.items }}' }
    steps:
      - id: l
        run: echo 'items=["a","c"]' >> "$GITHUB_OUTPUT"
  later:
    needs: list
    runs-on: ubuntu-latest
    strategy: { matrix: { db: '${{ fromJSON(needs.list.outputs.items) }}' } }
    steps: [{ run: echo later }]
"#,
    );
    // Those that ran: a job with a matrix is shown by its own name until its cells are known.
    let ran = |words: &[&str]| jobs(&place, words).into_iter().filter(|name| name == "list" || name.contains('(')).collect::<Vec<_>>();
    let test = ["-j", "test", "--matrix"];
    assert_eq!(ran(&[&test[..], &["python=3.10", "--matrix", "db=b"]].concat()), ["test (3.10, b)"]);
    // Values of one key are alternatives, and a number is what the workflow's author wrote.
    assert_eq!(
        ran(&[&test[..], &["python=3.11", "--matrix", "python=3.9", "--matrix", "db=a"]].concat()),
        ["test (3.11, a)", "test (3.9, a)"]
    );
    assert_eq!(ran(&["-j", "later", "--matrix", "db=c"]), ["later (c)", "list"]);
    // A value that is nowhere would be a green run of nothing.
    let wrong = place.run(&[&test[..], &["python=3.1"]].concat());
    wrong.expect(2);
    assert!(wrong.told().contains("its values are: 3.10, 3.11, 3.9"), "{}", wrong.told());
    let plan = place.caisson(&["plan", "-j", "test", "--matrix", "python=3.9"]).output().unwrap();
    let plan = String::from_utf8_lossy(&plan.stdout).into_owned();
    assert!(plan.contains("test (3.9, b)") && !plan.contains("3.10"), "{plan}");
}
