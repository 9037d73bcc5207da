//! The ledger of a run on a controller: who reached what, chained, and what happens to whoever changes it afterwards.

#![allow(clippy::unwrap_used, clippy::panic)]

mod place;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use place::{Place, Run};
use serde_json::{Value, json};

struct Ends(Vec<Child>);

impl Drop for Ends {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // A failed test must not leave them behind.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn controller(place: &Place, port: u16) -> Child {
    let state = place.path().join("controller").display().to_string();
    let listen = format!("127.0.0.1:{port}");
    let words = ["controller", "--listen", &listen, "--state-dir", &state, "--policy", "policy.toml"];
    let mut child = place.caisson(&words).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains(&listen), "{line}");
    child
}

fn server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nthere");
        }
    });
    port
}

#[test]
fn a_ledger_is_whole_until_somebody_changes_it() {
    let server = server();
    let place = Place::with(&format!(
        "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - name: Ask\n        run: |\n          \
         curl -sS -m 10 http://localhost:{server}/\n          curl -sS -m 10 http://elsewhere.example/ || true\n      \
         - name: Again\n        run: curl -sS -m 10 http://localhost:{server}/\n",
    ));
    place.write("policy.toml", &format!("[network]\nallow = ['localhost:{server}']\n"));
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    let agents = place.path().join("agent").display().to_string();
    let agent = ["agent", "--controller", &url, "--name", "one", "--state-dir", &agents];
    let mut ends = Ends(vec![controller(&place, port), place.caisson(&agent).stderr(Stdio::null()).spawn().unwrap()]);
    let run = Run::of(place.caisson(&["submit", "--controller", &url, "--follow", "--json"]).output().unwrap());
    run.expect(0);
    let number = run.of_type("run").last().unwrap()["id"].to_string();

    let ledger = |more: &[&str]| {
        let words = [&["ledger", &number, "--controller", &url, "--json"][..], more].concat();
        let shown = place.caisson(&words).output().unwrap();
        let text = String::from_utf8(shown.stdout).unwrap();
        let objects: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (shown.status.code().unwrap(), objects)
    };
    let (code, whole) = ledger(&[]);
    let (last, entries) = whole.split_last().unwrap();
    assert_eq!((code, &last["type"], &last["whole"], &last["entries"]), (0, &json!("ledger"), &json!(true), &json!(entries.len())));
    let asked: Vec<_> = entries.iter().map(|entry| (&entry["step_name"], &entry["host"], &entry["verdict"])).collect();
    assert!(asked.contains(&(&json!("Ask"), &json!("localhost"), &json!("allowed"))), "{asked:?}");
    assert!(asked.contains(&(&json!("Again"), &json!("localhost"), &json!("allowed"))), "{asked:?}");
    let refused = entries.iter().find(|entry| entry["host"] == "elsewhere.example" && entry["verdict"] == "refused").unwrap();
    assert_eq!(refused["process"][0]["name"], json!("curl"), "{refused}");
    assert_eq!(entries.last().unwrap()["digest"], last["head"]);
    assert_eq!(last["recorded"]["head"], last["head"]);
    // A head that was written down elsewhere counts as well.
    let head = last["head"].as_str().unwrap().to_owned();
    assert_eq!(ledger(&["--head", &head]).0, 0);
    assert_eq!(ledger(&["--head", &format!("sha256:{}", "0".repeat(64))]).0, 1);
    let show = || String::from_utf8(place.caisson(&["show", &number, "--controller", &url]).output().unwrap().stdout).unwrap();
    assert!(show().contains("ledger is whole") && show().contains(&head), "{}", show());

    // Somebody who can write the controller's files lets a step have reached nobody.
    kill(Pid::from_raw(i32::try_from(ends.0[0].id()).unwrap()), Signal::SIGTERM).unwrap();
    ends.0[0].wait().unwrap();
    let journal = place.path().join("controller/controller/journal.sqlite");
    assert!(journal.exists(), "{}", journal.display());
    let script = "import sqlite3, sys\n\
        c = sqlite3.connect(sys.argv[1])\n\
        n = c.execute(\"update history set event = replace(event, 'elsewhere.example', 'nowhere.example')\").rowcount\n\
        c.commit(); c.close(); assert n > 0";
    assert!(Command::new("python3").args(["-c", script]).arg(&journal).status().unwrap().success());
    ends.0[0] = controller(&place, port);
    let (code, changed) = ledger(&[]);
    let last = changed.last().unwrap();
    assert_eq!((code, &last["whole"]), (1, &json!(false)), "{last}");
    assert_ne!(last["head"], last["recorded"]["head"]);
    assert!(show().contains("ledger is BROKEN"), "{}", show());
}

/// A pull request can write a policy into its checkout. On a controller that counts for nothing, whoever trusts it; the controller's own does.
#[test]
fn a_policy_of_the_checkout_opens_nothing_on_a_controller() {
    let server = server();
    let place = Place::with(&format!(
        "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - name: Ask\n        run: curl -sSf -m 10 http://localhost:{server}/\n",
    ));
    let opening = format!("[network]\nallow = ['localhost:{server}']\n");
    place.write(".caisson/policy.toml", &opening);
    place.write("policy.toml", "[network]\nallow = []\n");
    // The controls: here it counts, once it is trusted.
    place.run(&[]).expect(1);
    assert!(place.caisson(&["trust"]).output().unwrap().status.success());
    place.run(&[]).expect(0);

    let submitted = |name: &str| {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let url = format!("http://127.0.0.1:{port}");
        let agents = place.path().join(name).display().to_string();
        let agent = ["agent", "--controller", &url, "--name", name, "--state-dir", &agents];
        let _ends = Ends(vec![controller(&place, port), place.caisson(&agent).stderr(Stdio::null()).spawn().unwrap()]);
        Run::of(place.caisson(&["submit", "--controller", &url, "--follow", "--json"]).output().unwrap())
    };
    let run = submitted("one");
    run.expect(1);
    let refused: Vec<&Value> = run.of_type("egress").filter(|entry| entry["verdict"] == "refused").collect();
    assert!(refused.iter().any(|entry| entry["port"] == json!(server)) || !run.log("a").contains("there"), "{}", run.told());
    assert!(!run.of_type("egress").any(|entry| entry["verdict"] == "allowed"), "{}", run.told());
    // The same, once it is the controller's own.
    place.write("policy.toml", &opening);
    submitted("two").expect(0);
}
