#!/usr/bin/env bash
# Measures machines of the service beside plain QEMU processes with the same arguments, all at once, and prints a table.
#
# Starts a PostgreSQL that flushes to the disk and a Redis of its own, and ends them; takes some minutes.
# COUNT (10) is how many machines there are of each. BINARY is a build of ours to take as it is. ACCEL (tcg) is what
# translates the guests: tcg or kvm.
set -uo pipefail
[ -z "${BINARY:-}" ] || BINARY="$(realpath "$BINARY")"
cd "$(dirname "$0")/../../.." || exit 1
RUN="$(mktemp -d /tmp/main-webserver-load.XXXXXX)"
chmod 755 "$RUN"
pids=()
stop() {
    trap - EXIT
    [ -n "${driver:-}" ] && kill "$driver" 2>/dev/null && wait "$driver" 2>/dev/null
    for pid in "${pids[@]}"; do kill -INT "$pid" 2>/dev/null; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null; done
    rm -rf "$RUN"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

. tests/package.sh
. tests/machines/guest/build.sh
package python3 python3-minimal && package redis-server redis-server && make_guest >&2 || exit 1
[ -d /usr/lib/postgresql ] || package /usr/lib/postgresql/15/bin postgresql postgresql-client || exit 1
bin="$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -1)"
if [ -z "${BINARY:-}" ]; then
    cargo build --release --locked --bin main-webserver || exit 1
    BINARY="$(realpath "${CARGO_TARGET_DIR:-target}")/release/main-webserver"
fi
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
mkdir "$RUN/pg" && chown postgres "$RUN/pg"
port="$(free_port)"
runuser -u postgres -- "$bin/initdb" -D "$RUN/pg/data" -U postgres --auth=trust -E UTF8 >"$RUN/initdb.log" || exit 1
setpriv --reuid postgres --regid postgres --init-groups "$bin/postgres" -D "$RUN/pg/data" -p "$port" \
    -k "$RUN/pg" -c listen_addresses=127.0.0.1 >"$RUN/pg.log" 2>&1 &
pids+=($!)
redis="$(free_port)"
redis-server --port "$redis" --bind 127.0.0.1 --dir "$RUN" --save '' --appendonly no >"$RUN/redis.log" 2>&1 &
pids+=($!)
until "$bin/pg_isready" -q -h 127.0.0.1 -p "$port"; do sleep 0.1; done
export BINARY RUN DATABASE_URL="postgres://postgres@127.0.0.1:$port/postgres" REDIS_URL="redis://127.0.0.1:$redis/0"
export ACCEL="${ACCEL:-tcg}" PYTHONDONTWRITEBYTECODE=1
python3 tests/load/machines/bench.py --count "${COUNT:-10}" &
driver=$!
wait "$driver"
