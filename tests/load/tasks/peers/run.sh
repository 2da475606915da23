#!/usr/bin/env bash
# Measures a task queue to compare ours with: run.sh celery|bullmq
#
# Needs REDIS_URL, a Redis database without persistence, which is flushed.
# Takes CACHE (venv and node_modules), TASKS and IDLE (tasks per measurement).
# Prints one line of JSON on stdout, and everything else on stderr.
set -euo pipefail

peer=${1:-}
if [[ $# -ne 1 || ! $peer =~ ^(celery|bullmq)$ ]]; then
  echo "usage: REDIS_URL=redis://… $0 celery|bullmq" >&2
  exit 2
fi
: "${REDIS_URL:?must name the Redis database to use}"

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${CACHE:-$here/../../../../target/load-peers}
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
export REDIS_URL TASKS=${TASKS:-20000} IDLE=${IDLE:-300} PYTHONDONTWRITEBYTECODE=1

# The driver leads a process group of its own, which holds the workers too.
driver=
stop() {
  trap - EXIT
  if [[ -n $driver ]]; then
    kill -TERM -- "-$driver" 2>/dev/null || true
    for _ in {1..50}; do
      kill -0 -- "-$driver" 2>/dev/null || return 0
      sleep 0.1
    done
    kill -KILL -- "-$driver" 2>/dev/null || true
  fi
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

prepare_celery() {
  local wanted=$here/requirements.txt installed=$cache/venv/requirements.txt
  cmp -s "$wanted" "$installed" && return
  python3 -m venv --clear "$cache/venv"
  "$cache/venv/bin/pip" install --quiet --disable-pip-version-check -r "$wanted"
  cp "$wanted" "$installed"
}

# Node looks for packages above the importing file, so the sources go beside them.
prepare_bullmq() {
  local folder=$cache/node
  mkdir -p "$folder"
  cp "$here"/package.json "$here"/package-lock.json "$here"/bullmq_*.js "$folder/"
  cmp -s "$here/package-lock.json" "$folder/node_modules/installed-lock.json" && return
  npm ci --prefix "$folder" --no-audit --no-fund
  cp "$here/package-lock.json" "$folder/node_modules/installed-lock.json"
}

set -m
case $peer in
  celery)
    prepare_celery >&2
    "$cache/venv/bin/python" "$here/celery_bench.py" &
    ;;
  bullmq)
    prepare_bullmq >&2
    node "$cache/node/bullmq_bench.js" &
    ;;
esac
driver=$!
wait "$driver"
