#!/usr/bin/env bash
# Runs an experiment as several processes on this machine, as a pod would run it on several hosts.
#
#   scripts/local_processes.sh COUNT EXPERIMENT [FLAG...]
#
#   scripts/local_processes.sh 2 finetune --config=configs/finetune.py --workdir=runs/two
#
# Each line of output begins with the number of its process. When one process fails, the others are
# stopped and its status is returned. Ctrl-C and SIGTERM go to all: they save, and the same command
# resumes, with any COUNT.
#
# Needs bash 5.1. Environment: PYTHON (an interpreter with lora_jax; default: the environment of
# quickstart.sh), PORT (where the first process listens; default: a free one), DEVICES (CPU devices of
# each process; 1).
set -euo pipefail

# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

grace=10 # seconds between SIGTERM and SIGKILL for those that wait for a process that is gone

free_port() {
  "$1" -c 'import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])'
}

start() {
  local process=$1
  shift
  JAX_PROCESS_ID=$process "$python" -m "experiments.$experiment" "$@" \
    > >(sed -u "s/^/[$process] /") 2>&1 &
  pids[process]=$!
}

signal_all() { kill "-$1" "${pids[@]}" 2>/dev/null || true; }

stop_the_others() {
  say "process $1 ended with status $2: stopping the others"
  signal_all TERM
  (sleep "$grace" && signal_all KILL) >/dev/null 2>&1 &
  local watchdog=$!
  wait "${pids[@]}" 2>/dev/null || true
  kill "$watchdog" 2>/dev/null || true
  exit "$2"
}

# Waits until all have ended well, or one has not. `pids` holds those that run, by number.
watch() {
  local ended status process
  while [ ${#pids[@]} -gt 0 ]; do
    status=0
    ended=""
    wait -n -p ended "${pids[@]}" || status=$?
    # Where a signal to this script has interrupted the wait, none has ended.
    for process in "${!pids[@]}"; do
      [ "${pids[$process]}" = "${ended:-}" ] || continue
      unset "pids[$process]"
      [ "$status" = 0 ] || stop_the_others "$process" "$status"
    done
  done
}

show_help_if_asked "$@"
[ $# -ge 2 ] || fail "how many processes of which experiment? See $0 --help"
[[ $1 =~ ^[1-9][0-9]*$ ]] || fail "$1 is no number of processes"
count=$1 experiment=$2
shift 2
cd "$root"
[ -e "experiments/$experiment.py" ] || fail "there is no experiments/$experiment.py"
if [ -n "${PYTHON:-}" ]; then
  python=$PYTHON
else
  ensure_environment ""
  python=$venv_python
fi

export JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=${DEVICES:-1} PYTHONUNBUFFERED=1
JAX_COORDINATOR_ADDRESS=localhost:${PORT:-$(free_port "$python")}
export JAX_COORDINATOR_ADDRESS JAX_NUM_PROCESSES=$count
pids=()
trap 'signal_all TERM' TERM
trap 'signal_all INT' INT
for ((i = 0; i < count; i++)); do start "$i" "$@"; done
watch
