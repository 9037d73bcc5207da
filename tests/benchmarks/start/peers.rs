//! What others need to do the same: bubblewrap, crun and podman with all namespaces and a system-call filter.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use caisson_agent::view;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use serde_json::json;

use crate::PROGRAM;

/// A program that runs `PROGRAM` in a sandbox of its own kind.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    run: Box<dyn FnMut() -> Command>,
    /// Where its root lies, as long as it is used.
    _directory: Option<tempfile::TempDir>,
}

impl Peer {
    /// Runs it once.
    pub(crate) fn run(&mut self) {
        assert!((self.run)().stdin(Stdio::null()).status().unwrap().success(), "{}", self.name);
    }

    /// Itself if it works here; else why not.
    fn if_it_works(mut self) -> Result<Peer, String> {
        match (self.run)().stdin(Stdio::null()).output() {
            Err(error) => Err(format!("{}: {error}", self.name)),
            Ok(output) if output.status.success() => Ok(self),
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr).trim().lines().next_back().unwrap_or("no reason given").to_owned();
                Err(format!("{}: {said}", self.name))
            }
        }
    }
}

/// Those that work here, and why the others don't. Bubblewrap is the first, if it is there.
pub(crate) fn all() -> (Vec<Peer>, Vec<String>) {
    let (mut there, mut absent) = (Vec::new(), vec!["nsjail: not packaged by Debian 12".to_owned()]);
    for peer in [bubblewrap(), crun(), podman()] {
        match peer.if_it_works() {
            Ok(peer) => there.push(peer),
            Err(reason) => absent.push(reason),
        }
    }
    (there, absent)
}

/// All namespaces, the host's system directories, fresh /proc, /dev and /tmp, and the filter.
pub(crate) fn bubblewrap() -> Peer {
    let mut words = words();
    let mut filter = linear_filter();
    words.extend(["--seccomp".into(), filter.as_raw_fd().to_string().into(), "--".into(), PROGRAM.into()]);
    let run = move || {
        filter.rewind().unwrap();
        let mut command = Command::new("bwrap");
        command.args(&words);
        command
    };
    Peer { name: "bubblewrap", run: Box::new(run), _directory: None }
}

fn words() -> Vec<OsString> {
    let mut words: Vec<OsString> =
        ["--unshare-all", "--die-with-parent", "--new-session", "--ro-bind", "/usr", "/usr"].map(Into::into).to_vec();
    for (path, link) in system_directories() {
        match link {
            Some(to) => words.extend(["--symlink".into(), to.into_os_string(), path.into_os_string()]),
            None => words.extend(["--ro-bind".into(), path.clone().into_os_string(), path.into_os_string()]),
        }
    }
    words.extend(["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"].map(Into::into));
    words
}

/// Bubblewrap for many threads at once: each run has a filter of its own.
pub(crate) fn bubblewrap_each() -> impl Fn() + Sync {
    let mut text = Vec::new();
    let mut filter = linear_filter();
    filter.rewind().unwrap();
    filter.read_to_end(&mut text).unwrap();
    move || {
        let mut filter = tempfile::tempfile().unwrap();
        filter.write_all(&text).unwrap();
        filter.rewind().unwrap();
        let mut command = Command::new("bwrap");
        command.args(words()).arg("--seccomp").arg("0").arg("--").arg(PROGRAM);
        assert!(command.stdin(Stdio::from(filter)).status().unwrap().success());
    }
}

/// The root directory of a container: empty but for mount points and links.
fn root_directory(directory: &Path) {
    for name in ["usr", "proc", "dev", "tmp", "sys"] {
        std::fs::create_dir_all(directory.join(name)).unwrap();
    }
    for (path, link) in system_directories() {
        let inside = directory.join(path.strip_prefix("/").unwrap());
        match link {
            Some(to) => std::os::unix::fs::symlink(to, inside).unwrap(),
            None => std::fs::create_dir_all(inside).unwrap(),
        }
    }
}

fn crun() -> Peer {
    let directory = tempfile::tempdir().unwrap();
    root_directory(&directory.path().join("rootfs"));
    let mount = |to: &str, kind: &str, options: &[&str]| json!({"destination": to, "type": kind, "source": kind, "options": options});
    let mut bind = mount("/usr", "bind", &["rbind", "ro"]);
    bind["source"] = json!("/usr");
    let ids = json!([{"containerID": 0, "hostID": 1_900_000_000, "size": 65536}]);
    let namespaces: Vec<_> = ["pid", "network", "ipc", "uts", "mount", "user", "cgroup"].map(|kind| json!({"type": kind})).to_vec();
    let allowed: Vec<&str> = SOME_CALLS.to_vec();
    let config = json!({
        "ociVersion": "1.0.0",
        "process": {"user": {"uid": 0, "gid": 0}, "args": [PROGRAM], "env": ["PATH=/usr/bin"], "cwd": "/", "noNewPrivileges": true},
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "crun",
        "mounts": [
            mount("/proc", "proc", &[]),
            mount("/dev", "tmpfs", &["nosuid", "mode=755", "size=65536k"]),
            mount("/tmp", "tmpfs", &["nosuid", "nodev"]),
            bind,
        ],
        "linux": {
            "namespaces": namespaces,
            "uidMappings": ids,
            "gidMappings": ids,
            "resources": {"memory": {"limit": 1 << 30}, "pids": {"limit": 100}},
            "seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": allowed, "action": "SCMP_ACT_ERRNO"}]},
        },
    });
    std::fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
    let bundle = directory.path().to_owned();
    let mut serial = 0;
    let run = move || {
        serial += 1;
        let mut command = Command::new("crun");
        command.arg("run").arg("--bundle").arg(&bundle).arg(format!("caisson-bench-{}-{serial}", std::process::id()));
        command
    };
    Peer { name: "crun", run: Box::new(run), _directory: Some(directory) }
}

/// Calls that the container's filter refuses; enough of them to be a filter.
const SOME_CALLS: [&str; 8] = ["mount", "umount2", "ptrace", "bpf", "keyctl", "add_key", "init_module", "kexec_load"];

fn podman() -> Peer {
    let directory = tempfile::tempdir().unwrap();
    root_directory(directory.path());
    let root = directory.path().to_owned();
    let run = move || {
        let mut command = Command::new("podman");
        command.args(["run", "--rm", "--network=none", "--ulimit=nofile=1024:1024", "--volume=/usr:/usr:ro", "--rootfs"]);
        command.arg(&root).arg(PROGRAM);
        command
    };
    Peer { name: "podman", run: Box::new(run), _directory: Some(directory) }
}

/// What lies at the root of the host beside `/usr`, and where it leads if it is a link.
fn system_directories() -> Vec<(PathBuf, Option<PathBuf>)> {
    let beside = view::DIRECTORIES.iter().filter(|name| **name != "usr").map(|name| Path::new("/").join(name));
    beside.filter(|path| path.exists()).map(|path| (path.clone(), std::fs::read_link(&path).ok())).collect()
}

/// A filter that allows the first 330 calls one by one and answers EPERM to all others: about as many entries as caisson's own.
fn linear_filter() -> File {
    const LOAD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const ALLOW: u32 = 0x7fff_0000;
    const ERRNO_EPERM: u32 = 0x0005_0001;
    let mut program: Vec<(u16, u8, u8, u32)> = vec![(LOAD, 0, 0, 0)];
    for number in 0..330 {
        program.push((JUMP_IF_EQUAL, 0, 1, number));
        program.push((RETURN, 0, 0, ALLOW));
    }
    program.push((RETURN, 0, 0, ERRNO_EPERM));
    let mut file = tempfile::tempfile().unwrap();
    for (code, yes, no, value) in program {
        file.write_all(&code.to_ne_bytes()).unwrap();
        file.write_all(&[yes, no]).unwrap();
        file.write_all(&value.to_ne_bytes()).unwrap();
    }
    fcntl(&file, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    file
}
