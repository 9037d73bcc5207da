//! What `caisson exec` keeps from a hostile command. Each promise has its control: the same act, without the sandbox, succeeds.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A directory of the test's own: home, configuration, state and the command's current directory.
struct Place {
    root: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let root = tempfile::Builder::new().prefix("caisson-test-").tempdir().unwrap();
        for name in ["home", "here"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        Place { root }
    }

    fn here(&self) -> PathBuf {
        self.root.path().join("here")
    }

    fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command.current_dir(self.here()).env_clear().stdin(Stdio::null());
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", self.root.path().join("home"));
        command
    }

    /// `caisson exec FLAGS -- sh -c SCRIPT`.
    fn inside(&self, flags: &[&str], script: &str) -> Output {
        self.command(env!("CARGO_BIN_EXE_caisson")).arg("exec").args(flags).args(["--", "sh", "-c", script]).output().unwrap()
    }

    /// The control: the same script, without the sandbox.
    fn outside(&self, script: &str) -> Output {
        self.command("/bin/sh").args(["-c", script]).output().unwrap()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

/// The act succeeds outside, and fails inside.
fn refused(flags: &[&str], script: &str) {
    let place = Place::new();
    let outside = place.outside(script);
    assert!(outside.status.success(), "control: {script}: {}", text(&outside.stderr));
    let inside = place.inside(flags, script);
    let code = inside.status.code().unwrap();
    assert!(code != 0, "{script} succeeded: {}", text(&inside.stdout));
    assert!(!text(&inside.stderr).starts_with("error:"), "it did not even start: {}", text(&inside.stderr));
}

/// A script of Python that exits with 0 when the act succeeded, as a command line.
fn python(script: &str) -> String {
    format!("/usr/bin/python3 -c '{}'", script.replace('\'', "'\\''"))
}

#[test]
fn it_passes_streams_arguments_and_the_exit_code_through() {
    let place = Place::new();
    let output = place.inside(&[], "echo out; echo err >&2; exit 7");
    assert_eq!((text(&output.stdout), text(&output.stderr), output.status.code()), ("out".into(), "err".into(), Some(7)));
    let mut child = place
        .command(env!("CARGO_BIN_EXE_caisson"))
        .args(["exec", "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"through").unwrap();
    assert_eq!(text(&child.wait_with_output().unwrap().stdout), "through");
    for (script, code) in [("exec /nonexistent", 127), ("kill -9 $$", 137)] {
        assert_eq!(place.inside(&[], script).status.code(), Some(code), "{script}");
    }
    let absent = place.command(env!("CARGO_BIN_EXE_caisson")).args(["exec", "--", "/no/such/program"]).output().unwrap();
    assert_eq!(absent.status.code(), Some(127), "{}", text(&absent.stderr));
}

#[test]
fn what_it_writes_here_is_thrown_away_unless_the_directory_is_named() {
    let place = Place::new();
    let file = place.here().join("made");
    fs::write(place.here().join("was"), "before").unwrap();
    let script = "cat was && echo new > made && echo changed > was && cat made was";
    let output = place.inside(&[], script);
    assert_eq!(text(&output.stdout), "beforenew\nchanged", "{}", text(&output.stderr));
    assert!(!file.exists());
    assert_eq!(fs::read_to_string(place.here().join("was")).unwrap(), "before");
    let output = place.inside(&["--rw", "."], script);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(fs::read_to_string(file).unwrap(), "new\n");
}

#[test]
fn files_of_the_host_are_not_there() {
    let place = Place::new();
    let secret = place.root.path().join("home/secret");
    fs::write(&secret, "x").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
    let script = format!("cat {}", secret.display());
    assert!(place.outside(&script).status.success());
    assert!(!place.inside(&[], &script).status.success());
    assert!(place.inside(&["--ro", secret.to_str().unwrap()], &script).status.success(), "named, it is there");
    for script in [
        "ls -d /root",
        "ls -d /home/*/ | grep -v /home/runner",
        "ls /var/lib",
        "test -e /run/systemd -o -e /run/lock",
        "test -r /proc/sys/kernel/random/boot_id && ls /sys/kernel",
    ] {
        let output = place.inside(&[], script);
        assert!(!output.status.success(), "{script}: {}", text(&output.stdout));
    }
}

#[test]
fn system_directories_and_read_only_paths_cannot_be_written() {
    let place = Place::new();
    for script in ["touch /usr/x", "touch /etc/x", "echo x >> /etc/passwd", "touch /x", "mount -t tmpfs none /mnt", "mkdir /usr/local/x"] {
        let output = place.inside(&[], script);
        assert!(!output.status.success(), "{script}");
    }
    let shared = place.root.path().join("home");
    let script = format!("touch {}/new", shared.display());
    assert!(!place.inside(&["--ro", shared.to_str().unwrap()], &script).status.success());
    assert!(place.inside(&["--rw", shared.to_str().unwrap()], &script).status.success(), "control");
}

#[test]
fn it_has_no_capability_no_new_privileges_and_a_filter() {
    let place = Place::new();
    let status = text(&place.inside(&[], "cat /proc/self/status").stdout);
    let line =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(|rest| rest.trim_start_matches(':').trim().to_owned());
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(line(set).as_deref(), Some("0000000000000000"), "{set}");
    }
    assert_eq!(line("NoNewPrivs").as_deref(), Some("1"));
    assert_eq!(line("Seccomp").as_deref(), Some("2"));
    assert_eq!(line("Uid").as_deref(), Some("1000\t1000\t1000\t1000"));
    let root = text(&place.inside(&["--root"], "id -u").stdout);
    assert_eq!(root, "0");
}

#[test]
fn every_namespace_is_its_own() {
    let place = Place::new();
    let script = "for n in user pid mnt net ipc uts cgroup; do readlink /proc/self/ns/$n; done";
    let (outside, inside) = (text(&place.outside(script).stdout), text(&place.inside(&[], script).stdout));
    let pairs: Vec<_> = outside.lines().zip(inside.lines()).collect();
    assert_eq!(pairs.len(), 7, "{inside}");
    for (out, own) in pairs {
        assert_ne!(out, own);
    }
    let seen = text(&place.inside(&[], "ls -d /proc/[0-9]* | wc -l").stdout);
    assert!(seen.parse::<u32>().unwrap() < 8, "{seen}");
}

#[test]
fn dangerous_calls_are_refused() {
    // Each of these works outside, as whoever runs this test.
    refused(&[], &python("import ctypes,sys; l=ctypes.CDLL(None); sys.exit(0 if l.unshare(0x10000000)==0 else 1)"));
    refused(
        &[],
        &python(
            "import ctypes,sys; l=ctypes.CDLL(None); sys.exit(0 if l.syscall(250,3,0)>=0 or l.syscall(248,b\"user\",b\"k\",b\"v\",1,-2)>=0 else 1)",
        ),
    );
    refused(&[], &python("import socket; socket.socket(16, 3, 9)"));
    refused(
        &[],
        &python(
            "import os,sys; r=os.open(\"/proc/self/exe\",os.O_RDONLY); import ctypes; l=ctypes.CDLL(None); m=l.syscall(319,b\"x\",0); sys.exit(0 if l.syscall(298,ctypes.create_string_buffer(128),0,-1,-1,0)>=0 or l.syscall(425,8,ctypes.create_string_buffer(256))>=0 or l.syscall(323,1)>=0 else 1)",
        ),
    );
}

#[test]
fn nothing_can_be_reached_and_what_is_allowed_can() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = std::thread::spawn(move || {
        for stream in listener.incoming().take(2) {
            let mut stream = stream.unwrap();
            let mut seen = [0; 1024];
            let _ = stream.read(&mut seen);
            std::io::Write::write_all(&mut stream, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").unwrap();
        }
    });
    let place = Place::new();
    let direct = python(&format!("import socket; socket.create_connection((\"127.0.0.1\",{port}),5).sendall(b\"x\")"));
    assert!(place.outside(&direct).status.success(), "control");
    assert!(!place.inside(&[], &direct).status.success());
    let fetch = python(&format!("import urllib.request as u; print(u.urlopen(\"http://127.0.0.1:{port}/\",timeout=20).read().decode())"));
    assert!(!place.inside(&[], &fetch).status.success(), "no list, no way out");
    let report = place.root.path().join("report.json");
    let (destination, path) = (format!("127.0.0.1:{port}"), report.display().to_string());
    let other = place.inside(&["--allow", "127.0.0.1:1", "--report", &path], &fetch);
    assert!(!other.status.success(), "another port of loopback stays the command's own");
    let ledger: serde_json::Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
    assert!(ledger["egress"].as_array().unwrap().iter().all(|entry| entry["verdict"] != "allowed"), "{ledger}");
    let allowed = place.inside(&["--allow", &destination, "--report", &path], &fetch);
    assert_eq!(text(&allowed.stdout), "ok", "{}", text(&allowed.stderr));
    let ledger: serde_json::Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
    assert_eq!(ledger["egress"][0]["verdict"], "allowed", "{ledger}");
    assert!(ledger["enforced"].as_array().unwrap().iter().any(|name| name == "seccomp"), "{ledger}");
    serving.join().unwrap();
}

#[test]
fn limits_end_it_with_a_typed_cause() {
    let place = Place::new();
    let report = place.root.path().join("report.json");
    let path = report.to_str().unwrap();
    let cause = || serde_json::from_slice::<serde_json::Value>(&fs::read(&report).unwrap()).unwrap()["cause"]["kind"].clone();
    let slow = place.inside(&["--timeout", "300ms", "--report", path], "trap '' TERM INT; while :; do :; done");
    assert_eq!((slow.status.code(), cause()), (Some(124), "timed-out".into()), "{}", text(&slow.stderr));
    let hog = place.inside(&["--memory", "64MiB", "--report", path], &python("x = bytearray(512 << 20)"));
    if hog.status.code() == Some(3) {
        eprintln!("skipped: memory cannot be limited here: {}", text(&hog.stderr));
    } else {
        assert_eq!((hog.status.code(), cause()), (Some(137), "out-of-memory".into()), "{}", text(&hog.stderr));
    }
    let bomb =
        place.inside(&["--pids", "32", "--timeout", "60s", "--report", path], "for i in $(seq 100); do sleep 100 & done; echo spawned");
    assert!(!text(&bomb.stdout).contains("spawned") || text(&bomb.stderr).to_lowercase().contains("fork"), "{}", text(&bomb.stderr));
}

#[test]
fn no_process_survives_it() {
    let place = Place::new();
    let mark = format!("{}", 100_000 + std::process::id());
    let script = format!("setsid sh -c 'trap \"\" TERM HUP INT; exec sleep {mark}' </dev/null >/dev/null 2>&1 & echo started");
    assert_eq!(text(&place.inside(&[], &script).stdout), "started");
    let alive = fs::read_dir("/proc").unwrap().filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok());
    let alive: Vec<_> = alive.filter(|line| line.split(|byte| *byte == 0).any(|word| word == mark.as_bytes())).collect();
    assert!(alive.is_empty(), "{alive:?}");
}

#[test]
fn only_the_standard_descriptors_are_open() {
    let place = Place::new();
    let output = place.outside(&format!(
        "exec 7</etc/passwd; exec {} exec -- sh -c 'ls /proc/self/fd | tr \"\\n\" \" \"'",
        env!("CARGO_BIN_EXE_caisson")
    ));
    // 3 is the directory that ls itself reads.
    assert_eq!(text(&output.stdout), "0 1 2 3", "{}", text(&output.stderr));
}

#[test]
fn a_secret_is_a_variable_and_a_file_and_nowhere_else() {
    let place = Place::new();
    let output = place
        .command(env!("CARGO_BIN_EXE_caisson"))
        .env("TOKEN", "s3cr3t-value")
        .args([
            "exec",
            "--secret",
            "TOKEN",
            "--",
            "sh",
            "-c",
            "printf '%s ' $TOKEN; cat /run/secrets/TOKEN; printf ' '; stat -c %a /run/secrets/TOKEN; tr '\\0' ' ' < /proc/self/cmdline",
        ])
        .output()
        .unwrap();
    let said = text(&output.stdout);
    assert!(said.starts_with("s3cr3t-value s3cr3t-value 400"), "{said} {}", text(&output.stderr));
    assert_eq!(said.matches("s3cr3t-value").count(), 2, "{said}");
    let other = place
        .command(env!("CARGO_BIN_EXE_caisson"))
        .env("TOKEN", "s3cr3t-value")
        .args(["exec", "--", "sh", "-c", "env; ls /run/secrets"])
        .output()
        .unwrap();
    assert!(!text(&other.stdout).contains("s3cr3t-value") && !text(&other.stdout).contains("TOKEN"), "{}", text(&other.stdout));
}

#[test]
fn usage_errors_say_what_to_do() {
    let place = Place::new();
    for arguments in [vec!["exec"], vec!["exec", "--memory", "lots", "--", "true"], vec!["exec", "--allow", "http://x", "--", "true"]] {
        let output = place.command(env!("CARGO_BIN_EXE_caisson")).args(&arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", text(&output.stderr));
    }
    let gone = place.inside(&["--ro", "no-such-path"], "true");
    assert_eq!(gone.status.code(), Some(2), "{}", text(&gone.stderr));
    assert!(text(&gone.stderr).contains("no-such-path"));
    let home = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().dir;
    let mut there = place.command(env!("CARGO_BIN_EXE_caisson"));
    let refused = there.current_dir(&home).args(["exec", "--", "true"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused.stderr));
    assert!(text(&refused.stderr).contains("--ro ."), "{}", text(&refused.stderr));
}
