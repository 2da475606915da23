#!/bin/bash
# system FOLDER: everything a program of ours needs of a system, and nothing that could run another.
set -eu -o pipefail
to="$1"

# keep FILE…: as it is, and what its links lead to, under the same names.
keep() {
    local file
    for file in "$@"; do
        mkdir -p "$to$(dirname "$file")"
        cp -L --preserve=mode "$file" "$to$file"
    done
}

# libraries PROGRAM: those it is linked with, the loader among them.
libraries() {
    ldd "$1" | grep -o '/[^ ]*' | sort -u
}

for program in main-webserver pg_dump pg_restore; do
    found=""
    for file in /usr/local/bin/"$program" /usr/lib/postgresql/*/bin/"$program"; do
        [ -x "$file" ] && found="$file"
    done
    [ -n "$found" ] || { echo "$program is not there" >&2 && exit 1; }
    # shellcheck disable=SC2046 # one name a word
    keep $(libraries "$found")
    [ $program = main-webserver ] || install -D "$found" "$to/usr/local/bin/$program"
done
keep /etc/ssl/certs/ca-certificates.crt
install -d -m 755 "$to/etc" "$to/usr/local/bin"
install -d -m 1777 "$to/tmp"
install -d -o 10001 -g 10001 -m 750 "$to/data"
echo 'main-webserver:x:10001:10001::/data:/nonexistent' >"$to/etc/passwd"
echo 'main-webserver:x:10001:' >"$to/etc/group"
# Names are looked up in files first, then asked for.
echo 'hosts: files dns' >"$to/etc/nsswitch.conf"
