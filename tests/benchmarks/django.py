"""Django's own test suite bare and in the sandbox, in turns, in one run:

    python3 tests/benchmarks/django.py target/release/caisson [ROUNDS] [LABEL ...]

The labels are some whose tests pass for root as well. Fetches Django's source distribution with pip, as any user's pip is configured. SQLite, one process. Both runs must run the
same number of tests. Prints the medians of wall clock and processor time, and the ratio of the pairs.
"""

import glob
import os
import re
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time

DJANGO = "Django==5.2.8"
LABELS = ["forms_tests", "queries", "model_forms", "aggregation", "model_fields"]

caisson = os.path.abspath(sys.argv[1])
rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
labels = sys.argv[3:] or LABELS


def spent():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main(folder):
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--target", f"{folder}/site", "asgiref", "sqlparse"], check=True)
    subprocess.run([*pip, "download", "--no-deps", "--no-binary", "Django", "-d", folder, DJANGO], check=True)
    with tarfile.open(glob.glob(f"{folder}/[dD]jango-*.tar.gz")[0]) as source:
        source.extractall(folder, filter="data")
    [tree] = glob.glob(f"{folder}/[dD]jango-*/tests")
    code = f"cd {tree} && PYTHONPATH={folder}/site:{os.path.dirname(tree)} exec /usr/bin/python3 runtests.py --parallel 1 {' '.join(labels)}"
    candidates = {"bare": ["sh", "-c", code], "sandbox": [caisson, "exec", "--", "sh", "-c", code]}
    times = {name: [] for name in candidates}
    counts = set()
    for turn in range(rounds + 1):
        for name, words in candidates.items():
            start, before = time.monotonic(), spent()
            done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
            wall, cpu = time.monotonic() - start, spent() - before
            ran = re.search(r"Ran (\d+) tests", done.stderr)
            if done.returncode or not ran:
                sys.exit(f"{name}: exit code {done.returncode}\n{done.stderr[-3000:]}")
            counts.add(ran.group(1))
            # The first turn fills caches.
            if turn:
                times[name].append((wall, cpu))
    assert len(counts) == 1, counts
    for at, what in enumerate(["wall clock", "processor time"]):
        bare, sandbox = (statistics.median(pair[at] for pair in times[name]) for name in ("bare", "sandbox"))
        pairs = statistics.median(inside[at] / outside[at] for inside, outside in zip(times["sandbox"], times["bare"]))
        print(f"{counts} tests of {DJANGO}, {what}: bare {bare:.2f} s, sandbox {sandbox:.2f} s, {sandbox / bare:.3f} of bare (by pairs {pairs:.3f})")


with tempfile.TemporaryDirectory(prefix="caisson-django-") as folder:
    main(folder)
