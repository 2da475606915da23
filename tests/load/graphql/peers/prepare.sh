#!/usr/bin/env bash
# Installs the locked packages of the peers into CACHE, and copies their sources beside them: prepare.sh CACHE
#
# Afterwards CACHE has `node` (a Node.js that all of them accept, however old the machine's), `servers` and `venv`.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${1:?usage: prepare.sh CACHE}
servers=$cache/servers
mkdir -p "$servers"

if ! cmp -s "$here/requirements.txt" "$cache/venv/requirements.txt"; then
  python3 -m venv --clear "$cache/venv"
  "$cache/venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
  cp "$here/requirements.txt" "$cache/venv/requirements.txt"
fi

# Node looks for packages above the importing file, so the sources go beside them.
cp "$here"/package.json "$here"/package-lock.json "$here"/*.mjs "$here"/*.py "$servers/"
if ! cmp -s "$here/package-lock.json" "$servers/node_modules/installed-lock.json"; then
  npm ci --prefix "$servers" --no-audit --no-fund --loglevel error
  cp "$here/package-lock.json" "$servers/node_modules/installed-lock.json"
fi
ln -sfn "$(ls "$servers"/node_modules/node-linux-*/bin/node)" "$cache/node"
