//! Webhooks start runs, whose source is cloned in the sandbox and whose end is reported back. The forge is a scripted peer on
//! loopback with git's own server behind it.

#![allow(clippy::unwrap_used, clippy::panic)]

mod asked;
mod forge;
mod place;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use caisson_controller::service::{Options, Service};
use caisson_controller::triggers::course::Course;
use caisson_controller::triggers::forge::Forges;
use caisson_controller::triggers::schedule;
use caisson_controller::triggers::settings::Repository;
use caisson_proto::api::ClientApi;
use forge::{Ends, Forge, Kind, free_port, git, output, text};
use place::{Place, until};
use serde_json::{Value, json};

const SECRET: &str = "a secret of webhooks";

/// By another program than the one that checks it.
fn signature(body: &str) -> String {
    let script = "import hmac,hashlib,sys; print(hmac.new(sys.argv[1].encode(), sys.stdin.buffer.read(), hashlib.sha256).hexdigest())";
    text(output(Command::new("python3").args(["-c", script, SECRET]), body.as_bytes()))
}

fn post(port: u16, path: &str, event: &str, number: &str, signature: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-GitHub-Event: {event}\r\nX-GitHub-Delivery: {number}\r\nX-Hub-Signature-256: sha256={signature}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer.split_once("\r\n\r\n").unwrap().1.trim().to_owned())
}

#[test]
fn a_push_is_cloned_run_and_reported_and_a_fork_gets_no_secret() {
    let workflow = "on:\n  push:\n    branches: [main]\n    paths-ignore: ['docs/**']\n  pull_request:\n    paths: [data]\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - uses: actions/checkout@v4\n      - run: echo \"protected=${{ github.ref_protected }}\"; cat data; test \"$(git rev-parse HEAD)\" = \"$GITHUB_SHA\"\n      - run: test -n \"$TOKEN\" && echo has-one || echo has-none\n        env:\n          TOKEN: ${{ secrets.TOKEN }}\n";
    let place = Place::new();
    let work = place.path().join("work");
    fs::create_dir_all(work.join(".github/workflows")).unwrap();
    fs::write(work.join(".github/workflows/t.yml"), workflow).unwrap();
    fs::write(work.join("data"), "from the forge\n").unwrap();
    git(&work, &["init", "--quiet"]);
    git(&work, &["add", "."]);
    git(&work, &["commit", "--quiet", "-m", "first"]);
    let sha = git(&work, &["rev-parse", "HEAD"]);
    let root = place.path().join("forge");
    fs::create_dir_all(&root).unwrap();
    git(&root, &["clone", "--quiet", "--bare", &work.display().to_string(), "shop.git"]);
    git(&root.join("shop.git"), &["config", "uploadpack.allowAnySHA1InWant", "true"]);
    let bare = root.join("shop.git");
    let forge = Forge::start(root, Kind::Github, None);
    let write = |name: &str, text: &str| {
        let path = place.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (secret, token) = (write("secret", &format!("{SECRET}\n")), write("token", "forge-token\n"));
    let (port, hooks, ops) = (free_port(), free_port(), free_port());
    let config = write(
        "controller.toml",
        &format!(
            "listen = \"127.0.0.1:{port}\"\nops_listen = \"127.0.0.1:{ops}\"\nhooks_listen = \"127.0.0.1:{hooks}\"\n[[repository]]\nname = \"acme/shop\"\nforge = \"github\"\napi = \"http://127.0.0.1:{0}/api\"\n\
             clone = \"http://127.0.0.1:{0}/git/shop.git\"\nsecret_file = \"{secret}\"\ntoken_file = \"{token}\"\n",
            forge.port
        ),
    );
    let state = place.path().join("controller").display().to_string();
    let mut controller = place.caisson(&["controller", "--config", &config, "--state-dir", &state, "--secret", "TOKEN"]);
    let mut controller = controller.env("TOKEN", "hunter2hunter2").stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(controller.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let url = format!("http://127.0.0.1:{port}");
    let state = place.path().join("agent").display().to_string();
    let agent = place.caisson(&["agent", "--controller", &url, "--name", "one", "--state-dir", &state]).spawn().unwrap();
    let _ends = Ends(vec![controller, agent]);
    until("webhooks are taken", || TcpStream::connect(("127.0.0.1", hooks)).is_ok());

    let body = json!({ "ref": "refs/heads/main", "after": sha, "repository": { "full_name": "acme/shop" }, "sender": { "login": "ada" } })
        .to_string();
    let path = "/hooks/github/acme/shop";
    let signed = signature(&body);
    // Unsigned, signed otherwise, changed, and at a repository that nobody named.
    assert_eq!(post(hooks, path, "push", "1", "", &body).0, 401);
    assert_eq!(post(hooks, path, "push", "1", &signature("something else"), &body).0, 401);
    assert_eq!(post(hooks, path, "push", "1", &signed, &body.replace("ada", "eve")).0, 401);
    assert_eq!(post(hooks, "/hooks/github/eve/shop", "push", "1", &signed, &body).0, 401);
    assert_eq!(post(hooks, path, "push", "1", &signed, &body), (202, "runs: 1".to_owned()));
    // A replay, also under another number, which is not signed.
    assert_eq!(post(hooks, path, "push", "1", &signed, &body).0, 409);
    assert_eq!(post(hooks, path, "push", "2", &signed, &body).0, 409);
    let logs = |run: &str| {
        let said = place.caisson(&["logs", "-f", run, "--controller", &url]).output().unwrap();
        String::from_utf8_lossy(&said.stdout).into_owned()
    };
    let log = logs("1");
    assert!(log.contains("\nfrom the forge\n") && log.contains("\nhas-one\n") && !log.contains("hunter2"), "{log}");
    assert!(log.contains("\nprotected=true\n"), "{log}");
    until("the end is reported", || forge.states(&sha).len() == 2);
    let context = || "caisson / .github/workflows/t.yml (push)".to_owned();
    assert_eq!(forge.states(&sha), [("pending".to_owned(), context()), ("success".to_owned(), context())]);

    // A branch that the workflow does not want, and an activity that starts nothing by itself.
    let other = body.replace("refs/heads/main", "refs/heads/topic");
    assert_eq!(post(hooks, path, "push", "20", &signature(&other), &other), (202, "runs: none".to_owned()));

    // A push that changed nothing which the workflow wants, by its own words.
    let mut docs: Value = serde_json::from_str(&body).unwrap();
    docs["commits"] = json!([{ "id": sha, "added": ["docs/a.md"], "modified": ["docs/b.md"], "removed": [] }]);
    let docs = docs.to_string();
    assert_eq!(post(hooks, path, "push", "22", &signature(&docs), &docs), (202, "runs: none".to_owned()));

    // A fork's pull request runs the same steps, without the secret.
    let body = json!({
        "action": "opened", "number": 1, "repository": { "full_name": "acme/shop" }, "sender": { "login": "eve" },
        "pull_request": { "head": { "sha": sha, "ref": "x", "repo": { "full_name": "eve/shop", "fork": true } }, "base": { "ref": "main", "repo": { "full_name": "acme/shop" } } },
    })
    .to_string();
    let closed = body.replace("opened", "closed");
    assert_eq!(post(hooks, path, "pull_request", "21", &signature(&closed), &closed), (202, "runs: none".to_owned()));
    // And one of which the forge says that it changed nothing which the workflow wants.
    let docs = body.replace("\"number\":1", "\"number\":2");
    assert_eq!(post(hooks, path, "pull_request", "23", &signature(&docs), &docs), (202, "runs: none".to_owned()));
    assert_eq!(post(hooks, path, "pull_request", "3", &signature(&body), &body), (202, "runs: 2".to_owned()));
    let log = logs("2");
    assert!(log.contains("\nfrom the forge\n") && log.contains("\nhas-none\n"), "{log}");
    until("the end is reported", || forge.states(&sha).len() == 4);
    // The branch holds another workflow by now: the one of the older commit is not run with its trust.
    fs::write(work.join(".github/workflows/t.yml"), workflow.replace("has-one", "has-some")).unwrap();
    git(&work, &["commit", "--quiet", "-a", "-m", "second"]);
    git(&work, &["push", "--quiet", &bare.display().to_string(), "main"]);
    let late = json!({ "ref": "refs/heads/main", "after": sha, "repository": { "full_name": "acme/shop" }, "sender": { "login": "bob" } });
    let late = late.to_string();
    assert_eq!(post(hooks, path, "push", "30", &signature(&late), &late), (202, "runs: 3".to_owned()));
    let log = logs("3");
    assert!(log.contains("\nprotected=false\n"), "{log}");

    // The operator sees what became of all of them.
    let metrics = text(output(Command::new("curl").args(["-sf", &format!("http://127.0.0.1:{ops}/metrics")]), b""));
    for (fate, count) in [("started", 3), ("refused", 4), ("repeated", 2), ("idle", 4), ("failed", 0)] {
        let line = format!("caisson_webhooks_total{{fate=\"{fate}\"}} {count}");
        assert!(metrics.contains(&line), "{line} is not in {metrics}");
    }
}

/// The clock is the test's: schedules fire at the minutes that they name, at the newest commit of the default branch, and at no others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schedule_fires_at_its_minutes_alone() {
    let place = Place::new();
    let work = place.path().join("work");
    fs::create_dir_all(work.join(".github/workflows")).unwrap();
    let workflow = "on:\n  schedule:\n    - cron: '30 4 * * 1'\njobs:\n  a: { runs-on: ubuntu-latest, steps: [{ run: date }] }\n";
    fs::write(work.join(".github/workflows/t.yml"), workflow).unwrap();
    git(&work, &["init", "--quiet"]);
    git(&work, &["add", "."]);
    git(&work, &["commit", "--quiet", "-m", "first"]);
    let sha = git(&work, &["rev-parse", "HEAD"]);
    let root = place.path().join("forge");
    fs::create_dir_all(&root).unwrap();
    git(&root, &["clone", "--quiet", "--bare", &work.display().to_string(), "shop.git"]);
    let forge = Forge::start(root, Kind::Github, None);
    let service = Service::open(Options::new(place.path().join("data"))).await.unwrap();
    let repository = Repository {
        name: "acme/shop".to_owned(),
        forge: caisson_controller::triggers::settings::Forge::Github,
        api: format!("http://127.0.0.1:{}/api", forge.port),
        clone: format!("http://127.0.0.1:{}/git/shop.git", forge.port),
        secret: SECRET.into(),
        token: Some("forge-token".to_owned()),
        clone_token: None,
        protected: Vec::new(),
        default_branch: "main".to_owned(),
        statuses: true,
    };
    let owed = place.path().join("owed.json");
    let course = Course::open(service.clone(), Forges::new().unwrap(), vec![repository], owed).unwrap();
    // Monday, 1 January 2024, from 04:28 to 04:33; and the same time on Tuesday.
    let monday = 28_401_388;
    let minutes: Vec<i64> = (monday..monday + 6).chain(monday + 1440..monday + 1446).collect();
    schedule::run_by(course, futures_util::stream::iter(minutes)).await;
    let runs = service.list_runs(9).await.unwrap();
    assert_eq!(runs.iter().map(|run| run.event.as_str()).collect::<Vec<_>>(), ["schedule"]);
    let begun = Instant::now();
    while forge.states(&sha).is_empty() {
        assert!(begun.elapsed() < place::PATIENCE, "the forge was not told");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    service.close().await;
}
