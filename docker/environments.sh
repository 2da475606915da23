# shellcheck shell=bash
# Sourced by promote.sh and rollback.sh: the environments, what was deployed in each, and whether it works there.

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
ENVIRONMENTS="${ENVIRONMENTS:-$here/environments}"
# A file an environment: time, outcome, digest, commit, a line each.
DEPLOYMENTS="${DEPLOYMENTS:-$here/.deployments}"
# How long a deployment may take to work, and how often in a row it has to say so.
PATIENCE="${PATIENCE:-900}"
IN_A_ROW="${IN_A_ROW:-5}"

fail() { echo "$(basename "$0"): $*" >&2 && exit 1; }

# environment NAME: sets ADDRESS, DEPLOY and BEFORE, the name of the one an image comes from.
environment() {
    local name address deploy before=""
    [ -r "$ENVIRONMENTS" ] || fail "$ENVIRONMENTS is not there; environments.example shows its form"
    while read -r name address deploy; do
        case $name in '' | '#'*) continue ;; esac
        if [ "$name" = "$1" ]; then
            # shellcheck disable=SC2034 # read by those who source this
            ADDRESS="${address%/}" DEPLOY="$deploy" BEFORE="$before"
            [ -n "$DEPLOY" ] || fail "$ENVIRONMENTS does not say how '$1' is deployed"
            return
        fi
        before="$name"
    done <"$ENVIRONMENTS"
    fail "no environment '$1' in $ENVIRONMENTS"
}

# An image by what it is, not by a name that can be moved.
require_digest() {
    [[ $1 =~ ^[^@[:space:]\'\"\$\`]+@sha256:[0-9a-f]{64}$ ]] || fail "'$1' has no digest: NAME@sha256:… is expected"
}

digest() { echo "${1##*@}"; }

# note ENVIRONMENT OUTCOME IMAGE COMMIT
note() {
    mkdir -p "$DEPLOYMENTS"
    printf '%s %s %s %s\n' "$(date -u +%FT%TZ)" "$2" "$3" "$4" >>"$DEPLOYMENTS/$1"
}

# proven ENVIRONMENT: the images that worked there, the newest last, each as `image commit`. One that failed later no more.
proven() {
    [ -r "$DEPLOYMENTS/$1" ] || return 0
    awk '{ n = split($3, part, "@"); d = part[n]; said[d] = $2; if ($2 == "proven") { line[d] = $3 " " $4; at[d] = NR } }
        END { for (d in line) if (said[d] == "proven") print at[d], line[d] }' "$DEPLOYMENTS/$1" | sort -n | cut -d' ' -f2-
}

# commit_at ADDRESS: what runs there, when it says so.
commit_at() {
    curl -fsS --max-time 10 "$1/version" 2>/dev/null | tr -d '\n' | sed -n 's/.*"commit" *: *"\([^"]*\)".*/\1/p'
}

# deploy ENVIRONMENT IMAGE COMMIT: deploys, waits until it works and is the one that was meant, and writes down which.
deploy() {
    local good=0 deadline is
    environment "$1"
    echo "$1: deploying $2" >&2
    if ! IMAGE="$2" bash -c "cd '$here/..' && $DEPLOY" >&2; then
        note "$1" failed "$2" "$3"
        fail "$1: the deployment ended with an error; docker/rollback.sh $1 brings back what worked"
    fi
    deadline=$((SECONDS + PATIENCE))
    # More than once, since several processes answer at one address.
    while [ $good -lt "$IN_A_ROW" ]; do
        is="$(commit_at "$ADDRESS")"
        if [ "$is" = "$3" ] && curl -fsS --max-time 10 -o /dev/null "$ADDRESS/readyz" 2>/dev/null; then
            good=$((good + 1))
        else
            good=0
        fi
        if [ $SECONDS -ge $deadline ] && [ $good -lt "$IN_A_ROW" ]; then
            note "$1" failed "$2" "$3"
            fail "$1: not ready as $3 after $PATIENCE s (it says '${is:-nothing}'); docker/rollback.sh $1 brings back what worked"
        fi
        [ $good = 0 ] && sleep 1
    done
    note "$1" proven "$2" "$3"
    echo "$1: $3 is ready at $ADDRESS" >&2
}
