# The system tables, a server on loopback and on a socket, clients on both, InnoDB, and an even load.
set -e
place=$(mktemp -d)
mariadb-install-db --no-defaults --datadir="$place/db" --auth-root-authentication-method=normal --skip-test-db >"$place/install" 2>&1 || { cat "$place/install"; exit 1; }
mariadbd --no-defaults --datadir="$place/db" --socket="$place/socket" --port=33069 --bind-address=127.0.0.1 --pid-file="$place/pid" >"$place/log" 2>&1 &
server=$!
until mariadb-admin --no-defaults -S "$place/socket" -u root ping >/dev/null 2>&1; do kill -0 $server || { cat "$place/log"; exit 1; }; done
ask() { mariadb --no-defaults -S "$place/socket" -u root -N "$@"; }
ask -e 'create database work; create table work.t (a int primary key, b text) engine=innodb'
seq 1000 | sed "s/.*/insert into work.t values (&, repeat('x', 100));/" | ask work
ask -e 'select count(*), sum(a) from work.t'
mariadb --no-defaults -h 127.0.0.1 -P 33069 -u root -N -e 'select count(*) from work.t where b like "x%"'
mariadb-slap --no-defaults -S "$place/socket" -u root --auto-generate-sql --concurrency=4 --number-of-queries=200 | grep -c 'Average number of seconds'
mariadb-admin --no-defaults -S "$place/socket" -u root shutdown
wait $server
echo "stopped $?"
rm -rf "$place"
