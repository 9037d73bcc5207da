#!/usr/bin/env python3
"""What the policed exit costs: connection set-up, throughput, and memory for thousands of connections, beside host loopback, in one run.

Usage: exit.py CAISSON [ROUNDS]

A server of this script's own listens on loopback. The same client asks it from outside and from inside a sandbox whose policy names it, in
turns. Set-up is a connect, one byte there and one back. Throughput is one stream from the server. Memory is that of the whole `caisson
run` process with thousands of connections open, less what it has with none, divided by their number.
"""

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
CLIENT = """
import json, socket, sys, time
host, port, what, count = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
def ask():
    begin = time.perf_counter()
    with socket.create_connection((host, port)) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        s.sendall(b'\\xfe')
        assert s.recv(1) == b'\\xfe'
        return time.perf_counter() - begin
if what == 'setup':
    for _ in range(50): ask()
    print(json.dumps([ask() for _ in range(count)]))
else:
    with socket.create_connection((host, port)) as s:
        s.sendall(b'\\1')
        buffer = bytearray(1 << 18)
        begin, got = time.perf_counter(), 0
        while got < count:
            n = s.recv_into(buffer)
            assert n
            got += n
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
    """Echoes what it hears, streams after a one; neither byte can begin a request, whose rest would be waited for, one thread a connection."""
    block = bytes(1 << 18)

    def one(stream: socket.socket) -> None:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            word = stream.recv(1)
            if word == b"\1":
                while True:
                    stream.sendall(block)
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
    place = pathlib.Path(tempfile.mkdtemp(prefix="caisson-bench-"))
    checkout = place / "checkout"
    (checkout / ".github/workflows").mkdir(parents=True)
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(place)}

    def client(inside: bool, what: str, count: int):
        words = [caisson, "exec", "--allow", f"localhost:{port}", "--"] if inside else []
        command = [*words, "/usr/bin/python3", "-c", CLIENT, "localhost" if inside else "127.0.0.1", str(port), what, str(count)]
        ended = subprocess.run(command, cwd=checkout, env=environment, check=True, capture_output=True, text=True)
        return json.loads(ended.stdout)

    try:
        setup = {True: [], False: []}
        stream = {True: [], False: []}
        for _ in range(rounds):
            for inside in (False, True):
                setup[inside] += client(inside, "setup", CONNECTIONS)
                stream[inside].append(client(inside, "stream", BYTES))
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            at = {inside: sorted(times)[int(len(times) * share)] * 1e6 for inside, times in setup.items()}
            print(f"set-up {name}: host loopback {at[False]:.0f} us, through the exit {at[True]:.0f} us, added {at[True] - at[False]:.0f} us")
        speed = {inside: statistics.median(found) for inside, found in stream.items()}
        print(f"throughput: host loopback {speed[False] / 1e9:.2f} GB/s, through the exit {speed[True] / 1e9:.2f} GB/s, ratio {speed[True] / speed[False]:.2f}")

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
        run.wait()
    finally:
        os.kill(server, 9)
        os.waitpid(server, 0)
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
