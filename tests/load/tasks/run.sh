#!/usr/bin/env bash
# Measures the task queue beside Celery and BullMQ and prints a table; takes some minutes.
#
# Starts a PostgreSQL that flushes to the disk and a Redis of its own, and ends them. TASKS and BACKLOG change the sizes, NO_PEERS
# measures ours alone.
set -euo pipefail
cd "$(dirname "$0")/../../.."
bin="$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -1)"
run="$(mktemp -d /tmp/main-webserver-load.XXXXXX)"
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
postgres_port="$(free_port)"
redis_port="$(free_port)"
chmod 755 "$run"
mkdir "$run/pg"
chown postgres "$run/pg"
stop() {
    # What was ended by a signal says so, and the rest is ended all the same.
    set +e
    [ -n "${postgres:-}" ] && kill -INT "$postgres" 2>/dev/null && wait "$postgres" 2>/dev/null
    [ -n "${redis:-}" ] && kill "$redis" 2>/dev/null && wait "$redis" 2>/dev/null
    rm -rf "$run"
}
trap stop EXIT
trap 'exit 130' INT TERM
cargo build --release --locked --bin main-webserver --bench load-tasks
runuser -u postgres -- "$bin/initdb" -D "$run/pg/data" -U postgres --auth=trust -E UTF8 >"$run/initdb.log"
# The drop of privileges happens in this very process, so that its id is the server's.
setpriv --reuid postgres --regid postgres --init-groups "$bin/postgres" -D "$run/pg/data" -p "$postgres_port" \
    -k "$run/pg" -c listen_addresses=127.0.0.1 -c shared_buffers=512MB -c max_wal_size=4GB >"$run/pg.log" 2>&1 &
postgres=$!
redis-server --port "$redis_port" --bind 127.0.0.1 --dir "$run" --save '' --appendonly no >"$run/redis.log" 2>&1 &
redis=$!
until "$bin/pg_isready" -q -h 127.0.0.1 -p "$postgres_port" && redis-cli -p "$redis_port" ping >/dev/null 2>&1; do sleep 0.1; done
export DATABASE_URL="postgres://postgres@127.0.0.1:$postgres_port/postgres" DATABASE_PID="$postgres"
export REDIS_URL="redis://127.0.0.1:$redis_port/0"
cargo bench --locked --bench load-tasks
