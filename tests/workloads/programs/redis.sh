# A server on loopback and on a socket, redis-benchmark, a snapshot by fork, an append-only file, and the data after a restart.
set -e
place=$(mktemp -d)
cd "$place"
serve() { redis-server --port 63799 --bind 127.0.0.1 --unixsocket "$place/socket" --dir "$place" --appendonly yes --daemonize yes --logfile "$place/log" >/dev/null; }
ask() { redis-cli -p 63799 "$@"; }
ready() { for _ in $(seq 1000); do ask ping 2>/dev/null | grep -q PONG && return; done; cat "$place/log"; exit 1; }
serve; ready
redis-benchmark -p 63799 -n 2000 -q -t ping,set,get,lpush,mset | tr '\r' '\n' | grep -c 'requests per second'
redis-benchmark -s "$place/socket" -n 2000 -q -t set,get | tr '\r' '\n' | grep -c 'requests per second'
ask set kept 1
ask bgsave | grep -q started
for _ in $(seq 1000); do ask info persistence | grep -q 'rdb_bgsave_in_progress:0' && break; done
ask info persistence | tr -d '\r' | grep rdb_last_bgsave_status
ask shutdown || true
serve; ready
ask get kept
ask shutdown || true
cd /; rm -rf "$place"
