//! Actions do what they say: those that are built in, those of the checkout and those of the mirror; caches and artifacts hold
//! against steps that mean harm.

#![allow(clippy::unwrap_used, clippy::panic)]

mod place;

use std::fs;

use place::{Place, needs};

const GREET: &str = r#"
name: Greet
inputs:
  who: { required: true }
  mark: { default: "!" }
outputs:
  said: { value: "${{ steps.say.outputs.text }}" }
  loud: { value: "${{ steps.deep.outputs.text }}" }
runs:
  using: composite
  steps:
    - id: say
      shell: bash
      env: { INNER: inner }
      run: |
        echo "text=hello ${{ inputs.who }}${{ inputs.mark }}" >> "$GITHUB_OUTPUT"
        echo "variables $OUTER $INNER"
        test "$GITHUB_ACTION_PATH" = "${{ github.action_path }}" && cat "$GITHUB_ACTION_PATH/data.txt"
        echo "FROM_ACTION=kept" >> "$GITHUB_ENV"
        echo "greeted **${{ inputs.who }}**" >> "$GITHUB_STEP_SUMMARY"
    - id: deep
      uses: ./.github/actions/loud
      with: { text: "${{ steps.say.outputs.text }}" }
    - id: fails
      shell: bash
      continue-on-error: true
      run: exit 3
    - if: steps.fails.outcome == 'failure' && steps.fails.conclusion == 'success'
      shell: bash
      run: echo outcome and conclusion differ
    - if: failure()
      shell: bash
      run: echo never
"#;

const LOUD: &str = r#"
inputs: { text: {} }
outputs: { text: { value: "${{ steps.up.outputs.v }}" } }
runs:
  using: composite
  steps:
    - id: up
      shell: sh
      env: { TEXT: "${{ inputs.text }}" }
      run: echo "v=$(echo "$TEXT" | tr a-z A-Z)" >> "$GITHUB_OUTPUT"
"#;

#[test]
fn local_actions_nest_with_inputs_outputs_and_conditions() {
    let place = Place::with(
        r#"
on: push
jobs:
  test:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - id: greet
        uses: ./.github/actions/greet
        env: { OUTER: outer }
        with: { who: world }
      - env: { SAID: "${{ steps.greet.outputs.said }}", LOUD: "${{ steps.greet.outputs.loud }}", INNER: "${{ steps.say.outputs.text }}" }
        run: echo "said <$SAID> <$LOUD> <$FROM_ACTION> <$INNER>"
"#,
    );
    place.write(".github/actions/greet/action.yml", GREET);
    place.write(".github/actions/greet/data.txt", "data of the action\n");
    place.write(".github/actions/loud/action.yaml", LOUD);
    let run = place.run(&[]);
    run.expect(0);
    let log = run.log("test");
    for line in [
        "variables outer inner",
        "data of the action",
        "outcome and conclusion differ",
        // What happens in an action stays in it: its steps are nobody else's.
        "said <hello world!> <HELLO WORLD!> <kept> <>",
    ] {
        assert!(log.lines().any(|other| other == line), "{line} is not in {log}");
    }
    assert!(!log.lines().any(|line| line == "never"), "{log}");
    assert_eq!(run.step("test", "Run ./.github/actions/greet")["summary"], "greeted **world**\n");
}

#[test]
fn a_strangers_text_does_not_reach_a_script_through_an_action() {
    let workflow = |text: &str| {
        format!(
            "on: pull_request\njobs:\n  test:\n    runs-on: ubuntu-latest\n    steps:\n      - uses: ./a\n        with: {{ title: \"{text}\" }}\n"
        )
    };
    let action = "inputs: { title: {} }\nruns:\n  using: composite\n  steps:\n    - { shell: bash, run: \"echo ${{ inputs.title }}\" }\n";
    let place = Place::with(&workflow("${{ github.event.pull_request.title }}"));
    place.write("a/action.yml", action);
    let run = place.run(&[]);
    run.expect(2);
    assert!(run.errors.contains("stranger"), "{}", run.errors);
    // The control: the same with a text of one's own.
    let place = Place::with(&workflow("mine"));
    place.write("a/action.yml", action);
    place.run(&[]).expect(0);
}

const PAIR: &str = r#"
on: push
jobs:
  make:
    runs-on: ubuntu-latest
    steps:
      - run: |
          mkdir -p out/deep .hidden
          echo one > out/a.txt && echo two > out/deep/b.txt && echo no > out/.secret && printf '#!/bin/sh\n' > out/tool && chmod +x out/tool
          ln -s /etc/shadow out/shadow; ln -s ../../../../../etc/passwd out/up; ln -s . out/self
      - uses: actions/upload-artifact@v4
        with: { name: "results-${{ matrix.x || 'one' }}", path: "out\n!out/shadow" }
      - uses: actions/upload-artifact@v4
        with: { path: out/a.txt }
      - id: none
        uses: actions/upload-artifact@330a01c490aca151604b8cf639adc76d48f6c5d4
        with: { name: none, path: nothing/**, if-no-files-found: ignore }
  take:
    needs: make
    runs-on: ubuntu-latest
    steps:
      - uses: actions/download-artifact@v4
        with: { name: results-one, path: got }
      - run: cd got && find . -type f | sort | tr '\n' ' ' && cat a.txt deep/b.txt && test -x tool
      - uses: actions/download-artifact@v4
        with: { path: all }
      - run: ls all && cat all/artifact/a.txt
      - id: missing
        continue-on-error: true
        uses: actions/download-artifact@v4
        with: { name: other }
      - run: echo "missing ${{ steps.missing.outcome }}"
"#;

#[test]
fn artifacts_go_from_job_to_job_and_to_the_user() {
    let place = Place::with(PAIR);
    let run = place.run(&["--artifacts", "../kept"]);
    run.expect(0);
    let log = run.log("take");
    assert!(log.contains("./a.txt ./deep/b.txt ./tool"), "{log}");
    assert!(!log.contains(".secret") && log.contains("missing failure"), "{log}");
    let kept = place.path().join("kept");
    assert_eq!(fs::read_to_string(kept.join("results-one/deep/b.txt")).unwrap(), "two\n");
    assert_eq!(fs::read_to_string(kept.join("artifact/a.txt")).unwrap(), "one\n");
    let told: Vec<_> = run.of_type("artifact").map(|object| (object["name"].as_str().unwrap(), object["path"].clone())).collect();
    assert_eq!(told.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["artifact", "results-one"]);
    // No file of the host came along: a link leads where it leads in the sandbox, which has no such file or one of its own.
    for entry in walkdir::WalkDir::new(&kept).into_iter().filter_map(Result::ok) {
        assert!(!entry.path_is_symlink(), "{}", entry.path().display());
        if entry.file_type().is_file() {
            let text = fs::read(entry.path()).unwrap();
            assert!(text != fs::read("/etc/passwd").unwrap(), "{}", entry.path().display());
        }
    }
    // Without a directory named they lie in the state directory, and it is said where.
    let run = place.run(&[]);
    run.expect(0);
    let path = run.of_type("artifact").find(|object| object["name"] == "artifact").unwrap()["path"].as_str().unwrap().to_owned();
    assert_eq!(fs::read_to_string(std::path::Path::new(&path).join("a.txt")).unwrap(), "one\n");
}

const CACHED: &str = r#"
on: push
jobs:
  test:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - id: cache
        uses: actions/cache@v4
        with:
          path: |
            ~/.cache/things
            build/**/*.o
            !build/**/skip.o
          key: things-${{ hashFiles('lock') }}
          restore-keys: |
            things-
      - run: |
          echo "hit <${{ steps.cache.outputs.cache-hit }}>"
          echo "was <$(cat ~/.cache/things/a 2>/dev/null)> <$(cat build/x/y.o 2>/dev/null)> <$(ls build/x/skip.o 2>/dev/null)>"
          mkdir -p ~/.cache/things/deep build/x
          cat lock > ~/.cache/things/a; echo object > build/x/y.o; echo no > build/x/skip.o
          ln -sf /etc/shadow ~/.cache/things/link
          rm -f ~/.cache/things/gone; touch ~/.cache/things/gone-$(cat lock)
"#;

#[test]
fn a_cache_is_found_by_its_key_then_by_its_beginning_and_never_changed() {
    let place = Place::with(CACHED);
    place.write("lock", "1\n");
    let said = |run: &place::Run| {
        run.log("test").lines().filter(|line| line.starts_with("hit <") || line.starts_with("was <")).map(str::to_owned).collect::<Vec<_>>()
    };
    let first = place.run(&[]);
    assert_eq!(said(first.expect(0)), ["hit <>", "was <> <> <>"], "{}", first.told());
    let again = place.run(&[]);
    assert_eq!(said(again.expect(0)), ["hit <true>", "was <1> <object> <>"], "{}", again.told());
    assert!(again.log("test").contains("Nothing to save"), "{}", again.told());
    place.write("lock", "2\n");
    let other = place.run(&[]);
    assert_eq!(said(other.expect(0)), ["hit <false>", "was <1> <object> <>"], "{}", other.told());
    // What a job changed on top of what it restored is in what it saved, and not in what it restored.
    let new = place.run(&[]);
    assert_eq!(said(new.expect(0)), ["hit <true>", "was <2> <object> <>"]);
    place.write("lock", "1\n");
    let old = place.run(&[]);
    assert_eq!(said(old.expect(0)), ["hit <true>", "was <1> <object> <>"]);
}

#[test]
fn post_steps_run_in_reverse_order_and_only_when_they_should() {
    let place = Place::with(
        r#"
on: push
jobs:
  test:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/cache@v4
        with: { path: a, key: a }
      - uses: actions/cache@v4
        with: { path: b, key: b }
      - run: mkdir a b && touch a/x b/x
  fails:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/cache@v4
        with: { path: c, key: c }
      - run: mkdir c && touch c/x && exit 1
"#,
    );
    let run = place.run(&[]);
    run.expect(1);
    let log = run.log("test");
    let at = |text: &str| log.find(text).unwrap_or_else(|| panic!("{text} is not in {log}"));
    assert!(at("Cache saved with the key b") < at("Cache saved with the key a"), "{log}");
    assert!(!run.log("fails").contains("Cache saved"), "{}", run.told());
}

#[test]
fn reporting_actions_do_nothing_and_say_so() {
    let workflow = "on: push\njobs:\n  test:\n    runs-on: ubuntu-latest\n    steps:\n      - uses: codecov/codecov-action@v5\n        with: { fail_ci_if_error: true }\n      - uses: acme/report@v1\n";
    let place = Place::with(workflow);
    let run = place.run(&[]);
    run.expect(2);
    assert!(run.errors.contains("acme/report") && run.errors.contains("caisson actions add acme/report@v1"), "{}", run.errors);
    fs::write(place.path().join("policy.toml"), "[actions]\nno_op = [\"acme/*\"]\n").unwrap();
    let run = place.run(&["--policy", "../policy.toml"]);
    run.expect(0);
    let log = run.log("test");
    assert!(log.contains("codecov/codecov-action does nothing here") && log.contains("acme/report does nothing here"), "{log}");
}

#[test]
fn a_mirrored_action_runs_offline_with_its_state_and_its_post_program() {
    if !needs(std::path::Path::new("/usr/bin/node").exists(), "there is no node") {
        return;
    }
    let place = Place::with(
        r#"
on: push
jobs:
  test:
    runs-on: ubuntu-latest
    steps:
      - id: tool
        uses: acme/tool@v1
        with: { greeting: hi }
      - run: echo "got <${{ steps.tool.outputs.answer }}> <$LATER>"
      - uses: acme/tool/inner@v1
"#,
    );
    let tool = place.path().join("tool");
    fs::create_dir_all(tool.join("inner")).unwrap();
    fs::write(
        tool.join("action.yml"),
        "inputs:\n  greeting: {}\n  other name: { default: plain }\nruns: { using: node20, pre: pre.js, main: main.js, post: post.js }\n",
    )
    .unwrap();
    fs::write(tool.join("pre.js"), "console.log('pre ran');\n").unwrap();
    fs::write(
        tool.join("main.js"),
        "const fs = require('fs');\nconsole.log('main', process.env.INPUT_GREETING, process.env.INPUT_OTHER_NAME);\nfs.appendFileSync(process.env.GITHUB_OUTPUT, 'answer=42\\n');\nfs.appendFileSync(process.env.GITHUB_ENV, 'LATER=yes\\n');\nfs.appendFileSync(process.env.GITHUB_STATE, 'mine=secret state\\n');\ntry { fs.writeFileSync(__dirname + '/main.js', ''); console.log('WROTE'); } catch (e) { console.log('read-only', e.code); }\nrequire('http').get('http://192.0.2.1/').on('error', e => console.log('network', e.code ? 'closed' : 'open'));\n",
    )
    .unwrap();
    fs::write(tool.join("post.js"), "console.log('post saw', process.env.STATE_mine);\n").unwrap();
    fs::write(
        tool.join("inner/action.yml"),
        "runs:\n  using: composite\n  steps:\n    - { shell: bash, run: 'cat \"$GITHUB_ACTION_PATH/../pre.js\"' }\n",
    )
    .unwrap();
    let words = ["actions", "add", "acme/tool@v1", "--from", "../tool"];
    let added = place.caisson(&words).output().unwrap();
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    // Pinned: what becomes of the files later changes nothing.
    fs::write(tool.join("main.js"), "console.log('CHANGED');\n").unwrap();
    let run = place.run(&[]);
    run.expect(0);
    let log = run.log("test");
    for text in
        ["pre ran", "main hi plain", "got <42> <yes>", "post saw secret state", "read-only", "network closed", "console.log('pre ran')"]
    {
        assert!(log.contains(text), "{text} is not in {log}");
    }
    assert!(!log.contains("CHANGED") && !log.contains("WROTE"), "{log}");
    let listed = place.caisson(&["actions", "list", "--json"]).output().unwrap();
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!((&listed["name"], &listed["actions"]), (&"acme/tool@v1".into(), &serde_json::json!([".", "inner"])));
    assert!(place.caisson(&["actions", "remove", "acme/tool@v1"]).status().unwrap().success());
    place.run(&[]).expect(2);
}

/// Programs before the job's first step, of actions that a composite action of the mirror uses; they see the inputs that it hands over.
#[test]
fn programs_before_the_job_run_for_actions_inside_actions() {
    if !needs(std::path::Path::new("/usr/bin/node").exists(), "there is no node") {
        return;
    }
    let place = Place::with(
        "on: push\njobs:\n  test:\n    runs-on: ubuntu-latest\n    steps:\n      - run: echo first step\n      - uses: acme/outer@v1\n        with: { who: world }\n",
    );
    for (directory, file, text) in [
        (
            "outer",
            "action.yml",
            "inputs: { who: {} }\nruns:\n  using: composite\n  steps:\n    - uses: acme/inner@v1\n      with: { name: \"inner ${{ inputs.who }}\" }\n",
        ),
        ("inner", "action.yml", "inputs: { name: {} }\nruns: { using: node20, pre: pre.js, main: main.js }\n"),
        (
            "inner",
            "pre.js",
            "console.log('pre of', process.env.INPUT_NAME);\nrequire('fs').appendFileSync(process.env.GITHUB_STATE, 'kept=state of pre\\n');\n",
        ),
        ("inner", "main.js", "console.log('main of', process.env.INPUT_NAME, process.env.STATE_kept);\n"),
    ] {
        fs::create_dir_all(place.path().join(directory)).unwrap();
        fs::write(place.path().join(directory).join(file), text).unwrap();
    }
    for name in ["inner", "outer"] {
        let added = place.caisson(&["actions", "add", &format!("acme/{name}@v1"), "--from", &format!("../{name}")]).output().unwrap();
        assert!(added.status.success(), "{added:?}");
    }
    let run = place.run(&[]);
    run.expect(0);
    let log = run.log("test");
    let place_of = |text: &str| log.find(text).unwrap_or_else(|| panic!("{text} is not in {log}"));
    assert!(place_of("pre of inner world") < place_of("first step"), "{log}");
    assert!(place_of("first step") < place_of("main of inner world state of pre"), "{log}");
}

#[test]
fn steps_in_turn_write_to_a_directory_that_a_cache_was_restored_to() {
    let place = Place::with(
        r#"
on: push
jobs:
  test:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/cache@v4
        with: { path: kept, key: k }
      - run: mkdir -p kept/in && echo one > kept/in/first
      # Long enough for the next one's sandbox to be made meanwhile, if that is made ahead.
      - run: for n in $(seq 5000); do echo "$n" > kept/in/.$n || exit 1; done; echo two > kept/in/second && mkdir -p kept/more
      - run: echo three > kept/more/third && cat kept/in/* kept/more/* | tr '\n' ' '
"#,
    );
    for restored in [false, true] {
        let run = place.run(&[]);
        run.expect(0);
        let log = run.log("test");
        assert_eq!(log.contains("No cache entry"), !restored, "{log}");
        assert!(log.contains("one two three"), "{log}");
    }
}

#[test]
fn a_root_step_changes_the_jobs_system_and_never_the_hosts() {
    if !needs(nix::unistd::geteuid().is_root(), "only an agent with root lets steps change system directories") {
        return;
    }
    let place = Place::with(
        r#"
on: push
jobs:
  test:
    runs-on: ubuntu-latest
    steps:
      - name: Root
        run: |
          sudo -E NAME=value sh -c 'echo "as $(id -u) with $NAME"'
          sudo touch /etc/caisson-marker /usr/bin/caisson-marker
          test -s /var/lib/dpkg/status && echo "database seen"
          echo made > ~/made
          sudo -u runner id -u
      - name: User
        run: |
          ls /etc/caisson-marker /usr/bin/caisson-marker
          echo more >> ~/made && id -u
          sudo true || echo refused
          touch /usr/bin/other 2>/dev/null || echo "not for a user"
"#,
    );
    fs::write(place.path().join("policy.toml"), "[[step]]\nstep = \"Root\"\nroot = true\n").unwrap();
    let run = place.run(&["--policy", "../policy.toml"]);
    run.expect(0);
    let log = run.log("test");
    for line in ["as 0 with value", "1000", "refused", "not for a user", "/usr/bin/caisson-marker"] {
        assert!(log.lines().any(|other| other == line), "{line} is not in {log}");
    }
    let dpkg = std::path::Path::new("/var/lib/dpkg/status").exists();
    assert_eq!(log.lines().any(|line| line == "database seen"), dpkg, "{log}");
    assert!(!std::path::Path::new("/etc/caisson-marker").exists() && !std::path::Path::new("/usr/bin/caisson-marker").exists());
    // The control: without the policy the same step is an ordinary user.
    let run = place.run(&[]);
    run.expect(1);
    assert!(run.log("test").contains("this step is an ordinary user"), "{}", run.told());
}
