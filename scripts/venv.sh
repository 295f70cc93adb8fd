# Sourced by scripts/run and scripts/test: the checkout's own .venv, made when missing, brought up to date when needed.
# Everything that can be missing on a fresh machine is told in one line with its remedy.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
VENV=$ROOT/.venv
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

fail() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

is_new_enough() {
    # A name on PATH proves little: pyenv's shims exist for versions that are not active.
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    local name
    for name in python3 python3.14 python3.13 python3.12 python3.11; do
        if command -v "$name" >/dev/null && is_new_enough "$name"; then
            printf '%s\n' "$name"
            return
        fi
    done
    command -v python3 >/dev/null ||
        fail "no python3 here; install Python 3.11 or later: sudo apt install python3 python3-venv"
    fail "Python 3.11 or later is needed, and python3 is $(python3 -V 2>&1); install one: sudo apt install python3.11 python3.11-venv"
}

make_venv() {
    if [ -x "$VENV/bin/python" ] && is_new_enough "$VENV/bin/python" && "$VENV/bin/python" -m pip -V >/dev/null 2>&1; then
        return
    fi
    local python
    python=$(find_python)
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        fail "$python has no venv module (or no pip to put into it): sudo apt install $(basename "$python")-venv"
    [ -w "$ROOT" ] || fail "can't write to $ROOT: run this as the user who owns the checkout"
    echo "Making $VENV with $("$python" -V)"
    "$python" -m venv --clear "$VENV" || fail "$python could not make $VENV; the reason stands above"
}

# install_once KEY WHAT FILE.. -- PIP-ARGUMENTS..: unless it was done and the files have not changed since.
install_once() {
    local stamp=$VENV/.installed-$1 what=$2 wanted
    shift 2
    local files=()
    while [ "$1" != -- ]; do
        files+=("$1")
        shift
    done
    shift
    wanted="$ROOT $("$VENV/bin/python" -V) $(cat "${files[@]}" | cksum) $*"
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
        return
    fi
    echo "Installing $what into $VENV"
    "$VENV/bin/python" -m pip install --quiet "$@" ||
        fail "pip could not install $what; the reason stands above (is the package index reachable?)"
    printf '%s\n' "$wanted" >"$stamp"
}
