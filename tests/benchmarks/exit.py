#!/usr/bin/env python3
"""What the policed exit costs: connection set-up, throughput, and memory for thousands of connections, beside host loopback, in one run.

Usage: exit.py CAISSON [ROUNDS]

A server of this script's own listens on loopback. The same client asks it from outside and from inside a sandbox whose policy names it, in
turns: by connecting plainly, through CONNECT and through SOCKS5. A bare relay that does nothing but splice(2) from one socket to the other
stands beside it, outside: what a second hop can carry at most on this machine, where sender, relay and receiver share the cores. Set-up is a connect, the proxy's greetings where there are some, one byte
there and one back. Throughput is one stream from the server, and one to it. Memory is that of the whole `caisson
run` process with thousands of connections open, less what it has with none, divided by their number.
"""

import fcntl
import json
import os
import pathlib
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

CONNECTIONS = 1500
BYTES = 1 << 30
CROWD = 2500
LOOPBACK = "host loopback"
RELAY = "bare relay"
PIPE = 1 << 18
CLIENT = """
import json, os, socket, sys, time
host, port, what, way, count = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5])
proxy = os.environ.get('HTTP_PROXY', '').removeprefix('http://').rstrip('/').rpartition(':')
def reach():
    if way == 'plain':
        s = socket.create_connection((host, port))
    else:
        s = socket.create_connection((proxy[0], int(proxy[2])))
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if way == 'CONNECT':
        s.sendall(b'CONNECT %b:%d HTTP/1.1\\r\\n\\r\\n' % (host.encode(), port))
        assert b' 200 ' in s.recv(4096)
    elif way == 'SOCKS5':
        s.sendall(b'\\5\\1\\0')
        assert s.recv(2) == b'\\5\\0'
        s.sendall(b'\\5\\1\\0\\3%c%b' % (len(host), host.encode()) + port.to_bytes(2, 'big'))
        assert s.recv(10)[1] == 0
    return s
def ask():
    begin = time.perf_counter()
    with reach() as s:
        s.sendall(b'\\xfe')
        assert s.recv(1) == b'\\xfe'
        return time.perf_counter() - begin
if what == 'setup':
    for _ in range(50): ask()
    print(json.dumps([ask() for _ in range(count)]))
else:
    with reach() as s:
        buffer = bytearray(1 << 18)
        s.sendall(b'\\1' if what == 'down' else b'\\2')
        begin, got = time.perf_counter(), 0
        if what == 'down':
            while got < count:
                n = s.recv_into(buffer)
                assert n
                got += n
        else:
            while got < count:
                s.sendall(buffer)
                got += len(buffer)
            s.shutdown(socket.SHUT_WR)
            # Until the server has all of it.
            assert s.recv(1) == b'.'
        print(json.dumps(got / (time.perf_counter() - begin)))
"""
CROWDED = """
import os, resource, socket, sys, time
port, count = int(sys.argv[1]), int(sys.argv[2])
held = []
for _ in range(count):
    s = socket.create_connection(('localhost', port)); s.sendall(b'\\xfe'); assert s.recv(1) == b'\\xfe'
    held.append(s)
open('crowded', 'w').close()
times = []
for _ in range(300):
    begin = time.perf_counter()
    with socket.create_connection(('localhost', port)) as s:
        s.sendall(b'\\xfe'); s.recv(1)
    times.append(time.perf_counter() - begin)
print('among', len(held), 'p50 us', sorted(times)[150] * 1e6, flush=True)
until = time.time() + 60
while not os.path.exists('/tmp/never') and time.time() < until and os.path.exists('crowded') and not os.path.exists('measured'):
    time.sleep(0.05)
"""


def serve(listener: socket.socket) -> None:
    """Echoes what it hears, streams after a one, hears a stream after a two; one thread a connection."""
    block = bytes(1 << 18)

    def one(stream: socket.socket) -> None:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            word = stream.recv(1)
            if word == b"\1":
                while True:
                    stream.sendall(block)
            elif word == b"\2":
                buffer = bytearray(1 << 18)
                while stream.recv_into(buffer):
                    pass
                stream.sendall(b".")
            elif word:
                stream.sendall(word)
                stream.recv(1)
        except OSError:
            pass
        finally:
            stream.close()

    while True:
        stream, _ = listener.accept()
        threading.Thread(target=one, args=(stream,), daemon=True).start()


def relay(listener: socket.socket, port: int) -> None:
    """Passes connections on, by blocking splices in a thread for each direction."""

    def one(source: socket.socket, sink: socket.socket) -> None:
        out, into = os.pipe()
        fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, PIPE)
        try:
            while taken := os.splice(source.fileno(), into, PIPE):
                while taken:
                    taken -= os.splice(out, sink.fileno(), taken)
        except OSError:
            pass
        finally:
            os.close(out)
            os.close(into)
            try:
                sink.shutdown(socket.SHUT_WR)
            except OSError:
                pass

    def both(client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", port)) as server:
            for stream in (client, server):
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            back = threading.Thread(target=one, args=(server, client), daemon=True)
            back.start()
            one(client, server)
            back.join()

    while True:
        stream, _ = listener.accept()
        threading.Thread(target=both, args=(stream,), daemon=True).start()


def main() -> None:
    caisson = str(pathlib.Path(sys.argv[1]).resolve())
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # A process of its own, so that nobody waits for this one's interpreter.
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    port = listener.getsockname()[1]
    server = os.fork()
    if server == 0:
        threading.stack_size(1 << 17)
        serve(listener)
    listener.close()
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    relayed = listener.getsockname()[1]
    relaying = os.fork()
    if relaying == 0:
        threading.stack_size(1 << 17)
        relay(listener, port)
    listener.close()
    place = pathlib.Path(tempfile.mkdtemp(prefix="caisson-bench-"))
    checkout = place / "checkout"
    (checkout / ".github/workflows").mkdir(parents=True)
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(place)}

    def client(way: str, what: str, count: int):
        outside = way in (LOOPBACK, RELAY)
        words = [] if outside else [caisson, "exec", "--allow", f"localhost:{port}", "--"]
        host, by = ("127.0.0.1", "plain") if outside else ("localhost", way)
        to = relayed if way == RELAY else port
        command = [*words, "/usr/bin/python3", "-c", CLIENT, host, str(to), what, by, str(count)]
        ended = subprocess.run(command, cwd=checkout, env=environment, check=True, capture_output=True, text=True)
        return json.loads(ended.stdout)

    try:
        setup, down, up = {}, {}, {}
        for _ in range(rounds):
            for way in (LOOPBACK, RELAY, "plain", "CONNECT", "SOCKS5"):
                setup.setdefault(way, []).extend(client(way, "setup", CONNECTIONS))
                down.setdefault(way, []).append(client(way, "down", BYTES))
                up.setdefault(way, []).append(client(way, "up", BYTES))
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            at = {way: sorted(times)[int(len(times) * share)] * 1e6 for way, times in setup.items()}
            told = ", ".join(f"{way} {time:.0f} us (+{time - at[LOOPBACK]:.0f})" for way, time in at.items())
            print(f"set-up and one byte each way, {name}: {told}")
        for name, streams in (("down", down), ("up", up)):
            speed = {way: statistics.median(found) for way, found in streams.items()}
            told = ", ".join(f"{way} {rate / 1e9:.2f} GB/s ({rate / speed[LOOPBACK]:.2f} of loopback, {rate / speed[RELAY]:.2f} of the relay)" for way, rate in speed.items())
            print(f"throughput {name}: {told}")

        workflow = "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - uses: actions/checkout@v4\n      - name: Crowd\n        run: |\n"
        workflow += f"          cp \"$GITHUB_WORKSPACE/crowd.py\" /tmp/crowd.py; until [ -e /tmp/go ] || sleep 0.5; do :; done; python3 /tmp/crowd.py {port} {CROWD}\n"
        (checkout / ".github/workflows/t.yml").write_text(workflow)
        (checkout / "crowd.py").write_text(CROWDED.replace("'crowded'", "'/tmp/crowded'").replace("'measured'", "'/tmp/measured'"))
        (checkout / "policy.toml").write_text(f"[network]\nallow = ['localhost:{port}']\nconnections = {CROWD + 100}\n")
        subprocess.run(["git", "init", "-q", "."], cwd=checkout, check=True)
        run = subprocess.Popen(
            [caisson, "run", "--json", "--policy", "policy.toml", "--open-files", "8192"], cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True
        )

        def memory() -> int:
            status = pathlib.Path(f"/proc/{run.pid}/status").read_text()
            return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) * 1024

        before = after = None
        opened = 0
        for line in run.stdout:
            told = json.loads(line)
            if told["type"] == "step" and told["name"] == "Crowd" and before is None:
                before = memory()
            if told["type"] == "log" and "among" in told["text"]:
                after = memory()
                print(f"a connection {told['text']}")
                opened = int(told["text"].split()[1])
                break
        if after is None:
            raise SystemExit("the crowd was not held")
        print(f"memory: {(after - before) / opened / 1024:.1f} KiB a connection, with {opened} open ({before >> 20} to {after >> 20} MiB)")
        run.terminate()
        # It tells of every connection, and ends once somebody has heard.
        run.communicate()
    finally:
        for child in (server, relaying):
            os.kill(child, 9)
            os.waitpid(child, 0)
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
