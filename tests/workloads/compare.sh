#!/bin/bash
# Runs the test suites of real Django projects outside and inside caisson's sandbox, and compares.
#
#   tests/workloads/compare.sh [NAME ...]      all by default; django takes longest
#
# Each source distribution is fetched by pip and unpacked; the workflow of the same name beside this script says how to install
# and test it. Outside, the scripts of its steps "Install" and "Test" run in a fresh virtual environment; inside, `caisson run` runs
# the workflow. Both get the same interpreter. When this script runs as root, the outside run is made by uid and gid 1000 without
# supplementary groups, as inside: several tests are skipped or fail for uid 0. The environment outside is
# HOME, PATH, LANG and CI, and pip's own settings for the step that installs.
#
# Prints a table, and below each project every test whose outcome differs. Exits 1 if anything differs, 3 if it could not be compared.
#
#   CAISSON=PATH         the binary (default: target/release/caisson, built if missing)
#   RUN_ARGS="..."       more arguments for `caisson run`, such as "--allow-missing memory-limit"
#   PYTHON=PATH          the interpreter, one that every user may execute (default: /usr/bin/python3)
#   KEEP=DIR             keep sources and logs in DIR, and take a log of an outside run that is there as it is
#   ONLY=outside         do the outside run alone
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
python=${PYTHON:-/usr/bin/python3}
only=${ONLY:-both}
declare -A release=([django]=Django==5.2.19 [django-filter]=django-filter==26.2 [djangorestframework]=djangorestframework==3.18.3
    [django-guardian]=django-guardian==3.5.2 [django-import-export]=django-import-export==4.4.3 [django-simple-history]=django-simple-history==3.13.0)

names=("$@")
[ ${#names[@]} -gt 0 ] || names=(django-filter djangorestframework django-guardian django-import-export django-simple-history django)
for name in "${names[@]}"; do
    [ -n "${release[$name]:-}" ] || { echo "no workload $name; there are: ${!release[*]}" >&2; exit 2; }
done

if [ -n "${KEEP:-}" ]; then
    mkdir -p "$KEEP"
    work=$(cd "$KEEP" && pwd)
else
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
fi
chmod 755 "$work"

caisson=${CAISSON:-$root/target/release/caisson}
if [ "$only" = both ] && [ ! -x "$caisson" ]; then
    (cd "$root" && cargo build --release)
fi

# Runs a command as an ordinary user with an environment of its own: ordinary NAME=VALUE ... COMMAND ...
ordinary() {
    if [ "$(id -u)" = 0 ]; then
        setpriv --reuid 1000 --regid 1000 --clear-groups --no-new-privs env -i "$@"
    else
        env -i "$@"
    fi
}

# What pip was told on this machine, so that the outside run finds the same index.
mapfile -t pip_settings < <(env | grep -E '^(PIP_|SSL_CERT_FILE=|REQUESTS_CA_BUNDLE=|https?_proxy=|HTTPS?_PROXY=)' || true)

# Runs the workflow's scripts outside: outside NAME SOURCE LOG
outside() {
    local name=$1 place="$work/$1-outside" step settings
    rm -rf "$place"
    mkdir -p "$place/home"
    cp -r "$2" "$place/source"
    # The sandbox's copy has its own mount for the virtual environment; this one must not be taken for a part of the source.
    [ "$(id -u)" != 0 ] || chown -R 1000:1000 "$place"
    local base=("HOME=$place/home" "PATH=$place/venv/bin:/usr/local/bin:/usr/bin:/bin" LANG=C.UTF-8 CI=true)
    ordinary "${base[@]}" "$python" -m venv "$place/venv"
    for step in Install Test; do
        settings=()
        [ "$step" = Test ] || settings=("${pip_settings[@]}")
        { echo "cd '$place/source'"; "$python" "$here/count.py" script "$here/$name.yml" "$step"; } >"$place/$step.sh"
        if ! ordinary "${base[@]}" "${settings[@]}" bash -e "$place/$step.sh" </dev/null >"$place/$step.log" 2>&1 && [ "$step" = Install ]; then
            tail -20 "$place/$step.log" >&2
            echo "$name: cannot install outside" >&2
            exit 3
        fi
    done
    # By rename, so that a log that is there is a whole one.
    mv "$place/Test.log" "$3"
    rm -rf "$place"
}

# Runs the workflow inside: inside NAME SOURCE LOG
inside() {
    local name=$1 place="$work/$1-inside" version code=0
    version=$("$python" -c 'import platform; print(platform.python_version())')
    rm -rf "$place"
    mkdir -p "$place"
    cp -r "$2" "$place/$name"
    mkdir -p "$place/$name/.github/workflows"
    cp "$here/$name.yml" "$place/$name/.github/workflows/"
    # shellcheck disable=SC2086 # several arguments are meant
    "$caisson" run "$place/$name" -W "$name.yml" -e workflow_dispatch --input "python-version=$version" --json ${RUN_ARGS:-} \
        >"$work/$name.json" 2>"$work/$name.stderr" || code=$?
    rm -rf "$place"
    # 1 is a job that failed, for the comparison to explain.
    if [ "$code" -gt 1 ] || ! "$python" "$here/count.py" log "$work/$name.json" Test >"$3"; then
        tail -20 "$work/$name.stderr" >&2
        tail -3 "$work/$name.json" >&2
        echo "$name: caisson ended with $code" >&2
        exit 3
    fi
}

printf '%-22s%-9s%10s%10s%10s%10s%10s\n' project where run passed failed skipped expected
differ=0
for name in "${names[@]}"; do
    if ! ls -d "$work/$name-source"/*/ >/dev/null 2>&1; then
        mkdir -p "$work/$name-source"
        "$python" -m pip download --quiet --no-deps --no-binary "${release[$name]%%=*}" --dest "$work/$name-source" "${release[$name]}"
        tar -xf "$work/$name-source"/*.tar.gz -C "$work/$name-source" --no-same-owner
    fi
    source=$(ls -d "$work/$name-source"/*/)
    [ -n "${KEEP:-}" ] && [ -s "$work/$name.outside.log" ] || outside "$name" "$source" "$work/$name.outside.log"
    if [ "$only" = outside ]; then
        "$python" "$here/count.py" compare "$name" "$work/$name.outside.log" "$work/$name.outside.log" | sed -n 1p
        continue
    fi
    inside "$name" "$source" "$work/$name.inside.log"
    "$python" "$here/count.py" compare "$name" "$work/$name.outside.log" "$work/$name.inside.log" || differ=1
done
exit $differ
