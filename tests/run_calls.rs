//! Workflows that call workflows of the same checkout: what they are handed, what they give back, how they end.

#![allow(clippy::unwrap_used, clippy::panic)]

mod place;

use place::Place;
use serde_json::Value;

const MAIN: &str = r#"
name: Main
on: push
jobs:
  prep:
    runs-on: ubuntu-latest
    outputs: { list: "${{ steps.l.outputs.list }}" }
    steps:
      - id: l
        run: echo 'list=["a","b"]' >> "$GITHUB_OUTPUT"
  build:
    needs: prep
    strategy:
      matrix:
        v: ${{ fromJSON(needs.prep.outputs.list) }}
    uses: ./.github/workflows/called.yml
    with: { name: "x-${{ matrix.v }}", count: 3 }
    secrets: { KEY: "${{ secrets.DEPLOY_KEY }}" }
  after:
    needs: [build, prep]
    runs-on: ubuntu-latest
    steps:
      - name: Look
        run: echo "got $OUT, $RESULT"
        env: { OUT: "${{ needs.build.outputs.made }}", RESULT: "${{ needs.build.result }}" }
"#;

const CALLED: &str = r#"
on:
  workflow_call:
    inputs:
      name: { type: string, required: true }
      count: { type: number, default: 1 }
      flag: { type: boolean, default: true }
    secrets: { KEY: { required: true }, OTHER: { required: false } }
    outputs: { made: { value: "${{ jobs.two.outputs.made }}" } }
jobs:
  one:
    name: First of ${{ inputs.name }}
    runs-on: ubuntu-latest
    outputs: { made: "made ${{ inputs.name }}" }
    steps:
      - name: Keys
        run: echo "${#KEY} letters, ${#OTHER} letters"
        env: { KEY: "${{ secrets.key }}", OTHER: "${{ secrets.OTHER }}" }
  two:
    needs: one
    if: inputs.flag
    runs-on: ubuntu-latest
    outputs: { made: "${{ steps.s.outputs.made }}" }
    steps:
      - id: s
        name: Make
        run: echo "made=$MADE $COUNT $GITHUB_WORKFLOW" >> "$GITHUB_OUTPUT"
        env: { MADE: "${{ needs.one.outputs.made }}", COUNT: "${{ inputs.count }}" }
"#;

#[test]
fn a_matrix_of_calls_gets_inputs_and_secrets_and_gives_outputs() {
    let place = Place::with(MAIN);
    place.write(".github/workflows/called.yml", CALLED);
    let mut command = place.caisson(&["run", "--json", "-W", "t.yml", "--secret", "DEPLOY_KEY"]);
    let run = place::Run::of(command.env("DEPLOY_KEY", "four-and-more").output().unwrap());
    assert_eq!(run.code, 0, "{}", run.errors);
    for cell in ["a", "b"] {
        let first = format!("build ({cell}) / First of x-{cell}");
        assert!(run.log(&first).contains("13 letters, 0 letters"), "{}", run.log(&first));
        assert_eq!(run.job(&format!("build ({cell}) / two"))["outcome"], "success");
    }
    assert_eq!(run.job("build")["outputs"]["made"], "made x-b 3 Main");
    assert!(run.log("after").contains("got made x-b 3 Main, success"), "{}", run.log("after"));
}

#[test]
fn calls_nest_inherit_fail_and_are_skipped() {
    let place = Place::with(
        "on: push\njobs:\n  outer:\n    uses: ./.github/workflows/middle.yml\n    secrets: inherit\n  never:\n    if: false\n    uses: ./.github/workflows/middle.yml\n  \
         last:\n    needs: outer\n    if: failure()\n    runs-on: ubuntu-latest\n    steps:\n      - run: echo \"outer was ${{ needs.outer.result }}\"\n",
    );
    place.write(
        ".github/workflows/middle.yml",
        "on: { workflow_call: { secrets: { TOKEN: {} } } }\njobs:\n  mid:\n    uses: ./.github/workflows/inner.yml\n    secrets: { INNER: \"${{ secrets.TOKEN }}\" }\n",
    );
    place.write(
        ".github/workflows/inner.yml",
        "on: { workflow_call: { secrets: { INNER: {} } } }\njobs:\n  in:\n    runs-on: ubuntu-latest\n    steps:\n      - run: test \"${#INNER}\" = 9 && exit 7\n        env: { INNER: \"${{ secrets.INNER }}\" }\n",
    );
    let mut command = place.caisson(&["run", "--json", "-W", "t.yml", "--secret", "TOKEN"]);
    let run = place::Run::of(command.env("TOKEN", "ninechars").output().unwrap());
    assert_eq!(run.code, 1, "{}", run.errors);
    let codes: Vec<&Value> = run.of_type("step").filter(|step| step["state"] == "finished").map(|step| &step["job_name"]).collect();
    assert!(codes.contains(&&Value::from("outer / mid / in")), "{codes:?}");
    assert_eq!(run.job("outer / mid / in")["outcome"], "failure");
    assert_eq!((&run.job("outer")["outcome"], &run.job("never")["outcome"]), (&"failure".into(), &"skipped".into()));
    assert!(run.log("last").contains("outer was failure"));
}

#[test]
fn text_of_a_stranger_reaches_no_script_by_way_of_an_input() {
    let place = Place::with(
        "on: push\njobs:\n  a:\n    uses: ./.github/workflows/say.yml\n    with: { title: \"${{ github.event.pull_request.title }}\" }\n",
    );
    let say = |step: &str| {
        format!(
            "on: {{ workflow_call: {{ inputs: {{ title: {{ type: string }} }} }} }}\njobs:\n  x:\n    runs-on: ubuntu-latest\n    steps:\n      - {step}\n"
        )
    };
    place.write(".github/workflows/say.yml", &say("run: echo \"${{ inputs.title }}\""));
    let output = place.caisson(&["plan", "-W", "t.yml"]).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.code() == Some(2) && errors.contains("t.yml:5:20: error: the input may hold text that a stranger chose"),
        "{errors}"
    );
    place.write(".github/workflows/say.yml", &say("{ run: 'echo \"$T\"', env: { T: \"${{ inputs.title }}\" } }"));
    let output = place.caisson(&["plan", "-W", "t.yml"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn what_a_called_workflow_may_not_do_is_refused_with_its_own_place() {
    let main = "on: push\njobs:\n  a:\n    uses: ./.github/workflows/bad.yml\n  b:\n    uses: ./.github/workflows/none.yml\n  c:\n    uses: other/repo/.github/workflows/x.yml@v1\n    secrets: inherit\n  d:\n    uses: ./.github/workflows/t.yml\n";
    let place = Place::with(main);
    place.write(
        ".github/workflows/bad.yml",
        "on: workflow_call\njobs:\n  x:\n    runs-on: ubuntu-latest\n    container: alpine\n    steps: [{ run: \"true\" }]\n",
    );
    let output = place.caisson(&["run", "-W", "t.yml"]).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{errors}");
    for part in [
        ".github/workflows/bad.yml:5:5: error: `container`",
        ".github/workflows/t.yml:6:11: error: the called workflow ./.github/workflows/none.yml is not in the checkout",
        ".github/workflows/t.yml:8:11: error: the workflow `other/repo/.github/workflows/x.yml@v1` is of another repository",
        ".github/workflows/t.yml:9:14: error: all secrets would be handed",
        "./.github/workflows/t.yml' cannot be called",
    ] {
        assert!(errors.contains(part), "{part} is missing in {errors}");
    }
}
