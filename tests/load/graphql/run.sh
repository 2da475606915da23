#!/usr/bin/env bash
# Measures one query, a user's newest 50 containers, beside other servers on the same tables, and prints a table.
#
# Starts a PostgreSQL that flushes to the disk, and ends it; takes some minutes. SECONDS (10) is how long each server is
# measured, ACCOUNTS and CONTAINERS change the sizes, NO_PEERS=1 measures ours and the hand-written one alone, ONLY=NAME
# a single one (ours by-hand loaders postgraphile yoga flask strawberry). BINARY is a build of ours to take as it is.
set -euo pipefail
# The shell counts SECONDS up from what it was given.
seconds=$((SECONDS > 0 ? SECONDS : 10))
unset SECONDS
[ -z "${BINARY:-}" ] || BINARY="$(realpath "$BINARY")"
cd "$(dirname "$0")/../../.."
here=tests/load/graphql

command -v wrk >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends wrk; } >&2
bin="$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -1)"
run="$(mktemp -d /tmp/main-webserver-load.XXXXXX)"
chmod 755 "$run"
mkdir "$run/pg"
chown postgres "$run/pg"
stop() {
    trap - EXIT
    # What was ended by a signal says so, and the rest is ended all the same.
    set +e
    # The driver ends what it has started before it ends.
    [ -n "${driver:-}" ] && kill "$driver" 2>/dev/null && wait "$driver" 2>/dev/null
    [ -n "${postgres:-}" ] && kill -INT "$postgres" 2>/dev/null && wait "$postgres" 2>/dev/null
    rm -rf "$run"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

if [ -z "${BINARY:-}" ]; then
    cargo build --release --locked --bin main-webserver
    BINARY="$(realpath "${CARGO_TARGET_DIR:-target}")/release/main-webserver"
fi
cargo build --release --locked --manifest-path "$here/by-hand/Cargo.toml" --target-dir target/load-by-hand
[ -n "${NO_PEERS:-}" ] || "$here/peers/prepare.sh" "$PWD/target/load-peers/graphql" >&2
export BINARY BY_HAND="$PWD/target/load-by-hand/release/by-hand" PEERS="$PWD/target/load-peers/graphql"
export PATH="$bin:$PATH" PYTHONDONTWRITEBYTECODE=1

port="$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')"
runuser -u postgres -- "$bin/initdb" -D "$run/pg/data" -U postgres --auth=trust -E UTF8 >"$run/initdb.log"
# The drop of privileges happens in this very process, so that its id is the server's.
setpriv --reuid postgres --regid postgres --init-groups "$bin/postgres" -D "$run/pg/data" -p "$port" \
    -k "$run/pg" -c listen_addresses=127.0.0.1 -c shared_buffers=512MB -c max_wal_size=4GB >"$run/pg.log" 2>&1 &
postgres=$!
until "$bin/pg_isready" -q -h 127.0.0.1 -p "$port"; do
    kill -0 "$postgres" || { cat "$run/pg.log" >&2; exit 1; }
    sleep 0.1
done
export DATABASE_URL="postgres://postgres@127.0.0.1:$port/postgres" DATABASE_PID="$postgres"
python3 "$here/bench.py" --seconds "$seconds" --accounts "${ACCOUNTS:-1000}" --containers "${CONTAINERS:-100000}" &
driver=$!
wait "$driver"
