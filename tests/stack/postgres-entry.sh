#!/bin/bash
# The entry of the real PostgreSQL image as far as docker/ uses it: an empty folder becomes a database of POSTGRES_DB and
# POSTGRES_USER, whose password comes from the environment or a file.
set -eu
[ "$(id -u)" = 0 ] || { echo "this stand-in starts as root" >&2 && exit 1; }
[ -n "${POSTGRES_PASSWORD_FILE:-}" ] && POSTGRES_PASSWORD="$(cat "$POSTGRES_PASSWORD_FILE")"
as() { setpriv --reuid postgres --regid postgres --init-groups "$@"; }
mkdir -p "$PGDATA" /var/run/postgresql
chown postgres:postgres "$PGDATA" /var/run/postgresql
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    install -o postgres -m 600 /dev/null /tmp/password
    echo "${POSTGRES_PASSWORD:?}" >/tmp/password
    as initdb --auth-host=scram-sha-256 --auth-local=trust -E UTF8 -U "${POSTGRES_USER:-postgres}" \
        --pwfile=/tmp/password >/dev/null
    rm /tmp/password
    echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
    as pg_ctl -w start -o "-c listen_addresses=''" >/dev/null
    as createdb -U "${POSTGRES_USER:-postgres}" "${POSTGRES_DB:-postgres}" 2>/dev/null || true
    as pg_ctl -w -m fast stop >/dev/null
fi
exec setpriv --reuid postgres --regid postgres --init-groups "$@" -c listen_addresses='*'
