//! A PostgreSQL server of the tests' own, from the system's packages: in a temporary directory, behind a socket in there,
//! run by an ordinary user, and gone with the process that started it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The user that runs the server when root runs the tests: a server refuses to be run by root.
const NOBODY: u32 = 65_534;

struct Server {
    directory: PathBuf,
    programs: PathBuf,
    port: String,
    // The server ends when this end of its input is closed, which the system does when the tests end.
    _input: ChildStdin,
    _child: Child,
}

fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = versions.collect();
    places.sort();
    places.reverse();
    places.extend(std::env::split_paths(&path));
    places.into_iter().find(|place| place.join("initdb").exists() && place.join("postgres").exists())
}

fn as_ordinary_user(program: &Path) -> Command {
    let mut command = Command::new(program);
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        command.uid(NOBODY).gid(NOBODY);
    }
    command.current_dir("/");
    command
}

fn start(settings: &[String], before: impl FnOnce(&Path)) -> Option<Server> {
    let Some(programs) = programs() else {
        let text = "skipped: no PostgreSQL server is installed; apt-get install postgresql";
        assert!(std::env::var_os("CI").is_none(), "{text}");
        // Standard error is shown although the test passes.
        let _shown = writeln!(std::io::stderr(), "{text}");
        return None;
    };
    let directory = tempfile::Builder::new().prefix("pg").tempdir().unwrap().keep();
    // The socket in there is for everybody, also for a controller that has given up its privileges.
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        chown(&directory, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let data = directory.join("data");
    let made = as_ordinary_user(&programs.join("initdb"))
        .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "-D"])
        .arg(&data)
        .output()
        .unwrap();
    assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
    before(&data);
    let watch = "\"$0\" \"$@\" >\"$LOG\" 2>&1 & cat; kill -QUIT $!; wait; rm -rf \"$DIRECTORY\"";
    let mut child = as_ordinary_user(Path::new("sh"))
        .arg("-c")
        .arg(watch)
        .arg(programs.join("postgres"))
        .arg("-D")
        .arg(&data)
        .args(["-c", "listen_addresses=", "-c", "max_connections=200"])
        .args(settings.iter().flat_map(|setting| ["-c", setting]))
        .arg("-c")
        .arg(format!("unix_socket_directories={}", directory.display()))
        .env("DIRECTORY", &directory)
        .env("LOG", directory.join("log"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    let port = settings.iter().find_map(|setting| setting.strip_prefix("port=")).unwrap_or("5432").to_owned();
    let server = Server { directory, programs, port, _input: child.stdin.take().unwrap(), _child: child };
    let begun = Instant::now();
    while !server.run("SELECT 1") {
        let log = fs::read_to_string(server.directory.join("log")).unwrap_or_default();
        assert!(begun.elapsed() < Duration::from_secs(60), "the server did not start: {log}");
        std::thread::sleep(Duration::from_millis(50));
    }
    Some(server)
}

impl Server {
    fn run(&self, sql: &str) -> bool {
        let mut psql = Command::new(self.programs.join("psql"));
        psql.arg("-h").arg(&self.directory).args(["-p", &self.port, "-U", "postgres", "-d", "postgres", "-q", "-c", sql]);
        psql.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
    }
}

fn server() -> Option<&'static Server> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    SERVER.get_or_init(|| start(&[], |_| ())).as_ref()
}

/// The address of a new, empty database; `None`, and a word about it, where no server is installed.
pub(crate) fn new() -> Option<String> {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let server = server()?;
    let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
    // The template must be free: another test may be copying it.
    let begun = Instant::now();
    while !server.run(&format!("CREATE DATABASE {name}")) {
        assert!(begun.elapsed() < Duration::from_secs(60), "the database was not made");
        std::thread::sleep(Duration::from_millis(50));
    }
    let host = server.directory.display().to_string().replace('/', "%2F");
    Some(format!("postgres://postgres@{host}/{name}"))
}

/// A server of its own that listens on a port of this machine, with TLS: `files` are its certificate and key. Its address with
/// the empty database `postgres`; it lives as long as the tests.
#[allow(dead_code)]
pub(crate) fn with_tls(certificate: &str, key: &str) -> Option<String> {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let settings = ["listen_addresses=127.0.0.1".to_owned(), format!("port={port}"), "ssl=on".to_owned()];
    let server = start(&settings, |data| {
        for (name, text) in [("server.crt", certificate), ("server.key", key)] {
            fs::write(data.join(name), text).unwrap();
            fs::set_permissions(data.join(name), fs::Permissions::from_mode(0o600)).unwrap();
            if fs::metadata("/proc/self").unwrap().uid() == 0 {
                chown(data.join(name), Some(NOBODY), Some(NOBODY)).unwrap();
            }
        }
        // Nobody gets in over the network without TLS.
        fs::write(data.join("pg_hba.conf"), "local all all trust\nhostssl all all 127.0.0.1/32 trust\n").unwrap();
    })?;
    std::mem::forget(server);
    Some(format!("postgres://postgres@127.0.0.1:{port}/postgres"))
}
