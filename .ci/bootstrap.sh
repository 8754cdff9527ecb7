#!/bin/sh
# Makes .venv from requirements.lock: bootstrap.sh runtime|development
#
# Needs Python >= 3.11 with pip, nothing else. Every file's hash is checked. Packages are installed
# by up to four pips at once, because unpacking 0.6 GB keeps one processor busy: 74 s with one,
# 45 s with two (2 processors); no bytecode is written now (pip --no-compile), Python does it at
# the first import of what is used.
set -eu

cd "$(dirname "$0")/.."
part=$1
scratch=.venv/lock-parts

usable() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
    for name in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11 python; do
        if command -v "$name" >/dev/null 2>&1 && usable "$name"; then
            echo "$name"
            return
        fi
    done
    echo "Python 3.11 or newer is needed and none was found ($(python3 --version 2>&1 || true))." >&2
    echo "Install one, or name it: make PYTHON=/path/to/python3.12" >&2
    exit 1
}

make_venv() {
    python=$(find_python)
    echo "Setting up .venv with $("$python" --version): about a minute, once."
    # Debian's python3 without python3-venv lacks ensurepip, but may have pip itself.
    if "$python" -c 'import ensurepip' >/dev/null 2>&1; then
        "$python" -m venv .venv
    elif "$python" -m pip --version >/dev/null 2>&1; then
        "$python" -m venv --without-pip .venv
        echo "$python" >.venv/outside-pip
    else
        echo "$python has neither ensurepip nor pip; on Debian: apt install python3-venv" >&2
        exit 1
    fi
}

pip() {
    if [ -f .venv/outside-pip ]; then
        "$(cat .venv/outside-pip)" -m pip --python .venv/bin/python "$@"
    else
        .venv/bin/python -m pip "$@"
    fi
}

install() {
    pip install --quiet --disable-pip-version-check --no-input --no-compile --no-deps \
        --no-build-isolation --require-hashes --requirement "$1"
}

# The pins of one part of the lock, dealt out to $2 files.
deal() {
    awk -v part="$1" -v jobs="$2" -v folder="$scratch" '
        /^# part: / { inside = ($3 == part); next }
        !inside { next }
        /^[a-z0-9]/ { count++ }
        { print > (folder "/" part "." (count % jobs) ".txt") }
    ' requirements.lock
}

install_part() {
    jobs=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
    [ "$jobs" -le 4 ] || jobs=4
    deal "$1" "$jobs"
    pids=""
    for file in "$scratch/$1".*.txt; do
        install "$file" &
        pids="$pids $!"
    done
    failed=0
    for pid in $pids; do
        wait "$pid" || failed=1
    done
    if [ "$failed" = 1 ]; then
        echo "Once more, one package at a time, to finish or to show the reason alone."
        for file in "$scratch/$1".*.txt; do
            install "$file"
        done
    fi
}

[ -x .venv/bin/python ] && usable .venv/bin/python || { rm -rf .venv && make_venv; }
rm -rf "$scratch"
mkdir -p "$scratch"
if [ "$part" = runtime ]; then
    # setuptools first: two source packages (one is ours) are built by it, not by one that an
    # isolated build would download without a hash.
    install_part build
    install_part runtime
    pip install --quiet --disable-pip-version-check --no-input --no-deps --no-build-isolation \
        --editable .
else
    echo "Adding the development tools: about half a minute, once."
    install_part development
fi
rm -rf "$scratch"
