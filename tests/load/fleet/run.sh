#!/usr/bin/env bash
# Measures how long a container takes, made and from a warm pool, beside `docker run` on the same engine, and prints a table.
#
# Starts a PostgreSQL that flushes to the disk, a Redis and a Docker Engine of its own, and ends them; takes two minutes.
# ROUNDS (40) is how many of each are measured. BINARY is a build of ours to take as it is.
set -euo pipefail
[ -z "${BINARY:-}" ] || BINARY="$(realpath "$BINARY")"
cd "$(dirname "$0")/../../.."
. tests/load/servers.sh
our_binary
start_postgres
start_redis
start_docker
drive python3 tests/load/fleet/bench.py --rounds "${ROUNDS:-40}"
