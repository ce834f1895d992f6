#!/bin/sh
# Make a virtual environment from a lock file, or bring it up to date: environment.sh FOLDER LOCK NEWEST_PYTHON
# Does nothing when the lock and pyproject.toml are those of the last time. Needs Python 3.10 or newer; on Debian and its
# relatives it installs the distribution's venv package where that is missing (as root, or with sudo).
set -eu
cd "$(dirname "$0")/.."
folder=$1
lock=requirements/$2.lock
newest=$3

stamp=$folder/.installed-$2
# Of another Python, after an upgrade of the distribution, the packages would not be found.
wanted=$({ cat "$lock" pyproject.toml; "$folder/bin/python" -V; } 2>/dev/null | sha256sum)
if [ -x "$folder/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi

suits() {
    "$1" -c "import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, $newest))" >/dev/null 2>&1
}

find_python() {
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python3.10; do
        if suits "$candidate"; then
            echo "$candidate"
            return
        fi
    done
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo "$@"
    fi
}

if [ -e "$folder" ] && ! { suits "$folder/bin/python" && "$folder/bin/python" -m pip --version; } >/dev/null 2>&1; then
    echo "$folder is not whole, or of another Python: made anew"
    rm -rf "$folder"
fi
if [ ! -x "$folder/bin/python" ]; then
    python=$(find_python)
    if [ -z "$python" ]; then
        echo "$folder: needs Python 3.10 to 3.$newest; this machine has $(python3 --version 2>&1). Name one: PYTHON=/path/to/python3.x" >&2
        exit 3
    fi
    if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        echo "installing python$version-venv (apt-get)"
        as_root apt-get update -qq
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install --yes -qq "python$version-venv" >/dev/null
    fi
    "$python" -m venv "$folder"
fi

echo "installing $(grep -c '==' "$lock") packages into $folder ($lock); this can take some minutes the first time"
"$folder/bin/pip" install --quiet --disable-pip-version-check --require-hashes --no-deps --requirement "$lock"
# The package itself from this folder: what is edited here is what runs.
"$folder/bin/pip" install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
{ cat "$lock" pyproject.toml; "$folder/bin/python" -V; } | sha256sum >"$stamp"
