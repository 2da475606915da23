#!/bin/bash
# deploy.sh APP IMAGE: the image as the app's web, worker and release phase. `heroku container:login` first.
set -eu -o pipefail
[ $# = 2 ] || { echo "usage: $0 APP IMAGE" >&2 && exit 2; }
cd "$(dirname "$0")"
heroku container:push --recursive --arg "IMAGE=$2" --app "$1"
heroku container:release release web worker --app "$1"
