"""A fleet's latency and throughput, over loopback TLS with one controller on SQLite and one agent:

    python3 tests/benchmarks/fleet.py target/release/caisson [RUNS] [JOBS] [SLOTS]

From the moment that the controller takes a run to the moment that its step begins in a sandbox, with an idle agent; no-op
jobs per second, each with its sandbox and all of it committed to the journal, with what they cost each process; how fast a
step's output is masked, kept and delivered, and what memory that takes while a reader stands still. Baseline of the first
two: starting /bin/true, bare; of the third: the same output into a pipe that nothing masks.
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
runs, jobs, slots = (int(text) for text in (sys.argv[2:] + ["100", "512", "8"][len(sys.argv) - 2 :]))


def at(text):
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * 1000


def processor(process):
    """Seconds of processor time of a process and all children that it waited for, and below it of those that live."""
    try:
        fields = pathlib.Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
        spent = sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")
        for task in pathlib.Path(f"/proc/{process}/task").iterdir():
            spent += sum(processor(child) for child in (task / "children").read_text().split())
        return spent
    except OSError:
        return 0.0


def memory(process, field):
    lines = pathlib.Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":")) / 1024


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
        words = [caisson, "controller", "--config", str(root / "controller.toml"), "--state-dir", state, "--secret", "TOKEN"]
        controller = subprocess.Popen(words, env={**environment, "TOKEN": "hunter2hunter2"}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
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
        def ended(run):
            while True:
                shown = json.loads(call("show", str(run), "--json", **client))
                if shown["state"] == "finished":
                    assert shown["outcome"] == "success", shown["outcome"]
                    return shown
                time.sleep(0.5)

        def submitted(folder):
            return json.loads(call("submit", "--json", folder=folder, **client).splitlines()[-1])["id"]

        agent = started[1]
        before = [processor(child.pid) for child in started]
        shown = ended(submitted(many))
        spent = [processor(child.pid) - spent for child, spent in zip(started, before)]
        count, span = len(shown["jobs"]), (at(shown["finished"]) - at(shown["started"])) / 1000
        print(f"no-op jobs with durable commits and a sandbox each: {count / span:.0f} jobs/s ({count} jobs, {slots} slots, {span:.1f} s)")
        each = [1000 * seconds / count for seconds in spent]
        print(f"  processor time a job: {each[0]:.1f} ms in the controller, {each[1]:.1f} ms in the agent with its sandboxes")

        line = "a line of output that is as long as many lines of a build are, and then a little"
        steps = "".join(
            f"      - {{ run: \"yes '{line}' | head -c {size}\", env: {{ TOKEN: '${{{{ secrets.TOKEN }}}}' }} }}\n" for size in (1 << 30, 60 << 20)
        )
        loud = checkout("loud", f"on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n{steps}")
        run = submitted(loud)
        # Somebody who follows the log and does not read.
        slow = subprocess.Popen([caisson, "logs", "-f", str(run)], env={**environment, **client}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        started.append(slow)
        steps = ended(run)["jobs"][0]["steps"]
        spans = [(at(step["finished"]) - at(step["started"])) / 1000 for step in steps[:2]]
        before = time.monotonic()
        subprocess.run(["sh", "-c", f"yes '{line}' | head -c {1 << 30} | cat >/dev/null"], check=True)
        bare = time.monotonic() - before
        print(f"1 GiB of output of one step, masked, the first and last part kept: {1074 / spans[0]:.0f} MB/s (bare, into a pipe: {1074 / bare:.0f} MB/s)")
        print(f"60 MiB of output, masked and all of it kept: {62.9 / spans[1]:.0f} MB/s")
        print(f"  highest memory, with a reader that stands still: controller {memory(controller.pid, 'VmHWM'):.0f} MiB, agent {memory(agent.pid, 'VmHWM'):.0f} MiB")
        slow.kill()
        started.remove(slow)
        slow.wait()
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
