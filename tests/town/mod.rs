//! A network of a test's own: a namespace with public and private addresses on its loopback, names in its own `/etc/hosts`, and real
//! servers that listen there. What the command under test dials from inside it is what an agent dials from its host.

// Each test program uses a part of it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic)]

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::place::{Place, needs, until};

/// Addresses that are no private ones, and some that are.
pub const FOUR: &str = "203.0.113.10";
pub const SIX: &str = "2001:db8::10";
pub const PRIVATE: &str = "10.9.0.1";
pub const METADATA: &str = "169.254.169.254";

const ADDRESSES: [&str; 5] = ["203.0.113.10/32", "10.9.0.1/32", "169.254.169.254/32", "2001:db8::10/128", "fc00::1/128"];
/// Every server listens everywhere; what a name means decides how it is reached.
const HOSTS: [(&str, &str); 9] = [
    ("127.0.0.1", "localhost"),
    (FOUR, "both.example db.example cache.example git.example web.example other.example"),
    (SIX, "both.example db.example cache.example git.example web.example six.example"),
    (FOUR, "four.example a.wild.example a.b.wild.example"),
    (PRIVATE, "inner.example"),
    (METADATA, "metadata.example"),
    ("127.0.0.1", "loop.example"),
    ("::1", "loop6.example"),
    ("fc00::1", "ula.example"),
];

/// The network. Gone with everything in it when dropped.
pub struct Town {
    holder: Child,
    servers: Vec<Child>,
    folder: tempfile::TempDir,
}

impl Drop for Town {
    fn drop(&mut self) {
        for child in self.servers.iter_mut().chain([&mut self.holder]) {
            let _gone = child.kill().is_ok();
            let _reaped = child.wait().is_ok();
        }
    }
}

impl Town {
    /// An empty one; `None` where it cannot be made.
    pub fn new() -> Option<Town> {
        let root = nix::unistd::geteuid().is_root();
        if !needs(root, "only root can make a network of its own with addresses as it likes") {
            return None;
        }
        let there = |program: &str| std::env::split_paths("/usr/bin:/usr/sbin:/bin:/sbin").any(|path| path.join(program).exists());
        if !needs(["ip", "nsenter", "unshare", "openssl"].into_iter().all(there), "ip, nsenter, unshare or openssl is not installed") {
            return None;
        }
        let folder = tempfile::Builder::new().prefix("caisson-town-").tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let hosts: String = HOSTS.iter().map(|(address, names)| format!("{address} {names}\n")).collect();
        fs::write(folder.path().join("hosts"), hosts).unwrap();
        let mut script = "mount --bind \"$1\" /etc/hosts && ip link set lo up".to_owned();
        for address in ADDRESSES {
            script.push_str(&format!(" && ip addr add {address} dev lo"));
        }
        script.push_str(" && echo ready && exec sleep infinity");
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "--propagation", "private", "sh", "-c", &script, "sh"]).arg(folder.path().join("hosts"));
        let mut holder = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let town = Town { holder, servers: Vec::new(), folder };
        assert_eq!(line, "ready\n", "the network was not made");
        town.certificates();
        Some(town)
    }

    /// Where its files are.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The certificate of the authority that its servers have theirs from.
    pub fn authority(&self) -> PathBuf {
        self.path().join("ca.pem")
    }

    /// What a name means from now on.
    pub fn rename(&self, address: &str, name: &str) {
        // The same file, since it is what is mounted.
        let path = self.path().join("hosts");
        let kept: String = fs::read_to_string(&path)
            .unwrap()
            .lines()
            .filter(|line| !line.split_whitespace().any(|word| word == name))
            .map(|line| format!("{line}\n"))
            .collect();
        fs::write(&path, format!("{kept}{address} {name}\n")).unwrap();
    }

    fn certificates(&self) {
        let names = ["db", "git", "web", "six", "both", "four", "inner", "other"].map(|name| format!("DNS:{name}.example")).join(",");
        let extensions = self.path().join("extensions");
        fs::write(&extensions, format!("subjectAltName={names}\n")).unwrap();
        let curve = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        for words in [
            format!("req -x509 {curve} -days 2 -subj /CN=authority-of-a-test -keyout ca.key -out ca.pem"),
            format!("req {curve} -subj /CN=web.example -keyout server.key -out server.csr"),
            "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out server.crt".to_owned(),
        ] {
            let made = Command::new("openssl").args(words.split(' ')).current_dir(self.path()).output().unwrap();
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        }
    }

    /// A command in this network, with nothing of our own environment but where programs are.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg("--target").arg(self.holder.id().to_string()).args(["--net", "--mount", "--wdns=/", "--"]).arg(program);
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").stdin(Stdio::null());
        command
    }

    /// `caisson` in this network and the checkout of a place.
    pub fn caisson(&self, place: &Place, words: &[&str]) -> Command {
        self.caisson_by(place, &[env!("CARGO_BIN_EXE_caisson")], words)
    }

    /// The same with words before it, such as those that make it another user's.
    pub fn caisson_by(&self, place: &Place, by: &[&str], words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg("--target").arg(self.holder.id().to_string()).args(["--net", "--mount"]);
        command.arg(format!("--wdns={}", place.checkout().display())).arg("--").args(by).args(words);
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("HOME", place.path().join("home")).stdin(Stdio::null()).process_group(0);
        command
    }

    /// Starts a server and keeps it for as long as the network is there.
    pub fn start(&mut self, program: &str, args: &[&str]) {
        let log = fs::File::create(self.path().join(format!("{}.log", self.servers.len()))).unwrap();
        let mut command = self.command(program);
        command.args(args).stdout(log.try_clone().unwrap()).stderr(log);
        self.servers.push(command.spawn().unwrap());
    }

    /// Waits until somebody listens at this port.
    pub fn wait_for(&self, port: u16) {
        until(&format!("a server at port {port}"), || {
            let script = format!("exec 3<>/dev/tcp/{FOUR}/{port}");
            self.command("bash").args(["-c", &script]).stderr(Stdio::null()).status().unwrap().success()
        });
    }

    /// The web server of `servers.py`: plain at 80 and 8000, TLS at 443, repositories at 8443.
    pub fn web(&mut self) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/town/servers.py");
        let folder = self.path().display().to_string();
        self.start("/usr/bin/python3", &[script.to_str().unwrap(), &folder]);
        self.wait_for(8443);
    }

    /// A connection from outside of the sandbox, for controls.
    pub fn reaches(&self, to: &str) -> bool {
        let (host, port) = to.rsplit_once(':').unwrap();
        let script = format!("exec 3<>/dev/tcp/{}/{port}", host.trim_matches(['[', ']']));
        self.command("timeout").args(["5", "bash", "-c", &script]).stderr(Stdio::null()).status().unwrap().success()
    }

    /// Gives what is below a path to a user.
    pub fn give(path: &Path, user: u32) {
        for entry in walkdir::WalkDir::new(path) {
            chown(entry.unwrap().path(), Some(user), Some(user)).unwrap();
        }
    }
}

/// A connection that is refused at once or made, in our own network.
pub fn connects(to: SocketAddr) -> bool {
    TcpStream::connect_timeout(&to, std::time::Duration::from_secs(5)).is_ok()
}
