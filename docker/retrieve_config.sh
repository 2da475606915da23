#!/bin/bash
# Writes docker/.env from the configuration database, or from the platform, and prints the file's name to standard error.
#
#   retrieve_config.sh [OPTION]…
#
#   -e, --environment NAME   whose values: dev, staging or prod [dev]
#   -a, --app APP            from the platform's app of that name, by `heroku config`, instead of the configuration database
#   -f, --file FILE          the file to write [docker/.env]
#   -h, --help               this
#
# The configuration database needs CONFIG_DB_URL and CONFIG_KEY. The file is written whole or not at all, for its owner
# alone to read; what was there before is kept beside it as FILE.before.
set -eu -o pipefail
here="$(cd "$(dirname "$0")" && pwd)"
environment=dev app="" file="$here/.env"

fail() { echo "retrieve_config.sh: $*" >&2 && exit 1; }
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" && exit 0 ;;
        -e | --environment | -a | --app | -f | --file)
            [ -n "${2:-}" ] || fail "$1 needs a value"
            case $1 in
                -e | --environment) environment="$2" ;;
                -a | --app) app="$2" ;;
                *) file="$2" ;;
            esac
            shift 2
            ;;
        *) fail "'$1' is no option; --help shows them" ;;
    esac
done
case $environment in dev | staging | prod) ;; *) fail "'$environment' is none of dev, staging, prod" ;; esac

# ours ARGUMENT…: the service's own binary, an installed one or that of this checkout.
ours() {
    local binary
    for binary in "${MAIN_WEBSERVER:-}" "$(command -v main-webserver || true)" "$here"/../target/{release,debug}/main-webserver; do
        if [ -n "$binary" ] && [ -x "$binary" ]; then
            # The file that is to be written is not what is asked for.
            "$binary" --env-file /dev/null "$@"
            return
        fi
    done
    fail "main-webserver is not there: build it, or name it in MAIN_WEBSERVER"
}

umask 077
part="$(mktemp "$file.XXXXXX")"
trap 'rm -f "$part"' EXIT
if [ -n "$app" ]; then
    command -v heroku >/dev/null || fail "heroku is not installed, which --app asks for"
    heroku config --shell --app "$app" >"$part" || fail "heroku gave no configuration of '$app'"
else
    [ -n "${CONFIG_DB_URL:-}" ] || fail "CONFIG_DB_URL is not set: the configuration database's address"
    ours config env --environment "$environment" >"$part" || fail "the configuration database gave nothing for '$environment'"
fi
[ -s "$part" ] || fail "there is not one value; $file stays as it is"
# Whoever is cut off in the middle leaves a line without its end.
[ "$(tail -c 1 "$part" | od -An -tx1 | tr -d ' ')" = 0a ] || fail "the answer ends in the middle of a line; $file stays as it is"
# The number of the line only: what stands in it may be a secret.
wrong="$(grep -nvE '^([A-Za-z_][A-Za-z0-9_]*=.*|#.*|)$' "$part" | head -1 | cut -d: -f1 || true)"
[ -z "$wrong" ] || fail "line $wrong of the answer is not NAME=value; $file stays as it is"

[ -e "$file" ] && cp -p "$file" "$file.before" && chmod 600 "$file.before"
mv "$part" "$file"
trap - EXIT
echo "$file" >&2
