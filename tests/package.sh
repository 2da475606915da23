# shellcheck shell=bash
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

# python_tools: what tests/tools.txt names, in a folder that is kept, in front of PATH.
python_tools() {
    local folder="${CARGO_TARGET_DIR:-target}/tools"
    package python3 python3 && package /usr/share/doc/python3-venv python3-venv || return 1
    if ! cmp -s tests/tools.txt "$folder/tools.txt"; then
        echo "installing $(tr '\n' ' ' <tests/tools.txt)"
        python3 -m venv --clear "$folder" && "$folder/bin/pip" install --quiet --requirement tests/tools.txt || return 1
        cp tests/tools.txt "$folder/tools.txt"
    fi
    PATH="$(cd "$folder/bin" && pwd):$PATH"
}

# compose: the words that call it. What the tools have is called by its file: the script before it hides how it ended.
compose() {
    local found
    if docker compose version >/dev/null 2>&1; then echo "docker compose" && return; fi
    found="$(python3 -c 'import compose, os; print(os.path.dirname(compose.__file__))' 2>/dev/null)/docker-compose"
    [ -x "$found" ] && echo "$found"
}
