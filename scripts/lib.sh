# shellcheck shell=bash
# Shared by the scripts beside it: finds Python, and makes the virtual environments they run in.
# Source it, then call `setup device|report|controller|dev`, which sets $deps and $venv.
#
# Two layers below ${XDG_CACHE_HOME:-~/.cache}/plugmeter, so that a second checkout costs a second:
#   deps-KIND-HASH  the packages of firmware/requirements/KIND.lock, shared by all checkouts
#   venv-KIND-HASH  Plugmeter of this very checkout (editable), on top of the one above
# HASH covers all that they are made from. A folder counts once its file `complete` is there, which is
# written last; whatever else is found is made anew. Nothing is ever written into the checkout.
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
oldest_minor=11 # Python 3.11
layout=1        # change it when what setup makes changes, so that no old one is taken for a new one
export PATH="$PATH:/usr/sbin:/sbin" # apt-get's helpers, ip and modprobe, also for `su` and an empty environment

say() { printf 'plugmeter: %s\n' "$*" >&2; }
die() {
    say "$@"
    exit 1
}

# usage: the comment at the head of the script that was called.
usage() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; }

# install_packages WHAT_FOR PACKAGE...: as root it installs them, as anyone else it says what to type.
install_packages() {
    local what_for=$1 log
    shift
    command -v apt-get >/dev/null || die "$what_for needs what Debian calls: $*; install that, and try again"
    if ((EUID != 0)); then
        die "$what_for needs: $*; type: sudo apt-get install $*"
    fi
    say "installing Debian packages: $*"
    log=$(mktemp)
    local install=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300
        install --no-install-recommends "$@")
    # The lists may be missing (a fresh container) or old (a package file that is gone): then, and only
    # then, fetch them and try again.
    if ! "${install[@]}" >"$log" 2>&1 </dev/null; then
        apt-get -qq -o DPkg::Lock::Timeout=300 update >>"$log" 2>&1 </dev/null || true
        if ! "${install[@]}" >>"$log" 2>&1 </dev/null; then
            tail -n 5 "$log" >&2
            die "apt-get install $* failed; all that it said is in $log"
        fi
    fi
    rm -f -- "$log"
}

# packages_missing GROUP: those of the group in scripts/packages that are not installed.
packages_missing() {
    local group=$1 name wanted=() installed
    while read -r word name _; do
        if [[ $word == "$group" ]]; then wanted+=("$name"); fi
    done <"$root/scripts/packages"
    ((${#wanted[@]})) || return 0
    command -v dpkg-query >/dev/null || return 0
    # shellcheck disable=SC2016  # the ${...} are dpkg-query's
    installed=" $(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${wanted[@]}" 2>/dev/null |
        sed -n 's/^installed //p' | tr '\n' ' ' || true)"
    for name in "${wanted[@]}"; do
        if [[ $installed != *" $name "* ]]; then printf '%s\n' "$name"; fi
    done
}

# find_python: sets $python to a CPython that is new enough and runs, $python_version to its version.
# One that is there but cannot run (a pyenv shim without a version, say) is passed over.
find_python() {
    local candidate answer version kind seen=''
    local candidates=(python3 python3.13 python3.12 python3.11 python3.14 /usr/bin/python3)
    if [[ -n ${PLUGMETER_PYTHON:-} ]]; then candidates=("$PLUGMETER_PYTHON"); fi
    for candidate in "${candidates[@]}"; do
        answer=$("$candidate" -I -S -c "
import platform, sys
print(platform.python_version(), platform.machine(), sys.implementation.name, sys.version_info >= (3, $oldest_minor))
print(sys.executable)" 2>/dev/null) || continue
        if [[ $answer == *' cpython True'$'\n'?* ]]; then
            python=${answer#*$'\n'}
            python_version=${answer%% cpython*}
            return 0
        fi
        read -r version _ kind _ <<<"$answer"
        seen="${seen:+$seen, }$candidate is $kind $version"
    done
    python=''
    if [[ -z $seen && -n ${PLUGMETER_PYTHON:-} ]]; then seen="$PLUGMETER_PYTHON does not run"; fi
    python_version=${seen:-none found}
}

# missing_packages: what Debian calls the parts without which no environment can be made with $python.
missing_packages() {
    "$python" -I - <<'PYTHON'
import ctypes, importlib.util, pathlib, platform, shutil, sys, sysconfig

name = f"python3.{sys.version_info.minor}"
missing = []
if importlib.util.find_spec("ensurepip") is None or importlib.util.find_spec("venv") is None:
    missing.append(f"{name}-venv")
try:
    ctypes.CDLL("libudev.so.1")  # pyudev is a binding of it
except OSError:
    missing.append("libudev1")
if platform.machine() != "x86_64":  # hdrhistogram has wheels for x86-64 only: elsewhere it is compiled
    if shutil.which("gcc") is None:
        missing += ["gcc", "libc6-dev"]
    if not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists():
        missing.append(f"{name}-dev")
print("\n".join(missing))
PYTHON
}

# pip_install PYTHON ARGUMENT...: pip for that interpreter, quiet unless it fails.
pip_install() {
    local into=$1 log
    shift
    log=$cache/pip.log
    if ! "$deps/bin/python" -m pip --quiet --disable-pip-version-check --no-input --python "$into" \
        install --no-build-isolation "$@" >"$log" 2>&1 </dev/null; then
        grep -v '^WARNING: Location' "$log" | tail -n 5 >&2
        die "pip could not install Plugmeter's packages (no network?); all that it said is in $log"
    fi
}

make_deps() {
    local lock=$1 missing first
    mapfile -t missing < <(missing_packages)
    if [[ -n ${missing[0]:-} ]]; then install_packages 'Plugmeter' "${missing[@]}"; fi
    say "installing Plugmeter's Python packages into $deps (once, about a minute)"
    rm -rf -- "$deps"
    "$python" -I -m venv "$deps" >"$cache/venv.log" 2>&1 ||
        die "python3 -m venv failed; all that it said is in $cache/venv.log"
    # Without build isolation, which would fetch unpinned packages, those that a source build needs come first.
    first=$deps/first.lock
    awk '/^[^ ]/ { wanted = /^(setuptools|pbr)==/ } wanted' "$lock" >"$first"
    pip_install "$deps/bin/python" --require-hashes --requirement "$first"
    pip_install "$deps/bin/python" --require-hashes --requirement "$lock"
    : >"$deps/complete"
}

make_venv() {
    local site scratch
    rm -rf -- "$venv"
    "$python" -I -m venv --without-pip "$venv"
    site=$("$venv/bin/python" -I -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    "$deps/bin/python" -I -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$site/plugmeter-deps.pth"
    # setuptools would leave an egg-info in the checkout, which may not even be ours to write to.
    scratch=$venv/scratch
    mkdir -- "$scratch"
    printf '[egg_info]\negg_base = %s\n' "$scratch" >"$scratch/setup.cfg"
    DIST_EXTRA_CONFIG=$scratch/setup.cfg pip_install "$venv/bin/python" --no-deps --editable "$root"
    rm -rf -- "$scratch"
    : >"$venv/complete"
}

is_complete() { [[ -e $1/complete && -x $1/bin/python ]]; }

# need_python: find_python, or an end that says what to do.
need_python() {
    find_python
    if [[ -z $python && -z ${PLUGMETER_PYTHON:-} && $python_version == 'none found' ]]; then
        install_packages 'Plugmeter' python3 python3-venv
        hash -r
        find_python
    fi
    [[ -n $python ]] || die "Plugmeter needs CPython 3.$oldest_minor or newer ($python_version);" \
        'install one, or name it: PLUGMETER_PYTHON=/path/to/python3'
}

# find_cache: sets $cache to where environments go; need_cache makes the folder too.
find_cache() {
    local home=${HOME:-}
    if [[ -z $home ]]; then home=$(getent passwd "$EUID" | cut -d: -f6) || home=''; fi
    cache=${XDG_CACHE_HOME:-${home:+$home/.cache}}
    [[ $cache == /* ]] || die 'where may the Python packages go? set HOME or XDG_CACHE_HOME to a full path'
    cache=$cache/plugmeter
}
need_cache() {
    find_cache
    mkdir -p -- "$cache" 2>/dev/null && [[ -w $cache ]] ||
        die "cannot write to $cache; set XDG_CACHE_HOME to a folder that you may write to"
}

# setup KIND: sets $deps and $venv, making them first where they are not there.
setup() {
    local kind=$1 lock hash
    lock=$root/firmware/requirements/$kind.lock
    [[ -e $lock ]] || die "there is no $lock: the kinds are device, report, controller and dev"

    need_python
    find_cache
    hash=$({ printf '%s\n' "$layout" "$python" "$python_version" && cat -- "$lock"; } | sha256sum)
    deps=$cache/deps-$kind-${hash:0:16}
    hash=$({ printf '%s\n' "$deps" "$root" &&
        cat -- "$root/pyproject.toml" "$root/firmware/plugmeter/__init__.py"; } | sha256sum)
    venv=$cache/venv-$kind-${hash:0:16}
    if is_complete "$deps" && is_complete "$venv"; then return 0; fi

    need_cache
    # One at a time, and the second finds what the first has made. The lock ends with this subshell.
    (
        if ! flock -n 9; then
            say 'waiting for another set-up to finish'
            flock 9
        fi
        if ! is_complete "$deps"; then make_deps "$lock"; fi
        if ! is_complete "$venv"; then make_venv; fi
    ) 9>"$cache/lock"
}
