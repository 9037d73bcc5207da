//! The package gateway: what a step installs comes from the host's indexes, checked, kept for the next time, and without a secret.

#![allow(clippy::unwrap_used, clippy::panic)]

mod index;
mod place;

use std::path::Path;
use std::process::{Command, Output};

use index::{Index, LOGIN, Trick};
use place::{Place, Run};

const PASSWORD: &str = "open-sesame-42";

/// A workflow whose one step installs `demo`.
const INSTALLING: &str = "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - name: Install\n        run: python3 -m pip install --no-input --target /tmp/t demo\n";

/// Whether Debian's Python has pip, which these tests use inside.
fn pip() -> bool {
    let found = Command::new("/usr/bin/python3").args(["-m", "pip", "--version"]).output().is_ok_and(|output| output.status.success());
    place::needs(found, "the system's Python has no pip")
}

fn with_index(mut command: Command, index: &Index) -> Command {
    command.env("PIP_INDEX_URL", format!("http://{LOGIN}:{PASSWORD}@{}/simple/", index.address));
    command
}

/// `caisson exec --packages` with a script.
fn exec(place: &Place, index: &Index, flags: &[&str], script: &str) -> Output {
    let mut words = vec!["exec", "--packages"];
    words.extend(flags);
    words.extend(["--", "bash", "-c", script]);
    with_index(place.caisson(&words), index).output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn run(place: &Place, index: &Index, flags: &[&str]) -> Run {
    let mut words = vec!["run", "--json"];
    words.extend(flags);
    Run::of(with_index(place.caisson(&words), index).output().unwrap())
}

/// What the ledger says of packages: file, origin and verdict.
fn served(run: &Run) -> Vec<(String, String, String)> {
    let word = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let packages = run.of_type("egress").filter(|entry| entry["package"]["file"].as_str().is_some_and(|file| !file.is_empty()));
    packages.map(|entry| (word(&entry["package"]["file"]), word(&entry["package"]["origin"]), word(&entry["verdict"]))).collect()
}

#[test]
fn an_install_step_gets_packages_once_from_the_index_and_then_from_disk() {
    if !pip() {
        return;
    }
    let index = Index::open(Some(PASSWORD), Trick::None);
    let place = Place::with(INSTALLING);
    let first = run(&place, &index, &[]);
    first.expect(0);
    let file = index::WHEEL.to_owned();
    assert_eq!(served(&first), [(file.clone(), "upstream".to_owned(), "allowed".to_owned())], "{}", first.told());
    let entry = first.of_type("egress").find(|entry| entry["package"]["file"] == index::WHEEL).unwrap();
    assert_eq!(entry["package"]["digest"].as_str().unwrap(), format!("sha256:{}", index.digest()));
    assert_eq!((entry["package"]["name"].as_str(), entry["host"].as_str()), (Some("demo"), Some("127.0.0.1")));
    let fetched = index.requests_of(index::WHEEL);
    assert_eq!(fetched, 1, "{:?}", index.requests());

    let second = run(&place, &index, &[]);
    second.expect(0);
    assert_eq!(served(&second), [(file.clone(), "disk".to_owned(), "allowed".to_owned())], "{}", second.told());
    assert_eq!(index.requests_of(index::WHEEL), 1);

    // Offline, from what is stored, with the index gone.
    index.close();
    let offline = run(&place, &index, &["--offline"]);
    offline.expect(0);
    assert_eq!(served(&offline), [(file, "disk".to_owned(), "allowed".to_owned())]);
    // The control: without it the index is asked, and is not there.
    let online = exec(&place, &index, &[], "python3 -m pip download --retries 0 -d /tmp/x other");
    assert!(!online.status.success() && text(&online).contains("cannot be asked"), "{}", text(&online));
    let unknown = exec(&place, &index, &["--offline"], "python3 -m pip download --retries 0 -d /tmp/x other");
    assert!(!unknown.status.success() && text(&unknown).contains("the gateway is offline"), "{}", text(&unknown));
}

#[test]
fn a_step_that_installs_and_does_more_runs_in_two() {
    if !pip() {
        return;
    }
    let index = Index::open(Some(PASSWORD), Trick::None);
    let place = Place::new();
    let workflow = |script: &str| {
        format!(
            "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - name: Tests\n        env: {{ TOKEN: \"${{{{ secrets.TOKEN }}}}\" }}\n        run: |\n          python3 -m pip install --no-input --target \"$RUNNER_TEMP/t\" demo\n          {script}\n"
        )
    };
    place.write(
        ".github/workflows/t.yml",
        &workflow("PYTHONPATH=$RUNNER_TEMP/t python3 -c 'import os, demo; assert os.environ[\"TOKEN\"]; print(\"demo\", demo.x)'"),
    );
    let secret = |place: &Place, index: &Index| {
        let mut command = with_index(place.caisson(&["run", "--json", "--secret", "TOKEN"]), index);
        Run::of(command.env("TOKEN", "s3cr3t-of-the-test").output().unwrap())
    };
    let first = secret(&place, &index);
    first.expect(0);
    assert!(first.log("a").contains("demo 1"), "{}", first.told());
    assert_eq!(first.step("a", "Packages for Tests")["outcome"], "success");
    // The index was asked by the first half alone; the second had what was stored, knowing a secret.
    let half = |name: &str| {
        let of_step = first.of_type("egress").filter(|entry| entry["step_name"] == name);
        of_step.map(|entry| entry["package"]["origin"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    assert!(half("Packages for Tests").iter().any(|origin| origin == "upstream"), "{}", first.told());
    assert!(half("Tests").iter().all(|origin| origin != "upstream"), "{}", first.told());

    // What only the second half asks for by name never leaves this machine.
    place.write(".github/workflows/t.yml", &workflow("eval \"python3 -m pip download --retries 0 -d /tmp/x leaks-$TOKEN\""));
    secret(&place, &index).expect(1);
    assert!(index.requests().iter().all(|request| !request.contains("leaks")), "{:?}", index.requests());
}

#[test]
fn packages_that_cannot_be_told_ahead_are_there_while_a_step_without_secrets_runs() {
    if !pip() {
        return;
    }
    let index = Index::open(Some(PASSWORD), Trick::None);
    let place = Place::new();
    let workflow = |env: &str| {
        format!(
            "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    {env}\n    steps:\n      - name: Tests\n        run: |\n          for name in demo; do python3 -m pip install --no-input --retries 0 --target \"$RUNNER_TEMP/t\" $name; done\n          PYTHONPATH=$RUNNER_TEMP/t python3 -c 'import demo; print(\"demo\", demo.x)'\n"
        )
    };
    place.write(".github/workflows/t.yml", &workflow("env: {}"));
    let open = run(&place, &index, &[]);
    open.expect(0);
    assert!(open.log("a").contains("demo 1"), "{}", open.told());
    // The control: where the job has a secret, the same step reaches nothing, and says so.
    place.write(".github/workflows/t.yml", &workflow("env: { TOKEN: \"${{ secrets.TOKEN }}\" }"));
    let closed = run(&place, &index, &[]);
    closed.expect(1);
    assert!(closed.errors.contains("sees secrets (TOKEN), so it gets no network"), "{}", closed.errors);
}

#[test]
fn credentials_of_a_private_index_are_nowhere_inside() {
    if !pip() {
        return;
    }
    let index = Index::open(Some(PASSWORD), Trick::None);
    let place = Place::new();
    let encoded = index::basic(LOGIN, PASSWORD);
    let search = format!(
        "python3 -m pip -v download -d /tmp/x demo && ls /tmp/x && \
         {{ cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n'; grep -rhs '' /etc /home /tmp /run /dev/shm 2>/dev/null; \
         curl -sv http://127.0.83.1:61081/0/simple/demo/; curl -sv http://127.0.83.1:61081/0/simple/unknown-demo/; \
         curl -sv http://{address}/simple/demo/ -x http://127.0.0.1:61080; }} > /tmp/all 2>&1; \
         test $(wc -c < /tmp/all) -gt 5000 || echo nothing was searched; \
         if grep -a -e '{PASSWORD}' -e '{encoded}' /tmp/all; then echo it leaks; else echo clean; fi",
        PASSWORD = "open-ses''ame-42",
        address = index.address,
    );
    let search =
        search.replace("ses''ame", "ses[a]me").replace(&encoded, &format!("{}[{}]{}", &encoded[..4], &encoded[4..5], &encoded[5..]));
    let output = exec(&place, &index, &[], &search);
    let told = text(&output);
    assert!(output.status.success() && told.contains(index::WHEEL) && told.contains("clean"), "{told}");
    assert!(!told.contains(PASSWORD) && !told.contains(&encoded) && !told.contains("it leaks") && !told.contains("nothing was"), "{told}");
    // The control: the index lets nobody else in.
    assert!(index.ask("GET /simple/demo/ HTTP/1.0\r\n\r\n").starts_with("HTTP/1.1 401"));
    assert!(index.requests().iter().any(|request| request.contains("/simple/demo/") && request.ends_with("let in")));
}

#[test]
fn what_is_not_what_the_index_states_is_neither_served_nor_kept() {
    if !pip() {
        return;
    }
    for trick in [Trick::Tamper, Trick::Lengthen] {
        let index = Index::open(Some(PASSWORD), trick);
        let place = Place::new();
        let script = format!("curl -s --fail -o /tmp/got http://127.0.83.1:61081/0/files/demo/{} ; echo curl said $?", index::WHEEL);
        let output = exec(&place, &index, &[], &script);
        let told = text(&output);
        assert!(!told.contains("curl said 0") && told.contains("curl said"), "{trick:?}: {told}");
        assert!(told.contains("is refused"), "{trick:?}: {told}");
        assert!(blobs(&place).iter().all(|blob| !blob.windows(8).any(|window| window == b"TAMPERED")), "{trick:?}");
        // The control: from an honest index the same script succeeds in the same place.
        let honest = Index::open(Some(PASSWORD), Trick::None);
        let output = exec(&place, &honest, &[], &script);
        assert!(text(&output).contains("curl said 0"), "{}", text(&output));
    }
}

/// The content of every file that the gateway keeps.
fn blobs(place: &Place) -> Vec<Vec<u8>> {
    let store = place.path().join("home/.cache/caisson/packages/blobs");
    let files = walkdir::WalkDir::new(store).into_iter().filter_map(Result::ok).filter(|entry| entry.file_type().is_file());
    files.map(|entry| std::fs::read(entry.path()).unwrap()).collect()
}

#[test]
fn only_what_the_index_named_can_be_asked_for_and_nothing_be_sent() {
    let index = Index::open(None, Trick::None);
    let place = Place::new();
    let at = "http://127.0.83.1:61081";
    let named = format!("http://{}", index.address);
    let script = format!(
        "ask() {{ code=$(curl -s -o /dev/null -w '%{{http_code}}' --path-as-is \"$@\"); echo \"$code\"; }}
         ask {at}/0/simple/demo/
         ask -X POST -d secret {at}/0/simple/demo/
         ask -X PUT -T /etc/hostname {at}/0/files/demo/x.whl
         ask -X DELETE {at}/0/simple/demo/
         ask '{at}/0/simple/demo/?leak=secret'
         ask {at}/0/files/demo/demo-9.9-py3-none-any.whl
         ask {at}/0/files/demo/..%2f..%2fprivate
         ask {at}/9/simple/demo/
         ask {at}/private
         ask {at}/0/simple/
         ask -x http://127.0.0.1:61080 {named}/simple/demo/
         ask -x http://127.0.0.1:61080 {named}/private
         ask -x http://127.0.0.1:61080 -X POST -d secret {named}/simple/demo/
         ask -x http://127.0.0.1:61080 '{named}/simple/demo/?leak=secret'"
    );
    let output = exec(&place, &index, &[], &script);
    let codes: Vec<&str> = std::str::from_utf8(&output.stdout).unwrap().lines().map(str::trim).collect();
    let expected = ["200", "405", "405", "405", "403", "403", "403", "403", "403", "404", "200", "403", "405", "403"];
    assert_eq!(codes, expected, "{}", text(&output));
    let requests = index.requests();
    assert!(requests.iter().all(|request| request.starts_with("GET /simple/demo/ ")), "{requests:?}");
    // The control: the index itself would have answered.
    assert!(index.ask("GET /private HTTP/1.0\r\n\r\n").starts_with("HTTP/1.1 200"));
}

#[test]
fn an_earlier_day_has_earlier_versions() {
    if !pip() {
        return;
    }
    let index = Index::open(None, Trick::None);
    let place = Place::new();
    let script = "python3 -m pip download -q --retries 0 --no-deps -d /tmp/x demo; ls /tmp/x";
    let newest = exec(&place, &index, &[], script);
    assert!(text(&newest).contains("demo-2.0-"), "{}", text(&newest));
    let early = exec(&place, &index, &["--before", "2024-02-01"], script);
    assert!(text(&early).contains("demo-1.0-") && !text(&early).contains("demo-2.0-"), "{}", text(&early));
    let never = exec(&place, &index, &["--before", "2023-01-01"], script);
    assert!(!text(&never).contains("demo-1.0-"), "{}", text(&never));
    // By policy, for a step of a workflow.
    let place = Place::with(INSTALLING);
    let policy = place.path().join("policy.toml");
    std::fs::write(&policy, "[network]\nbefore = '2024-02-01'\n").unwrap();
    let run = run(&place, &index, &["--policy", policy.to_str().unwrap()]);
    run.expect(0);
    assert_eq!(served(&run)[0].0, "demo-1.0-py3-none-any.whl", "{}", run.told());
    // An index that does not say when is not asked to guess.
    let silent = Index::open(None, Trick::Silent);
    let output = exec(&Place::new(), &silent, &["--before", "2024-02-01"], script);
    assert!(text(&output).contains("does not say since when"), "{}", text(&output));
}

#[test]
fn a_folder_can_stand_in_for_the_index() {
    if !pip() {
        return;
    }
    let index = Index::open(None, Trick::None);
    let place = Place::new();
    let folder = place.path().join("wheels");
    std::fs::create_dir_all(folder.join("deep")).unwrap();
    std::fs::write(folder.join("deep/demo-1.0-py3-none-any.whl"), index::wheel("1.0")).unwrap();
    let flags = ["--wheelhouse", folder.to_str().unwrap()];
    let output = exec(&place, &index, &flags, "python3 -m pip install -q --retries 0 --target /tmp/t demo && ls /tmp/t; ls /opt 2>&1");
    assert!(text(&output).contains("demo-1.0.dist-info"), "{}", text(&output));
    let missing = exec(&place, &index, &flags, "python3 -m pip install -q --retries 0 --target /tmp/t other");
    assert!(!missing.status.success() && text(&missing).contains("has no 'other'"), "{}", text(&missing));
    assert!(index.requests().is_empty(), "{:?}", index.requests());
    // The same as a setting, which a flag overrules.
    let settings = place.path().join("home/.config/caisson");
    std::fs::create_dir_all(&settings).unwrap();
    std::fs::write(settings.join("config.toml"), format!("mirror = {{ python = {folder:?} }}\n")).unwrap();
    let install = "python3 -m pip install -q --retries 0 --target /tmp/t demo && ls /tmp/t";
    let output = exec(&place, &index, &[], install);
    assert!(text(&output).contains("demo-1.0.dist-info"), "{}", text(&output));
    let empty = place.path().join("empty");
    std::fs::create_dir_all(&empty).unwrap();
    let overruled = exec(&place, &index, &["--mirror", &format!("python={}", empty.display())], install);
    assert!(!overruled.status.success() && text(&overruled).contains("has no 'demo'"), "{}", text(&overruled));
    std::fs::write(settings.join("config.toml"), format!("wheelhouse = '/w'\nmirror = {{ python = {folder:?} }}\n")).unwrap();
    let twice = exec(&place, &index, &["--wheelhouse", folder.to_str().unwrap()], "true");
    assert!(twice.status.success(), "{}", text(&twice));
    let twice = exec(&place, &index, &[], "true");
    assert!(twice.status.code() == Some(2) && text(&twice).contains("both `wheelhouse`"), "{}", text(&twice));
    std::fs::remove_file(settings.join("config.toml")).unwrap();
    assert!(index.requests().is_empty(), "{:?}", index.requests());
    let nowhere = exec(&place, &index, &["--wheelhouse", "/no/such/folder"], "true");
    assert_eq!(nowhere.status.code(), Some(2), "{}", text(&nowhere));
}

/// Some clients ask the public index for more than the simple API has, whatever stands in for it.
#[test]
fn a_folder_tells_of_releases_as_the_public_index_does() {
    let place = Place::new();
    let folder = place.path().join("wheels");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("demo-1.0-py3-none-any.whl"), index::wheel("1.0")).unwrap();
    let script = "curl -sSf https://pypi.org/pypi/demo/1.0/json > /tmp/told && cat /tmp/told && echo && \
        curl -sSf -o /tmp/got $(python3 -c 'import json; print(json.load(open(\"/tmp/told\"))[\"urls\"][0][\"url\"])') && sha256sum < /tmp/got";
    let words = ["exec", "--packages", "--mirror", &format!("python={}", folder.display()), "--", "bash", "-c", script];
    let output = place.caisson(&words).output().unwrap();
    let told = text(&output);
    assert!(output.status.success() && told.contains("demo-1.0-py3-none-any.whl") && !told.contains("wheels"), "{told}");
    let digest = String::from_utf8(output.stdout.clone()).unwrap().lines().last().unwrap().split(' ').next().unwrap().to_owned();
    assert!(told.contains(&format!("\"sha256\":\"{digest}\"")), "{told}");
    let wrong = place.caisson(&["exec", "--packages", "--mirror", "ruby=.", "--", "true"]).output().unwrap();
    assert_eq!((wrong.status.code(), text(&wrong).contains("none of python, npm, debian")), (Some(2), true), "{}", text(&wrong));
}

#[test]
fn uv_installs_through_the_gateway_too() {
    let uv = ["/usr/local/bin/uv", "/usr/bin/uv"].iter().find(|path| Path::new(path).exists());
    if !place::needs(uv.is_some(), "uv is not in /usr/local/bin") {
        return;
    }
    let index = Index::open(Some(PASSWORD), Trick::None);
    let place = Place::new();
    let script = "uv pip install --no-cache --target /tmp/t demo && ls /tmp/t";
    let output = exec(&place, &index, &[], script);
    assert!(output.status.success() && text(&output).contains("demo-2.0.dist-info"), "{}", text(&output));
    // Also where a project pins the index by its own name: the gateway answers in it, with the host's credentials.
    let pinned = format!("uv pip install --no-cache --index-url http://{}/simple/ --target /tmp/t demo && ls /tmp/t", index.address);
    let output = exec(&place, &index, &[], &pinned);
    assert!(output.status.success() && text(&output).contains("demo-2.0.dist-info"), "{}", text(&output));
}

#[test]
fn npm_installs_through_the_gateway_and_keeps_to_the_lock_file() {
    if !place::needs(Path::new("/usr/bin/npm").exists(), "npm is not in /usr/bin") {
        return;
    }
    let registry = Index::open(Some(PASSWORD), Trick::None);
    let place = Place::new();
    let npmrc =
        format!("registry=http://{0}/\n//{0}/:username={LOGIN}\n//{0}/:_password={1}\n", registry.address, index::encoded(PASSWORD));
    std::fs::write(place.path().join("home/.npmrc"), npmrc).unwrap();
    place.write("package.json", r#"{"name": "app", "version": "1.0.0", "dependencies": {"@team/demo": "^1.0.0"}}"#);
    let npm = |flags: &[&str], script: &str| {
        let mut words = vec!["exec", "--packages", "--rw", "."];
        words.extend(flags);
        words.extend(["--", "bash", "-c", script]);
        place.caisson(&words).output().unwrap()
    };
    let output = npm(&[], "npm install --no-progress && cat node_modules/@team/demo/index.js");
    assert!(output.status.success() && text(&output).contains("demo speaks"), "{}", text(&output));
    assert!(!text(&output).contains(PASSWORD));
    // A lock file of somebody else's, who used the public registry by its own name.
    let lock = std::fs::read_to_string(place.checkout().join("package-lock.json")).unwrap();
    let public = lock.replace(&format!("http://{}/", registry.address), "https://registry.npmjs.org/");
    assert_ne!(lock, public, "{lock}");
    place.write("package-lock.json", &public);
    let output = npm(&[], "rm -rf node_modules && npm ci --no-progress && cat node_modules/@team/demo/index.js");
    assert!(output.status.success() && text(&output).contains("demo speaks"), "{}", text(&output));
    registry.close();
    let output = npm(&["--offline"], "rm -rf node_modules && npm ci --no-progress && cat node_modules/@team/demo/index.js");
    assert!(output.status.success() && text(&output).contains("demo speaks"), "{}", text(&output));
}
