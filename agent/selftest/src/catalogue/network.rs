//! Reaching anything outside of the sandbox's own network namespace.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::files::code;
use crate::attack::{Act, Attack, Control};
use crate::needs::Need;
use crate::scene::Scene;
use crate::verdict::Verdict;

const PATIENCE: Duration = Duration::from_secs(2);

pub(super) const ATTACKS: &[Attack] = &[
    code!("network.loopback", "reach a server on the host's loopback", Outside, |scene| tcp(Ipv4Addr::LOCALHOST.into(), scene.victim.tcp)),
    code!("network.loopback6", "reach one by IPv6", Outside, |scene| match scene.victim.tcp6 {
        Some(port) => tcp(Ipv6Addr::LOCALHOST.into(), port),
        None => Verdict::skipped("this host has no IPv6 loopback"),
    }),
    code!("network.mapped", "reach one by an IPv6 address that means an IPv4 one", Outside, |scene| {
        tcp(Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(), scene.victim.tcp)
    }),
    code!("network.unspecified", "reach one by the address of nobody", Outside, |scene| tcp(
        Ipv4Addr::UNSPECIFIED.into(),
        scene.victim.tcp
    )),
    code!("network.host-address", "reach the host by its own address", Outside, |scene| match scene.victim.address_of_host {
        Some((address, port)) => tcp(address, port),
        None => Verdict::skipped("this host has no address but loopback"),
    }),
    code!("network.datagram", "exchange datagrams with the host's loopback", Outside, datagram),
    code!("network.route", "find a route to anywhere", Outside, |scene| match scene.victim.address_of_host {
        None => Verdict::skipped("this host has none itself"),
        // An address for documentation (RFC 5737): connecting a datagram socket sends nothing.
        Some(_) => route(SocketAddr::from(([192, 0, 2, 1], 53))),
    }),
    code!("network.metadata", "find a route to a cloud's metadata service", Outside, |scene| match scene.victim.address_of_host {
        None => Verdict::skipped("this host has none itself"),
        Some(_) => route(SocketAddr::from(([169, 254, 169, 254], 80))),
    }),
    code!("network.name-server", "find a route to the name server of the host", Outside, name_server),
    code!("network.interface", "find an interface beside loopback", Outside, interface),
    code!("network.abstract-socket", "reach an abstract socket of the host, as the one of X or D-Bus", Outside, |scene| {
        let name = std::os::unix::net::SocketAddr::from_abstract_name(&scene.victim.abstract_name);
        match name.and_then(|name| UnixStream::connect_addr(&name)) {
            Ok(_) => Verdict::succeeded("connected"),
            Err(error) => Verdict::refused(error),
        }
    }),
    code!("network.socket-file", "reach a socket file of the host, as the one of an ssh-agent", Outside, |scene| unix(&[scene.socket()])),
    code!("network.engine-sockets", "reach a container engine, D-Bus, X or a database by the usual paths", Outside, |_| engines())
        .needing(&[Need::OneOf(USUAL)]),
    code!("network.socket-by-process", "reach a socket file through another process's root", Outside, |scene| {
        let socket = scene.socket();
        let below = socket.strip_prefix("/").unwrap_or(&socket).display().to_string();
        let paths: Vec<PathBuf> =
            crate::reach::processes().into_iter().map(|pid| crate::reach::proc(pid, &format!("root/{below}"))).collect();
        unix(&paths)
    }),
];

fn tcp(address: IpAddr, port: u16) -> Verdict {
    match TcpStream::connect_timeout(&SocketAddr::new(address, port), PATIENCE) {
        Ok(_) => Verdict::succeeded(format!("connected to {address} port {port}")),
        Err(error) => Verdict::refused(error),
    }
}

fn datagram(scene: &Scene) -> Verdict {
    let exchange = || -> std::io::Result<usize> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect((Ipv4Addr::LOCALHOST, scene.victim.udp))?;
        socket.send(b"hello")?;
        socket.recv(&mut [0; 16])
    };
    Verdict::of(exchange(), "an answer came")
}

fn route(to: SocketAddr) -> Verdict {
    let connect = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(to)?;
        socket.local_addr()
    };
    match connect() {
        // Where a step has a way out, every address is one of its own network's.
        Ok(from) if from.ip() == to.ip() || from.ip().is_loopback() => Verdict::refused("it leads back into the sandbox"),
        other => Verdict::of(other, format!("there is a route to {}", to.ip())),
    }
}

fn name_server(scene: &Scene) -> Verdict {
    if scene.victim.address_of_host.is_none() {
        return Verdict::skipped("this host has no address but loopback");
    }
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let servers = text.lines().filter_map(|line| line.strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok());
    let mut refused = "no name server is named".to_owned();
    for server in servers {
        if server.is_loopback() {
            return Verdict::skipped("the name server of this host is on its loopback");
        }
        let bind: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        match UdpSocket::bind((bind, 0)).and_then(|socket| socket.connect((server, 53))) {
            Ok(()) => return Verdict::succeeded(format!("there is a route to {server}")),
            Err(error) => refused = error.to_string(),
        }
    }
    Verdict::refused(refused)
}

fn interface(scene: &Scene) -> Verdict {
    let mut text = String::new();
    let read = std::fs::File::open("/proc/self/net/dev").and_then(|mut file| file.read_to_string(&mut text));
    if let Err(error) = read {
        return Verdict::refused(error);
    }
    let names: Vec<&str> = text.lines().skip(2).filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim()).collect();
    let others: Vec<&&str> = names.iter().filter(|name| **name != "lo").collect();
    match (others.is_empty(), scene.victim.address_of_host) {
        (false, _) => Verdict::succeeded(format!("{others:?}")),
        (true, _) => Verdict::refused("loopback only"),
    }
}

fn unix(paths: &[PathBuf]) -> Verdict {
    let mut refused = "nothing to try".to_owned();
    for path in paths {
        match UnixStream::connect(path) {
            Ok(_) => return Verdict::succeeded(format!("connected to {}", path.display())),
            Err(error) => refused = error.to_string(),
        }
    }
    Verdict::refused(refused)
}

/// Where servers of a host usually listen.
const USUAL: &[&str] = &[
    "/run/docker.sock",
    "/run/containerd/containerd.sock",
    "/run/podman/podman.sock",
    "/run/crio/crio.sock",
    "/run/dbus/system_bus_socket",
    "/run/systemd/private",
    "/run/systemd/journal/socket",
    "/run/systemd/notify",
    "/run/snapd.socket",
    "/run/udev/control",
    "/dev/log",
    "/tmp/.X11-unix/X0",
    "/run/postgresql/.s.PGSQL.5432",
    "/run/mysqld/mysqld.sock",
];

fn engines() -> Verdict {
    // Whether it answers is its own affair: that it is there at all is too much.
    match USUAL.iter().find(|path| Path::new(path).symlink_metadata().is_ok()) {
        Some(path) => Verdict::succeeded(format!("{path} is there")),
        None => Verdict::refused("none of them exists here"),
    }
}
