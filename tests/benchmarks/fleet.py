"""A fleet's latency and throughput, over loopback TLS with one controller on SQLite and one agent:

    python3 tests/benchmarks/fleet.py target/release/caisson [RUNS] [JOBS] [SLOTS]

From the moment that the controller takes a run to the moment that its step begins in a sandbox, with an idle agent; and
no-op jobs per second, each with its sandbox and all of it committed to the journal. Baseline: starting /bin/true, bare.
"""

import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime

caisson = os.path.abspath(sys.argv[1])
runs, jobs, slots = (int(text) for text in (sys.argv[2:] + ["100", "512", "4"][len(sys.argv) - 2 :]))


def at(text):
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * 1000


def main(root):
    home = root / "home"
    home.mkdir()
    environment = {"PATH": os.environ["PATH"], "HOME": str(home)}

    def call(*words, folder=root, **more):
        return subprocess.run([caisson, *words], cwd=folder, env={**environment, **more}, check=True, capture_output=True, text=True).stdout

    def checkout(name, text):
        folder = root / name / ".github/workflows"
        folder.mkdir(parents=True)
        (folder / "t.yml").write_text(text)
        return root / name

    state = str(root / "controller")
    call("controller", "init", "--name", "127.0.0.1", "--state-dir", state)
    (root / "controller.toml").write_text('listen = "127.0.0.5:0"\nnames = ["127.0.0.5"]\n')
    started = []
    try:
        words = [caisson, "controller", "--config", str(root / "controller.toml"), "--state-dir", state]
        controller = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        started.append(controller)
        url = controller.stdout.readline().strip()
        join = call("token", "create", "--state-dir", state, "--agent", "one").strip()
        call("agent", "join", "--controller", url.removeprefix("https://"), "--token", join, "--name", "one", "--state-dir", str(root / "agent"))
        words = [caisson, "agent", "--state-dir", str(root / "agent"), "--slots", str(slots)]
        started.append(subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        token = call("token", "create", "--state-dir", state, "--scope", "admin").strip()
        client = {"CAISSON_CONTROLLER": url, "CAISSON_TOKEN": token}
        while not any(json.loads(line)["connected"] for line in call("agents", "--json", **client).splitlines()):
            time.sleep(0.1)

        one = checkout("one", "on: push\njobs:\n  a: { runs-on: x, steps: [{ run: 'true' }] }\n".replace("x,", "ubuntu-latest,"))
        waits = []
        for _ in range(runs):
            objects = [json.loads(line) for line in call("submit", "--follow", "--json", folder=one, **client).splitlines()]
            begun = next(at(o["started"]) for o in objects if o["type"] == "step")
            waits.append(begun - at(objects[-1]["submitted"]))
        waits.sort()
        print(f"from submission to the step's start: p50 {statistics.median(waits):.0f} ms, p99 {waits[len(waits) * 99 // 100]:.0f} ms ({runs} runs)")

        cells = ", ".join(str(cell) for cell in range(min(jobs, 256)))
        parts = "".join(
            f"  m{part}:\n    runs-on: ubuntu-latest\n    strategy: {{ fail-fast: false, matrix: {{ c: [{cells}] }} }}\n    steps: [{{ run: 'true' }}]\n"
            for part in range(max(jobs // 256, 1))
        )
        many = checkout("many", "on: push\njobs:\n" + parts)
        objects = [json.loads(line) for line in call("submit", "--follow", "--json", folder=many, **client).splitlines()]
        last = objects[-1]
        count = len({o["id"] for o in objects if o["type"] == "job"})
        span = (at(last["finished"]) - at(last["started"])) / 1000
        assert last["outcome"] == "success", last
        print(f"no-op jobs with durable commits and a sandbox each: {count / span:.0f} jobs/s ({count} jobs, {slots} slots, {span:.1f} s)")
        before = time.monotonic()
        for _ in range(200):
            subprocess.run(["/bin/true"], check=True)
        print(f"baseline: {200 / (time.monotonic() - before):.0f} bare processes/s, one after the other")
    finally:
        for child in reversed(started):
            child.send_signal(signal.SIGTERM)
            child.wait(60)


with tempfile.TemporaryDirectory(prefix="caisson-bench-") as folder:
    main(pathlib.Path(folder))
