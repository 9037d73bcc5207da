"""What compare.sh needs of Python, with the standard library alone.

    count.py script WORKFLOW STEP         print the step's script (`# cd DIR` first where it has a working directory)
    count.py log JSON_LINES STEP          print the step's log, from the output of `caisson run --json`
    count.py compare NAME OUTSIDE INSIDE  print two rows of the table, then each difference; exit 1 if there is one
    count.py outcomes OUTSIDE INSIDE      print how many single outcomes there are, then each difference; exit 1 if there is one

The logs are those of verbose unittest or pytest runs. Totals come from the last line of the runner. The outcome of single tests
is read as well, since equal totals could hide one test that fails inside for one that fails outside.
"""

import json
import re
import sys

COLUMNS = ["run", "passed", "failed", "skipped", "expected"]
WORDS = {
    "ok": "passed",
    "FAIL": "failed",
    "ERROR": "failed",
    "skipped": "skipped",
    "expected failure": "expected",
    "unexpected success": "failed",
    "PASSED": "passed",
    "FAILED": "failed",
    "SKIPPED": "skipped",
    "XFAIL": "expected",
    "XPASS": "failed",
}


def script(path, step):
    """The workflows beside this file all have one shape, which spares a YAML parser that Python lacks."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    found = re.search(rf"^      - name: {re.escape(step)}\n((?:        .*\n|\s*\n)+)", text, re.M)
    if not found:
        sys.exit(f"{path}: no step {step!r} in the expected shape")
    directory = re.search(r"^        working-directory: (.+)$", found.group(1), re.M)
    body = re.search(r"^        run: \|\n((?:          .*\n|\s*\n)+)", found.group(1), re.M)
    if not body:
        sys.exit(f"{path}: step {step!r} has no `run: |`")
    if directory:
        print(f"cd {directory.group(1)}")
    print(re.sub(r"^          ", "", body.group(1), flags=re.M), end="")


def log(path, step):
    """Lines of the step, in order; anything else that went wrong is said, since a log would then be short without a word."""
    last, found = None, False
    with open(path, encoding="utf-8") as file:
        for line in file:
            last = json.loads(line)
            if last["type"] == "log" and last["step_name"] == step:
                found = True
                if "gap" in last:
                    sys.exit(f"{path}: the log has a gap: {last['gap']}")
                print(last["text"])
            elif last["type"] == "job" and last["state"] == "finished" and last["outcome"] != "success":
                print(f"job {last['name']}: {last['outcome']}: {last['cause']}", file=sys.stderr)
    if not found:
        sys.exit(f"{path}: step {step!r} wrote nothing; the last line is {last}")


def totals(text):
    """Return the runner's own counts, or None where it did not get as far as that."""
    counts = dict.fromkeys(COLUMNS, 0)
    ran = re.search(r"^Ran (\d+) tests? in ", text, re.M)
    if ran:
        ended = re.findall(r"^(?:OK|FAILED)(?: \((.*)\))?$", text, re.M)
        if not ended:
            return None
        counts["run"] = int(ran.group(1))
        for name, number in re.findall(r"([a-z ]+)=(\d+)", ended[-1]):
            column = {"failures": "failed", "errors": "failed", "unexpected successes": "failed", "skipped": "skipped", "expected failures": "expected"}[name.strip()]
            counts[column] += int(number)
        counts["passed"] = counts["run"] - counts["failed"] - counts["skipped"] - counts["expected"]
        return counts
    ended = re.findall(r"^=+ (.*\b(?:passed|failed|error|skipped)\b.*) in [\d.]+s.*=+$", text, re.M)
    if not ended:
        return None
    for number, name in re.findall(r"(\d+) (passed|failed|errors?|skipped|xfailed|xpassed)\b", ended[-1]):
        counts[{"passed": "passed", "skipped": "skipped", "xfailed": "expected"}.get(name, "failed")] += int(number)
    counts["run"] = sum(counts[column] for column in COLUMNS[1:])
    return counts


def tests(text):
    """Return {test: outcome}. A test with a docstring takes two lines in unittest's output."""
    outcomes, name = {}, None
    for line in text.splitlines():
        pytest = re.match(r"^(\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b", line)
        if pytest:
            outcomes[pytest.group(1)] = WORDS[pytest.group(2)]
            continue
        # Not at the start only: what the runner says of the database may stand before it on the same line.
        begun = re.search(r"(\w+ \(\w+(?:\.\w+)+\))", line)
        name = begun.group(1) if begun else name
        ended = re.search(r" \.\.\. (ok|FAIL|ERROR|skipped|expected failure|unexpected success)\b", line)
        if ended and name:
            outcomes[name] = WORDS[ended.group(1)]
            name = None
        # A test with failed subtests has no word of its own.
        failed = re.match(r"^(?:FAIL|ERROR): (\w+ \([\w.]+\))", line)
        if failed:
            outcomes[failed.group(1)] = "failed"
    return outcomes


def compare(name, outside_path, inside_path):
    """Print both rows and what differs."""
    texts, rows = [], []
    for place, path in (("outside", outside_path), ("inside", inside_path)):
        with open(path, encoding="utf-8", errors="replace") as file:
            texts.append(file.read())
        rows.append(totals(texts[-1]))
        cells = "".join(f"{rows[-1][column]:>10}" for column in COLUMNS) if rows[-1] else "  the runner did not finish"
        print(f"{name:<22}{place:<9}{cells}")
    if None in rows:
        return 1
    outside, inside = (tests(text) for text in texts)
    for place, row, outcomes in zip(("outside", "inside"), rows, (outside, inside)):
        # A few names stand twice in Django's output; if more is missing, the runner writes in a way that `tests` does not read.
        if not row["run"] or abs(len(outcomes) - row["run"]) > row["run"] / 100:
            print(f"  {place}: {len(outcomes)} single outcomes were read of {row['run']} tests")
            return 1
    differences = [
        f"  {test}: {outside.get(test, 'not run')} outside, {inside.get(test, 'not run')} inside"
        for test in sorted(outside.keys() | inside.keys())
        if outside.get(test) != inside.get(test)
    ]
    print("\n".join(differences), end="\n" if differences else "")
    return int(rows[0] != rows[1] or bool(differences))


def outcomes(outside_path, inside_path):
    """Print the number of outcomes and what differs, of logs with many runs each. Names that stand twice are counted once."""
    found = []
    for path in (outside_path, inside_path):
        with open(path, encoding="utf-8", errors="replace") as file:
            found.append(tests(file.read()))
    outside, inside = found
    for place, one in zip(("outside", "inside"), found):
        counts = {word: list(one.values()).count(word) for word in sorted(set(one.values()))}
        print(f"   {place}: {len(one)} tests, {counts}")
    differing = [test for test in sorted(outside.keys() | inside.keys()) if outside.get(test) != inside.get(test)]
    for test in differing:
        print(f"   {test}: {outside.get(test, 'not run')} outside, {inside.get(test, 'not run')} inside")
    return int(bool(differing) or not inside)


if __name__ == "__main__":
    verb, *arguments = sys.argv[1:]
    sys.exit({"script": script, "log": log, "compare": compare, "outcomes": outcomes}[verb](*arguments))
