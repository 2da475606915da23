#!/usr/bin/env bash
# Measures thousands of sockets on one server beside a bare loop and graphql-ws on node; takes some minutes.
#
# Starts a PostgreSQL and a Redis of its own, and ends them. FANOUT, EVENTS, HELD, SECONDS_HELD, LIVE, KEYS, DISTINCT and
# SECONDS_DISTINCT change the sizes (a quick trial: FANOUT=100 EVENTS=20 HELD=500 SECONDS_HELD=3 LIVE=500 KEYS=10
# DISTINCT=500), ONLY_DISTINCT=1 measures nothing else, NO_PEERS leaves node out, BEFORE names another build to compare with,
# SKIP_BUILD=1 takes the binary as it is: the release one, or that of SERVER.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../../../.."
bin="$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -1)"
run="$(mktemp -d /tmp/main-webserver-load.XXXXXX)"
target="${CARGO_TARGET_DIR:-$PWD/target}"
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
postgres_port="$(free_port)"
redis_port="$(free_port)"
stop() {
    # What was ended by a signal says so, and the rest is ended all the same.
    set +e
    [ -n "${postgres:-}" ] && kill -INT "$postgres" 2>/dev/null && wait "$postgres" 2>/dev/null
    [ -n "${redis:-}" ] && kill "$redis" 2>/dev/null && wait "$redis" 2>/dev/null
    rm -rf "$run"
}
trap stop EXIT
trap 'exit 130' INT TERM
ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -Hn)"

[ "${SKIP_BUILD:-}" = 1 ] || cargo build --release --locked --bin main-webserver
export SERVER="${SERVER:-$target/release/main-webserver}"
CARGO_TARGET_DIR="$target/load-sockets" cargo build --release --locked --manifest-path "$here/Cargo.toml"

# Node looks for packages above the importing file, so the source goes beside them.
if [ -z "${NO_PEERS:-}" ]; then
    peer="$target/load-peers/graphql-ws"
    mkdir -p "$peer"
    cp "$here"/peer/* "$peer/"
    if ! cmp -s "$here/peer/package-lock.json" "$peer/node_modules/installed-lock.json"; then
        npm ci --prefix "$peer" --no-audit --no-fund >&2
        cp "$here/peer/package-lock.json" "$peer/node_modules/installed-lock.json"
    fi
    export PEER="$peer/server.js"
fi

chmod 755 "$run"
mkdir "$run/pg"
chown postgres "$run/pg"
runuser -u postgres -- "$bin/initdb" -D "$run/pg/data" -U postgres --auth=trust -E UTF8 >"$run/initdb.log"
# The drop of privileges happens in this very process, so that its id is the server's.
setpriv --reuid postgres --regid postgres --init-groups "$bin/postgres" -D "$run/pg/data" -p "$postgres_port" \
    -k "$run/pg" -c listen_addresses=127.0.0.1 -c shared_buffers=128MB \
    -c shared_preload_libraries=pg_stat_statements >"$run/pg.log" 2>&1 &
postgres=$!
redis-server --port "$redis_port" --bind 127.0.0.1 --dir "$run" --save '' --appendonly no >"$run/redis.log" 2>&1 &
redis=$!
until "$bin/pg_isready" -q -h 127.0.0.1 -p "$postgres_port" && redis-cli -p "$redis_port" ping >/dev/null 2>&1; do sleep 0.1; done
export DATABASE_PID="$postgres"
export POSTGRES="postgres://postgres@127.0.0.1:$postgres_port" REDIS_URL="redis://127.0.0.1:$redis_port/0"
export SECRET_KEY="a secret of thirty-two characters or more" REDIS_PREFIX=load CHANNEL=load:changes DATA_DIR="$run"
"$bin/psql" -q "$POSTGRES/template1" -c 'CREATE EXTENSION pg_stat_statements'
"$target/load-sockets/release/load-sockets"
