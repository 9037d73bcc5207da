//! What steps may reach and know: nothing by default, what policy says otherwise, and all of it written down.

#![allow(clippy::unwrap_used, clippy::panic)]

mod place;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};

use place::{Place, Run};
use serde_json::json;

/// A web server on the host's loopback that answers every request with `there`.
fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nthere");
        }
    });
    address
}

/// A workflow with one step that asks the server, once through the proxy of its environment and once directly.
fn asking(address: SocketAddr) -> String {
    format!(
        "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - name: Ask\n        shell: python\n        run: |\n          import socket, urllib.request\n          \
         try:\n              print('by proxy', urllib.request.urlopen('http://{address}/', timeout=10).read())\n          except Exception as error:\n              print('by proxy', error)\n          \
         try:\n              kept = socket.create_connection(('{}', {}), timeout=3)\n              print('directly there')\n          except OSError as error:\n              print('directly', error)\n          \
         try:\n              urllib.request.urlopen('http://refused.example.com/', timeout=10)\n          except Exception as error:\n              print('elsewhere', error)\n      \
         - name: Other\n        run: python3 -c 'import urllib.request; urllib.request.urlopen(\"http://{address}/\", timeout=5)' && echo other reached it || echo other did not\n",
        address.ip(),
        address.port()
    )
}

#[test]
fn a_step_reaches_nothing_unless_policy_names_it() {
    let address = server();
    // The control: from outside it is there.
    let mut control = std::net::TcpStream::connect(address).unwrap();
    control.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    control.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("there"));

    let place = Place::with(&asking(address));
    let closed = place.run(&[]);
    closed.expect(0);
    let said = |run: &Run, line: &str| run.log("a").lines().any(|other| other == line);
    assert!(
        !said(&closed, "by proxy b'there'") && !said(&closed, "directly there") && said(&closed, "other did not"),
        "{}",
        closed.log("a")
    );

    let policy = place.path().join("policy.toml");
    std::fs::write(&policy, format!("[[step]]\nstep = 'Ask'\nallow = ['{address}']\n")).unwrap();
    let open = place.run(&["--policy", policy.to_str().unwrap()]);
    open.expect(0);
    // Whether the client knows proxies or not, and only that step.
    assert!(said(&open, "by proxy b'there'") && said(&open, "directly there"), "{}", open.log("a"));
    assert!(said(&open, "other did not"), "{}", open.log("a"));
    let told: Vec<_> = open.of_type("egress").filter(|entry| entry["phase"] == "ended").collect();
    // What the other step tried is refused by the kernel, and told all the same.
    let by = |step: &str, verdict: &str| {
        let found: Vec<_> = told.iter().filter(|entry| entry["step_name"] == step && entry["verdict"] == verdict).collect();
        assert!(!found.is_empty(), "none {verdict}: {told:?}");
        found
    };
    assert_eq!(by("Ask", "refused")[0]["host"], json!("refused.example.com"));
    assert!(by("Ask", "allowed").iter().all(|entry| entry["port"] == json!(address.port())), "{told:?}");
    assert!(by("Ask", "allowed").iter().any(|entry| entry["received"].as_u64().unwrap() > 0), "{told:?}");
    // With the process that asked, although the agent itself may not look. One that closes its socket at once may go unseen: this one keeps it.
    for verdict in ["allowed", "refused"] {
        let named = |entry: &&serde_json::Value| entry["process"][0]["name"].as_str().is_some_and(|name| name.starts_with("python"));
        let found = by("Ask", verdict).into_iter().find(|entry| named(entry)).unwrap_or_else(|| panic!("nobody: {told:?}"));
        assert!(found["process"][0]["pid"].as_u64().is_some_and(|pid| pid < 1000), "{found}");
    }

    // A person sees the refusal beside the step and at the end.
    let lines = place.caisson(&["run", "--policy", policy.to_str().unwrap()]).output().unwrap();
    let text = String::from_utf8(lines.stdout).unwrap();
    assert!(text.contains("a/Ask: step `Ask` tried to reach refused.example.com:80, refused"), "{text}");
    assert!(text.lines().any(|line| line.trim().starts_with("refused") && line.contains("refused.example.com:80")), "{text}");
}

#[test]
fn a_policy_in_the_checkout_counts_once_it_is_trusted_and_unchanged() {
    let address = server();
    let place = Place::with(&asking(address));
    let policy = format!("[network]\nallow = ['{address}']\n");
    place.write(".caisson/policy.toml", &policy);
    let reached = || {
        let run = place.run(&[]);
        run.expect(0);
        (run.log("a").lines().any(|line| line == "by proxy b'there'"), run.errors)
    };
    let (there, errors) = reached();
    assert!(!there && errors.contains("is not trusted"), "{errors}");

    let trusted = place.caisson(&["trust"]).output().unwrap();
    let shown = String::from_utf8(trusted.stdout).unwrap();
    // A person sees what is being trusted.
    assert!(trusted.status.success() && shown.contains(&format!("allow = ['{address}']")), "{shown}");
    assert!(reached().0);

    place.write(".caisson/policy.toml", &format!("{policy}# and more\n"));
    let (there, errors) = reached();
    assert!(!there && errors.contains("changed"), "{errors}");

    place.write(".caisson/policy.toml", &policy);
    assert!(reached().0);
    assert!(place.caisson(&["trust", "--revoke"]).output().unwrap().status.success());
    assert!(!reached().0);
    let list = place.caisson(&["trust", "--list"]).output().unwrap();
    assert!(String::from_utf8(list.stdout).unwrap().contains("nothing is trusted"));
}

#[test]
fn an_environment_is_for_its_refs_and_keeps_its_secrets_to_itself() {
    let job = |name: &str, environment: &str| {
        format!(
            "  {name}:\n    runs-on: ubuntu-latest\n{environment}    steps:\n      - run: echo \"host ${{{{ vars.HOST }}}}, ${{#KEY}} long\"\n        env: {{ KEY: '${{{{ secrets.DEPLOY_KEY }}}}' }}\n"
        )
    };
    let place = Place::with(&format!("on: push\njobs:\n{}", job("inside", "    environment: production\n")));
    let policy = |refs: &str| {
        format!(
            "[vars]\nHOST = 'dev'\n[secrets]\nallow = ['*']\n[[environment]]\nname = 'prod*'\nrefs = ['{refs}']\nsecrets = ['DEPLOY_*']\nvars = {{ HOST = 'www' }}\n"
        )
    };
    let run = |place: &Place, refs: &str| {
        std::fs::write(place.path().join("policy.toml"), policy(refs)).unwrap();
        let words = ["run", "--json", "--policy", "../policy.toml", "--secret", "DEPLOY_KEY"];
        Run::of(place.caisson(&words).env("DEPLOY_KEY", "abcdef").output().unwrap())
    };
    let there = run(&place, "refs/heads/*");
    there.expect(0);
    assert!(there.log("inside").contains("host www, 6 long"), "{}", there.told());
    let elsewhere = run(&place, "refs/tags/v*");
    elsewhere.expect(2);
    assert!(elsewhere.errors.contains("only refs/tags/v* may use it"), "{}", elsewhere.errors);
    // A job beside it has not the environment's secret.
    let outside = Place::with(&format!("on: push\njobs:\n{}", job("outside", "")));
    let refused = run(&outside, "refs/heads/*");
    refused.expect(2);
    assert!(refused.errors.contains("the secret DEPLOY_KEY belongs to environments"), "{}", refused.errors);
}

#[test]
fn plan_says_which_step_may_reach_what_and_why() {
    let place = Place::with(
        "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - name: Install\n        run: pip install django\n      - name: Mixed\n        run: pip install x && pytest\n",
    );
    let output = place.caisson(&["plan"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{errors}");
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let install = lines.iter().position(|line| line.starts_with("Install")).unwrap();
    assert!(lines[install + 1].contains("the Python package index (default: installs packages)"), "{text}");
    let ahead = lines.iter().position(|line| line.starts_with("Packages for Mixed")).unwrap();
    assert!(lines[ahead + 1].contains("the Python package index (default: installs packages)"), "{text}");
    let mixed = lines.iter().position(|line| line.starts_with("Mixed")).unwrap();
    assert_eq!((mixed, lines[mixed + 1]), (ahead + 2, "may: take packages that are stored, reaching nothing"), "{text}");
    assert!(!place.state().exists() || place.found_in_state(b"").is_empty(), "something was run");
}

#[test]
fn a_secret_is_there_for_the_step_that_names_it_and_nowhere_else() {
    const VALUE: &str = "correct-horse-battery";
    let place = Place::with(
        "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - name: Named\n        env: { TOKEN: '${{ secrets.TOKEN }}' }\n        run: |\n          \
         test \"$TOKEN\" = \"$(cat /run/secrets/TOKEN)\" && echo \"length ${#TOKEN}\"\n          echo \"it is $TOKEN\"\n          \
         printf %s \"$TOKEN\" | cut -c1-9 | tr -d '\\n'; sleep 0.2; printf %s \"$TOKEN\" | cut -c10-\n          printf %s \"$TOKEN\" | base64\n      \
         - name: Unnamed\n        run: |\n          test -z \"$TOKEN\" && test ! -e /run/secrets/TOKEN && ! cat /proc/*/environ 2>/dev/null | grep -aq 'corr''ect-horse' && ! grep -rqs 'corr''ect-horse' /home /tmp && echo nothing here\n",
    );
    let mut command = place.caisson(&["run", "--json", "--secret", "token"]);
    let run = Run::of(command.env("TOKEN", VALUE).output().unwrap());
    run.expect(0);
    let log = run.log("a");
    assert!(log.contains(&format!("length {}", VALUE.len())) && log.contains("it is ***") && log.contains("nothing here"), "{log}");
    let told = run.told();
    for form in [VALUE, "Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5"] {
        assert!(!told.contains(form), "{form} in {told}");
        assert!(place.found_in_state(form.as_bytes()).is_empty(), "{form} is on disk");
    }
    // The control: the search finds what is there.
    assert!(!place.found_in_state(b"nothing here").is_empty());

    let missing = place.run(&["--secret", "TOKEN"]);
    missing.expect(2);
    assert!(missing.errors.contains("TOKEN=..."), "{}", missing.errors);
}

#[test]
fn a_policy_that_is_not_understood_stops_the_run() {
    let place = Place::with("on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - run: 'true'\n");
    place.write("own.toml", "[network]\nalow = []\n");
    let run = place.run(&["--policy", "own.toml"]);
    run.expect(2);
    assert!(run.errors.contains("alow") && run.errors.contains("own.toml"), "{}", run.errors);
    place.write("own.toml", "[network]\nallow = []\n");
    place.run(&["--policy", "own.toml"]).expect(0);
}
