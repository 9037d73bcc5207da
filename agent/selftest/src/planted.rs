//! What stands outside for the attacker to reach, and goes when it is dropped.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Stdio};

use caisson_sandbox::raw::{self, Argument};
use nix::fcntl::{FcntlArg, FdFlag, OFlag};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;

use crate::reach;
use crate::scene::{Bounds, Scene, Victim};

/// The environment variable with the canary, in the process that asks for sandboxes.
pub const CANARY: &str = "SELFTEST_CANARY";

/// The planted things.
#[derive(Debug)]
pub struct Planted {
    /// What the attacker is told.
    pub scene: Scene,
    victim: Child,
    /// A descriptor of the directory that a careless caller would let every child have.
    _leaked: OwnedFd,
    _directory: tempfile::TempDir,
}

impl Planted {
    /// Plants. Only while this process has one thread.
    ///
    /// # Errors
    /// A file cannot be made or the victim not be started.
    pub fn new() -> io::Result<Planted> {
        let directory = tempfile::Builder::new().prefix("caisson-selftest-").tempdir()?;
        let path = directory.path().to_owned();
        let mode = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode));
        let mut bytes = [0; 16];
        io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut bytes)?;
        let word: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        mode(&path, 0o755)?;
        // Open to everybody: so that nothing but the sandbox keeps it.
        std::fs::write(path.join("secret"), format!("secret {word}\n"))?;
        for name in ["shown", "own"] {
            std::fs::create_dir(path.join(name))?;
            mode(&path.join(name), 0o777)?;
        }
        std::fs::write(path.join("shown/file"), "shown\n")?;
        mode(&path.join("shown/file"), 0o666)?;
        let leaked = nix::fcntl::open(&path, OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())?;
        nix::fcntl::fcntl(&leaked, FcntlArg::F_SETFD(FdFlag::empty()))?;
        let canary = std::env::var(CANARY).unwrap_or_else(|_| word.clone());
        let marker = format!("caisson-victim-{word}");
        let mut victim = reach::command(&["victim", &path.display().to_string(), &marker])
            .env(CANARY, &canary)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        if let Some(out) = victim.stdout.take() {
            BufReader::new(out).read_line(&mut line)?;
        }
        let facts: Victim = serde_json::from_str(&line)?;
        let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let scene = Scene {
            word,
            shown: path.join("shown"),
            overlaid: path.join("shown"),
            own: path.join("own"),
            directory: path,
            victim: facts,
            canary,
            caller: i32::try_from(std::process::id()).unwrap_or_default(),
            other: None,
            hostname: nix::sys::utsname::uname()?.nodename().to_string_lossy().into_owned(),
            machine: std::fs::read_to_string("/etc/machine-id").ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()),
            // Accounts of the system are alike on every host, and shown to a step that installs packages; people are not.
            user: users.lines().find(|line| is_person(line)).map(str::to_owned),
            first: 0,
            bounds: Bounds::TRIED,
        };
        Ok(Planted { scene, victim, _leaked: leaked, _directory: directory })
    }

    /// Whether the directory that sandboxes are shown is as it was.
    ///
    /// # Errors
    /// What differs.
    pub fn unchanged(&self) -> Result<(), String> {
        let shown = self.scene.directory.join("shown");
        let names: Vec<String> = std::fs::read_dir(&shown)
            .map_err(|error| error.to_string())?
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        let file = shown.join("file");
        let content = std::fs::read_to_string(&file).map_err(|error| error.to_string())?;
        let mode = file.metadata().map_err(|error| error.to_string())?.permissions().mode() & 0o7777;
        match (names.as_slice(), content.as_str(), mode) {
            ([_], "shown\n", 0o666) => Ok(()),
            _ => Err(format!("the host's directory now holds {names:?}, its file {content:?} with mode {mode:o}")),
        }
    }
}

impl Drop for Planted {
    fn drop(&mut self) {
        // It may be dead: an attack or a control may have had its way.
        let _ = self.victim.kill();
        let _ = self.victim.wait();
        if let Some((_, id)) = self.scene.victim.memory {
            let remove = [Argument::Word(id as u64), Argument::Word(libc::IPC_RMID as u64)];
            let _ = raw::attempt(&[reach::call(libc::SYS_shmctl, &remove)]);
        }
    }
}

/// Whether a line of passwd(5) is somebody's, by its id.
fn is_person(line: &str) -> bool {
    let id = line.split(':').nth(2).and_then(|id| id.parse::<u32>().ok());
    !line.starts_with("runner:") && id.is_some_and(|id| (1000..60_000).contains(&id))
}

/// The process that is planted: opens everything, says where, and answers datagrams until it is killed.
pub(crate) fn victim(directory: &Path, marker: &str) -> i32 {
    match open_all(directory, marker) {
        Ok(socket) => loop {
            let mut bytes = [0; 64];
            if let Ok((count, from)) = socket.recv_from(&mut bytes) {
                // Whoever asked may have gone.
                let _ = socket.send_to(&bytes[..count], from);
            }
        },
        Err(error) => {
            let _ = writeln!(io::stderr(), "the planted process did not start: {error}");
            1
        }
    }
}

fn open_all(directory: &Path, marker: &str) -> io::Result<UdpSocket> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    let word = marker.rsplit('-').next().unwrap_or_default();
    let key = i32::from_str_radix(word.get(..7).unwrap_or("1"), 16).unwrap_or(1);
    let make = [Argument::Word(key as u64), Argument::Word(4096), Argument::Word((libc::IPC_CREAT | 0o666) as u64)];
    let memory = raw::attempt(&[reach::call(libc::SYS_shmget, &make)])
        .ok()
        .and_then(|came| came.answers.first().copied()?.ok())
        .and_then(|id| Some((key, i32::try_from(id).ok()?)));
    // Held to the end of the process.
    let secret: &'static str = Box::leak(format!("secret {word}").into_boxed_str());
    let abstract_name = format!("caisson-selftest-{word}");
    let name = std::os::unix::net::SocketAddr::from_abstract_name(&abstract_name)?;
    let socket = directory.join("agent.sock");
    let listeners = (UnixListener::bind_addr(&name)?, UnixListener::bind(&socket)?);
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o777))?;
    std::mem::forget(listeners);
    let listen = |address: IpAddr| -> io::Result<u16> {
        let listener = TcpListener::bind((address, 0))?;
        let port = listener.local_addr()?.port();
        std::mem::forget(listener);
        Ok(port)
    };
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address_of_host = own_address().and_then(|address| Some((address, listen(address).ok()?)));
    let facts = Victim {
        pid: i32::try_from(std::process::id()).unwrap_or_default(),
        marker: marker.to_owned(),
        address: secret.as_ptr() as u64,
        tcp: listen(Ipv4Addr::LOCALHOST.into())?,
        tcp6: listen(Ipv6Addr::LOCALHOST.into()).ok(),
        address_of_host,
        udp: udp.local_addr()?.port(),
        abstract_name,
        memory,
    };
    let mut out = io::stdout();
    writeln!(out, "{}", serde_json::to_string(&facts)?)?;
    out.flush()?;
    Ok(udp)
}

/// An address of this host that others reach it by, if it has one: by asking which it would send from. Nothing is sent.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // An address for documentation (RFC 5737).
    socket.connect(SocketAddr::from(([192, 0, 2, 1], 9))).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}
