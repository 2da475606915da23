#!/bin/bash
# Takes one image through the environments, by its digest.
#
#   promote.sh ENVIRONMENT IMAGE@sha256:… COMMIT   into the first environment: a new image, and the commit it was made of
#   promote.sh ENVIRONMENT                         into a later one: what works in the environment before it
#   promote.sh ENVIRONMENT IMAGE@sha256:…          the same for that image; refused unless it works there
#
# docker/environments says what there is. It waits until /readyz is 200 and /version says the commit, several times in a
# row; an image that does not come to that is not taken further.
set -eu -o pipefail
. "$(dirname "$0")/environments.sh"
case ${1:-} in '' | -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" && exit 0 ;; esac

environment "$1"
image="${2:-}" commit="${3:-}"
if [ -z "$BEFORE" ]; then
    [ -n "$commit" ] || fail "'$1' is the first environment: an image and its commit are expected"
    require_digest "$image"
else
    [ -z "$commit" ] || fail "the commit is known from '$BEFORE'"
    newest="$(proven "$BEFORE")"
    if [ -n "$image" ]; then
        require_digest "$image"
        newest="$(echo "$newest" | grep -F "@$(digest "${image#*@}") " || true)"
        [ -n "$newest" ] || fail "$(digest "$image") was not seen to work in '$BEFORE'"
    fi
    [ -n "$newest" ] || fail "nothing was seen to work in '$BEFORE'"
    read -r image commit <<<"$(echo "$newest" | tail -1)"
fi
deploy "$1" "$image" "$commit"
