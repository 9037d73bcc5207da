//! Webhooks of GitLab, Gitea and Forgejo to a real controller: signed as each of them signs, started, cloned from a private
//! repository with a token that no step sees, and reported back. Code of a fork gets neither secret nor token. Schedules fire.

#![allow(clippy::unwrap_used, clippy::panic)]

mod asked;
mod forge;
mod place;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use forge::{Ends, Forge, Kind, free_port, git, output, text};
use place::{Place, until};
use serde_json::{Value, json};

const SECRET: &str = "a secret of webhooks";
const CLONE_TOKEN: &str = "read-only-clone-token";
const WORKFLOW: &str = "on:
  push:
  pull_request:
  schedule:
    - cron: '* * * * *'
jobs:
  a:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - run: cat data; test \"$(git rev-parse HEAD)\" = \"$GITHUB_SHA\"; git remote -v; cat .git/config
      - run: test -n \"$TOKEN\" && echo has-one || echo has-none
        env:
          TOKEN: ${{ secrets.TOKEN }}
";

struct Scene {
    place: Place,
    forge: Arc<Forge>,
    sha: String,
    url: String,
    hooks: u16,
    path: String,
    _ends: Ends,
}

impl Scene {
    fn start(name: &str, kind: Kind) -> Scene {
        let place = Place::new();
        let work = place.path().join("work");
        fs::create_dir_all(work.join(".github/workflows")).unwrap();
        fs::write(work.join(".github/workflows/t.yml"), WORKFLOW).unwrap();
        fs::write(work.join("data"), "from the forge\n").unwrap();
        git(&work, &["init", "--quiet"]);
        git(&work, &["add", "."]);
        git(&work, &["commit", "--quiet", "-m", "first"]);
        let sha = git(&work, &["rev-parse", "HEAD"]);
        let root = place.path().join("forge");
        fs::create_dir_all(&root).unwrap();
        git(&root, &["clone", "--quiet", "--bare", &work.display().to_string(), "shop.git"]);
        git(&root.join("shop.git"), &["config", "uploadpack.allowAnySHA1InWant", "true"]);
        let forge = Forge::start(root, kind, Some(CLONE_TOKEN));
        let write = |name: &str, text: &str| {
            let path = place.path().join(name);
            fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let files = [("secret", SECRET), ("token", "forge-token"), ("clone", CLONE_TOKEN)];
        let [secret, token, clone] = files.map(|(name, text)| write(name, &format!("{text}\n")));
        let (port, hooks) = (free_port(), free_port());
        let config = write(
            "controller.toml",
            &format!(
                "listen = \"127.0.0.1:{port}\"\nhooks_listen = \"127.0.0.1:{hooks}\"\n[[repository]]\nname = \"acme/shop\"\nforge = \"{name}\"\n\
                 api = \"http://127.0.0.1:{0}/api\"\nclone = \"http://127.0.0.1:{0}/git/shop.git\"\nsecret_file = \"{secret}\"\n\
                 token_file = \"{token}\"\nclone_token_file = \"{clone}\"\n",
                forge.port
            ),
        );
        let state = place.path().join("controller").display().to_string();
        let mut controller = place.caisson(&["controller", "--config", &config, "--state-dir", &state, "--secret", "TOKEN"]);
        let mut controller = controller.env("TOKEN", "hunter2hunter2").stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(controller.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = format!("http://127.0.0.1:{port}");
        let state = place.path().join("agent").display().to_string();
        let mut agent = place.caisson(&["agent", "--controller", &url, "--name", "one", "--state-dir", &state]);
        let agent = agent.stderr(Stdio::null()).spawn().unwrap();
        let ends = Ends(vec![controller, agent]);
        until("webhooks are taken", || TcpStream::connect(("127.0.0.1", hooks)).is_ok());
        Scene { place, forge, sha, url, hooks, path: format!("/hooks/{name}/acme/shop"), _ends: ends }
    }

    fn post(&self, headers: &[(&str, &str)], body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.hooks)).unwrap();
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        write!(
            stream,
            "POST {} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            self.path,
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer.split_once("\r\n\r\n").unwrap().1.trim().to_owned())
    }

    fn log(&self, run: &str) -> String {
        let said = self.place.caisson(&["logs", "-f", run, "--controller", &self.url]).output().unwrap();
        String::from_utf8_lossy(&said.stdout).into_owned()
    }

    fn runs(&self) -> Vec<Value> {
        let said = self.place.caisson(&["runs", "--json", "--controller", &self.url]).output().unwrap();
        text(said.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The started run clones with the token, has the secret, shows neither, and is reported in the words of its forge.
    fn passed(&self, answer: (u16, String), event: &str) {
        assert_eq!(answer.0, 202, "{answer:?}");
        let run = answer.1.strip_prefix("runs: ").unwrap();
        let log = self.log(run);
        assert!(log.contains("\nfrom the forge\n") && log.contains("\nhas-one\n"), "{log}");
        let basic = text(output(Command::new("base64").arg("-w0"), format!("x-access-token:{CLONE_TOKEN}").as_bytes()));
        assert!(!log.contains("hunter2") && !log.contains(CLONE_TOKEN) && !log.contains(&basic), "{log}");
        assert!(self.forge.shown().contains(&Some(format!("Basic {basic}"))), "the token opened the repository");
        until("the end is reported", || self.forge.states(&self.sha).len() >= 2);
        let context = format!("caisson / .github/workflows/t.yml ({event})");
        assert_eq!(self.forge.states(&self.sha)[..2], [("pending".to_owned(), context.clone()), ("success".to_owned(), context)]);
    }

    /// The started run is of a fork: it gets neither the secret nor the token, and so cannot be cloned from a private repository.
    fn stranger(&self, answer: (u16, String), word: &str) {
        let before = self.forge.states(&self.sha).len();
        assert_eq!(answer.0, 202, "{answer:?}");
        let log = self.log(answer.1.strip_prefix("runs: ").unwrap());
        assert!(log.contains("could not be cloned") && !log.contains("has-one") && !log.contains("hunter2"), "{log}");
        let shown = self.forge.shown();
        assert!(!shown.is_empty() && shown.iter().all(Option::is_none), "{shown:?}");
        until("the end is reported", || self.forge.states(&self.sha).iter().any(|(state, _)| state == word));
        assert!(self.forge.states(&self.sha).len() <= before + 2);
    }
}

/// By another program than the one that checks it.
fn hmac(message: &str, form: &str) -> String {
    let script =
        format!("import hmac,hashlib,sys,base64; d=hmac.new(sys.argv[1].encode(), sys.stdin.buffer.read(), hashlib.sha256); print({form})");
    text(output(Command::new("python3").args(["-c", &script, SECRET]), message.as_bytes()))
}

fn hex(message: &str) -> String {
    hmac(message, "d.hexdigest()")
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn gitlab_starts_runs_of_a_private_repository() {
    let scene = Scene::start("gitlab", Kind::Gitlab);
    let signed = |event: &str, id: &str, at: u64, body: &str| {
        let at = at.to_string();
        let signature = format!("v1,{}", hmac(&format!("{id}.{at}.{body}"), "base64.b64encode(d.digest()).decode()"));
        scene.post(&[("X-Gitlab-Event", event), ("webhook-id", id), ("webhook-timestamp", &at), ("webhook-signature", &signature)], body)
    };
    let body = json!({
        "ref": "refs/heads/main", "after": scene.sha, "project": { "path_with_namespace": "acme/shop" }, "user_username": "ada",
    })
    .to_string();
    assert_eq!(scene.post(&[("X-Gitlab-Event", "Push Hook")], &body).0, 401, "not signed");
    assert_eq!(scene.post(&[("X-Gitlab-Event", "Push Hook"), ("X-Gitlab-Token", "another one")], &body).0, 401);
    assert_eq!(signed("Push Hook", "old", now() - 600, &body).0, 401, "signed ten minutes ago");
    let answer = signed("Push Hook", "one", now(), &body);
    scene.passed(answer, "push");
    assert_eq!(signed("Push Hook", "one", now(), &body).0, 409, "a replay");
    let merge = json!({
        "project": { "path_with_namespace": "acme/shop" }, "user": { "username": "eve" },
        "object_attributes": {
            "action": "open", "iid": 3, "last_commit": { "id": scene.sha }, "source_branch": "x", "target_branch": "main",
            "source": { "path_with_namespace": "eve/shop" },
        },
    })
    .to_string();
    // The older way of GitLab: the secret itself.
    let answer =
        scene.post(&[("X-Gitlab-Event", "Merge Request Hook"), ("X-Gitlab-Event-UUID", "two"), ("X-Gitlab-Token", SECRET)], &merge);
    scene.stranger(answer, "failed");
}

fn gitea_like(name: &str, header: &str) -> Scene {
    let scene = Scene::start(name, Kind::Gitea);
    let (kind, number, signature) = (format!("{header}-Event"), format!("{header}-Delivery"), format!("{header}-Signature"));
    let send = |event: &str, id: &str, by: &str, body: &str| scene.post(&[(&kind, event), (&number, id), (&signature, by)], body);
    let body =
        json!({ "ref": "refs/heads/main", "after": scene.sha, "repository": { "full_name": "acme/shop" }, "sender": { "login": "ada" } });
    let body = body.to_string();
    assert_eq!(send("push", "1", "", &body).0, 401, "not signed");
    assert_eq!(send("push", "1", &hex("something else"), &body).0, 401);
    let answer = send("push", "1", &hex(&body), &body);
    scene.passed(answer, "push");
    assert_eq!(send("push", "1", &hex(&body), &body).0, 409, "a replay");
    let pull = json!({
        "action": "opened", "number": 1, "repository": { "full_name": "acme/shop" }, "sender": { "login": "eve" },
        "pull_request": { "head": { "sha": scene.sha, "ref": "x", "repo": { "full_name": "eve/shop" } }, "base": { "ref": "main", "repo": { "full_name": "acme/shop" } } },
    })
    .to_string();
    let answer = send("pull_request", "2", &hex(&pull), &pull);
    scene.stranger(answer, "failure");
    scene
}

#[test]
fn gitea_starts_runs_of_a_private_repository_and_schedules_fire() {
    let scene = gitea_like("gitea", "X-Gitea");
    // Every minute, so at most one from the moment on at which the list was read.
    let begun = Instant::now();
    while !scene.runs().iter().any(|run| run["event"] == "schedule") {
        assert!(begun.elapsed() < Duration::from_secs(150), "no schedule fired: {:?}", scene.runs());
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn forgejo_starts_runs_of_a_private_repository() {
    gitea_like("forgejo", "X-Forgejo");
}
