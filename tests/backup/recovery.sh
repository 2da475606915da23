#!/usr/bin/env bash
# Recovery to a point in time, as the README has it: a base backup and the archived log bring back what a mistake has
# removed. Needs PostgreSQL's programs; runs a server of its own.
set -eu -o pipefail
bin="${TEST_POSTGRES_BIN:-$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -1)}"
home="$(mktemp -d /tmp/recovery.XXXXXX)"
as() { if [ "$(id -u)" = 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi; }
[ "$(id -u)" != 0 ] || chown postgres "$home"
cd "$home"
trap 'as "$bin/pg_ctl" -D "$home/data" -m immediate stop >/dev/null 2>&1 || true
      as "$bin/pg_ctl" -D "$home/base" -m immediate stop >/dev/null 2>&1 || true; rm -rf "$home"' EXIT
ask() { as "$bin/psql" -h "$home" -p 1 -U postgres -v ON_ERROR_STOP=1 -Atqc "$1"; }
start() {
    as "$bin/pg_ctl" -D "$home/$1" -l "$home/log" -w -t 60 \
        -o "-p 1 -k $home -c listen_addresses= -c wal_level=replica" start >/dev/null
}

as mkdir archive
as "$bin/initdb" -D data -U postgres --auth=trust --no-sync >/dev/null
as tee -a data/postgresql.conf >/dev/null <<END
archive_mode = on
archive_command = 'test ! -f $home/archive/%f && cp %p $home/archive/%f'
END
start data
ask "CREATE TABLE account (email text); INSERT INTO account VALUES ('before the base backup')"
as "$bin/pg_basebackup" -h "$home" -p 1 -U postgres -D base -X none --checkpoint=fast --no-sync 2>/dev/null
ask "INSERT INTO account VALUES ('after it')"
moment="$(ask 'SELECT clock_timestamp()')"
sleep 1
ask "DROP TABLE account"
ask "SELECT pg_switch_wal()" >/dev/null
for _ in $(seq 100); do
    [ "$(ask "SELECT count(*) FROM pg_stat_archiver WHERE last_archived_wal IS NOT NULL AND failed_count = 0")" = 1 ] && break
    sleep 0.1
done
as "$bin/pg_ctl" -D data -m fast -w stop >/dev/null

as tee -a base/postgresql.conf >/dev/null <<END
restore_command = 'cp $home/archive/%f %p'
recovery_target_time = '$moment'
recovery_target_action = 'promote'
END
as touch base/recovery.signal
start base
found="$(ask 'SELECT string_agg(email, $$, $$ ORDER BY email DESC) FROM account')"
[ "$found" = 'before the base backup, after it' ] || { echo "recovered '$found'"; tail -5 log; exit 1; }
echo "recovered to $moment, the moment before the table was dropped: $found"
