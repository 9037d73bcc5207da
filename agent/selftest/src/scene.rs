//! What the attacker is told: the more it knows, the more a refusal is worth.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Where the attacker finds it inside.
pub const SCENE: &str = "/caisson/scene.json";
/// Where the hostile program lies inside.
pub const PROGRAM: &str = "/caisson/hostile";
/// A directory of the host that is shown read-only.
pub const SHOWN: &str = "/caisson/shown";
/// The same directory, shown writable through an overlay that is thrown away.
pub const OVERLAID: &str = "/caisson/overlaid";

/// Everything that was planted outside for the attacker to reach.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Scene {
    /// The planted directory on the host.
    pub directory: PathBuf,
    /// What its file `secret` holds.
    pub word: String,
    /// The directory that is shown, as whoever reads this sees it.
    pub shown: PathBuf,
    /// The same through the overlay. In a control it is the directory itself.
    pub overlaid: PathBuf,
    /// A directory in which the attacker may write.
    pub own: PathBuf,
    /// A process of the host.
    pub victim: Victim,
    /// In the environment of the process that asks for sandboxes, and of the victim.
    pub canary: String,
    /// The process that asks for sandboxes.
    pub caller: i32,
    /// A command-line word of a process of another job, when one runs.
    pub other: Option<String>,
    /// The host's name.
    pub hostname: String,
    /// What /etc/machine-id of the host says, when it says something.
    pub machine: Option<String>,
    /// An entry of the host's /etc/passwd that only it has.
    pub user: Option<String>,
    /// The process that an attack on "the first process" hits: 1 inside; in a control a process made for it.
    pub first: i32,
    /// Most processes that an attack on a limit makes, and so on: a control must not harm the host.
    pub bounds: Bounds,
}

/// How far attacks on limits go. The sandbox's limits lie far below.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Bounds {
    /// Processes or threads.
    pub processes: u32,
    /// Bytes.
    pub bytes: u64,
}

impl Bounds {
    /// What is tried.
    pub const TRIED: Bounds = Bounds { processes: 100, bytes: 128 << 20 };
}

/// A process of the host that holds things open.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Victim {
    /// Its id on the host.
    pub pid: i32,
    /// A word of its command line that no other has.
    pub marker: String,
    /// Where in its memory the word lies.
    pub address: u64,
    /// Its TCP port at 127.0.0.1.
    pub tcp: u16,
    /// Its TCP port at ::1, where the host has IPv6.
    pub tcp6: Option<u16>,
    /// An address of the host that is not loopback, with a TCP port on it.
    pub address_of_host: Option<(IpAddr, u16)>,
    /// Its UDP port at 127.0.0.1; it answers whatever comes.
    pub udp: u16,
    /// Its abstract socket.
    pub abstract_name: String,
    /// Its System V memory, where the kernel has that.
    pub memory: Option<(i32, i32)>,
}

impl Scene {
    /// The planted file that the attacker should not read.
    pub fn secret(&self) -> PathBuf {
        self.directory.join("secret")
    }

    /// The planted socket, as an ssh-agent or a container engine has one.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("agent.sock")
    }

    /// Whether some bytes hold the planted word.
    pub fn is_secret(&self, bytes: &[u8]) -> bool {
        bytes.windows(self.word.len()).any(|window| window == self.word.as_bytes())
    }

    /// The scene as it is seen inside a sandbox.
    pub fn inside(&self) -> Scene {
        Scene { shown: SHOWN.into(), overlaid: OVERLAID.into(), own: "/tmp".into(), first: 1, ..self.clone() }
    }

    /// Reads it.
    ///
    /// # Errors
    /// The file is not there, or is none.
    pub fn read(path: &Path) -> std::io::Result<Scene> {
        Ok(serde_json::from_slice(&std::fs::read(path)?)?)
    }
}
