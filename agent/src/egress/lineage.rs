//! Which process of a step made a connection: found by the inode of its socket, in the process tree below the sandbox's init.
//!
//! Best effort: a process may be gone, or have handed its socket on. Never a reason to refuse or to allow anything. Bounded in
//! processes, descriptors and bytes, since the step decides how many there are.

use std::fs;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use caisson_model::outcome::Process;
use tokio::sync::Semaphore;

/// The most processes that are looked at, and descriptors of all of them.
const MOST_PROCESSES: usize = 512;
const MOST_DESCRIPTORS: usize = 8192;
/// The most ancestors that are told.
const MOST_ANCESTORS: usize = 8;
/// The most bytes of the kernel's table of sockets.
const LONGEST_TABLE: u64 = 1 << 20;
/// How many look-ups one step may have waiting; further connections have no lineage.
const MOST_WAITING: usize = 16;

/// Finds processes of one step.
#[derive(Clone, Debug)]
pub(super) struct Finder {
    init: Option<i32>,
    waiting: Arc<Semaphore>,
}

/// A table of sockets.
#[derive(Clone, Copy, Debug)]
pub(super) enum Table {
    Tcp,
    Udp,
}

impl Finder {
    /// For the sandbox whose process 1 this is; without one nothing is found.
    pub(super) fn new(init: Option<i32>) -> Finder {
        Finder { init, waiting: Arc::new(Semaphore::new(MOST_WAITING)) }
    }

    /// The process whose socket has this address on its side, then its ancestors up to the step's first process.
    pub(super) async fn find(&self, table: Table, local: SocketAddr) -> Vec<Process> {
        let (Some(init), Ok(permit)) = (self.init, Arc::clone(&self.waiting).try_acquire_owned()) else { return Vec::new() };
        let found = tokio::task::spawn_blocking(move || {
            let found = find(Path::new("/proc"), init, table, local);
            drop(permit);
            found
        });
        found.await.unwrap_or_default().unwrap_or_default()
    }
}

/// A process in the tree: its id outside, and where its parent stands.
struct Node {
    pid: i32,
    parent: Option<usize>,
}

fn find(proc: &Path, init: i32, table: Table, local: SocketAddr) -> Option<Vec<Process>> {
    let inode = inode(proc, init, table, local)?;
    let wanted = format!("socket:[{inode}]");
    let mut nodes = vec![Node { pid: init, parent: None }];
    let mut next = 0;
    while next < nodes.len() && nodes.len() < MOST_PROCESSES {
        for child in children(proc, nodes[next].pid) {
            nodes.push(Node { pid: child, parent: Some(next) });
        }
        next += 1;
    }
    let mut left = MOST_DESCRIPTORS;
    // The newest are the likeliest.
    let at = (1..nodes.len()).rev().find(|at| holds(proc, nodes[*at].pid, &wanted, &mut left))?;
    let mut lineage = Vec::new();
    let mut at = Some(at);
    while let Some(node) = at.map(|at| &nodes[at])
        && let Some(parent) = node.parent
        && lineage.len() < MOST_ANCESTORS
    {
        lineage.extend(process(proc, node.pid));
        at = Some(parent);
    }
    Some(lineage)
}

/// The inode of the socket in the namespace of `init` that has this local address.
fn inode(proc: &Path, init: i32, table: Table, local: SocketAddr) -> Option<u64> {
    let name = match (table, local) {
        (Table::Tcp, SocketAddr::V4(_)) => "tcp",
        (Table::Tcp, SocketAddr::V6(_)) => "tcp6",
        (Table::Udp, SocketAddr::V4(_)) => "udp",
        (Table::Udp, SocketAddr::V6(_)) => "udp6",
    };
    // An IPv4 connection may be that of an IPv6 socket.
    let mapped = match local {
        SocketAddr::V4(address) => Some(SocketAddr::new(IpAddr::V6(address.ip().to_ipv6_mapped()), address.port())),
        SocketAddr::V6(_) => None,
    };
    let look = |name: &str, local: SocketAddr| {
        let file = fs::File::open(proc.join(format!("{init}/net/{name}"))).ok()?;
        let mut text = String::new();
        file.take(LONGEST_TABLE).read_to_string(&mut text).ok()?;
        let wanted = written(local);
        text.lines().skip(1).find_map(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let found = fields.next()?.eq_ignore_ascii_case(&wanted);
            let inode: u64 = fields.nth(7)?.parse().ok()?;
            (found && inode != 0).then_some(inode)
        })
    };
    look(name, local).or_else(|| look(if name == "udp" { "udp6" } else { "tcp6" }, mapped?)).or_else(|| {
        // A datagram socket that is not connected has no address of its own.
        let any = match local {
            SocketAddr::V4(_) => SocketAddr::new(IpAddr::from([0; 4]), local.port()),
            SocketAddr::V6(_) => SocketAddr::new(IpAddr::from([0; 16]), local.port()),
        };
        matches!(table, Table::Udp).then(|| look(name, any)).flatten()
    })
}

/// An address as the kernel's tables write it: words in the host's order, in hexadecimal digits.
fn written(address: SocketAddr) -> String {
    let octets = match address.ip() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let words: String =
        octets.chunks_exact(4).map(|word| format!("{:08X}", u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))).collect();
    format!("{words}:{:04X}", address.port())
}

fn children(proc: &Path, pid: i32) -> Vec<i32> {
    let Ok(tasks) = fs::read_dir(proc.join(format!("{pid}/task"))) else { return Vec::new() };
    // A process's children are kept by the thread that made them.
    let lists = tasks.flatten().take(64).filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>()).take(MOST_PROCESSES).collect()
}

fn holds(proc: &Path, pid: i32, wanted: &str, left: &mut usize) -> bool {
    let Ok(descriptors) = fs::read_dir(proc.join(format!("{pid}/fd"))) else { return false };
    for descriptor in descriptors.flatten() {
        if *left == 0 {
            return false;
        }
        *left -= 1;
        if fs::read_link(descriptor.path()).is_ok_and(|link| link.as_os_str() == wanted) {
            return true;
        }
    }
    false
}

/// A process as it is called inside.
fn process(proc: &Path, pid: i32) -> Option<Process> {
    let status = fs::read_to_string(proc.join(format!("{pid}/status"))).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let inside = field("NSpid")?.split_whitespace().last()?.parse().ok()?;
    Some(Process { pid: inside, name: field("Name")?.trim().to_owned() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses_are_written_as_the_kernel_does() {
        if cfg!(target_endian = "little") {
            assert_eq!(written("127.0.0.1:80".parse().unwrap()), "0100007F:0050");
            assert_eq!(written("[::1]:443".parse().unwrap()), "00000000000000000000000001000000:01BB");
        }
    }

    #[test]
    fn a_child_is_found_by_its_connection() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let script =
            format!("import socket,time\ns=socket.create_connection(('127.0.0.1',{}))\ns.recv(1)", listener.local_addr().unwrap().port());
        let mut child = std::process::Command::new("sh").args(["-c", &format!("python3 -c \"{script}\"; true")]).spawn().unwrap();
        let (stream, peer) = listener.accept().unwrap();
        let found = find(Path::new("/proc"), i32::try_from(std::process::id()).unwrap(), Table::Tcp, peer).unwrap();
        drop(stream);
        child.wait().unwrap();
        let names: Vec<&str> = found.iter().map(|process| process.name.as_str()).collect();
        assert!(names[0].starts_with("python"), "{names:?}");
        assert_eq!(names[1], "sh", "{names:?}");
    }
}
