//! The language's own clients for caches and artifacts, npm @actions/cache and @actions/artifact, run as a JavaScript action of the
//! mirror: offline, in the sandbox, and together with the built-in actions.

#![allow(clippy::unwrap_used, clippy::panic)]

mod place;

use std::fs;
use std::path::Path;
use std::process::Command;

use place::{Place, needs};

/// A place with a workflow and the clients in its mirror, as `acme/kit@v1`; `None` where the clients are not installed.
fn place(workflow: &str) -> Option<Place> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let installed = root.join("target/toolkit/node_modules");
    let bundler = installed.join(".bin/esbuild");
    if !needs(bundler.exists(), "npm @actions/cache and @actions/artifact are not in target/toolkit (.ci/run installs them)") {
        return None;
    }
    let place = Place::with(workflow);
    let action = place.path().join("kit");
    fs::create_dir_all(&action).unwrap();
    fs::copy(root.join("tests/toolkit/action.yml"), action.join("action.yml")).unwrap();
    // Bundled, as actions are published.
    let bundled = Command::new(bundler)
        .args(["--bundle", "--platform=node", "--format=esm", "--log-level=error"])
        .arg("--banner:js=import { createRequire as requirer } from 'node:module'; const require = requirer(import.meta.url);")
        .arg(format!("--outfile={}", action.join("dist/index.mjs").display()))
        .arg(root.join("tests/toolkit/action.mjs"))
        .env("NODE_PATH", &installed)
        .status()
        .unwrap();
    assert!(bundled.success());
    let added = place.caisson(&["actions", "add", "acme/kit@v1", "--from", action.to_str().unwrap()]).output().unwrap();
    assert!(added.status.success(), "{added:?}");
    Some(place)
}

#[test]
fn artifacts_of_clients_and_of_the_built_in_actions_are_the_same() {
    let Some(place) = place(
        r#"
on: push
jobs:
  keep:
    runs-on: ubuntu-latest
    steps:
      - run: mkdir -p dist/sub && echo one > dist/a.txt && echo two > dist/sub/b.txt && head -c 9000000 /dev/urandom > dist/large && sha256sum < dist/large > dist/sum
      - uses: acme/kit@v1
        with: { act: upload, name: of-client, path: "dist/a.txt\ndist/sub/b.txt\ndist/large\ndist/sum" }
      - uses: actions/upload-artifact@v4
        with: { name: built-in, path: dist }
      - id: again
        continue-on-error: true
        uses: acme/kit@v1
        with: { act: upload, name: of-client, path: dist/a.txt }
      - id: list
        uses: acme/kit@v1
        with: { act: list }
      - run: echo "again ${{ steps.again.outcome }}, names ${{ steps.list.outputs.names }}"
  read:
    needs: keep
    runs-on: ubuntu-latest
    steps:
      - uses: actions/download-artifact@v4
        with: { name: of-client, path: got }
      - uses: acme/kit@v1
        with: { act: download, name: built-in, into: client }
      - run: |
          test "$(cat got/dist/a.txt got/dist/sub/b.txt)" = "$(printf 'one\ntwo')"
          test "$(cat client/a.txt client/sub/b.txt)" = "$(printf 'one\ntwo')"
          sha256sum < got/dist/large | diff - got/dist/sum
          sha256sum < client/large | diff - client/sum
      - uses: acme/kit@v1
        with: { act: remove, name: of-client }
      - id: list
        uses: acme/kit@v1
        with: { act: list }
      - run: echo "left ${{ steps.list.outputs.names }}"
"#,
    ) else {
        return;
    };
    let run = place.run(&[]);
    run.expect(0);
    assert!(run.log("keep").contains("again failure, names built-in of-client"), "{}", run.told());
    assert!(run.log("read").contains("left built-in\n") || run.log("read").ends_with("left built-in"), "{}", run.told());
}

#[test]
fn caches_of_clients_and_of_the_built_in_action_are_the_same() {
    let Some(place) = place(
        r#"
on: push
jobs:
  fill:
    runs-on: ubuntu-latest
    steps:
      - id: none
        uses: acme/kit@v1
        with: { act: restore, key: client-1, others: client-, path: ~/.cache/client }
      - run: |
          mkdir -p ~/.cache/client ~/.cache/built-in node_modules/.bin
          echo of the client > ~/.cache/client/file; ln -s file ~/.cache/client/link; ln ~/.cache/client/file ~/.cache/client/hard
          echo built in > ~/.cache/built-in/file; echo relative > node_modules/.bin/x
      - id: save
        uses: acme/kit@v1
        with: { act: save, key: client-1, path: ~/.cache/client }
      - id: again
        uses: acme/kit@v1
        with: { act: save, key: client-1, path: ~/.cache/client }
      - uses: actions/cache/save@v4
        with: { key: built-in-1, path: "~/.cache/built-in\nnode_modules" }
      - name: As the first version of the service
        id: first
        uses: acme/kit@v1
        env: { GITHUB_SERVER_URL: "https://forge.example.com" }
        with: { act: save, key: first-1, path: node_modules }
      - run: echo "none ${{ steps.none.outputs.found }}, again ${{ steps.again.outputs.saved }}, saved ${{ steps.save.outputs.saved != '-1' }} ${{ steps.first.outputs.saved != '-1' }}"
  use:
    needs: fill
    runs-on: ubuntu-latest
    steps:
      - id: built-in
        uses: actions/cache/restore@v4
        with: { key: client-9, restore-keys: client-, path: ~/.cache/client }
      - id: client
        uses: acme/kit@v1
        with: { act: restore, key: built-in-9, others: "nothing-\nbuilt-in-", path: "~/.cache/built-in\nnode_modules" }
      - run: |
          cat ~/.cache/client/link ~/.cache/client/hard ~/.cache/built-in/file node_modules/.bin/x
          rm -r node_modules
      - id: first
        uses: acme/kit@v1
        env: { GITHUB_SERVER_URL: "https://forge.example.com" }
        with: { act: restore, key: first-1, path: node_modules }
      - run: cat node_modules/.bin/x; echo "${{ steps.built-in.outputs.cache-matched-key }} ${{ steps.client.outputs.found }} ${{ steps.first.outputs.found }}"
"#,
    ) else {
        return;
    };
    let run = place.run(&[]);
    run.expect(0);
    assert!(run.log("fill").contains("none nothing, again -1, saved true true"), "{}", run.told());
    let said = run.log("use");
    assert!(said.contains("of the client\nof the client\nbuilt in\nrelative\n"), "{}", run.told());
    assert!(said.contains("relative\nclient-1 built-in-1 first-1"), "{}", run.told());
}

/// What a step had is worth nothing to the next one; the control shows that the way of asking is right.
#[test]
fn a_token_ends_with_its_step() {
    let Some(place) = place(
        r#"
on: push
jobs:
  try:
    runs-on: ubuntu-latest
    steps:
      - uses: acme/kit@v1
        with: { act: leave, into: token }
      - id: control
        uses: acme/kit@v1
        with: { act: steal, from: token, own: true }
      - id: steal
        uses: acme/kit@v1
        with: { act: steal, from: token }
      - run: |
          echo "control ${{ steps.control.outputs.status }}, stolen ${{ steps.steal.outputs.status }}"
          test -z "$ACTIONS_RUNTIME_TOKEN"
          if curl --noproxy '*' -sS http://127.0.83.1:61090/; then echo there "$((40 + 2))"; else echo not there; fi
"#,
    ) else {
        return;
    };
    let run = place.run(&[]);
    run.expect(0);
    let said = run.log("try");
    assert!(said.contains("control 200, stolen 401") && said.contains("\nnot there") && !said.contains("there 42"), "{}", run.told());
}
