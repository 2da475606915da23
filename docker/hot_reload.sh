#!/bin/bash
# hot_reload.sh COMMAND: compiles the mounted sources, runs the binary, and does both again when a source changes.
# What does not compile leaves the running one alone. It looks once a second, since not every mount tells of changes.
set -u
cd "$(dirname "$0")/.." || exit 1
target="${CARGO_TARGET_DIR:-target}"
running=""

end() {
    [ -n "$running" ] && kill -TERM "$running" 2>/dev/null && wait "$running"
}
trap 'end; exit 0' TERM INT

# Names, sizes and times of all that goes into the binary.
state() {
    find src migration Cargo.toml Cargo.lock -type f -printf '%p %s %T@\n' 2>/dev/null | sort | cksum
}

before=""
while :; do
    now="$(state)"
    if [ "$now" != "$before" ]; then
        before="$now"
        echo "hot reload: compiling" >&2
        # To the binary, CONSOLE is another setting.
        if CONSOLE="${BUILT_CONSOLE:-/console}" cargo build --locked --bin main-webserver; then
            end
            "$target/debug/main-webserver" "$@" &
            running=$!
            echo "hot reload: started $*" >&2
        else
            echo "hot reload: that does not compile; what runs stays" >&2
        fi
    elif [ -n "$running" ] && ! kill -0 "$running" 2>/dev/null; then
        # It has ended by itself: so does this, and the restart policy decides.
        wait "$running"
        exit $?
    fi
    # A signal is heard while this is waited for.
    sleep 1 &
    wait $!
done
