# shellcheck shell=bash
# What benchmarks on real servers share; read by their run.sh after `set -euo pipefail`, in the repository's root.
#
# Servers are private to the run: own ports, own folders below $run, ended with it.

run="$(mktemp -d /tmp/main-webserver-load.XXXXXX)"
chmod 755 "$run"
bin="$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -1)"
bridge=""
pids=()
driver=""

stop() {
    trap - EXIT
    # What was ended by a signal says so, and the rest is ended all the same.
    set +e
    # The driver ends what it has started before it ends.
    [ -n "$driver" ] && kill "$driver" 2>/dev/null && wait "$driver" 2>/dev/null
    for pid in "${pids[@]}"; do kill -INT "$pid" 2>/dev/null; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null; done
    [ -n "$bridge" ] && ip link delete "$bridge" 2>/dev/null
    grep -o " $run/[^ ]*" /proc/mounts | sort -r | while read -r mount; do umount -l "$mount"; done
    rm -rf "$run"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# installed COMMAND:PACKAGE…
installed() {
    local needed
    for needed in "$@"; do
        command -v "${needed%%:*}" >/dev/null || { apt-get update -qq && apt-get install -y -qq "${needed##*:}"; } >&2
    done
}

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# Ours, as it is released, unless BINARY names a build.
our_binary() {
    if [ -z "${BINARY:-}" ]; then
        cargo build --release --locked --bin main-webserver
        BINARY="${CARGO_TARGET_DIR:-target}/release/main-webserver"
    fi
    BINARY="$(realpath "$BINARY")"
    export BINARY
}

# A PostgreSQL that flushes to the disk.
start_postgres() {
    local port
    port="$(free_port)"
    mkdir "$run/pg"
    chown postgres "$run/pg"
    runuser -u postgres -- "$bin/initdb" -D "$run/pg/data" -U postgres --auth=trust -E UTF8 >"$run/initdb.log"
    # The drop of privileges happens in this very process, so that its id is the server's.
    setpriv --reuid postgres --regid postgres --init-groups "$bin/postgres" -D "$run/pg/data" -p "$port" \
        -k "$run/pg" -c listen_addresses=127.0.0.1 "$@" >"$run/pg.log" 2>&1 &
    pids+=($!)
    export DATABASE_PID=$!
    until "$bin/pg_isready" -q -h 127.0.0.1 -p "$port"; do sleep 0.1; done
    export DATABASE_URL="postgres://postgres@127.0.0.1:$port/postgres"
}

start_redis() {
    local port
    installed redis-server:redis-server
    port="$(free_port)"
    redis-server --port "$port" --bind 127.0.0.1 --dir "$run" --save '' --appendonly no >"$run/redis.log" 2>&1 &
    pids+=($!)
    until redis-cli -p "$port" ping >/dev/null 2>&1; do sleep 0.1; done
    export REDIS_URL="redis://127.0.0.1:$port/0"
}

# A Docker Engine with the one image that the app `hello` needs.
start_docker() {
    installed dockerd:docker.io ip:iproute2 busybox:busybox-static
    bridge="mwl$(($$ % 100000))"
    ip link add "$bridge" type bridge
    ip addr add "10.89.$((($$ % 200) + 20)).1/24" dev "$bridge"
    ip link set "$bridge" up
    dockerd --host "unix://$run/docker.sock" --data-root "$run/docker" --exec-root "$run/x" \
        --pidfile "$run/docker.pid" --bridge "$bridge" >"$run/docker.log" 2>&1 &
    pids+=($!)
    until docker -H "unix://$run/docker.sock" version >/dev/null 2>&1; do sleep 0.1; done
    mkdir -p "$run/image/bin" "$run/image/tmp"
    cp "$(command -v busybox)" "$run/image/bin/busybox"
    for applet in sh mkdir echo sleep; do ln -sf busybox "$run/image/bin/$applet"; done
    tar -C "$run/image" -c . | docker -H "unix://$run/docker.sock" import - busybox:1.37 >/dev/null
    export DOCKER_HOST="unix://$run/docker.sock"
}

# drive COMMAND…: in the background, so that a signal reaches this shell at once.
drive() {
    export RUN="$run" PYTHONDONTWRITEBYTECODE=1
    "$@" &
    driver=$!
    wait "$driver"
}
