//! Sockets of families and protocols that a build never needs, and that have been the kernel's weak side.

use caisson_sandbox::raw::Argument::Word;
use caisson_sandbox::raw::{Call, Entry};

use crate::attack::{Act, Attack, Control};

macro_rules! socket {
    ($id:literal, $tries:literal, $control:ident, $family:expr, $kind:expr, $protocol:expr) => {
        Attack::new(
            $id,
            $tries,
            Act::Calls(&[Call {
                entry: Entry::Native,
                number: libc::SYS_socket,
                arguments: &[Word($family), Word($kind), Word($protocol)],
            }]),
            Control::$control,
        )
    };
}

const STREAM: u64 = 1;
const DATAGRAM: u64 = 2;
const RAW: u64 = 3;
const SEQUENCE: u64 = 5;
/// Bits above the 32 that the kernel looks at.
const HIGH: u64 = 1 << 32;

pub(super) const ATTACKS: &[Attack] = &[
    socket!("kernel.socket-packet", "see every packet of an interface", Weakened, 17, RAW, 0),
    socket!("kernel.socket-raw", "make internet packets by hand", Weakened, 2, RAW, 1),
    socket!("kernel.socket-raw6", "make IPv6 packets by hand", Weakened, 10, RAW, 58),
    socket!("kernel.socket-key", "change the kernel's IPsec keys", Weakened, 15, RAW, 2),
    socket!("kernel.socket-xdp", "take packets before the kernel does", Weakened, 44, RAW, 0),
    socket!("kernel.socket-vsock", "reach the host of this virtual machine", Outside, 40, STREAM, 0),
    socket!("kernel.socket-alg", "use the kernel's cryptography", Outside, 38, SEQUENCE, 0),
    socket!("kernel.socket-bluetooth", "use bluetooth", Outside, 31, RAW, 1),
    socket!("kernel.socket-can", "use a field bus", Outside, 29, RAW, 1),
    socket!("kernel.socket-tipc", "use a cluster protocol (TIPC)", Outside, 30, STREAM, 0),
    socket!("kernel.socket-rds", "use a cluster protocol (RDS)", Outside, 21, SEQUENCE, 0),
    socket!("kernel.socket-kcm", "use the kernel's message multiplexer", Outside, 41, DATAGRAM, 0),
    socket!("kernel.socket-smc", "use shared-memory sockets", Outside, 43, STREAM, 0),
    socket!("kernel.socket-rxrpc", "use the RPC of AFS", Outside, 33, DATAGRAM, 2),
    socket!("kernel.socket-x25", "use X.25", Outside, 9, SEQUENCE, 0),
    socket!("kernel.socket-appletalk", "use AppleTalk", Outside, 5, DATAGRAM, 0),
    socket!("kernel.socket-pppox", "use PPP", Outside, 24, STREAM, 0),
    socket!("kernel.socket-qipcrtr", "use a modem's router", Outside, 42, DATAGRAM, 0),
    socket!("kernel.socket-mctp", "use a management bus", Outside, 45, DATAGRAM, 0),
    socket!("kernel.socket-sctp", "use SCTP", Outside, 2, STREAM, 132),
    socket!("kernel.socket-dccp", "use DCCP", Outside, 2, 6, 33),
    socket!("kernel.socket-mptcp", "use multipath TCP", Outside, 2, STREAM, 262),
    socket!("kernel.socket-udplite", "use UDP-Lite", Outside, 2, DATAGRAM, 136),
    socket!("kernel.socket-l2tp", "use a tunnel protocol", Weakened, 2, DATAGRAM, 115),
    socket!("kernel.netlink-user", "broadcast to other users' programs", Outside, 16, RAW, 2),
    socket!("kernel.netlink-diag", "list the sockets of the system", Outside, 16, RAW, 4),
    socket!("kernel.netlink-xfrm", "change IPsec", Outside, 16, RAW, 6),
    socket!("kernel.netlink-selinux", "hear of SELinux", Outside, 16, RAW, 7),
    socket!("kernel.netlink-audit", "speak to the audit system", Outside, 16, RAW, 9),
    socket!("kernel.netlink-connector", "hear of every process", Outside, 16, DATAGRAM, 11),
    socket!("kernel.netlink-netfilter", "change the packet filter", Outside, 16, RAW, 12),
    socket!("kernel.netlink-uevent", "hear of, and fake, devices", Outside, 16, RAW, 15),
    socket!("kernel.netlink-generic", "reach every other kernel family", Outside, 16, RAW, 16),
    socket!("kernel.netlink-rdma", "use RDMA", Outside, 16, RAW, 20),
    socket!("kernel.netlink-crypto", "change the kernel's cryptography", Outside, 16, RAW, 21),
    socket!(
        "kernel.netlink-high-bits",
        "open a uevent socket with bits that a careless filter compares and the kernel ignores",
        Outside,
        HIGH + 16,
        HIGH + RAW,
        HIGH + 15
    ),
    Attack::new(
        "kernel.socketpair-other",
        "make a pair of sockets of another family",
        Act::Calls(&[Call {
            entry: Entry::Native,
            number: libc::SYS_socketpair,
            arguments: &[Word(30), Word(SEQUENCE), Word(0), caisson_sandbox::raw::Argument::Room(8)],
        }]),
        Control::Outside,
    ),
];
