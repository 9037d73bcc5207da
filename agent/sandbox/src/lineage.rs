//! Which process of a sandbox holds a socket, and from whom it descends: by the inode of the socket, in the process tree below the
//! sandbox's init.
//!
//! Best effort: a process may be gone, or have handed its socket on. Bounded in processes, descriptors and bytes, since the step
//! decides how many there are.

use std::fs;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use nix::sys::socket::SockProtocol;
use serde::{Deserialize, Serialize};

use crate::netlink::{self, Batch, UNACKNOWLEDGED};

/// The most processes that are looked at, and descriptors of all of them.
const MOST_PROCESSES: usize = 512;
const MOST_DESCRIPTORS: usize = 16_384;
/// The most ancestors that are told.
const MOST_ANCESTORS: usize = 8;
/// The most bytes of the kernel's table of sockets.
const LONGEST_TABLE: u64 = 1 << 20;

/// A table of sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Table {
    /// Streams.
    Tcp,
    /// Datagrams.
    Udp,
}

/// One end of a connection as the process sees it that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ends {
    /// In which table.
    pub table: Table,
    /// Its own address and port.
    pub local: SocketAddr,
    /// What it connected to, before anything was led elsewhere.
    pub remote: SocketAddr,
}

/// A process inside a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its id inside.
    pub pid: u32,
    /// Its name, as the kernel shows it: at most 15 bytes.
    pub name: String,
}

/// Where a socket was found last: programs open one after another, mostly at the same number or the next.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pid: i32,
    descriptor: u32,
}

/// The process below `init` that holds this end, then its ancestors up to the step's first process. `proc` shows the processes; the
/// caller is in the network namespace of the sandbox, or reads its tables through `proc`. `last` is where one was found before.
pub(crate) fn find(proc: &Path, init: i32, ends: &Ends, last: &mut Option<Place>) -> Option<Vec<Process>> {
    let inode = asked(ends).or_else(|| listed(proc, init, ends))?;
    let wanted = format!("socket:[{inode}]");
    if let Some(place) = last.and_then(|last| nearby(proc, last, &wanted))
        && let Some(lineage) = ancestry(proc, init, place.pid)
    {
        *last = Some(place);
        return Some(lineage);
    }
    let mut tree = vec![init];
    let mut next = 0;
    while next < tree.len() && tree.len() < MOST_PROCESSES {
        tree.extend(children(proc, tree[next]));
        next += 1;
    }
    let mut left = MOST_DESCRIPTORS;
    let known = last.map(|place| place.pid).filter(|pid| tree[1..].contains(pid));
    // Then the newest.
    let likely = known.into_iter().chain(tree[1..].iter().rev().copied());
    let place = likely.into_iter().find_map(|pid| Some(Place { pid, descriptor: holds(proc, pid, &wanted, &mut left)? }))?;
    *last = Some(place);
    ancestry(proc, init, place.pid)
}

/// The same socket where the last one was, or beside it. A number names one socket of the whole host, so whoever holds it is meant.
fn nearby(proc: &Path, last: Place, wanted: &str) -> Option<Place> {
    let Place { pid, descriptor } = last;
    let numbers = [descriptor, descriptor + 1, descriptor + 2, descriptor.saturating_sub(1)];
    let here = |number: &u32| fs::read_link(proc.join(format!("{pid}/fd/{number}"))).is_ok_and(|link| link.as_os_str() == wanted);
    numbers.into_iter().find(here).map(|descriptor| Place { pid, descriptor })
}

/// A process and its ancestors below `init`; `None` when it does not descend from there.
fn ancestry(proc: &Path, init: i32, pid: i32) -> Option<Vec<Process>> {
    let mut lineage = Vec::new();
    let mut at = pid;
    while at != init && lineage.len() < MOST_ANCESTORS {
        let (process, parent) = process(proc, at)?;
        lineage.push(process);
        // The host's first process: not ours at all.
        if parent <= 1 {
            return None;
        }
        at = parent;
    }
    Some(lineage)
}

/// The inode of a stream in the caller's namespace, by asking the kernel for that one (sock_diag(7), 3.3).
fn asked(ends: &Ends) -> Option<u64> {
    const BY_FAMILY: u16 = 20;
    const TCP: u8 = 6;
    const NO_COOKIE: [u8; 8] = [0xff; 8];
    const INODE: usize = 4 + 48 + 16;
    if ends.table != Table::Tcp {
        return None;
    }
    let (family, local, remote) = match (ends.local.ip(), ends.remote.ip()) {
        (IpAddr::V4(local), IpAddr::V4(remote)) => (libc::AF_INET as u8, padded(&local.octets()), padded(&remote.octets())),
        (IpAddr::V6(local), IpAddr::V6(remote)) => (libc::AF_INET6 as u8, local.octets(), remote.octets()),
        _ => return None,
    };
    let mut fixed = vec![family, TCP, 0, 0];
    fixed.extend_from_slice(&u32::MAX.to_ne_bytes());
    fixed.extend_from_slice(&ends.local.port().to_be_bytes());
    fixed.extend_from_slice(&ends.remote.port().to_be_bytes());
    fixed.extend_from_slice(&local);
    fixed.extend_from_slice(&remote);
    fixed.extend_from_slice(&0_u32.to_ne_bytes());
    fixed.extend_from_slice(&NO_COOKIE);
    let mut batch = Batch::default();
    batch.message(BY_FAMILY, UNACKNOWLEDGED, &fixed, |_| {});
    let body = netlink::answer(SockProtocol::NetlinkSockDiag, batch).ok()?;
    let inode = u32::from_ne_bytes(body.get(INODE..INODE + 4)?.try_into().ok()?);
    (inode != 0).then_some(u64::from(inode))
}

fn padded(octets: &[u8; 4]) -> [u8; 16] {
    let mut all = [0; 16];
    all[..4].copy_from_slice(octets);
    all
}

/// The inode of the socket in the namespace of `init` that has this local address, by reading the whole table.
fn listed(proc: &Path, init: i32, ends: &Ends) -> Option<u64> {
    let name = match (ends.table, ends.local) {
        (Table::Tcp, SocketAddr::V4(_)) => "tcp",
        (Table::Tcp, SocketAddr::V6(_)) => "tcp6",
        (Table::Udp, SocketAddr::V4(_)) => "udp",
        (Table::Udp, SocketAddr::V6(_)) => "udp6",
    };
    // An IPv4 connection may be that of an IPv6 socket.
    let mapped = match ends.local {
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
    look(name, ends.local).or_else(|| look(if name == "udp" { "udp6" } else { "tcp6" }, mapped?)).or_else(|| {
        // A datagram socket that is not connected has no address of its own.
        let any = match ends.local {
            SocketAddr::V4(_) => SocketAddr::new(IpAddr::from([0; 4]), ends.local.port()),
            SocketAddr::V6(_) => SocketAddr::new(IpAddr::from([0; 16]), ends.local.port()),
        };
        matches!(ends.table, Table::Udp).then(|| look(name, any)).flatten()
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

/// The number under which a process holds a socket.
fn holds(proc: &Path, pid: i32, wanted: &str, left: &mut usize) -> Option<u32> {
    let descriptors = fs::read_dir(proc.join(format!("{pid}/fd"))).ok()?;
    let mut paths: Vec<_> = descriptors.flatten().take(*left).map(|descriptor| descriptor.path()).collect();
    // The kernel tells them in their order, and the newest is the likeliest.
    paths.reverse();
    for path in paths {
        *left = left.saturating_sub(1);
        if fs::read_link(&path).is_ok_and(|link| link.as_os_str() == wanted) {
            return path.file_name()?.to_str()?.parse().ok();
        }
    }
    None
}

/// A process as it is called inside, and its parent's id outside.
fn process(proc: &Path, pid: i32) -> Option<(Process, i32)> {
    let status = fs::read(proc.join(format!("{pid}/status"))).ok()?;
    let status = String::from_utf8_lossy(&status);
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let inside = field("NSpid")?.split_whitespace().last()?.parse().ok()?;
    let parent = field("PPid")?.trim().parse().ok()?;
    Some((Process { pid: inside, name: field("Name")?.trim().to_owned() }, parent))
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
    fn a_child_is_found_by_its_connection_in_both_ways() {
        for (listen, host) in [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1")] {
            let Ok(listener) = std::net::TcpListener::bind(listen) else { continue };
            let remote = listener.local_addr().unwrap();
            let script = format!("import socket\ns=socket.create_connection(('{host}',{}))\ns.recv(1)", remote.port());
            let mut child = std::process::Command::new("sh").args(["-c", &format!("python3 -c \"{script}\"; true")]).spawn().unwrap();
            let (stream, local) = listener.accept().unwrap();
            let ends = Ends { table: Table::Tcp, local, remote };
            let own = i32::try_from(std::process::id()).unwrap();
            let found = find(Path::new("/proc"), own, &ends, &mut None).unwrap();
            let read = listed(Path::new("/proc"), own, &ends);
            assert!(read.is_some());
            // A kernel may lack the module that answers.
            assert!(asked(&ends).is_none_or(|inode| Some(inode) == read), "{host}");
            drop(stream);
            child.wait().unwrap();
            let names: Vec<&str> = found.iter().map(|process| process.name.as_str()).collect();
            assert!(names[0].starts_with("python"), "{names:?}");
            assert_eq!(names[1], "sh", "{names:?}");
        }
    }
}
