"""What a hostile step tries against its exit. Says of each attempt, on a line of its own, whether it got through.

Usage: attacks.py CA.PEM [NAME ...]; without names all of them.
"""

import os
import socket
import ssl
import struct
import sys
import time

CA = sys.argv[1]
PATIENCE = 8
FOUR, SIX = "203.0.113.10", "2001:db8::10"


def connect(host, port):
    return socket.create_connection((host, port), PATIENCE)


def six(host, port):
    """Over IPv6 alone."""
    stream = socket.socket(socket.AF_INET6)
    stream.settimeout(PATIENCE)
    stream.connect(socket.getaddrinfo(host, port, socket.AF_INET6, socket.SOCK_STREAM)[0][4])
    return stream


def proxy():
    """The exit's listener, or in a control nobody's."""
    address = os.environ["HTTP_PROXY"].removeprefix("http://").rstrip("/").rsplit(":", 1)
    return socket.create_connection((address[0], int(address[1])), PATIENCE)


def echoed(stream):
    stream.settimeout(PATIENCE)
    stream.sendall(b"\x00ping\n")
    heard = b""
    while len(heard) < 6 and (more := stream.recv(64)):
        heard += more
    return heard == b"\x00ping\n"


def greeted(stream, name):
    """TLS under this name; its certificate is none of our concern."""
    context = ssl.create_default_context(cafile=CA)
    context.check_hostname = False
    stream.settimeout(PATIENCE)
    with context.wrap_socket(stream, server_hostname=name) as inner:
        host = name or "web.example"
        inner.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        return inner.recv(12).startswith(b"HTTP/1.1 200")


def asked(stream, host, target="/"):
    stream.settimeout(PATIENCE)
    stream.sendall(f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    heard = b""
    while b"hello to" not in heard and (more := stream.recv(4096)):
        heard += more
    return b"hello to" in heard


def hello(extra):
    """A whole TLS 1.2 greeting for web.example, with further extensions."""
    name = b"web.example"
    listed = struct.pack("!HBH", len(name) + 3, 0, len(name)) + name
    extensions = struct.pack("!HH", 0, len(listed)) + listed + extra
    groups, formats, algorithms = b"\0\x02\0\x17", b"\x01\0", b"\0\x04\x04\x03\x08\x04"
    for kind, value in ((10, groups), (11, formats), (13, algorithms)):
        extensions += struct.pack("!HH", kind, len(value)) + value
    body = b"\x03\x03" + bytes(32) + b"\0" + b"\0\x02\xc0\x2b" + b"\x01\0" + struct.pack("!H", len(extensions)) + extensions
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    return b"\x16\x03\x01" + struct.pack("!H", len(message)) + message


def answered(greeting, by=None):
    stream = (by or connect)("web.example", 443)
    stream.settimeout(PATIENCE)
    stream.sendall(greeting)
    # A server's own greeting, or at least its alert, comes in a record of TLS.
    return stream.recv(1) in (b"\x16", b"\x15")


def tunnel(target):
    stream = proxy()
    stream.settimeout(PATIENCE)
    stream.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
    if b" 200 " not in stream.recv(4096):
        raise OSError("refused")
    return stream


def socks(kind, address, port):
    """SOCKS5 to an address of this kind: 1 is IPv4, 3 a name, 4 IPv6."""
    stream = proxy()
    stream.settimeout(PATIENCE)
    stream.sendall(b"\5\1\0")
    if stream.recv(2) != b"\5\0":
        raise OSError("no SOCKS")
    stream.sendall(bytes([5, 1, 0, kind]) + address + struct.pack("!H", port))
    if stream.recv(64)[1] != 0:
        raise OSError("refused")
    return stream


def named(name):
    return bytes([len(name)]) + name.encode()


def datagram(host):
    """UDP with an echo."""
    kind, _, _, _, to = socket.getaddrinfo(host, 7000, 0, socket.SOCK_DGRAM)[0]
    with socket.socket(kind, socket.SOCK_DGRAM) as datagrams:
        datagrams.settimeout(2)
        datagrams.sendto(b"ping", to)
        return datagrams.recv(64) == b"ping"


def abstract():
    """A socket of the host that has a name and no path."""
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(PATIENCE)
        stream.connect("\0caisson-town")
        return stream.recv(64) == b"abstract"


def question(name, kind=1, server="127.0.0.53", over="udp"):
    """The answer's code and how many answers it has."""
    labels = b"".join(bytes([len(label)]) + label for label in name.encode().split(b".")) + b"\0"
    asks = struct.pack("!HHHHHH", 7, 0x100, 1, 0, 0, 0) + labels + struct.pack("!HH", kind, 1)
    if over == "tcp":
        stream = connect(server, 53)
        stream.settimeout(PATIENCE)
        stream.sendall(struct.pack("!H", len(asks)) + asks)
        said = stream.recv(4096)[2:]
    else:
        with socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            datagrams.settimeout(2)
            datagrams.sendto(asks, (server, 53))
            said = datagrams.recv(4096)
    return said[3] & 15, struct.unpack("!H", said[6:8])[0]


def flood():
    """A listener that many silent clients sit on still serves others."""
    silent = []
    for _ in range(400):
        try:
            silent.append(connect("web.example", 7000))
        except OSError:
            break
    served = echoed(connect("web.example", 7000))
    for stream in silent:
        stream.close()
    return served and len(silent) > 100


def served_in_time():
    """Whether others are served once those who held everything are gone."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            if echoed(connect("web.example", 7000)):
                return True
        except OSError:
            pass
    return False


def half_open():
    """More clients than may be open, each of which stops in the middle of its first words."""
    halves = [
        lambda: (connect("web.example", 443), hello(b"")[:20]),
        lambda: (six("web.example", 443), hello(b"")[:5]),
        lambda: (connect("web.example", 80), b"GET / HT"),
        lambda: (proxy(), b"CONNECT web.example:70"),
        lambda: (proxy(), b"\5\1"),
    ]
    held = []
    for number in range(700):
        try:
            stream, words = halves[number % len(halves)]()
            held.append(stream)
            stream.sendall(words)
        except OSError:
            pass
    for stream in held:
        stream.close()
    return len(held) > 500 and served_in_time()


def gone_at_once():
    """Clients that are gone before their first packet was let go, or anybody was dialled."""
    to = {by: socket.getaddrinfo("web.example", 7000, by, socket.SOCK_STREAM)[0][4] for by in (socket.AF_INET, socket.AF_INET6)}
    for number in range(600):
        kind = socket.AF_INET6 if number % 2 else socket.AF_INET
        with socket.socket(kind) as stream:
            stream.setblocking(False)
            stream.connect_ex(to[kind])
    return served_in_time()


def netlink(kind, body):
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as route:
        route.send(struct.pack("=IHHII", 16 + len(body), kind, 5, 1, 0) + body)
        return struct.unpack("=i", route.recv(4096)[16:20])[0] == 0


GATEWAY = struct.pack("=HH", 8, 5) + socket.inet_aton("192.0.2.1")
ATTEMPTS = {
    # Controls: what is allowed is there.
    "allowed name": lambda: echoed(connect("web.example", 7000)),
    "allowed TLS": lambda: greeted(connect("web.example", 443), "web.example"),
    "allowed request": lambda: asked(connect("web.example", 80), "web.example"),
    "allowed wildcard": lambda: asked(connect("a.wild.example", 80), "a.wild.example"),
    "allowed greeting": lambda: answered(hello(b"")),
    "allowed name over IPv6": lambda: echoed(six("web.example", 7000)),
    "allowed TLS over IPv6": lambda: greeted(six("web.example", 443), "web.example"),
    "allowed request over IPv6": lambda: asked(six("web.example", 80), "web.example"),
    "allowed name by SOCKS": lambda: echoed(socks(3, named("web.example"), 7000)),
    "flood": flood,
    "flood of half words": half_open,
    "flood of clients that are gone": gone_at_once,
    # Names and addresses.
    "another name": lambda: echoed(connect("other.example", 7000)),
    "name below": lambda: echoed(connect("x.web.example", 7000)),
    "another port": lambda: echoed(connect("web.example", 8000)),
    "its address": lambda: echoed(connect(FOUR, 7000)),
    "its IPv6 address": lambda: echoed(connect(SIX, 7000)),
    "its address, mapped": lambda: echoed(connect("::ffff:" + FOUR, 7000)),
    "metadata": lambda: echoed(connect("169.254.169.254", 7000)),
    "name of metadata": lambda: echoed(connect("metadata.example", 7000)),
    "private name": lambda: echoed(connect("inner.example", 7000)),
    "name of loopback": lambda: echoed(connect("loop.example", 7000)),
    "name of IPv6 loopback": lambda: echoed(connect("loop6.example", 7000)),
    "host's loopback": lambda: echoed(connect("127.0.0.1", 7000)),
    "host's IPv6 loopback": lambda: echoed(connect("::1", 7000)),
    "host's own address": lambda: echoed(connect("10.9.0.1", 7000)),
    "name of a private IPv6 address": lambda: echoed(connect("ula.example", 7000)),
    "another port over IPv6": lambda: asked(six("web.example", 8000), "web.example"),
    "its private IPv6 address": lambda: echoed(connect("fc00::1", 7000)),
    # By proxy.
    "CONNECT to an address": lambda: echoed(tunnel(FOUR + ":7000")),
    "CONNECT to an IPv6 address": lambda: echoed(tunnel(f"[{SIX}]:7000")),
    "CONNECT to another port": lambda: echoed(tunnel("web.example:8000")),
    "CONNECT to metadata": lambda: echoed(tunnel("169.254.169.254:80")),
    "CONNECT to a private name": lambda: echoed(tunnel("inner.example:7000")),
    "CONNECT to a mapped address": lambda: echoed(tunnel(f"[::ffff:{FOUR}]:7000")),
    "CONNECT to another name": lambda: echoed(tunnel("other.example:7000")),
    "SOCKS to an address": lambda: echoed(socks(1, socket.inet_aton(FOUR), 7000)),
    "SOCKS to an IPv6 address": lambda: echoed(socks(4, socket.inet_pton(socket.AF_INET6, SIX), 7000)),
    "SOCKS to another port": lambda: asked(socks(3, named("web.example"), 8000), "web.example"),
    "SOCKS to a private name": lambda: echoed(socks(3, named("inner.example"), 7000)),
    # Words that do not fit.
    "another SNI over IPv6": lambda: greeted(six("web.example", 443), "other.example"),
    "no SNI over IPv6": lambda: greeted(six("web.example", 443), None),
    "encrypted hello over IPv6": lambda: answered(hello(struct.pack("!HH", 0xFE0D, 4) + b"\0\0\0\0"), six),
    "no TLS on its port over IPv6": lambda: echoed(six("web.example", 443)),
    "another Host over IPv6": lambda: asked(six("web.example", 80), "other.example"),
    "another target over IPv6": lambda: asked(six("web.example", 80), "web.example", "http://other.example/"),
    "another SNI by SOCKS": lambda: greeted(socks(3, named("web.example"), 443), "other.example"),
    "another Host by SOCKS": lambda: asked(socks(3, named("web.example"), 80), "other.example"),
    "another SNI": lambda: greeted(connect("web.example", 443), "other.example"),
    "no SNI": lambda: greeted(connect("web.example", 443), None),
    "another SNI in a tunnel": lambda: greeted(tunnel("web.example:443"), "other.example"),
    "encrypted hello": lambda: answered(hello(struct.pack("!HH", 0xFE0D, 4) + b"\0\0\0\0")),
    "no TLS on its port": lambda: echoed(connect("web.example", 443)),
    "another Host": lambda: asked(connect("web.example", 80), "other.example"),
    "another Host in a tunnel": lambda: asked(tunnel("web.example:80"), "other.example"),
    "another target": lambda: asked(connect("web.example", 80), "web.example", "http://other.example/"),
    "another Host by proxy": lambda: asked(proxy(), "other.example", "http://web.example/"),
    # Questions of names.
    "question of a stranger": lambda: question("a.stranger.example")[1] > 0,
    "question with long labels": lambda: question(".".join(["x" * 63] * 3))[1] > 0,
    "question by TCP": lambda: question("a.stranger.example", over="tcp")[1] > 0,
    "question of odd type": lambda: any(question("web.example", kind)[1] > 0 for kind in (2, 5, 6, 12, 15, 16, 33, 65, 252, 255, 65280)),
    "another name server": lambda: question("web.example", server="9.9.9.9")[0] == 0,
    "another IPv6 name server": lambda: question("web.example", server="2001:db8::53")[0] == 0,
    # Other ways than TCP, and the namespace itself.
    "datagram": lambda: datagram("web.example"),
    "datagram to an address": lambda: datagram(FOUR),
    "datagram to an IPv6 address": lambda: datagram(SIX),
    "abstract socket": abstract,
    "IPv6 raw socket": lambda: bool(socket.socket(socket.AF_INET6, socket.SOCK_RAW, 255)),
    "IPv6 ping": lambda: bool(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM, 58)),
    "raw socket": lambda: bool(socket.socket(socket.AF_INET, socket.SOCK_RAW, 255)),
    "packet socket": lambda: bool(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)),
    "ping": lambda: bool(socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 1)),
    "vsock": lambda: bool(socket.socket(40, socket.SOCK_STREAM)),
    "its rules": lambda: bool(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)),
    "a route": lambda: netlink(24, bytes([2, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0]) + GATEWAY),
    "its addresses": lambda: netlink(21, bytes([2, 32, 0, 0]) + struct.pack("=I", 1) + struct.pack("=HH", 8, 2) + socket.inet_aton("198.18.0.1")),
}

for what in sys.argv[2:] or ATTEMPTS:
    try:
        through = ATTEMPTS[what]()
    except (OSError, KeyError, IndexError) as error:
        through = False
        print(f"{what}: {type(error).__name__}: {error}", file=sys.stderr)
    print(f"{what}: {'through' if through else 'refused'}", flush=True)
