#!/usr/bin/env bash
# Measures how long a container takes, made and from a warm pool, beside `docker run` on the same engine, and prints a table.
#
# Starts a PostgreSQL that flushes to the disk, a Redis and a Docker Engine of its own, and ends them; takes two minutes.
# ROUNDS (40) is how many of each are measured. BINARY is a build of ours to take as it is.
set -euo pipefail
[ -z "${BINARY:-}" ] || BINARY="$(realpath "$BINARY")"
cd "$(dirname "$0")/../../.."
for needed in redis-server:redis-server dockerd:docker.io ip:iproute2 busybox:busybox-static; do
    command -v "${needed%%:*}" >/dev/null || { apt-get update -qq && apt-get install -y -qq "${needed##*:}"; } >&2
done
bin="$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -1)"
run="$(mktemp -d /tmp/main-webserver-load.XXXXXX)"
chmod 755 "$run"
mkdir "$run/pg"
chown postgres "$run/pg"
bridge="mwl$(($$ % 100000))"
pids=()
stop() {
    trap - EXIT
    set +e
    [ -n "${driver:-}" ] && kill "$driver" 2>/dev/null && wait "$driver" 2>/dev/null
    for pid in "${pids[@]}"; do kill -INT "$pid" 2>/dev/null; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null; done
    ip link delete "$bridge" 2>/dev/null
    grep -o " $run/[^ ]*" /proc/mounts | sort -r | while read -r mount; do umount -l "$mount"; done
    rm -rf "$run"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

if [ -z "${BINARY:-}" ]; then
    cargo build --release --locked --bin main-webserver
    BINARY="$(realpath "${CARGO_TARGET_DIR:-target}")/release/main-webserver"
fi
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
port="$(free_port)"
runuser -u postgres -- "$bin/initdb" -D "$run/pg/data" -U postgres --auth=trust -E UTF8 >"$run/initdb.log"
setpriv --reuid postgres --regid postgres --init-groups "$bin/postgres" -D "$run/pg/data" -p "$port" \
    -k "$run/pg" -c listen_addresses=127.0.0.1 >"$run/pg.log" 2>&1 &
pids+=($!)
redis="$(free_port)"
redis-server --port "$redis" --bind 127.0.0.1 --dir "$run" --save '' --appendonly no >"$run/redis.log" 2>&1 &
pids+=($!)
ip link add "$bridge" type bridge
ip addr add "10.89.$((($$ % 200) + 20)).1/24" dev "$bridge"
ip link set "$bridge" up
dockerd --host "unix://$run/docker.sock" --data-root "$run/docker" --exec-root "$run/x" \
    --pidfile "$run/docker.pid" --bridge "$bridge" >"$run/docker.log" 2>&1 &
pids+=($!)
until "$bin/pg_isready" -q -h 127.0.0.1 -p "$port"; do sleep 0.1; done
until docker -H "unix://$run/docker.sock" version >/dev/null 2>&1; do sleep 0.1; done
mkdir -p "$run/image/bin" "$run/image/tmp"
cp "$(command -v busybox)" "$run/image/bin/busybox"
for applet in sh mkdir echo sleep; do ln -sf busybox "$run/image/bin/$applet"; done
tar -C "$run/image" -c . | docker -H "unix://$run/docker.sock" import - busybox:1.37 >/dev/null
export BINARY DATABASE_URL="postgres://postgres@127.0.0.1:$port/postgres" REDIS_URL="redis://127.0.0.1:$redis/0"
export DOCKER_HOST="unix://$run/docker.sock" RUN="$run" PYTHONDONTWRITEBYTECODE=1
python3 tests/load/fleet/bench.py --rounds "${ROUNDS:-40}" &
driver=$!
wait "$driver"
