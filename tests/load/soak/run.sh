#!/usr/bin/env bash
# Has a whole deployment work for an hour, and prints how its memory and its connections went.
#
# Two web servers, two workers and an agent on PostgreSQL, Redis and a Docker Engine, and beside them the single process
# on SQLite, all under the same load. Servers are the run's own, and end with it. MINUTES (60) is how long it lasts,
# PACE (1) multiplies the load, BINARY is a build of ours to take as it is. Exit code 1: something grew, or was lost.
set -euo pipefail
[ -z "${BINARY:-}" ] || BINARY="$(realpath "$BINARY")"
cd "$(dirname "$0")/../../.."
. tests/load/servers.sh
our_binary
packages="${CARGO_TARGET_DIR:-$PWD/target}/load-soak"
mkdir -p "$packages"
cp tests/load/soak/*.mjs tests/load/soak/package*.json "$packages/"
if ! cmp -s "$packages/package-lock.json" "$packages/node_modules/installed-lock.json"; then
    npm ci --prefix "$packages" --no-audit --no-fund >&2
    cp "$packages/package-lock.json" "$packages/node_modules/installed-lock.json"
fi
start_postgres
start_redis
start_docker
export PSQL="$bin/psql" MINUTES="${MINUTES:-60}" PACE="${PACE:-1}"
drive node "$packages/soak.mjs"
