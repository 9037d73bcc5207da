//! What a hostile step tries against its exit, each with a control that shows that the thing is there to be reached.

#![allow(clippy::unwrap_used, clippy::panic)]

mod place;
mod town;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use place::{Place, Run, until};
use serde_json::{Value, json};
use town::Town;

fn attacks() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/town/attacks.py").display().to_string()
}

fn outcomes(said: &[u8]) -> BTreeMap<String, bool> {
    let said = String::from_utf8_lossy(said).into_owned();
    let lines = said.lines().filter_map(|line| line.rsplit_once(": "));
    lines.map(|(what, how)| (what.to_owned(), how == "through")).collect()
}

/// What every attempt is allowed to reach; whatever else there is, is there as well.
const ALLOWED: [&str; 10] = [
    "web.example:7000",
    "web.example:443",
    "web.example:80",
    "*.wild.example:80",
    "inner.example:7000",
    "metadata.example:7000",
    "loop.example:7000",
    "loop6.example:7000",
    "ula.example:7000",
    "other.example:9",
];

#[test]
fn nothing_gets_through_that_is_not_allowed() {
    let Some(mut town) = Town::new() else { return };
    town.web();
    let place = Place::new();
    let (script, authority) = (attacks(), town.authority().display().to_string());
    // The control: all of these are there, for whoever is not in a sandbox.
    let outside = town.command("/usr/bin/python3");
    let there = [
        "another name",
        "another port",
        "its address",
        "its IPv6 address",
        "its address, mapped",
        "metadata",
        "name of metadata",
        "private name",
        "name of loopback",
        "name of IPv6 loopback",
        "host's loopback",
        "host's IPv6 loopback",
        "host's own address",
        "another SNI",
        "no SNI",
        "encrypted hello",
        "another Host",
        "another target",
        "name of a private IPv6 address",
        "its private IPv6 address",
        "another port over IPv6",
        "another SNI over IPv6",
        "no SNI over IPv6",
        "encrypted hello over IPv6",
        "another Host over IPv6",
        "another target over IPv6",
        "datagram",
        "datagram to an address",
        "datagram to an IPv6 address",
        "abstract socket",
        "raw socket",
        "IPv6 raw socket",
        "packet socket",
        "its rules",
    ];
    let mut control = outside;
    let reached = outcomes(&control.args([&script, &authority]).args(there).output().unwrap().stdout);
    for what in there {
        // Another port is open and speaks HTTP; a client of ours cannot greet without a name.
        let by_its_nature = ["another port", "no SNI", "no SNI over IPv6"].contains(&what);
        assert!(reached[what] || by_its_nature, "control: {what}: {reached:?}");
    }
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = place.path().join("caisson");
    fs::copy(env!("CARGO_BIN_EXE_caisson"), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let program = program.display().to_string();
    let user = ["setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups", "--", &program];
    let lacking = ["--allow-missing", "memory-limit,cpu-limit,pids-limit,id-range"];
    let modes: [(&str, &[&str], &[&str]); 3] =
        [("a user", &[&program], &[]), ("root inside", &[&program], &["--root"]), ("rootless", &user, &lacking)];
    for (mode, by, words) in modes {
        if mode == "rootless" {
            Town::give(place.path(), 1000);
        }
        let report = place.checkout().join("report.json").display().to_string();
        let mut all = [&["exec"][..], words, &["--report", &report, "--ro", &script, "--ro", &authority]].concat();
        ALLOWED.iter().for_each(|name| all.extend(["--allow", name]));
        all.extend(["--", "python3", &script, &authority]);
        let ran = town.caisson_by(&place, by, &all).output().unwrap();
        let errors = String::from_utf8_lossy(&ran.stderr).into_owned();
        let found = outcomes(&ran.stdout);
        assert!(found.len() > 70, "as {mode}: {errors}");
        for (what, through) in &found {
            assert_eq!(*through, what.starts_with("allowed") || what.starts_with("flood"), "as {mode}: {what}: {errors}");
        }
        // What was refused is on the record, with the reason.
        let report: Value = serde_json::from_str(&fs::read_to_string(&report).unwrap()).unwrap();
        let entries = report["egress"].as_array().unwrap();
        let refused = |host: &str, port: u16, words: &str| {
            entries.iter().any(|entry| {
                entry["verdict"] == "refused"
                    && entry["host"] == host
                    && entry["port"] == port
                    && entry["rule"].as_str().is_some_and(|rule| rule.contains(words))
            })
        };
        for (host, port, words) in [
            ("web.example", 443, "its TLS greeting names other.example"),
            ("web.example", 443, "names no server"),
            ("web.example", 443, "is encrypted"),
            ("web.example", 443, "is not TLS"),
            ("inner.example", 7000, "10.9.0.1, a private network"),
            ("metadata.example", 7000, "cloud metadata"),
            ("loop.example", 7000, "loopback"),
            ("ula.example", 7000, "fc00::/7"),
            ("203.0.113.10", 7000, "no rule allows it"),
            ("2001:db8::10", 7000, "no rule allows it"),
            ("169.254.169.254", 7000, "no rule allows it"),
            ("a.stranger.example", 0, "no rule allows it"),
            ("web.example", 8000, "port 8000 is not allowed"),
        ] {
            assert!(refused(host, port, words), "as {mode}: {host}:{port} {words}: {entries:#?}");
        }
    }
}

/// A name that leads elsewhere the second time still means what was judged.
#[test]
fn a_name_is_pinned_for_a_steps_life_and_judged_anew_for_the_next() {
    let Some(mut town) = Town::new() else { return };
    town.web();
    town.rename("203.0.113.10", "moving.example");
    let place = Place::new();
    let ask = "import socket,time,os\n\
        def ask(n):\n    s = socket.create_connection(('moving.example', 7000), 10); s.sendall(b'ping'); s.settimeout(10)\n    print(n, s.recv(4) == b'ping', flush=True)\n\
        ask('first')\n\
        while not os.path.exists('moved'): time.sleep(0.02)\n\
        ask('second')";
    let checkout = place.checkout().display().to_string();
    let words = ["exec", "--rw", &checkout, "--report", "report.json", "--allow", "moving.example:7000", "--", "python3", "-c", ask];
    let mut child = town.caisson(&place, &words).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut said = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    assert_eq!(line, "first True\n");
    town.rename("10.9.0.1", "moving.example");
    place.write("moved", "");
    assert!(child.wait().unwrap().success());
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut said, &mut rest).unwrap();
    assert_eq!(rest, "second True\n");
    let report: Value = serde_json::from_str(&fs::read_to_string(place.checkout().join("report.json")).unwrap()).unwrap();
    let dialled: Vec<&Value> =
        report["egress"].as_array().unwrap().iter().filter(|e| e["kind"] == "connection").map(|e| &e["address"]).collect();
    assert_eq!(dialled, [&json!("203.0.113.10:7000"); 2]);
    // The next step asks anew, and then it leads inside.
    let ran = town.caisson(&place, &["exec", "--allow", "moving.example:7000", "--", "python3", "-c", &ask.replace("ask('second')", "")]);
    let ran = { ran }.output().unwrap();
    assert!(!ran.status.success() && String::from_utf8_lossy(&ran.stderr).contains("10.9.0.1, a private network"), "{ran:?}");
    // Unless the range is named.
    let words = ["exec", "--range", "10.0.0.0/8", "--allow", "moving.example:7000", "--", "python3", "-c", ask];
    assert!(town.caisson(&place, &words).output().unwrap().status.success());
}

/// What a step leaves running does not keep its connections, and another job's listener is nowhere.
#[test]
fn connections_end_with_their_step_and_jobs_do_not_see_each_other() {
    let Some(mut town) = Town::new() else { return };
    town.web();
    let place = Place::with(
        "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - name: Hold\n        run: |\n          \
         python3 -c 'import socket, time; s = socket.create_connection((\"web.example\", 7000), 10); s.sendall(b\"x\"); s.recv(1); open(\"held\", \"w\").close(); time.sleep(600)' &\n          \
         until [ -e held ]; do sleep 0.05; done\n      \
         - name: After\n        run: |\n          \
         for i in 1 2 3; do [ -n \"$(ls /proc | grep -x '[0-9]*' | xargs -I% cat /proc/%/cmdline 2>/dev/null | tr '\\0' ' ' | grep -v grep | grep 'time.sleep(600)')\" ] && echo alive; done; echo looked\n  \
         b:\n    runs-on: ubuntu-latest\n    steps:\n      - name: Listen\n        run: |\n          \
         python3 -c 'import socket; [s := socket.create_server((\"0.0.0.0\", 7111)), s.settimeout(8), print(\"b was\", \"reached\" if s.accept() else \"?\")]' || echo b was alone\n  \
         c:\n    runs-on: ubuntu-latest\n    steps:\n      - name: Look\n        run: |\n          \
         for i in $(seq 8); do for to in 127.0.0.1 0.0.0.0 ::1 10.9.0.1 203.0.113.10 198.18.0.1; do python3 -c 'import socket,sys; socket.create_connection((sys.argv[1], 7111), 2); print(\"c got in\")' $to 2>/dev/null || true; done; done; echo tried\n",
    );
    place.write("policy.toml", "[[step]]\nstep = 'Hold'\nallow = ['web.example:7000']\n");
    let run = Run::of(town.caisson(&place, &["run", "--json", "--slots", "3", "--policy", "policy.toml"]).output().unwrap());
    run.expect(0);
    let said = |job: &str, line: &str| run.log(job).lines().any(|other| other == line);
    assert!(said("a", "looked") && !said("a", "alive"), "{}", run.told());
    assert!(said("b", "b was alone") && said("c", "tried") && !said("c", "c got in"), "{}", run.told());
    let held = run.of_type("egress").find(|e| e["step_name"] == "Hold" && e["kind"] == "connection" && e["phase"] == "ended").unwrap();
    assert_eq!((&held["verdict"], &held["received"]), (&json!("allowed"), &json!(1)));
    // The server saw its end.
    until("the connection to end", || fs::read_to_string(town.path().join("ended")).is_ok_and(|text| text == "ended\n"));
}

/// Limits on bytes and on connections hold, and say so.
#[test]
fn limits_on_bytes_and_connections_hold() {
    let Some(mut town) = Town::new() else { return };
    town.web();
    let place = Place::with(
        "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - name: Much\n        shell: python\n        run: |\n          \
         import socket\n          \
         s = socket.create_connection(('web.example', 7000), 10)\n          \
         s.settimeout(10)\n          \
         heard = 0\n          \
         try:\n              while heard < 4 << 20:\n                  s.sendall(bytes(65536)); heard += len(s.recv(65536))\n              print('carried all')\n          \
         except OSError as error:\n              print('cut')\n      \
         - name: Many\n        shell: python\n        run: |\n          \
         import socket\n          \
         held = []\n          \
         try:\n              for i in range(20):\n                  s = socket.create_connection(('web.example', 7000), 10); s.settimeout(10); s.sendall(b'x'); s.recv(1); held.append(s)\n          \
         except OSError as error:\n              pass\n          \
         print('held', len(held))\n",
    );
    let policy = |bytes: &str, connections: &str| {
        place.write("policy.toml", &format!("[network]\nallow = ['web.example:7000']\n{bytes}\n{connections}\n"));
        let run = Run::of(town.caisson(&place, &["run", "--json", "--policy", "policy.toml"]).output().unwrap());
        run.expect(0);
        run
    };
    let open = policy("", "");
    assert!(open.log("a").contains("carried all") && open.log("a").contains("held 20"), "{}", open.told());
    let limited = policy("bytes = '1MiB'", "connections = 5");
    assert!(limited.log("a").contains("cut") && limited.log("a").contains("held 5"), "{}", limited.told());
    let rules: Vec<&str> = limited.of_type("egress").filter(|e| e["verdict"] == "refused").filter_map(|e| e["rule"].as_str()).collect();
    assert!(
        rules.iter().any(|rule| rule.contains("1 MiB")) && rules.iter().any(|rule| rule.contains("more than 5 connections")),
        "{rules:?}"
    );
}
