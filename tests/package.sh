# Sourced: what a run needs of Debian. RUN is the run's own folder.

# package COMMAND-OR-FILE DEBIAN-PACKAGE…: installs the packages when the command or file is not there.
package() {
    local needed="$1"
    shift
    command -v "$needed" >/dev/null 2>&1 || [ -e "$needed" ] && return 0
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    echo "installing $*"
    [ -e "$RUN/apt-updated" ] || { apt-get update -qq && touch "$RUN/apt-updated"; }
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >"$RUN/apt.log" 2>&1 || { tail -5 "$RUN/apt.log"; return 1; }
}
