//! Real clients reach real servers by name through the exit, and nothing that no rule names: as an ordinary user of the sandbox, as its
//! root, and with an agent that is not root; over IPv4 and IPv6; whether they know proxies or not.

#![allow(clippy::unwrap_used, clippy::panic)]

mod place;
mod town;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use place::{Place, Run, needs};
use serde_json::{Value, json};
use town::Town;

/// What each client does, and says when it worked. `$F` holds what they need, at their own places.
const CLIENTS: [(&str, &str); 15] = [
    ("psql", "psql 'host=db.example user=postgres sslmode=require' -Atc 'select 40 + 2' | grep -x 42"),
    ("redis-cli", "redis-cli -h cache.example ping | grep PONG"),
    (
        "ssh",
        "ssh -F none -i /tmp/key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o BatchMode=yes -p 2222 $U@git.example echo over-ssh | grep over-ssh",
    ),
    ("git by https", "git -c http.sslCAInfo=$F/ca.pem clone -q https://git.example:8443/repo.git /tmp/h && grep hello /tmp/h/file"),
    (
        "git by ssh",
        "GIT_SSH_COMMAND='ssh -F none -i /tmp/key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o BatchMode=yes' git clone -q ssh://$U@git.example:2222$F/repo.git /tmp/s && grep hello /tmp/s/file",
    ),
    ("curl by proxy", "curl -sSf -m 20 --cacert $F/ca.pem https://web.example/ | grep 'hello to web.example'"),
    ("curl without", "curl -sSf -m 20 --noproxy '*' --cacert $F/ca.pem https://web.example/ | grep 'hello to web.example'"),
    ("curl over IPv6", "curl -6 -sSf -m 20 --noproxy '*' --cacert $F/ca.pem https://six.example/ | grep 'hello to six.example'"),
    ("curl over IPv4", "curl -4 -sSf -m 20 --noproxy '*' http://four.example/ | grep 'hello to four.example'"),
    (
        "urllib",
        "python3 -c 'import urllib.request as u; print(u.urlopen(\"http://web.example:8000/\", timeout=20).read())' | grep 'hello to web.example'",
    ),
    (
        "a socket",
        "python3 -c 'import socket; s = socket.create_connection((\"web.example\", 7000), 20); s.sendall(b\"ping\"); print(s.recv(4))' | grep ping",
    ),
    (
        "asyncio",
        "python3 -c 'import asyncio\nasync def main():\n r, w = await asyncio.open_connection(\"six.example\", 7000)\n w.write(b\"ping\"); print(await r.readexactly(4))\nasyncio.run(main())' | grep ping",
    ),
    (
        "node",
        "node -e 'require(\"http\").get(\"http://web.example:8000/\", r => r.on(\"data\", d => console.log(String(d)))).on(\"error\", e => { console.log(e); process.exit(1) })' | grep 'hello to web.example'",
    ),
    (
        "an address",
        "python3 -c 'import socket; s = socket.create_connection((\"203.0.113.10\", 7000), 20); s.sendall(b\"ping\"); print(s.recv(4))' | grep ping",
    ),
    (
        "an IPv6 address",
        "python3 -c 'import socket; s = socket.create_connection((\"2001:db8::10\", 7000), 20); s.sendall(b\"ping\"); print(s.recv(4))' | grep ping",
    ),
];

const ALLOWED: [&str; 14] = [
    "db.example:5432",
    "cache.example:6379",
    "git:git.example:2222",
    "git.example:8443",
    "web.example",
    "web.example:8000",
    "web.example:7000",
    "six.example",
    "six.example:7000",
    "four.example:80",
    "203.0.113.10:7000",
    "[2001:db8::10]:7000",
    "localhost:6379",
    "*.wild.example:8000",
];

fn postgres() -> Option<PathBuf> {
    let mut found: Vec<PathBuf> =
        fs::read_dir("/usr/lib/postgresql").ok()?.filter_map(|entry| Some(entry.ok()?.path().join("bin"))).collect();
    found.sort();
    found.pop().filter(|bin| bin.join("postgres").exists())
}

/// A town with every server that the clients talk to.
fn town() -> Option<Town> {
    let there = |program: &str| std::env::split_paths("/usr/bin:/usr/sbin:/bin:/sbin").any(|path| path.join(program).exists());
    let servers = ["psql", "redis-server", "redis-cli", "sshd", "ssh", "ssh-keygen", "git", "curl", "node", "setpriv"];
    if !needs(servers.into_iter().all(there) && postgres().is_some(), "a server or client is not installed") {
        return None;
    }
    let mut town = Town::new()?;
    let folder = town.path().to_owned();
    let run = |command: &mut Command| {
        let ran = command.current_dir(&folder).env("HOME", &folder).output().unwrap();
        assert!(ran.status.success(), "{command:?}: {}", String::from_utf8_lossy(&ran.stderr));
    };
    for key in ["host", "user"] {
        run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", key]));
    }
    fs::set_permissions(folder.join("user"), fs::Permissions::from_mode(0o644)).unwrap();
    let git = "git init -q --bare -b main repo.git && git init -q -b main work && cd work && echo hello > file && git add file && \
        git -c user.name=t -c user.email=t@example.com commit -qm one && git push -q ../repo.git main";
    run(Command::new("sh").args(["-c", git]));
    let data = folder.join("pg");
    fs::create_dir(&data).unwrap();
    Town::give(&data, 1000);
    let bin = postgres().unwrap();
    let as_user = ["--reuid", "1000", "--regid", "1000", "--clear-groups", "--"];
    let own = data.join("data");
    run(Command::new("setpriv").args(as_user).arg(bin.join("initdb")).args(["-A", "trust", "-U", "postgres", "--no-sync", "-D"]).arg(&own));
    for (from, to) in [("server.crt", "server.crt"), ("server.key", "server.key")] {
        fs::copy(folder.join(from), own.join(to)).unwrap();
    }
    fs::set_permissions(own.join("server.key"), fs::Permissions::from_mode(0o600)).unwrap();
    let hba = fs::read_to_string(own.join("pg_hba.conf")).unwrap();
    fs::write(own.join("pg_hba.conf"), format!("{hba}\nhost all all all trust\n")).unwrap();
    Town::give(&own, 1000);
    let (postgres, own, sockets) = (bin.join("postgres").display().to_string(), own.display().to_string(), data.display().to_string());
    let sockets = format!("unix_socket_directories={sockets}");
    let words = [&postgres, "-D", &own, "-c", "listen_addresses=*", "-c", "ssl=on", "-c", "fsync=off", "-c", &sockets];
    town.start("setpriv", &[&as_user[..], &words[..]].concat());
    town.start("redis-server", &["--port", "6379", "--bind", "*", "-::*", "--protected-mode", "no", "--save", "", "--dir", "/tmp"]);
    fs::create_dir_all("/run/sshd").unwrap();
    let shown = folder.display();
    let settings = format!(
        "Port 2222\nHostKey {shown}/host\nAuthorizedKeysFile {shown}/user.pub\nStrictModes no\nUsePAM no\nPermitRootLogin yes\nPidFile none\n"
    );
    fs::write(folder.join("sshd_config"), settings).unwrap();
    town.start("/usr/sbin/sshd", &["-D", "-e", "-f", folder.join("sshd_config").to_str().unwrap()]);
    town.web();
    for port in [5432, 6379, 2222] {
        town.wait_for(port);
    }
    Some(town)
}

/// One script that tries every client and says of each whether it worked.
fn script(folder: &Path) -> String {
    let mut text = format!("export F={} U=root; install -m 600 $F/user /tmp/key\n", folder.display());
    for (name, client) in CLIENTS {
        text.push_str(&format!(
            "if ( {client} ) >/tmp/said 2>&1; then echo '{name}: reached'; else echo '{name}: no'; cat /tmp/said >&2; fi\n"
        ));
    }
    text
}

fn outcomes(said: &str) -> Vec<(String, bool)> {
    said.lines()
        .filter_map(|line| line.rsplit_once(": ").map(|(name, how)| (name.to_owned(), how)))
        .filter(|(_, how)| ["reached", "no"].contains(how))
        .map(|(name, how)| (name, how == "reached"))
        .collect()
}

#[test]
fn clients_reach_what_is_allowed_and_nothing_else() {
    let Some(town) = town() else { return };
    let place = Place::new();
    let text = script(town.path());
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = place.path().join("caisson");
    fs::copy(env!("CARGO_BIN_EXE_caisson"), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let program = program.display().to_string();
    let folder = town.path().display().to_string();
    let user = ["setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups", "--", &program];
    let lacking = ["--allow-missing", "memory-limit,cpu-limit,pids-limit,id-range"];
    let modes: [(&str, &[&str], &[&str]); 3] =
        [("a user", &[&program], &[]), ("root inside", &[&program], &["--root"]), ("rootless", &user, &lacking)];
    for (mode, by, words) in modes {
        if mode == "rootless" {
            Town::give(place.path(), 1000);
        }
        for open in [true, false] {
            let mut all = [&["exec"][..], words, &["--ro", &folder]].concat();
            // The control: the same hosts, at a port where nobody is.
            let closed: Vec<String> = ["db", "cache", "git", "web", "six", "four"].map(|name| format!("{name}.example:9")).to_vec();
            let names: Vec<&str> = if open { ALLOWED.to_vec() } else { closed.iter().map(String::as_str).collect() };
            names.iter().for_each(|name| all.extend(["--allow", name]));
            all.extend(["--", "bash", "-c", &text]);
            let ran = town.caisson_by(&place, by, &all).output().unwrap();
            let (said, errors) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
            let expected: Vec<(String, bool)> = CLIENTS.iter().map(|(name, _)| ((*name).to_owned(), open)).collect();
            assert_eq!(outcomes(&said), expected, "as {mode}: {errors}");
        }
    }
}

#[test]
fn a_run_says_who_reached_what_and_its_ledger_is_chained() {
    let Some(town) = town() else { return };
    let place = Place::with(
        "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - name: Ask\n        run: |\n          \
         psql -h db.example -U postgres -Atc 'select 40 + 2'\n          \
         python3 -c 'import subprocess; subprocess.run([\"redis-cli\", \"-h\", \"cache.example\", \"ping\"], check=True)'\n          \
         python3 -c 'import socket; socket.create_connection((\"192.0.2.77\", 81), 5)' || true\n          \
         curl -sS -m 10 http://elsewhere.example/ || true\n",
    );
    place.write("policy.toml", "[network]\nallow = ['db.example:5432', 'cache.example:6379']\n");
    let run = Run::of(town.caisson(&place, &["run", "--json", "--policy", "policy.toml"]).output().unwrap());
    run.expect(0);
    let told: Vec<&Value> = run.of_type("egress").filter(|entry| entry["phase"] == "ended").collect();
    let find = |host: &str, kind: &str| {
        *told.iter().find(|e| e["host"] == host && e["kind"] == kind).unwrap_or_else(|| panic!("no {kind} of {host}: {told:?}"))
    };
    let names = |entry: &Value| -> Vec<String> {
        entry["process"].as_array().unwrap().iter().map(|process| process["name"].as_str().unwrap().to_owned()).collect()
    };
    let database = find("db.example", "connection");
    assert_eq!((&database["verdict"], &database["port"]), (&json!("allowed"), &json!(5432)));
    assert_eq!(names(database), ["psql", "bash"], "{database}");
    assert!(database["sent"].as_u64().unwrap() > 0 && database["received"].as_u64().unwrap() > 0);
    assert_eq!(names(find("cache.example", "connection")), ["redis-cli", "python3", "bash"]);
    assert_eq!(names(find("db.example", "lookup")), ["psql", "bash"]);
    assert_eq!(find("192.0.2.77", "connection")["verdict"], json!("refused"));
    assert_eq!(names(find("elsewhere.example", "connection")), ["curl", "bash"]);
    let ledger = &run.of_type("run").last().unwrap()["ledger"];
    assert_eq!(ledger["entries"].as_u64().unwrap(), told.len() as u64, "{ledger}");
    assert!(ledger["head"].as_str().unwrap().starts_with("sha256:"), "{ledger}");
}

/// A client that connects and is gone at once was seen all the same: while its first packet was held.
#[test]
fn who_connects_and_is_gone_at_once_is_known() {
    let Some(mut town) = Town::new() else { return };
    town.web();
    let place = Place::new();
    let script = "import os, socket\n\
        def gone(*to):\n\
        \x20   if os.fork() == 0:\n\
        \x20       open('/proc/self/comm', 'w').write('hasty')\n\
        \x20       try: socket.socket(socket.AF_INET6 if ':' in to[0] else socket.AF_INET).connect(to)\n\
        \x20       except OSError: pass\n\
        \x20       os._exit(0)\n\
        \x20   os.wait()\n\
        four = socket.gethostbyname('web.example')\n\
        six = socket.getaddrinfo('six.example', 7000, socket.AF_INET6)[0][4][0]\n\
        for _ in range(10):\n\
        \x20   gone(four, 7000); gone(six, 7000); gone(four, 7001); gone('192.0.2.9', 80); gone('2001:db8::9', 80); gone('127.0.0.1', 6379)";
    let words =
        ["exec", "--report", "report.json", "--allow", "web.example:7000", "--allow", "six.example:7000", "--allow", "localhost:6379"];
    let ran = town.caisson(&place, &[&words[..], &["--", "python3", "-c", script]].concat()).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let report: Value = serde_json::from_str(&fs::read_to_string(place.checkout().join("report.json")).unwrap()).unwrap();
    let connections: Vec<&Value> = report["egress"].as_array().unwrap().iter().filter(|entry| entry["kind"] == "connection").collect();
    // What is allowed is told each time, what is refused in the namespace once an address.
    assert_eq!(connections.len(), 3 * 10 + 3, "{connections:#?}");
    for entry in connections {
        let names: Vec<&str> = entry["lineage"].as_array().unwrap().iter().map(|process| process["name"].as_str().unwrap()).collect();
        assert!(names.len() == 2 && names[0] == "hasty" && names[1].starts_with("python"), "{entry}");
    }
}
