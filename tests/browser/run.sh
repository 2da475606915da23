#!/usr/bin/env bash
# Runs the browser and client-library tests against a server of their own. Usage: run.sh PATH-OF-THE-BINARY
set -eu -o pipefail
cd "$(dirname "$0")"
BINARY="$1"
FOLDER="$(mktemp -d)"
trap 'kill "$SERVER" 2>/dev/null; wait "$SERVER" 2>/dev/null; rm -rf "$FOLDER"' EXIT

[ -d node_modules ] && [ node_modules/.package-lock.json -nt package-lock.json ] || npm ci --no-audit --no-fund --prefer-offline
export BINARY EMAIL=admin@localhost PASSWORD="a password for the tests"
(cd "$FOLDER" && ADMIN_PASSWORD="$PASSWORD" PORT=0 PROVIDER=simulated exec "$BINARY") >"$FOLDER/out" &
SERVER=$!
for _ in $(seq 100); do
    grep -q '^  engine' "$FOLDER/out" && break
    sleep 0.1
done
BASE_URL="$(sed -n 's|^  console *\(http://[^/]*\)/.*|\1|p' "$FOLDER/out")"
[ -n "$BASE_URL" ] || { echo "the server did not start"; exit 1; }
export BASE_URL
node --test
