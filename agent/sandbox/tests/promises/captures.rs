//! Connections that are led to the caller's listener without the program knowing of it, and those that are not.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use caisson_sandbox::lineage::{Ends, Table};
use caisson_sandbox::spec::{Capture, Identity, Lead, Network, Ports};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::{Ip6tOriginalDst, OriginalDst};

use super::Test;
use crate::setting::Setting;

pub(crate) const TESTS: &[Test] = &[
    ("connections are captured", captured),
    ("what is refused is told where nothing is led on", closed),
    ("who made a connection is found", found),
    ("nothing of the network can be changed inside", fixed),
];

fn network(ports: Ports) -> Network {
    let lead = |text: &str, bits| Lead { address: text.parse().unwrap(), bits, ports: ports.clone() };
    Network::Exit {
        listeners: vec!["127.0.0.1:61080".parse().unwrap()],
        capture: Some(Capture {
            leads: vec![lead("198.18.0.0", 16), lead("fdca:155e::", 32)],
            addresses: vec!["198.18.0.1".parse().unwrap(), "fdca:155e::1".parse().unwrap()],
            resolver: "127.0.0.53:53".parse().unwrap(),
        }),
    }
}

fn captured(setting: &Setting) {
    let script = "import socket\n\
        for a in (('198.18.0.5', 80), ('fdca:155e::5', 80), ('198.18.0.5', 81), ('192.0.2.1', 80), ('169.254.169.254', 80), ('2001:db8::1', 443), ('127.0.0.1', 9), ('::1', 9)):\n\
        \x20 try: s = socket.create_connection(a, 5); s.sendall(b'ping'); print(a[0], s.recv(4).decode())\n\
        \x20 except OSError as e: print(a[0], type(e).__name__)\n\
        u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.connect(('127.0.0.53', 53)); u.send(b'name?'); print(u.recv(9).decode())\n\
        u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.connect(('192.0.2.7', 53)); u.send(b'x')\n\
        try: u.settimeout(5); print('udp', u.recv(9))\n\
        except OSError as e: print('udp', type(e).__name__)";
    let mut spec = setting.python(script);
    spec.network = network(Ports::Only(vec![80]));
    let (mut running, mut out, _) = setting.start(&spec).unwrap();
    let mut sockets = running.take_sockets();
    assert_eq!(sockets.listeners.len(), 2, "IPv4 and IPv6");
    let six = TcpListener::from(sockets.listeners.pop().unwrap());
    let four = TcpListener::from(sockets.listeners.pop().unwrap());
    let serve = |listener: &TcpListener| {
        let (mut peer, from) = listener.accept().unwrap();
        let mut word = [0; 4];
        peer.read_exact(&mut word).unwrap();
        peer.write_all(b"pong").unwrap();
        (peer, from)
    };
    let (peer, from) = serve(&four);
    let original = getsockopt(&peer, OriginalDst).unwrap();
    assert_eq!(
        (Ipv4Addr::from(u32::from_be(original.sin_addr.s_addr)).to_string().as_str(), u16::from_be(original.sin_port)),
        ("198.18.0.5", 80)
    );
    assert!(matches!(from, SocketAddr::V4(_)));
    let (peer, _) = serve(&six);
    let original = getsockopt(&peer, Ip6tOriginalDst).unwrap();
    assert_eq!(std::net::Ipv6Addr::from(original.sin6_addr.s6_addr).to_string(), "fdca:155e::5");
    let (datagrams, _) = sockets.resolver.take().unwrap();
    let datagrams = UdpSocket::from(datagrams);
    let mut question = [0; 16];
    let (read, whom) = datagrams.recv_from(&mut question).unwrap();
    datagrams.send_to(&question[..read], whom).unwrap();
    assert!(running.wait().unwrap().success());
    let mut said = String::new();
    std::io::Seek::rewind(&mut out).unwrap();
    out.read_to_string(&mut said).unwrap();
    let refused = "ConnectionRefusedError";
    let expected = format!(
        "198.18.0.5 pong\nfdca:155e::5 pong\n198.18.0.5 {refused}\n192.0.2.1 {refused}\n169.254.169.254 {refused}\n2001:db8::1 {refused}\n127.0.0.1 {refused}\n::1 {refused}\nname?\nudp {refused}\n"
    );
    assert_eq!(said, expected);
    // Five connections and a datagram were refused beyond the step's own loopback, and each was told.
    let refusals = sockets.refusals.take().unwrap();
    let mut told = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(read) = nix::unistd::read(&refusals, &mut buffer) {
        told.extend_from_slice(&buffer[..read]);
    }
    for address in ["198.18.0.5", "192.0.2.1", "169.254.169.254", "192.0.2.7"] {
        let octets = address.parse::<Ipv4Addr>().unwrap().octets();
        assert!(told.windows(4).any(|window| window == octets), "{address} was not told");
    }
    let octets = "2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets();
    assert!(told.windows(16).any(|window| window == octets));
    assert!(!told.windows(16).any(|window| window == std::net::Ipv6Addr::LOCALHOST.octets()), "its own loopback is its own");
}

/// Without a lead as well.
fn closed(setting: &Setting) {
    let script = "import socket\n\
        for a in (('192.0.2.1', 80), ('2001:db8::1', 443), ('127.0.0.1', 9)):\n\
        \x20 try: socket.create_connection(a, 5); print(a[0], 'connected')\n\
        \x20 except OSError as e: print(a[0], type(e).__name__)";
    let mut spec = setting.python(script);
    spec.network = network(Ports::All);
    let Network::Exit { capture: Some(capture), .. } = &mut spec.network else { unreachable!() };
    capture.leads.clear();
    let (mut running, _, _) = setting.start(&spec).unwrap();
    let refusals = running.take_sockets().refusals.unwrap();
    assert!(running.wait().unwrap().success());
    let mut told = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(read) = nix::unistd::read(&refusals, &mut buffer) {
        told.extend_from_slice(&buffer[..read]);
    }
    assert!(told.windows(4).any(|window| window == [192, 0, 2, 1]), "192.0.2.1 was not told");
    let octets = "2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets();
    assert!(told.windows(16).any(|window| window == octets), "2001:db8::1 was not told");
    assert!(!told.windows(4).any(|window| window == [127, 0, 0, 1]), "its own loopback is its own");
}

/// By the launcher's side, whoever asks, with the ids and names that it has inside.
fn found(setting: &Setting) {
    let script = "import os, socket\n\
        if os.fork():\n\
        \x20 os.wait()\n\
        else:\n\
        \x20 open('/proc/self/comm', 'w').write('a child')\n\
        \x20 for a in ('198.18.0.5', 'fdca:155e::5'):\n\
        \x20  s = socket.create_connection((a, 80), 20); s.recv(1)";
    let mut spec = setting.python(script);
    spec.network = network(Ports::Only(vec![80]));
    let (mut running, _, _) = setting.start(&spec).unwrap();
    let onlooker = running.onlooker();
    let sockets = running.take_sockets();
    let listeners: Vec<TcpListener> = sockets.listeners.into_iter().map(TcpListener::from).collect();
    for (listener, remote) in listeners.iter().zip(["198.18.0.5:80", "[fdca:155e::5]:80"]) {
        let (mut peer, local) = listener.accept().unwrap();
        let ends = |remote: &str| Ends { table: Table::Tcp, local, remote: remote.parse().unwrap() };
        let found = onlooker.find(&ends(remote));
        let names: Vec<&str> = found.iter().map(|process| process.name.as_str()).collect();
        assert!(names.len() == 2 && names[0] == "a child" && names[1].starts_with("python"), "{remote}: {found:?}");
        assert!(found[0].pid > found[1].pid && found[1].pid < 10, "{remote}: {found:?}");
        peer.write_all(b".").unwrap();
    }
    assert!(running.wait().unwrap().success());
    let nobody = Ends { table: Table::Tcp, local: "127.0.0.1:1".parse().unwrap(), remote: "127.0.0.1:2".parse().unwrap() };
    assert!(onlooker.find(&nobody).is_empty(), "after the end nobody is found");
}

/// Whoever the step is, it cannot touch the rules, routes and addresses that were made for it.
fn fixed(setting: &Setting) {
    let script = "import socket, struct, fcntl\n\
        def route(kind, body):\n\
        \x20 s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)\n\
        \x20 s.send(struct.pack('=IHHII', 16 + len(body), kind, 5, 1, 0) + body)\n\
        \x20 return struct.unpack('=i', s.recv(4096)[16:20])[0]\n\
        print('route', route(25, bytes([2, 0, 0, 0, 255, 3, 254, 2, 0, 0, 0, 0])))\n\
        print('address', route(21, bytes([2, 32, 0, 0]) + struct.pack('=I', 1) + struct.pack('=HH', 8, 2) + socket.inet_aton('198.18.0.1')))\n\
        print('link', route(16, bytes(8) + struct.pack('=II', 0, 0) + struct.pack('=HH', 7, 3) + b'x0\\0\\0'))\n\
        for name, make in (('nft', lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)), ('raw', lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 255)), ('packet', lambda: socket.socket(17, socket.SOCK_RAW, 0)), ('vsock', lambda: socket.socket(40, socket.SOCK_STREAM)), ('icmp', lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 1))):\n\
        \x20 try: make(); print(name, 'made')\n\
        \x20 except OSError as e: print(name, 'no')\n\
        s = socket.socket(); i = struct.pack('16sH22x', b'lo', 0)\n\
        try: fcntl.ioctl(s, 0x8914, i); print('down')\n\
        except OSError: print('up')\n\
        try: socket.create_connection(('198.18.0.5', 80), 5); print('captured')\n\
        except OSError as e: print(e)";
    let identities = match setting.launcher.mode() {
        caisson_sandbox::host::Mode::Single => vec![Identity::RUNNER],
        _ => vec![Identity::RUNNER, Identity::NamespaceRoot],
    };
    for identity in identities {
        let mut spec = setting.python(script);
        spec.network = network(Ports::All);
        spec.identity = identity;
        let said = setting.says(&spec);
        assert_eq!(said, "route -1\naddress -1\nlink -1\nnft no\nraw no\npacket no\nvsock no\nicmp no\nup\ncaptured", "as {identity:?}");
    }
}
