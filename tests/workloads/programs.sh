#!/bin/bash
# Databases, a browser, a compiler, package managers and CPython's own tests: the same script outside and inside the sandbox, what each
# said, and what the sandbox refused.
#
#   tests/workloads/programs.sh [NAME ...]     postgres redis mariadb chromium gcc npm pip cpython; all by default
#
# Outside, as root, the script runs as uid and gid 1000 without supplementary groups, as inside. What a script says must be equal; of
# cpython, the outcome of each single test, by count.py. The refused calls are those that `caisson exec --seccomp-log` lists.
# Exits 1 when something differs.
#
#   CAISSON=PATH   the binary (default: target/release/caisson)
#   ARGS="..."     more arguments for `caisson exec`
#   PYTHON=PATH    the interpreter of cpython
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
caisson=${CAISSON:-$here/../../target/release/caisson}
names=("$@")
[ ${#names[@]} -gt 0 ] || names=(postgres redis mariadb chromium gcc npm pip cpython)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
cp -r "$here/programs" "$work/programs"
cp "$here/../benchmarks/packages.txt" "$work/programs/"
[ "$(id -u)" != 0 ] || chown -R 1000:1000 "$work"
cd "$work/programs"

mapfile -t index < <(env | grep -E '^(PIP_|npm_config_|SSL_CERT_FILE=|REQUESTS_CA_BUNDLE=|NODE_EXTRA_CA_CERTS=|https?_proxy=|HTTPS?_PROXY=)' || true)
outside() {
    local settings=("HOME=$work" PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin LANG=C.UTF-8 ${PYTHON:+PYTHON=$PYTHON} "${index[@]}")
    if [ "$(id -u)" = 0 ]; then
        setpriv --reuid 1000 --regid 1000 --clear-groups --no-new-privs env -i "${settings[@]}" "$@"
    else
        env -i "${settings[@]}" "$@"
    fi
}

differ=0
for name in "${names[@]}"; do
    more=()
    case "$name" in npm | pip) more=(--packages) ;; cpython) more=(--memory 4GiB ${PYTHON:+--env "PYTHON=$PYTHON"}) ;; chromium) more=(--memory 2GiB) ;; esac
    outside bash "$name.sh" >"$work/$name.outside" 2>"$work/$name.outside.errors" </dev/null || echo "exit code $?" >>"$work/$name.outside"
    # shellcheck disable=SC2086 # several arguments are meant
    "$caisson" exec --seccomp-log --timeout 40m "${more[@]}" ${ARGS:-} -- bash "$name.sh" >"$work/$name.inside" 2>"$work/$name.inside.errors" </dev/null \
        || echo "exit code $?" >>"$work/$name.inside"
    echo "== $name"
    if [ "$name" = cpython ]; then
        /usr/bin/python3 "$here/count.py" outcomes "$work/$name.outside" "$work/$name.inside" || differ=1
    elif diff "$work/$name.outside" "$work/$name.inside"; then
        sed 's/^/   /' "$work/$name.inside"
    else
        tail -5 "$work/$name.outside.errors" "$work/$name.inside.errors"
        differ=1
    fi
    grep -E '^note: ' "$work/$name.inside.errors" | sed 's/^/   /' || true
done
exit $differ
