#!/bin/bash
# Brings back what worked in an environment before what is there now.
#
#   rollback.sh ENVIRONMENT                   the newest other image that was seen to work there
#   rollback.sh ENVIRONMENT IMAGE@sha256:…    that one of them
#
# The tables stay as they are: every version works on those of the next.
set -eu -o pipefail
. "$(dirname "$0")/environments.sh"
case ${1:-} in '' | -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" && exit 0 ;; esac

environment "$1"
known="$(proven "$1")"
if [ -n "${2:-}" ]; then
    require_digest "$2"
    known="$(echo "$known" | grep -F "@$(digest "$2") " || true)"
    [ -n "$known" ] || fail "$(digest "$2") was not seen to work in '$1'"
else
    # What was deployed last, whether it works or not, is what to get away from.
    last="$(tail -1 "$DEPLOYMENTS/$1" 2>/dev/null | cut -d' ' -f3)"
    known="$(echo "$known" | grep -vF "@$(digest "$last") " || true)"
    [ -n "$known" ] || fail "nothing else was seen to work in '$1'"
fi
read -r image commit <<<"$(echo "$known" | tail -1)"
# So that a second one does not bring it back.
[ -n "${last:-}" ] && note "$1" left "$last" -
deploy "$1" "$image" "$commit"
