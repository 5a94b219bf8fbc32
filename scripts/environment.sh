# shellcheck shell=bash
# Sourced by the scripts beside it; runs nothing by itself.
#
# Defines root (the repository), python (of its .venv) and
#   ensure_environment [EXTRA]   makes or reuses .venv and installs jaxvae there, with an extra of setup.cfg.
#
# What a killed run leaves behind is never trusted. Until its first installation has succeeded, .venv holds the
# file being_made, and the next run starts anew. Later installations remove the stamps in .venv/installed first
# and write them last; without a stamp pip looks at everything again.

root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." >/dev/null && pwd)"
venv="$root/.venv"
python="$venv/bin/python"

say() { printf '== %s\n' "$*" >&2; }

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}

# Prints the version of a Python, or fails when it does not run. Being on PATH proves nothing: the shim that
# pyenv leaves for a version that is not selected only prints a complaint.
python_version() {
    "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null
}

is_supported() {
    case "$1" in
        3.11.* | 3.12.* | 3.13.*) ;;
        *) return 1 ;;
    esac
}

# Prints the command of the newest supported Python that can make a virtual environment.
find_python() {
    local candidate version found=""
    for candidate in python3.13 python3.12 python3.11 python3; do
        version="$(python_version "$candidate")" || continue
        if ! is_supported "$version"; then
            found+="${found:+, }$candidate is $version"
        elif ! "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
            found+="${found:+, }$candidate is $version without venv (Debian and Ubuntu: install python3-venv)"
        else
            printf '%s\n' "$candidate"
            return
        fi
    done
    fail "jaxvae needs Python 3.11, 3.12 or 3.13 on PATH; found: ${found:-no Python 3 that runs}"
}

# Runs a command in silence; when it fails, shows all that it said and ends with the line in $1.
quietly() {
    local complaint="$1" log="$venv/install.log"
    shift
    if ! "$@" >"$log" 2>&1; then
        cat "$log" >&2
        fail "$complaint (all of its output is above and in .venv/install.log)"
    fi
}

# Prints a digest of all that decides what an installation holds. The place is part of it, because an editable
# installation points there: a repository that was moved is installed again.
installation_digest() {
    "$python" - "$root" <<'EOF'
import hashlib, pathlib, sys

root = pathlib.Path(sys.argv[1])
files = [(root / name).read_bytes() for name in ("setup.cfg", "pyproject.toml")]
print(hashlib.sha256(repr((sys.argv[1], sys.version, files)).encode()).hexdigest())
EOF
}

# Only one installation at a time, where the system has flock; the lock goes with the process that holds it.
lock_environment() {
    command -v flock >/dev/null || return 0
    exec 9>"$root/.venv.lock"
    flock -n 9 || {
        say "waiting for another installation into .venv"
        flock 9
    }
}

unlock_environment() { exec 9>&-; }

make_environment() {
    local base
    base="$(find_python)" || exit 2
    say "making .venv with $base ($(python_version "$base"))"
    mkdir "$venv"
    touch "$venv/being_made"
    quietly "$base could not make a virtual environment" "$base" -m venv "$venv"
}

install_package() {
    local extra="$1" digest="$2" name
    say "installing jaxvae${extra:+[$extra]} into .venv (about 1 GB and a minute or more at first)"
    rm -rf "$venv/installed"
    quietly "pip could not install jaxvae" \
        "$python" -m pip install --no-input --disable-pip-version-check -e "$root${extra:+[$extra]}"
    mkdir "$venv/installed"
    for name in core ${extra:+"$extra"}; do # whoever has an extra has the core as well
        printf '%s\n' "$digest" >"$venv/installed/$name"
    done
    rm -f "$venv/being_made"
}

ensure_environment() {
    local extra="${1:-}" digest version
    lock_environment
    if [ -e "$venv/being_made" ]; then
        say "the first installation into .venv did not finish: starting anew"
        rm -rf "$venv"
    fi
    [ -e "$venv" ] || make_environment
    version="$(python_version "$python")" || version="that does not run"
    is_supported "$version" ||
        fail ".venv holds a Python $version, and jaxvae needs 3.11, 3.12 or 3.13: remove $venv and run again"
    digest="$(installation_digest)"
    if [ "$(cat "$venv/installed/${extra:-core}" 2>/dev/null)" = "$digest" ]; then
        say "using .venv (Python $version)"
    else
        install_package "$extra" "$digest"
    fi
    unlock_environment
}
