#!/usr/bin/env bash
# Runs the tests. `tests/run.sh` runs every part, `tests/run.sh PART…` some of them.
#
#   lint       rustfmt, clippy with warnings denied; the same for shell scripts, workflows and what deploys the service
#   sqlite     everything that needs no server, on SQLite and the in-process queue
#   postgres   the same on PostgreSQL and Redis
#   simulation ten thousand seeded worlds of the task engine, with everything going wrong in them
#   processes  real processes on PostgreSQL and Redis: kills, flushes, outages, bad settings
#   telemetry  traces, logs, meters and reports of real processes, and a real Prometheus
#   chaos      one fault after the other under load: what is lost, what is done twice, how long recovery takes
#   backup     backups under kills at every step, in a real S3, opened by age, and recovery to a point in time
#   drills     (when it is named) every part killed, restarted, upgraded and rolled back under load: which requests fail, and what is lost
#   docker     a real Docker engine: conformance, containers end to end, a killed worker, an agent beside it
#   swarm      real swarms: conformance on one node, and three nodes of which one is cut off and one is killed
#   qemu       real virtual machines: conformance, crashes, kills at every step, a host without room, the whole service
#   libvirt    the same machines of a real libvirt: conformance, and one reached as if it were on another host
#   stack      the image, and the compose stack from a clean clone: up, used, killed part by part; then a Swarm that rolls
#              from one version to the next and back. With STACK=full the image compiles the binary as it does elsewhere.
#   doc        documentation tests and the documentation itself
#   browser    the console in Chromium, and client libraries
#   schema     what this change of schema.graphql is to clients
#
# What is missing on a Debian machine is installed. Servers are private to the run: own ports, own folders, ended with
# it. A part that cannot run is named, and is a failure when CI=true.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 1

ALL="lint sqlite postgres simulation processes telemetry chaos backup docker swarm qemu libvirt stack doc browser schema"
PARTS="${*:-$ALL}"
RUN="$(mktemp -d /tmp/main-webserver-tests.XXXXXX)"
PIDS=()
RESULTS=()
FAILED=0
START=$SECONDS
export CARGO_TERM_COLOR=never NO_COLOR=1 RUST_BACKTRACE=0

stop_servers() {
    local pid
    for pid in "${PIDS[@]}"; do kill "$pid" 2>/dev/null; done
    for pid in "${PIDS[@]}"; do
        for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
        kill -9 "$pid" 2>/dev/null
    done
    [ -n "${BRIDGE:-}" ] && ip link delete "$BRIDGE" 2>/dev/null
    [ -n "${NET:-}" ] && stop_swarm
    [ -n "${TEST_QEMU_DIRECTORY:-}" ] && stop_machines "$TEST_QEMU_DIRECTORY"
    [ -n "${TEST_LIBVIRT_DIRECTORY:-}" ] && stop_machines "$TEST_LIBVIRT_DIRECTORY"
    # A killed engine may leave mounts behind.
    grep -o " $RUN/[^ ]*" /proc/mounts 2>/dev/null | sort -r | while read -r mount; do umount -l "$mount"; done
    rm -rf "$RUN"
}
trap stop_servers EXIT
trap 'exit 130' INT TERM

. tests/package.sh
. tests/machines/guest/build.sh

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# wait_until SECONDS COMMAND…
wait_until() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $deadline ] || return 1
        sleep 0.1
    done
}

postgres_bin() { ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1; }

start_postgres() {
    [ -n "${TEST_DATABASE_URL:-}" ] && return 0
    [ -n "$(postgres_bin)" ] || package /usr/lib/postgresql/15/bin postgresql postgresql-client || return 1
    local bin port
    bin="$(postgres_bin)"
    port="$(free_port)"
    mkdir -p "$RUN/pg"
    chmod 755 "$RUN"
    chown postgres "$RUN/pg"
    runuser -u postgres -- "$bin/initdb" -D "$RUN/pg/data" -U postgres --auth=trust -E UTF8 >"$RUN/initdb.log" 2>&1 || return 1
    # The database is thrown away, so it need not survive a power cut.
    runuser -u postgres -- "$bin/postgres" -D "$RUN/pg/data" -p "$port" -k "$RUN/pg" -c listen_addresses=127.0.0.1 \
        -c fsync=off -c full_page_writes=off -c max_connections=400 >"$RUN/pg/log" 2>&1 &
    PIDS+=($!)
    wait_until 30 "$bin/pg_isready" -h 127.0.0.1 -p "$port" || return 1
    export TEST_DATABASE_URL="postgres://postgres@127.0.0.1:$port/postgres" TEST_POSTGRES_BIN="$bin"
}

start_redis() {
    [ -n "${TEST_REDIS_URL:-}" ] && return 0
    package redis-server redis-server || return 1
    local port
    port="$(free_port)"
    redis-server --port "$port" --bind 127.0.0.1 --dir "$RUN" --save '' --appendonly no >"$RUN/redis.log" 2>&1 &
    PIDS+=($!)
    wait_until 10 redis-cli -p "$port" ping || return 1
    export TEST_REDIS_URL="redis://127.0.0.1:$port/0"
}

start_docker() {
    [ -n "${TEST_DOCKER_HOST:-}" ] && return 0
    package dockerd docker.io iptables && package ip iproute2 && package /bin/busybox busybox-static || return 1
    BRIDGE="mwt$(($$ % 100000))"
    local net=$((($$ % 200) + 20))
    ip link add "$BRIDGE" type bridge && ip addr add "10.88.$net.1/24" dev "$BRIDGE" && ip link set "$BRIDGE" up || return 1
    dockerd --host "unix://$RUN/docker.sock" --data-root "$RUN/docker" --exec-root "$RUN/docker-exec" \
        --pidfile "$RUN/docker.pid" --bridge "$BRIDGE" >"$RUN/docker.log" 2>&1 &
    PIDS+=($!)
    wait_until 60 docker -H "unix://$RUN/docker.sock" version || { tail -5 "$RUN/docker.log"; return 1; }
    export TEST_DOCKER_HOST="unix://$RUN/docker.sock"
    make_images "$TEST_DOCKER_HOST"
}

# Three nodes of a swarm, its manager the first, and one that is a swarm by itself. Each is an engine in a network of
# its own with a host name of its own; what joins them is a bridge in a fifth, where no other's rules drop what crosses.
start_swarm() {
    [ -n "${TEST_SWARM_HOSTS:-}" ] && return 0
    package dockerd docker.io iptables && package ip iproute2 && package /bin/busybox busybox-static || return 1
    local subnet="10.89.$((($$ % 200) + 20))" node host token
    NET="mws$(($$ % 100000))"
    ip netns add "$NET" && ip -n "$NET" link add bridge type bridge && ip -n "$NET" link set bridge up &&
        ip link add "$NET" type veth peer name test netns "$NET" && ip -n "$NET" link set test master bridge up &&
        ip addr add "$subnet.254/24" dev "$NET" && ip link set "$NET" up || return 1
    for node in 1 2 3 4; do
        ip netns add "$NET-$node" &&
            ip -n "$NET" link add "node$node" type veth peer name eth0 netns "$NET-$node" &&
            ip -n "$NET" link set "node$node" master bridge up &&
            ip -n "$NET-$node" addr add "$subnet.$node/24" dev eth0 &&
            ip -n "$NET-$node" link set eth0 up && ip -n "$NET-$node" link set lo up || return 1
        # One has few ports to give away.
        [ $node = 4 ] && nsenter --net="/run/netns/$NET-4" sh -c 'echo 40000 40005 >/proc/sys/net/ipv4/ip_local_port_range'
        start_node "$node"
    done
    for node in 1 2 3 4; do
        host="unix://$RUN/$node.sock"
        wait_until 60 docker -H "$host" version || { tail -5 "$RUN/node$node.log"; return 1; }
        make_images "$host" || return 1
        # A node is missed after three heartbeats.
        case $node in
            1 | 4) docker -H "$host" swarm init --advertise-addr "$subnet.$node" --dispatcher-heartbeat 2s ;;
            *) docker -H "$host" swarm join --advertise-addr "$subnet.$node" --token "$token" "$subnet.1:2377" ;;
        esac >"$RUN/join.log" 2>&1 || { cat "$RUN/join.log"; return 1; }
        [ $node = 1 ] && token="$(docker -H "$host" swarm join-token -q worker)"
    done
    declare -p NET RUN >"$RUN/fault" && declare -f start_node processes_below processes_of_node fault >>"$RUN/fault" &&
        echo 'fault "$@"' >>"$RUN/fault" && sed -i '1i #!/usr/bin/env bash' "$RUN/fault" && chmod +x "$RUN/fault"
    export TEST_SWARM_HOSTS="unix://$RUN/1.sock,unix://$RUN/2.sock,unix://$RUN/3.sock"
    export TEST_SWARM_ALONE="unix://$RUN/4.sock" TEST_SWARM_FAULT="$RUN/fault"
}

start_node() {
    rm -f "$RUN/node$1.pid"
    # Not `ip netns exec`, which hides the control groups.
    nsenter --net="/run/netns/$NET-$1" unshare --uts sh -c 'hostname "$0" && exec dockerd "$@"' "node$1" \
        --host "unix://$RUN/$1.sock" --data-root "$RUN/node$1" --exec-root "$RUN/exec$1" \
        --pidfile "$RUN/node$1.pid" --cgroup-parent "/$NET" >>"$RUN/node$1.log" 2>&1 </dev/null &
    # A node is killed without a word about it.
    disown
}

processes_below() {
    local child
    for child in $(cat /proc/"$1"/task/*/children 2>/dev/null); do echo "$child" && processes_below "$child"; done
}

# An engine, what serves it, and below that the containers, which have networks of their own.
processes_of_node() {
    local pid
    for pid in $(ip netns pids "$NET-$1" 2>/dev/null); do echo "$pid" && processes_below "$pid"; done | sort -u
}

# fault cut|mend|kill|start NODE
fault() {
    case $1 in
        cut) ip -n "$NET" link set "node$2" down ;;
        start) start_node "$2" ;;
        mend) ip -n "$NET" link set "node$2" up ;;
        kill)
            # What watches over a container leaves its socket behind.
            nsenter --net="/run/netns/$NET-$2" sed -n 's|.* \(/run/containerd/s/\)|\1|p' /proc/net/unix >>"$RUN/shims"
            # Until none is left: some end by themselves meanwhile, some were about to be started.
            local pids
            for _ in $(seq 50); do
                pids="$(processes_of_node "$2")"
                [ -n "$pids" ] || return 0
                echo "$pids" | xargs kill -9 2>/dev/null
                sleep 0.02
            done
            return 1
            ;;
    esac
}

stop_swarm() {
    local node
    for node in 1 2 3 4; do
        fault kill "$node" 2>/dev/null
        ip netns delete "$NET-$node" 2>/dev/null
    done
    ip link delete "$NET" 2>/dev/null
    ip netns delete "$NET" 2>/dev/null
    sort -u "$RUN/shims" 2>/dev/null | xargs -r rm -f
    find /sys/fs/cgroup -depth -type d -path "*/$NET*" -exec rmdir {} + 2>/dev/null
}

# Images without a registry: a static busybox stands in for the catalogue's first app's image.
make_images() {
    local tree="$RUN/image"
    mkdir -p "$tree/bin" "$tree/tmp"
    cp /bin/busybox "$tree/bin/busybox"
    local applet
    for applet in sh mkdir echo sleep cat test; do ln -sf busybox "$tree/bin/$applet"; done
    local docker="docker -H $1"
    tar -C "$tree" -c . | $docker import - busybox:1.37 >/dev/null &&
        tar -C "$tree" -c . | $docker import -c 'HEALTHCHECK --interval=500ms --retries=2 CMD test -e /tmp/healthy' \
            -c 'CMD ["sh", "-c", "sleep 1; echo up > /tmp/healthy; sleep 600"]' - healthy:test >/dev/null &&
        tar -C "$tree" -c . | $docker import -c 'HEALTHCHECK --interval=500ms --retries=2 CMD test -e /tmp/never' \
            -c 'CMD ["sh", "-c", "echo I am ill; sleep 600"]' - unhealthy:test >/dev/null
}

# stop_machines FOLDER: those with their disks in it.
stop_machines() {
    local line
    for line in /proc/[0-9]*/cmdline; do
        { tr '\0' ' ' <"$line"; } 2>/dev/null | grep -q "^[^ ]*qemu-system-x86_64 .*$1/" || continue
        line="${line#/proc/}" && kill -9 "${line%/cmdline}" 2>/dev/null
    done
}

# A libvirt that has nothing of the machine's own: its files are in folders of this run, which it alone sees in their
# places. It is reached by its socket, and by TCP as that of another host would be.
start_libvirt() {
    [ -n "${TEST_LIBVIRT_URI:-}" ] && return 0
    package libvirtd libvirt-daemon-system libvirt-daemon-driver-qemu && package virsh libvirt-clients &&
        package unshare util-linux || return 1
    make_guest || return 1
    local home="$RUN/v" port pool daemon
    port="$(free_port)"
    mkdir -p "$home"/{run,var,etc,log,cache,pools/machines} && cp -r "$TEST_QEMU_IMAGES" "$home/pools/images" &&
        cp "$TEST_QEMU_IMAGES/../secret" "$home/pools/secret" || return 1
    # One that is in no pool.
    qemu-img rebase -u -f qcow2 -b "$home/pools/secret" -F raw "$home/pools/images/outside.qcow2" || return 1
    printf '%s\n' 'security_driver = "none"' 'user = "root"' 'group = "root"' 'cgroup_controllers = []' \
        'remember_owner = 0' 'namespaces = []' >"$home/etc/qemu.conf"
    printf '%s\n' 'auth_unix_ro = "none"' 'auth_unix_rw = "none"' 'auth_tcp = "none"' 'listen_tls = 0' 'listen_tcp = 1' \
        'listen_addr = "127.0.0.1"' "tcp_port = \"$port\"" >"$home/etc/libvirtd.conf"
    : >"$home/etc/virtlogd.conf" && : >"$home/etc/virtlockd.conf"
    cat >"$home/start" <<'END'
cd "$1" || exit 1
for folder in run:/run/libvirt var:/var/lib/libvirt etc:/etc/libvirt log:/var/log/libvirt cache:/var/cache/libvirt; do
    mkdir -p "${folder#*:}" && mount --bind "$1/${folder%%:*}" "${folder#*:}" || exit 1
done
# One after the other, so that each is known by its number.
case $2 in
    log) exec virtlogd --pid-file "$1/virtlogd.pid" ;;
    *) exec libvirtd --listen --pid-file "$1/libvirtd.pid" ;;
esac
END
    for daemon in log machines; do
        unshare --mount --propagation private bash "$home/start" "$home" $daemon >"$RUN/libvirt-$daemon.log" 2>&1 </dev/null &
        PIDS+=($!)
    done
    local uri="qemu:///system?socket=$home/run/libvirt-sock"
    wait_until 60 virsh -q -c "$uri" version || { tail -5 "$RUN/libvirt-machines.log"; return 1; }
    for pool in machines images; do
        virsh -q -c "$uri" "pool-define-as $pool dir --target $home/pools/$pool; pool-start $pool" || return 1
    done
    export TEST_LIBVIRT_URI="$uri" TEST_LIBVIRT_FAR_URI="qemu+tcp://127.0.0.1:$port/system" TEST_LIBVIRT_DIRECTORY="$home/pools"
}

# The binary as the tests have it: another set of features would be another build of everything.
built_binary() {
    cargo nextest run --no-run --locked >&2 && echo "${CARGO_TARGET_DIR:-$PWD/target}/debug/main-webserver"
}

start_servers() { package python3 python3-minimal && start_postgres && start_redis; }

part_lint() {
    cargo fmt --all --check && cargo clippy --workspace --all-targets --locked -- -D warnings || return 1
    package shellcheck shellcheck && package yamllint yamllint && python_tools || return 3
    command -v node >/dev/null || package node nodejs npm || return 3
    tests/lint/files.sh && node --test tests/stack/scripts.test.mjs tests/stack/hot_reload.test.mjs &&
        python3 tests/lint/settings.py "$(built_binary)"
}

part_sqlite() {
    package curl curl || return 3
    env -u TEST_DATABASE_URL -u TEST_REDIS_URL cargo nextest run --workspace --locked --no-fail-fast
}

part_postgres() {
    start_servers || return 3
    cargo nextest run --locked --no-fail-fast \
        -E 'binary(it) and not test(/^(docker|swarm|machines::(qemu|libvirt)|virtual_machines::qemu|backup::outside|processes|telemetry|chaos|drills|simulation)::/)'
}

part_simulation() {
    SIM_SEEDS="${SIM_SEEDS:-10000}" cargo nextest run --locked --no-fail-fast --ignore-default-filter --no-capture \
        -E 'test(/^simulation::/)'
}

part_processes() {
    package openssl openssl && start_servers || return 3
    cargo nextest run --locked --no-fail-fast --ignore-default-filter -E 'test(/^processes::/)'
}

part_telemetry() {
    start_servers && package promtool prometheus || return 3
    cargo nextest run --locked --no-fail-fast --ignore-default-filter -E 'binary(it) and test(/^telemetry::/)'
}

part_chaos() {
    start_servers || return 3
    local rows="${CARGO_TARGET_DIR:-target}/tmp/chaos" code
    rm -f "$rows"/*.row
    # One at a time: each has the machine to itself, so that the times mean something.
    cargo nextest run --locked --no-fail-fast --ignore-default-filter -j 1 -E 'test(/^chaos::/)'
    code=$?
    # A fault without a row is one whose test did not come to its verdict.
    { echo 'fault | tasks | lost | duplicated | probe ms | all ms' && cat "$rows"/*.row; } |
        awk -F' [|] ' '{ printf "%-44s %5s %5s %10s %9s %8s\n", $1, $2, $3, $4, $5, $6 }'
    return $code
}

# A real S3 and the client of its language, in an environment of their own.
start_s3() {
    [ -n "${TEST_MOTO:-}" ] && return 0
    package /usr/share/doc/python3-venv python3-venv || return 1
    python3 -m venv "$RUN/moto" && "$RUN/moto/bin/pip" -q install 'moto[s3,iam,server]==5.*' || return 1
    export TEST_MOTO="$RUN/moto/bin"
}

part_backup() {
    start_servers && package age age && start_s3 || return 3
    cargo nextest run --locked --no-fail-fast --ignore-default-filter --success-output immediate \
        -E 'test(/^backup::/)' && tests/backup/recovery.sh
}

# A binary of the version before the newest step of the tables, which has to work beside this one.
other_binary() {
    local commit target="${CARGO_TARGET_DIR:-$PWD/target}"
    commit="${OTHER_VERSION:-$(git log --first-parent -1 --format=%H -- migration/src/lib.rs)^1}"
    # Not one that closes its port at once when it is told to end: from those nobody gets away without a failed request.
    git grep --quiet SHUTDOWN_DELAY_SECONDS "$commit" -- src/config || [ -n "${OTHER_VERSION:-}" ] ||
        commit="$(git log --first-parent --reverse --format=%H -S SHUTDOWN_DELAY_SECONDS -- src/config | head -1)"
    git worktree add --quiet --detach "$RUN/other" "$commit" >&2 || return 1
    # With a test, though an empty one: what others wrote is compiled already, as tests have it.
    (cd "$RUN/other" && echo >tests/main.rs &&
        CONSOLE=cdn cargo build --locked --bin main-webserver --test it --target-dir "$target" >&2) || return 1
    cp "$target/debug/main-webserver" "$RUN/other-main-webserver" && git worktree remove --force "$RUN/other"
    # What was built of the other one bears the names of our own, and would be taken for it where ours is older.
    cargo clean --quiet --package main-webserver --package migration --target-dir "$target" >&2 || return 1
    echo "$RUN/other-main-webserver"
}

part_drills() {
    start_servers || return 3
    local rows="${CARGO_TARGET_DIR:-target}/tmp/drills" code
    TEST_OTHER_BINARY="$(other_binary)" || return 1
    export TEST_OTHER_BINARY
    rm -f "$rows"/*.row
    # One at a time: each has the machine to itself, so that the times mean something.
    cargo nextest run --locked --no-fail-fast --ignore-default-filter -j 1 -E 'test(/^drills::/)'
    code=$?
    { echo 'part | requests | failed | outside | last ms | tasks | lost | twice | gaps | stall ms | breaks' && cat "$rows"/*.row; } |
        awk -F' [|] ' '{ printf "%-30s %8s %6s %7s %7s %5s %4s %5s %4s %8s %6s\n", $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11 }'
    return $code
}

part_docker() {
    start_servers && start_docker || return 3
    cargo nextest run --locked --no-fail-fast --ignore-default-filter -E 'test(/^docker::/)'
}

part_swarm() {
    start_servers && start_swarm || return 3
    # One at a time: a node that is lost is lost to all.
    cargo nextest run --locked --no-fail-fast --ignore-default-filter -j 1 --success-output immediate -E 'test(/^swarm::/)'
}

part_qemu() {
    start_servers && make_guest || return 3
    # Two at a time: each guest has a processor for itself, so that it is up in seconds.
    cargo nextest run --locked --no-fail-fast --ignore-default-filter -j 2 --success-output immediate \
        -E 'test(/^((machines|virtual_machines)::qemu|providers::qemu::accel)::/)'
}

part_libvirt() {
    package python3 python3-minimal && start_libvirt || return 3
    # One at a time, as in part qemu; and each leaves nothing to the next.
    cargo nextest run --locked --no-fail-fast --ignore-default-filter -j 1 -E 'test(/^machines::libvirt::/)'
}

part_stack() {
    command -v node >/dev/null || package node nodejs npm || return 3
    package mmdebstrap mmdebstrap && python_tools && start_docker || return 3
    local binary
    binary="$(built_binary)" || return 1
    . tests/stack/images.sh
    stack_images && binary_image "$binary" main-webserver-binary:test || return 1
    [ "${STACK:-}" != full ] || compiler_images || return 1
    git clone --quiet --depth 1 "file://$PWD" "$RUN/clone" || return 1
    CLONE="$RUN/clone" COMPOSE="$(compose)" BINARY=main-webserver-binary:test \
        node --test --test-concurrency=1 --test-reporter=spec tests/stack/compose.test.mjs tests/stack/swarm.test.mjs
}

part_doc() {
    cargo test --doc --workspace --locked && RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked
}

part_browser() {
    command -v node >/dev/null || package node nodejs npm || return 3
    package chromium chromium || return 3
    local binary
    binary="$(built_binary)" && tests/browser/run.sh "$binary"
}

part_schema() {
    command -v node >/dev/null || package node nodejs npm || return 3
    (cd tests/browser && { [ -d node_modules/graphql ] || npm ci --no-audit --no-fund --prefer-offline; }) || return 3
    node --test tests/schema-change/changes.test.mjs && node tests/schema-change/check.mjs
}

for part in $PARTS; do
    case " $ALL drills " in *" $part "*) ;; *) echo "no part '$part'; there are: $ALL"; exit 2 ;; esac
    echo "── $part"
    before=$SECONDS
    "part_$part"
    code=$?
    took="$((SECONDS - before)) s"
    case $code in
        0) RESULTS+=("passed   $part  $took") ;;
        3)
            RESULTS+=("SKIPPED  $part  $took: what it needs is not there and could not be installed")
            [ "${CI:-}" = true ] && FAILED=$((FAILED + 1))
            ;;
        *)
            RESULTS+=("FAILED   $part  $took")
            FAILED=$((FAILED + 1))
            ;;
    esac
done

echo "── parts"
printf '%s\n' "${RESULTS[@]}"
echo "total $((SECONDS - START)) s"
[ "$FAILED" = 0 ]
