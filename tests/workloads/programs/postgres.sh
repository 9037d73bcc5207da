# initdb, a server on a socket and on loopback, pgbench over both. Says how many transactions were done.
set -e
export PATH=$(ls -d /usr/lib/postgresql/*/bin | tail -n 1):$PATH
place=$(mktemp -d)
initdb -D "$place/db" -U me -A trust >"$place/initdb" 2>&1 || { cat "$place/initdb"; exit 1; }
pg_ctl -D "$place/db" -o "-k $place -h 127.0.0.1 -p 54329" -l "$place/log" -w start >"$place/start" 2>&1 || { cat "$place/start" "$place/log"; exit 1; }
trap 'pg_ctl -D "$place/db" -m immediate stop >/dev/null 2>&1; rm -rf "$place"' EXIT
createdb -h "$place" -p 54329 -U me bench
pgbench -h 127.0.0.1 -p 54329 -U me -i -q bench >/dev/null 2>&1
pgbench -h "$place" -p 54329 -U me -c 4 -j 2 -t 100 bench 2>/dev/null | grep -E '^number of (transactions actually processed|failed transactions)'
psql -h 127.0.0.1 -p 54329 -U me -At -c 'select count(*), sum(aid) from pgbench_accounts' bench
pg_ctl -D "$place/db" -m fast -w stop >/dev/null
trap - EXIT
grep -E 'FATAL|PANIC|could not' "$place/log" | grep -v 'the database system is' || true
rm -rf "$place"
