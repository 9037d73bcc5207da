"""Restores a cache of many files and unpacks the same files from a tar.zst, in one run, and prints what each took.

Usage: cache.py [CAISSON] [MEGABYTES] [FILES]    needs zstd; uses a place of its own, which is removed
"""

import datetime
import json
import os
import pathlib
import subprocess
import sys
import tempfile

MAKE = """
on: push
jobs:
  make:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/cache@v4
        with: { path: ~/tree, key: tree }
      - uses: actions/cache@v4
        with: { path: ~/packed, key: packed }
      - shell: python
        run: |
          import os, random
          home, files, size = os.environ["HOME"], %(files)d, %(megabytes)d * 1000000 // %(files)d
          noise = random.Random(7)
          for number in range(files):
              directory = f"{home}/tree/{number %% 200}"
              os.makedirs(directory, exist_ok=True)
              with open(f"{directory}/{number}", "wb") as file:
                  # Half of it can be packed, as in what people cache.
                  file.write(noise.randbytes(size // 2) + bytes(size - size // 2))
      - run: mkdir ~/packed && tar -C ~ -c tree | zstd -q -3 -o ~/packed/tree.tar.zst
"""

USE = """
on: push
jobs:
  use:
    runs-on: ubuntu-latest
    steps:
      - name: restore
        uses: actions/cache@v4
        with: { path: ~/tree, key: tree, fail-on-cache-miss: true }
      - uses: actions/cache@v4
        with: { path: ~/packed, key: packed, fail-on-cache-miss: true }
      - name: unpack
        run: mkdir ~/other && zstd -q -dc ~/packed/tree.tar.zst | tar -C ~/other -x
      - name: count
        run: echo "files $(find ~/tree -type f | wc -l) $(find ~/other -type f | wc -l)"
"""


def run(caisson, place, workflow):
    checkout = place / "checkout"
    (checkout / ".github/workflows").mkdir(parents=True, exist_ok=True)
    (checkout / ".github/workflows/cache.yml").write_text(workflow)
    environment = {"PATH": os.environ["PATH"], "HOME": str(place)}
    ran = subprocess.run([caisson, "run", "--json", str(checkout)], env=environment, capture_output=True, text=True)
    if ran.returncode:
        sys.exit(ran.stdout[-3000:] + ran.stderr[-2000:])
    return [json.loads(line) for line in ran.stdout.splitlines()]


def seconds(objects, name):
    for one in objects:
        if one["type"] == "step" and one["name"] == name and one["state"] == "finished":
            at = [datetime.datetime.fromisoformat(one[key].replace("Z", "+00:00")) for key in ("started", "finished")]
            return (at[1] - at[0]).total_seconds()
    sys.exit("no step " + name)


def main():
    caisson = sys.argv[1] if len(sys.argv) > 1 else "target/release/caisson"
    numbers = {"megabytes": int(sys.argv[2]) if len(sys.argv) > 2 else 500, "files": int(sys.argv[3]) if len(sys.argv) > 3 else 20000}
    with tempfile.TemporaryDirectory() as directory:
        place = pathlib.Path(directory)
        run(str(pathlib.Path(caisson).resolve()), place, MAKE % numbers)
        for attempt in range(3):
            objects = run(str(pathlib.Path(caisson).resolve()), place, USE)
            counted = [one["text"] for one in objects if one["type"] == "log" and one.get("text", "").startswith("files ")]
            restore, unpack = seconds(objects, "restore"), seconds(objects, "unpack")
            print("%d MB in %d files: restored in %.2f s, unpacked from tar.zst in %.2f s; %s" % (numbers["megabytes"], numbers["files"], restore, unpack, counted[-1]))


if __name__ == "__main__":
    main()
