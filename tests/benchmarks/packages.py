#!/usr/bin/env python3
"""How long `pip install` of a Django project takes: pip alone and through the package gateway, cold, warm and offline, in one run.

Usage: packages.py CAISSON [ROUNDS]

Every run installs into a fresh virtual environment of the system's Python, whose making is not counted. `pip cold` begins with an empty
cache, `pip warm` with what `pip cold` left; `gateway cold` begins with an empty store, the others with what that left. Warm runs take
turns, and the median of each kind counts. The last column is relative to `pip warm`.
"""

import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
REQUIREMENTS = (HERE / "packages.txt").read_text()
SCRIPT = """set -e
rm -rf "$1" && python3 -m venv "$1" && printf %s "$2" > "$1/requirements.txt"
begin=$(date +%s.%N)
"$1/bin/pip" install -q --disable-pip-version-check -r "$1/requirements.txt" >&2
end=$(date +%s.%N)
echo "$begin $end $("$1/bin/pip" list --format freeze | wc -l)"
"""


def main() -> None:
    caisson = str(pathlib.Path(sys.argv[1]).resolve())
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    place = pathlib.Path(tempfile.mkdtemp(prefix="caisson-bench-"))
    checkout = place / "checkout"
    checkout.mkdir()
    environment = {**os.environ, "PATH": "/usr/bin:/bin", "PIP_CACHE_DIR": str(place / "pip"), "XDG_CACHE_HOME": str(place / "cache")}
    counts = set()

    def timed(words: list[str], where: str) -> float:
        command = [*words, "bash", "-c", SCRIPT, "bash", where, REQUIREMENTS]
        ended = subprocess.run(command, cwd=checkout, env=environment, check=True, capture_output=True, text=True)
        begin, end, count = ended.stdout.split()[-3:]
        counts.add(int(count))
        return float(end) - float(begin)

    def alone() -> float:
        return timed([], str(place / "venv"))

    def gateway(*flags: str) -> float:
        return timed([caisson, "exec", "--packages", *flags, "--"], "/tmp/venv")

    try:
        times = {"pip cold": [alone()], "gateway cold": [gateway()]}
        warm = {"pip warm": alone, "gateway warm": gateway, "gateway offline": lambda: gateway("--offline")}
        for _ in range(rounds):
            for kind, run in warm.items():
                times.setdefault(kind, []).append(run())
        medians = {kind: statistics.median(found) for kind, found in times.items()}
        print(f"{min(counts)} to {max(counts)} distributions, {rounds} warm rounds")
        for kind, median in medians.items():
            spread = f"{min(times[kind]):.2f} to {max(times[kind]):.2f}"
            print(f"{kind:<16} {median:7.2f} s  ({spread})  {median / medians['pip warm']:.2f}")
    finally:
        shutil.rmtree(place, ignore_errors=True)


main()
