#!/usr/bin/env bash
# A run on a pod of TPUs, from an empty project to the results, by Google's gcloud.
#
#   scripts/tpu_pod.sh [--dry_run] create                        make the pod
#   scripts/tpu_pod.sh [--dry_run] install                       this checkout, on every host
#   scripts/tpu_pod.sh [--dry_run] run EXPERIMENT [FLAG...]      start on every host, and return
#   scripts/tpu_pod.sh [--dry_run] logs                          follow what the first host prints
#   scripts/tpu_pod.sh [--dry_run] keep EXPERIMENT [FLAG...]     run to the end: a pod that was
#                                                                preempted is made again, and resumes
#   scripts/tpu_pod.sh [--dry_run] stop                          SIGTERM: the run saves, and ends
#   scripts/tpu_pod.sh [--dry_run] delete                        give the pod back
#
#   export TPU_NAME=lora TPU_ZONE=us-west4-a TPU_TYPE=v5litepod-16
#   scripts/tpu_pod.sh keep finetune --config=configs/finetune.py --workdir=/mnt/runs/one
#
# --dry_run prints the commands instead of running them. The workdir must be on storage that every
# host sees and that outlives the pod, such as Filestore or a bucket mounted with gcsfuse; what
# TPU_SETUP says is run on every host after the installation, to mount it.
#
# Environment: TPU_NAME, TPU_ZONE, TPU_TYPE; TPU_VERSION (software; v2-alpha-tpuv5-lite),
# TPU_SPOT (1: cheaper, and may be preempted), TPU_SETUP (a command), TPU_POLL (seconds between looks
# at the pod; 60), TPU_PYTHON (python3.11, which is installed on the hosts if they lack it).
set -euo pipefail

# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

folder=lora_jax # on the hosts, below the home directory
dry_run=""

# Runs a command, or prints it.
run() {
  if [ -n "$dry_run" ]; then
    printf '%q ' "$@"
    printf '\n'
  else
    "$@"
  fi
}

tpu() {
  local verb=$1
  shift
  run gcloud compute tpus tpu-vm "$verb" "$TPU_NAME" --zone="$TPU_ZONE" "$@"
}

# on HOST COMMAND: HOST is a number, or "all".
on() { tpu ssh --worker="$1" --command="$2"; }

create() {
  tpu create --accelerator-type="$TPU_TYPE" --version="${TPU_VERSION:-v2-alpha-tpuv5-lite}" \
    ${TPU_SPOT:+--spot}
}

delete() { tpu delete --quiet; }

install() {
  local archive python=${TPU_PYTHON:-python3.11}
  archive=$(mktemp -d)/$folder.tar.gz
  # What is committed: no environment, no caches, no runs.
  run git -C "$root" archive --format=tar.gz --output="$archive" HEAD
  run gcloud compute tpus tpu-vm scp "$archive" "$TPU_NAME:$folder.tar.gz" \
    --zone="$TPU_ZONE" --worker=all
  on all "set -e
mkdir -p $folder && tar -xzf $folder.tar.gz -C $folder && cd $folder
command -v $python || (sudo apt-get update -qq && sudo apt-get install -y -qq $python-venv)
[ -d .venv ] || $python -m venv .venv
.venv/bin/pip install --quiet --constraint constraints.txt --editable '.[tpu]'"
  [ -z "${TPU_SETUP:-}" ] || on all "$TPU_SETUP"
  rm -rf "$(dirname "$archive")"
}

launch() {
  local experiment=$1 flags=""
  shift
  [ $# = 0 ] || flags=$(printf ' %q' "$@")
  # The processes find each other: JAX asks the pod. `status` appears when one has ended.
  on all "cd $folder && rm -f status && (nohup sh -c \
'.venv/bin/python -m experiments.$experiment$flags & echo \$! > pid; wait \$!; echo \$? > status' \
>> log 2>&1 < /dev/null &)"
}

logs() { on 0 "tail -n 100 -F $folder/log"; }

stop() { on all "kill -TERM \$(cat $folder/pid)"; }

# READY, PREEMPTED, ..., or GONE.
state() { tpu describe --format='value(state)' 2>/dev/null || echo GONE; }

# The status of the first host's process: empty while it runs.
ended() { on 0 "cat $folder/status 2>/dev/null || true"; }

keep() {
  local status found
  while true; do
    found=$(state)
    case $found in
      READY)
        status=$(ended || true)
        if [ "$status" = 0 ]; then
          say "the run has ended well"
          return
        elif [ -n "$status" ]; then
          fail "the run ended with status $status: see $0 logs"
        fi
        ;;
      CREATING | STARTING | RESTARTING | REPAIRING) say "the pod is $found" ;;
      *)
        say "the pod is $found: making it, and resuming"
        [ "$found" = GONE ] || delete
        # Where there is no room, the next look tries again.
        if create; then
          install
          launch "$@"
        fi
        ;;
    esac
    sleep "${TPU_POLL:-60}"
  done
}

plan_keep() {
  say "# until the run has ended well, every ${TPU_POLL:-60} s:"
  tpu describe --format='value(state)'
  ended
  say "# where the pod is gone or was preempted:"
  delete
  create
  install
  launch "$@"
}

show_help_if_asked "$@"
if [ "${1:-}" = --dry_run ]; then
  dry_run=1
  shift
fi
[ $# -gt 0 ] || fail "what is to be done? See $0 --help"
for name in TPU_NAME TPU_ZONE TPU_TYPE; do
  [ -n "${!name:-}" ] || fail "set $name; see $0 --help"
done
verb=$1
shift
case $verb in
  create | install | logs | stop | delete) "$verb" ;;
  run | keep)
    [ $# -gt 0 ] || fail "$verb which experiment? See $0 --help"
    [ -e "$root/experiments/$1.py" ] || fail "there is no experiments/$1.py"
    if [ "$verb" = run ]; then
      launch "$@"
    elif [ -n "$dry_run" ]; then
      plan_keep "$@"
    else
      keep "$@"
    fi
    ;;
  *) fail "$verb is none of create, install, run, logs, keep, stop, delete" ;;
esac
